"""Stored signatures with the variables that they share, as they are: for any sizes and platform.

The programs are those of the artifact, for formats that run StableHLO with open sizes. What they
say is checked against the manifest first, as loading does.
"""

from collections.abc import Sequence

import numpy as np

from exporter.artifact.records import PlainTensorRecord, TensorRecord
from exporter.conversion.choosing import Choice
from exporter.conversion.program import OpenArray, OpenProgram, StoredVariable
from exporter.conversion.specializing import checked_program, stored_values
from exporter.jax_static import without_composites
from signatures.dtypes import KeyType, as_dtype


def opened(choice: Choice) -> OpenProgram:
    """The program of a signature.

    Raises:
      ArtifactError: if a file is missing or damaged.
      UnsafeProgramError: if it calls native code that nobody has vouched for.
    """
    record, concrete = choice.record, choice.concrete
    return OpenProgram(
        choice.signature,
        tuple(record.platforms),
        record.calling_convention_version,
        _arrays(concrete.inputs, record.inputs),
        _arrays(concrete.outputs, record.outputs),
        tuple(record.variables),
        tuple(record.kept_inputs),
        tuple(record.updates),
        without_composites(checked_program(choice), record.stablehlo_version),
    )


def shared_variables(choices: Sequence[Choice]) -> dict[int, StoredVariable]:
    """Every variable that one of some signatures of one artifact works on, by number."""
    known = choices[0].manifest.variables
    records = [choice.record for choice in choices]
    numbers = dict.fromkeys(
        number for record in records for number in (*record.variables, *record.updates)
    )
    return {
        number: StoredVariable(tuple(known[number].key), value, known[number].trainable)
        for number, value in stored_values(choices[0], list(numbers)).items()
    }


def _arrays(
    tensors: Sequence[TensorRecord], plain: Sequence[PlainTensorRecord]
) -> tuple[OpenArray, ...]:
    return tuple(_array(tensor, len(one.shape)) for tensor, one in zip(tensors, plain, strict=True))


def _array(tensor: TensorRecord, rank: int) -> OpenArray:
    dtype = as_dtype(tensor.dtype)
    axes = (None,) * rank if tensor.shape is None else tuple(tensor.shape)
    if isinstance(dtype, KeyType):
        return OpenArray(tensor.name, np.dtype(np.uint32), (*axes, dtype.words))
    return OpenArray(tensor.name, dtype, axes)
