"""Some elements of stored arrays, read without JAX and without reading all that is there.

An array that is small is read whole. Of a large one, as many elements are read in blocks that are
spread evenly over it. What lies in a file as it is, is read there; TensorStore reads the rest.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorstore as ts

from exporter.artifact.layout import VARIABLES
from exporter.artifact.manifest import shown
from exporter.artifact.raw import REFUSALS, Arrays, Lying, Wanted
from exporter.artifact.records import VariableRecord
from signatures.dtypes import as_dtype

# In how many places a large array is looked at.
BLOCKS = 64

# A chunk that is compressed, or lies apart, is read whole. A larger one is not read.
_MAX_CHUNK_BYTES = 64 * 2**20
_MAX_CHUNKS = 16


@dataclass(frozen=True)
class Glimpse:
    """Elements of an array, flat.

    Attributes:
      elements: in the array's own dtype.
      blocks: from how many places they are, 1 where they are all.
    """

    elements: np.ndarray
    blocks: int


def glimpses(
    folder: Path, records: Mapping[int, VariableRecord], limit: int
) -> Iterator[tuple[int, Glimpse | str]]:
    """What can be seen of each array, or why nothing can, in any order.

    Args:
      folder: the artifact.
      records: the arrays, by any number. Random keys are left out.
      limit: how many elements of an array are read.
    """
    wanted = {
        number: Wanted(".".join(record.key), tuple(record.shape), _plain(record))
        for number, record in records.items()
        if record.storage != "empty" and not record.dtype.startswith("key<")
    }
    arrays = Arrays(folder / VARIABLES, wanted)
    rest = dict(wanted)
    for number, array in arrays.small():
        del rest[number]
        yield number, _viewed(Glimpse(array.reshape(-1), 1), records[number])
    for number, place in arrays.lying():
        one = rest.pop(number)
        try:
            yield number, _viewed(_of_file(folder / VARIABLES, place, one, limit), records[number])
        except OSError as error:
            yield number, f"{place.file} cannot be read: {error.strerror}"
    for number, one in rest.items():
        try:
            yield number, _viewed(_by_tensorstore(folder / VARIABLES, one, limit), records[number])
        except REFUSALS as error:
            yield number, shown(" ".join(str(error).split()))


def _plain(record: VariableRecord) -> np.dtype[np.generic]:
    dtype = as_dtype(record.dtype)
    assert isinstance(dtype, np.dtype)  # keys are left out
    return np.dtype(np.uint8) if record.storage == "bytes" else dtype


def _viewed(glimpse: Glimpse, record: VariableRecord) -> Glimpse:
    dtype = as_dtype(record.dtype)
    assert isinstance(dtype, np.dtype)
    return Glimpse(glimpse.elements.view(dtype), glimpse.blocks)


def _spread(count: int, limit: int) -> list[tuple[int, int]]:
    """Where blocks begin and end, of `limit` elements among `count` together."""
    if count <= limit:
        return [(0, count)]
    length = limit // BLOCKS
    starts = [(count - length) * block // (BLOCKS - 1) for block in range(BLOCKS)]
    return [(start, start + length) for start in starts]


def _of_file(folder: Path, place: Lying, wanted: Wanted, limit: int) -> Glimpse:
    parts = []
    spread = _spread(math.prod(wanted.shape), limit)
    itemsize = wanted.dtype.itemsize
    with (folder / place.file).open("rb") as file:
        for start, end in spread:
            file.seek(place.offset + start * itemsize)
            data = file.read((end - start) * itemsize)
            parts.append(np.frombuffer(data[: len(data) // itemsize * itemsize], wanted.dtype))
    return Glimpse(np.concatenate(parts), len(spread))


def _by_tensorstore(folder: Path, wanted: Wanted, limit: int) -> Glimpse:
    """The elements of a few chunks, each of which is read whole whatever is asked of it."""
    store = ts.open(
        {
            "driver": "zarr",
            "kvstore": {
                "driver": "ocdbt",
                "base": {"driver": "file", "path": f"{folder.resolve()}/"},
                "path": f"{wanted.key}/",
            },
            "fill_missing_data_reads": False,
        },
        open=True,
        read=True,
    ).result()
    if tuple(store.shape) != wanted.shape or store.dtype.numpy_dtype != wanted.dtype:
        raise ValueError(f"expected {wanted.dtype.name}{list(wanted.shape)}, found another array")
    chunk = tuple(part or 1 for part in store.chunk_layout.read_chunk.shape or ())
    size = math.prod(chunk) * wanted.dtype.itemsize
    if size > _MAX_CHUNK_BYTES:
        raise ValueError(f"it is stored in blocks of {size:,} bytes, which are too large to sample")
    grid = [-(-axis // part) for axis, part in zip(wanted.shape, chunk, strict=True)]
    count = math.prod(grid)
    numbers = _evenly(count, max(1, min(count, _MAX_CHUNKS, -(-limit // math.prod(chunk)))))
    parts = [_chunk(store, grid, chunk, number) for number in numbers]
    elements = np.concatenate(parts)
    if elements.size > limit:
        elements = np.concatenate(
            [elements[slice(*ends)] for ends in _spread(len(elements), limit)]
        )
    return Glimpse(elements, 1 if elements.size == math.prod(wanted.shape) else len(parts))


def _evenly(count: int, wanted: int) -> Sequence[int]:
    return [count * number // wanted for number in range(wanted)]


def _chunk(
    store: ts.TensorStore, grid: Sequence[int], chunk: Sequence[int], number: int
) -> np.ndarray:
    found = np.unravel_index(number, grid) if grid else ()
    index = tuple(
        slice(int(at) * part, min((int(at) + 1) * part, axis))
        for at, part, axis in zip(found, chunk, store.shape, strict=True)
    )
    return np.asarray(store[index].read().result()).reshape(-1)
