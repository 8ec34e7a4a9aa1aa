"""The object tree of a manifest back into objects, lists, dicts and tuples."""

from collections.abc import Sequence
from typing import Any

from exporter.artifact.manifest import NodeRecord, scalar_of
from exporter.runtime.model import LoadedFunction, LoadedModel, LoadedObject
from exporter.variable import Variable
from signatures.tree import Scalar, make_record


def build(
    nodes: Sequence[NodeRecord],
    variables: Sequence[Variable],
    functions: Sequence[LoadedFunction],
) -> LoadedModel:
    """The root object. Two paths to one node lead to one object, and circles close."""
    made: dict[int, Any] = {}
    for index, node in enumerate(nodes):
        if node.kind == "variable":
            made[index] = variables[node.index]
        elif node.kind == "function":
            made[index] = functions[node.index]
        elif node.kind not in ("tuple", "namedtuple"):
            made[index] = _shell(node, is_root=index == 0)
    for index in range(len(nodes)):
        _immutable(index, nodes, made)
    for index, node in enumerate(nodes):
        keys = [scalar_of(key) for key in node.keys]
        _fill(made[index], node.kind, keys, [made[child] for child in node.children])
    root = made[0]
    assert isinstance(root, LoadedModel)
    return root


def _shell(node: NodeRecord, *, is_root: bool) -> Any:
    """What a node becomes, without its parts."""
    if node.kind == "object":
        return (LoadedModel if is_root else LoadedObject)(node.name)
    if node.kind == "value":
        return None if node.value is None else scalar_of(node.value)
    return [] if node.kind == "list" else {}


def _fill(made: Any, kind: str, keys: Sequence[Scalar], items: Sequence[Any]) -> None:
    """Give a node its parts."""
    if kind == "object":
        made.__dict__.update(zip(map(str, keys), items, strict=True))
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
