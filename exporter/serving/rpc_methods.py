"""What each method of the Open Inference Protocol does, as messages of gRPC without a network."""

from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.serving import inference
from exporter.serving.descriptors import Message, parsed
from exporter.serving.errors import NotOfferedError, NotReadyError, RequestError
from exporter.serving.messages import PLATFORM
from exporter.serving.rpc_codec import read_request, write_answer, write_metadata

if TYPE_CHECKING:
    from exporter.serving.core import Core

EXTENSIONS = ("model_repository", "parameters")


@dataclass(slots=True)
class Call:
    """One call as it came.

    Attributes:
      client: who called.
      remaining: how long the client waits, in seconds, or `None`.
      model: the name of the model that it is about, as soon as it is known.
    """

    client: Hashable
    remaining: float | None = None
    model: str = ""


class Service:
    """The methods of the protocol: bytes in, bytes out, and errors of our own.

    Attributes:
      methods: by name, each from the bytes of its request and the call to those of its answer.
    """

    def __init__(self, core: "Core") -> None:
        """The methods over a core."""
        self._core = core
        self.methods: Mapping[str, Callable[[bytes, Call], Awaitable[bytes]]] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._repository_model_load,
            "RepositoryModelUnload": self._repository_model_unload,
        }

    async def _server_live(self, body: bytes, _: Call) -> bytes:
        parsed(inference.ServerLiveRequest, body)
        return _written(inference.ServerLiveResponse(live=self._core.is_live()))

    async def _server_ready(self, body: bytes, _: Call) -> bytes:
        parsed(inference.ServerReadyRequest, body)
        return _written(inference.ServerReadyResponse(ready=self._core.is_ready()))

    async def _server_metadata(self, body: bytes, _: Call) -> bytes:
        parsed(inference.ServerMetadataRequest, body)
        core = self._core
        return _written(
            inference.ServerMetadataResponse(
                name=core.name, version=core.version, extensions=EXTENSIONS
            )
        )

    async def _model_ready(self, body: bytes, call: Call) -> bytes:
        request = parsed(inference.ModelReadyRequest, body)
        call.model = request.name
        try:
            is_ready = self._core.is_model_ready(request.name, *version_of(request.version))
        except NotReadyError:
            is_ready = False
        return _written(inference.ModelReadyResponse(ready=is_ready))

    async def _model_metadata(self, body: bytes, call: Call) -> bytes:
        request = parsed(inference.ModelMetadataRequest, body)
        model = call.model = request.name
        method = self._core.method(model, *version_of(request.version), None)
        versions = self._core.versions(model)
        return write_metadata(model, versions, PLATFORM, method.inputs, method.outputs)

    async def _model_infer(self, body: bytes, call: Call) -> bytes:
        model, text, request = read_request(body)
        call.model = model
        if call.remaining is not None:
            given = request.timeout
            request.timeout = call.remaining if given is None else min(given, call.remaining)
        version, label = version_of(text)
        answer = await self._core.infer(model, version, label, request, call.client)
        return write_answer(answer, request)

    async def _repository_index(self, body: bytes, _: Call) -> bytes:
        request = parsed(inference.RepositoryIndexRequest, body)
        answer = inference.RepositoryIndexResponse()
        for one in self._core.index(ready_only=request.ready):
            answer.models.add(
                name=one.name, version=str(one.version), state=one.state, reason=one.reason
            )
        return _written(answer)

    async def _repository_model_load(self, body: bytes, call: Call) -> bytes:
        request = parsed(inference.RepositoryModelLoadRequest, body)
        if request.parameters:
            given = ", ".join(map(repr, sorted(request.parameters)))
            raise NotOfferedError(
                f"a model is loaded as it lies in its folder; parameters are not taken: {given}."
            )
        call.model = name = _model_of(request)
        await self._core.load(name)
        return _written(inference.RepositoryModelLoadResponse(model_name=name, isLoaded=True))

    async def _repository_model_unload(self, body: bytes, call: Call) -> bytes:
        request = parsed(inference.RepositoryModelUnloadRequest, body)
        call.model = name = _model_of(request)
        await self._core.unload(name)
        return _written(inference.RepositoryModelUnloadResponse(model_name=name, isUnloaded=True))


def version_of(text: str) -> tuple[int | None, str | None]:
    """The number of a version that a text is, or the label, or neither if it is empty."""
    if not text:
        return None, None
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text), None
    return None, text


def _model_of(request: Message) -> str:
    """The name of a model in a request of Triton's form or of KServe's."""
    name: str = request.model_name or request.repository_name
    if not name:
        raise RequestError("the request names no model.")
    return name


def _written(message: Message) -> bytes:
    body: bytes = message.SerializeToString()
    return body
