"""One request over HTTP and its answer, on bare ASGI: limits, errors, and clients that leave."""

import asyncio
import json
import logging
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from exporter.serving.errors import (
    RequestError,
    TooLargeError,
    WrongMethodError,
    code_of,
    message_of,
)
from signatures.errors import ExporterError

_log = logging.getLogger("exporter.serving")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# A client is watched for leaving once its call has taken about so many seconds: most take less.
_PATIENCE = 0.02

# A status that no client sees, as it has left.
_CLIENT_GONE = 499


class ClientGoneError(Exception):
    """The client left before it was answered."""


@dataclass(frozen=True)
class Limits:
    """What a request may be.

    Attributes:
      max_body_bytes: the most bytes of a body, compressed or not.
      body_seconds: how long a client may take to send one.
    """

    max_body_bytes: int = 128 * 2**20
    body_seconds: float = 60.0


@dataclass(slots=True)
class Reply:
    """What is sent back.

    Attributes:
      body: its bytes.
      content_type: what they are.
      headers: further ones.
      status: of HTTP.
    """

    body: bytes
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    status: int = 200

    @classmethod
    def json(cls, value: object, status: int = 200) -> "Reply":
        """A value as JSON."""
        return cls(json.dumps(value).encode(), status=status)


class Exchange:
    """A request, as a handler sees it.

    Attributes:
      scope: of ASGI.
      parts: what the path names, by the names of the route.
      model: the name of the model that was asked for, once it is known that there is one.
    """

    __slots__ = ("_headers", "_limits", "_receive", "model", "parts", "scope")

    def __init__(self, scope: Scope, receive: Receive, limits: Limits) -> None:
        """A request that is about to be read."""
        self.scope = scope
        self.parts: Mapping[str, Any] = scope.get("path_params", {})
        self.model = ""
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._receive = receive
        self._limits = limits

    @property
    def client(self) -> object:
        """Who asks: a connection."""
        return self.scope.get("client")

    def header(self, name: bytes) -> str | None:
        """The value of a header, by its name in lower case."""
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def body(self) -> bytes:
        """All bytes of the body, decompressed.

        Raises:
          TooLargeError: if there are more than may be.
          RequestError: if they do not come in time or cannot be decompressed.
          ClientGoneError: if they end before the end.
        """
        most = self._limits.max_body_bytes
        length = self.header(b"content-length")
        if length is not None and length.isdecimal() and int(length) > most:
            raise _too_large(most)
        message = await self._receive()
        if message["type"] != "http.request":
            raise ClientGoneError
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            body = await self._rest(body)
        if len(body) > most:
            raise _too_large(most)
        encoding = self.header(b"content-encoding")
        return body if encoding in {None, "", "identity"} else _inflated(body, encoding, most)

    async def _rest(self, first: bytes) -> bytes:
        most = self._limits.max_body_bytes
        chunks, size, more = [first], len(first), True
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while more:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        raise ClientGoneError
                    chunks.append(message.get("body", b""))
                    size += len(chunks[-1])
                    if size > most:
                        raise _too_large(most)
                    more = message.get("more_body", False)
        except TimeoutError:
            raise RequestError(
                f"the body did not come within {self._limits.body_seconds:g} s; {size} bytes did."
            ) from None
        return b"".join(chunks)

    async def has_left(self) -> bool:
        """Wait until the client leaves or, which nobody should, sends more."""
        message = await self._receive()
        return bool(message["type"] == "http.disconnect")


