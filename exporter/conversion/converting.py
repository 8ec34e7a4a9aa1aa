"""From a stored artifact to a file of another format: choose, specialize, write, check."""

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from exporter.artifact.manifest import read as read_manifest
from exporter.conversion.choosing import Choice, chosen
from exporter.conversion.formats import FORMATS, Format, format_of
from exporter.conversion.target import check_target, filled
from exporter.display import lines, quiet
from exporter.errors import ConversionError, MissingExtraError

if TYPE_CHECKING:
    from exporter.conversion.checking import Check
    from exporter.conversion.program import PlainArray, StaticProgram, Writer


@dataclass(frozen=True)
class Converted:
    """A file that a signature was converted to.

    Attributes:
      path: the file, or the folder that is one to its system.
      format: the name of its format.
      signature: the name of the signature.
      platform: what its operations are for.
      inputs: each input as it is called there, with its dtype and shape.
      outputs: each output likewise.
      size: how many bytes it takes.
      check: how it compares with the loaded model, or `None` if it was not run.
      unchecked: why it was not run, or `None` if it was.
    """

    path: Path
    format: str
    signature: str
    platform: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    size: int
    check: "Check | None"
    unchecked: str | None

    @property
    def largest(self) -> float | None:
        """The largest difference between two numbers of the two results, if there are two."""
        return None if self.check is None else self.check.largest

    @quiet
    def __repr__(self) -> str:
        return lines(
            f"{self.path}: {self.signature} as {self.format}, {self.size:,} bytes", self.facts()
        )

    def facts(self) -> list[str]:
        """What there is to know of it, in lines."""
        checked = f"not run: {self.unchecked}"
        if self.check is not None:
            checked = f"run with {self.check.inputs}: " + "; ".join(map(str, self.check.outputs))
        return [
            *(f"input   {one}" for one in self.inputs),
            *(f"output  {one}" for one in self.outputs),
            checked,
        ]


def convert(
    path: str | os.PathLike[str],
    to: str,
    out: str | os.PathLike[str],
    *,
    signature: str | None = None,
    sizes: Mapping[str, int] | None = None,
    platform: str = "cpu",
    overwrite: bool = False,
    check: bool = True,
    custom_calls: Sequence[str] = (),
) -> Converted:
    """Write a signature of an artifact, with its variables, as a file of another format.

    The code of the model is not needed. All sizes are fixed in the file, and it is for one
    platform. Variables are in it. Those that the signature changes are inputs and outputs named
    `state/` and their path, where the format has a place for that, and whoever runs the file keeps
    them from call to call.

    Unless `check` is false, the file is run on this machine, if what runs it is here, and compared
    with the loaded model: on the inputs of a sample that was saved with the artifact, if one has
    these shapes, and on random ones otherwise. Floats must agree in two thirds of their digits, as
    for `verify`; all else must be equal.

    Args:
      path: an artifact.
      to: a format: `"stablehlo"`, `"iree"`, `"litert"` or `"coreml"`.
      out: the file, which ends as its format has it: `.mlir` (text) or `.mlirbc` (bytecode),
        `.vmfb`, `.tflite`, `.mlpackage`. It appears whole or not at all.
      signature: which one; by default `serving_default`, or the only one.
      sizes: the size of each named axis. An axis without a name is called by its input and
        position: `{"x[0]": 8}`.
      platform: which platform's operations it is to have, of those that the artifact has.
      overwrite: whether `out` may be replaced.
      check: whether the file is run and compared.
      custom_calls: as for `load`.

    Raises:
      OptionError: if there is no such format, sizes are missing or do not fit, or the name of `out`
        is that of another format.
      UnknownSignatureError: if there is no such signature.
      ConversionError: if the format has no place for the signature or for what it computes, or the
        file computes something else. The cause has all that a foreign compiler said.
      IncompatibleRuntimeError: if this JAX cannot read the artifact.
      MissingExtraError: if the format's libraries are not installed.
      ArtifactExistsError: if `out` is there and `overwrite` is false.
      ArtifactError: if the artifact is missing or damaged.
    """
    format_ = format_of(to)
    folder = Path(path)
    vouched = (custom_calls,) if isinstance(custom_calls, str) else tuple(custom_calls)
    choice = chosen(
        folder,
        read_manifest(folder),
        signature=signature,
        sizes=sizes or {},
        platform=platform,
        custom_calls=vouched,
    )
    _check_fits(format_, choice)
    target = check_target(out, format_, overwrite=overwrite)
    from exporter.conversion.checking import check as run_and_compare
    from exporter.conversion.specializing import specialize

    writer = _writer(format_)
    program = specialize(choice, embed=format_.embeds)
    _check_calls(format_, program)
    with filled(target, overwrite=overwrite) as file:
        try:
            written = writer.write(program, file)
        except ConversionError as error:
            others = "" if format_.calls_native else " It can become stablehlo."
            raise ConversionError(
                f"signature {choice.signature!r}: {str(error).rstrip('.: ')}.{others}"
            ) from error.__cause__
        unchecked = None if check else "the check was left out"
        if written.run is None:
            needed = choice.platform if format_.platforms is None else format_.runtime
            unchecked = f"this machine has no {needed}"
        found = None if unchecked else run_and_compare(choice, program, written)
        size = sum(one.stat().st_size for one in (file, *file.rglob("*")) if one.is_file())
    return Converted(
        target,
        format_.name,
        choice.signature,
        choice.platform,
        _shown(program.inputs, written.inputs),
        _shown(program.outputs, written.outputs),
        size,
        found,
        unchecked,
    )


