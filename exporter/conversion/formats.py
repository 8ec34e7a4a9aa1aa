"""The foreign formats: what each is called, needs and can take. A format is a row here and a file.

The file has one function, `write(program, file)`, which writes the file (or folder) and says what
its inputs and outputs are called there, and how it is run on this machine. For a format that is
`whole`, it is `write(programs, variables, file)`, and says so of each program.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from exporter.errors import OptionError

_INTEGERS = frozenset(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
_FLOATS = frozenset(("float8_e4m3fn", "float8_e5m2", "float16", "bfloat16", "float32", "float64"))


@dataclass(frozen=True)
class Format:
    """One foreign format.

    Attributes:
      name: what it is called.
      extensions: how its files are called, the first if in doubt. None if by any name.
      module: the file of ours that writes it.
      extra: the extra of this package that it needs, or `None`.
      runtime: what runs its files.
      platforms: the platforms whose programs it takes, or `None` for all.
      dtypes: the dtypes that its inputs and outputs may have, or `None` for all.
      keeps_state: whether a signature that changes variables can have them as inputs and outputs.
      calls_native: whether programs may call native functions by name.
      embeds: whether variables are constants of the module that it is given.
      whole: whether it takes all signatures at once, with the variables that they share and with
        axes of any size. Others take one signature at fixed sizes.
      marker: a file at the top of its folders, by which they are told from the folders of others.
    """

    name: str
    extensions: tuple[str, ...]
    module: str
    extra: str | None
    runtime: str
    platforms: tuple[str, ...] | None = ("cpu",)
    dtypes: Collection[str] | None = None
    keeps_state: bool = True
    calls_native: bool = False
    embeds: bool = True
    whole: bool = False
    marker: str | None = None

    def problems(
        self, platform: str, dtypes: Sequence[tuple[str, str]], changed: Sequence[str]
    ) -> list[str]:
        """Why it cannot take a program.

        Args:
          platform: what the program is for.
          dtypes: the names of its inputs and outputs with their dtypes.
          changed: the variables that it changes.
        """
        found = []
        if self.platforms is not None and platform not in self.platforms:
            found.append(f"{self.name} has no program for {platform}")
        found += [
            f"{name} is {dtype}, which {self.name} has no inputs and outputs of"
            for name, dtype in dtypes
            if self.dtypes is not None and dtype not in self.dtypes
        ]
        if changed and not self.keeps_state:
            found.append(f"it changes {', '.join(changed)}, and {self.name} has no place for that")
        return found


FORMATS = (
    Format(
        "stablehlo",
        (".mlir", ".mlirbc"),
        "exporter.conversion.stablehlo",
        None,
        "PJRT, XLA, and whatever compiles StableHLO",
        platforms=None,
        calls_native=True,
    ),
    Format(
        "iree",
        (".vmfb",),
        "exporter.conversion.iree",
        "iree",
        "the IREE runtime, in C or with iree-base-runtime",
        dtypes=_INTEGERS | {"bool", "float16", "float32", "float64", "bfloat16"},
    ),
    Format(
        "litert",
        (".tflite",),
        "exporter.conversion.litert",
        "litert",
        "LiteRT, in an app or with ai-edge-litert",
        dtypes={"bool", "int8", "uint8", "int16", "int32", "int64", "float32"},
    ),
    Format(
        "coreml",
        (".mlpackage",),
        "exporter.conversion.coreml",
        "coreml",
        "Core ML, of iOS 18, macOS 15 or newer",
        dtypes={"int32", "float16", "float32"},
        keeps_state=False,
        marker="Manifest.json",
    ),
    Format(
        "onnx",
        (".onnx",),
        "exporter.conversion.onnx.file",
        "onnx",
        "onnxruntime, and whatever runs ONNX",
        dtypes=_INTEGERS | {"bool", "float16", "float32", "float64", "bfloat16"},
        embeds=False,
    ),
    Format(
        "tensorflow",
        (),
        "exporter.conversion.tensorflow",
        "tensorflow",
        "TensorFlow or TensorFlow Serving, by their SavedModel",
        platforms=None,
        dtypes=_INTEGERS | _FLOATS | {"bool", "complex64", "complex128"},
        whole=True,
        marker="saved_model.pb",
    ),
)


def format_of(name: object) -> Format:
    """The format of that name.

    Raises:
      OptionError: listing those that there are.
    """
    for one in FORMATS:
        if one.name == name:
            return one
    known = ", ".join(one.name for one in FORMATS)
    raise OptionError(f"there is no format {name!r}; the formats are {known}.")
