"""The saved object as a tree of text: what it holds, by the names it has. It needs no JAX.

A thing that is reached in two ways is drawn once; the other way refers to it, and so circles end.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict

from exporter.artifact.encoding import scalar_of
from exporter.artifact.records import Manifest, NodeRecord
from exporter.markup import printable
from exporter.runtime.describe import size_text, type_text
from exporter.runtime.paths import leaf_paths, steps
from exporter.runtime.summary import AttachedFunction, Summary, summarise

Kind = Literal[
    "object", "list", "tuple", "namedtuple", "dict", "variable", "function", "asset", "value"
]

# An author may put things into things until the lines are longer than memory.
_MAX_DEPTH = 40

# So many things in a row that are alike are drawn as one: the items of a list, and what has names.
_ALIKE_ITEMS = 3
_ALIKE_NAMES = 12

# A text is cut at this length.
_MAX_LENGTH = 60


@dataclass(frozen=True)
class Branch:
    """One place in an object tree.

    Attributes:
      step: what Python would write after its holder to reach it, such as `.kernel` or `[0]`.
      parent: the position of its holder, or -1.
      depth: how many holders are above it.
      kind: what it is.
      text: the same in words: a class, a type, the parameters of a function, a file.
      bytes: the size of a variable or an asset, and of all that is held by others.
      same_as: the position of the place where the same thing was met before, if it was.
    """

    step: str
    parent: int
    depth: int
    kind: Kind
    text: str
    bytes: int = 0
    same_as: int | None = None


class Place(TypedDict):
    """A branch for JSON. `parent` and `same_as` are positions in the list."""

    step: str
    parent: int | None
    kind: Kind
    text: str
    bytes: int
    same_as: int | None


def outline(manifest: Manifest) -> list[Branch]:
    """Every place in the object tree, each followed by what it holds."""
    summary = summarise(manifest)
    variables = {tuple(one["key"]): one for one in summary["variables"]}
    texts = {
        i: f"{type_text(variables[tuple(one.key)])}{'' if one.trainable else ', not trainable'}"
        for i, one in enumerate(manifest.variables)
    }
    sizes = {i: variables[tuple(one.key)]["bytes"] for i, one in enumerate(manifest.variables)}
    functions = _functions(manifest, summary)
    assets = {one["file"]: one["bytes"] for one in summary["assets"]}
    nodes = manifest.nodes
    found: list[Branch] = []
    first: dict[int, int] = {}
    waiting: list[tuple[int, str, int]] = [(0, "", -1)]
    while waiting:
        index, step, parent = waiting.pop()
        node = nodes[index]
        depth = found[parent].depth + 1 if parent >= 0 else 0
        known = first.get(index)
        text, size = _class_of(node), 0
        if node.kind == "variable":
            text, size = texts[node.index], sizes[node.index]
        elif node.kind == "function":
            text = functions[node.index]
        elif node.kind == "asset":
            text, size = str(node.path), assets[str(node.path)]
        found.append(Branch(step, parent, depth, node.kind, text, size, known))
        if known is None:
            first[index] = here = len(found) - 1
            waiting += [(child, step, here) for step, child in reversed(list(steps(node)))]
    return _with_totals(found)


def _with_totals(branches: Sequence[Branch]) -> list[Branch]:
    """The branches, those that hold others with the size of all that is in them."""
    sizes = [0 if one.same_as is not None else one.bytes for one in branches]
    for position in range(len(branches) - 1, 0, -1):
        sizes[branches[position].parent] += sizes[position]
    return [replace(one, bytes=size) for one, size in zip(branches, sizes, strict=True)]


def _functions(manifest: Manifest, summary: Summary) -> dict[int, str]:
    """The parameters of each function, by its number."""
    shown: list[AttachedFunction] = summary["functions"]
    by_path = {path: one for one in shown for path in one["paths"]}
    texts: dict[int, str] = {}
    for node, path in leaf_paths(manifest.nodes):
        if node.kind == "function" and node.index not in texts:
            texts[node.index] = by_path[path]["parameters"]
    return texts


def _class_of(node: NodeRecord) -> str:
    """What a thing that holds others, or a Python value, is called."""
    if node.kind == "value":
        value = None if node.value is None else scalar_of(node.value)
        text = repr(value)
        return text if len(text) <= _MAX_LENGTH else f"{text[: _MAX_LENGTH - 3]}..."
    if node.kind == "object":
        return node.name
    noun = f"{node.kind} of {len(node.children):,}" if node.children else f"empty {node.kind}"
    return f"{node.name}, {noun}" if node.name else noun


def places(branches: Sequence[Branch]) -> list[Place]:
    """The same for JSON."""
    return [
        {
            "step": one.step,
            "parent": one.parent if one.parent >= 0 else None,
            "kind": one.kind,
            "text": one.text,
            "bytes": one.bytes,
            "same_as": one.same_as,
        }
        for one in branches
    ]


def draw(branches: Sequence[Branch]) -> str:
    """The branches as lines of text. Many in a row that are alike are one line."""
    children: list[list[int]] = [[] for _ in branches]
    for position, branch in enumerate(branches):
        if branch.parent >= 0:
            children[branch.parent].append(position)
    shapes = _shapes(branches, children)
    lines = [_line(branches, 0)]
    waiting = [(_rows(branches, children[0], shapes), "")]
    while waiting:
        rows, indent = waiting[-1]
        row = next(rows, None)
        if row is None:
            waiting.pop()
            continue
        what, is_last = row
        lines.append(f"{indent}{'└── ' if is_last else '├── '}")
        if isinstance(what, str):
            lines[-1] += what
            continue
        lines[-1] += _line(branches, what)
        below = indent + ("    " if is_last else "│   ")
        if branches[what].depth < _MAX_DEPTH:
            waiting.append((_rows(branches, children[what], shapes), below))
        elif children[what]:
            lines.append(f"{below}└── … deeper than is drawn; --json has all of it")
    return "\n".join(map(printable, lines))


def _line(branches: Sequence[Branch], position: int) -> str:
    branch = branches[position]
    name = f"{branch.step.removeprefix('.')}  " if branch.step else ""
    if branch.same_as is not None:
        return f"{name}the same as {_path(branches, branch.same_as)}"
    if branch.kind == "function":
        return f"{branch.step.removeprefix('.')}{branch.text}"
    size = f"  {size_text(branch.bytes)}" if branch.bytes else ""
    return f"{name}{branch.text}{size}"


def _path(branches: Sequence[Branch], position: int) -> str:
    found: list[str] = []
    while position > 0 and len(found) <= _MAX_DEPTH:
        found.append(branches[position].step)
        position = branches[position].parent
    return "".join(["…" if position > 0 else "", *reversed(found)]).removeprefix(".") or "the root"


def _shapes(branches: Sequence[Branch], children: Sequence[Sequence[int]]) -> list[int]:
    """A number for each branch, which is that of another if the two hold the same kinds of things.

    What is met a second time is like nothing else: where it leads has to be told.
    """
    known: dict[object, int] = {}
    shapes = [0] * len(branches)
    for position in range(len(branches) - 1, -1, -1):
        one = branches[position]
        inside = tuple((branches[child].step, shapes[child]) for child in children[position])
        own = one.kind if one.kind == "value" else (one.kind, one.text, one.same_as)
        shapes[position] = known.setdefault((own, inside), len(known))
    return shapes


def _rows(
    branches: Sequence[Branch], siblings: Sequence[int], shapes: Sequence[int]
) -> Iterator[tuple[int | str, bool]]:
    """The branches to draw, a text for those that are left out, and whether each is the last."""
    start = 0
    while start < len(siblings):
        end = start + 1
        while end < len(siblings) and shapes[siblings[end]] == shapes[siblings[start]]:
            end += 1
        first, last = branches[siblings[start]], branches[siblings[end - 1]]
        in_list = branches[first.parent].kind in ("list", "tuple")
        if end - start < (_ALIKE_ITEMS if in_list else _ALIKE_NAMES):
            for position in siblings[start:end]:
                yield position, position == siblings[-1]
        else:
            name, until = (one.step.removeprefix(".") for one in (first, last))
            yield siblings[start], False
            yield f"… {end - start - 1:,} more like {name}, to {until}", end == len(siblings)
        start = end
