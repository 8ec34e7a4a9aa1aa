"""The sections of what can be called: signatures with examples, and functions."""

import json
from collections.abc import Mapping

from exporter.artifact.records import Manifest
from exporter.markup import Child, Markup, element, fragment
from exporter.runtime.describe import bounds_text, facts, stage_text, type_text
from exporter.runtime.page.examples import curl_call, python_call, shapes_of
from exporter.runtime.page.parts import (
    MAX_TEXT,
    code,
    cut,
    definitions,
    fold,
    left_out,
    listing,
    section,
)
from exporter.runtime.page.parts import table as table_of
from exporter.runtime.page.staged import Shapes, staged_of
from exporter.runtime.summary import AttachedFunction, Bounds, Named, Option, Summary, Tensor

MAX_SIGNATURES = 60
MAX_FUNCTIONS = 200
_MAX_ROWS = 200
_MAX_DEFAULT = 60
_MAX_DOC = 2000

# A call with longer names and types is no example for anybody.
_MAX_EXAMPLE = 50_000


def signatures(manifest: Manifest, summary: Summary, path: str, model: str) -> Markup:
    """Each signature with its inputs and outputs, and calls of it to copy.

    Args:
      manifest: of the artifact.
      summary: the same as callers see it.
      path: where the artifact is, for the examples.
      model: what a server would call it.
    """
    found = summary["signatures"]
    note = summary["signature_note"] or "The model has no signatures."
    shown = list(found.items())[:MAX_SIGNATURES]
    return section(
        "signatures",
        "Signatures",
        *(_signature(manifest, name, one, path, model) for name, one in shown),
        None if found else element("p", cut(note)),
        left_out(len(found) - len(shown), "signatures"),
        count=f"{len(found):,}",
    )


def _signature(manifest: Manifest, name: str, one: Named, path: str, model: str) -> Markup:
    owner = one["function"]
    calls = fragment("calls ", code(owner)) if owner not in (None, name) else None
    long = len(str(one["inputs"])) + len(str(one.get("stages", "")))
    is_short = len(one["inputs"]) <= _MAX_ROWS and long < _MAX_EXAMPLE
    shapes = shapes_of(manifest, name) if is_short and len(name) <= MAX_TEXT else None
    return element(
        "article",
        element("h3", code(name), element("small", calls) if calls else None),
        _tensors("Input", name, one["inputs"], one["bounds"]),
        _tensors("Output", name, one["outputs"], {}),
        _facts([stage_text(stage) for stage in one.get("stages", [])[:_MAX_ROWS]]),
        _facts([fact for fact in facts(one) if not fact.startswith("where ") or "has" in fact]),
        element(
            "p", "There is no example: its inputs are too many, or no sizes were found that fit."
        )
        if shapes is None
        else _examples(manifest, name, shapes, path, model),
        class_="signature",
    )


def _tensors(
    kind: str, signature: str, tensors: Mapping[str, Tensor], bounds: Mapping[str, Bounds]
) -> Markup:
    """The inputs or outputs. Columns that would be empty are not there."""
    if not tensors:
        return element("p", f"No {kind.lower()}s.", class_="quiet")
    rows = [
        (code(name), code(type_text(one)), _bounds_of(one, bounds), _default_of(one))
        for name, one in list(tensors.items())[:_MAX_ROWS]
    ]
    kept = [0, 1, *(column for column in (2, 3) if any(row[column] for row in rows))]
    columns = [(kind, "Type", "Bounds", "Default")[column] for column in kept]
    caption = f"{kind}s of {signature}"
    return fragment(
        table_of(caption, columns, [[row[column] for column in kept] for row in rows]),
        left_out(len(tensors) - len(rows), f"{kind.lower()}s"),
    )


def _bounds_of(tensor: Tensor, bounds: Mapping[str, Bounds]) -> Child:
    axes = [axis for axis in tensor["shape"] or () if isinstance(axis, str)]
    found = [
        f"{name} {text}"
        for name, one in bounds.items()
        if any(name in axis for axis in axes) and (text := bounds_text(one))
    ]
    return "; ".join(found)


def _default_of(tensor: Tensor) -> Child:
    if "default" not in tensor:
        return ""
    return code(cut(json.dumps(tensor["default"]), _MAX_DEFAULT))


def _examples(manifest: Manifest, name: str, shapes: Shapes, path: str, model: str) -> Markup:
    by_stages = staged_of(manifest, name, shapes) is not None
    made_up = "Made-up values" if by_stages else "Zeros"
    way = "with its stages " if by_stages else ""
    of = f"{made_up} of the smallest shapes that fit. " if shapes else ""
    return element(
        "div",
        listing("Python", python_call(manifest, name, shapes, path)),
        listing("curl", curl_call(manifest, name, shapes, model)),
        element(
            "p",
            f"{of}The second is a request of the Open Inference Protocol, version 2, for a server "
            f"that serves this signature of the folder {way}as ",
            code(model),
            ".",
            class_="quiet",
        ),
        class_="examples",
    )


def _facts(found: list[str]) -> Markup | None:
    return (
        element("ul", *(element("li", cut(fact)) for fact in found), class_="facts")
        if found
        else None
    )


def functions(summary: Summary) -> Markup | None:
    """Each function at its attribute paths, with the types of arguments it was saved for."""
    found = summary["functions"]
    if not found:
        return None
    shown = found[:MAX_FUNCTIONS]
    return section(
        "functions",
        "Functions",
        *(_function(one) for one in shown),
        left_out(len(found) - len(shown), "functions"),
        count=f"{len(found):,}",
    )


def _function(one: AttachedFunction) -> Markup:
    path, *others = one["paths"]
    doc = cut((one["doc"] or "").strip(), _MAX_DOC).splitlines()
    options = one["options"][:_MAX_ROWS]
    title = fragment(code(fragment(element("b", cut(path)), cut(one["parameters"]))))
    return fold(
        title,
        element("p", cut(f"Also {', '.join(others)}")) if others else None,
        *(element("p", line, class_="doc") for line in doc if line.strip()),
        *(_option(option, number, len(options)) for number, option in enumerate(options, 1)),
        None if options else element("p", "It cannot be called: nothing says with what types."),
        left_out(len(one["options"]) - len(options), "types of arguments"),
        kind="function",
    )


def _option(option: Option, number: int, count: int) -> Markup:
    rows: list[tuple[str, Child]] = [
        (cut(name), fragment(code(text), " (fixed)" if name in option["fixed"] else None))
        for name, text in option["arguments"].items()
    ]
    names = option["signatures"]
    return fragment(
        element("h3", f"Option {number}") if count > 1 else None,
        definitions([*rows, ("returns", code(option["returns"]))], "arguments"),
        element("p", "Signature ", code(", ".join(names)), class_="quiet") if names else None,
        _facts(facts(option)) if not names else None,
    )
