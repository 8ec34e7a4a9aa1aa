"""Trees of arrays that a function replaces by others built alike, as a step of training does.

`self.params = jax.tree.map(step, self.params, gradients)` leaves a new dict where the tracked one
was, and `self.layer = equinox.tree_at(...)` a new object. If both are built alike, the arrays of
the new one are the new values of the old one's.
"""

from collections.abc import Iterator
from typing import Any

from exporter.pytrees import Branch, branch_of, is_registered
from exporter.staging.registered import attributes_of, data_of, is_array, is_box, parts_of
from exporter.staging.slots import put
from exporter.variable import Variable
from signatures.tree import Scalar

_NUMBERS = bool | int | float | complex

# Where two trees differ, and how.
Difference = tuple[tuple[Scalar, ...], str]


def is_tree(value: object) -> bool:
    """Whether the value is a list, tuple, dict or an object of a registered class."""
    return isinstance(value, list | tuple | dict) or (is_registered(value) and not is_box(value))


def is_update(old: object, new: object) -> bool:
    """Whether `new` is a tree built like `old`, with an array for each of its arrays."""
    return is_tree(old) and difference(old, new) is None


def difference(old: object, new: object) -> Difference | None:
    """Where `new` is not built like `old`, a tree, or has no array for one of its arrays."""
    if old is new:
        return None
    if is_array(old) or isinstance(old, Variable):
        fits = is_array(new) or isinstance(new, Variable | _NUMBERS)
        return None if fits else ((), f"holds {_kind(new)} instead of an array")
    if not is_tree(old):
        equal = isinstance(old, _NUMBERS | str) and type(old) is type(new) and old == new
        return None if equal or _same_static(old, new) else ((), "differs in a value")
    if type(old) is not type(new):
        return (), f"is {_kind(new)} instead of {_kind(old)}"
    problem = _shape_difference(old, new)
    if problem:
        return (), problem
    for key, before, after in _pairs(old, new):
        found = difference(before, after)
        if found:
            return (key, *found[0]), found[1]
    return None


def take_over(old: Any, new: Any, *, inside: bool = False) -> object:
    """What holds the arrays of `new` in the place of `old`. `is_update` holds for the two.

    That is `old` itself with other arrays in it, unless it is made anew to change it.
    """
    if old is new:
        return old
    if isinstance(old, Variable):
        old.value = new
        return old
    parts = parts_of(old, inside=inside)
    if parts is not None:
        inside = inside or is_registered(old)
        items = [take_over(before, after, inside=inside) for _, before, after in _pairs(old, new)]
        kept = all(item is before for item, before in zip(items, parts.children, strict=True))
        return old if kept else parts.rebuild(items)
    if isinstance(old, list | dict):
        for key, before, after in _pairs(old, new):
            old[key] = take_over(before, after)
        return old
    if is_tree(old):
        for name, before, after in _pairs(old, new):
            put(old, name, take_over(before, after))
        return old
    return new if is_array(old) else old


def _shape_difference(old: Any, new: Any) -> str | None:
    if isinstance(old, dict):
        return None if set(old) == set(new) else "has other keys"
    if isinstance(old, list | tuple):
        return None if len(old) == len(new) else f"has {len(new)} items instead of {len(old)}"
    one, other = _branch(old), _branch(new)
    if _same_static(one.static, other.static):
        return None
    return "has other static parts, which are part of the saved function"


def _pairs(old: Any, new: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Each key, position or attribute, with what is there in both."""
    if isinstance(old, dict):
        return ((key, old[key], new[key]) for key in old)
    if isinstance(old, list | tuple):
        return zip(range(len(old)), old, new, strict=True)
    names = data_of(old)
    if names is not None:
        before, after = attributes_of(old), attributes_of(new)
        return ((n, before[n], after[n]) for n in before if n in names)
    one, other = _branch(old), _branch(new)
    return zip(one.keys, one.children, other.children, strict=True)


def _branch(value: object) -> Branch:
    branch = branch_of(value)
    assert branch is not None, "a tree that is no container is registered"
    return branch


def _same_static(old: object, new: object) -> bool:
    """Whether two values are equal. Those that cannot say so, such as arrays, are not."""
    try:
        return old is new or bool(old == new)
    except Exception:  # noqa: BLE001  # whatever the user's own comparison raises
        return False


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
