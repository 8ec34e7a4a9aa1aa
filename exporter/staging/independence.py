"""Whether the rows of a function's arrays stay apart: row i of what it returns needs row i only.

Then many small batches can be computed as one large batch, which is how a loaded function is mapped
with `jax.vmap`. The answer is read off the jaxpr, one equation after another. Of each value we know
along which axis its rows lie, or that it is *shared*: the same for every row, whatever the number
of rows. An equation that is not in the tables below mixes rows until somebody proves otherwise: a
"no" costs speed, a wrong "yes" gives wrong results.

Every value is checked against its shape as well. Only the axis of the rows may have their number as
its size, and a shared value must not depend on that number at all.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax.extend.core

# The axis along which the rows of a value lie; `None` for a shared value.
Rows = int | None


class _Name(str):
    """The name of the number of rows, with what is known of each size met so far.

    A size writes itself as text slowly, and a jaxpr has the same few objects in all of its shapes.
    """

    __slots__ = ("known",)

    def __init__(self, _: str) -> None:
        self.known: dict[int, tuple[object, bool, bool]] = {}

    def relation(self, size: object) -> tuple[object, bool, bool]:
        """The size, which is kept so that no other takes its place, whether it is it, has it."""
        found = self.known.get(id(size))
        if found is None:
            text = str(size)
            found = (size, text == self, self in re.findall(r"\w+", text))
            self.known[id(size)] = found
        return found


class _MixedError(Exception):
    """An equation may let one row depend on another, or on how many there are."""


def row_wise(jaxpr: jax.extend.core.ClosedJaxpr, variables: int) -> str | None:
    """The name of a leading dimension along which the rows are independent, if there is one.

    Inputs without that dimension and variables are shared. Outputs have it first, or are computed
    from shared values alone.

    Args:
      jaxpr: takes variables, then inputs, some with symbolic sizes.
      variables: how many of what it takes are variables.
    """
    inner = jaxpr.jaxpr
    inputs = [variable.aval for variable in inner.invars[variables:]]
    leading = [aval.shape[0] for aval in inputs if aval.shape]
    for size in dict.fromkeys(str(size) for size in leading if not isinstance(size, int)):
        if size.isidentifier() and _is_apart(inner, variables, _Name(size)):
            return size
    return None


def _is_apart(jaxpr: Any, variables: int, name: _Name) -> bool:
    rows: list[Rows] = [None] * variables
    rows += [
        0 if variable.aval.shape and str(variable.aval.shape[0]) == name else None
        for variable in jaxpr.invars[variables:]
    ]
    try:
        for variable, axis in zip(jaxpr.invars, rows, strict=True):
            _check_shape(variable.aval.shape, axis, name)
        found = set(_walk(jaxpr, rows, name))
        return 0 in found and found <= {0, None}
    except _MixedError:
        return False
    except (LookupError, AttributeError, TypeError, ValueError):
        # Releases of JAX describe equations differently. What we misread we know nothing of.
        return False


def _walk(jaxpr: Any, rows: Sequence[Rows], name: _Name) -> list[Rows]:
    """Where the rows of the results lie, for arguments whose rows lie as given."""
    known: dict[Any, Rows] = dict(zip(jaxpr.invars, rows, strict=True))
    known |= dict.fromkeys(jaxpr.constvars)

    def of(atom: Any) -> Rows:
        return None if isinstance(atom, jax.extend.core.Literal) else known[atom]

    for equation in _live(jaxpr):
        found = _through(equation, [of(atom) for atom in equation.invars], name)
        for result, axis in zip(equation.outvars, found, strict=True):
            _check_shape(result.aval.shape, axis, name)
            known[result] = axis
    return [of(atom) for atom in jaxpr.outvars]


def _live(jaxpr: Any) -> list[Any]:
    """The equations that a result needs. JAX asks for sizes that it does not use in the end."""
    used = set(map(id, jaxpr.outvars))
    live = []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or not used.isdisjoint(map(id, equation.outvars)):
            live.append(equation)
            used |= set(map(id, equation.invars))
    return live[::-1]


def _through(equation: Any, rows: list[Rows], name: _Name) -> list[Rows]:
    """Where the rows of an equation's results lie."""
    if equation.effects:
        raise _MixedError
    kind = equation.primitive.name
    if kind in _CALLS:
        return _walk(_body(equation.params), rows, name)
    if kind in _MAKERS:
        return [_MAKERS[kind](equation, rows, name)]
    if all(axis is None for axis in rows):
        if _mentions(equation.params, name):
            raise _MixedError
        return [None] * len(equation.outvars)
    if kind in _ELEMENTWISE:
        return [_common(equation, rows)] * len(equation.outvars)
    if kind in _EACH:
        return rows
    if kind in _RULES:
        return _RULES[kind](equation, rows, name)
    raise _MixedError


