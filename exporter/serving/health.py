"""The states of the server and of its models, by the health protocol of gRPC."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from exporter.serving import inference
from exporter.serving.descriptors import declare, message, parsed
from exporter.serving.errors import NotReadyError, UnauthorizedError, UnknownModelError

if TYPE_CHECKING:
    from exporter.serving.core import Core

SERVICE = "grpc.health.v1.Health"

PROTO = """
message HealthCheckRequest { string service = 1; }
message HealthCheckResponse {
  enum ServingStatus { UNKNOWN = 0; SERVING = 1; NOT_SERVING = 2; SERVICE_UNKNOWN = 3; }
  ServingStatus status = 1;
}
service Health {
  rpc Check(HealthCheckRequest) returns (HealthCheckResponse);
  rpc Watch(HealthCheckRequest) returns (stream HealthCheckResponse);
}
"""

declare("grpc/health/v1/health.proto", "grpc.health.v1", PROTO)

HealthCheckRequest = message("grpc.health.v1.HealthCheckRequest", __name__)
HealthCheckResponse = message("grpc.health.v1.HealthCheckResponse", __name__)

# The names of the server as a whole. All others are those of models.
_WHOLE = ("", inference.SERVICE, SERVICE)


class Health:
    """What is healthy. The core is asked anew each time, so nobody needs to tell of changes."""

    def __init__(self, core: "Core", interval: float) -> None:
        """The health of what a core serves.

        Args:
          core: says what is ready.
          interval: how often it is asked for whoever watches, in seconds.
        """
        self._core = core
        self._interval = interval

    def check(self, body: bytes, *, is_trusted: bool) -> bytes:
        """The state of a model, or of the server, as a `HealthCheckResponse`.

        Args:
          body: a `HealthCheckRequest`.
          is_trusted: whether it came with a token, if one is needed. Probes have none, so what is
            told of the server is told to all.

        Raises:
          UnknownModelError: if there is no such model.
          UnauthorizedError: if it is about a model and came without a token.
        """
        service = _service(body, is_trusted=is_trusted)
        status = self._status(service)
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            raise UnknownModelError(f"there is no service or model {service!r}.")
        return _written(status)

    async def watch(self, body: bytes, *, is_trusted: bool) -> AsyncIterator[bytes]:
        """The same whenever it changes, until nobody listens."""
        service = _service(body, is_trusted=is_trusted)
        last = None
        while True:
            status = self._status(service)
            if status != last:
                yield _written(status)
            last = status
            await asyncio.sleep(self._interval)

    def _status(self, service: str) -> int:
        try:
            whole = service in _WHOLE
            is_ready = self._core.is_ready() if whole else self._core.is_model_ready(service)
        except UnknownModelError:
            return int(HealthCheckResponse.SERVICE_UNKNOWN)
        except NotReadyError:
            is_ready = False
        return int(HealthCheckResponse.SERVING if is_ready else HealthCheckResponse.NOT_SERVING)


def _service(body: bytes, *, is_trusted: bool) -> str:
    service: str = parsed(HealthCheckRequest, body).service
    if service not in _WHOLE and not is_trusted:
        raise UnauthorizedError("the state of a model is told to those who send a token.")
    return service


def _written(status: int) -> bytes:
    body: bytes = HealthCheckResponse(status=status).SerializeToString()
    return body
