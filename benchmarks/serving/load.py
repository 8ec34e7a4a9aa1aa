"""A closed loop of clients by `h2load` (of nghttp2), which is fast enough not to be the limit.

Every request is noted with its time, so that rates and percentiles can be told of any part of a
run. What is sent is the same each time; that it is answered rightly is checked before.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

TOOL = "h2load"
# The first requests open connections and fill caches.
WARM_UP_S = 1
# Answers that come within so many seconds are of one batch.
_TOGETHER_S = 5e-3


@dataclass(frozen=True)
class Request:
    """What every client sends: a body to a path, over HTTP/1.1 or as gRPC does over HTTP/2."""

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    is_grpc: bool = False


@dataclass(frozen=True)
class Answers:
    """What became of the requests that began in a time.

    Attributes:
      starts: when each began, in seconds of `time.time`, in order.
      seconds: how long each took.
      failed: how many were answered with an error or not at all.
    """

    starts: np.ndarray
    seconds: np.ndarray
    failed: int

    @property
    def rate(self) -> float:
        """Answers for each second, from the first ones to the last: several may end as a batch."""
        ends = self.starts + self.seconds
        first = ends.min()
        return float(np.sum(ends > first + _TOGETHER_S) / (ends.max() - first))

    def percentile(self, which: float) -> float:
        """Seconds, within which so many of 100 requests were answered."""
        return float(np.percentile(self.seconds, which))

    def between(self, begin: float, end: float) -> "Answers":
        """Those that began in a part of the time. `failed` is not told apart and stays."""
        inside = (self.starts >= begin) & (self.starts < end)
        return Answers(self.starts[inside], self.seconds[inside], self.failed)


def is_missing() -> bool:
    return shutil.which(TOOL) is None


def measure(port: int, request: Request, clients: int, seconds: int) -> Answers:
    """The answers of a server to `clients`, each of which asks anew when it was answered."""
    with Load(port, request, clients, seconds + WARM_UP_S) as load:
        answers = load.answers()
    return answers.between(answers.starts[0] + WARM_UP_S, np.inf)


class Load:
    """Clients that ask while the block runs, for so many seconds."""

    def __init__(self, port: int, request: Request, clients: int, seconds: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        self._log, body = folder / "log", folder / "body"
        body.write_bytes(_framed(request.body) if request.is_grpc else request.body)
        headers = dict(request.headers)
        if request.is_grpc:
            headers |= {"content-type": "application/grpc", "te": "trailers"}
        words: list[str] = [TOOL, f"--clients={clients}", "--threads=1", f"--duration={seconds}"]
        words += [] if request.is_grpc else ["--h1"]
        words += [f"--header={name}: {value}" for name, value in headers.items()]
        words += [f"--data={body}", f"--log-file={self._log}"]
        self._process = subprocess.Popen(
            [*words, f"http://127.0.0.1:{port}{request.path}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()

    def answers(self) -> Answers:
        """Wait for the end, and give what was noted."""
        text = self._process.stdout.read()
        if self._process.wait():
            raise RuntimeError(f"{TOOL} ended with {self._process.returncode}: {text}")
        noted = np.loadtxt(self._log, dtype=np.int64, ndmin=2)
        if not len(noted):
            raise RuntimeError(f"nothing was answered:\n{text}")
        starts, status, micros = noted[np.argsort(noted[:, 0], kind="stable")].T
        return Answers(starts / 1e6, micros / 1e6, int(np.sum(status != 200)) + _cut(text))


def _cut(text: str) -> int:
    """The requests that h2load says had no answer: `... 3 failed, 1 errored, 2 timeout`."""
    line = next(one for one in text.splitlines() if one.startswith("requests:"))
    counts = {name: int(count) for count, name in (one.split() for one in line[9:].split(", "))}
    return counts["errored"] + counts["timeout"]


def _framed(message: bytes) -> bytes:
    """A message as gRPC sends it: not compressed, and how long it is."""
    return b"\0" + len(message).to_bytes(4, "big") + message
