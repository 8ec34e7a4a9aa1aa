"""Operations on each element: numbers, bits, comparisons and conversions.

They take arrays that broadcast, and so compute no element twice.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from exporter.conversion.onnx.graph import BOOL, DType, Graph, Tensor, element_type
from exporter.dataflow import Instruction
from exporter.errors import ConversionError

Elementwise = Callable[[Graph, Instruction, Sequence[Tensor]], Tensor]


def _plain(operator: str, **attributes: Any) -> Elementwise:
    """The operator that does the same."""

    def write(graph: Graph, _: Instruction, given: Sequence[Tensor]) -> Tensor:
        return graph.elementwise(operator, *given, **attributes)

    return write


def _logical(operator: str, of_bools: str) -> Elementwise:
    """One operator for numbers, and one for truth values."""

    def write(graph: Graph, _: Instruction, given: Sequence[Tensor]) -> Tensor:
        return graph.elementwise(of_bools if given[0].dtype == BOOL else operator, *given)

    return write


def _precise(write: Callable[[Graph, Tensor], Tensor]) -> Elementwise:
    """A formula of several operators, in float32 for narrower floats."""

    def widened(graph: Graph, _: Instruction, given: Sequence[Tensor]) -> Tensor:
        return graph.cast(write(graph, graph.wide(given[0])), given[0].dtype)

    return widened


def _where(graph: Graph, test: Tensor, then: Tensor, otherwise: Tensor) -> Tensor:
    return graph.elementwise("Where", test, then, otherwise)


def _equal(graph: Graph, left: Tensor, right: Tensor) -> Tensor:
    return graph.elementwise("Equal", left, right, dtype=BOOL)


def _less(graph: Graph, left: Tensor, right: Tensor) -> Tensor:
    return graph.elementwise("Less", left, right, dtype=BOOL)


def _rsqrt(graph: Graph, x: Tensor) -> Tensor:
    return graph.elementwise("Reciprocal", graph.elementwise("Sqrt", x))


def _cbrt(graph: Graph, x: Tensor) -> Tensor:
    root = graph.elementwise("Pow", graph.elementwise("Abs", x), graph.like(x, 1 / 3))
    return graph.elementwise("Mul", graph.elementwise("Sign", x), root)


def _round_away(graph: Graph, x: Tensor) -> Tensor:
    """To the nearest, and halves away from zero. Adding a half to all could round up too much."""
    size = graph.elementwise("Abs", x)
    floor = graph.elementwise("Floor", size)
    rest = graph.elementwise("Sub", size, floor)
    up = graph.elementwise("GreaterOrEqual", rest, graph.like(x, 0.5), dtype=BOOL)
    rounded = graph.elementwise("Add", floor, graph.cast(up, x.dtype))
    return graph.elementwise("Mul", graph.elementwise("Sign", x), rounded)


def _log_plus_one(graph: Graph, x: Tensor) -> Tensor:
    """The logarithm of 1 + x, exact for small x: what rounding took from x is given back."""
    one = graph.like(x, 1)
    sum_ = graph.elementwise("Add", x, one)
    taken = graph.elementwise("Sub", sum_, one)
    log = graph.elementwise("Log", sum_)
    ratio = graph.elementwise("Mul", log, graph.elementwise("Div", x, taken))
    is_infinite = _equal(graph, sum_, graph.like(x, math.inf))
    return _where(graph, _equal(graph, sum_, one), x, _where(graph, is_infinite, log, ratio))


def _exponential_minus_one(graph: Graph, x: Tensor) -> Tensor:
    """The same for the exponential less 1, which needs it below 1 alone."""
    one = graph.like(x, 1)
    power = graph.elementwise("Exp", x)
    less = graph.elementwise("Sub", power, one)
    log = graph.elementwise("Log", power)
    ratio = graph.elementwise("Mul", less, graph.elementwise("Div", x, log))
    is_small = _less(graph, graph.elementwise("Abs", x), one)
    return _where(graph, _equal(graph, power, one), x, _where(graph, is_small, ratio, less))


def _is_finite(graph: Graph, _: Instruction, given: Sequence[Tensor]) -> Tensor:
    size = graph.elementwise("Abs", given[0])
    return _less(graph, size, graph.like(size, math.inf))


def _atan2(graph: Graph, _: Instruction, given: Sequence[Tensor]) -> Tensor:
    y, x = (graph.wide(one) for one in given)
    zero, pi = graph.like(x, 0), graph.like(x, math.pi)
    angle = graph.elementwise("Atan", graph.elementwise("Div", y, x))
    turn = _where(graph, _less(graph, y, zero), graph.elementwise("Neg", pi), pi)
    left = graph.elementwise("Add", angle, turn)
    both = graph.elementwise("And", _equal(graph, x, zero), _equal(graph, y, zero))
    found = _where(graph, _less(graph, x, zero), left, _where(graph, both, y, angle))
    return graph.cast(found, given[0].dtype)


def _negate(graph: Graph, _: Instruction, given: Sequence[Tensor]) -> Tensor:
    return graph.elementwise("Neg", given[0])


def _divide(graph: Graph, _: Instruction, given: Sequence[Tensor]) -> Tensor:
    return _divided(graph, *given, remainder=False)


def _remainder(graph: Graph, _: Instruction, given: Sequence[Tensor]) -> Tensor:
    return _divided(graph, *given, remainder=True)


def _divided(graph: Graph, left: Tensor, right: Tensor, *, remainder: bool) -> Tensor:
    """The quotient or the remainder. A division by zero ends the process of onnxruntime.

    So does that of the least number by -1. StableHLO says what both are.
    """
    operator = "Mod" if remainder else "Div"
    attributes: dict[str, Any] = {"fmod": 1} if remainder else {}
    if right.dtype.kind not in "iu":
        return graph.elementwise(operator, left, right, **attributes)
    value = graph.value(right)
    if value is not None and not np.isin(value, (0, -1)).any():
        return graph.elementwise(operator, left, right, **attributes)
    zero, one = graph.like(right, 0), graph.like(right, 1)
    is_zero = _equal(graph, right, zero)
    safe = _where(graph, is_zero, one, right)
    if right.dtype.kind == "i":
        opposite = _equal(graph, right, graph.like(right, -1))
        safe = _where(graph, opposite, one, safe)
    found = graph.elementwise(operator, left, safe, **attributes)
    if right.dtype.kind == "i" and not remainder:
        found = _where(graph, opposite, graph.elementwise("Neg", left), found)
    return _where(graph, is_zero, left if remainder else graph.like(right, -1), found)


def _shift(direction: str, *, arithmetic: bool = False) -> Elementwise:
    """Bits moved. ONNX moves those of unsigned numbers only."""

    def write(graph: Graph, _: Instruction, given: Sequence[Tensor]) -> Tensor:
        number, amount = given
        bits = 8 * number.dtype.itemsize
        unsigned = np.dtype(f"uint{bits}")
        negative = _less(graph, number, graph.like(number, 0)) if arithmetic else None
        if negative is not None:  # its bits are moved as those of its inverse, which are the others
            number = _where(graph, negative, graph.elementwise("BitwiseNot", number), number)
        by = graph.cast(amount, unsigned)
        moved = graph.elementwise("BitShift", graph.cast(number, unsigned), by, direction=direction)
        value = graph.value(amount)
        if value is None or (value.astype(unsigned) >= bits).any():
            none = graph.like(moved, 0)
            moved = _where(graph, _less(graph, by, graph.like(by, bits)), moved, none)
        found = graph.cast(moved, number.dtype)
        if negative is not None:
            found = _where(graph, negative, graph.elementwise("BitwiseNot", found), found)
        return found

    return write


_COMPARISONS = {
    "EQ": "Equal",
    "NE": "Equal",
    "LT": "Less",
    "LE": "LessOrEqual",
    "GT": "Greater",
    "GE": "GreaterOrEqual",
}


def _compare(graph: Graph, instruction: Instruction, given: Sequence[Tensor]) -> Tensor:
    direction = instruction.attributes["comparison_direction"]
    left, right = given
    if instruction.attributes.get("compare_type") == "TOTALORDER":
        return _total_order(graph, direction, left, right)
    found = graph.elementwise(_COMPARISONS[direction], left, right, dtype=BOOL)
    return graph.elementwise("Not", found) if direction == "NE" else found


def _total_order(graph: Graph, direction: str, left: Tensor, right: Tensor) -> Tensor:
    """How one sorts to the other: what is no number is behind all numbers, and all of it equal."""
    if direction in ("GT", "LE"):
        left, right = right, left
    left_is, right_is = (_equal(graph, one, one) for one in (left, right))
    neither = graph.elementwise("Not", graph.elementwise("Or", left_is, right_is))
    if direction in ("EQ", "NE"):
        found = graph.elementwise("Or", _equal(graph, left, right), neither)
    else:
        only = graph.elementwise("And", left_is, graph.elementwise("Not", right_is))
        found = graph.elementwise("Or", _less(graph, left, right), only)
    return graph.elementwise("Not", found) if direction in ("NE", "LE", "GE") else found


def _ones(graph: Graph, number: Tensor) -> Tensor:
    """How many bits of each unsigned number are 1, counted in pairs, fours and bytes at once."""
    word = np.dtype(np.uint64)

    def moved(x: Tensor, by: int) -> Tensor:
        return graph.elementwise("BitShift", x, graph.like(x, by), direction="RIGHT")

    def masked(x: Tensor, byte: int) -> Tensor:
        mask = graph.constant(np.array(byte * 0x0101010101010101, word))
        return graph.elementwise("BitwiseAnd", x, mask)

    x = graph.cast(number, word)
    x = graph.elementwise("Sub", x, masked(moved(x, 1), 0x55))
    x = graph.elementwise("Add", masked(x, 0x33), masked(moved(x, 2), 0x33))
    x = masked(graph.elementwise("Add", x, moved(x, 4)), 0x0F)
    every_byte = graph.constant(np.array(0x0101010101010101, word))
    return moved(graph.elementwise("Mul", x, every_byte), 56)


def _popcnt(graph: Graph, _: Instruction, given: Sequence[Tensor]) -> Tensor:
    unsigned = np.dtype(f"uint{8 * given[0].dtype.itemsize}")
    return graph.cast(_ones(graph, graph.cast(given[0], unsigned)), given[0].dtype)


def _leading_zeros(graph: Graph, _: Instruction, given: Sequence[Tensor]) -> Tensor:
    """The bits that are not behind the first 1."""
    bits = 8 * given[0].dtype.itemsize
    x = graph.cast(given[0], np.dtype(f"uint{bits}"))
    step = 1
    while step < bits:
        behind = graph.elementwise("BitShift", x, graph.like(x, step), direction="RIGHT")
        x = graph.elementwise("BitwiseOr", x, behind)
        step *= 2
    return graph.cast(_ones(graph, graph.elementwise("BitwiseNot", x)), given[0].dtype)


def _select(graph: Graph, _: Instruction, given: Sequence[Tensor]) -> Tensor:
    return _where(graph, *given)


def _clamp(graph: Graph, _: Instruction, given: Sequence[Tensor]) -> Tensor:
    least, number, most = given
    return graph.elementwise("Min", graph.elementwise("Max", number, least), most)


def _convert(graph: Graph, instruction: Instruction, given: Sequence[Tensor]) -> Tensor:
    return graph.cast(given[0], instruction.results[0].dtype)


def _bitcast(graph: Graph, instruction: Instruction, given: Sequence[Tensor]) -> Tensor:
    old, new = given[0].dtype, instruction.results[0].dtype
    if old == new:
        return given[0]
    if old.itemsize != new.itemsize:
        raise ConversionError(f"it takes the bits of {old.name} as those of {new.name}")
    kind = element_type(new)
    return graph.one("BitCast", given, new, given[0].shape, to=kind)


# The floats of so many bits for the exponent and the mantissa.
_FLOATS: dict[tuple[int, int], str] = {(8, 23): "float32", (5, 10): "float16", (8, 7): "bfloat16"}


def _reduce_precision(graph: Graph, instruction: Instruction, given: Sequence[Tensor]) -> Tensor:
    bits = (instruction.attributes["exponent_bits"], instruction.attributes["mantissa_bits"])
    if bits not in _FLOATS:
        raise ConversionError(f"it rounds to floats of {bits[0]} and {bits[1]} bits")
    narrow: DType = np.dtype(_FLOATS[bits])
    return graph.cast(graph.cast(given[0], narrow), given[0].dtype)


ELEMENTWISE: Mapping[str, Elementwise] = {
    "abs": _plain("Abs"),
    "add": _logical("Add", "Or"),
    "and": _logical("BitwiseAnd", "And"),
    "atan2": _atan2,
    "bitcast_convert": _bitcast,
    "cbrt": _precise(_cbrt),
    "ceil": _plain("Ceil"),
    "clamp": _clamp,
    "compare": _compare,
    "convert": _convert,
    "count_leading_zeros": _leading_zeros,
    "cosine": _plain("Cos"),
    "divide": _divide,
    "exponential": _plain("Exp"),
    "exponential_minus_one": _precise(_exponential_minus_one),
    "floor": _plain("Floor"),
    "is_finite": _is_finite,
    "log": _plain("Log"),
    "log_plus_one": _precise(_log_plus_one),
    "logistic": _plain("Sigmoid"),
    "maximum": _logical("Max", "Or"),
    "minimum": _logical("Min", "And"),
    "multiply": _logical("Mul", "And"),
    "negate": _negate,
    "not": _logical("BitwiseNot", "Not"),
    "or": _logical("BitwiseOr", "Or"),
    "popcnt": _popcnt,
    "power": _plain("Pow"),
    "reduce_precision": _reduce_precision,
    "remainder": _remainder,
    "round_nearest_afz": _precise(_round_away),
    "round_nearest_even": _plain("Round"),
    "rsqrt": _precise(_rsqrt),
    "select": _select,
    "shift_left": _shift("LEFT"),
    "shift_right_arithmetic": _shift("RIGHT", arithmetic=True),
    "shift_right_logical": _shift("RIGHT"),
    "sign": _plain("Sign"),
    "sine": _plain("Sin"),
    "sqrt": _plain("Sqrt"),
    "subtract": _plain("Sub"),
    "tan": _plain("Tan"),
    "tanh": _plain("Tanh"),
    "xor": _logical("BitwiseXor", "Xor"),
}
