"""Compiled programs in a folder on this machine, so that the next process need not compile them.

This is a cache: each entry can be made again, so nothing in here is ever an error. What is damaged,
of another key, of another owner, or cannot be loaded is as if it were not there; what cannot be
written is not kept.

An executable fits exactly one setting: the versions of JAX and of its backend, the devices, their
number and kind, the processor's instructions, the flags of the compiler. All of it is in the key,
as text, and the key is in the file: whatever differs is not found.

Loading an executable runs native code, and its frame is a pickle. An entry is therefore read only
if this user or root owns the file and the folder, and nobody else can write to them. Whoever could
change such a file could also change the user's Python.

Several processes share a folder without locks. An entry is written under a name of its own and then
renamed, so others see the whole of it or nothing; whoever has it open goes on reading when it is
replaced or removed.
"""

import contextlib
import functools
import json
import os
import platform
import secrets
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import jax
from jax.experimental import serialize_executable

from exporter.artifact.layout import digest_bytes
from exporter.jax_dispatch import initialize_lapack, topology_fingerprint

# A 12-layer transformer compiled for a CPU takes half a MiB, and one for a GPU some; embedded
# constants add their own size. This holds a thousand programs, and is little beside their weights.
MAX_BYTES = 2**30

_MAGIC = b"jax-exporter executable 1\n"

_SUFFIX = ".executable"

# The first byte of a payload: whether the program calls LAPACK. JAX looks its functions up when it
# lowers a call of them, and a process that only loads what was compiled would crash at the first.
# They are in SciPy, whose import costs more than most programs take to load.
_WITH_LAPACK = b"L"
_WITHOUT_LAPACK = b"-"

# What a process that was killed while it wrote has left behind. No write takes this long.
_ABANDONED_AFTER_S = 3600

# The options of JAX that change what becomes of a program that is StableHLO already. Those that
# change how Python becomes StableHLO have done their part when the program was saved.
_OPTIONS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_use_shardy_partitioner",
    "jax_disable_most_optimizations",
    "jax_optimization_level",
    "jax_memory_fitting_level",
    "jax_exec_time_optimization_effort",
    "jax_memory_fitting_effort",
    "jax_compiler_enable_remat_pass",
    "jax_xla_profile_version",
    "jax_enable_pgle",
    "jax_use_simplified_jaxpr_constants",
    "jax_embedded_constants_max_bytes",
    "jax_cpu_collectives_implementation",
    "jax_cpu_enable_async_dispatch",
    "jax_pjrt_client_create_options",
    "jax_debug_nans",
    "jax_debug_infs",
)

# The variables of the environment that compilers read.
_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "TF_XLA_FLAGS", "NVIDIA_TF32_OVERRIDE")

# The lines of /proc/cpuinfo that say what a processor can do, on x86, Arm and others. The rest is
# its clock, its temperature and which one it is.
_ABILITIES = (
    "vendor_id",
    "cpu family",
    "model",
    "model name",
    "stepping",
    "flags",
    "Features",
    "CPU implementer",
    "CPU architecture",
    "CPU variant",
    "CPU part",
    "isa",
    "cpu",
)


