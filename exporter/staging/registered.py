"""Objects of classes registered with JAX: which are walked by attribute, and which made anew.

JAX takes such an object apart into children and puts another one together. If the children are
what lies in the object's attributes, as in modules of Equinox and registered dataclasses, it is an
object like any other: its arrays are exchanged where they are, so that functions bound to it and
other ways to it keep working. If they are not, as in a `FrozenDict`, it is a value like a tuple:
its arrays are exchanged by putting another object in its place.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np

from exporter.pytrees import Branch, branch_of, is_registered
from exporter.staging.frameworks import frameworks
from exporter.variable import Variable
from signatures.tree import Scalar

# The attribute by which a loaded function or a trace offers itself to be saved again.
STORED = "__exporter_stored__"


def is_array(value: object) -> bool:
    """Whether `value` is an array whose elements a program can hold."""
    if isinstance(value, jax.Array):
        return True
    return isinstance(value, np.ndarray) and value.dtype.kind in "biufcV"


def attributes_of(value: object) -> dict[str, object]:
    """What an object holds in its slots and its `__dict__`, by name."""
    found = {name: getattr(value, name) for name in slot_names(value) if hasattr(value, name)}
    return found | dict(getattr(value, "__dict__", {}))


def slot_names(value: object) -> list[str]:
    """The names in the `__slots__` of the classes of an object."""
    names: list[str] = []
    for base in type(value).__mro__:
        slots = base.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def is_box(value: object) -> bool:
    """Whether the value is a mutable array, of ours or of a framework."""
    return isinstance(value, Variable) or any(one.box(value) for one in frameworks())


def parts_of(value: object, *, inside: bool = False) -> Branch | None:
    """The parts of a value that is made anew to change it, or `None` for anything else.

    Args:
      value: anything.
      inside: whether it stands in an object that is made anew. What JAX puts together is free to
        copy the lists and dicts in it, so there they are made anew too.
    """
    if isinstance(value, tuple):
        make: Any = type(value)
        if hasattr(value, "_fields"):
            return Branch(value._fields, value, True, make, lambda new: make(*new))
        return Branch(tuple(range(len(value))), value, False, make, tuple)
    if isinstance(value, list | dict):
        return _container(value) if inside else None
    if not is_registered(value) or _is_claimed(value) or is_box(value) or _has_functions(value):
        return None
    branch = branch_of(value)
    return None if branch is None or _are_held(branch, attributes_of(value)) else branch


def data_of(value: object) -> frozenset[str] | None:
    """The attributes of a registered object that are data to JAX, or `None` if that is not clear.

    The others are static: they say how to compute and are no state, even if they are arrays.
    """
    branch = None if _is_claimed(value) else branch_of(value)
    if branch is None:
        return None
    held = attributes_of(value)
    if not _are_held(branch, held):
        return None
    if branch.has_names:
        return frozenset(map(str, branch.keys))
    children = {id(child) for child in branch.children}
    return frozenset(
        name
        for name, item in held.items()
        # Equal numbers are often one object, and say nothing of where they stand.
        if id(item) in children and not isinstance(item, int | float | complex)
    )


def is_record(value: object) -> bool:
    """Whether the numbers in a registered object are state, as the arrays beside them are.

    To `jax.jit` they are: so the step of a train state counts. They are not in what computes with
    them, as modules do, nor in objects that hold no array, such as settings.
    """
    if not is_registered(value) or callable(value) or _has_functions(value):
        return False
    return not _is_claimed(value) and any(map(is_array, jax.tree.leaves(value)))


def split(value: object) -> tuple[list[object], Callable[[Sequence[object]], object]]:
    """The arrays in a value that is one, or that is made anew, and a function that makes it."""
    leaves: list[object] = []
    build = _split(value, leaves, inside=False)
    return leaves, build


def way_to_array(value: object, *, inside: bool = False) -> tuple[Scalar, ...] | None:
    """The keys that lead to the first of the arrays that `split` finds, or `None` without any."""
    if is_array(value):
        return ()
    parts = parts_of(value, inside=inside)
    for key, child in zip(parts.keys, parts.children, strict=True) if parts else ():
        way = way_to_array(child, inside=inside or is_registered(value))
        if way is not None:
            return (key, *way)
    return None


def _split(
    value: object, leaves: list[object], *, inside: bool
) -> Callable[[Sequence[object]], object]:
    if is_array(value):
        position = len(leaves)
        leaves.append(value)
        return lambda new: new[position]
    parts = parts_of(value, inside=inside)
    if parts is None:
        return lambda _: value
    inside = inside or is_registered(value)
    builders = [_split(child, leaves, inside=inside) for child in parts.children]
    return lambda new: parts.rebuild([build(new) for build in builders])


def _container(value: list[object] | dict[Any, object]) -> Branch:
    if isinstance(value, dict):
        keys = tuple(value)
        children = tuple(value.values())
        return Branch(keys, children, False, (type(value), keys), partial(_filled, value))
    positions = tuple(range(len(value)))
    return Branch(positions, tuple(value), False, type(value), partial(_filled, value))


def _filled(value: Any, items: Iterable[object]) -> object:
    """A list or dict of the same kind with other items."""
    made = copy(value)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key, item in zip(keys, items, strict=True):
        made[key] = item
    return made


def _is_claimed(value: object) -> bool:
    """Whether a framework's own file says how the value is walked."""
    return any(framework.is_node(value) for framework in frameworks())


def _are_held(branch: Branch, held: Mapping[str, object]) -> bool:
    """Whether every child is what some attribute holds, the one of its name if it has one."""
    if branch.has_names:
        pairs = zip(branch.keys, branch.children, strict=True)
        return all(name in held and held[str(name)] is child for name, child in pairs)
    found = {id(item) for item in held.values()}
    return all(id(child) in found for child in branch.children)


def _has_functions(value: object) -> bool:
    """Whether the object has decorated functions, which are bound to it."""
    cls: Any = type(value)
    return _class_has_functions(cls)


@lru_cache(maxsize=1024)
def _class_has_functions(cls: type[Any]) -> bool:
    attributes = (item for base in cls.__mro__ for item in vars(base).values())
    plain = (
        item.__func__ if isinstance(item, staticmethod | classmethod) else item
        for item in attributes
    )
    return any(hasattr(type(item), STORED) for item in plain)
