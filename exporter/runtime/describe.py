"""A manifest as text for people and as plain data for programs. Neither needs JAX.

Both say the same: signatures by name, functions and variables by the attribute path under which a
loaded model has them. A function that can be reached in several ways is described once, at the
shortest path.
"""

import inspect
import math
import re
import textwrap
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from exporter.artifact.manifest import (
    ArrayRecord,
    ConcreteRecord,
    FunctionRecord,
    Manifest,
    NodeRecord,
    ParameterRecord,
    ProgramRecord,
    TensorRecord,
    VariableRecord,
    array_of,
    scalar_of,
    spec_of,
    structure_of,
)
from signatures.arguments import REQUIRED, Opaque, Parameter, python_signature
from signatures.dtypes import KeyType, as_dtype
from signatures.spec import Dim
from signatures.tree import Scalar, Static
from signatures.tree import describe as describe_structure

# Prose is broken at this column. Types and names never are: they are copied into code.
_WIDTH = 100

# A default value with more elements than this is shown by its type.
_MAX_SHOWN_ELEMENTS = 8

# How many variables a function that changes more of them is shown to change.
_MAX_SHOWN_CHANGES = 6

# What must not reach a terminal: names come from the artifact, which anybody may have written.
# Besides control characters these are line separators, changes of writing direction, and halves of
# UTF-16's pairs.
_UNPRINTABLE = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"  # as re reads escapes
)


def describe(manifest: Manifest, *, variables: bool = False) -> str:
    """The manifest as lines of text: what can be called, with what, and where it runs.

    Args:
      manifest: of an artifact.
      variables: whether each variable is listed, below the rest.
    """
    paths = _Paths.of(manifest.nodes)
    lines = [*_about(manifest), "", "Signatures", *_signatures(manifest, paths)]
    if manifest.functions:
        lines += ["", "Functions"]
        for index in paths.order(manifest):
            lines += _function(manifest, index, paths)
    if variables:
        lines += ["", "Variables", *_variables(manifest, paths)]
    return "\n".join(map(printable, lines))


def summary(manifest: Manifest) -> dict[str, object]:
    """The manifest as plain data for `json.dumps`, arranged as callers see a loaded model.

    The manifest's own JSON is arranged for readers of the artifact: this is for those who ask what
    is in it. Types of arrays are `dtype` and `shape`, whose axes are sizes, text for names and
    expressions, and `null` for any size; a `shape` of `null` is any number of axes.
    """
    paths = _Paths.of(manifest.nodes)
    return {
        "class": manifest.nodes[0].name,
        "created": manifest.created,
        "format_version": manifest.format_version,
        "written_by": dict(_producer(manifest)),
        "platforms": manifest.platforms,
        "stablehlo_version": manifest.stablehlo_version,
        "x64": manifest.x64,
        "content": {
            "programs": manifest.content.programs,
            "variables": manifest.content.variables,
        },
        "signatures": {
            name: _concrete_summary(manifest, number, paths)
            for name, number in manifest.signatures.items()
        },
        "signature_note": manifest.signature_note,
        "functions": [
            {
                "paths": paths.functions.get(index, []),
                "parameters": _parameters(function.parameters),
                "doc": function.doc,
                "options": [_option_summary(manifest, n, paths) for n in function.concrete],
            }
            for index in paths.order(manifest)
            for function in [manifest.functions[index]]
        ],
        "variables": [
            {
                "path": paths.variable(index, record),
                "key": record.key,
                "dtype": record.dtype,
                "shape": record.shape,
                "bytes": _bytes_of(record),
                "trainable": record.trainable,
                "collection": record.collection,
            }
            for index, record in enumerate(manifest.variables)
        ],
    }


def json_values(array: np.ndarray) -> object:
    """The values of an array as nested lists for JSON.

    Floats of 16 and 32 bits become the shortest decimals that stand for them. A complex number is
    a pair of its parts. JSON has no NaN and no infinities: they are the texts `"NaN"`,
    `"Infinity"` and `"-Infinity"`.
    """
    if array.dtype.kind == "c":
        array = np.stack([array.real, array.imag], axis=-1)
    if array.dtype in (np.float16, np.float32):
        array = array.astype(str).astype(np.float64)
    return _json_value(array.tolist())


