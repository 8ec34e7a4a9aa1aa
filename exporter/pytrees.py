"""Nodes of classes that are registered with JAX, taken apart one level at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from signatures.tree import Scalar


@dataclass(frozen=True)
class Branch:
    """One node of a registered class.

    Attributes:
      keys: for each child the attribute name, the key or the position under which JAX knows it.
      children: what stands there, arrays, other nodes or anything else.
      has_names: whether every key is the name of an attribute.
      static: everything else about the node, the class included. Two nodes of equal `static` are
        built alike.
      rebuild: makes a node of the same class and static parts from other children.
    """

    keys: tuple[Scalar, ...]
    children: tuple[object, ...]
    has_names: bool
    static: object
    rebuild: Callable[[Sequence[object]], Any]


def is_registered(value: object) -> bool:
    """Whether the value is a node of a registered class, and no container of Python's own."""
    if value is None or isinstance(value, list | tuple | dict):
        return False
    return not jax.tree_util.all_leaves((value,))


def branch_of(value: object) -> Branch | None:
    """The parts of a node of a registered class, or `None` for anything else.

    Lists, tuples and dicts of any kind are something else: they are containers of Python's own.
    """
    if not is_registered(value):
        return None
    pairs, treedef = jax.tree_util.tree_flatten_with_path(value, is_leaf=lambda v: v is not value)
    keys = tuple(_key(path[0]) for path, _ in pairs)
    return Branch(
        keys=keys,
        children=tuple(child for _, child in pairs),
        has_names=all(isinstance(path[0], GetAttrKey) for path, _ in pairs),
        static=treedef,
        rebuild=partial(jax.tree_util.tree_unflatten, treedef),
    )


def _key(key: object) -> Scalar:
    match key:
        case GetAttrKey(name=name):
            return str(name)
        case SequenceKey(idx=index) | FlattenedIndexKey(key=index):
            return int(index)
        case DictKey(key=found) if isinstance(found, Scalar):
            return found
    return str(key)
