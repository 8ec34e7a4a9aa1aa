"""The places where arrays live in a tracked object, so that others can be put there and back."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from exporter.errors import StateError
from exporter.variable import Variable, get_raw, set_raw


class Slot(ABC):
    """A place that holds a value with arrays in it: one array, or a tuple of them.

    Two slots are equal if they are the same place.
    """

    @abstractmethod
    def read(self) -> object:
        """What is there now."""

    @abstractmethod
    def write(self, value: object) -> None:
        """Put `value` there, past every check of the owner."""

    @property
    @abstractmethod
    def key(self) -> tuple[object, ...]:
        """What tells this place from every other one."""

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The owner accepts changes within the block, even under a trace."""
        yield


@dataclass(frozen=True, eq=False)
class AttributeSlot(Slot):
    """An attribute of an object."""

    owner: object
    name: str

    def read(self) -> object:
        return getattr(self.owner, self.name, None)

    def write(self, value: object) -> None:
        fields = getattr(self.owner, "__dict__", {})
        if self.name in fields:  # past the setters of frozen dataclasses and of frameworks
            fields[self.name] = value
        else:
            object.__setattr__(self.owner, self.name, value)

    @property
    def key(self) -> tuple[object, ...]:
        return ("attribute", id(self.owner), self.name)


@dataclass(frozen=True, eq=False)
class ItemSlot(Slot):
    """An item of a list or dict."""

    owner: MutableSequence[object] | MutableMapping[object, object]
    position: object

    def read(self) -> object:
        try:
            return self.owner[self.position]  # type: ignore[call-overload]  # an index or a key
        except LookupError:
            return None

    def write(self, value: object) -> None:
        self.owner[self.position] = value  # type: ignore[call-overload]  # an index or a key

    @property
    def key(self) -> tuple[object, ...]:
        return ("item", id(self.owner), self.position)


@dataclass(frozen=True, eq=False)
class VariableSlot(Slot):
    """The value of an `exporter.Variable`."""

    variable: Variable

    def read(self) -> object:
        return get_raw(self.variable)

    def write(self, value: object) -> None:
        set_raw(self.variable, value)  # type: ignore[arg-type]  # one array goes in and out

    @property
    def key(self) -> tuple[object, ...]:
        return ("variable", id(self.variable))


def is_array(value: object) -> bool:
    """Whether `value` is an array whose elements a program can hold."""
    if isinstance(value, jax.Array):
        return True
    return isinstance(value, np.ndarray) and value.dtype.kind in "biufcV"


def split(value: object) -> tuple[list[object], Callable[[Sequence[object]], object]]:
    """The arrays in a value, through tuples, and a function that builds it with other ones."""
    leaves: list[object] = []
    build = _split(value, leaves)
    return leaves, build


def _split(value: object, leaves: list[object]) -> Callable[[Sequence[object]], object]:
    if is_array(value):
        position = len(leaves)
        leaves.append(value)
        return lambda new: new[position]
    if isinstance(value, tuple):
        parts = [_split(item, leaves) for item in value]
        if hasattr(value, "_fields"):
            make: Any = type(value)
            return lambda new: make(*(part(new) for part in parts))
        return lambda new: tuple(part(new) for part in parts)
    return lambda _: value


@dataclass(frozen=True)
class Place:
    """One array: its slot and its position among the arrays there."""

    slot: Slot
    position: int

    @property
    def key(self) -> tuple[object, ...]:
        """What tells this place from every other one."""
        return (*self.slot.key, self.position)

    def read(self) -> object:
        """The array that is there now."""
        return split(self.slot.read())[0][self.position]


def read_all(places: Sequence[Place]) -> list[object]:
    """The arrays at the places now.

    Raises:
      StateError: if a slot no longer holds the arrays it held.
    """
    contents: dict[int, list[object]] = {}
    values = []
    for place in places:
        leaves = contents.get(id(place.slot))
        if leaves is None:
            leaves = contents[id(place.slot)] = split(place.slot.read())[0]
        if place.position >= len(leaves):
            raise StateError("a function replaced an array of the saved object by something else.")
        values.append(leaves[place.position])
    return values


@contextmanager
def swapped(places: Sequence[Place], values: Sequence[object]) -> Iterator[None]:
    """Within the block, each place holds the value given for it; then what it held before."""
    slots: dict[int, tuple[Slot, dict[int, object]]] = {}
    for place, value in zip(places, values, strict=True):
        slots.setdefault(id(place.slot), (place.slot, {}))[1][place.position] = value
    with ExitStack() as stack:
        for slot, new in slots.values():
            stack.enter_context(slot.opened())
            before = slot.read()
            stack.callback(slot.write, before)
            leaves, build = split(before)
            slot.write(build([new.get(i, leaf) for i, leaf in enumerate(leaves)]))
        yield


def write_all(places: Sequence[Place], values: Sequence[object]) -> None:
    """Put an array at each of the places, for good."""
    for place, value in zip(places, values, strict=True):
        leaves, build = split(place.slot.read())
        leaves[place.position] = value
        place.slot.write(build(leaves))
