"""Files in blocks: each extent comes as it lies in the file, and the digest is of all of it."""

import random

import blake3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.artifact import blocks
from exporter.artifact.blocks import Extent, read


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)
    monkeypatch.setattr(blocks, "_PIECE_BYTES", 300)


def extents_of(cuts: list[int], size: int) -> list[Extent]:
    """Every second stretch between the cuts."""
    edges = sorted({min(cut, size) for cut in cuts})
    pairs = zip(edges[::2], edges[1::2], strict=False)
    return [Extent(start, stop - start) for start, stop in pairs]


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 700), st.lists(st.integers(0, 700), max_size=12), st.booleans())
def test_extents_are_what_lies_in_the_file(tmp_path, size, cuts, digested):
    data = random.Random(size).randbytes(size)
    (tmp_path / "f").write_bytes(data)
    extents = extents_of(cuts, size)
    hasher = blake3.blake3() if digested else None
    found = list(read(tmp_path / "f", size, extents, hasher))
    assert [one.tobytes() for one in found] == [data[one.offset : one.end] for one in extents]
    assert all(one.ctypes.data % 64 == 0 for one in found)
    if hasher is not None:
        assert hasher.digest() == blake3.blake3(data).digest()


def test_neighbours_in_a_file_do_not_share_bytes_in_memory(tmp_path):
    (tmp_path / "f").write_bytes(bytes(range(200)))
    first, second = read(tmp_path / "f", 200, [Extent(0, 100), Extent(100, 100)])
    first[:] = 0
    assert second.tobytes() == bytes(range(100, 200))


def test_a_file_that_is_shorter_than_it_was_is_not_read(tmp_path):
    (tmp_path / "f").write_bytes(bytes(100))
    with pytest.raises(OSError, match="it ends after 100 bytes"):
        list(read(tmp_path / "f", 300, [Extent(0, 300)]))
