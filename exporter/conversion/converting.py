"""From a stored artifact to a file of another format: choose, specialize, write, check."""

import contextlib
import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

from exporter.artifact.manifest import read as read_manifest
from exporter.conversion.choosing import Choice, chosen, every
from exporter.conversion.converted import Converted, ConvertedSignature
from exporter.conversion.formats import FORMATS, Format, format_of
from exporter.conversion.target import check_target, filled
from exporter.errors import ConversionError, MissingExtraError, OptionError
from exporter.operations import OWN_CALLS

if TYPE_CHECKING:
    from exporter.conversion.program import (
        Arrays,
        OpenArray,
        PlainArray,
        WholeWriter,
        Writer,
        Written,
    )


class _Options(TypedDict):
    """What a choice depends on, beside the signature."""

    sizes: Mapping[str, int]
    platform: str
    custom_calls: tuple[str, ...]


def convert(
    path: str | os.PathLike[str],
    to: str,
    out: str | os.PathLike[str],
    *,
    signature: str | Sequence[str] | None = None,
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

    `"tensorflow"` is another matter: a SavedModel has all signatures, with open sizes, the
    platforms of the artifact, and variables that signatures change and share.

    Unless `check` is false, the file is run on this machine, if what runs it is here, and compared
    with the loaded model: on the inputs of a sample that was saved with the artifact, if one has
    these shapes, and on random ones otherwise. Floats must agree in two thirds of their digits, as
    for `verify`; all else must be equal.

    Args:
      path: an artifact.
      to: a format: `"stablehlo"`, `"iree"`, `"litert"`, `"coreml"`, `"onnx"` or
        `"tensorflow"`.
      out: the file, which ends as its format has it: `.mlir` (text) or `.mlirbc` (bytecode),
        `.vmfb`, `.tflite`, `.mlpackage`, `.onnx`; a folder of any name for a SavedModel.
        It appears whole or not at all.
      signature: which one; by default `serving_default`, or the only one. A SavedModel has all, or
        those that are given.
      sizes: the size of each named axis. An axis without a name is called by its input and
        position: `{"x[0]": 8}`. For a SavedModel, sizes to try it with, small ones by default.
      platform: which platform's operations it is to have, of those that the artifact has. A
        SavedModel has all, and is tried on this one.
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
    wanted = (signature,) if isinstance(signature, str) else tuple(signature or ())
    options = _Options(sizes=sizes or {}, platform=platform, custom_calls=vouched)
    choices = _choices(format_, folder, wanted, options)
    for choice in choices:
        _check_fits(format_, choice)
    target = check_target(out, format_, overwrite=overwrite)
    write = _write_all if format_.whole else _write_one
    with filled(target, format_, overwrite=overwrite) as file:
        parts = write(format_, choices, file)
        unchecked = None if check else "the check was left out"
        if any(part.written.run is None for part in parts):
            needed = platform if format_.platforms is None else format_.runtime
            unchecked = f"this machine has no {needed}"
        found = [_signature(part, check=unchecked is None) for part in parts]
        size = sum(one.stat().st_size for one in (file, *file.rglob("*")) if one.is_file())
    return Converted(target, format_.name, platform, tuple(found), size, unchecked)


def _choices(
    format_: Format, folder: Path, signatures: Sequence[str], options: _Options
) -> list[Choice]:
    manifest = read_manifest(folder)
    if format_.whole:
        return every(folder, manifest, signatures=signatures, **options)
    if len(signatures) > 1:
        raise OptionError(
            f"a file of {format_.name} has one signature, got {', '.join(map(repr, signatures))}. "
            "Write a file for each."
        )
    one = signatures[0] if signatures else None
    return [chosen(folder, manifest, signature=one, **options)]


@dataclass(frozen=True, eq=False)
class _Part:
    """A signature in the file.

    Attributes:
      choice: what it is.
      arrays: what it takes and returns when it is tried.
      named: the same as callers see it.
      written: what became of it.
    """

    choice: Choice
    arrays: "Arrays"
    named: "tuple[Sequence[PlainArray | OpenArray], Sequence[PlainArray | OpenArray]]"
    written: "Written"


def _write_one(format_: Format, choices: Sequence[Choice], file: Path) -> list[_Part]:
    from exporter.conversion.specializing import specialize

    (choice,) = choices
    writer = cast("Writer", _module(format_))
    program = specialize(choice, embed=format_.embeds)
    _check_calls(format_, choice, program.custom_calls)
    with _named_errors(format_, f"signature {choice.signature!r}"):
        written = writer.write(program, file)
    return [_Part(choice, program, (program.inputs, program.outputs), written)]


def _write_all(format_: Format, choices: Sequence[Choice], file: Path) -> list[_Part]:
    from exporter.conversion.opening import opened, shared_variables
    from exporter.conversion.specializing import arrays, check_readable, native_calls

    writer = cast("WholeWriter", _module(format_))
    check_readable(choices[0])
    for choice in choices:
        _check_calls(format_, choice, native_calls(choice))
    programs = [opened(choice) for choice in choices]
    variables = shared_variables(choices)
    with _named_errors(format_, f"'{choices[0].folder}'"):
        written = writer.write(programs, variables, file)
    values = {number: one.value for number, one in variables.items()}
    return [
        _Part(choice, arrays(choice, values), (program.inputs, program.outputs), one)
        for choice, program, one in zip(choices, programs, written, strict=True)
    ]


@contextlib.contextmanager
def _named_errors(format_: Format, what: str) -> Iterator[None]:
    """Say what it is that cannot be converted, and what else it could become."""
    try:
        yield
    except ConversionError as error:
        others = "" if format_.calls_native else " It can become stablehlo."
        raise ConversionError(f"{what}: {str(error).rstrip('.: ')}.{others}") from error.__cause__


def _signature(part: _Part, *, check: bool) -> ConvertedSignature:
    from exporter.conversion.checking import check as run_and_compare

    inputs, outputs = part.named
    return ConvertedSignature(
        part.choice.signature,
        _shown(inputs, part.written.inputs),
        _shown(outputs, part.written.outputs),
        run_and_compare(part.choice, part.arrays, part.written) if check else None,
    )


def _shown(
    arrays: "Sequence[PlainArray | OpenArray]", names: Sequence[str] | None
) -> tuple[str, ...]:
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
        native = set(record.custom_calls) - set(OWN_CALLS)  # it is for sizes, not for values
        others = [
            one.name
            for one in FORMATS
            if (one.calls_native or not native)
            and not one.problems(choice.platform, plain, changed)
        ]
        _refuse(format_, choice.signature, dict.fromkeys(problems), others)


def _check_calls(format_: Format, choice: Choice, calls: Sequence[str]) -> None:
    if calls and not format_.calls_native:
        problem = (
            f"it calls native code of JAX, {', '.join(calls)}, which is not in files of "
            f"{format_.name}"
        )
        others = [one.name for one in FORMATS if one.calls_native]
        _refuse(format_, choice.signature, [problem], others)


def _refuse(
    format_: Format, signature: str, problems: "Sequence[str] | dict[str, None]", others: list[str]
) -> None:
    listed = "".join(f"\n  {problem}" for problem in problems)
    *most, last = others or ["none of the formats here"]
    remedy = f"It can become {', '.join(most)}{' or ' if most else ''}{last}."
    raise ConversionError(
        f"signature {signature!r} cannot become {format_.name}:{listed}\n{remedy}"
    )


def _module(format_: Format) -> object:
    try:
        return importlib.import_module(format_.module)
    except ImportError as error:
        raise MissingExtraError(
            f"{error.name or error} is not installed, which {format_.name} needs. Install it: "
            f"pip install 'jax-exporter[{format_.extra}]'"
        ) from error