def printable(text: str) -> str:
    """`text` with escapes in place of what would change a terminal or break a line."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@dataclass(frozen=True)
class _Paths:
    """The attribute paths of the functions and variables of a model, each by its number."""

    functions: Mapping[int, list[str]]
    variables: Mapping[int, list[str]]

    @classmethod
    def of(cls, nodes: Sequence[NodeRecord]) -> "_Paths":
        """Every way to a function or variable, the shortest first.

        What holds them is entered once, at its shortest path, so circles end.
        """
        found: dict[str, dict[int, list[str]]] = {"function": {}, "variable": {}}
        above: dict[int, tuple[int, str]] = {0: (0, "")}
        waiting = deque([0])
        while waiting:
            index = waiting.popleft()
            for step, child in _steps(nodes[index]):
                node = nodes[child]
                if node.kind in found:
                    path = f"{_path_to(index, above)}{step}".removeprefix(".")
                    found[node.kind].setdefault(node.index, []).append(path)
                elif child not in above:
                    above[child] = (index, step)
                    waiting.append(child)
        return cls(found["function"], found["variable"])

    def variable(self, index: int, record: VariableRecord) -> str:
        return self.variables.get(index, ["/".join(record.key)])[0]

    def function(self, index: int, record: FunctionRecord) -> str:
        return self.functions.get(index, [record.name])[0]

    def order(self, manifest: Manifest) -> list[int]:
        """The functions, those nearest to the root first."""
        return list(dict.fromkeys([*self.functions, *range(len(manifest.functions))]))


def _path_to(index: int, above: Mapping[int, tuple[int, str]]) -> str:
    steps = []
    while index:
        index, step = above[index]
        steps.append(step)
    return "".join(reversed(steps))


def _steps(node: NodeRecord) -> Iterator[tuple[str, int]]:
    """Each child, with what Python would write after its holder to reach it."""
    keys: Sequence[Scalar] = [scalar_of(key) for key in node.keys] or range(len(node.children))
    attributes = node.kind in ("object", "namedtuple")
    for key, child in zip(keys, node.children, strict=True):
        is_attribute = attributes and isinstance(key, str) and key.isidentifier()
        yield f".{key}" if is_attribute else f"[{key!r}]", child


def _about(manifest: Manifest) -> list[str]:
    sizes = {record.path: record.size for record in manifest.files}
    programs = sum(sizes.get(program.file, 0) for program in manifest.programs)
    writer, *others = (f"{name} {version}" for name, version in _producer(manifest))
    producer = ", ".join([f"{writer} in format {manifest.format_version}", *others])
    needs = [f"StableHLO {manifest.stablehlo_version} or newer"]
    needs += ["64-bit arrays (JAX_ENABLE_X64=1)"] if manifest.x64 else []
    created = manifest.created.replace("T", " ").replace("+00:00", " UTC")
    return [
        f"{manifest.nodes[0].name}, saved {created}",
        *_table(
            [
                ("platforms", ", ".join(manifest.platforms) or "none"),
                ("needs", ", ".join(needs)),
                ("written by", producer),
                ("programs", f"{_count(len(manifest.programs), 'file')}, {_bytes(programs)}"),
                ("", f"content id {manifest.content.programs}"),
                ("variables", _totals(manifest.variables)),
                ("", f"content id {manifest.content.variables}"),
            ],
            indent=2,
        ),
    ]


def _producer(manifest: Manifest) -> list[tuple[str, str]]:
    producer = manifest.producer
    return [
        ("jax-exporter", producer.jax_exporter),
        ("jax", producer.jax),
        ("jaxlib", producer.jaxlib),
        ("orbax-checkpoint", producer.orbax_checkpoint),
        ("Python", producer.python),
    ]


def _totals(variables: Sequence[VariableRecord]) -> str:
    if not variables:
        return "none"
    elements = sum(math.prod(variable.shape) for variable in variables)
    size = sum(map(_bytes_of, variables))
    trainable = sum(variable.trainable for variable in variables)
    which = {0: "none", len(variables): "all"}.get(trainable, f"{trainable:,}")
    return (
        f"{_count(len(variables), 'array')}, {_count(elements, 'element')}, {_bytes(size)}, "
        f"{which} trainable"
    )


def _signatures(manifest: Manifest, paths: _Paths) -> list[str]:
    if not manifest.signatures:
        if manifest.signature_note is None:
            return ["  none"]
        first, *rest = f"none: {manifest.signature_note}".splitlines()
        return [*_wrapped(first, 2), *(line for text in rest for line in _wrapped(text.strip(), 4))]
    lines = []
    for name, number in manifest.signatures.items():
        concrete = manifest.concrete_functions[number]
        owner = _owner(manifest, number, paths)
        lines.append(f"  {name}{f' calls {owner}' if owner not in (None, name) else ''}")
        rows = [
            *_labelled("inputs", [_tensor_row(tensor) for tensor in concrete.inputs]),
            *_labelled("outputs", [_tensor_row(tensor) for tensor in concrete.outputs]),
        ]
        lines += _table(rows, indent=4)
        lines += _facts(manifest, concrete, paths, indent=4)
    return lines


def _owner(manifest: Manifest, number: int, paths: _Paths) -> str | None:
    """The path of the attached function that a concrete function is one of, if there is any."""
    for index, function in enumerate(manifest.functions):
        if number in function.concrete:
            return paths.function(index, function)
    return None


def _tensor_row(tensor: TensorRecord) -> tuple[str, str, str]:
    default = "" if tensor.default is None else f"default {_array_text(tensor.default)}"
    return tensor.name, str(spec_of(tensor)), default


def _labelled(label: str, rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return [(label if not i else "", *row) for i, row in enumerate(rows or [("none",)])]


def _function(manifest: Manifest, index: int, paths: _Paths) -> Iterator[str]:
    function = manifest.functions[index]
    several = len(function.concrete) > 1
    yield f"  {paths.function(index, function)}{_parameters(function.parameters)}"
    if function.doc and function.doc.strip():
        yield from _wrapped(function.doc.strip().splitlines()[0], 4)
    if others := paths.functions.get(index, [])[1:]:
        yield from _wrapped(f"also {', '.join(others)}", 4)
    if not function.concrete:
        yield "    cannot be called: it had no input_signature, and was not called before saving"
    for option, number in enumerate(function.concrete, 1):
        if several:
            yield f"    option {option}"
        indent = 6 if several else 4
        concrete = manifest.concrete_functions[number]
        yield from _table(_call_rows(concrete), indent)
        if number not in manifest.signatures.values():  # it says so there
            yield from _facts(manifest, concrete, paths, indent)


def _call_rows(concrete: ConcreteRecord) -> list[tuple[str, str]]:
    """What a function takes and returns, as Python values with a type for each array."""
    inputs = _type_of(concrete.inputs)
    rows = []
    for name, part in concrete.arguments.items():
        structure = structure_of(part)
        fixed = " (fixed)" if isinstance(structure, Static) else ""
        rows.append((name, f"{describe_structure(structure, inputs)}{fixed}"))
    result = structure_of(concrete.result)
    return [*rows, ("->", describe_structure(result, _type_of(concrete.outputs)))]


def _type_of(tensors: Sequence[TensorRecord]) -> Callable[[int], str]:
    return lambda index: str(spec_of(tensors[index]))


def _parameters(records: Sequence[ParameterRecord]) -> str:
    """Parameters as in the function's definition."""
    return str(
        python_signature(
            Parameter(record.name, record.kind, Opaque(text) if text is not None else REQUIRED)
            for record, text in ((record, _default_text(record)) for record in records)
        ).replace(return_annotation=inspect.Signature.empty)
    )


