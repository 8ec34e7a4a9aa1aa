"""Nested dicts, lists and tuples as plain data: what stands where, without the values.

A structure tells how the arguments of a function, or what it returned, are built from arrays and
Python values. It refers to arrays by their position, so the arrays themselves travel as a flat
list. It needs no class of the user's: a namedtuple is kept as its name and fields.
"""

from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from operator import itemgetter

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

    An object of another class is kept as the namedtuple or tuple of its parts.

    Attributes:
      kind: `list`, `tuple` or the type name.
      items: the parts.
      fields: the names of the parts of a namedtuple.
      make: makes the original from its parts, in the process that has its class.
      settled: how many of the last fields are no parts of the original, but belong to its type.
      static: what else must be equal for two to be built alike, in the process that has the class.
    """

    kind: str
    items: tuple["Structure", ...]
    fields: tuple[str, ...] = ()
    make: Callable[..., object] | None = field(default=None, compare=False, repr=False)
    settled: int = field(default=0, compare=False, repr=False)
    static: object = field(default=None, repr=False)


@dataclass(frozen=True)
class Keyed:
    """A dict, its keys in the order they were written.

    Attributes:
      keys: the keys.
      items: the parts.
      make: makes the original from its parts, in the process that has its class.
      static: as for a `Sequential`.
    """

    keys: tuple[Scalar, ...]
    items: tuple["Structure", ...]
    make: Callable[..., object] | None = field(default=None, compare=False, repr=False)
    static: object = field(default=None, repr=False)


Structure = Leaf | Static | Constant | Sequential | Keyed

# Takes an object of a class of its own apart: what it is kept as, still without its parts, and
# these. `None` for every other value.
Opener = Callable[[object], tuple[Sequential | Keyed, Sequence[object]] | None]


def flatten(
    value: object, is_leaf: Callable[[object], bool], opened: Opener = lambda _: None
) -> tuple[Structure, list[object]]:
    """The structure of `value` and its leaves in order.

    Args:
      value: any nesting of dicts, lists, tuples, namedtuples, leaves and Python values.
      is_leaf: says what counts as an array.
      opened: takes objects of other classes apart.
    """
    leaves: list[object] = []
    return _flatten(value, is_leaf, opened, leaves), leaves


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
            if make or fields:
                return (make or make_record(kind, fields))(*values)
            return values if kind == "list" else tuple(values)
        case Keyed(keys, items, make):
            values = [unflatten(item, leaves) for item in items]
            return make(*values) if make else dict(zip(keys, values, strict=True))


def unflattener(structure: Structure) -> Callable[[Sequence[object]], object]:
    """What `unflatten` does with a structure, for as many leaves as it has, in less time."""
    if structure == Leaf(0):
        return itemgetter(0)
    leaves = [Leaf(index) for index in range(sum(1 for _ in leaf_paths(structure)))]
    match structure:
        case Sequential(kind, items, (), None) if list(items) == leaves:
            return list if kind == "list" else tuple
        case Keyed(keys, items, None) if list(items) == leaves:
            return lambda values: dict(zip(keys, values, strict=True))
    return partial(unflatten, structure)


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


def own_parts(structure: Sequential | Keyed) -> Sequence[Structure]:
    """The parts of a container, without what belongs to the type of an object."""
    settled = structure.settled if isinstance(structure, Sequential) else 0
    return structure.items[: len(structure.items) - settled]


def map_leaves(structure: Structure, change: Callable[[int], Structure]) -> Structure:
    """The same structure with another part in the place of each array."""
    match structure:
        case Leaf(index):
            return change(index)
        case Static() | Constant():
            return structure
        case Sequential() | Keyed():
            changed = tuple(map_leaves(item, change) for item in structure.items)
            return replace(structure, items=changed)


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
            called = "" if kind == "tuple" else kind
            return f"{called}({', '.join(parts)}{',' if len(parts) == 1 and not called else ''})"
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


def _flatten(
    value: object, is_leaf: Callable[[object], bool], opened: Opener, leaves: list[object]
) -> Structure:
    if is_leaf(value):
        leaves.append(value)
        return Leaf(len(leaves) - 1)
    found = None if isinstance(value, Scalar) else opened(value) or _container(value)
    if found is None:
        return _static(value)
    shell, parts = found
    own = len(parts) - (shell.settled if isinstance(shell, Sequential) else 0)
    items = [_flatten(part, is_leaf, opened, leaves) for part in parts[:own]]
    return replace(shell, items=(*items, *map(_static, parts[own:])))


def _static(value: object) -> Static:
    if not isinstance(value, Scalar):
        return Static(repr(value), opaque=True, original=value)
    kept = plain(value)
    return Static(kept, original=None if kept is value else value)


def _container(value: object) -> tuple[Sequential | Keyed, Sequence[object]] | None:
    """What a container of Python's own is kept as, still without its parts, and these."""
    if isinstance(value, Mapping):
        return Keyed(tuple(value), ()), tuple(value.values())
    if isinstance(value, list | tuple):
        fields = tuple(getattr(value, "_fields", ()))
        if fields:
            return Sequential(type(value).__name__, (), fields, type(value)), value
        return Sequential("list" if isinstance(value, list) else "tuple", ()), value
    return None


@lru_cache(maxsize=1024)
def make_record(name: str, fields: tuple[str, ...]) -> Callable[..., object]:
    """A namedtuple class for a type name and fields, the same one each time."""
    return namedtuple(name, fields, rename=True)  # noqa: PYI024  # the fields are known only when loading