def _require(holds: object) -> None:
    if not holds:
        raise _MixedError


def _is(size: object, name: _Name) -> bool:
    return not isinstance(size, int) and name.relation(size)[1]


def _has(size: object, name: _Name) -> bool:
    return not isinstance(size, int) and name.relation(size)[2]


def _check_shape(shape: Sequence[object], axis: Rows, name: _Name) -> None:
    """The number of rows is the size of the axis along which they lie, and of no other."""
    if axis is not None:
        _require(_is(shape[axis], name))
    _require(not any(_has(size, name) for at, size in enumerate(shape) if at != axis))


def _mentions(value: Any, name: _Name) -> bool:
    """Whether the number of rows stands anywhere in the parameters of an equation."""
    if isinstance(value, dict):
        return any(_mentions(item, name) for item in value.values())
    if isinstance(value, tuple | list):
        return any(_mentions(item, name) for item in value)
    if isinstance(value, jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr):
        value = _open(value)
        atoms = [*value.invars, *value.constvars, *value.outvars]
        atoms += [atom for one in value.eqns for atom in (*one.invars, *one.outvars)]
        shapes = (getattr(atom.aval, "shape", ()) for atom in atoms)
        return _mentions([*shapes, *(one.params for one in value.eqns)], name)
    if isinstance(value, bool | int | float | str | None):
        return False
    return not callable(value) and _has(value, name)


def _body(params: Any) -> Any:
    """The jaxpr that an equation calls."""
    found = next(
        params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call") if key in params
    )
    return _open(found)