def _default_text(parameter: ParameterRecord) -> str | None:
    if parameter.default is None:
        return None
    arrays = [_array_text(array) for array in parameter.default_arrays]
    return describe_structure(structure_of(parameter.default), arrays.__getitem__)


def _facts(
    manifest: Manifest, concrete: ConcreteRecord, paths: _Paths, indent: int
) -> Iterator[str]:
    """What the types do not say: bounds, numbers of axes, changes of state, notes."""
    programs = [manifest.programs[number] for number in concrete.programs]
    changed = dict.fromkeys(number for program in programs for number in program.updates)
    names = [paths.variable(number, manifest.variables[number]) for number in changed]
    hidden = len(names) - _MAX_SHOWN_CHANGES
    shown = names if hidden <= 1 else [*names[:_MAX_SHOWN_CHANGES], f"{hidden} more"]
    facts = [
        *(f"where {bounds}" for bounds in _bounds(concrete)),
        *_ranks(concrete, programs),
        *([f"changes {_and(shown)}"] if shown else []),
        *(f"note: {note}" for note in concrete.notes),
    ]
    for fact in facts:
        yield from _wrapped(fact, indent, hanging=2)


def _bounds(concrete: ConcreteRecord) -> list[str]:
    found: dict[str, Dim] = {}
    for tensor in concrete.inputs:
        found |= {dim.name: dim for dim in spec_of(tensor).dims}
    texts = []
    for dim in found.values():
        bounds = [
            f"{words} {value}"
            for words, value in (
                ("at least", dim.min),
                ("at most", dim.max),
                ("a multiple of", dim.multiple_of),
            )
            if value is not None
        ]
        texts.append(f"{dim.name} is {_and(bounds)}")
    return texts


