"""Nested dicts, lists and tuples as plain data: what stands where, without the values.

A structure tells how the arguments of a function, or what it returned, are built from arrays and
Python values. It refers to arrays by their position, so the arrays themselves travel as a flat
list. It needs no class of the user's: a namedtuple is kept as its name and fields.
"""

from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

# Python values that a structure may hold beside arrays, and that JSON can hold.
Scalar = None | bool | int | float | complex | str | bytes


@dataclass(frozen=True)
class Leaf:
    """An array: the one at `index` in the flat list."""

    index: int


@dataclass(frozen=True, eq=False)
class Static:
    """A Python value that was there when the function was traced.

    Two of them are equal if their values are the same, as `same` says.

    Attributes:
      value: the value, or its `repr` if it is opaque.
      opaque: whether the value is of a kind that cannot be kept, so that only its `repr` is.
      original: the value as it was given, if it is of another type, in the process that traced it.
    """

    value: Scalar
    opaque: bool = False
    original: object = field(default=None, repr=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Static):
            return NotImplemented
        if self.opaque and other.opaque and not self.is_telling:
            return self.original is other.original
        return self.opaque == other.opaque and same(self.value, other.value)

    def __hash__(self) -> int:
        return hash((type(self.value), repr(self.value), self.opaque))

    @property
    def is_telling(self) -> bool:
        """Whether an equal value tells an equal original. Arrays are cut when they are printed."""
        return not (self.opaque and "rray(" in str(self.value))


@dataclass(frozen=True, eq=False)
class Constant:
    """An array that was there when the function was traced and is no input of it.

    Attributes:
      array: its dtype, shape and elements.
      original: the array as it was given, in the process that traced it.
    """

    array: np.ndarray
    original: object = field(default=None, repr=False)

    def equals(self, value: object) -> bool:
        """Whether `value` is an array of the same dtype, shape and elements."""
        dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
        if dtype != self.array.dtype or shape != self.array.shape:
            return False
        try:
            return bool(np.asarray(value).tobytes() == self.array.tobytes())
        except TypeError:  # a traced array, whose elements are not known
            return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and self.equals(other.array)

    def __hash__(self) -> int:
        return hash((self.array.dtype.name, self.array.shape, self.array.tobytes()))


@dataclass(frozen=True)
class Sequential:
    """A list or a tuple; with `fields`, a namedtuple of that type name.

    Attributes:
      kind: `list`, `tuple` or the type name.
      items: the parts.
      fields: the names of the parts of a namedtuple.
      make: the class of the namedtuple, in the process that has it.
    """

    kind: str
    items: tuple["Structure", ...]
    fields: tuple[str, ...] = ()
    make: Callable[..., object] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Keyed:
    """A dict, its keys in the order they were written."""

    keys: tuple[Scalar, ...]
    items: tuple["Structure", ...]


Structure = Leaf | Static | Constant | Sequential | Keyed


def flatten(value: object, is_leaf: Callable[[object], bool]) -> tuple[Structure, list[object]]:
    """The structure of `value` and its leaves in order.

    Args:
      value: any nesting of dicts, lists, tuples, namedtuples, leaves and Python values.
      is_leaf: says what counts as an array.
    """
    leaves: list[object] = []
    return _flatten(value, is_leaf, leaves), leaves


