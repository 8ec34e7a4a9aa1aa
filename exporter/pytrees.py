"""Nodes of classes that are registered with JAX, taken apart one level at a time.

An artifact knows no class of the user's. As an argument or a result, a node whose parts are named
by attributes is kept as the namedtuple of that type name, one with keys as a dict, any other as a
tuple. A process that has the class may pass its own objects all the same.
"""

import dataclasses
import keyword
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from signatures.tree import Keyed, Scalar, Sequential, make_record


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


def opened(value: object) -> tuple[Sequential | Keyed, Sequence[object]] | None:
    """What an object of a class of its own is kept as, and its parts; see `signatures.tree`."""
    if type(value) in (OrderedDict, defaultdict):
        return _opened_dict(value)  # type: ignore[arg-type]  # one of the two
    branch = branch_of(value)
    if branch is None or not branch.children:
        return None
    static = _Static(branch.static)
    if branch.has_names:
        return _opened_object(value, branch, static)
    if all(isinstance(key, str) for key in branch.keys):
        shell: Sequential | Keyed = Keyed(branch.keys, (), _made_by(branch), static)
    else:
        shell = Sequential(_type_name(value), (), (), _made_by(branch), static=static)
    return shell, branch.children


def without_classes(value: object) -> Any:
    """The value as a process knows it that has none of its classes."""
    if isinstance(value, jax.Array | np.ndarray | Scalar) or hasattr(value, "dtype"):
        return value
    if isinstance(value, list | tuple):
        items = [without_classes(item) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        make: Any = type(value)
        return make(*items) if hasattr(value, "_fields") else make(items)
    if type(value) is dict:
        return {key: without_classes(item) for key, item in value.items()}
    found = opened(value)
    if found is None:
        return value
    shell, parts = found
    plain = [without_classes(part) for part in parts]
    if isinstance(shell, Keyed):
        return dict(zip(shell.keys, plain, strict=True))
    return make_record(shell.kind, shell.fields)(*plain) if shell.fields else tuple(plain)


@dataclass(frozen=True, eq=False)
class _Static:
    """What two nodes must have in common. JAX hashes it only if the class's own data has a hash."""

    treedef: object

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Static):
            return NotImplemented
        try:
            return bool(self.treedef == other.treedef)
        except ValueError:  # arrays among the data, which have no one answer
            return self.treedef is other.treedef

    def __hash__(self) -> int:
        return 0


def _opened_dict(value: Mapping[Any, object]) -> tuple[Keyed, Sequence[object]]:
    keys = tuple(value)

    def make(*parts: object) -> object:
        again = OrderedDict() if isinstance(value, OrderedDict) else value.copy()  # type: ignore[attr-defined]
        again.update(zip(keys, parts, strict=True))
        return again

    return Keyed(keys, (), make, type(value)), tuple(value.values())


def _opened_object(
    value: object, branch: Branch, static: _Static
) -> tuple[Sequential, Sequence[object]]:
    """An object with named parts, and with the plain values that belong to its type."""
    names = [field.name for field in dataclasses.fields(value)] if _is_dataclass(value) else []  # type: ignore[arg-type]
    settled = {name: getattr(value, name, None) for name in names if name not in branch.keys}
    settled = {name: found for name, found in settled.items() if isinstance(found, Scalar)}
    kind = _type_name(value)
    fields: Any = make_record(kind, (*map(str, branch.keys), *settled))
    make = _made_by(branch)
    shell = Sequential(kind, (), fields._fields, make, len(settled), static)
    return shell, (*branch.children, *settled.values())


def _is_dataclass(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _made_by(branch: Branch) -> Callable[..., object]:
    return lambda *parts: branch.rebuild(parts[: len(branch.children)])


def _type_name(value: object) -> str:
    """The name of its class, as far as it is one: `Layer` for `Layer[int]`."""
    name = type(value).__name__.partition("[")[0]
    return name if name.isidentifier() and not keyword.iskeyword(name) else "Node"
