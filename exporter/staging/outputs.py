"""What a function returns: its structure, its arrays, and what callers call them."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from exporter.errors import TracingError
from exporter.pytrees import opened
from exporter.staging import shapes
from exporter.staging.inputs import is_array_like
from signatures.dtypes import as_dtype
from signatures.spec import TensorSpec
from signatures.tree import (
    Keyed,
    Leaf,
    Scalar,
    Sequential,
    Static,
    Structure,
    describe,
    flatten,
    leaf_paths,
    own_parts,
)


def flatten_result(returned: object) -> tuple[Structure, list[object]]:
    """The structure of what a function returned, and its arrays.

    Raises:
      TracingError: if something in it is neither an array nor a container of arrays.
    """
    structure, leaves = flatten(returned, _is_output, opened)
    _refuse_keys(structure)
    opaque = next(_opaque_parts(structure), None)
    if opaque is not None:
        raise TracingError(
            f"the function returns {describe(opaque, str)}, which "
            "is not an array. It may return arrays, numbers and None, in lists, tuples and dicts."
        )
    return structure, [jnp.asarray(_read(leaf)) for leaf in leaves]


def _refuse_keys(structure: Structure) -> None:
    for key in structure.keys if isinstance(structure, Keyed) else ():
        if not isinstance(key, Scalar):
            raise TracingError(
                f"the function returns a dict with the key {key!r} ({type(key).__name__}); keys "
                "are text or numbers."
            )
    for item in structure.items if isinstance(structure, Sequential | Keyed) else ():
        _refuse_keys(item)


def _read(leaf: Any) -> Any:
    """A mutable array is returned as its value."""
    is_box = not isinstance(leaf, jax.Array) and hasattr(leaf, "__jax_array__")
    return leaf.__jax_array__() if is_box else leaf


def _is_output(value: object) -> bool:
    is_number = isinstance(value, bool | int | float | complex)
    return is_number or is_array_like(value) or hasattr(value, "__jax_array__")


def _opaque_parts(structure: Structure) -> Iterator[Static]:
    if isinstance(structure, Static):
        if structure.opaque or structure.value is not None:
            yield structure
    elif isinstance(structure, Sequential | Keyed):
        for item in own_parts(structure):
            yield from _opaque_parts(item)


def spec_of(array: object) -> TensorSpec:
    """The spec of a traced array, its symbolic sizes as text."""
    shape = tuple(axis if isinstance(axis, int) else str(axis) for axis in array.shape)  # type: ignore[attr-defined]
    return TensorSpec(shape, as_dtype(array.dtype))  # type: ignore[attr-defined]  # an array


def output_names(result: Structure, given: Sequence[str] = ()) -> tuple[list[str], str | None]:
    """A name for each output, and why the outputs are not those of a signature, or `None`.

    A signature returns one array, or a flat list, tuple, namedtuple or dict of them. The names
    that are `given` are those of the items of a list or tuple, or of the only array.
    """
    problem = _result_problem(result)
    plain = isinstance(result, Sequential) and not result.fields
    pairs = list(leaf_paths(result))
    if (plain or isinstance(result, Leaf)) and problem is None and len(given) == len(pairs):
        return list(given), None
    named = isinstance(result, Keyed) or (isinstance(result, Sequential) and bool(result.fields))
    names = [path if named else f"output_{path or 0}" for path, _ in pairs]
    return _unique(names), problem


def _unique(names: Sequence[str]) -> list[str]:
    """The names, a repeated one with a number: keys such as 1 and "1" look alike in a path."""
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    count: dict[str, int] = {}
    unique = []
    for name in names:
        count[name] = count.get(name, 0) + 1
        unique.append(f"{name}#{count[name]}" if seen[name] > 1 else name)
    return unique


def _result_problem(result: Structure) -> str | None:
    advice = "A signature returns an array, or a flat list, tuple or dict of arrays."
    if isinstance(result, Static):
        return f"it returns {result.value!r}. {advice}"
    if isinstance(result, Keyed):
        for key in result.keys:
            if not isinstance(key, str):
                return f"it returns a dict with the key {key!r}, which is not text. {advice}"
    if isinstance(result, Sequential | Keyed):
        named = result.keys if isinstance(result, Keyed) else result.fields
        keys = named or [f"output_{i}" for i in range(len(result.items))]
        for key, item in zip(keys, own_parts(result), strict=False):  # fields end with the settled
            if isinstance(item, Static):
                return f"its output {key!r} is {item.value!r}. {advice}"
            if isinstance(item, Sequential | Keyed):
                kind = "dict" if isinstance(item, Keyed) else item.kind
                return f"its output {key!r} is a {kind}. {advice}"
    return None


def public_output(specs: Sequence[TensorSpec], name: str) -> TensorSpec:
    """One output as callers see it: of any rank if it differs between variants."""
    shown = {shapes.public_shape(spec) for spec in specs}
    return TensorSpec(shown.pop() if len(shown) == 1 else None, specs[0].dtype, name)