def parts(value: object) -> Iterator[object]:
    """Everything in nested dicts, lists and tuples that is none of these itself."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from parts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from parts(item)
    else:
        yield value


def unflatten(structure: Structure, leaves: Sequence[object]) -> object:
    """The value with `leaves` where the arrays were."""
    match structure:
        case Leaf(index):
            return leaves[index]
        case Static(value, _, original):
            return value if original is None else original
        case Constant(array, original):
            return array if original is None else original
        case Sequential(kind, items, fields, make):
            values = [unflatten(item, leaves) for item in items]
            if fields:
                return (make or make_record(kind, fields))(*values)
            return values if kind == "list" else tuple(values)
        case Keyed(keys, items):
            return {key: unflatten(item, leaves) for key, item in zip(keys, items, strict=True)}


def leaf_paths(structure: Structure, prefix: str = "") -> Iterator[tuple[str, int]]:
    """For each array its path (`"x/0/mask"`, keys and positions joined by '/') and its index."""
    match structure:
        case Leaf(index):
            yield prefix, index
        case Sequential() | Keyed():
            for key, item in children(structure):
                name = key if isinstance(key, str) else repr(key)
                yield from leaf_paths(item, f"{prefix}/{name}" if prefix else name)


def children(structure: Sequential | Keyed) -> Iterator[tuple[Scalar, Structure]]:
    """The parts of a container, each with its key, field or position."""
    match structure:
        case Sequential(_, items, fields):
            yield from zip(fields or range(len(items)), items, strict=True)
        case Keyed(keys, items):
            yield from zip(keys, items, strict=True)


def map_leaves(structure: Structure, change: Callable[[int], Structure]) -> Structure:
    """The same structure with another part in the place of each array."""
    match structure:
        case Leaf(index):
            return change(index)
        case Static() | Constant():
            return structure
        case Sequential(kind, items, fields, make):
            changed = tuple(map_leaves(item, change) for item in items)
            return Sequential(kind, changed, fields, make)
        case Keyed(keys, items):
            return Keyed(keys, tuple(map_leaves(item, change) for item in items))


def describe(structure: Structure, leaf: Callable[[int], str]) -> str:
    """The structure as text, as Python would print it."""
    match structure:
        case Leaf(index):
            return leaf(index)
        case Static(value, opaque):
            return str(value) if opaque else repr(value)
        case Constant(array):
            return f"array({array.tolist()}, {array.dtype.name})"
        case Sequential(kind, items, fields):
            parts = [describe(item, leaf) for item in items]
            if fields:
                named = (f"{name}={part}" for name, part in zip(fields, parts, strict=True))
                return f"{kind}({', '.join(named)})"
            if kind == "list":
                return f"[{', '.join(parts)}]"
            return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
        case Keyed(keys, items):
            pairs = zip(keys, items, strict=True)
            return f"{{{', '.join(f'{key!r}: {describe(item, leaf)}' for key, item in pairs)}}}"


def same(left: object, right: object) -> bool:
    """Whether two Python values are the same choice: of one type, and written the same.

    >>> same(3, 3.0), same(1, True), same(float("nan"), float("nan")), same(0.0, -0.0)
    (False, False, True, False)
    """
    return type(left) is type(right) and repr(left) == repr(right)


def plain(value: Scalar) -> Scalar:
    """The plain number or text of an instance of a subclass, such as a member of an IntEnum."""
    match value:
        case bool():
            return value
        case int():
            return int(value)
        case float():
            return float(value)
        case complex():
            return complex(value)
        case str():
            return str.__str__(value)  # the text itself, where str() gives the name of a member
        case bytes():
            return bytes(value)
    return value


def _flatten(value: object, is_leaf: Callable[[object], bool], leaves: list[object]) -> Structure:
    if is_leaf(value):
        leaves.append(value)
        return Leaf(len(leaves) - 1)
    if isinstance(value, Mapping):
        items = tuple(_flatten(item, is_leaf, leaves) for item in value.values())
        return Keyed(tuple(value), items)
    if isinstance(value, list | tuple):
        items = tuple(_flatten(item, is_leaf, leaves) for item in value)
        fields = tuple(getattr(value, "_fields", ()))
        if fields:
            return Sequential(type(value).__name__, items, fields, type(value))
        return Sequential("list" if isinstance(value, list) else "tuple", items)
    if isinstance(value, Scalar):
        kept = plain(value)
        return Static(kept, original=None if kept is value else value)
    return Static(repr(value), opaque=True, original=value)


@lru_cache(maxsize=1024)
def make_record(name: str, fields: tuple[str, ...]) -> Callable[..., object]:
    """A namedtuple class for a type name and fields, the same one each time."""
    return namedtuple(name, fields, rename=True)  # noqa: PYI024  # the fields are known only when loading
