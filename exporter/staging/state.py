"""Exchange the arrays of a tracked object for traced ones, and see what a function made of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from exporter import notices
from exporter.errors import StateError, TrackingError
from exporter.staging.containers import (
    Difference,
    Write,
    changed_by,
    difference,
    is_tree,
    is_update,
    take_over,
)
from exporter.staging.graph import Path, TrackedGraph, TrackedVariable, dotted
from exporter.staging.registered import attributes_of, split, way_to_array
from exporter.staging.slots import put_item, remove, swapped
from exporter.variable import Variable, get_raw, only
from signatures.dtypes import DType, KeyType, as_dtype
from signatures.tree import parts


def dtype_of(variable: TrackedVariable) -> DType:
    """The dtype with which JAX computes on a variable: NumPy's 64 bits become 32 without x64."""
    dtype = variable.read().dtype
    if not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        dtype = jax.dtypes.canonicalize_dtype(dtype)
    return as_dtype(dtype)


def check_values(variables: Iterable[TrackedVariable]) -> None:
    """Refuse values that cannot be saved as they are.

    Raises:
      TrackingError: naming each traced array that has outlived its trace, each whose buffer is
        gone, and each NumPy array whose values do not fit the 32 bits that JAX makes of its 64.
        Fractions may be rounded.
    """
    found = [problem for variable in variables if (problem := _value_problem(variable))]
    if found:
        raise TrackingError("\n".join(found))


def _value_problem(variable: TrackedVariable) -> str | None:
    value, dtype = variable.read(), dtype_of(variable)
    traced = isinstance(value, jax.core.Tracer)
    if isinstance(value, jax.Array) and not traced and value.is_deleted():
        return (
            f"{dotted(variable.path)} is an array whose buffer was deleted: it was donated to a "
            "compiled function. Assign what that function returned in its place."
        )
    if traced:
        return (
            f"{dotted(variable.path)} is a traced array without a value: it was assigned under "
            "jax.jit, jax.grad or the like and has outlived the trace. Assign it an array."
        )
    if not isinstance(value, np.ndarray) or isinstance(dtype, KeyType) or value.dtype == dtype:
        return None
    with np.errstate(all="ignore"):
        narrow = value.astype(dtype)
        whole = value.dtype.kind in "iu"
        same = (
            np.array_equal(narrow, value)
            if whole
            else not (np.isinf(narrow) ^ np.isinf(value)).any()
        )
    if not same:
        return (
            f"{dotted(variable.path)} is a NumPy array of {value.dtype.name} with values that "
            f"{dtype.name} cannot hold, and JAX computes with {dtype.name} here. Call "
            "jax.config.update('jax_enable_x64', True) first, or hold smaller values."
        )
    return None


@dataclass(frozen=True)
class Held:
    """What a variable held before a function was traced, for comparing with what is there after.

    Attributes:
      variable: the variable.
      content: what its slot held, this array and the others beside it.
      dtype: its dtype, as JAX computes with it.
      shape: its shape.
      struct: the plain array that carries it, weakly typed if its value is.
    """

    variable: TrackedVariable
    content: object
    dtype: DType
    shape: tuple[int, ...]
    struct: jax.ShapeDtypeStruct

    @classmethod
    def of(cls, variable: TrackedVariable) -> "Held":
        """What the variable holds now."""
        value, dtype = variable.read(), dtype_of(variable)
        shape = tuple(value.shape)
        if isinstance(dtype, KeyType):
            struct = jax.ShapeDtypeStruct((*shape, dtype.words), jnp.uint32)
        else:
            weak = bool(getattr(value, "weak_type", False))
            struct = jax.ShapeDtypeStruct(shape, dtype, weak_type=weak)
        return cls(variable, variable.place.slot.read(), dtype, shape, struct)

    def after(self) -> object:
        """The array or number that a function left in the place.

        Raises:
          StateError: if there is none.
        """
        place = self.variable.place
        content = place.slot.read()
        if place.position == 0 and is_tree(self.content):
            _refuse_difference(self.variable.path, self.content, content)
        leaves = split(content)[0]
        if place.position < len(leaves):
            return leaves[place.position]
        if isinstance(content, bool | int | float | complex):
            return content
        raise StateError(
            f"the function leaves no array at {dotted(self.variable.path)}, where {self} was "
            f"before. {_KEEPS}"
        )

    def updated(self, new: object) -> jax.Array:
        """The new value, as an array.

        Raises:
          StateError: if it has another shape or dtype.
        """
        plain = np.uint32 if isinstance(self.dtype, KeyType) else self.dtype
        array = cast(jax.Array, new if hasattr(new, "dtype") else jnp.asarray(new, dtype=plain))
        found = as_dtype(array.dtype)
        if tuple(array.shape) != self.shape or found != self.dtype:
            axes = ", ".join(map(str, array.shape))
            raise StateError(
                f"{dotted(self.variable.path)} holds {self} and the function assigns "
                f"{found.name}[{axes}]. {_KEEPS}"
            )
        return array

    def __str__(self) -> str:
        return f"{self.dtype.name}[{', '.join(map(str, self.shape))}]"


