"""Several processes that share an address: each serves all models, and one that dies is replaced.

It pays where Python's part of a request takes longer than the model's, and there are cores and
memory for it. The system spreads connections over the processes, not requests.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from types import FrameType

import msgspec

from exporter.serving import logs
from exporter.serving.settings import Settings
from exporter.serving.sockets import bind

_log = logging.getLogger("exporter.serving")

# Where `prometheus_client` lets the processes add up what they count.
_COUNTS = "PROMETHEUS_MULTIPROC_DIR"

# One that dies at once is not started again at once.
_PAUSE = 1.0


def run_workers(settings: Settings) -> None:
    """Serve with several processes until SIGTERM or SIGINT comes.

    Raises:
      OptionError: if the address cannot be listened at.
    """
    logs.set_up(is_json=settings.log_format == "json")
    with contextlib.ExitStack() as stack:
        counts = stack.enter_context(tempfile.TemporaryDirectory(prefix="exporter-counts-"))
        os.environ[_COUNTS] = counts  # the processes inherit it
        ports = {}
        for name in ("http_port", "grpc_port"):
            port = getattr(settings, name)
            if port is not None:  # bound and not listening: it is kept, and takes no connection
                held = stack.enter_context(bind(settings.host, port, is_shared=True))
                ports[name] = held.getsockname()[1]
        _watch(msgspec.structs.replace(settings, **ports))


def _watch(settings: Settings) -> None:
    context = multiprocessing.get_context("spawn")
    running: dict[int, SpawnProcess] = {}
    is_stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_stopping
        is_stopping = True
        for process in running.values():
            if process.pid and process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

    with _signals(stop) as wakes:
        while True:
            for number in range(settings.workers):
                if number not in running and not is_stopping:
                    running[number] = context.Process(target=_serve, args=(settings, number))
                    running[number].start()
            if not running:
                return
            wait([*(process.sentinel for process in running.values()), wakes])
            _drain(wakes)
            ended = [number for number, one in running.items() if not one.is_alive()]
            for number in ended:
                process = running.pop(number)
                if not is_stopping:
                    _log.error("worker %d ended with code %s", number, process.exitcode)
                    time.sleep(_PAUSE)


@contextlib.contextmanager
def _signals(stop: object) -> Iterator[socket.socket]:
    """Lets `stop` handle signals, which also make a socket readable."""
    reads, writes = socket.socketpair()
    with reads, writes:
        reads.setblocking(False)
        writes.setblocking(False)
        before = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGINT)}  # type: ignore[arg-type]
        old = signal.set_wakeup_fd(writes.fileno(), warn_on_full_buffer=False)
        try:
            yield reads
        finally:
            signal.set_wakeup_fd(old)
            for number, handler in before.items():
                signal.signal(number, handler)


def _drain(wakes: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        wakes.recv(4096)


def _serve(settings: Settings, number: int) -> None:
    """The life of one process."""
    from exporter.serving.server import Server

    logs.set_up(is_json=settings.log_format == "json")
    _log.info("worker %d is process %d", number, os.getpid())
    Server(settings).run()
