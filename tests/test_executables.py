"""The cache of compiled programs: found again by another process, and never in anybody's way."""

import json
import os
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exporter.runtime import executables
from exporter.runtime.executables import ExecutableCache, cache_of, key_of

# What a process needs to find the programs below by itself.
PROGRAM = """
import sys
from pathlib import Path

import jax
import numpy as np

from exporter.runtime.executables import ExecutableCache, key_of

folder = Path(sys.argv[1])
with np.load(folder / "data.npz") as data:
    for name in data["names"]:
        takes = [jax.numpy.asarray(a) for a in (data[f"{name}/x"], data[f"{name}/y"])]
        compiled = ExecutableCache(folder / "cache").get(
            key_of({"program": str(name)}, jax.devices()), jax.devices(), 2, 1
        )
        (result,) = compiled(*takes)
        np.testing.assert_array_equal(result, data[f"{name}/result"], str(name), strict=True)
        print(name, *(array.is_deleted() for array in takes))
"""

TABLE = np.random.default_rng(0).normal(size=(64, 64)).astype("float32")
X = np.random.default_rng(1).normal(size=(64, 64)).astype("float32")


def eigenvalues(x, y):
    return [jnp.linalg.eigvalsh(x @ x.T) + jnp.linalg.inv(y)[0]]


def ordered(x, y):
    return [jnp.sort(x)[:, :3] + jnp.argsort(y)[:, :3]]


def drawn(x, y):
    return [x + jax.random.normal(jax.random.key(3), y.shape)]


def looked_up(x, y):
    return [x + y @ TABLE]


def small(x, y):
    return [(x.astype("float8_e4m3fn") * 2).astype("float32") + y.astype("int4").astype("int32")]


def doubled(x):
    return [x * 2]


def compiled(function, *arrays, **options):
    return jax.jit(function, **options).lower(*arrays).compile()


def cached(cache, key="key"):
    """What the cache holds, called."""
    found = cache.get(key, jax.devices()[:1], 1, 1)
    return None if found is None else found(jnp.arange(3.0))[0].tolist()


def has(cache, key):
    return cache._file(key).exists()


@pytest.fixture
def cache(tmp_path):
    """A cache that holds a program which doubles three numbers."""
    cache = ExecutableCache(tmp_path / "cache")
    cache.put("key", compiled(doubled, jnp.arange(3.0)))
    assert cached(cache) == [0, 2, 4]
    return cache


def only_file(cache: ExecutableCache) -> Path:
    (file,) = cache.folder.iterdir()
    return file


def test_another_process_finds_what_was_compiled_here(tmp_path, elsewhere):
    functions = [eigenvalues, ordered, drawn, looked_up, small]
    data = {"names": np.array([function.__name__ for function in functions])}
    for function in functions:
        name = function.__name__
        program = compiled(function, X, TABLE, donate_argnums=[0] if function is drawn else [])
        key = key_of({"program": name}, jax.devices())
        ExecutableCache(tmp_path / "cache").put(key, program)
        (result,) = jax.jit(function)(X, TABLE)
        data |= {f"{name}/x": X, f"{name}/y": TABLE, f"{name}/result": np.asarray(result)}
    np.savez(tmp_path / "data.npz", **data)
    found = dict(line.split(maxsplit=1) for line in elsewhere(PROGRAM, tmp_path).splitlines())
    assert sorted(found) == sorted(data["names"])
    assert found["drawn"] == "True False"  # its first argument was donated
    assert found["ordered"] == "False False"


def test_files_and_folder_are_this_users_alone(cache):
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert only_file(cache).stat().st_mode & 0o777 == 0o600


def cut(content: bytes) -> bytes:
    return content[:-1]


