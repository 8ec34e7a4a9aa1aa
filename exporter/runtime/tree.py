"""The object tree of a manifest back into objects, lists, dicts and tuples."""

from collections.abc import Sequence
from typing import Any

from exporter.artifact.manifest import NodeRecord, scalar_of
from exporter.runtime.model import LoadedFunction, LoadedModel, LoadedObject
from exporter.variable import Variable
from signatures.tree import make_record


def build(
    nodes: Sequence[NodeRecord],
    variables: Sequence[Variable],
    functions: Sequence[LoadedFunction],
) -> LoadedModel:
    """The root object. Two paths to one node lead to one object, and circles close."""
    made: dict[int, Any] = {}
    for index, node in enumerate(nodes):
        match node.kind:
            case "object":
                made[index] = (LoadedObject if index else LoadedModel)(node.name)
            case "list":
                made[index] = []
            case "dict":
                made[index] = {}
            case "variable":
                made[index] = variables[node.index]
            case "function":
                made[index] = functions[node.index]
            case "value":
                made[index] = None if node.value is None else scalar_of(node.value)
    for index in range(len(nodes)):
        _immutable(index, nodes, made)
    for index, node in enumerate(nodes):
        items = [made[child] for child in node.children]
        keys = [scalar_of(key) for key in node.keys]
        match node.kind:
            case "object":
                made[index].__dict__.update(zip(map(str, keys), items, strict=True))
            case "list":
                made[index].extend(items)
            case "dict":
                made[index].update(zip(keys, items, strict=True))
    root = made[0]
    assert isinstance(root, LoadedModel)
    return root


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
