"""What can be asked over HTTP, as an OpenAPI document: for every model, with a call that works."""

from collections.abc import Iterator, Mapping
from typing import Any

from exporter.artifact.records import VocabularyOptions
from exporter.artifact.stages import options_of
from exporter.runtime.page.examples import MAX_WRITTEN, http_body, shapes_of
from exporter.serving.core import Core
from exporter.serving.servable import Servable

_JSON = "application/json"
_BINARY = "application/octet-stream"
_ERRORS = {
    "400": "The request does not fit: names, shapes, datatypes, or the message itself.",
    "404": "There is no such model or version.",
    "413": "The body is larger than is taken.",
    "429": "Too many calls wait. Try again after the seconds in Retry-After.",
    "500": "The model failed while it was computed.",
    "503": "The model is being loaded, or could not be.",
    "504": "The time for the call is over.",
}


def document(core: Core) -> dict[str, Any]:
    """The document for what is served now."""
    paths: dict[str, Any] = dict(_general())
    served: dict[str, Servable] = {}
    for one in core.registry.served():  # the highest version of each comes first
        served.setdefault(one.found.model, one)
    for name, servable in sorted(served.items()):
        paths |= _of_model(name, servable)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": core.name,
            "version": core.version,
            "description": "The Open Inference Protocol V2 and TensorFlow Serving's REST.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": _SCHEMAS, "responses": dict(_refusals())},
    }


def _general() -> Iterator[tuple[str, Any]]:
    yield "/v2", _get("What the server is", "ServerMetadata")
    yield "/v2/health/live", _get("Whether the process answers", "Live")
    yield (
        "/v2/health/ready",
        _get("Whether models are loaded and calls are taken", "Ready", {"503": _said("Not yet.")}),
    )
    yield "/v2/models", _get("The models that are ready", "Models")
    yield (
        "/v2/repository/index",
        {
            "post": {
                "summary": "All versions, with what they are doing",
                "requestBody": _body({"type": "object"}, {"ready": True}, is_required=False),
                "responses": {"200": _ok({"type": "array", "items": _ref("Indexed")})},
            }
        },
    )
    for verb in ("load", "unload"):
        yield (
            f"/v2/repository/models/{{model}}/{verb}",
            {
                "parameters": [_parameter("model")],
                "post": {
                    "summary": f"{verb.capitalize()} a model",
                    "responses": {"200": _ok({"type": "object"}), **_refused("404", "501")},
                },
            },
        )
    yield (
        "/metrics",
        {
            "get": {
                "summary": "Counts for Prometheus",
                "responses": {"200": {"description": "Text", "content": {"text/plain": {}}}},
            }
        },
    )


def _of_model(name: str, servable: Servable) -> Iterator[tuple[str, Any]]:
    method = servable.default or next(iter(servable.methods.values()), None)
    versioned = [_parameter("version", "A number; without it the highest is called")]
    body = None if method is None else _example(servable, method.name)
    text = "\n\n".join(f"`{one}`" for one in servable.methods.values())
    for base, parameters in (("", []), ("/versions/{version}", versioned)):
        path = f"/v2/models/{name}{base}"
        yield (
            path,
            {"parameters": parameters, **_get(f"Inputs and outputs of {name}", "ModelMetadata")},
        )
        yield f"{path}/ready", {"parameters": parameters, **_get("Whether it is ready", "Ready")}
        yield (
            f"{path}/infer",
            {
                "parameters": parameters,
                "post": {
                    "tags": [name],
                    "summary": f"Call {name}",
                    "description": text,
                    "requestBody": _body(_ref("InferRequest"), body, has_binary=True),
                    "responses": {
                        "200": _ok(_ref("InferResponse"), has_binary=True),
                        **_refused(*_ERRORS),
                    },
                },
            },
        )
        path = f"/v1/models/{name}{base}"
        yield (
            path,
            {"parameters": parameters, **_get("The states of its versions", "ModelStatus")},
        )
        yield (
            f"{path}:predict",
            {
                "parameters": parameters,
                "post": {
                    "tags": [name],
                    "summary": f"Call {name} as TensorFlow Serving is called",
                    "description": text,
                    "requestBody": _body(_ref("PredictRequest"), None),
                    "responses": {"200": _ok(_ref("PredictResponse")), **_refused(*_ERRORS)},
                },
            },
        )


def _example(servable: Servable, signature: str) -> Any:
    """A call of zeros, if it is short, and no words have to be known for it."""
    manifest = servable.manifest
    known = [options_of(record) for record in manifest.stages.get(signature, ())]
    if any(isinstance(one, VocabularyOptions) and one.unknown is None for one in known):
        return None
    shapes = shapes_of(manifest, signature)
    body = None if shapes is None else http_body(manifest, signature, shapes)
    if not isinstance(body, Mapping):
        return None
    inputs: Any = body["inputs"]
    if any(len(one["data"]) > MAX_WRITTEN for one in inputs):
        return None
    return body


