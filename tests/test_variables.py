"""The variable tree on disk: every dtype and key goes out and comes back, whole or in parts."""

import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporter.artifact import variables
from exporter.artifact.layout import checked_when_read, record_files, verify
from exporter.artifact.records import AS_BYTES
from exporter.artifact.variables import (
    key_of,
    read_variables,
    storage_of,
    variable_record,
    write_variables,
)
from exporter.errors import ArtifactError

ROOT = Path(__file__).resolve().parent.parent
HERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def record(path, array):
    return variable_record(
        path, array.dtype.name, array.shape, trainable=True, collection="Variable"
    )


def words(array) -> np.ndarray:
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(array) if is_key else array)


def round_trip(folder: Path, arrays: dict[tuple, object]) -> list[jax.Array]:
    records = [record(path, array) for path, array in arrays.items()]
    write_variables(folder, records, list(arrays.values()))
    return read_variables(folder, records, HERE)


# Keys.


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (("layers", 0, "kernel"), ("layers", "0", "kernel")),
        (("a.b",), ("a%2Eb",)),
        (("..", "."), ("%2E%2E", "%2E")),
        (("100%", "%2E"), ("100%25", "%252E")),
        (("",), ("%",)),
        (("%",), ("%25",)),
        (("mlp/~/linear_0", "w"), ("mlp/~/linear_0", "w")),
        (("/etc/passwd",), ("%2Fetc/passwd",)),
        (("a/",), ("a%2F",)),
        (("a//b",), ("a%2F/b",)),
        (("/",), ("%2F",)),
        (("//",), ("%2F%2F",)),
        ((1.5, True, None), ("1%2E5", "True", "None")),
        (("größe", "a b", "\n"), ("größe", "a b", "\n")),
    ],
)
def test_a_path_is_a_key_without_dots_and_nameless_folders(path, key):
    assert key_of(path) == key


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("./%aé", max_size=5), min_size=1, max_size=3))
@example(["", "%", "%25", "/", "//a//", "."])
def test_every_path_has_a_key_of_its_own_that_the_manifest_takes(parts):
    from exporter.artifact.soundness import _PART

    key = key_of(parts)
    assert all(_PART.fullmatch(part) for part in key)

    def undone(part: str) -> str:
        part = "" if part == "%" else part
        return part.replace("%2F", "/").replace("%2E", ".").replace("%25", "%")

    assert [undone(part) for part in key] == parts


def test_odd_keys_are_written_and_read(tmp_path):
    paths = [("a.b",), ("a", "b"), ("",), ("/",), ("c/d",), ("c", "d"), ("..",), ("\n\0",), ("%",)]
    paths += [(0,), ("x" * 300,), ("größe",), ("a//b", "//"), ("[0]", "{}"), ("'\"",)]
    arrays = {path: jnp.float32(number) for number, path in enumerate(paths)}
    assert [float(array) for array in round_trip(tmp_path, arrays)] == list(range(len(paths)))


# Types.

NAMES = (
    *("bool", "int8", "int16", "int32", "uint8", "uint16", "uint32", "float16", "float32"),
    *("complex64", "bfloat16", "int4", "uint4", "int2", "uint2", "float8_e3m4", "float8_e4m3"),
    *("float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2"),
    *("float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn"),
)


def array_of(name: str, shape: tuple[int, ...]) -> jax.Array:
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    return jnp.asarray((np.arange(math.prod(shape)) % 2).reshape(shape).astype(dtype))


def test_every_dtype_and_rank_is_written_and_read(tmp_path):
    shapes = {"scalar": (), "vector": (5,), "matrix": (3, 2), "empty": (2, 0, 3)}
    arrays = {(n, kind): array_of(n, shape) for n in NAMES for kind, shape in shapes.items()}
    for kind in ("threefry2x32", "rbg", "unsafe_rbg"):
        arrays["key", kind] = jax.random.key(7, impl=kind)
        arrays["keys", kind] = jax.random.split(jax.random.key(7, impl=kind), 6).reshape(2, 3)
        arrays["no keys", kind] = jax.random.split(jax.random.key(7, impl=kind), 6)[:0]
    for (path, array), found in zip(arrays.items(), round_trip(tmp_path, arrays), strict=True):
        assert (found.dtype, found.shape) == (array.dtype, array.shape), path
        assert words(found).tobytes() == words(array).tobytes(), path
        assert found.committed, path


