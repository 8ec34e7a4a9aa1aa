"""A manifest as text for people. It needs no JAX."""

import json
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from exporter.artifact.records import Manifest
from exporter.markup import printable
from exporter.runtime.summary import (
    AttachedFunction,
    Bounds,
    Call,
    Option,
    StageSummary,
    Summary,
    Tensor,
    VariableSummary,
    only,
    summarise,
)

# Prose is broken at this column. Types and names never are: they are copied into code.
_WIDTH = 100

# How many variables a function that changes more of them is shown to change.
_MAX_SHOWN_CHANGES = 6

# Metadata is cut at this length. All of it is in the JSON.
_MAX_METADATA_LENGTH = 80

# A default value is cut at this length.
_MAX_DEFAULT_LENGTH = 40

# An option of a stage is cut at this length.
_MAX_OPTION_LENGTH = 100


def describe(manifest: Manifest, *, variables: bool = False, signature: str | None = None) -> str:
    """The manifest as lines of text: what can be called, with what, and where it runs.

    Args:
      manifest: of an artifact.
      variables: whether each variable is listed, below the rest.
      signature: the name of the only signature to tell of, with the variables that it uses.
    """
    summary = summarise(manifest)
    lines = [*_about(summary), "", "Signatures", *_signatures(summary)]
    if signature is not None:
        summary = only(summary, manifest, signature)
        lines = ["Signature", *_signatures(summary)]
    elif summary["functions"]:
        lines += ["", "Functions"]
        lines += [line for function in summary["functions"] for line in _function(function)]
    if variables:
        lines += ["", "Variables", *_variables(summary["variables"])]
    return "\n".join(map(printable, lines))


def _about(summary: Summary) -> list[str]:
    writer, *others = (f"{name} {version}" for name, version in summary["written_by"].items())
    needs = [f"StableHLO {summary['stablehlo_version']} or newer"]
    needs += ["64-bit arrays (JAX_ENABLE_X64=1)"] if summary["x64"] else []
    created = summary["created"].replace("T", " ").replace("+00:00", " UTC")
    programs = summary["programs"]
    rows = [
        ("platforms", ", ".join(summary["platforms"]) or "none"),
        ("needs", ", ".join(needs)),
        ("written by", f"{writer} in format {summary['format_version']}"),
        ("", f"with {', '.join(others)}"),
        ("programs", f"{counted(programs['count'], 'file')}, {size_text(programs['bytes'])}"),
        ("", f"content id {summary['content']['programs']}"),
        ("variables", totals(summary["variables"])),
        ("", f"content id {summary['content']['variables']}"),
        *_sundries(summary),
    ]
    return [f"{summary['class_name']}, saved {created}", *_table(rows, 2)]


def _sundries(summary: Summary) -> Iterator[tuple[str, ...]]:
    """Rows for what most artifacts do not have."""
    for position, asset in enumerate(summary["assets"]):
        path = ", ".join(asset["paths"])
        label = "" if position else "assets"
        yield label, f"{path} in {asset['file']}, {size_text(asset['bytes'])}"
    if summary["function_aliases"]:
        yield "aliases", ", ".join(f"{a} of {p}" for a, p in summary["function_aliases"].items())
    if summary["samples"]:
        counts = summary["samples"].items()
        yield "samples", ", ".join(f"{count} of {name}" for name, count in counts)
    if summary["tags"]:
        yield "tags", ", ".join(summary["tags"])
    if summary["metadata"]:
        text = json.dumps(summary["metadata"], ensure_ascii=False)
        is_long = len(text) > _MAX_METADATA_LENGTH
        yield "metadata", f"{text[: _MAX_METADATA_LENGTH - 3]}..." if is_long else text


def totals(variables: Sequence[VariableSummary]) -> str:
    """How many arrays there are, and how large they are together."""
    if not variables:
        return "none"
    elements = sum(math.prod(variable["shape"]) for variable in variables)
    size = sum(variable["bytes"] for variable in variables)
    trainable = sum(variable["trainable"] for variable in variables)
    which = {0: "none", len(variables): "all"}.get(trainable, f"{trainable:,}")
    return (
        f"{counted(len(variables), 'array')}, {counted(elements, 'element')}, {size_text(size)}, "
        f"{which} trainable"
    )