class ExecutableCache:
    """Compiled programs in a folder, by key. Safe under concurrent processes, bounded, no errors.

    Attributes:
      folder: where they lie, a file each. It is made when the first is written.
      max_bytes: how much they take in all. What was not used for longest goes first.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    def get(
        self, key: str, devices: Sequence[jax.Device], inputs: int, outputs: int
    ) -> jax.stages.Compiled | None:
        """The program of that key, or `None` if there is none that can be used.

        Args:
          key: what `key_of` made.
          devices: those to run on, in the order of their mesh.
          inputs: how many arrays it takes, flat and by position.
          outputs: how many it gives, in a list.
        """
        file = self._file(key)
        payload = self._read(file, key)
        if payload is None:
            return None
        try:
            if payload[:1] == _WITH_LAPACK:
                initialize_lapack()
            compiled: jax.stages.Compiled = serialize_executable.deserialize_and_load(
                payload[1:],
                jax.tree.structure(((0,) * inputs, {})),
                jax.tree.structure([0] * outputs),
                devices[0].client,
                devices,
            )
        except Exception:  # noqa: BLE001  # a backend may raise anything; compiling tells the truth
            _remove(file)
            return None
        with contextlib.suppress(OSError):
            os.utime(file)  # it was used now: access times are switched off on many disks
        return compiled

    def put(self, key: str, compiled: jax.stages.Compiled) -> bool:
        """Keep a program for later processes. Gives whether it is kept.

        It must have been compiled here, not read from any cache, and must not have run yet: the
        CPU's compiler gives the whole of a program once. Programs that call back into Python cannot
        be kept, nor those of backends that give none of theirs.
        """
        if self.problem() is not None:
            return False
        try:
            payload, _, _ = serialize_executable.serialize(compiled)
            text = compiled.as_text()
        except Exception:  # noqa: BLE001  # pickle and backends refuse in many ways
            return False
        is_free = text is not None and "lapack" not in text
        content = _framed(key, (_WITHOUT_LAPACK if is_free else _WITH_LAPACK) + payload)
        if len(content) > self.max_bytes:
            return False
        with contextlib.suppress(OSError):  # a full disk, or one that was taken away
            _write(self._file(key), content)
            self._evict()
            return True
        return False

    def problem(self) -> str | None:
        """Why nothing can be kept in the folder, for those who ask for it, or `None`."""
        problem = self.reading_problem()
        if problem is None and not os.access(self.folder, os.W_OK | os.X_OK):
            problem = f"{self.folder} cannot be written to"
        return problem

    def reading_problem(self) -> str | None:
        """Why nothing can be found in the folder, whoever filled it, or `None`."""
        options = jax.config.values
        if options.get("jax_compilation_cache_dir") and options.get("jax_enable_compilation_cache"):
            # What came out of JAX's cache loads when it is kept once more, and fails when it runs.
            return "JAX keeps them already, in jax_compilation_cache_dir. Switch that off here"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.folder.stat()
        except OSError as error:
            return f"{self.folder} cannot be made or read: {error.strerror}"
        if not _is_ours(found):
            return (
                f"{self.folder} belongs to another user, or others can write to it. Compiled "
                "programs are native code: choose a folder of your own with mode 0700"
            )
        return None

    def _file(self, key: str) -> Path:
        return self.folder / f"{digest_bytes(key.encode())}{_SUFFIX}"

    def _read(self, file: Path, key: str) -> bytes | None:
        """The payload of an entry, if it is sound. A damaged one is removed."""
        try:
            if not _is_ours(self.folder.stat()):
                return None
            with _opened(file) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as stream:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode) or not _is_ours(found):
                    return None
                content = stream.read()
        except OSError:
            return None
        start = len(_frame(key, b""))
        payload = content[start:]
        if content[:start] != _frame(key, payload):
            _remove(file)
            return None
        return payload

    def _evict(self) -> None:
        """Remove what was not used for longest until the rest fits, and what writers left behind.

        Several processes may do this at once: they see the same ages and remove the same entries.
        """
        entries = []
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                found = path.lstat()
                if path.suffix == _SUFFIX:
                    entries.append((found.st_mtime_ns, found.st_size, path))
                elif _is_abandoned(path.name, found):
                    _remove(path)
        excess = sum(size for _, size, _ in entries) - self.max_bytes
        for _, size, path in sorted(entries):
            if excess <= 0:
                return
            _remove(path)
            excess -= size


def cache_of(choice: bool | str | os.PathLike[str]) -> ExecutableCache | None:  # noqa: FBT001  # the option of `load` as it is
    """The cache that somebody chose: the user's own, none, or the one in a folder.

    The processes of a distributed run have none: they compile together, and would wait for ever for
    one that found its part.

    Args:
      choice: `True` for `$XDG_CACHE_HOME/jax-exporter/executables`, or the same in `~/.cache`;
        `False` for none; or a folder.
    """
    if choice is False or jax.process_count() > 1:
        return None
    folder = _users_folder() if choice is True else Path(choice).absolute()
    return None if folder is None else ExecutableCache(folder)


def _users_folder() -> Path | None:
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # The specification of base directories says that a relative one is to be ignored.
        base = chosen if chosen.is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # this user has no home
        return None
    return base / "jax-exporter" / "executables"


def key_of(description: Mapping[str, object], devices: Sequence[jax.Device]) -> str:
    """All that a compiled program depends on, as text: equal if and only if all of it is.

    Args:
      description: what is compiled, as values of JSON: the program's digest, shapes, dtypes,
        shardings, donated arguments.
      devices: those to run on, in the order of their mesh.
    """
    client = devices[0].client
    options = jax.config.values
    facts = {
        "program": description,
        "code": _code(),
        "jax": jax.__version__,
        "jaxlib": jax.lib.__version__,  # type: ignore[attr-defined]  # it lacks the mark of an export only
        "platform": [client.platform, client.platform_version],
        "devices": [_device(device) for device in devices],
        "device_count": [client.device_count(), client.local_device_count()],
        "processes": [jax.process_index(), jax.process_count()],
        "topology": topology_fingerprint(devices),
        "options": {name: str(options.get(name)) for name in _OPTIONS},
        "environment": {name: os.environ.get(name) for name in _VARIABLES},
        "machine": _machine(),
    }
    return json.dumps(facts, sort_keys=True, separators=(",", ":"))


def _device(device: jax.Device) -> list[object]:
    places = ("coords", "core_on_chip", "slice_index", "compute_capability")
    return [
        device.id,
        device.device_kind,
        device.process_index,
        *(str(getattr(device, name, None)) for name in places),
    ]


def _machine() -> list[object]:
    """The host: its instructions, and how many of its processors this process may use.

    The CPU's compiler splits loops by that number, and the host's code is part of every executable.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [platform.system(), platform.machine(), count, *_processor()]


