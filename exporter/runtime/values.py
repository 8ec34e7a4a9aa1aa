"""The values of variables of two artifacts, compared. JAX is needed for compressed ones only."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exporter.artifact.layout import VARIABLES, verify
from exporter.artifact.manifest import shown
from exporter.artifact.raw import Arrays, Wanted
from exporter.artifact.records import Manifest, VariableRecord
from exporter.errors import ArtifactError
from signatures.dtypes import KeyType, as_dtype

# Differences are taken of so many elements at a time, so that they take little memory.
_BLOCK = 2**20


@dataclass(frozen=True)
class ValueDifference:
    """How far a variable is from what it was. NaN is like NaN, and an infinity like itself.

    Attributes:
      name: its path.
      elements: how many it has.
      unequal: how many of them differ.
      largest: the largest absolute difference, infinite if one of two numbers is not finite.
      l2: the root of the sum of the squares of all differences.
      relative: `l2` relative to the norm of the first, infinite if that is 0 and `l2` is not.
    """

    name: str
    elements: int
    unequal: int
    largest: float
    l2: float
    relative: float


def value_differences(
    old: tuple[Path, Manifest], new: tuple[Path, Manifest], pairs: Sequence[tuple[str, int, int]]
) -> Iterator[ValueDifference]:
    """How far each pair of variables is apart, in any order.

    All values of the first artifact are kept in memory until the second has been read.

    Args:
      old: the first artifact.
      new: the second.
      pairs: a path, and the positions of two variables of one dtype and shape.

    Raises:
      ArtifactError: if an artifact is damaged.
    """
    before = dict(_values(*old, [one for _, one, _ in pairs]))
    names = {other: (name, one) for name, one, other in pairs}
    for position, array in _values(*new, list(names)):
        name, one = names[position]
        yield difference(name, before.pop(one), array)


def difference(name: str, one: np.ndarray, other: np.ndarray) -> ValueDifference:
    """How far two arrays of one dtype and shape are apart."""
    unequal, largest, squares, norm = 0, 0.0, 0.0, 0.0
    flat, beside = one.reshape(-1), other.reshape(-1)
    for start in range(0, one.size, _BLOCK):
        a, b = flat[start : start + _BLOCK], beside[start : start + _BLOCK]
        wide, far = _wide(a), _wide(b)
        same = (a == b) | ((wide != wide) & (far != far))  # noqa: PLR0124  # only NaN is not itself
        unequal += int(same.size - np.count_nonzero(same))
        with np.errstate(all="ignore"):
            apart = np.where(same, 0.0, np.abs(wide - far))
            apart = np.where(np.isnan(apart), np.inf, apart)
            squares += float(np.square(apart).sum())
            norm += float(np.square(np.abs(wide)).sum())
        largest = max(largest, float(apart.max(initial=0.0)))
    l2, size = math.sqrt(squares), math.sqrt(norm) if norm == norm else math.nan  # noqa: PLR0124  # as above
    return ValueDifference(name, one.size, unequal, largest, l2, _ratio(l2, size))


def _ratio(l2: float, size: float) -> float:
    if not l2:
        return 0.0
    return l2 / size if math.isfinite(size) and size else math.inf


def _wide(array: np.ndarray) -> np.ndarray:
    """The same with 64-bit floats, or pairs of them."""
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _values(
    folder: Path, manifest: Manifest, positions: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Arrays by their positions, in any order; keys as words. All files are verified first."""
    files = [file for file in manifest.files if file.path.startswith(f"{VARIABLES}/")]
    verify(folder, files)
    records: Mapping[int, VariableRecord] = {n: manifest.variables[n] for n in positions}
    waiting = set()
    wanted = {}
    for number, record in records.items():
        if record.storage == "empty":
            shape, dtype = _plain(record)
            yield number, np.zeros(shape, dtype)
            continue
        shape, dtype = _plain(record)
        stored = np.dtype(np.uint8) if record.storage == "bytes" else dtype
        wanted[number] = Wanted(".".join(record.key), shape, stored)
        waiting.add(number)
    arrays = Arrays(folder / VARIABLES, wanted)
    try:
        for number, array in _as_they_lie(arrays):
            waiting.discard(number)
            yield number, array.view(_plain(records[number])[1])
    except OSError as error:
        reason = shown(error.strerror or error)
        raise ArtifactError(f"{folder / VARIABLES} cannot be read: {reason}.") from error
    if waiting:
        yield from _by_jax(folder, {number: records[number] for number in sorted(waiting)})


def _as_they_lie(arrays: Arrays) -> Iterator[tuple[int, np.ndarray]]:
    yield from arrays.small()
    for file in arrays.files:
        yield from arrays.of_file(file, None)


def _by_jax(
    folder: Path, records: Mapping[int, VariableRecord]
) -> Iterator[tuple[int, np.ndarray]]:
    """Arrays that only TensorStore can read, which JAX places on the CPU."""
    import jax

    from exporter.artifact.variables import read_variables
    from exporter.keys import to_words

    place = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    read = read_variables(folder, list(records.values()), place)
    for number, array in zip(records, read, strict=True):
        yield number, np.asarray(to_words(array))


def _plain(record: VariableRecord) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """The shape and dtype of a variable, of a key those of its words."""
    dtype = as_dtype(record.dtype)
    if isinstance(dtype, KeyType):
        return (*record.shape, dtype.words), np.dtype(np.uint32)
    return tuple(record.shape), dtype