def _signatures(summary: Summary) -> Iterator[str]:
    if not summary["signatures"]:
        note = summary["signature_note"]
        first, *rest = f"none: {note}".splitlines() if note else ["none"]
        yield from _wrapped(first, 2)
        for text in rest:
            yield from _wrapped(text.strip(), 4)
    for name, signature in summary["signatures"].items():
        owner = signature["function"]
        yield f"  {name}{f' calls {owner}' if owner not in (None, name) else ''}"
        rows = [
            *_labelled("inputs", [_row(*item) for item in signature["inputs"].items()]),
            *_labelled("outputs", [_row(*item) for item in signature["outputs"].items()]),
        ]
        yield from _table(rows, 4)
        for stage in signature.get("stages", ()):
            yield from _wrapped(stage_text(stage), 4, hanging=2)
        yield from _facts(signature, 4)


def stage_text(stage: StageSummary) -> str:
    """A stage with its options as they are in the manifest, so that unknown ones are shown too."""
    texts = [
        f"{name} {one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)}"
        for name, one in stage["options"].items()
    ]
    cut = [
        t if len(t) <= _MAX_OPTION_LENGTH else f"{t[: _MAX_OPTION_LENGTH - 3]}..." for t in texts
    ]
    parts = [*cut, *(f"in {file}" for file in stage["files"])]
    parts += [] if stage["known"] else [f"needs jax-exporter {stage['since']}"]
    return f"stage {stage['kind']}: {', '.join(parts)}"


def _row(name: str, tensor: Tensor) -> tuple[str, ...]:
    if "default" not in tensor:
        return name, type_text(tensor)
    text = json.dumps(tensor["default"])
    cut = text if len(text) <= _MAX_DEFAULT_LENGTH else f"{text[: _MAX_DEFAULT_LENGTH - 3]}..."
    return name, type_text(tensor), f"default {cut}"


