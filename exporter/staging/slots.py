"""The places where arrays live in a tracked object, so that others can be put there and back."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, MutableSequence, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from exporter.errors import StateError
from exporter.staging.registered import (
    is_array as is_array,  # noqa: PLC0414  # what lies in a slot; asked for beside the slots
)
from exporter.staging.registered import split
from exporter.variable import Variable, get_own, get_raw, held, set_raw


class Slot(ABC):
    """A place that holds a value with arrays in it: one array, or a value made anew with others.

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
        put(self.owner, self.name, value)

    @property
    def key(self) -> tuple[object, ...]:
        return ("attribute", id(self.owner), self.name)


@dataclass(frozen=True, eq=False)
class NumberSlot(AttributeSlot):
    """An attribute that holds a Python number, which is an array to programs.

    Attributes:
      number: what it holds before it holds an array.
      array: the same as an array, weakly typed as numbers are.
    """

    number: complex
    array: jax.Array

    @classmethod
    def of(cls, owner: object, name: str, number: complex) -> "NumberSlot":
        """The slot of an attribute that holds `number`."""
        return cls(owner, name, number, jnp.asarray(number))

    def read(self) -> object:
        value = super().read()
        return self.array if value is self.number else value

    def write(self, value: object) -> None:
        super().write(self.number if value is self.array else value)


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


def own(place: Place) -> Any:
    """The array there, or a copy if programs take its buffer for themselves."""
    slot = place.slot
    return get_own(slot.variable) if isinstance(slot, VariableSlot) else place.read()


def undisturbed(places: Iterable[Place]) -> AbstractContextManager[object]:
    """Within the block, calls of loaded functions in other threads change none of the places."""
    slots = (place.slot for place in places)
    return held(slot.variable for slot in slots if isinstance(slot, VariableSlot))


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
    with ExitStack() as stack:
        for slot, new in _by_slot(places, values):
            stack.enter_context(slot.opened())
            before = slot.read()
            stack.callback(slot.write, before)
            slot.write(_rebuilt(before, new))
        yield


def write_all(places: Sequence[Place], values: Sequence[object]) -> None:
    """Put an array at each of the places, for good."""
    with undisturbed(places):
        for slot, new in _by_slot(places, values):
            slot.write(_rebuilt(slot.read(), new))


def put(owner: object, name: str, value: object) -> None:
    """Set an attribute past the setters of frozen dataclasses and of frameworks."""
    fields = getattr(owner, "__dict__", {})
    if name in fields:
        fields[name] = value
    else:
        object.__setattr__(owner, name, value)


def put_item(holder: Any, key: Any, value: object) -> None:
    """Set an item of a list or dict, or an attribute of anything else likewise."""
    if isinstance(holder, list | dict):
        holder[key] = value
    else:
        put(holder, key, value)


def remove(owner: object, name: str) -> None:
    """Delete an attribute likewise."""
    fields = getattr(owner, "__dict__", {})
    if name in fields:
        del fields[name]
    else:
        object.__delattr__(owner, name)


def _by_slot(
    places: Sequence[Place], values: Sequence[object]
) -> Iterable[tuple[Slot, dict[int, object]]]:
    """Each slot once, with the new arrays for it by position."""
    slots: dict[int, tuple[Slot, dict[int, object]]] = {}
    for place, value in zip(places, values, strict=True):
        slots.setdefault(id(place.slot), (place.slot, {}))[1][place.position] = value
    return slots.values()


def _rebuilt(content: object, new: Mapping[int, object]) -> object:
    leaves, build = split(content)
    return build([new.get(position, leaf) for position, leaf in enumerate(leaves)])