@functools.cache
def _processor() -> tuple[str, ...]:
    """What Linux says the first processor can do. Elsewhere the topology has to tell it."""
    lines = []
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123  # read up to a line only
        for line in file:
            if not line.strip():
                break
            name, _, value = line.partition(":")
            if name.strip() in _ABILITIES:
                lines.append(f"{name.strip()}: {' '.join(value.split())}")
    return tuple(lines)


@functools.cache
def _code() -> str:
    """The code that makes of a description what is compiled: when it changes, so do all keys."""
    here = Path(__file__).parent
    try:
        files = (here / "programs.py", here.parent / "jax_internals.py")
        return digest_bytes(b"".join(file.read_bytes() for file in files))
    except OSError:  # installed without its sources
        return version("jax-exporter")


def _framed(key: str, payload: bytes) -> bytes:
    return _frame(key, payload) + payload


def _frame(key: str, payload: bytes) -> bytes:
    """What stands before a payload: its length does not depend on it."""
    text = key.encode()
    return b"%s%d\n%s\n%s\n" % (_MAGIC, len(text), text, digest_bytes(payload).encode())


def _is_ours(found: os.stat_result) -> bool:
    """Whether only this user and root can have made something what it is."""
    return found.st_uid in (os.getuid(), 0) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _is_abandoned(name: str, found: os.stat_result) -> bool:
    is_part = name.startswith(".") and name.endswith(f"{_SUFFIX}.part")
    return is_part and time.time() - found.st_mtime > _ABANDONED_AFTER_S


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[int]:
    """A file to read. What is no file at all must not keep us waiting."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write(file: Path, content: bytes) -> None:
    """Write a file that others see whole or not at all, and that this user alone can read."""
    part = file.with_name(f".{secrets.token_hex(8)}{_SUFFIX}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        part.replace(file)
    finally:
        _remove(part)


def _remove(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink()
