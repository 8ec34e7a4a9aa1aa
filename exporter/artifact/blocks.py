"""Files read in blocks: several threads read ahead, and a digest takes the blocks in order.

Each block is digested while the processor's cache still has it, and what is to be kept of it goes
straight to the buffer that keeps it. So a large file is read once, by all cores, and what has been
digested and what is kept are the same bytes, whatever happens to the file meanwhile.

Files are read, not mapped: a mapped file that is cut short, or whose disk fails, ends the process
with SIGBUS, and one that is changed would change the arrays.
"""

import errno
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import blake3
import numpy as np

# Large enough to be worth a thread and to share its digest among threads, small enough that those
# of all threads lie in a processor's cache.
BLOCK_BYTES = 2 * 2**20

# How many blocks are read at once. One more is being digested, by as many threads as there are.
_READERS = min(os.cpu_count() or 1, 8)

# Arrays of up to this size share a piece of memory, since the system gives large pieces in large
# pages, which is twice as fast. The piece is freed with the last of them.
_PIECE_BYTES = 32 * 2**20

# With this alignment JAX takes an array on the host as it is, without a copy.
_ALIGNMENT = 64


@dataclass(frozen=True, order=True)
class Extent:
    """A part of a file, which is not empty."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        """The offset of what comes after it."""
        return self.offset + self.size


@dataclass(frozen=True)
class _Block:
    """A stretch of a file, the memory that it is read to, and what becomes of it there.

    Attributes:
      offset: of its first byte in the file.
      data: the memory.
      copies: buffers, each with the place in `data` of the bytes that are copied to it.
      ended: the buffers that are full once this block is there.
      is_gap: whether nothing of it is kept.
    """

    offset: int
    data: np.ndarray
    copies: Sequence[tuple[np.ndarray, int]] = ()
    ended: Sequence[np.ndarray] = ()
    is_gap: bool = False


def digest(path: Path) -> str:
    """The BLAKE3 digest of a file's content."""
    size = path.stat().st_size
    hasher = new_hasher(size)
    if size <= BLOCK_BYTES:
        with path.open("rb", buffering=0) as file:
            return hasher.update(file.read(size)).hexdigest()
    for _ in read(path, size, (), hasher):
        pass
    return hasher.hexdigest()


def new_hasher(size: int) -> blake3.blake3:
    """A BLAKE3 digest for so many bytes, by all cores if that is worth while."""
    return blake3.blake3(max_threads=blake3.blake3.AUTO if size > BLOCK_BYTES else 1)


def read(
    path: Path, size: int, extents: Sequence[Extent], hasher: blake3.blake3 | None = None
) -> Iterator[np.ndarray]:
    """What is in each extent, in a buffer of its own.

    Args:
      path: the file.
      size: how many bytes it has.
      extents: in ascending order. None overlaps another or ends beyond `size`.
      hasher: what takes the whole file in order. If `None`, only the extents are read.

    Yields:
      uint8[size of the extent] for each, in their order, as soon as it is full.

    Raises:
      OSError: if the file cannot be read, or has fewer than `size` bytes.
    """
    ahead: deque[tuple[_Block, Future[None]]] = deque()
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(_READERS) as pool:
        for block in _blocks(size, extents):
            if hasher is None and block.is_gap:
                continue
            ahead.append((block, pool.submit(_fill, file.fileno(), block)))
            if len(ahead) > _READERS:
                yield from _taken(*ahead.popleft(), hasher)
        while ahead:
            yield from _taken(*ahead.popleft(), hasher)


def _fill(descriptor: int, block: _Block) -> None:
    filled = 0
    while filled < block.data.size:
        count = os.preadv(descriptor, [block.data[filled:].data], block.offset + filled)
        if not count:
            raise OSError(errno.EIO, f"it ends after {block.offset + filled:,} bytes")
        filled += count


def _taken(
    block: _Block, filling: Future[None], hasher: blake3.blake3 | None
) -> Sequence[np.ndarray]:
    filling.result()
    if hasher is not None:
        hasher.update(block.data.data)
    for buffer, start in block.copies:
        buffer[:] = block.data[start : start + buffer.size]
    return block.ended


def _blocks(size: int, extents: Sequence[Extent]) -> Iterator[_Block]:
    """The whole file in order. Large extents are read to their buffers, small ones copied there."""
    start = 0
    small: deque[tuple[Extent, np.ndarray]] = deque()
    for extent, buffer in zip(extents, _buffers([one.size for one in extents]), strict=True):
        if extent.size < BLOCK_BYTES:
            small.append((extent, buffer))
        else:
            yield from _gathered(start, extent.offset, small)
            yield from _direct(extent, buffer)
            start = extent.end
    yield from _gathered(start, size, small)


def _direct(extent: Extent, buffer: np.ndarray) -> Iterator[_Block]:
    for start in range(0, extent.size, BLOCK_BYTES):
        data = buffer[start : start + BLOCK_BYTES]
        is_last = start + BLOCK_BYTES >= extent.size
        yield _Block(extent.offset + start, data, ended=[buffer] if is_last else ())


def _gathered(start: int, stop: int, small: deque[tuple[Extent, np.ndarray]]) -> Iterator[_Block]:
    """The stretch from `start` to `stop`, with the extents in it, none of them cut."""
    while start < stop:
        end = min(start + BLOCK_BYTES, stop)
        found = []
        while small and small[0][0].end <= end:
            found.append(small.popleft())
        if small and small[0][0].offset < end:
            end = small[0][0].offset
        data = np.empty(end - start, np.uint8)
        copies = [(buffer, extent.offset - start) for extent, buffer in found]
        ended = [buffer for _, buffer in found]
        yield _Block(start, data, copies, ended, is_gap=not found)
        start = end


def _buffers(sizes: Sequence[int]) -> Iterator[np.ndarray]:
    """Memory for each of the sizes, that of neighbours out of one piece which is not too large."""
    aligned = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
    first = 0
    while first < len(sizes):
        last, total = first + 1, aligned[first]
        while last < len(sizes) and total + aligned[last] <= _PIECE_BYTES:
            total += aligned[last]
            last += 1
        memory = np.empty(total + _ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % _ALIGNMENT
        for number in range(first, last):
            yield memory[start : start + sizes[number]]
            start += aligned[number]
        first = last
