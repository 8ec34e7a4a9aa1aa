"""The protocol of uvicorn, which closes connections that do not say what they want in time."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class HeadTimeoutProtocol(HttpToolsProtocol):
    """HTTP over one connection, where the head of a request has to come within some time.

    Else a client that sends a byte now and then would hold a connection for ever.
    """

    def __init__(self, *arguments: Any, head_seconds: float, **options: Any) -> None:
        """As uvicorn makes it, with the time for a head in seconds."""
        super().__init__(*arguments, **options)
        self._head_seconds = head_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._is_in_head = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        super().connection_made(transport)  # type: ignore[arg-type]  # as above
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._waited()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        super().data_received(data)
        if self._is_in_head and self._timer is None:
            self._wait()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._is_in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """It is there."""
        self._is_in_head = False
        if self._timer is not None:
            self._waited()
        super().on_headers_complete()

    def _wait(self) -> None:
        self._timer = self.loop.call_later(self._head_seconds, self._close)

    def _waited(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        self._timer = None
        self.transport.close()
