"""The index of a checkpoint: each key with its value, or with the place where the value lies.

A checkpoint is an OCDBT database. Its file `manifest.ocdbt` says where the node is in which the
tree of keys begins, and Orbax asks for a tree of this node alone, of up to 100 MB. Both are read as
the documentation of TensorStore's driver `ocdbt` describes them under "Storage format".

`tensorstore.ocdbt.dump` tells the same, but what it told is never freed: up to 0.1.86 it makes
dictionaries that hold one reference too many to each key and value, which is 1 kB for an array at
every load.

Nothing is guessed. What differs from that description, has more nodes, or is larger than what Orbax
writes is refused, and is for TensorStore to read or to refuse. The checksums inside (CRC-32C, slow
in Python) are not compared: the manifest of an artifact has a digest for each of these files.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import zstandard

from exporter.artifact.blocks import Extent

# What one process wrote, a file of it.
_FILE = re.compile(r"(?:ocdbt\.process_[0-9]+/)?d/[0-9a-f]{32}")

# How the two files begin, and how many bytes before and after what they hold are not part of it.
_MANIFEST = bytes.fromhex("0cdb3a2a")
_NODE = bytes.fromhex("0cdb20de")
_HEAD_BYTES = 14
_CHECKSUM_BYTES = 4

# Orbax asks for nodes of this size at most. It also bounds what a small file can ask for: zstd
# compresses zeros 32,768 times.
_MAX_NODE_BYTES = 100_000_000
_MAX_MANIFEST_BYTES = 2**20
_MAX_ENTRIES = 2**20  # as TensorStore

# Of a number of 64 bits in seven bits a byte: there is one bit in the last.
_MAX_NUMBER_BYTES = 10


@dataclass(frozen=True)
class Place:
    """A value that lies in a file, by its path in the checkpoint."""

    file: str
    extent: Extent


def read_index(folder: Path) -> dict[str, Place | bytes]:
    """What the checkpoint in a folder holds, by key: values, or their places in its files.

    Places are what the index says. Nothing was looked up there.

    Raises:
      ValueError: if there is no such index, or it is another than Orbax writes.
      LookupError: likewise.
      OSError: if it cannot be read.
    """
    path = folder / "manifest.ocdbt"
    size = min(path.stat().st_size, _MAX_MANIFEST_BYTES)
    base, root = _root(_Body.of(_read(path, Extent(0, size)), _MANIFEST, _MAX_MANIFEST_BYTES))
    if root.extent.size > _MAX_NODE_BYTES:
        raise ValueError("the node is too large")
    node = _read(folder / root.file, root.extent)
    return dict(_entries(_Body.of(node, _NODE, _MAX_NODE_BYTES), base))


def _read(path: Path, extent: Extent) -> bytes:
    if not path.is_file():  # a pipe would never end
        raise ValueError(f"{path} is not a file")
    with path.open("rb") as file:
        file.seek(extent.offset)
        return file.read(extent.size)


class _Body:
    """What a file of the index holds, read from its beginning to its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._bytes = np.frombuffer(data, np.uint8)
        self._at = 0

    @classmethod
    def of(cls, data: bytes, head: bytes, limit: int) -> "_Body":
        """What is between head and checksum, uncompressed if it does not exceed a limit."""
        rest = data[_HEAD_BYTES:-_CHECKSUM_BYTES]
        start = head + len(data).to_bytes(8, "little") + b"\0"  # version 0 of this part
        if data[:_HEAD_BYTES] == start + b"\0":
            return cls(rest)
        if data[:_HEAD_BYTES] == start + b"\1":
            return cls(_uncompressed(rest, limit))
        raise ValueError("it begins or ends otherwise")

    def take(self, count: int) -> bytes:
        """So many bytes."""
        taken = self._data[self._at : self._at + count]
        if len(taken) < count:
            raise ValueError("it ends too early")
        self._at += count
        return taken

    def number(self) -> int:
        """A number, in seven bits a byte, the lowest first."""
        return self.numbers(1)[0]

    def numbers(self, count: int) -> list[int]:
        """So many numbers."""
        if count < 1:
            return []
        window = self._bytes[self._at : self._at + count * _MAX_NUMBER_BYTES]
        ends = np.flatnonzero(window < 0x80)[:count] + 1
        if len(ends) < count:
            raise ValueError("it ends too early, or has a number of more than 64 bits")
        starts = np.concatenate([[0], ends[:-1]])
        within = np.arange(ends[-1]) - np.repeat(starts, ends - starts)
        bits = window[: ends[-1]].astype(np.uint64) & 0x7F
        if within.max() >= _MAX_NUMBER_BYTES or (bits[within == _MAX_NUMBER_BYTES - 1] > 1).any():
            raise ValueError("it has a number of more than 64 bits")
        parts = bits << (7 * within).astype(np.uint64)
        self._at += int(ends[-1])
        found: list[int] = np.add.reduceat(parts, starts).tolist()
        return found

    def texts(self, count: int, between: int = 0) -> tuple[list[bytes], list[list[int]]]:
        """Texts of which each has a beginning in common with the one before it.

        Args:
          count: how many.
          between: how many numbers for each stand between their lengths and their ends.

        Returns:
          The texts, and these numbers, one list for all texts after the other.
        """
        shared = [0, *self.numbers(count - 1)][:count]
        lengths = self.numbers(count)
        if sum(shared) + sum(lengths) > _MAX_NODE_BYTES:
            raise ValueError("its keys are too large")
        numbers = [self.numbers(count) for _ in range(between)]
        found: list[bytes] = []
        for common, length in zip(shared, lengths, strict=True):
            last = found[-1] if found else b""
            if common > len(last):
                raise ValueError("a key has more in common with another than that has")
            found.append(last[:common] + self.take(length))
        return found, numbers

    def files(self) -> list[tuple[str, str]]:
        """The files that are told of, each with the part of its path that is their users' too."""
        paths, (bases,) = self.texts(self.number(), between=1)
        return [
            (path[:size].decode(), path.decode()) for path, size in zip(paths, bases, strict=True)
        ]

    def end(self) -> None:
        """Raises ValueError if there is more."""
        if self._at != len(self._data):
            raise ValueError("it goes on after its end")


