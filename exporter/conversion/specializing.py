"""A stored signature, with its variables, becomes a program of fixed sizes for one platform.

Everything is read from the artifact, and nothing is run. What the program says is checked against
the manifest first, as loading does.
"""

from collections.abc import Sequence

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
from exporter.conversion.program import PlainArray, StaticProgram
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
    record, manifest = choice.record, choice.manifest
    # Whether this JAX can read it is asked, and not whether this machine could run it.
    check_runtime(replace(manifest, platforms=list(platforms_here())), choice.folder)
    concrete = choice.concrete
    inputs = _named(choice, concrete.inputs, record.inputs)
    outputs = _named(choice, concrete.outputs, record.outputs)
    variables = {
        number: _array(choice, "/".join(manifest.variables[number].key), manifest.variables[number])
        for number in (*record.variables, *record.updates)
    }
    updated = {number: _state(variables[number]) for number in record.updates}
    state = {number: one for number, one in updated.items() if number in record.variables}
    place = {position: kept for kept, position in enumerate(record.kept_inputs)}
    fixed = {
        number: place[position]
        for position, number in enumerate(record.variables)
        if number not in updated and position in place
    }
    values = _values(choice, [*fixed, *state])
    count = len(record.variables)
    arguments = [
        *(_argument(one, place.get(count + at)) for at, one in enumerate(inputs)),
        *(
            _argument(one, place.get(record.variables.index(number)))
            for number, one in state.items()
        ),
    ]
    if not embed:
        arguments = [
            *(_argument(variables[number], at) for number, at in fixed.items()),
            *arguments,
        ]
    results = [
        *((len(updated) + at, one.name) for at, one in enumerate(outputs)),
        *((at, one.name) for at, one in enumerate(updated.values())),
    ]
    told = record.platforms.index(choice.platform) if len(record.platforms) > 1 else None
    every = [*(variables[number] for number in record.variables), *inputs]
    try:
        bytecode, calls = static_bytecode(
            _program(choice),
            shapes=[every[position].shape for position in record.kept_inputs],
            platform=told,
            arguments=arguments,
            constants={at: values[number] for number, at in fixed.items()} if embed else {},
            results=results,
        )
    except ValueError as error:
        sizes = ", ".join(f"{name}={size}" for name, size in choice.sizes.items()) or "that it has"
        raise ConversionError(
            f"signature {choice.signature!r} cannot have the sizes {sizes}: {error}."
        ) from error
    return StaticProgram(
        choice.signature,
        choice.platform,
        (*inputs, *state.values()),
        (*outputs, *updated.values()),
        tuple(values[number] for number in state),
        () if embed else tuple((variables[number].name, values[number]) for number in fixed),
        calls,
        bytecode,
    )


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


def _program(choice: Choice) -> bytes:
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


def _values(choice: Choice, numbers: Sequence[int]) -> dict[int, np.ndarray]:
    """The stored values of variables, as plain arrays."""
    files = [one for one in choice.manifest.files if one.path.startswith(f"{VARIABLES}/")]
    verify_files(choice.folder, files, late=checked_when_read(files))
    records = [choice.manifest.variables[number] for number in numbers]
    here = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    found = read_variables(choice.folder, records, here, files=files)
    return {
        number: np.asarray(to_words(value)) for number, value in zip(numbers, found, strict=True)
    }
