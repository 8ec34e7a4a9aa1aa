"""The object tree of a manifest back into objects, lists, dicts and tuples."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from exporter.artifact.encoding import scalar_of
from exporter.artifact.layout import inside
from exporter.artifact.records import Manifest, NodeRecord
from exporter.asset import Asset
from exporter.runtime.functions import LoadedFunction
from exporter.runtime.model import LoadedModel, LoadedObject, Signatures
from exporter.variable import Variable
from signatures.tree import Scalar, make_record


def build(
    manifest: Manifest,
    variables: Sequence[Variable],
    functions: Sequence[LoadedFunction],
    signatures: Callable[[Mapping[str, int]], Signatures],
    folder: Path,
) -> Mapping[int, Any]:
    """What each node becomes. Two paths to one node lead to one object, and circles close.

    Assets are paths in `folder`.
    """
    made: dict[int, Any] = {}
    nodes = manifest.nodes
    for index, node in enumerate(nodes):
        if node.kind == "variable":
            made[index] = variables[node.index]
        elif node.kind == "function":
            made[index] = functions[node.index]
        elif node.kind == "asset":
            made[index] = Asset(inside(folder.resolve(), str(node.path)))
        elif node.kind not in ("tuple", "namedtuple"):
            made[index] = _shell(node, is_model=index == 0 or node.signatures is not None)
    for index in range(len(nodes)):
        _immutable(index, nodes, made)
    for index, node in enumerate(nodes):
        keys = [scalar_of(key) for key in node.keys]
        _fill(made[index], node.kind, keys, [made[child] for child in node.children])
        if node.signatures is not None:
            made[index].__dict__["__signatures__"] = signatures(node.signatures)
            made[index].__dict__["__manifest__"] = manifest
            made[index].__dict__["__variables__"] = list(_below(index, nodes, made))
    return made


def _below(
    start: int, nodes: Sequence[NodeRecord], made: Mapping[int, Any]
) -> Iterator[tuple[tuple[str, ...], Variable]]:
    """The variables below a node, each with the first way to it from there."""
    seen: set[int] = set()
    waiting: list[tuple[int, tuple[str, ...]]] = [(start, ())]
    while waiting:
        index, path = waiting.pop()
        if index in seen:
            continue
        seen.add(index)
        node = nodes[index]
        if node.kind == "variable":
            yield path, made[index]
        keys = [scalar_of(key) for key in node.keys] or range(len(node.children))
        pairs = zip(keys, node.children, strict=True)
        waiting += [(child, (*path, str(key))) for key, child in reversed(list(pairs))]


def _shell(node: NodeRecord, *, is_model: bool) -> Any:
    """What a node becomes, without its parts."""
    if node.kind == "object":
        return (LoadedModel if is_model else LoadedObject)(node.name)
    if node.kind == "value":
        return None if node.value is None else scalar_of(node.value)
    return [] if node.kind == "list" else {}


def _fill(made: Any, kind: str, keys: Sequence[Scalar], items: Sequence[Any]) -> None:
    """Give a node its parts."""
    if kind == "object":
        names = list(map(str, keys))
        made.__dict__.update(zip(names, items, strict=True))
        made.__dict__["__saved__"] = frozenset(names)
    elif kind == "list":
        made.extend(items)
    elif kind == "dict":
        made.update(zip(keys, items, strict=True))


def _immutable(index: int, nodes: Sequence[NodeRecord], made: dict[int, Any]) -> Any:
    """A tuple, made after its items. A circle always goes through something mutable."""
    node = nodes[index]
    if index not in made:
        items = [_immutable(child, nodes, made) for child in node.children]
        if node.kind == "namedtuple":
            fields = tuple(str(scalar_of(key)) for key in node.keys)
            made[index] = make_record(node.name, fields)(*items)
        else:
            made[index] = tuple(items)
    return made[index]