def _uncompressed(data: bytes, limit: int) -> bytes:
    try:
        with zstandard.ZstdDecompressor().stream_reader(data) as stream:
            found = stream.read(limit + 1)
    except zstandard.ZstdError as error:
        raise ValueError(f"it is not what zstd compresses to: {error}") from error
    if len(found) > limit:
        raise ValueError("it is too large")
    return found


def _place(file: str, offset: int, size: int) -> Place:
    if not _FILE.fullmatch(file) or offset + size >= 2**63:
        raise ValueError(f"it tells of byte {offset} of the file {file!r}")
    return Place(file, Extent(offset, size))


def _root(manifest: _Body) -> tuple[str, Place]:
    """Where the one node of the newest version is, and where the files that it tells of begin."""
    manifest.take(16)  # the id of the database
    kind, _, _ = manifest.numbers(3)  # how large values and nodes may be is the writer's concern
    manifest.take(1)
    compression = manifest.number()
    if kind or compression not in (0, 1):
        raise ValueError("it is of another kind")
    manifest.take(4 * compression)  # the level of zstd
    files = manifest.files()
    count = manifest.number()
    manifest.numbers(count)
    heights = manifest.take(count)
    numbers, offsets, sizes = (manifest.numbers(count) for _ in range(3))
    if not count or heights[-1]:
        raise ValueError("it has no node, or more than one")
    base, file = files[numbers[-1]]
    return base, _place(file, offsets[-1], sizes[-1])


def _entries(node: _Body, base: str) -> Iterator[tuple[str, Place | bytes]]:
    """The keys of a node, each with its value or the place of it."""
    if node.take(1) != b"\0":
        raise ValueError("there are nodes below it")
    files = [base + path for _, path in node.files()]
    count = node.number()
    if count > _MAX_ENTRIES:
        raise ValueError("it has too many keys")
    keys, _ = node.texts(count)
    if any(one >= other for one, other in pairwise(keys)):
        raise ValueError("its keys are not in order")
    sizes, kinds = node.numbers(count), node.numbers(count)
    if not set(kinds) <= {0, 1}:
        raise ValueError("it has a value of another kind")
    lying = [size for size, kind in zip(sizes, kinds, strict=True) if kind]
    numbers, offsets = node.numbers(len(lying)), node.numbers(len(lying))
    places = zip(numbers, offsets, strict=True)
    for key, size, kind in zip(keys, sizes, kinds, strict=True):
        if kind:
            number, offset = next(places)
            yield key.decode(), _place(files[number], offset, size)
        else:
            yield key.decode(), node.take(size)
    node.end()
