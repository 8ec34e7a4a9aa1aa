"""The Open Inference Protocol over gRPC: what listens, and how calls begin and end."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio

from exporter.errors import OptionError
from exporter.serving import health, inference, reflection
from exporter.serving.errors import (
    NotReadyError,
    UnauthorizedError,
    code_of,
    message_of,
)
from exporter.serving.rpc_methods import Call, Service
from signatures.errors import ExporterError

if TYPE_CHECKING:
    from exporter.serving.core import Core

# Whether a value of the `authorization` header is right. It is `None` if there is none.
IsAllowed = Callable[[str | None], bool]

# Is told of each call: protocol, method, model, the name of the code, and seconds. The model is
# empty if there is none, so that nobody fills the memory of whoever counts with names.
Observe = Callable[[str, str, str, str, float], None]

SERVICES = (inference.SERVICE, health.SERVICE, *reflection.SERVICES)

# Without a token too: probes of a cluster have none.
_OPEN = frozenset({"ServerLive", "ServerReady"})

# The status of a call is sent as a header, and a client takes 8 KiB of these. What is not ASCII
# becomes three times as long on the way.
_MAX_MESSAGE = 2048

_UNAUTHORIZED = "send the header 'authorization: Bearer TOKEN', with the token of this server."

_log = logging.getLogger("exporter.serving")


class Server:
    """A server of gRPC with its services, as it starts and ends."""

    def __init__(
        self,
        core: "Core",
        *,
        max_message_bytes: int,
        is_allowed: IsAllowed | None = None,
        observe: Observe | None = None,
        interval: float = 1.0,
        is_shared: bool = False,
        interceptors: Sequence[Any] = (),
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        """A server that listens nowhere yet. See `make_server`."""
        limits = (
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", int(is_shared)),  # else a port in use is an error
        )
        self.server = grpc.aio.server(interceptors=tuple(interceptors), options=(*limits, *options))
        self._max_message_bytes = max_message_bytes
        self._is_allowed = is_allowed
        self._observe = observe
        self._is_stopping = asyncio.Event()
        service = Service(core)
        self._add(
            inference.SERVICE,
            {name: self._counted(name, run) for name, run in service.methods.items()},
        )
        checks = health.Health(core, interval)
        self._add(health.SERVICE, {"Check": self._checked(checks), "Watch": self._watched(checks)})
        for name in reflection.SERVICES:
            self._add(name, {"ServerReflectionInfo": self._reflected()})

    async def start(self) -> None:
        """Begin to answer."""
        await self.server.start()

    async def stop(self, grace: float | None) -> None:
        """Take no more calls, and end those that are left after a time in seconds.

        Who watches the health of the server would stay for ever, and is not waited for.
        """
        self._is_stopping.set()
        await self.server.stop(grace)

    async def wait_for_termination(self) -> None:
        """Wait until it has stopped."""
        await self.server.wait_for_termination()

    def _add(self, service: str, handlers: Mapping[str, Any]) -> None:
        handler = grpc.method_handlers_generic_handler(service, handlers)
        self.server.add_generic_rpc_handlers((handler,))

    def _counted(self, method: str, run: Callable[[bytes, Call], Awaitable[bytes]]) -> Any:
        """A method of the protocol as gRPC calls it."""
        is_open = method in _OPEN

        async def handle(body: bytes, context: Any) -> bytes:
            start = time.perf_counter()
            call = Call(context.peer(), context.time_remaining())
            code = "OK"
            try:
                if not (is_open or self._is_trusted(context)):
                    raise UnauthorizedError(_UNAUTHORIZED)
                return await run(body, call)
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except Exception as error:  # noqa: BLE001  # whatever it is, the client is told
                code = code_of(error).grpc
                await _fail(context, error)
            finally:
                if self._observe is not None:
                    model = "" if code == "NOT_FOUND" else call.model
                    seconds = time.perf_counter() - start
                    self._observe("grpc", method, model, code, seconds)

        return grpc.unary_unary_rpc_method_handler(handle)

    def _checked(self, checks: health.Health) -> Any:
        async def check(body: bytes, context: Any) -> bytes:
            try:
                return checks.check(body, is_trusted=self._is_trusted(context))
            except Exception as error:  # noqa: BLE001  # as above
                await _fail(context, error)

        return grpc.unary_unary_rpc_method_handler(check)

    def _watched(self, checks: health.Health) -> Any:
        async def watch(body: bytes, context: Any) -> AsyncIterator[bytes]:
            try:
                states = checks.watch(body, is_trusted=self._is_trusted(context))
                async for one in self._until_stopped(states):
                    yield one
            except Exception as error:  # noqa: BLE001  # as above
                await _fail(context, error)

        return grpc.unary_stream_rpc_method_handler(watch)

    def _reflected(self) -> Any:
        async def reflected(bodies: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            try:
                if not self._is_trusted(context):
                    raise UnauthorizedError(_UNAUTHORIZED)
                async for body in self._until_stopped(bodies):
                    yield reflection.reflect(body, SERVICES)
            except Exception as error:  # noqa: BLE001  # as above
                await _fail(context, error)

        return grpc.stream_stream_rpc_method_handler(reflected)

    def _is_trusted(self, context: Any) -> bool:
        if self._is_allowed is None:
            return True
        headers = context.invocation_metadata() or ()
        found = (value for key, value in headers if key == "authorization")
        return self._is_allowed(next(found, None))

    async def _until_stopped(self, items: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """What comes until the server stops: a stream that nobody ends would hold it up."""
        stop = asyncio.ensure_future(self._is_stopping.wait())
        following = None
        try:
            while True:
                following = asyncio.ensure_future(anext(aiter(items), None))
                await asyncio.wait((following, stop), return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    raise NotReadyError("the server stops.")
                item = following.result()
                if item is None:
                    return
                yield item
        finally:
            stop.cancel()
            if following is not None:
                following.cancel()


def make_server(
    core: "Core",
    *,
    max_message_bytes: int,
    is_allowed: IsAllowed | None = None,
    observe: Observe | None = None,
    interval: float = 1.0,
    is_shared: bool = False,
    interceptors: Sequence[Any] = (),
    options: Sequence[tuple[str, Any]] = (),
) -> Server:
    """A server over a core: the protocol, health and reflection. It listens nowhere yet.

    It belongs to the loop that runs now.

    Args:
      core: what is served.
      max_message_bytes: the largest message that is taken.
      is_allowed: judges the `authorization` header of calls. Whether the server is live, ready and
        healthy is told without.
      observe: is told of each call of the protocol, on the loop.
      interval: how often whoever watches health learns of changes, in seconds.
      is_shared: whether other processes may listen at the same port.
      interceptors: of gRPC, around its calls.
      options: more options of channels, as gRPC has them.
    """
    return Server(
        core,
        max_message_bytes=max_message_bytes,
        is_allowed=is_allowed,
        observe=observe,
        interval=interval,
        is_shared=is_shared,
        interceptors=interceptors,
        options=options,
    )


def add_port(
    server: Server, host: str, port: int, credentials: grpc.ServerCredentials | None = None
) -> int:
    """Listen at an address, and give the port: the same, or a free one for 0.

    Args:
      server: has not started.
      host: a name, or an address of IPv4 or IPv6.
      port: its number.
      credentials: a certificate and its key, as gRPC takes them, or `None` for plain text.

    Raises:
      OptionError: if it is not possible to listen there.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if credentials is None:
            return int(server.server.add_insecure_port(address))
        return int(server.server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise OptionError(f"cannot listen at {address}: {error}.") from error


async def _fail(context: Any, error: Exception) -> NoReturn:
    """End a call with an error."""
    if not isinstance(error, ExporterError):
        _log.error("a call failed", exc_info=error)
    message = message_of(error).encode(errors="replace")
    text = message[:_MAX_MESSAGE].decode(errors="ignore")
    more = " ..." if len(message) > _MAX_MESSAGE else ""
    await context.abort(grpc.StatusCode[code_of(error).grpc], text + more)
    raise AssertionError("to abort is to raise")