def _get(summary: str, schema: str, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    responses = {"200": _ok(_ref(schema)), **(more or {})}
    return {"get": {"summary": summary, "responses": responses}}


def _body(
    schema: Mapping[str, Any], example: Any, *, has_binary: bool = False, is_required: bool = True
) -> dict[str, Any]:
    content: dict[str, Any] = {_JSON: {"schema": schema}}
    if example is not None:
        content[_JSON]["example"] = example
    if has_binary:
        content[_BINARY] = _BYTES
    return {"required": is_required, "content": content}


def _ok(schema: Mapping[str, Any], *, has_binary: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {_JSON: {"schema": schema}}
    if has_binary:
        content[_BINARY] = _BYTES
    return {"description": "The answer", "content": content}


def _said(text: str) -> dict[str, Any]:
    return {"description": text}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _parameter(name: str, text: str = "") -> dict[str, Any]:
    found = {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    return {**found, "description": text} if text else found


def _refused(*codes: str) -> dict[str, Any]:
    return {
        code: {"$ref": f"#/components/responses/E{code}"} for code in codes if code in _ALL_ERRORS
    }


def _refusals() -> Iterator[tuple[str, Any]]:
    for code, text in _ALL_ERRORS.items():
        found: dict[str, Any] = {
            "description": text,
            "content": {_JSON: {"schema": _ref("Error")}},
        }
        if code in {"429", "503"}:
            found["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
        yield f"E{code}", found


_ALL_ERRORS = {**_ERRORS, "501": "Clients cannot load and unload models here."}

_BYTES = {
    "schema": {
        "type": "string",
        "format": "binary",
        "description": "JSON, as long as Inference-Header-Content-Length says, then the tensors",
    }
}


def _object(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": properties}


_TEXT = {"type": "string"}
_FLAG = {"type": "boolean"}
_ANY: dict[str, Any] = {}
_PARAMETERS = {"type": "object", "additionalProperties": True}
_SHAPE = {"type": "array", "items": {"type": "integer"}}

_SCHEMAS: dict[str, Any] = {
    "Error": _object("error", error=_TEXT),
    "Live": _object("live", live=_FLAG),
    "Ready": _object("ready", name=_TEXT, ready=_FLAG),
    "Models": _object("models", models={"type": "array", "items": _TEXT}),
    "ServerMetadata": _object(
        "name version", name=_TEXT, version=_TEXT, extensions={"type": "array", "items": _TEXT}
    ),
    "Indexed": _object(
        "name version state",
        name=_TEXT,
        version=_TEXT,
        state={"enum": ["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]},
        reason=_TEXT,
    ),
    "TensorMetadata": _object(
        "name datatype shape",
        name=_TEXT,
        datatype=_TEXT,
        shape=_SHAPE,
        parameters=_PARAMETERS,
    ),
    "ModelMetadata": _object(
        "name platform inputs outputs",
        name=_TEXT,
        versions={"type": "array", "items": _TEXT},
        platform=_TEXT,
        inputs={"type": "array", "items": _ref("TensorMetadata")},
        outputs={"type": "array", "items": _ref("TensorMetadata")},
        parameters=_PARAMETERS,
    ),
    "Tensor": _object(
        "name datatype shape",
        name=_TEXT,
        datatype=_TEXT,
        shape=_SHAPE,
        parameters=_PARAMETERS,
        data={"type": "array", "items": _ANY},
    ),
    "InferRequest": _object(
        "inputs",
        id=_TEXT,
        parameters=_PARAMETERS,
        inputs={"type": "array", "items": _ref("Tensor")},
        outputs={"type": "array", "items": _object("name", name=_TEXT, parameters=_PARAMETERS)},
    ),
    "InferResponse": _object(
        "model_name outputs",
        id=_TEXT,
        model_name=_TEXT,
        model_version=_TEXT,
        parameters=_PARAMETERS,
        outputs={"type": "array", "items": _ref("Tensor")},
    ),
    "PredictRequest": {
        "type": "object",
        "properties": {
            "signature_name": _TEXT,
            "instances": {"type": "array", "items": _ANY},
            "inputs": _ANY,
        },
        "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
    },
    "PredictResponse": {
        "type": "object",
        "properties": {"predictions": {"type": "array", "items": _ANY}, "outputs": _ANY},
    },
    "ModelStatus": _object(
        "model_version_status",
        model_version_status={"type": "array", "items": {"type": "object"}},
        name=_TEXT,
        ready=_FLAG,
    ),
}
