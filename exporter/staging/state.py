"""Exchange the arrays of a tracked object for traced ones, and see what a function made of them."""

from collections.abc import Iterator, MutableMapping, MutableSequence, Sequence
from contextlib import contextmanager

import jax
import jax.numpy as jnp

from exporter.errors import StateError
from exporter.staging.slots import swapped
from exporter.staging.tracking import Path, TrackedGraph, TrackedVariable, dotted
from exporter.variable import Variable, only
from signatures.dtypes import DType, KeyType, as_dtype

# A random key travels through programs as the uint32 words it is made of: every reader has those.


def to_words(value: object) -> jax.Array:
    """The plain array for a value: keys as words, everything else as it is."""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(value)
    return jnp.asarray(value)  # type: ignore[arg-type]  # an array or a number


def from_words(value: jax.Array, dtype: DType) -> jax.Array:
    """The value of that dtype for a plain array."""
    if isinstance(dtype, KeyType):
        return jax.random.wrap_key_data(value, impl=dtype.implementation)
    return value


def dtype_of(variable: TrackedVariable) -> DType:
    """The dtype with which JAX computes on a variable: NumPy's 64 bits become 32 without x64."""
    dtype = variable.read().dtype
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return as_dtype(dtype)
    return as_dtype(jax.dtypes.canonicalize_dtype(dtype))


def struct_of(variable: TrackedVariable) -> jax.ShapeDtypeStruct:
    """The plain array that carries a variable, weakly typed if its value is."""
    value = variable.read()
    dtype = dtype_of(variable)
    if isinstance(dtype, KeyType):
        return jax.ShapeDtypeStruct((*value.shape, dtype.words), jnp.uint32)
    weak = bool(getattr(value, "weak_type", False))
    return jax.ShapeDtypeStruct(value.shape, dtype, weak_type=weak)


def updated(variable: TrackedVariable, new: object) -> object:
    """The array a function left in the place of a variable.

    Raises:
      StateError: if it is no array, or one of another shape or dtype.
    """
    dtype, shape = dtype_of(variable), variable.read().shape
    array = new if hasattr(new, "dtype") else jnp.asarray(new, dtype=dtype)  # type: ignore[arg-type]
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
    fields = holder if isinstance(holder, MutableSequence | MutableMapping) else vars(holder)
    if key in old:
        fields[key] = old[key]  # type: ignore[index]  # an index, a key or a name
    else:
        del fields[key]  # type: ignore[index]
