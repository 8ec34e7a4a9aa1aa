"""The section of the object tree: what holds what, and the values of the variables."""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from exporter.artifact.records import Manifest, NodeRecord
from exporter.distribution import Distribution, drawing
from exporter.distribution import facts as facts_of
from exporter.markup import Child, Markup, element, fragment
from exporter.runtime.describe import counted, size_text, totals, type_text
from exporter.runtime.page.parts import cut, fold, section
from exporter.runtime.paths import steps
from exporter.runtime.summary import Summary, VariableSummary

# A page of 10,000 variables has 2 MB. What is beyond is counted.
MAX_LEAVES = 10_000

# Browsers flatten what is nested more than 512 elements deep; a level takes three.
_MAX_DEPTH = 40

# More parts than this are folded into groups of so many.
_GROUP = 100

# What the object itself holds is open from the start if it has no more parts than this.
_MAX_OPEN = 20

# A path that is shown in another place is cut at this length.
_MAX_PATH = 400

# Rows beyond this number are laid out when they are scrolled to.
_MANY = 500

# A sequence of more numbers is opened to be seen.
_MAX_PLAIN = 16

# Collections that say nothing.
_PLAIN = ("Variable", "array")

Values = Mapping[int, Distribution | str]


@dataclass(frozen=True)
class Branch:
    """A node where it is shown: at the shortest way to it.

    Attributes:
      step: what Python writes after its holder to reach it.
      node: what it is.
      parts: what it holds. What is shown elsewhere is the path of that place.
      variables: the numbers of the variables below it.
    """

    step: str
    node: NodeRecord
    parts: tuple["Branch | tuple[str, str]", ...]
    variables: tuple[int, ...]


def objects(manifest: Manifest, summary: Summary, values: Values, note: str) -> Markup:
    """The tree of the saved object.

    Args:
      manifest: of the artifact.
      summary: the same as callers see it.
      values: what is known of the values of variables, by their numbers.
      note: what was looked at of the values.
    """
    root = tree(manifest.nodes)
    writer = _Writer(summary["variables"], values)
    is_long = len(manifest.nodes) > _MANY
    body = element("ul", *writer.parts(root, 0), class_="tree many" if is_long else "tree")
    is_empty = not root.parts
    return section(
        "variables",
        "Object tree",
        element("p", totals(summary["variables"]), ". ", note, class_="quiet")
        if summary["variables"]
        else None,
        _search(len(summary["variables"])) if summary["variables"] else None,
        element("p", "The object holds nothing that is saved.") if is_empty else body,
        element("p", f"{writer.hidden:,} more parts left out of this page.", class_="left-out")
        if writer.hidden
        else None,
        count=f"{len(summary['variables']):,}",
    )


def _search(count: int) -> Markup:
    """What scripts bring to life: a filter, and a button that opens all."""
    return element(
        "div",
        element("label", "Find variables", for_="find"),
        element(
            "input",
            id="find",
            type="search",
            placeholder="kernel, float32, layers[3]",
            autocomplete="off",
            spellcheck="false",
        ),
        element("button", "Open all", type="button", id="open-all", aria_pressed="false"),
        element("output", f"{count:,} shown", id="found", for_="find"),
        class_="search",
        hidden=True,
    )


def tree(nodes: Sequence[NodeRecord]) -> Branch:
    """The nodes as a tree: each is where the shortest way leads, elsewhere is its path."""
    home: dict[int, tuple[int, int]] = {0: (-1, 0)}
    paths: dict[int, str] = {0: ""}
    waiting = deque([0])
    order = []
    while waiting:
        index = waiting.popleft()
        order.append(index)
        for position, (step, child) in enumerate(steps(nodes[index])):
            if child not in home:
                home[child] = (index, position)
                paths[child] = f"{paths[index]}{step}"[:_MAX_PATH]
                waiting.append(child)
    made: dict[int, Branch] = {}
    for index in reversed(order):
        parts: list[Branch | tuple[str, str]] = []
        for position, (step, child) in enumerate(steps(nodes[index])):
            if home[child] == (index, position):
                parts.append(_named(made.pop(child), step))
            else:
                parts.append((step, paths[child].removeprefix(".") or "the object itself"))
        node = nodes[index]
        own = (node.index,) if node.kind == "variable" else ()
        below = [n for part in parts if isinstance(part, Branch) for n in part.variables]
        made[index] = Branch("", node, tuple(parts), (*own, *below))
    return made[0]


def _named(branch: Branch, step: str) -> Branch:
    return Branch(step, branch.node, branch.parts, branch.variables)