class Attention:
    """Gives work up whose client has left. All that takes long is looked after by one timer."""

    def __init__(self) -> None:
        """Nothing to look after yet."""
        self._watches: dict[_Watch, None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None  # that has the timer

    async def __call__(self, exchange: Exchange, work: Awaitable[Any]) -> Any:
        """The result of some work for a client, unless that leaves.

        Raises:
          ClientGoneError: if it does.
        """
        task = asyncio.current_task()
        assert task is not None
        watch = _Watch(exchange, task)
        self._watches[watch] = None
        if self._loop is not (loop := task.get_loop()):
            self._look_later(loop)
        try:
            return await work
        except asyncio.CancelledError:
            if watch.is_gone and task.uncancel() == 0:
                raise ClientGoneError from None
            raise
        finally:
            del self._watches[watch]
            if watch.watcher is not None:
                watch.watcher.cancel()

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop if self._watches else None
        if self._watches:
            loop.call_later(_PATIENCE, self._look, loop, list(self._watches))

    def _look(self, loop: asyncio.AbstractEventLoop, before: Sequence["_Watch"]) -> None:
        """Watch the clients of what was there when the timer was set and still is."""
        for watch in before:
            if watch in self._watches and watch.watcher is None:
                watch.watcher = loop.create_task(watch.look())
        self._look_later(loop)


class _Watch:
    """Cancels a task when its client leaves."""

    __slots__ = ("_exchange", "_task", "is_gone", "watcher")

    def __init__(self, exchange: Exchange, task: "asyncio.Task[Any]") -> None:
        self.is_gone = False
        self.watcher: asyncio.Task[None] | None = None
        self._exchange = exchange
        self._task = task

    async def look(self) -> None:
        if await self._exchange.has_left():
            self.is_gone = True
            self._task.cancel()


Handler = Callable[[Exchange], Awaitable[Reply]]
Observe = Callable[[str, str, str, str, float], None]


class Endpoint:
    """A handler as an ASGI application: its answer, or its error in words, and a line of counts."""

    def __init__(
        self, name: str, method: str, handler: Handler, limits: Limits, observe: Observe
    ) -> None:
        """The application of a handler for a method of HTTP, which is counted under a name."""
        self.name = name
        self._method = method
        self._handler = handler
        self._limits = limits
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        start = time.perf_counter()
        exchange = Exchange(scope, receive, self._limits)
        try:
            self._check_method(scope["method"])
            reply = await self._handler(exchange)
        except ClientGoneError:
            self._count(exchange, _CLIENT_GONE, start)
            return
        except Exception as error:  # noqa: BLE001  # every error is told to the client
            reply = refused(error)
        try:
            await answer(send, reply)
        finally:
            self._count(exchange, reply.status, start)

    def _check_method(self, given: str) -> None:
        if given != self._method and not (given == "HEAD" and self._method == "GET"):
            raise WrongMethodError(f"{self._method} is for this address; got {given}.")

    def _count(self, exchange: Exchange, status: int, start: float) -> None:
        seconds = time.perf_counter() - start
        self._observe("http", self.name, exchange.model, str(status), seconds)


def refused(error: Exception) -> Reply:
    """An error for a client. What is not ours is logged, and no more than its class is told."""
    code = code_of(error)
    if not isinstance(error, ExporterError):
        _log.error("a request failed", exc_info=error)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if code.may_retry:
        headers = ((b"retry-after", b"1"),)
    elif code.http == 401:
        headers = ((b"www-authenticate", b"Bearer"),)
    elif code.http == 413:
        headers = ((b"connection", b"close"),)  # nobody reads the rest
    body = json.dumps({"error": message_of(error)}).encode()
    return Reply(body, headers=headers, status=code.http)


async def answer(send: Send, reply: Reply) -> None:
    """Send a reply."""
    headers = [
        (b"content-type", reply.content_type),
        (b"content-length", str(len(reply.body)).encode()),
        *reply.headers,
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def _too_large(most: int) -> TooLargeError:
    return TooLargeError(
        f"the body has more than {most:,} bytes, and no more are taken here. Send fewer rows at "
        "once, or start the server with a larger --max-body-bytes."
    )


def _inflated(body: bytes, encoding: str | None, most: int) -> bytes:
    """The body without its compression, of no more bytes than may be."""
    if encoding not in {"gzip", "deflate"}:
        raise RequestError(
            f"content-encoding {encoding!r} is not known; gzip, deflate and identity are."
        )
    worker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # it sees itself which of the two it is
    try:
        plain = worker.decompress(body, most + 1)
    except zlib.error as error:
        raise RequestError(f"the body cannot be decompressed as {encoding}: {error}.") from None
    if len(plain) > most:
        raise _too_large(most)
    if not worker.eof:
        raise RequestError(f"the body ends before its {encoding} does.")
    return plain