def _refuse_difference(path: Path, old: object, new: object) -> None:
    """Refuse what is not built like the value that it replaces, whose first array is at `path`.

    Raises:
      StateError: saying where it differs.
    """
    found = difference(old, new)
    if found:
        way = way_to_array(old) or ()
        raise StateError(_replaced(path[: len(path) - len(way)], found))


def _replaced(path: Path, found: Difference) -> str:
    place, problem = dotted((*path, *found[0])), found[1]
    return (
        f"the function replaces {dotted(path)} by a value that is built otherwise: {place} "
        f"{problem}. {_KEEPS}"
    )


_KEEPS = "State keeps its shape and dtype."


@contextmanager
def exchanged(graph: TrackedGraph, values: Sequence[object]) -> Iterator[Callable[[], None]]:
    """Within the block, the graph's variables hold `values`; then what they held before.

    Gives a function to be called when the user's code has run: containers that it replaced by
    others built alike are put back, with the new arrays in them.

    Raises:
      StateError: at the end of the block, if a traced array was left where none was.
    """
    reach = frozenset(id(box) for box in graph.boxes)
    before = [(path, holder, _items(holder)) for path, holder in graph.holders]
    places = [variable.place for variable in graph.variables]
    known = {variable.place.slot.key for variable in graph.variables}
    with graph.opened(), only(reach), swapped(places, values):
        try:
            yield lambda: _settle(before)
        finally:
            for _, holder, old in before:
                if isinstance(holder, list) and len(holder) < len(old):
                    holder.extend(list(old.values())[len(holder) :])  # for `swapped` to put back
        for path, holder, old in before:
            _refuse_strays(path, holder, old, known)


@contextmanager
def restored(graph: TrackedGraph, function: str) -> Iterator[None]:
    """After the block, objects, lists and dicts hold what they held before, flags and all.

    Warns of Python numbers that the function changes: the saved function cannot.
    """
    before = [(path, holder, _items(holder)) for path, holder in graph.holders]
    changed: list[str] = []
    try:
        yield
    finally:
        for path, holder, old in before:
            changed += [dotted((*path, key)) for key in _changed(old, _items(holder))]  # type: ignore[arg-type]
            _restore(holder, old)
    if changed:
        notices.warn(
            f"{function} changes {', '.join(changed)}, which the saved function will not: only "
            "arrays are state. Hold it in a Variable.",
        )


def _changed(old: dict[object, object], new: dict[object, object]) -> list[object]:
    """The keys of the numbers that differ. Flags and texts say how to compute."""
    return [
        key
        for key, value in old.items()
        if isinstance(value, int | float | complex)
        and not isinstance(value, bool)
        and key in new
        and isinstance(new[key], int | float | complex)
        and new[key] != value
    ]