def _open(jaxpr: Any) -> Any:
    """A jaxpr without the values of its constants."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def _common(equation: Any, rows: Sequence[Rows]) -> Rows:
    """The axis of the rows of values that are combined element by element.

    A shared one is a scalar or has size 1 there, and is combined with every row.
    """
    axes = {axis for axis in rows if axis is not None}
    _require(len(axes) == 1)
    at = axes.pop()
    for atom, axis in zip(equation.invars, rows, strict=True):
        shape = atom.aval.shape
        _require(axis is not None or not shape or _is_int(shape[at], 1))
    return at


def _broadcast(equation: Any, rows: Sequence[Rows], name: _Name) -> Rows:
    shape, places = equation.params["shape"], equation.params["broadcast_dimensions"]
    _require(all(axis is None for axis in rows[1:]))
    if rows[0] is not None:
        return int(places[rows[0]])
    return next((at for at, size in enumerate(shape) if _has(size, name)), None)


def _iota(equation: Any, _: Sequence[Rows], name: _Name) -> Rows:
    shape = equation.params["shape"]
    axis = next((at for at, size in enumerate(shape) if _has(size, name)), None)
    _require(axis is None or axis != equation.params["dimension"])
    return axis


def _without(axis: int, dropped: Sequence[int]) -> int:
    """Where an axis is once others are gone."""
    _require(axis not in dropped)
    return axis - sum(other < axis for other in dropped)


def _reduce(equation: Any, rows: list[Rows], _: _Name) -> list[Rows]:
    params = equation.params
    dropped = params["axes"] if "axes" in params else params["dimensions"]
    return [_without(_only(rows), dropped)]


def _only(rows: Sequence[Rows]) -> int:
    """The axis of the first value, where the others are shared."""
    _require(all(axis is None for axis in rows[1:]))
    axis = rows[0]
    if axis is None:
        raise _MixedError
    return axis


def _all(rows: Sequence[Rows]) -> int:
    """The one axis of the rows of values that all have rows."""
    axis = rows[0]
    if axis is None or any(other != axis for other in rows):
        raise _MixedError
    return axis


def _along(param: str) -> Callable[[Any, list[Rows], _Name], list[Rows]]:
    """The rule of what works along one axis and leaves the others alone."""

    def rule(equation: Any, rows: list[Rows], _: _Name) -> list[Rows]:
        axis = _all(rows)
        _require(param in equation.params and equation.params[param] != axis)
        return [axis] * len(equation.outvars)

    return rule


def _stack(equation: Any, rows: list[Rows], _: _Name) -> list[Rows]:
    axis = _all(rows)
    return [axis + (equation.params["axis"] <= axis)]


def _unstack(equation: Any, rows: list[Rows], _: _Name) -> list[Rows]:
    return [_without(_only(rows), (equation.params["axis"],))] * len(equation.outvars)


def _transpose(equation: Any, rows: list[Rows], _: _Name) -> list[Rows]:
    return [list(equation.params["permutation"]).index(_only(rows))]


def _reshape(equation: Any, rows: list[Rows], name: _Name) -> list[Rows]:
    old, new = equation.invars[0].aval.shape, equation.params["new_sizes"]
    axis = _only(rows)
    _require(equation.params.get("dimensions") is None)
    to = next((at for at, size in enumerate(new) if _is(size, name)), None)
    if to is None:
        raise _MixedError
    before, after = old[:axis], new[:to]
    _require(all(isinstance(size, int) for size in (*before, *after)))
    _require(math.prod(before) == math.prod(after))
    return [to]


def _rev(equation: Any, rows: list[Rows], _: _Name) -> list[Rows]:
    axis = _only(rows)
    _require(axis not in equation.params["dimensions"])
    return [axis]


def _pad(equation: Any, rows: list[Rows], _: _Name) -> list[Rows]:
    axis = _only(rows)
    _require(tuple(equation.params["padding_config"][axis]) == (0, 0, 0))
    return [axis]


def _slice(equation: Any, rows: list[Rows], name: _Name) -> list[Rows]:
    params, axis = equation.params, _only(rows)
    strides = params["strides"]
    _require(_is_int(params["start_indices"][axis], 0) and _is(params["limit_indices"][axis], name))
    _require(strides is None or _is_int(strides[axis], 1))
    return [axis]


def _is_int(value: object, wanted: int) -> bool:
    return isinstance(value, int) and value == wanted


def _dynamic_slice(equation: Any, rows: list[Rows], name: _Name) -> list[Rows]:
    axis = _only(rows)
    _require(_is(equation.params["slice_sizes"][axis], name))
    return [axis]


def _dynamic_update_slice(_: Any, rows: list[Rows], __: _Name) -> list[Rows]:
    axis = _all(rows[:2])
    _require(all(other is None for other in rows[2:]))
    return [axis]


def _gather(equation: Any, rows: list[Rows], name: _Name) -> list[Rows]:
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    operand, indices = rows
    picked = tuple(numbers.operand_batching_dims)
    result = range(len(equation.outvars[0].aval.shape))
    if indices is not None:
        _require(indices < len(equation.invars[1].aval.shape) - 1)
        if operand is not None:
            _require(operand in picked)
            _require(numbers.start_indices_batching_dims[picked.index(operand)] == indices)
        return [[at for at in result if at not in numbers.offset_dims][indices]]
    if operand is None:
        raise _MixedError
    gone = (*numbers.collapsed_slice_dims, *picked)
    _require(operand not in (*gone, *numbers.start_index_map))
    _require(_is(sizes[operand], name))
    return [numbers.offset_dims[_without(operand, gone)]]


def _dot(equation: Any, rows: list[Rows], _: _Name) -> list[Rows]:
    contracted, batch = equation.params["dimension_numbers"]
    left, right = rows
    if left is not None and right is not None:
        _require((left, right) in zip(*batch, strict=True))
        return [list(batch[0]).index(left)]
    side = 0 if left is not None else 1
    axis = rows[side]
    if axis is None:
        raise _MixedError
    place = len(batch[0]) + _without(axis, (*contracted[side], *batch[side]))
    if side == 1:
        taken = len(contracted[0]) + len(batch[0])
        place += len(equation.invars[0].aval.shape) - taken
    return [place]


def _convolution(equation: Any, rows: list[Rows], _: _Name) -> list[Rows]:
    numbers = equation.params["dimension_numbers"]
    _require(_only(rows) == numbers.lhs_spec[0] and equation.params["batch_group_count"] == 1)
    return [numbers.out_spec[0]]


def _window(equation: Any, rows: list[Rows], _: _Name) -> list[Rows]:
    params, axis = equation.params, _only(rows)
    fields = ("window_dimensions", "window_strides", "base_dilation", "window_dilation")
    _require(all(params[field] is None or _is_int(params[field][axis], 1) for field in fields))
    _require(tuple(params["padding"][axis]) == (0, 0))
    return [axis]


def _matrices(equation: Any, rows: list[Rows], _: _Name) -> list[Rows]:
    """Linear algebra on the last two axes, once for each index of the others."""
    axis = _all(rows)
    for atom in equation.invars:
        _require(axis < len(atom.aval.shape) - 2)
    return [axis] * len(equation.outvars)


def _fft(equation: Any, rows: list[Rows], _: _Name) -> list[Rows]:
    axis = _only(rows)
    rank = len(equation.invars[0].aval.shape)
    _require(axis < rank - len(equation.params["fft_lengths"]))
    return [axis]


def _cond(equation: Any, rows: list[Rows], name: _Name) -> list[Rows]:
    _require(rows[0] is None)
    found = [_walk(_open(branch), rows[1:], name) for branch in equation.params["branches"]]
    _require(all(one == found[0] for one in found))
    return found[0]


def _while(equation: Any, rows: list[Rows], name: _Name) -> list[Rows]:
    params = equation.params
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    carry = rows[second:]
    _require(_walk(_open(params["cond_jaxpr"]), [*rows[:first], *carry], name) == [None])
    _require(_walk(_open(params["body_jaxpr"]), [*rows[first:second], *carry], name) == carry)
    return carry


def _scan(equation: Any, rows: list[Rows], name: _Name) -> list[Rows]:
    params = equation.params
    _require(not _has(params["length"], name))
    if "num_consts" in params:
        first, count = params["num_consts"], params["num_carry"]
    else:  # since JAX 0.12
        first, count, _ = map(len, params["ft_in"].unpack())
    second = first + count
    carry, stacked = rows[first:second], rows[second:]
    _require(all(axis != 0 for axis in stacked))
    inner = [None if axis is None else axis - 1 for axis in stacked]
    found = _walk(_body(params), [*rows[:first], *carry, *inner], name)
    _require(found[: len(carry)] == carry)
    return carry + [None if axis is None else axis + 1 for axis in found[len(carry) :]]


# What calls a jaxpr with just its own arguments.
_CALLS = frozenset(
    "jit pjit closed_call core_call checkpoint remat remat2 custom_jvp_call custom_vjp_call "  # noqa: SIM905  # a list of names reads better as text
    "custom_vjp_call_jaxpr custom_vmap_call".split()
)

# What can make rows of a shared value, or of nothing, for as many rows as there are.
_MAKERS: dict[str, Callable[[Any, Sequence[Rows], _Name], Rows]] = {
    "broadcast_in_dim": _broadcast,
    "iota": _iota,
}

_ELEMENTWISE = frozenset(
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil
    clamp clz complex conj convert_element_type copy cos cosh digamma div eq eq_to erf erf_inv
    erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac imag integer_pow is_finite le
    le_to lgamma log log1p log2 logistic lt lt_to max min mul mulhi name ne neg nextafter not
    one_minus_square or polygamma population_count pow real reduce_precision
    regularized_incomplete_beta rem round rsqrt select_n shift_left shift_right_arithmetic
    shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor zeta
    """.split()  # noqa: SIM905  # a hundred quotes less
)

# What gives back each of its arguments.
_EACH = frozenset(("optimization_barrier", "device_put"))

_RULES: dict[str, Callable[[Any, list[Rows], _Name], list[Rows]]] = {
    **dict.fromkeys((f"reduce_{how}" for how in ("sum", "prod", "max", "min")), _reduce),
    **dict.fromkeys((f"reduce_{how}" for how in ("and", "or", "xor")), _reduce),
    **dict.fromkeys(("argmax", "argmin", "squeeze"), _reduce),
    **dict.fromkeys(
        ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "split", "top_k"), _along("axis")
    ),
    **dict.fromkeys(("sort", "concatenate"), _along("dimension")),
    **dict.fromkeys(("reduce_window_sum", "reduce_window_max", "reduce_window_min"), _window),
    **dict.fromkeys(("cholesky", "triangular_solve"), _matrices),
    "stack": _stack,
    "unstack": _unstack,
    "transpose": _transpose,
    "reshape": _reshape,
    "rev": _rev,
    "pad": _pad,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "fft": _fft,
    "cond": _cond,
    "while": _while,
    "scan": _scan,
}
