"""The page at `/`: what is served, with a form for each signature. Nothing is fetched elsewhere."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from exporter.display import cut
from exporter.markup import Child, Markup, element, fragment
from exporter.runtime.datatypes import datatype_of
from exporter.runtime.page.examples import MAX_WRITTEN, http_body, shapes_of
from exporter.runtime.page.head import head
from exporter.runtime.page.parts import code, section, table
from exporter.serving.core import Core
from exporter.serving.method import Method
from exporter.serving.registry import Entry, State
from exporter.serving.servable import Servable
from exporter.stages.stage import Kind
from signatures.spec import TensorSpec

# More signatures of a model than these are named, and have no form.
_MAX_FORMS = 20


def page(core: Core) -> bytes:
    """The page as it is now."""
    registry = core.registry
    by_model: dict[str, list[Entry]] = {}
    for entry in registry.entries():
        by_model.setdefault(entry.found.model, []).append(entry)
    served: dict[str, Servable] = {}
    for one in registry.served():  # the highest version of each comes first
        served.setdefault(one.found.model, one)
    models = [
        _model(name, entries, served.get(name), registry.labels_of(name))
        for name, entries in by_model.items()
    ]
    none = element("p", "There is none yet. Save one to MODELS/NAME/VERSION, and it appears here.")
    body = fragment(
        element("a", "Skip to the content", href="#content", class_="skip"),
        element(
            "header",
            element("p", f"{core.name} {core.version}", class_="kicker"),
            element("h1", "Models"),
            element(
                "p",
                element("a", "OpenAPI", href="/openapi.json"),
                ", ",
                element("a", "metrics", href="/metrics"),
                ", ",
                element("a", "look again", href="/"),
                class_="lead",
            ),
            element(
                "p",
                element("label", "Token, if the server asks for one ", for_="token"),
                element("input", id="token", autocomplete="off", spellcheck="false"),
                class_="quiet",
            ),
        ),
        element(
            "div",
            element("nav", element("ul", *map(_link, by_model)), aria_label="Models"),
            element("main", *(models or [none]), id="content"),
            class_="layout",
        ),
        element("script", Markup(_resource("page.js"))),
    )
    style = _resource("page.css", "exporter.runtime.page") + _resource("page.css")
    top = head(core.name, style, _resource("page.js"), calls=True)
    root = element("html", top, element("body", body), lang="en")
    return f"<!doctype html>\n{root}\n".encode()


def _link(name: str) -> Markup:
    return element("li", element("a", cut(name), href=f"#{_identity(name)}"))


def _identity(name: str) -> str:
    return f"model-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _model(
    name: str, entries: Sequence[Entry], servable: Servable | None, labels: Mapping[str, int]
) -> Markup | None:
    rows: list[tuple[Child, ...]] = []
    for entry in reversed(entries):
        version = entry.found.version
        called = ", ".join(label for label, number in labels.items() if number == version)
        rows.append((str(version), entry.state.value, called, cut(entry.problem, 400)))
    ready = [str(one.found.version) for one in entries if one.state is State.AVAILABLE]
    methods = list(servable.methods.values()) if servable else []
    forms = [_form(name, servable, one, ready[::-1]) for one in methods[:_MAX_FORMS] if servable]
    return section(
        _identity(name),
        cut(name),
        table(f"Versions of {name}", ("Version", "State", "Labels", "Problem"), rows),
        *forms,
        *(element("p", code(str(one))) for one in methods[_MAX_FORMS:]),
    )


def _form(model: str, servable: Servable, method: Method, versions: Sequence[str]) -> Markup:
    """The fields of a signature, filled with a call that works, as far as one is known."""
    examples = dict(_examples(servable, method.name))
    fields = []
    for number, (name, kind) in enumerate(method.inputs.items()):
        identity = f"{_identity(model)}-{_identity(method.name)}-{number}"
        title = fragment(code(name), f" {kind}")
        fields += [
            element("label", title, for_=identity),
            _field(identity, name, kind, examples.get(name, "")),
        ]
    choices = [element("option", "newest", value=""), *(element("option", v) for v in versions)]
    version = element("select", *choices, aria_label="Version") if len(versions) > 1 else None
    return element(
        "form",
        element("h3", code(cut(str(method), 400))),
        *fields,
        element(
            "div", version, element("button", "Call", type="submit"), element("output"), class_="do"
        ),
        element("div", class_="answer"),
        element("pre", element("code", ""), hidden=True),
        data_model=model,
        data_signature=None if method is servable.default else method.name,
    )


def _field(identity: str, name: str, kind: Kind | TensorSpec, example: str) -> Markup:
    common: dict[str, Any] = {"id": identity, "data_name": name}
    if kind == "image":
        return element("input", type="file", multiple=True, data_kind="image", **common)
    if kind in {"text", "words"}:
        is_flat = kind == "text"
        return element(
            "textarea",
            example,
            data_kind="text" if is_flat else "array",
            data_datatype="BYTES",
            placeholder="one in each line" if is_flat else "",
            **common,
        )
    assert isinstance(kind, TensorSpec)
    dtype = kind.plain.dtype
    assert isinstance(dtype, np.dtype)  # keys are words
    return element(
        "textarea",
        example,
        data_kind="array",
        data_datatype=datatype_of(dtype),
        spellcheck="false",
        **common,
    )


def _examples(servable: Servable, signature: str) -> Iterator[tuple[str, str]]:
    """What stands in the fields at first, by the names of inputs."""
    manifest = servable.manifest
    shapes = shapes_of(manifest, signature)
    body = None if shapes is None else http_body(manifest, signature, shapes)
    if not isinstance(body, Mapping):
        return
    inputs: Any = body["inputs"]
    for one in inputs:
        if one["datatype"] == "BYTES":
            is_picture = "parameters" in one
            lists = _nested(one["data"], one["shape"]) if len(one["shape"]) > 1 else None
            text = json.dumps(lists) if lists is not None else "\n".join(one["data"])
            yield one["name"], "" if is_picture else text
        elif math.prod(one["shape"]) > MAX_WRITTEN or not one["shape"]:
            shape = ", ".join(map(str, one["shape"]))
            yield one["name"], f"zeros({shape})" if one["shape"] else json.dumps(one["data"][0])
        else:
            yield one["name"], json.dumps(_nested(one["data"], one["shape"]))


def _nested(data: Sequence[Any], shape: Sequence[int]) -> list[Any]:
    array = np.empty(math.prod(shape), object)
    array[:] = data
    found: list[Any] = array.reshape(shape).tolist()
    return found


@cache
def _resource(name: str, package: str = "exporter.serving") -> str:
    return resources.files(package).joinpath(name).read_text("utf-8")
