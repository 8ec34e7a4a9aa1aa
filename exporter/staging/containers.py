"""Containers that a function replaces by others of the same kind, as a step of training does.

`self.params = jax.tree.map(step, self.params, gradients)` leaves a new dict where the tracked one
was. If both are built alike, the arrays of the new one are the new values of the old one's.
"""

from collections.abc import Iterator
from typing import Any

from exporter.staging.slots import is_array
from exporter.variable import Variable

_NUMBERS = bool | int | float | complex


def is_update(old: object, new: object) -> bool:
    """Whether `new` is built like `old`, a list or dict, with an array for each of its arrays."""
    if isinstance(old, list):
        return isinstance(new, list) and len(old) == len(new) and _all_fit(old, new)
    if isinstance(old, dict):
        return isinstance(new, dict) and set(old) == set(new) and _all_fit(old, new)
    return False


def take_over(old: Any, new: Any) -> None:
    """Put the arrays of `new` where those of `old` are. `is_update` holds for the two."""
    for key, before, after in _pairs(old, new):
        if isinstance(before, list | dict):
            take_over(before, after)
        elif isinstance(before, Variable):
            if after is not before:
                before.value = after
        else:
            old[key] = after


def _all_fit(old: Any, new: Any) -> bool:
    return all(_fits(before, after) for _, before, after in _pairs(old, new))


def _fits(before: object, after: object) -> bool:
    if isinstance(before, list | dict):
        return is_update(before, after)
    if is_array(before) or isinstance(before, Variable):
        return is_array(after) or isinstance(after, Variable | _NUMBERS)
    if isinstance(before, tuple):
        return type(before) is type(after) and len(before) == len(after)
    return after is before or (isinstance(before, _NUMBERS | str) and after == before)


def _pairs(old: Any, new: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Each key or position, with what is there in both."""
    keys = old if isinstance(old, dict) else range(len(old))
    return ((key, old[key], new[key]) for key in keys)
