"""Exchange the arrays of a tracked object for traced ones, and see what a function made of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from exporter.errors import StateError
from exporter.staging.slots import swapped
from exporter.staging.tracking import Path, TrackedGraph, TrackedVariable, dotted
from exporter.variable import Variable, only
from signatures.dtypes import DType, KeyType, as_dtype


def dtype_of(variable: TrackedVariable) -> DType:
    """The dtype with which JAX computes on a variable: NumPy's 64 bits become 32 without x64."""
    dtype = variable.read().dtype
    if not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        dtype = jax.dtypes.canonicalize_dtype(dtype)
    return as_dtype(dtype)


def struct_of(variable: TrackedVariable) -> jax.ShapeDtypeStruct:
    """The plain array that carries a variable, weakly typed if its value is."""
    value = variable.read()
    dtype = dtype_of(variable)
    if isinstance(dtype, KeyType):
        return jax.ShapeDtypeStruct((*value.shape, dtype.words), jnp.uint32)
    weak = bool(getattr(value, "weak_type", False))
    return jax.ShapeDtypeStruct(value.shape, dtype, weak_type=weak)


def updated(variable: TrackedVariable, new: object) -> jax.Array:
    """The array a function left in the place of a variable.

    Raises:
      StateError: if it is no array, or one of another shape or dtype.
    """
    dtype, shape = dtype_of(variable), variable.read().shape
    plain = np.uint32 if isinstance(dtype, KeyType) else dtype
    array = cast(jax.Array, new if hasattr(new, "dtype") else jnp.asarray(new, dtype=plain))
    if tuple(array.shape) != tuple(shape) or as_dtype(array.dtype) != dtype:
        raise StateError(
            f"{dotted(variable.path)} holds {dtype.name}{list(shape)} and the function assigns "
            f"{array.dtype.name}{list(array.shape)}. State keeps its shape and dtype."
        )
    return array


@contextmanager
def exchanged(graph: TrackedGraph, values: Sequence[object]) -> Iterator[None]:
    """Within the block, the graph's variables hold `values`; then what they held before.

    Raises:
      StateError: at the end of the block, if a traced array was left where none was.
    """
    reach = frozenset(id(box) for box in graph.boxes)
    before = [(path, holder, _items(holder)) for path, holder in graph.holders]
    places = [variable.place for variable in graph.variables]
    with graph.opened(), only(reach), swapped(places, values):
        yield
        known = {variable.place.slot.key for variable in graph.variables}
        for path, holder, old in before:
            _refuse_strays(path, holder, old, known)


def _items(holder: object) -> dict[object, object]:
    if isinstance(holder, list | tuple):
        return dict(enumerate(holder))
    if isinstance(holder, dict):
        return dict(holder)
    return dict(getattr(holder, "__dict__", {}))


def _refuse_strays(
    path: Path, holder: object, old: dict[object, object], known: set[tuple[object, ...]]
) -> None:
    """Undo and refuse traced arrays in places that held no array."""
    for key, value in _items(holder).items():
        kind = "item" if isinstance(holder, list | dict) else "attribute"
        if (kind, id(holder), key) in known or (key in old and value is old[key]):
            continue
        content = value.value if isinstance(value, Variable) else value
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(content)):
            _put_back(holder, key, old)
            raise StateError(
                f"the function leaves an array at {dotted((*path, key))}, where none was before. "  # type: ignore[arg-type]
                "State must exist before it is saved: assign an array of the right shape and dtype "
                "there first."
            )


def _put_back(holder: object, key: object, old: dict[object, object]) -> None:
    fields: Any = holder if isinstance(holder, list | dict) else vars(holder)
    if key in old:
        fields[key] = old[key]
    else:
        del fields[key]
