"""Samples on disk: the inputs and outputs of one call, as the plain bytes of their elements.

A file holds the arrays one after the other, the inputs first: elements in C order, little-endian,
those of fewer than 8 bits in one byte each. What they are is in the manifest.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from exporter.artifact.layout import SAMPLES
from exporter.artifact.records import SampleArrayRecord, SampleRecord
from signatures.dtypes import KeyType, as_dtype
from signatures.spec import storage_shape


@dataclass(frozen=True)
class Sample:
    """One call. The arrays are plain: random keys are the words they are made of.

    Attributes:
      record: its entry in the manifest.
      data: the content of its file.
    """

    record: SampleRecord
    data: bytes

    def arrays(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The inputs and the outputs."""
        found, start = [], 0
        for tensor in (*self.record.inputs, *self.record.outputs):
            end = start + size_of(tensor)
            shape, dtype = _plain(tensor)
            raw = np.frombuffer(self.data[start:end], dtype.newbyteorder("<"))
            found.append(raw.astype(dtype).reshape(shape))
            start = end
        count = len(self.record.inputs)
        return found[:count], found[count:]


def file_of(number: int) -> str:
    """Where the sample of that number lies."""
    return f"{SAMPLES}/{number}.bin"


def array_record(name: str, dtype: str, array: np.ndarray) -> SampleArrayRecord:
    """The manifest's entry for a plain array."""
    axes = array.ndim - isinstance(as_dtype(dtype), KeyType)
    return SampleArrayRecord(name, dtype, list(array.shape[:axes]))


def joined(arrays: Iterable[np.ndarray]) -> bytes:
    """The content of a file for the arrays of a sample."""
    return b"".join(
        np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        for array in arrays
    )


def size_of(tensor: SampleArrayRecord) -> int:
    """How many bytes an array takes."""
    shape, dtype = _plain(tensor)
    return math.prod(shape) * dtype.itemsize


def _plain(tensor: SampleArrayRecord) -> tuple[Sequence[int], np.dtype[np.generic]]:
    dtype = as_dtype(tensor.dtype)
    shape = storage_shape(tuple(tensor.shape), dtype)
    return shape, np.dtype(np.uint32) if isinstance(dtype, KeyType) else dtype