def _shown(arrays: "Sequence[PlainArray]", names: Sequence[str] | None) -> tuple[str, ...]:
    """Each array as it is called in the file, and what it was called if that is something else."""
    found = []
    for position, one in enumerate(arrays):
        name = f"{position}" if names is None else names[position]
        found.append(str(one) if name == one.name else f"{name} for {one}")
    return tuple(found)


def _check_fits(format_: Format, choice: Choice) -> None:
    """Refuse what the format has no place for, naming the formats that have.

    Raises:
      ConversionError: with each reason.
    """
    manifest, record, concrete = choice.manifest, choice.record, choice.concrete
    dtypes = [(one.name, one.dtype) for one in (*concrete.inputs, *concrete.outputs)]
    changed = ["/".join(manifest.variables[number].key) for number in record.updates]
    dtypes += [
        (f"state/{name}", manifest.variables[number].dtype)
        for name, number in zip(changed, record.updates, strict=True)
    ]
    # Random keys are the words that they are made of.
    plain = [(name, "uint32" if dtype.startswith("key<") else dtype) for name, dtype in dtypes]
    problems = format_.problems(choice.platform, plain, changed)
    if problems:
        others = [one.name for one in FORMATS if not one.problems(choice.platform, plain, changed)]
        _refuse(format_, choice.signature, dict.fromkeys(problems), others)


def _check_calls(format_: Format, program: "StaticProgram") -> None:
    if program.custom_calls and not format_.calls_native:
        problem = (
            f"it calls native code of JAX, {', '.join(program.custom_calls)}, which is not in "
            f"files of {format_.name}"
        )
        others = [one.name for one in FORMATS if one.calls_native]
        _refuse(format_, program.name, [problem], others)


def _refuse(
    format_: Format, signature: str, problems: "Sequence[str] | dict[str, None]", others: list[str]
) -> None:
    listed = "".join(f"\n  {problem}" for problem in problems)
    *most, last = others or ["none of the formats here"]
    remedy = f"It can become {', '.join(most)}{' or ' if most else ''}{last}."
    raise ConversionError(
        f"signature {signature!r} cannot become {format_.name}:{listed}\n{remedy}"
    )


def _writer(format_: Format) -> "Writer":
    try:
        return cast("Writer", importlib.import_module(format_.module))
    except ImportError as error:
        raise MissingExtraError(
            f"{error.name or error} is not installed, which {format_.name} needs. Install it: "
            f"pip install 'jax-exporter[{format_.extra}]'"
        ) from error