def _ranks(concrete: ConcreteRecord, programs: Sequence[ProgramRecord]) -> list[str]:
    """For inputs of any rank: with how many axes there is a program, and why not with others."""
    names = [tensor.name for tensor in concrete.inputs if tensor.shape is None]
    if not names:
        return []
    subject = names[0] if len(names) == 1 else f"({', '.join(names)})"
    reasons: dict[str, list[list[int]]] = {}
    for untraced in concrete.untraced:
        reasons.setdefault(untraced.reason, []).append(untraced.ranks)
    return [
        f"where {subject} has {_axes([program.ranks for program in programs])}",
        *(f"no program for {_axes(ranks)}: {reason}" for reason, ranks in reasons.items()),
    ]


def _axes(choices: Sequence[Sequence[int]]) -> str:
    """`0, 1 or 2 axes`; of several inputs `(0, 1) or (1, 1) axes`."""
    shown = [
        str(ranks[0]) if len(ranks) == 1 else f"({', '.join(map(str, ranks))})" for ranks in choices
    ]
    return f"{_and(shown, 'or')} {'axis' if shown == ['1'] else 'axes'}"


def _variables(manifest: Manifest, paths: _Paths) -> list[str]:
    if not manifest.variables:
        return ["  none"]
    rows = [
        (
            paths.variable(index, record),
            f"{record.dtype}[{', '.join(map(str, record.shape))}]",
            "yes" if record.trainable else "no",
            record.collection,
        )
        for index, record in enumerate(manifest.variables)
    ]
    return _table([("path", "type", "trainable", "collection"), *rows], indent=2)


def _concrete_summary(manifest: Manifest, number: int, paths: _Paths) -> dict[str, object]:
    concrete = manifest.concrete_functions[number]
    programs = [manifest.programs[index] for index in concrete.programs]
    changed = dict.fromkeys(index for program in programs for index in program.updates)
    bounds = {dim.name: dim for tensor in concrete.inputs for dim in spec_of(tensor).dims}
    return {
        "function": _owner(manifest, number, paths),
        "inputs": {tensor.name: _tensor_summary(tensor) for tensor in concrete.inputs},
        "outputs": {tensor.name: _tensor_summary(tensor) for tensor in concrete.outputs},
        "bounds": {
            name: {"min": dim.min, "max": dim.max, "multiple_of": dim.multiple_of}
            for name, dim in bounds.items()
        },
        "ranks": [program.ranks for program in programs if program.ranks],
        "untraced": [{"ranks": one.ranks, "reason": one.reason} for one in concrete.untraced],
        "changes": [paths.variable(index, manifest.variables[index]) for index in changed],
        "notes": concrete.notes,
    }


def _option_summary(manifest: Manifest, number: int, paths: _Paths) -> dict[str, object]:
    """One type of arguments of a function: as for a signature, and how arrays are nested."""
    concrete = manifest.concrete_functions[number]
    *arguments, (_, returns) = _call_rows(concrete)
    common = _concrete_summary(manifest, number, paths)
    del common["function"]
    return {
        "signatures": [name for name, own in manifest.signatures.items() if own == number],
        "signature_problem": concrete.signature_problem,
        "arguments": dict(arguments),
        "returns": returns,
        **common,
    }


def _tensor_summary(tensor: TensorRecord) -> dict[str, object]:
    """The type of an array; `default` is there only if the array may be left out."""
    summary: dict[str, object] = {"dtype": tensor.dtype, "shape": tensor.shape}
    if tensor.shape is None:
        summary["max_rank"] = tensor.max_rank
    if tensor.default is not None:
        summary["default"] = json_values(array_of(tensor.default))
    return summary


def _json_value(value: object) -> object:
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    return value


def _array_text(record: ArrayRecord) -> str:
    """A small array as its values, a larger one as its type."""
    array = array_of(record)
    if array.size > _MAX_SHOWN_ELEMENTS:
        return f"{record.dtype}[{', '.join(map(str, record.shape))}]"
    if array.dtype in (np.float16, np.float32):
        array = array.astype(str).astype(np.float64)
    return str(array.tolist())


def _bytes_of(variable: VariableRecord) -> int:
    """What the array takes in memory. NumPy gives the small integers and floats a byte each."""
    dtype = as_dtype(variable.dtype)
    itemsize = 4 * dtype.words if isinstance(dtype, KeyType) else dtype.itemsize
    return math.prod(variable.shape) * itemsize


def _bytes(count: int) -> str:
    if count < 1024:
        return _count(count, "byte")
    size, units = count / 1024, ["KiB", "MiB", "GiB", "TiB"]
    while size >= 1023.95 and len(units) > 1:  # would print as 1024.0
        size, units = size / 1024, units[1:]
    return f"{size:,.1f} {units[0]}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _and(words: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _table(rows: Sequence[tuple[str, ...]], indent: int) -> list[str]:
    """Rows of cells as lines, each column as wide as its longest cell."""
    columns = max(map(len, rows), default=0)
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(columns)]
    return [
        " " * indent
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