class _Writer:
    """The tree as lists in lists. It counts what it leaves out."""

    def __init__(self, variables: Sequence[VariableSummary], values: Values) -> None:
        self._variables = variables
        self._values = values
        self._left = MAX_LEAVES
        self.hidden = 0

    def parts(self, branch: Branch, depth: int) -> Iterator[Markup]:
        """The parts of a node, in groups if they are many."""
        many = branch.parts
        if len(many) <= _GROUP:
            yield from self._each(many, depth)
            return
        for start in range(0, len(many), _GROUP):
            group = many[start : start + _GROUP]
            names = [part.step if isinstance(part, Branch) else part[0] for part in group]
            title = fragment(_name(names[0]), " \N{HORIZONTAL ELLIPSIS} ", _name(names[-1]))
            inside = list(self._each(group, depth + 1))
            if inside:
                yield element("li", fold(title, element("ul", *inside)))

    def _each(self, parts: Sequence[Branch | tuple[str, str]], depth: int) -> Iterator[Markup]:
        for part in parts:
            if self._left <= 0 or depth > _MAX_DEPTH:
                self.hidden += len(part.variables) or 1 if isinstance(part, Branch) else 1
            elif not isinstance(part, Branch):
                self._left -= 1
                yield element("li", _name(part[0]), _quiet(f"the same as {part[1]}"), class_="row")
            elif part.node.kind == "variable":
                self._left -= 1
                yield self._variable(part)
            elif part.parts and not _is_plain(part):
                yield self._holder(part, depth)
            else:
                self._left -= 1
                yield element("li", _name(part.step), _quiet(_text(part)), class_="row")

    def _holder(self, branch: Branch, depth: int) -> Markup:
        mine = [self._variables[number] for number in branch.variables]
        size = sum(one["bytes"] for one in mine)
        about = f"{counted(len(mine), 'array')}, {size_text(size)}" if mine else ""
        title = fragment(_name(branch.step), _quiet(_what(branch.node)), _quiet(about, "size"))
        is_open = len(branch.parts) <= _MAX_OPEN if depth == 0 else len(branch.parts) == 1
        inside = element("ul", *self.parts(branch, depth + 1))
        return element("li", fold(title, inside, is_open=is_open))

    def _variable(self, branch: Branch) -> Markup:
        one = self._variables[branch.node.index]
        kind = one["collection"] if one["collection"] not in _PLAIN else ""
        marks = [kind, "" if one["trainable"] else "not trainable"]
        marks += [f"split {one['partition_spec']}"] if "partition_spec" in one else []
        found = self._values.get(branch.node.index)
        values: tuple[Child, ...] = ()
        if isinstance(found, Distribution):
            facts = facts_of(found, math.prod(one["shape"]))
            values = (drawing(found), element("span", facts, class_="values"))
        elif found is not None:
            values = (element("span", found, class_="values"),)
        return element(
            "li",
            _name(branch.step),
            element("code", type_text(one)),
            _quiet(size_text(one["bytes"]), "size"),
            _quiet(", ".join(filter(None, marks)), "marks"),
            *values,
            class_="row variable",
        )


def _name(step: str) -> Markup:
    return element("span", cut(step.removeprefix(".")), class_="name")


def _quiet(text: str, kind: str = "quiet") -> Markup | None:
    return element("span", cut(text), class_=kind) if text else None


def _is_plain(branch: Branch) -> bool:
    """Whether it is a short sequence of numbers and texts, which fits a line."""
    parts = branch.parts
    is_short = branch.node.kind in ("list", "tuple") and len(parts) <= _MAX_PLAIN
    return is_short and all(isinstance(p, Branch) and p.node.kind == "value" for p in parts)


def _text(branch: Branch) -> str:
    """What something without variables is, in a line."""
    if not branch.parts:
        return _what(branch.node)
    items = (part.node.value for part in branch.parts if isinstance(part, Branch))
    shown = ", ".join("None" if item is None else item.text or "None" for item in items)
    return f"{branch.node.kind} of {shown}"[:_MAX_PATH]


def _what(node: NodeRecord) -> str:
    """What kind of thing a node is."""
    if node.kind in ("object", "namedtuple"):
        return node.name
    if node.kind == "value":
        return "a value" if node.value is None else f"{node.value.type} {node.value.text}"[:80]
    if node.kind == "asset":
        return f"file {node.path}"
    count = f" of {len(node.children):,}" if node.kind in ("list", "tuple", "dict") else ""
    return f"{node.kind}{count}"
