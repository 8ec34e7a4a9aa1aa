"""What a walk through an object finds: its nodes, variables and functions, as plain values."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import jax
import numpy as np

from exporter.asset import Asset
from exporter.staging.frameworks import Framework
from exporter.staging.slots import Place, VariableSlot
from exporter.variable import Variable
from signatures.tree import Scalar

Path = tuple[Scalar, ...]

# What is worth keeping, with all that leads to it.
_KEPT = ("variable", "function", "asset")

_CONTAINERS = ("list", "tuple", "namedtuple", "dict")


@dataclass(frozen=True)
class Node:
    """One thing in the graph.

    Attributes:
      kind: `object`, `list`, `tuple`, `namedtuple`, `dict`, `variable`, `function`,
        `asset` or `value`.
      name: the class of an object, or of what comes back as a namedtuple, dict or tuple.
      keys: the attribute names, fields or keys of the children.
      children: the positions of the children among the nodes.
      index: the position among the variables, functions or assets.
      value: the Python value.
      token: what tells a value from others of its kind, for comparing layouts.
      signatures: for an object that was loaded, its signatures by name.
    """

    kind: str
    name: str = ""
    keys: Path = ()
    children: tuple[int, ...] = ()
    index: int = -1
    value: Scalar = None
    token: object = None
    signatures: tuple[tuple[str, object], ...] | None = None


@dataclass(frozen=True)
class TrackedVariable:
    """One array of the graph.

    Attributes:
      path: the first way to it from the root.
      place: where it lives.
      trainable: whether an optimiser should change it.
      collection: the kind of state: `Variable`, `array`, or a framework's own name.
      name: what the user called it, or `None`.
      shareable: whether it is a bare array, that the same array elsewhere is an alias of.
    """

    path: Path
    place: Place
    trainable: bool
    collection: str
    name: str | None = None
    shareable: bool = False

    def read(self) -> jax.Array | np.ndarray:
        """The array now."""
        return self.place.read()  # type: ignore[return-value]  # a place holds an array


@dataclass(frozen=True)
class TrackedFunction:
    """A function of the graph and the first way to it from the root."""

    path: Path
    function: object


@dataclass(frozen=True)
class TrackedAsset:
    """A file of the graph and the first way to it from the root."""

    path: Path
    asset: Asset


@dataclass(frozen=True)
class TrackedGraph:
    """What a root object reaches.

    Attributes:
      variables: every array, each place once.
      functions: every decorated function, each once.
      holders: every object, list and dict that was walked, with its path.
      layout: every node, those that lead nowhere included: two graphs with equal layouts have the
        same shape and the same Python numbers, flags and texts in it.
      assets: every file, each object once.
    """

    variables: tuple[TrackedVariable, ...]
    functions: tuple[TrackedFunction, ...]
    holders: tuple[tuple[Path, object], ...]
    layout: tuple[Node, ...]
    frameworks: tuple[Framework, ...]
    assets: tuple[TrackedAsset, ...] = ()

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Every thing that leads to a variable, function or asset, the root first."""
        return _pruned(self.layout)

    @cached_property
    def held(self) -> frozenset[int]:
        """The objects, lists and dicts that were walked, by identity."""
        return frozenset(id(holder) for _, holder in self.holders)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Within the block, objects of frameworks may be changed, even under a trace."""
        with ExitStack() as stack:
            for _, holder in self.holders:
                for framework in self.frameworks:
                    if framework.is_node(holder):
                        stack.enter_context(framework.opened(holder))
            yield

    @property
    def boxes(self) -> Iterator[Variable]:
        """The `exporter.Variable`s among the variables."""
        for variable in self.variables:
            if isinstance(variable.place.slot, VariableSlot):
                yield variable.place.slot.variable

    def with_root_function(self, name: str, function: object) -> "TrackedGraph":
        """The same graph with one more function at the root."""
        child = Node("function", index=len(self.functions))
        root = self.layout[0]
        keys, children = (*root.keys, name), (*root.children, len(self.layout))
        return replace(
            self,
            layout=(replace(root, keys=keys, children=children), *self.layout[1:], child),
            functions=(*self.functions, TrackedFunction((name,), function)),
        )

    def root_functions(self) -> Iterator[tuple[str, int]]:
        """The functions that are attributes of the root: name and position."""
        for key, child in zip(self.nodes[0].keys, self.nodes[0].children, strict=True):
            if self.nodes[child].kind == "function":
                yield str(key), self.nodes[child].index


def dotted(path: Iterable[Scalar]) -> str:
    """A path as Python would write it after the root: `layers[0].kernel`."""
    text = ""
    for key in path:
        if isinstance(key, str) and key.isidentifier():
            text += f".{key}" if text else key
        else:
            text += f"[{key!r}]"
    return text or "the object"


def _pruned(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes that lead to what is kept, renumbered. Containers keep all items."""
    parents: dict[int, list[int]] = {}
    for index, node in enumerate(nodes):
        for child in node.children:
            parents.setdefault(child, []).append(index)
    useful: set[int] = set()
    waiting = [i for i, node in enumerate(nodes) if node.kind in _KEPT]
    while waiting:
        index = waiting.pop()
        if index not in useful:
            useful.add(index)
            waiting += [parent for parent in parents.get(index, ()) if parent not in useful]
    kept: dict[int, int] = {}
    order: list[int] = []

    def keep(index: int) -> None:
        if index in kept:
            return
        kept[index] = len(order)
        order.append(index)
        node = nodes[index]
        for child in node.children:
            if node.kind != "object" or child in useful or _is_container(nodes, child):
                keep(child)

    keep(0)
    return tuple(_renumbered(nodes[index], kept) for index in order)


def _is_container(nodes: Sequence[Node], index: int) -> bool:
    """Whether a list, tuple or dict holds nothing but plain values, all the way down."""
    waiting, seen = [index], set()
    while waiting:
        node = nodes[waiting.pop()]
        if node.kind not in (*_CONTAINERS, "value"):
            return False
        fresh = [child for child in node.children if child not in seen]
        seen.update(fresh)
        waiting += fresh
    return nodes[index].kind in _CONTAINERS


def _renumbered(node: Node, kept: Mapping[int, int]) -> Node:
    pairs = list(zip(node.keys or [None] * len(node.children), node.children, strict=True))
    pairs = [(key, kept[child]) for key, child in pairs if child in kept]
    keys = tuple(key for key, _ in pairs) if node.keys else ()
    return replace(node, keys=keys, children=tuple(child for _, child in pairs))