def flipped(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


def of_another_key(content: bytes) -> bytes:
    return content.replace(b"\nkey\n", b"\nkez\n")


@pytest.mark.parametrize("damage", [cut, flipped, of_another_key, lambda _: b"", os.urandom])
def test_a_damaged_entry_is_removed_and_written_anew(cache, damage):
    file = only_file(cache)
    content = file.read_bytes()
    file.write_bytes(damage(content) if damage is not os.urandom else os.urandom(2000))
    assert cached(cache) is None
    assert not file.exists()
    cache.put("key", compiled(doubled, jnp.arange(3.0)))
    assert cached(cache) == [0, 2, 4]


def test_a_sound_entry_that_does_not_load_is_removed(cache):
    file = only_file(cache)
    file.write_bytes(executables._framed("key", b"no pickle"))
    assert cached(cache) is None
    assert not file.exists()


@pytest.mark.parametrize("what", ["file", "folder"])
@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_what_others_can_write_to_is_not_read(cache, what, mode):
    path = cache.folder if what == "folder" else only_file(cache)
    path.chmod(mode)
    assert cached(cache) is None
    assert (cache.problem() is None) == (what == "file")
    path.chmod(0o700)
    assert cached(cache) == [0, 2, 4]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_belongs_to_another_user_is_not_read(cache, what, monkeypatch):
    path = cache.folder if what == "folder" else only_file(cache)
    if os.getuid() == 0:
        os.chown(path, 65534, -1)
    else:  # only root can give a file away, so we are somebody else instead
        monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
    assert cached(cache) is None


def test_an_entry_that_is_no_file_is_not_waited_for(cache):
    file = only_file(cache)
    file.unlink()
    os.mkfifo(file, 0o600)
    assert cached(cache) is None


def test_where_nothing_can_be_written_nothing_is_kept_and_nothing_raised(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    cache = ExecutableCache(tmp_path / "file" / "cache")
    cache.put("key", compiled(doubled, jnp.arange(3.0)))
    assert cached(cache) is None
    assert "file/cache cannot be made or read: Not a directory" in cache.problem()
    monkeypatch.setattr(Path, "home", lambda: Path("~no such user").expanduser())
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_of(True) is None


def test_a_program_that_calls_python_is_not_kept(tmp_path):
    def called_back(x):
        return [jax.pure_callback(np.sin, jax.ShapeDtypeStruct((3,), "float32"), x)]

    cache = ExecutableCache(tmp_path / "cache")
    cache.put("key", compiled(called_back, jnp.arange(3.0)))
    assert cached(cache) is None
    assert not cache.folder.exists()


def test_nothing_is_kept_where_jax_keeps_it_already(cache, monkeypatch):
    program = compiled(doubled, jnp.arange(3.0))
    jax.config.update("jax_compilation_cache_dir", str(cache.folder))
    try:
        assert not cache.put("other", program)
        assert "jax_compilation_cache_dir" in cache.problem()
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
    assert cache.put("other", program)


def test_what_was_not_used_for_longest_goes_first(cache):
    size = only_file(cache).stat().st_size
    cache.max_bytes = 4 * size
    program = compiled(doubled, jnp.arange(3.0))
    for age, name in enumerate("cba"):
        cache.put(name, program)
        os.utime(cache._file(name), (0, 100 - age))
    assert cached(cache, "a") == [0, 2, 4]  # and so it is the last but one now
    part = cache.folder / ".0123.executable.part"
    part.touch()
    os.utime(part, (0, 0))
    cache.put("d", program)
    cache.put("e", program)
    assert [name for name in ("key", *"abcde") if has(cache, name)] == ["key", "a", "d", "e"]
    assert not part.exists()
    cache.max_bytes = size // 2
    cache.put("f", program)  # it alone is too large
    assert not has(cache, "f")
    assert has(cache, "e")


def test_writers_readers_and_removers_at_once_see_whole_entries(tmp_path):
    program = compiled(doubled, jnp.arange(3.0))
    failures = []

    def work(number):
        cache = ExecutableCache(tmp_path / "cache", max_bytes=20_000)  # two entries or three
        try:
            for turn in range(20):
                key = str((turn + number) % 4)
                assert cached(cache, key) in (None, [0, 2, 4])
                cache.put(key, program)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] in (
        [".executable"] * n for n in (1, 2, 3)
    )


def test_each_thing_that_an_executable_depends_on_is_in_the_key(monkeypatch):
    devices = jax.devices()
    keys = [key_of({"program": "a"}, devices), key_of({"program": "b"}, devices)]
    for name, value in (
        ("XLA_FLAGS", "--xla_cpu_enable_fast_math=true"),
        ("LIBTPU_INIT_ARGS", "-a"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, f"{os.environ.get(name, '')} {value}")
            keys.append(key_of({"program": "a"}, devices))
    with jax.enable_x64():
        keys.append(key_of({"program": "a"}, devices))
    for where, name, value in (
        (jax, "__version__", "0.1"),
        (executables, "topology_fingerprint", lambda _: "1"),
        (executables, "_code", lambda: "1"),
        (executables, "_processor", lambda: ("flags: avx512f",)),
        (os, "sched_getaffinity", lambda _: range(1000)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, value)
            keys.append(key_of({"program": "a"}, devices))
    assert len(set(keys)) == len(keys)
    assert key_of({"program": "a"}, devices) == keys[0]
    assert jax.lib.__version__ in json.loads(keys[0])["jaxlib"]


def test_the_folder_is_the_users_own_unless_told_otherwise(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_of(True).folder == tmp_path / "jax-exporter" / "executables"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_of(True).folder == Path.home() / ".cache/jax-exporter/executables"
    assert cache_of(False) is None
    monkeypatch.chdir(tmp_path)
    assert cache_of("here").folder == tmp_path / "here"