@pytest.mark.parametrize(
    ("dtype", "shape", "storage"),
    [
        ("float32", (), "array"),
        ("float32", (2, 0), "empty"),
        ("key<fry>", (2,), "array"),
        ("key<fry>", (0,), "empty"),
        ("int4", (3,), "array"),
        ("uint4", (3,), "bytes"),
        ("uint4", (0,), "empty"),
        ("float8_e4m3", (3,), "bytes"),
    ],
)
def test_an_array_is_kept_as_tensorstore_can(dtype, shape, storage):
    assert storage_of(dtype, shape) == storage


def test_what_is_kept_as_bytes_is_what_tensorstore_lacks():
    import tensorstore as ts

    def is_known(name: str) -> bool:
        try:
            ts.dtype(name)
        except (TypeError, ValueError):
            return False
        return True

    assert not any(map(is_known, AS_BYTES))
    assert all(is_known(name) for name in set(NAMES) - AS_BYTES)


def test_arrays_of_numpy_are_as_wide_as_the_manifest_says(tmp_path):
    wide = np.arange(3.0)
    narrow = variable_record(("w",), "float32", (3,), trainable=True, collection="array")
    write_variables(tmp_path, [narrow], [wide])
    (found,) = read_variables(tmp_path, [narrow], HERE)
    assert (found.dtype, found.tolist()) == (np.float32, [0, 1, 2])


def test_arrays_in_any_order_in_memory_are_the_same_on_disk(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    arrays = {("f",): np.asfortranarray(array), ("s",): array[::-1, :, ::2]}
    one, other = round_trip(tmp_path, arrays)
    np.testing.assert_array_equal(one, array)
    np.testing.assert_array_equal(other, array[::-1, :, ::2])


def test_nothing_to_store_makes_no_folder(tmp_path):
    (found,) = round_trip(tmp_path, {("e",): jnp.zeros((0, 2))})
    assert found.shape == (0, 2)
    assert read_variables(tmp_path, [], HERE) == []
    assert list(tmp_path.iterdir()) == []


# Reading.


def test_every_array_that_is_wrong_is_named(tmp_path):
    arrays = {(name,): jnp.zeros(3) for name in "abc"}
    round_trip(tmp_path, arrays)
    records = [
        record(("a",), jnp.zeros(4)),
        record(("b",), jnp.zeros(3)),
        record(("c",), jnp.zeros(3, jnp.int32)),
        record(("d", "e"), jnp.zeros(3)),
        record(("f",), jnp.zeros(3, jnp.uint4)),
    ]
    with pytest.raises(ArtifactError) as caught:
        read_variables(tmp_path, records, HERE)
    assert str(caught.value) == (
        f"{tmp_path}/variables does not hold the arrays of the manifest:\n"
        "  a: expected float32[4], found float32[3]\n"
        "  c: expected int32[3], found float32[3]\n"
        '  d/e: Metadata at "d.e/.zarray" does not exist\n'
        '  f: Metadata at "f/.zarray" does not exist'
    )
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["a", "c", "d/e", "f"]


def test_ten_wrong_arrays_are_shown_and_the_others_counted(tmp_path):
    records = [record((f"v{number:02}",), jnp.zeros(3)) for number in range(13)]
    with pytest.raises(ArtifactError) as caught:
        read_variables(tmp_path, records, HERE)
    lines = str(caught.value).splitlines()
    assert [line[:5] for line in lines[1:11]] == [f"  v{number:02}" for number in range(10)]
    assert lines[11:] == ["  and 3 more"]
    assert len(caught.value.problems) == 13


@pytest.mark.parametrize("read_ahead_bytes", [0, 1, 100, 10**9])
def test_however_far_is_read_ahead_all_arrays_come_in_order(tmp_path, read_ahead_bytes):
    arrays = {(f"v{n}",): jnp.full((n,), n, jnp.float32) for n in range(20)}
    records = [record(path, array) for path, array in arrays.items()]
    write_variables(tmp_path, records, list(arrays.values()))
    found = read_variables(tmp_path, records, HERE, read_ahead_bytes=read_ahead_bytes)
    assert [array.tolist() for array in found] == [[n] * n for n in range(20)]


def by_tensorstore(monkeypatch) -> list[str]:
    """The keys of the arrays for which TensorStore is asked from now on."""
    asked = []
    spec = variables._spec
    monkeypatch.setattr(
        variables, "_spec", lambda folder, one: asked.append("/".join(one.key)) or spec(folder, one)
    )
    return asked


def test_an_array_of_any_dtype_lies_in_the_files_as_it_is(tmp_path, monkeypatch):
    asked = by_tensorstore(monkeypatch)
    arrays = {(n, size): array_of(n, (size,)) for n in NAMES for size in (3, 5000)}
    arrays["key", 3] = jax.random.split(jax.random.key(7), 3)
    for (path, array), found in zip(arrays.items(), round_trip(tmp_path, arrays), strict=True):
        assert words(found).tobytes() == words(array).tobytes(), path
    assert asked == []
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("d/*"))
    assert all(words(a).tobytes() in stored for (_, size), a in arrays.items() if size == 5000)


