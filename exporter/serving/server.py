"""A process that serves: HTTP and gRPC on one loop, from the first look to the last answer."""

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import uvicorn

from exporter.errors import OptionError
from exporter.progress import Progress
from exporter.runtime.compat import check_backend
from exporter.serving.access import certificate_of, tokens_of
from exporter.serving.core import Core
from exporter.serving.exchange import Limits
from exporter.serving.heads import HeadTimeoutProtocol
from exporter.serving.metrics import Metrics
from exporter.serving.registry import Registry
from exporter.serving.rest import Rest
from exporter.serving.servable import Options, open_servable
from exporter.serving.settings import Settings
from exporter.serving.sockets import bind
from exporter.serving.traces import Traces

_log = logging.getLogger("exporter.serving")
_access = logging.getLogger("exporter.serving.access")

# Shows how far the first models have come.
Bar = Callable[[], AbstractContextManager[Progress | None]]


class App:
    """All that answers, without what listens. Ray and other hosts mount `rest`.

    Attributes:
      registry: what is served.
      core: the same as protocols see it.
      rest: the ASGI application.
      observe: is told of each request.
      is_allowed: judges the `authorization` header, or `None`.
    """

    def __init__(self, settings: Settings) -> None:
        """The application for some settings. It serves nothing before `registry.start`.

        Raises:
          OptionError: if a file of the settings cannot be used.
        """
        options = Options(
            batching=settings.batchings(),
            mesh=mesh_of(settings.mesh),
            cache=settings.cache or True,
            custom_calls=settings.custom_calls,
            tries_samples=settings.try_samples,
        )
        opens = partial(_open, self, options)
        self.registry = Registry(settings.repository(), opens, poll_seconds=settings.poll_seconds)
        self.metrics = Metrics(self.registry)
        self.core = Core(
            self.registry,
            has_model_control=settings.model_control,
            seconds=settings.request_timeout,
        )
        self.observe = self._log_too if settings.access_log else self.metrics.request
        self.is_allowed = tokens_of(settings.token_file) if settings.token_file else None
        limits = Limits(settings.max_body_bytes, settings.body_timeout)
        self.rest = Rest(
            self.core,
            self.metrics,
            limits,
            observe=self.observe,
            is_allowed=self.is_allowed,
            origins=settings.cors_origins,
        )

    def _log_too(self, protocol: str, method: str, model: str, code: str, seconds: float) -> None:
        self.metrics.request(protocol, method, model, code, seconds)
        beside = {"protocol": protocol, "method": method, "model": model, "code": code}
        _access.info("request", extra={**beside, "seconds": round(seconds, 6)})


def _open(app: App, options: Options, *arguments: Any) -> Any:
    found, in_use, progress = arguments
    return open_servable(found, options, app.metrics.batch, in_use, progress)