def _labelled(label: str, rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return [("" if position else label, *row) for position, row in enumerate(rows or [("none",)])]


def type_text(array: Tensor | VariableSummary) -> str:
    """The type of an array as specs are written."""
    shape = array["shape"]
    return f"{array['dtype']}[{'...' if shape is None else ', '.join(map(str, shape))}]"


def _function(function: AttachedFunction) -> Iterator[str]:
    path, *others = function["paths"]
    options = function["options"]
    yield f"  {path}{function['parameters']}"
    if doc := (function["doc"] or "").strip():
        yield from _wrapped(doc.splitlines()[0], 4)
    if others:
        yield from _wrapped(f"also {', '.join(others)}", 4)
    if not options:
        yield "    cannot be called: it had no input_signature, and was not called before saving"
    for number, option in enumerate(options, 1):
        if len(options) > 1:
            yield f"    option {number}"
        yield from _option(option, 6 if len(options) > 1 else 4)


def _option(option: Option, indent: int) -> Iterator[str]:
    rows = [
        (name, f"{text} (fixed)" if name in option["fixed"] else text)
        for name, text in option["arguments"].items()
    ]
    yield from _table([*rows, ("->", option["returns"])], indent)
    if not option["signatures"]:  # there it is said already
        yield from _facts(option, indent)


def _facts(call: Call, indent: int) -> Iterator[str]:
    for fact in facts(call):
        yield from _wrapped(fact, indent, hanging=2)


def facts(call: Call) -> list[str]:
    """What the types do not say: bounds, numbers of axes, changes of state, notes."""
    changes = call["changes"]
    hidden = len(changes) - _MAX_SHOWN_CHANGES
    shown = changes if hidden <= 1 else [*changes[:_MAX_SHOWN_CHANGES], f"{hidden} more"]
    open_inputs = [name for name, tensor in call["inputs"].items() if tensor["shape"] is None]
    return [
        *(f"where {name} is {bounds_text(bounds)}" for name, bounds in call["bounds"].items()),
        *_ranks(call, open_inputs),
        *([f"changes {_listed(shown)}"] if shown else []),
        *_derivatives(call),
        *([f"runs on a mesh of {_mesh(call['mesh'])} only"] if "mesh" in call else []),
        *(f"note: {note}" for note in call["notes"]),
    ]


def _derivatives(call: Call) -> list[str]:
    order, problem = call["derivatives"], call["no_derivative"]
    shown = [f"has derivatives of order {_listed([str(n + 1) for n in range(order)])}"]
    missing = [f"no derivative of order {order + 1}: {problem}"]
    return [*(shown if order else []), *(missing if problem else [])]


def _mesh(mesh: Mapping[str, int]) -> str:
    return _listed([f"{name}={size}" for name, size in mesh.items()])


def _split(variable: VariableSummary) -> tuple[str, ...]:
    """Over which axes of a mesh a variable was split, if it was."""
    spec = variable.get("partition_spec")
    if spec is None:
        return ()
    parts = [part if isinstance(part, str) else "+".join(part or ["-"]) for part in spec]
    return (f"split ({', '.join(parts)})",)


def bounds_text(bounds: Bounds) -> str:
    """The sizes that an axis may have."""
    found = (
        ("at least", bounds["min"]),
        ("at most", bounds["max"]),
        ("a multiple of", bounds["multiple_of"]),
    )
    return _listed([f"{words} {value}" for words, value in found if value is not None])


def _ranks(call: Call, names: Sequence[str]) -> list[str]:
    """For inputs of any rank: with how many axes there is a program, and why not with others."""
    if not names:
        return []
    subject = names[0] if len(names) == 1 else f"({', '.join(names)})"
    reasons: dict[str, list[list[int]]] = {}
    for untraced in call["untraced"]:
        reasons.setdefault(untraced["reason"], []).append(untraced["ranks"])
    return [
        f"where {subject} has {_axes(call['ranks'])}",
        *(f"no program for {_axes(ranks)}: {reason}" for reason, ranks in reasons.items()),
    ]


def _axes(choices: Sequence[Sequence[int]]) -> str:
    """`0, 1 or 2 axes`; of several inputs `(0, 1) or (1, 1) axes`."""
    shown = [
        str(ranks[0]) if len(ranks) == 1 else f"({', '.join(map(str, ranks))})" for ranks in choices
    ]
    return f"{_listed(shown, 'or')} {'axis' if shown == ['1'] else 'axes'}"


def _variables(variables: Sequence[VariableSummary]) -> list[str]:
    if not variables:
        return ["  none"]
    rows = [
        (
            *(one["path"], type_text(one), "yes" if one["trainable"] else "no", one["collection"]),
            *_split(one),
        )
        for one in variables
    ]
    return _table([("path", "type", "trainable", "collection"), *rows], 2)


def size_text(count: int) -> str:
    """A number of bytes in the unit that fits it."""
    if count < 1024:
        return counted(count, "byte")
    size, units = count / 1024, ["KiB", "MiB", "GiB", "TiB"]
    while size >= 1023.95 and len(units) > 1:  # it would be printed as 1024.0
        size, units = size / 1024, units[1:]
    return f"{size:,.1f} {units[0]}"


def counted(number: int, noun: str) -> str:
    """A number of things, the noun in the plural where there is not one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _listed(words: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _table(rows: Sequence[tuple[str, ...]], indent: int) -> list[str]:
    """Rows of cells as lines, each column as wide as its longest cell."""
    columns = max(map(len, rows))
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(columns)]
    return [
        " " * indent
        # A row may have fewer cells than there are columns.
        + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    ]


def _wrapped(text: str, indent: int, *, hanging: int = 0) -> list[str]:
    """Prose as lines. Those after the first stand `hanging` columns further to the right."""
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + hanging),
        break_long_words=False,
        break_on_hyphens=False,
    )
