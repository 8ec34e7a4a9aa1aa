"""Arrays that lie in a checkpoint as they are: where they lie, and their bytes.

A checkpoint is an OCDBT database, which TensorStore reads. Its index says for each key in which
file the value is, or has a small value itself: see `index.py`. If an array is one chunk without
compression, that value is its elements and nothing else, and whoever knows the place need not ask
TensorStore for it.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import blake3
import numpy as np

from exporter.artifact import blocks
from exporter.artifact.blocks import Extent
from exporter.artifact.index import Place, read_index

# What TensorStore raises for a database that it cannot read, and what is raised about one here.
REFUSALS = (ValueError, LookupError, OSError, RuntimeError, OverflowError)


@dataclass(frozen=True)
class Wanted:
    """An array of the checkpoint, as the manifest has it."""

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def of_bytes(self, data: np.ndarray) -> np.ndarray:
        """The array that these bytes are."""
        return data.view(self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class Lying:
    """Where an array lies: a file of the checkpoint, and its first byte there."""

    file: str
    offset: int


class Arrays:
    """Those of the arrays wanted that lie in the checkpoint as they are, by their positions.

    What cannot be understood is not among them: it is for TensorStore to read, or to refuse.
    """

    def __init__(self, folder: Path, wanted: Mapping[int, Wanted]) -> None:
        self._folder = folder
        self._wanted = wanted
        self._inline: dict[int, bytes] = {}
        self._files: dict[str, list[tuple[Extent, int]]] = {}
        values = _values(folder) if wanted else {}
        for position, one in wanted.items():
            value = _raw(values, one)
            if isinstance(value, bytes):
                self._inline[position] = value
            elif value is not None:
                self._files.setdefault(value.file, []).append((value.extent, position))
        self._files = {file: sorted(parts) for file, parts in self._files.items()}
        sizes = {file: _size(folder / file) for file in self._files}
        self.files = {
            file: sizes[file]
            for file, parts in self._files.items()
            if _is_inside([extent for extent, _ in parts], sizes[file])
        }

    def small(self) -> Iterator[tuple[int, np.ndarray]]:
        """The arrays in the index, with their positions."""
        for position, value in self._inline.items():
            yield position, self._wanted[position].of_bytes(np.frombuffer(value, np.uint8))

    def lying(self) -> Iterator[tuple[int, Lying]]:
        """Where the arrays in `files` lie, with their positions."""
        for file in self.files:
            for extent, position in self._files[file]:
                yield position, Lying(file, extent.offset)

    def of_file(self, file: str, hasher: blake3.blake3 | None) -> Iterator[tuple[int, np.ndarray]]:
        """The arrays in one of `files`, with their positions, each as soon as it is read.

        Args:
          file: its path in the checkpoint.
          hasher: what takes all that is in the file, if anything does.

        Raises:
          OSError: if it cannot be read.
        """
        extents, positions = zip(*self._files[file], strict=True)
        buffers = blocks.read(self._folder / file, self.files[file], extents, hasher)
        for position, buffer in zip(positions, buffers, strict=True):
            yield position, self._wanted[position].of_bytes(buffer)


def _values(folder: Path) -> dict[str, Place | bytes]:
    """What the index of the checkpoint has, or nothing if it cannot be understood."""
    try:
        return read_index(folder)
    except REFUSALS:
        return {}


def _raw(values: Mapping[str, Place | bytes], wanted: Wanted) -> Place | bytes | None:
    """The elements in C order, little-endian, or their place; `None` if there is no such value."""
    description = values.get(f"{wanted.key}/.zarray")
    if not isinstance(description, bytes):
        return None
    try:
        found = json.loads(description)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not _is_one_chunk(found, wanted):
        return None
    separator = found.get("dimension_separator", ".")
    value = values.get(f"{wanted.key}/{separator.join('0' * len(wanted.shape)) or '0'}")
    size = value.extent.size if isinstance(value, Place) else len(value or b"")
    return value if size == wanted.size else None


def _is_one_chunk(found: Mapping[str, object], wanted: Wanted) -> bool:
    """Whether an array of zarr is the one that is wanted, in one chunk of nothing but elements."""
    shape, dtype = list(wanted.shape), wanted.dtype
    expected = {
        "zarr_format": 2,
        "dtype": dtype.newbyteorder("<").str if dtype.isbuiltin == 1 else dtype.name,
        "shape": shape,
        "chunks": shape,
        "order": "C",
        "compressor": None,
        "filters": None,
    }
    known = found.get("dimension_separator", ".") in (".", "/")
    return known and all(found.get(field, ...) == value for field, value in expected.items())


def _size(path: Path) -> int:
    """Of a file in bytes, 0 if it is none."""
    return path.stat().st_size if path.is_file() else 0


def _is_inside(extents: Sequence[Extent], size: int) -> bool:
    """Whether extents in ascending order lie one after the other in a file."""
    apart = all(one.end <= other.offset for one, other in pairwise(extents))
    return apart and extents[-1].end <= size