def settle_memory() -> None:
    """Keep the garbage collector from what stays for ever, and from looking again and again.

    To look through all that JAX has made takes 0.1 seconds, in which nothing is answered, and a
    call leaves hardly anything that only a collection frees. What a model leaves when it is
    unloaded is collected when another one was loaded.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def mesh_of(text: str | None) -> jax.sharding.Mesh | None:
    """The mesh that words like `data=2,model=4` stand for.

    Raises:
      OptionError: if they are none, or there are too few devices.
    """
    if text is None:
        return None
    try:
        pairs = [part.partition("=") for part in text.split(",")]
        axes = {name.strip(): int(size) for name, _, size in pairs}
        if len(axes) != len(pairs) or not all(axes) or min(axes.values()) < 1:
            raise ValueError(text)
    except ValueError:
        raise OptionError(f"a mesh is AXIS=SIZE,AXIS=SIZE; got {text!r}.") from None
    count = 1
    for size in axes.values():
        count *= size
    if count > len(jax.devices()):
        raise OptionError(
            f"the mesh {text} needs {count} devices, and there are {len(jax.devices())}."
        )
    return jax.make_mesh(tuple(axes.values()), tuple(axes), devices=jax.devices()[:count])


class _Http(uvicorn.Server):
    """uvicorn without its handling of signals, which would end the process before gRPC has."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Server:
    """The process: listens, loads, answers, and ends when it is told to.

    Attributes:
      settings: what it was made of.
      http_port: where it listens for HTTP.
      grpc_port: where it listens for gRPC, or `None`.
    """

    def __init__(self, settings: Settings) -> None:
        """A server that listens already, so that an address in use is told at once.

        Raises:
          OptionError: if it cannot be set up so.
        """
        # Whoever calls waits for the results at once, so that another thread of XLA gains nothing.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        check_backend()
        settle_memory()
        self.settings = settings
        self.app = App(settings)
        self._traces = Traces() if settings.traces else None
        self._tls = None
        if settings.certificate and settings.private_key:
            self._tls = certificate_of(settings.certificate, settings.private_key)
        self._socket = bind(settings.host, settings.http_port, is_shared=settings.workers > 1)
        self._socket.listen(2048)
        self.http_port: int = self._socket.getsockname()[1]
        self.grpc_port: int | None = None
        self._stopping: asyncio.Event | None = None

    @property
    def address(self) -> str:
        """Where HTTP is answered."""
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"http{'s' if self._tls else ''}://{host}:{self.http_port}"

    def run(self, bar: Bar = contextlib.nullcontext) -> None:
        """Serve until SIGTERM or SIGINT comes; a second one ends it at once."""
        loop = self.settings.loop
        if loop == "auto":
            loop = "uvloop" if _has_uvloop() else "asyncio"
        factory = None
        if loop == "uvloop":
            import uvloop

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(self._serve(bar))

    async def _serve(self, bar: Bar) -> None:
        settings = self.settings
        self._stopping = stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        http = _Http(self._uvicorn())
        rpc = await self._rpc()
        listening = loop.create_task(http.serve([self._socket]))
        where = f" and grpc at {settings.host}:{self.grpc_port}" if rpc else ""
        _log.info("listening at %s%s", self.address, where)
        loading = loop.create_task(self._load(bar))
        try:
            ended = loop.create_task(stopping.wait())
            await asyncio.wait([ended, listening], return_when=asyncio.FIRST_COMPLETED)
        finally:
            loading.cancel()
            await self._end(http, listening, rpc)

    async def _load(self, bar: Bar) -> None:
        registry = self.app.registry
        with bar() as tell:
            registry.start(tell)
            await asyncio.to_thread(registry.is_settled.wait)
        names = sorted({one.found.model for one in registry.served()})
        _log.info("ready: %s", ", ".join(names) or "no model could be loaded yet")

    async def _end(self, http: _Http, listening: "asyncio.Task[None]", rpc: Any) -> None:
        settings = self.settings
        _log.info("stopping")
        self.app.core.stop()
        await asyncio.sleep(settings.drain_seconds)
        http.should_exit = True
        ends = [listening] if rpc is None else [listening, rpc.stop(settings.grace_seconds)]
        await asyncio.gather(*ends)
        await asyncio.to_thread(self.app.registry.close, settings.grace_seconds)
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)
        _log.info("stopped")

    def _stop(self) -> None:
        assert self._stopping is not None
        if self._stopping.is_set():  # somebody is in a hurry
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        self._stopping.set()

    def _uvicorn(self) -> uvicorn.Config:
        settings = self.settings
        rest = self.app.rest
        http: Any = partial(HeadTimeoutProtocol, head_seconds=settings.body_timeout)
        return uvicorn.Config(
            rest if self._traces is None else self._traces.http(rest),
            http=http,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, round(settings.grace_seconds)),
            ssl_certfile=settings.certificate,
            ssl_keyfile=settings.private_key,
        )

    async def _rpc(self) -> Any:
        settings = self.settings
        if settings.grpc_port is None:
            return None
        import grpc

        from exporter.serving.rpc import add_port, make_server

        server = make_server(
            self.app.core,
            max_message_bytes=settings.max_body_bytes,
            is_allowed=self.app.is_allowed,
            observe=self.app.observe,
            is_shared=settings.workers > 1,
            interceptors=() if self._traces is None else (self._traces.rpc(),),
        )
        credentials = None
        if self._tls:
            chain, key = self._tls
            credentials = grpc.ssl_server_credentials([(key, chain)])
        self.grpc_port = add_port(server, settings.host, settings.grpc_port, credentials)
        await server.start()
        return server


def _has_uvloop() -> bool:
    try:
        import uvloop  # noqa: F401  # it is only asked for
    except ImportError:
        return False
    return True
