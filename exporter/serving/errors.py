"""What a call over the network can fail with, and the code of each in HTTP and gRPC."""

from dataclasses import dataclass

from exporter.errors import (
    ArtifactNotFoundError,
    MissingExtraError,
    OptionError,
)
from signatures.errors import BindError, ExporterError, UnknownSignatureError


class ServingError(ExporterError):
    """A call cannot be answered."""


class RequestError(ServingError, ValueError):
    """A message is not one of the protocol, or its parts do not fit together."""


class TooLargeError(ServingError, ValueError):
    """A message has more bytes than are taken."""


class UnauthorizedError(ServingError, PermissionError):
    """A request has no token, or a wrong one."""


class UnknownModelError(ServingError, LookupError):
    """There is no such model, or no such version of it."""


class UnknownMethodError(ServingError, LookupError):
    """There is nothing at this address."""


class WrongMethodError(ServingError, ValueError):
    """There is something at this address, for another method of HTTP."""


class NotReadyError(ServingError, RuntimeError):
    """What is asked for is not ready: it is being loaded, or the server stops."""


class ClosedError(NotReadyError):
    """A version takes no more calls. Another one may."""


class OverloadedError(ServingError, RuntimeError):
    """More calls wait than may."""


class DeadlineError(ServingError, TimeoutError):
    """The time for a call is over."""


class ModelFailedError(ServingError, RuntimeError):
    """A model failed while it was computed."""


class NotOfferedError(ServingError, NotImplementedError):
    """The protocol has it, and this server does not offer it."""


@dataclass(frozen=True)
class Code:
    """One code in the terms of both protocols.

    Attributes:
      http: the status of HTTP.
      grpc: the name of the status of gRPC.
      may_retry: whether the same request may succeed in a moment.
    """

    http: int
    grpc: str
    may_retry: bool = False


# The first class that fits an error counts.
_CODES: tuple[tuple[type[BaseException], Code], ...] = (
    (TooLargeError, Code(413, "RESOURCE_EXHAUSTED")),
    (UnauthorizedError, Code(401, "UNAUTHENTICATED")),
    (UnknownModelError, Code(404, "NOT_FOUND")),
    (ArtifactNotFoundError, Code(404, "NOT_FOUND")),
    (UnknownMethodError, Code(404, "UNIMPLEMENTED")),
    (WrongMethodError, Code(405, "UNIMPLEMENTED")),
    (NotReadyError, Code(503, "UNAVAILABLE", may_retry=True)),
    (OverloadedError, Code(429, "RESOURCE_EXHAUSTED", may_retry=True)),
    (DeadlineError, Code(504, "DEADLINE_EXCEEDED")),
    (NotOfferedError, Code(501, "UNIMPLEMENTED")),
    (ModelFailedError, Code(500, "INTERNAL")),
    (MissingExtraError, Code(500, "FAILED_PRECONDITION")),
    (BindError, Code(400, "INVALID_ARGUMENT")),
    (UnknownSignatureError, Code(400, "INVALID_ARGUMENT")),
    (OptionError, Code(400, "INVALID_ARGUMENT")),
    (RequestError, Code(400, "INVALID_ARGUMENT")),
)
_UNEXPECTED = Code(500, "INTERNAL")


def code_of(error: BaseException) -> Code:
    """The code of an error. What is not ours is a fault of the server."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), _UNEXPECTED)


def message_of(error: BaseException) -> str:
    """What a client is told: our own words, and of what is not ours its class alone."""
    if isinstance(error, ExporterError):
        return str(error)
    return f"the server failed with {type(error).__name__}; its log has the rest"
