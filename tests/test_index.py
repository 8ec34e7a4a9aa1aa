"""The index of a checkpoint, as TensorStore itself tells it; whatever else it may be is refused."""

import re
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorstore as ts
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.artifact import index
from exporter.artifact.blocks import Extent
from exporter.artifact.index import Place, read_index
from exporter.artifact.variables import read_variables, variable_record, write_variables

HERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
PLACE = re.compile(r"value:((?:ocdbt\.process_[0-9]+/)?):(d/[0-9a-f]{32}):([0-9]+):([0-9]+)")


def database(folder: Path, **config: object) -> ts.KvStore:
    """A new one in a folder, with no other cache than its own."""
    base = {"driver": "file", "path": f"{folder}/"}
    return ts.KvStore.open({"driver": "ocdbt", "base": base, "config": config}).result()


def told(folder: Path) -> dict[str, Place | bytes]:
    """What TensorStore tells of the newest version."""
    base = ts.KvStore.open({"driver": "file", "path": f"{folder}/"}).result()
    root = ts.ocdbt.dump(base).result()["versions"][-1]["root"]["location"]
    values = {}
    for entry in ts.ocdbt.dump(base, root).result()["entries"]:
        value = entry.get("inline_value")
        if value is None:
            part, file, offset, size = PLACE.fullmatch(entry["indirect_value"]).groups()
            value = Place(part + file, Extent(int(offset), int(size)))
        values[entry["key"].decode()] = value
    return values


def saved(folder: Path, count: int) -> list:
    """Arrays of all sizes, and the records of them."""
    arrays = [np.full(1 + number * number, number, np.float32) for number in range(count)]
    records = [
        variable_record((f"v{n}", "w"), "float32", a.shape, trainable=True, collection="array")
        for n, a in enumerate(arrays)
    ]
    write_variables(folder, records, arrays)
    return records


def test_it_is_what_tensorstore_tells_of_what_orbax_wrote(tmp_path):
    saved(tmp_path, 60)
    found = read_index(tmp_path / "variables")
    assert found == told(tmp_path / "variables")
    assert {type(value) for value in found.values()} == {bytes, Place}


@settings(max_examples=20, deadline=None)
@given(
    st.dictionaries(st.text(max_size=12), st.binary(max_size=200), min_size=1, max_size=20),
    st.sampled_from([None, {"id": "zstd"}]),
    st.sampled_from([0, 3, 1024]),
)
def test_it_is_what_tensorstore_tells_of_any_keys_and_values(tmp_path_factory, items, how, inline):
    folder = tmp_path_factory.mktemp("index")
    store = database(folder, compression=how, max_inline_value_bytes=inline)
    for key, value in items.items():  # every one is a version of its own
        store.write(key.encode(), value).result()
    found = read_index(folder)
    assert found == told(folder)
    assert found.keys() == items.keys()
    for key, value in found.items():
        if isinstance(value, Place):
            data = (folder / value.file).read_bytes()
            assert data[value.extent.offset : value.extent.end] == items[key]
        else:
            assert value == items[key]


def test_a_tree_of_several_nodes_is_left_to_tensorstore(tmp_path):
    store = database(tmp_path, max_decoded_node_bytes=100)
    for number in range(20):
        store.write(f"key {number}", b"x" * 20).result()
    with pytest.raises(ValueError, match="more than one"):
        read_index(tmp_path)


@settings(max_examples=150, deadline=None)
@given(
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_an_index_with_any_damage_is_refused_or_names_files_of_the_checkpoint(
    tmp_path_factory, is_node, damages
):
    folder = tmp_path_factory.mktemp("index")
    store = database(folder, compression=None, max_inline_value_bytes=8)
    for number in range(3):
        store.write(f"key {number}/.zarray", b"x" * 6 * number).result()
    node = root_of(folder)
    path = folder / (node.file if is_node else "manifest.ocdbt")
    start = node.extent.offset if is_node else 0
    content = bytearray(path.read_bytes())
    for place, byte in damages:
        content[start + place % (len(content) - start)] = byte
    path.write_bytes(content)
    try:
        found = read_index(folder)
    except (ValueError, LookupError, OSError):
        return
    places = [value for value in found.values() if isinstance(value, Place)]
    assert all(re.fullmatch(r"(ocdbt\.process_\d+/)?d/[0-9a-f]{32}", one.file) for one in places)


def root_of(folder: Path) -> Place:
    base = ts.KvStore.open({"driver": "file", "path": f"{folder}/"}).result()
    location = ts.ocdbt.dump(base).result()["versions"][-1]["root"]["location"]
    file, offset, size = location.removeprefix("btreenode::").split(":")
    return Place(file, Extent(int(offset), int(size)))


def packed(body: bytes) -> bytes:
    """A node: a body compressed, with what stands before and after it."""
    content = b"\0\1" + zstandard.ZstdCompressor().compress(body)
    size = 12 + len(content) + 4
    return index._NODE + size.to_bytes(8, "little") + content + bytes(4)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (bytes(2 * index._MAX_NODE_BYTES), "too large"),
        (b"\0\0" + b"\xff\xff\xff\xff\x7f", "too many keys"),
        (b"\0\0" + b"\xff" * 20, "64 bits"),
        # Each of these keys has 60,000 bytes in common with the one before it.
        (
            b"\0\0" + b"\x80\x80\x04" + b"\xe0\xd4\x03" * 65535 + b"\xe0\xd4\x03" + b"\1" * 65535,
            "keys are too large",
        ),
    ],
)
def test_a_small_file_that_asks_for_much_memory_is_refused_before(body, message):
    with pytest.raises(ValueError, match=message):
        list(index._entries(index._Body.of(packed(body), index._NODE, index._MAX_NODE_BYTES), ""))


def test_memory_of_an_index_is_given_back(tmp_path):
    records = saved(tmp_path, 50)

    def read(times: int) -> int:
        for _ in range(times):
            read_variables(tmp_path, records, HERE)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = read(3)
        assert read(10) - before < 50_000  # a tenth of what one reference to each part would hold
    finally:
        tracemalloc.stop()
