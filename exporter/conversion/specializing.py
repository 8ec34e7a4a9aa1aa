"""A stored signature, with its variables, becomes a program of fixed sizes for one platform.

Everything is read from the artifact, and nothing is run. What the program says is checked against
the manifest first, as loading does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from exporter.artifact.layout import VARIABLES, checked_when_read
from exporter.artifact.layout import verify as verify_files
from exporter.artifact.programs import read_program
from exporter.artifact.records import (
    PlainTensorRecord,
    TensorRecord,
    VariableRecord,
    replace,
)
from exporter.artifact.variables import read_variables
from exporter.conversion.choosing import Choice
from exporter.conversion.program import Arrays, PlainArray, StaticProgram
from exporter.errors import ConversionError
from exporter.jax_internals import ProgramReader
from exporter.jax_static import Argument, static_bytecode
from exporter.keys import to_words
from exporter.runtime.compat import check_program, check_runtime, platforms_here
from signatures.dtypes import KeyType, as_dtype
from signatures.errors import SpecError
from signatures.expression import parse
from signatures.spec import storage_shape


def specialize(choice: Choice, *, embed: bool = True) -> StaticProgram:
    """The program of a signature for fixed sizes and one platform.

    Args:
      choice: what is to be converted.
      embed: whether variables are constants of the program. Otherwise they are its first arguments.
        Variables that the signature changes are arguments and results in any case.

    Raises:
      ArtifactError: if a file is missing or damaged.
      IncompatibleRuntimeError: if this JAX cannot read the program or its 64-bit arrays.
      UnsafeProgramError: if the program calls native code that nobody has vouched for.
      ConversionError: if it cannot have these sizes.
    """
    check_readable(choice)
    record, parts = choice.record, _parts(choice)
    place = {position: kept for kept, position in enumerate(record.kept_inputs)}
    fixed = {
        number: place[position]
        for position, number in enumerate(record.variables)
        if number not in parts.updated and position in place
    }
    values = stored_values(choice, [*fixed, *parts.state])
    bytecode, calls = _static(
        choice,
        arguments=[
            *(() if embed else (_argument(parts.variables[one], at) for one, at in fixed.items())),
            *_arguments(choice, parts),
        ],
        constants={at: values[number] for number, at in fixed.items()} if embed else {},
    )
    return StaticProgram(
        **vars(arrays(choice, values)),
        name=choice.signature,
        platform=choice.platform,
        variables=() if embed else tuple((parts.variables[one].name, values[one]) for one in fixed),
        custom_calls=calls,
        bytecode=bytecode,
    )


def check_readable(choice: Choice) -> None:
    """Ask whether this JAX can read an artifact, and not whether this machine could run it.

    Raises:
      IncompatibleRuntimeError: if it cannot.
    """
    check_runtime(replace(choice.manifest, platforms=list(platforms_here())), choice.folder)


def arrays(choice: Choice, values: Mapping[int, np.ndarray]) -> Arrays:
    """What goes into a signature and comes out of it, for the stored values of variables."""
    parts = _parts(choice)
    return Arrays(
        (*parts.inputs, *parts.state.values()),
        (*parts.outputs, *parts.updated.values()),
        tuple(values[number] for number in parts.state),
    )


def native_calls(choice: Choice) -> tuple[str, ...]:
    """The native functions that a signature calls by name, on its platform.

    Raises:
      ConversionError: if it cannot have these sizes.
    """
    parts = _parts(choice)
    variables = [
        _argument(parts.variables[number], choice.record.kept_inputs.index(position))
        for position, number in enumerate(choice.record.variables)
        if number not in parts.state and position in choice.record.kept_inputs
    ]
    every = [*variables, *_arguments(choice, parts)]
    return _static(choice, arguments=every, constants={})[1]


@dataclass(frozen=True)
class _Parts:
    """The arrays of a signature.

    Attributes:
      inputs: what callers give.
      outputs: what they get.
      variables: every variable that it works on or gives a value to, by number.
      updated: those that it gives a value to, as state.
      state: those of them that it reads too.
    """

    inputs: list[PlainArray]
    outputs: list[PlainArray]
    variables: dict[int, PlainArray]
    updated: dict[int, PlainArray]
    state: dict[int, PlainArray]


def _parts(choice: Choice) -> _Parts:
    record, concrete, known = choice.record, choice.concrete, choice.manifest.variables
    variables = {
        number: _array(choice, "/".join(known[number].key), known[number])
        for number in (*record.variables, *record.updates)
    }
    updated = {number: _state(variables[number]) for number in record.updates}
    return _Parts(
        _named(choice, concrete.inputs, record.inputs),
        _named(choice, concrete.outputs, record.outputs),
        variables,
        updated,
        {number: one for number, one in updated.items() if number in record.variables},
    )


def _arguments(choice: Choice, parts: _Parts) -> list[Argument]:
    """What callers give, and then the state that the signature reads and changes."""
    record = choice.record
    place = {position: kept for kept, position in enumerate(record.kept_inputs)}
    count = len(record.variables)
    return [
        *(_argument(one, place.get(count + at)) for at, one in enumerate(parts.inputs)),
        *(
            _argument(one, place.get(record.variables.index(number)))
            for number, one in parts.state.items()
        ),
    ]


def _static(
    choice: Choice, *, arguments: Sequence[Argument], constants: Mapping[int, np.ndarray]
) -> tuple[bytes, tuple[str, ...]]:
    """The program without open sizes, and what it calls by name."""
    record, parts = choice.record, _parts(choice)
    results = [
        *((len(parts.updated) + at, one.name) for at, one in enumerate(parts.outputs)),
        *((at, one.name) for at, one in enumerate(parts.updated.values())),
    ]
    every = [*(parts.variables[number] for number in record.variables), *parts.inputs]
    try:
        return static_bytecode(
            checked_program(choice),
            shapes=[every[position].shape for position in record.kept_inputs],
            platform=record.platforms.index(choice.platform) if len(record.platforms) > 1 else None,
            arguments=arguments,
            constants=constants,
            results=results,
        )
    except ValueError as error:
        sizes = ", ".join(f"{name}={size}" for name, size in choice.sizes.items()) or "that it has"
        raise ConversionError(
            f"signature {choice.signature!r} cannot have the sizes {sizes}: {error}."
        ) from error


def _named(
    choice: Choice, tensors: Sequence[TensorRecord], plain: Sequence[PlainTensorRecord]
) -> list[PlainArray]:
    return [_array(choice, tensor.name, one) for tensor, one in zip(tensors, plain, strict=True)]


def _array(choice: Choice, name: str, record: PlainTensorRecord | VariableRecord) -> PlainArray:
    dtype = as_dtype(record.dtype)
    try:
        shape = tuple(
            axis if isinstance(axis, int) else parse(axis).evaluate(choice.sizes)
            for axis in record.shape
        )
    except SpecError as error:
        raise ConversionError(f"{name} has no shape for these sizes: {error}") from error
    plain = np.dtype(np.uint32) if isinstance(dtype, KeyType) else dtype
    return PlainArray(name, plain, storage_shape(shape, dtype))


def _state(variable: PlainArray) -> PlainArray:
    return PlainArray(f"state/{variable.name}", variable.dtype, variable.shape)


def _argument(array: PlainArray, source: int | None) -> Argument:
    return Argument(array.name, array.dtype, array.shape, source)


def checked_program(choice: Choice) -> bytes:
    """The stored program, if it is what the manifest says, as loading asks too."""
    record, folder = choice.record, choice.folder
    verify_files(folder, [one for one in choice.manifest.files if one.path == record.file])
    sizes = {one.path: one.size for one in choice.manifest.files}
    bytecode = read_program(folder, record.file, sizes)
    check_program(
        bytecode,
        folder / record.file,
        record,
        choice.manifest.variables,
        choice.custom_calls,
        reader=ProgramReader(),
    )
    return bytecode


def stored_values(choice: Choice, numbers: Sequence[int]) -> dict[int, np.ndarray]:
    """The stored values of variables by number, as plain arrays."""
    files = [one for one in choice.manifest.files if one.path.startswith(f"{VARIABLES}/")]
    verify_files(choice.folder, files, late=checked_when_read(files))
    records = [choice.manifest.variables[number] for number in numbers]
    here = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    found = read_variables(choice.folder, records, here, files=files)
    return {
        number: np.asarray(to_words(value)) for number, value in zip(numbers, found, strict=True)
    }
