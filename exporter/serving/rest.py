"""What answers over HTTP: the Open Inference Protocol V2, TensorFlow Serving's V1, and metrics."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson
from starlette.routing import BaseRoute, Route, Router

from exporter.serving import v1, v2
from exporter.serving.core import Core
from exporter.serving.errors import (
    NotOfferedError,
    RequestError,
    UnauthorizedError,
    UnknownMethodError,
)
from exporter.serving.exchange import (
    Attention,
    Endpoint,
    Exchange,
    Handler,
    Limits,
    Observe,
    Receive,
    Reply,
    Scope,
    Send,
    answer,
    refused,
)
from exporter.serving.jsons import read_json
from exporter.serving.metrics import CONTENT_TYPE, Metrics
from exporter.serving.openapi import document
from exporter.serving.page import page
from exporter.serving.registry import State

# What the protocol calls its extensions that are here.
EXTENSIONS = ("binary_tensor_data", "model_repository", "parameters")

_LENGTH = b"inference-header-content-length"

# These are answered without a token: whoever watches over processes has none.
_OPEN = frozenset({"/v2/health/live", "/v2/health/ready"})

# So many paths are remembered with what they lead to.
_MOST_PATHS = 1024

_VERSIONS = ("", "/versions/{version}", "/labels/{label}")


class Rest:
    """The ASGI application of a core: it can be mounted wherever there is a server for these."""

    def __init__(
        self,
        core: Core,
        metrics: Metrics,
        limits: Limits | None = None,
        *,
        observe: Observe | None = None,
        is_allowed: Callable[[str | None], bool] | None = None,
        origins: Sequence[str] = (),
    ) -> None:
        """The application.

        Args:
          core: what is served.
          metrics: counts requests.
          limits: of requests.
          observe: is told of each request, in place of the metrics.
          is_allowed: judges the value of the `authorization` header, `None` without one. Health is
            told without.
          origins: the web pages of other servers that may call this one, `*` for all.
        """
        self._core = core
        self._metrics = metrics
        self._limits = limits or Limits()
        self._is_allowed = is_allowed
        self._attention = Attention()
        self._matched: dict[str, tuple[Endpoint, Mapping[str, Any]]] = {}
        self._router = router = Router(
            list(self._routes(observe or metrics.request)), redirect_slashes=False
        )
        router.default = self._nowhere
        self._app: Any = self._routed
        if origins:
            from starlette.middleware.cors import CORSMiddleware

            self._app = CORSMiddleware(
                self._app,
                allow_origins=list(origins),
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["inference-header-content-length", "retry-after"],
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        allowed = self._is_allowed
        if allowed is not None and scope["path"] not in _OPEN and scope["method"] != "OPTIONS":
            given = Exchange(scope, receive, self._limits).header(b"authorization")
            if not allowed(given):
                error = UnauthorizedError(
                    "a token is needed: send the header 'authorization: Bearer TOKEN'."
                )
                await answer(send, refused(error))
                return
        await self._app(scope, receive, send)

    def _routed(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Call what a path leads to. The same few paths are asked for again and again."""
        found = self._matched.get(scope["path"])
        if found is None:
            return self._looked_up(scope, receive, send)
        endpoint, scope["path_params"] = found
        return endpoint(scope, receive, send)

    async def _looked_up(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._router(scope, receive, send)
        if "endpoint" in scope:
            if len(self._matched) >= _MOST_PATHS:
                self._matched.clear()
            self._matched[scope["path"]] = scope["endpoint"], scope["path_params"]

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The beginning and end of a server; sockets of the web are not taken."""
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    def _routes(self, observe: Observe) -> "Sequence[BaseRoute]":
        def route(path: str, name: str, method: str, handler: Handler) -> Route:
            return Route(path, Endpoint(name, method, handler, self._limits, observe))

        model = "/v2/models/{model}"
        found = [route(f"{model}{v}/infer", "infer", "POST", self._infer) for v in _VERSIONS]
        found += [
            route(f"/v1/models/{{model}}{v}:predict", "predict", "POST", self._predict)
            for v in _VERSIONS
        ]
        found += [
            route(f"/v1/models/{{model}}{v}:{{verb}}", "verb", "POST", self._verb)
            for v in _VERSIONS
        ]
        for path in _VERSIONS:
            found += [
                route(f"{model}{path}/ready", "model_ready", "GET", self._model_ready),
                route(f"{model}{path}", "model_metadata", "GET", self._model_metadata),
                route(f"/v1/models/{{model}}{path}/metadata", "metadata", "GET", self._metadata),
                route(f"/v1/models/{{model}}{path}", "status", "GET", self._status),
            ]
        repository = "/v2/repository/models/{model}"
        return [
            *found,
            route("/v2/health/live", "live", "GET", self._live),
            route("/v2/health/ready", "ready", "GET", self._ready),
            route("/v2", "server_metadata", "GET", self._server_metadata),
            route("/v2/", "server_metadata", "GET", self._server_metadata),
            route("/v2/models", "models", "GET", self._models),
            route("/v1/models", "models", "GET", self._models),
            route("/v2/repository/index", "index", "POST", self._index),
            route(f"{repository}/load", "load", "POST", self._load),
            route(f"{repository}/unload", "unload", "POST", self._unload),
            route("/metrics", "metrics", "GET", self._prometheus),
            route("/monitoring/prometheus/metrics", "metrics", "GET", self._prometheus),
            route("/", "page", "GET", self._page),
            route("/openapi.json", "openapi", "GET", self._openapi),
        ]

    # Version 2 of the protocol.

    async def _infer(self, exchange: Exchange) -> Reply:
        model, version, label = self._asked(exchange)
        body = await exchange.body()
        request = v2.decode(body, _header_length(exchange, len(body)))
        work = self._core.infer(model, version, label, request, exchange.client)
        data, length = v2.encode(await self._attention(exchange, work), request)
        if length is None:
            return Reply(data)
        headers = ((_LENGTH, str(length).encode()),)
        return Reply(data, b"application/octet-stream", headers)

    async def _live(self, _: Exchange) -> Reply:
        return Reply.json({"live": self._core.is_live()})

    async def _ready(self, _: Exchange) -> Reply:
        is_ready = self._core.is_ready()
        return Reply.json({"ready": is_ready}, 200 if is_ready else 503)

    async def _server_metadata(self, _: Exchange) -> Reply:
        core = self._core
        extensions = list(EXTENSIONS)
        return Reply.json({"name": core.name, "version": core.version, "extensions": extensions})

    async def _model_ready(self, exchange: Exchange) -> Reply:
        model, version, label = self._asked(exchange)
        is_ready = self._core.is_model_ready(model, version, label)
        return Reply.json({"name": model, "ready": is_ready}, 200 if is_ready else 503)

    async def _model_metadata(self, exchange: Exchange) -> Reply:
        model, version, label = self._asked(exchange)
        servable = self._core.registry.resolve(model, version, label)
        method = servable.default
        named = {name: str(one) for name, one in servable.methods.items()}
        versions = [servable.found.version] if exchange.parts.get("version") else None
        found = v2.model_metadata(
            model,
            versions or self._core.versions(model),
            method.inputs if method else {},
            method.outputs if method else {},
            signature=method.name if method else "",
            signatures=named,
        )
        return Reply.json(found)

    async def _models(self, _: Exchange) -> Reply:
        names = sorted({one.name for one in self._core.index(ready_only=True)})
        return Reply.json({"models": names})

    async def _index(self, exchange: Exchange) -> Reply:
        body = await exchange.body()
        asked = read_json(body) if body.strip() else {}
        if not isinstance(asked, dict) or not isinstance(asked.get("ready", False), bool):
            raise RequestError('the body is {} or {"ready": true}.')
        found = self._core.index(ready_only=asked.get("ready", False))
        return Reply.json(
            [
                {
                    "name": one.name,
                    "version": str(one.version),
                    "state": one.state,
                    "reason": one.reason,
                }
                for one in found
            ]
        )

    async def _load(self, exchange: Exchange) -> Reply:
        model, _, _ = self._asked(exchange)
        await exchange.body()
        await self._core.load(model)
        return Reply.json({"name": model, "load": True})

    async def _unload(self, exchange: Exchange) -> Reply:
        model, _, _ = self._asked(exchange)
        await exchange.body()
        await self._core.unload(model)
        return Reply.json({"name": model, "unload": True})

    # TensorFlow Serving's.

    async def _predict(self, exchange: Exchange) -> Reply:
        model, version, label = self._asked(exchange)
        parsed = v1.parse(await exchange.body())
        method = self._core.method(model, version, label, parsed.signature)
        request = parsed.request(method.inputs)
        work = self._core.infer(model, version, label, request, exchange.client)
        found = await self._attention(exchange, work)
        return Reply(v1.encode(found, is_row=parsed.is_row, rows=parsed.rows))

    async def _verb(self, exchange: Exchange) -> Reply:
        self._asked(exchange)
        raise NotOfferedError(
            f":{exchange.parts['verb']} takes messages of TensorFlow, which are not known here; "
            ":predict is offered."
        )

    async def _status(self, exchange: Exchange) -> Reply:
        model, version, label = self._asked(exchange)
        registry = self._core.registry
        if label is not None:
            version = registry.resolve(model, None, label).found.version
        entries = registry.entries(model)
        if version is not None:
            entries = [one for one in entries if one.found.version == version]
            if not entries:
                registry.resolve(model, version)  # it says what is wrong
        states = [(one.found.version, one.state.value, one.problem) for one in entries]
        is_ready = any(one.state is State.AVAILABLE for one in entries)
        return Reply.json({**v1.status(states[::-1]), "name": model, "ready": is_ready})

    async def _metadata(self, exchange: Exchange) -> Reply:
        servable = self._core.registry.resolve(*self._asked(exchange))
        signatures = {name: (one.inputs, one.outputs) for name, one in servable.methods.items()}
        return Reply.json(v1.metadata(servable.found.model, servable.found.version, signatures))

    # Beside the protocols.

    async def _prometheus(self, _: Exchange) -> Reply:
        return Reply(self._metrics.text(), CONTENT_TYPE.encode())

    async def _openapi(self, _: Exchange) -> Reply:
        return Reply(orjson.dumps(document(self._core)))

    async def _page(self, _: Exchange) -> Reply:
        return Reply(page(self._core), b"text/html; charset=utf-8")

    async def _nowhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, self._limits)
        error = UnknownMethodError(
            f"there is nothing at {exchange.scope['path']!r}. GET / lists the models, and GET "
            "/openapi.json what can be asked of them."
        )
        await answer(send, refused(error))

    def _asked(self, exchange: Exchange) -> tuple[str, int | None, str | None]:
        """The model, and the number or the label of the version, that the path names."""
        parts = exchange.parts
        model = parts["model"]
        if self._core.registry.knows(model):
            exchange.model = model
        text = parts.get("version")
        if text is None:
            return model, None, parts.get("label")
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise RequestError(f"a version is a number; got {text!r}. Labels are at /labels/NAME.")
        return model, int(text), None


def _header_length(exchange: Exchange, size: int) -> int | None:
    text = exchange.header(_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) <= size):
        raise RequestError(
            f"Inference-Header-Content-Length is a number of bytes, up to the {size} of the body; "
            f"got {text!r}."
        )
    return int(text)
