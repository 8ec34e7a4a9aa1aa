"""New processes: what they answer, how long they live, how much memory they take.

A benchmark's function runs in a new process as `in_new_process(function, argument=...)`. It is
found by its file and name, so it stands at the top of a file, and its arguments and result are
plain data (JSON). A `Worker` is a process that stays, for rounds by turns with others.
"""

import importlib.util
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

FOLDER = Path(__file__).resolve().parent

# What libraries print goes to the errors, so that the answers are all there is to read.
_START = f"""
import json, os, sys
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)
sys.path[:0] = [sys.argv.pop(1), {str(FOLDER)!r}]
import processes
processes.answer(*sys.argv[1:], answers)
"""


class ProcessError(RuntimeError):
    """A process ended otherwise than it should have. The message ends with what it printed."""


@dataclass(frozen=True)
class Finished:
    """A process that has ended: the seconds from its start to its end, and its last line."""

    seconds: float
    last_line: str


def run(
    code: str, *arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Finished:
    """Run the Python program `code` with `arguments` in a process of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    start = time.perf_counter()
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **QUIET, **(env or {})},
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise ProcessError(f"a process ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return Finished(seconds, (done.stdout.splitlines() or [""])[-1])


# Without it TensorFlow fills the errors, and says there that it has rounded.
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "1"}


def apart(cache: Path) -> dict[str, str]:
    """The environment of a script that runs elsewhere and keeps what it caches in a folder."""
    paths = (os.environ.get("PYTHONPATH"), str(FOLDER.parent))
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "XDG_CACHE_HOME": str(cache)}


def in_new_process(
    function: Callable[..., Any], *, env: Mapping[str, str] | None = None, **arguments: object
) -> Any:
    """What `function(**arguments)` returns in a process of its own."""
    with Worker(function, env=env, keeps=False, **arguments) as worker:
        return worker.read()


def unimportable(*modules: str) -> list[str]:
    """Those of `modules` that cannot be imported here, with the reason where they are installed."""
    found = []
    for name in modules:
        try:
            run(f"import {name}")
        except ProcessError as error:
            absent = importlib.util.find_spec(name) is None
            found.append(name if absent else f"{name} to work: {last_line(error)}")
    return found


def last_line(error: ProcessError) -> str:
    """What a process that failed printed last, which is the error itself."""
    return str(error).splitlines()[-1][:200]


class Worker:
    """A process in which `function(**arguments)` has made something to call.

    The function returns a callable without arguments. `timed` calls it there and gives the time,
    `result` gives what it returns, as lists. It is a context, at whose end the process ends.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        env: Mapping[str, str] | None = None,
        keeps: bool = True,
        **arguments: object,
    ) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed in __exit__
        file = Path(inspect.getfile(function)).resolve()
        named = [
            str(file.parent),
            "keep" if keeps else "once",
            file.stem,
            function.__name__,
            json.dumps(arguments),
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, *named],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, **QUIET, **(env or {})},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        self.errors.close()

    def timed(self, number: int = 1) -> float:
        """The seconds of one of `number` calls in a row, as the other process measures them."""
        return self._asked(["timed", number])

    def result(self) -> Any:
        """What one call returns: arrays as lists, in the dicts and lists that they were in."""
        return self._asked(["result"])

    def _asked(self, request: Sequence[object]) -> Any:
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, which reading its answer tells with the reason
        return self.read()

    def read(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.errors.seek(0)
            raise ProcessError(f"a process ended with {status}:\n{self.errors.read()[-4000:]}")
        return json.loads(line)


def answer(mode: str, module: str, name: str, arguments: str, answers: Any) -> None:
    """The other process's part: call the function, then do what each line on its input asks."""
    import importlib

    import measuring

    made = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    if mode == "once":
        answers.write(json.dumps(made) + "\n")
        return
    for line in sys.stdin:
        request, *given = json.loads(line)
        value = measuring.timed(made, *given) if request == "timed" else plain(made())
        answers.write(json.dumps(value) + "\n")


def plain(value: Any) -> Any:
    """Arrays as lists, in dicts and lists as they were."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, bool | int | float | str | None):
        return value
    import numpy as np

    return np.asarray(value).tolist()


def wait_for(value: object) -> None:
    """Wait until the JAX arrays in `value` are there. Where JAX is not imported, there are none."""
    if (jax := sys.modules.get("jax")) is not None:
        jax.block_until_ready(value)


def memory_bytes(which: str = "VmRSS") -> int:
    """The memory that this process holds now, or (`VmHWM`) has held at most, of Linux.

    Not `ru_maxrss`: a process starts with its parent's there, as that was when it was forked.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1]) * 1024
    raise ProcessError(f"this system tells no {which}")


def forget_peak() -> None:
    """The most memory held (`VmHWM`) counts from here."""
    Path("/proc/self/clear_refs").write_text("5")
