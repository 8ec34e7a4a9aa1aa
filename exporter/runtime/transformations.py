"""What JAX's transformations make of a loaded program: its derivative, and many calls in one.

A program is code, not a trace, so JAX cannot look into it. Reverse-mode differentiation calls the
program of its derivative, which was saved beside it. `jax.vmap` makes one large batch of many small
ones if the program was found to keep the rows of a batch apart, and else runs it for one after
another.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from exporter import notices
from exporter.errors import NoDerivativeError
from signatures.dtypes import is_inexact
from signatures.spec import Dim, TensorSpec

if TYPE_CHECKING:
    from exporter.runtime.programs import LoadedProgram

Flat = Callable[..., Sequence[jax.Array]]


def transformable(program: "LoadedProgram", call: Flat) -> Flat:
    """The program on flat plain arrays, as JAX can differentiate and map it.

    Args:
      program: what is known of it.
      call: runs it.

    Returns:
      A function that raises `NoDerivativeError` where it would have to be differentiated and cannot
      be: in reverse mode if its derivative was not saved, in forward mode always.
    """
    differentiable = _differentiable(program, _mappable(program, call))

    def transformed(*arrays: jax.Array) -> Sequence[jax.Array]:
        try:
            return differentiable(*arrays)
        except TypeError as error:
            if "forward-mode" not in str(error):
                raise
            raise NoDerivativeError(
                f"{program.name} cannot be differentiated in forward mode (jax.jvp, jax.jacfwd, "
                "jax.linearize, jax.hessian): it was loaded, and artifacts hold derivatives in "
                "reverse mode only. Use jax.grad, jax.vjp or jax.jacrev; a Hessian is "
                "jax.jacrev(jax.jacrev(f)), from what was saved with SaveOptions(vjp_order=2)."
            ) from error

    return transformed


def _differentiable(program: "LoadedProgram", call: Flat) -> Flat:
    """The program with its reverse-mode derivative."""
    function = jax.custom_vjp(lambda *arrays: list(call(*arrays)))

    def forward(*arrays: jax.Array) -> tuple[list[jax.Array], tuple[jax.Array, ...]]:
        return function(*arrays), arrays  # the program again, so that this can be differentiated

    def backward(
        arrays: tuple[jax.Array, ...], cotangents: Sequence[jax.Array]
    ) -> tuple[jax.Array | None, ...]:
        if not program.has_derivative:  # all of it is zero
            return (None,) * len(arrays)
        if program.derivative is None:
            raise NoDerivativeError(_no_derivative(program))
        results = [one for one in cotangents if jnp.issubdtype(one.dtype, jnp.inexact)]
        found = iter(program.derivative.call_traced(*arrays, *results))
        return tuple(next(found) if is_inexact(spec.dtype) else None for spec in program.takes)

    function.defvjp(forward, backward)
    return function


def _no_derivative(program: "LoadedProgram") -> str:
    order = 1 + program.order
    if program.record.vjp_problem is not None:
        return (
            f"{program.name} was saved without its derivative, which could not be made then: "
            f"{program.record.vjp_problem}"
        )
    again = "" if order == 1 else ", for derivatives of derivatives"
    return (
        f"{program.name} was saved without its derivative, so JAX cannot differentiate through it. "
        f"Save the original with SaveOptions(vjp_order={order}){again}."
        if order <= 2
        else f"{program.name} has no derivative: artifacts hold them up to the second order."
    )


def _mappable(program: "LoadedProgram", call: Flat) -> Flat:
    """The program with a rule for `jax.vmap`."""
    function = custom_vmap(lambda *arrays: list(call(*arrays)))

    def rule(
        size: int, mapped: Sequence[bool], *arrays: jax.Array
    ) -> tuple[list[jax.Array], list[bool]]:
        merged = _merged(program, size, mapped, arrays)
        if merged is not None:
            rows = [_has_rows(spec, program) for spec in program.gives]
            results = function(*merged)
            return [_split(a, size) if r else a for a, r in zip(results, rows, strict=True)], rows
        _note(program, size)

        def one(picked: list[jax.Array]) -> list[jax.Array]:
            rest = iter(picked)
            return list(
                function(*(next(rest) if m else a for m, a in zip(mapped, arrays, strict=True)))
            )

        results = jax.lax.map(one, [a for m, a in zip(mapped, arrays, strict=True) if m])
        return results, [True] * len(results)

    function.def_vmap(rule)
    return function


def _merged(
    program: "LoadedProgram", size: int, mapped: Sequence[bool], arrays: Sequence[jax.Array]
) -> list[jax.Array] | None:
    """The arguments with the mapped axis as part of their rows, or `None` if that cannot be."""
    rows = [_has_rows(spec, program) for spec in program.takes]
    if any(is_mapped and not has for is_mapped, has in zip(mapped, rows, strict=True)):
        return None
    first, is_mapped = next((a, m) for a, m, has in zip(arrays, mapped, rows, strict=True) if has)
    if not _allows(program.rows, size * first.shape[1 if is_mapped else 0]):
        return None
    return [
        _joined(a if m else jnp.broadcast_to(a, (size, *a.shape))) if has else a
        for a, m, has in zip(arrays, mapped, rows, strict=True)
    ]


def _has_rows(spec: TensorSpec, program: "LoadedProgram") -> bool:
    return bool(spec.shape) and program.rows is not None and spec.shape[0] == program.rows.name  # type: ignore[index]  # bool() excludes None


def _allows(dim: Dim | None, size: Any) -> bool:
    """Whether a dimension may have this size, itself perhaps a symbol."""
    try:
        return dim is not None and bool(size >= 1) and (dim.max is None or bool(size <= dim.max))
    except jax.errors.InconclusiveDimensionOperation:
        return False


def _joined(array: jax.Array) -> jax.Array:
    return array.reshape((array.shape[0] * array.shape[1], *array.shape[2:]))


def _split(array: jax.Array, size: int) -> jax.Array:
    return array.reshape((size, array.shape[0] // size, *array.shape[1:]))


def _note(program: "LoadedProgram", size: int) -> None:
    """Tell once that a program is mapped the slow way."""
    if not program.noted and not program.record.updates:  # those are refused, or the caller's own
        program.noted.append("vmap")
        notices.warn(
            f"jax.vmap runs {program.name} for each of the {size} elements, one after another "
            "(jax.lax.map): the program has no named leading axis that all mapped inputs share and "
            "along which its rows are known not to depend on each other.",
        )