def _restore(holder: object, old: dict[Any, object]) -> None:
    if isinstance(holder, list):
        holder[:] = old.values()
        return
    now = _items(holder)
    for key in [key for key in now if key not in old]:
        _delete(holder, key)
    for key, value in old.items():
        if key not in now or now[key] is not value:
            put_item(holder, key, value)


# Each object, list and dict with its path and what it held before.
_Before = Sequence[tuple[Path, Any, dict[Any, object]]]


def _settle(before: _Before) -> None:
    """Put trees that were replaced by others built alike back, with the arrays of the others."""
    updates = [
        ((*path, key), holder, key, old[key], value)
        for path, holder, old in before
        for key, value in _items(holder).items()
        if value is not old.get(key) and is_update(old.get(key), value)
    ]
    changed: set[int] = set()
    for path, _, _, old_value, value in updates:
        nodes = {id(node) for node in changed_by(old_value, value)}
        _refuse_shared(path, nodes, before)
        changed |= nodes
    writes: list[Write] = []
    for _, holder, key, old_value, value in updates:
        if id(holder) not in changed:  # its arrays are those of what it was replaced by
            kept = take_over(old_value, value, writes)
            writes.append(partial(put_item, holder, key, kept))
    for write in writes:
        write()


def _refuse_shared(path: Path, changed: set[int], before: _Before) -> None:
    """Refuse to give other arrays to what is also held elsewhere, where it was not replaced.

    Raises:
      StateError: naming both places.
    """
    for way, holder, old in before if changed else ():
        for key, value in () if id(holder) in changed else _items(holder).items():
            both = (value, old.get(key))
            if (*way, key) != path and all(
                any(id(item) in changed for item in _in_tuples(one)) for one in both
            ):
                for _, one, items in before:
                    _restore(one, items)
                raise StateError(
                    f"the function replaces {dotted(path)}, which {dotted((*way, key))} holds too "
                    "and would lose its own arrays. Give that a copy before saving: "
                    "jax.tree.map(lambda leaf: leaf, ...)."
                )


def _in_tuples(value: object) -> Iterator[object]:
    """The value, or what a tuple of tuples holds."""
    if isinstance(value, tuple):
        for item in value:
            yield from _in_tuples(item)
    else:
        yield value


def _items(holder: object) -> dict[Any, object]:
    if isinstance(holder, list):
        return dict(enumerate(holder))
    found: dict[Any, object] = holder if isinstance(holder, dict) else attributes_of(holder)
    return dict(found)


def _refuse_strays(
    path: Path, holder: object, old: dict[object, object], known: set[tuple[object, ...]]
) -> None:
    """Undo and refuse traced arrays in places that held no array."""
    for key, value in _items(holder).items():
        kind = "item" if isinstance(holder, list | dict) else "attribute"
        if (kind, id(holder), key) in known or (key in old and value is old[key]):
            continue
        content = get_raw(value) if isinstance(value, Variable) else value
        leaves = (leaf for part in parts(content) for leaf in jax.tree.leaves(part))
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            _put_back(holder, key, old)
            if isinstance(old.get(key), Variable):
                raise StateError(
                    f"{dotted((*path, key))} is a Variable: assign its value, as in "
                    f"{dotted((*path, key))}.value = ..."
                )
            found = difference(old[key], value) if is_tree(old.get(key)) else None
            if found and is_tree(value):
                raise StateError(_replaced((*path, key), found))
            raise StateError(
                f"the function leaves an array at {dotted((*path, key))}, where none was before. "
                "State must exist before it is saved: assign an array of the right shape and dtype "
                "there first."
            )


def _put_back(holder: object, key: object, old: dict[object, object]) -> None:
    if key in old:
        put_item(holder, key, old[key])
    else:
        _delete(holder, key)


def _delete(holder: Any, key: Any) -> None:
    if isinstance(holder, list | dict):
        del holder[key]
    else:
        remove(holder, key)