@pytest.mark.parametrize("options", [{}, {"use_compression": False, "use_zarr3": False}])
def test_what_orbax_wrote_otherwise_is_read_by_tensorstore(tmp_path, monkeypatch, options):
    import orbax.checkpoint as ocp

    asked = by_tensorstore(monkeypatch)
    array = np.arange(6000, dtype=np.float32).reshape(2, 3000)
    arguments = {"w": ocp.SaveArgs(chunk_byte_size=12000)}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
        checkpointer.save(tmp_path / "variables", {"w": array}, save_args=arguments)
    (found,) = read_variables(tmp_path, [record(("w",), array)], HERE)
    np.testing.assert_array_equal(found, array)
    assert asked == ["w"]


def large(folder: Path) -> tuple[list, Path]:
    """Two arrays in a file that is digested as it is read; the manifest's entries, and the file."""
    arrays = {(name,): np.full(2**19, number, np.float32) for number, name in enumerate("ab")}
    records = [record(path, array) for path, array in arrays.items()]
    write_variables(folder, records, list(arrays.values()))
    return records, max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)


def test_a_large_file_that_was_altered_is_named_when_it_is_read(tmp_path):
    records, path = large(tmp_path)
    files = record_files(tmp_path)
    found = read_variables(tmp_path, records, HERE, files=files)
    assert [array[7] for array in found] == [0, 1]
    with path.open("r+b") as file:
        file.seek(2**20)
        file.write(b"x")
    read_variables(tmp_path, records, HERE)
    with pytest.raises(
        ArtifactError, match=r"1 of [0-9]+ files are wrong:\n  [a-z0-9_./]+: altered"
    ):
        read_variables(tmp_path, records, HERE, files=files)
    for folder in tmp_path.rglob("d"):
        for other in folder.iterdir():
            other.write_bytes(other.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=" files are wrong"):
        verify(tmp_path, files, late=checked_when_read(files))


def test_a_file_too_short_for_its_arrays_is_refused(tmp_path):
    records, path = large(tmp_path)
    with path.open("r+b") as file:
        file.truncate(2**20)
    with pytest.raises(ArtifactError, match="does not hold the arrays of the manifest:\n  "):
        read_variables(tmp_path, records, HERE)


# On more devices than this process has.
ON_A_MESH = """
import sys
from pathlib import Path
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding
from exporter.artifact.variables import read_variables, variable_record, write_variables

folder = Path(sys.argv[1])
arrays = {
    "f": np.arange(32, dtype=np.float32).reshape(8, 4),
    "u": (np.arange(16) % 16).astype("uint4").reshape(8, 2),
    "k": jax.random.split(jax.random.key(1), 8),
    "e": np.zeros((8, 0), np.float32),
}
records = [
    variable_record((name,), array.dtype.name, array.shape, trainable=True, collection="")
    for name, array in arrays.items()
]
write_variables(folder, records, list(arrays.values()))
mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto, AxisType.Auto))
specs = [PartitionSpec(), PartitionSpec("x"), PartitionSpec(("x", "y"))]
for sharding in [SingleDeviceSharding(jax.devices()[5]), *(NamedSharding(mesh, s) for s in specs)]:
    for array, found in zip(arrays.values(), read_variables(folder, records, sharding)):
        assert found.dtype == array.dtype and found.shape == array.shape
        assert found.sharding.device_set == sharding.device_set
        assert found.sharding.is_fully_replicated == sharding.is_fully_replicated
        key = jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key)
        one, other = (np.asarray(jax.random.key_data(v) if key else v) for v in (array, found))
        assert one.tobytes() == other.tobytes()
"""


def test_arrays_are_read_in_the_parts_that_devices_need(tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ON_A_MESH, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
