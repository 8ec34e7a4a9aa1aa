"""What it takes to run a program: floating-point operations and bytes, counted by its text.

Nothing is run or compiled. The counts are those of XLA before it optimises anything:

- a multiplication of matrices or a convolution has two operations for each pair of elements that it
  multiplies, and none for padding;
- what works element by element has one for each element of its result. Those that are computed by
  a series (exponentials, logarithms, roots, trigonometry) are counted apart, as `transcendentals`;
- a reduction applies its function once less than there are elements, a sort n log2(n) times (for
  XLA its comparison is one operation, whatever it does), a scatter to each update;
- a loop counts as often as it runs where its text says so, and otherwise once, told apart as "per
  iteration". Of several branches the dearest counts. Native functions, Fourier transforms and
  random bits are not counted.

Bytes are what would be read and written if nothing were fused and nothing kept in a cache: all
that each operation takes and gives. Slices read what they give, updates touch what they change, and
reshapes touch nothing.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from exporter.operations import MAIN, MOST, Array, Operation, Operations

_TRANSCENDENTAL = frozenset(
    f"stablehlo.{name}"
    for name in (
        *("atan2", "cbrt", "cosine", "exponential", "exponential_minus_one", "log"),
        *("log_plus_one", "logistic", "power", "rsqrt", "sine", "sqrt", "tan", "tanh"),
    )
)
_ELEMENTWISE = frozenset(
    f"stablehlo.{name}"
    for name in (
        *("abs", "add", "and", "ceil", "clamp", "compare", "complex", "convert"),
        *("count_leading_zeros", "divide", "floor", "imag", "is_finite", "maximum", "minimum"),
        *("multiply", "negate", "not", "or", "popcnt", "real", "reduce_precision", "remainder"),
        *("round_nearest_afz", "round_nearest_even", "select", "shift_left", "sign", "subtract"),
        *("shift_right_arithmetic", "shift_right_logical", "xor"),
    )
)

# Those whose region is a function that they apply again and again.
_APPLYING = frozenset(
    f"stablehlo.{name}"
    for name in (
        *("all_reduce", "map", "reduce", "reduce_scatter", "reduce_window", "scatter"),
        *("select_and_scatter", "sort"),
    )
)

# Those that stand for what is in them, or that name a value anew.
_WITHOUT_BYTES = frozenset(
    {
        *("func.func", "func.call", "func.return", "sdy.return", "sdy.manual_computation"),
        *(
            f"stablehlo.{name}"
            for name in (
                *("after_all", "case", "composite", "constant", "create_token"),
                *("get_dimension_size", "get_tuple_element", "if", "optimization_barrier"),
                *("reshape", "return", "tuple", "while"),
            )
        ),
    }
)
_SLICES = frozenset(
    f"stablehlo.{name}" for name in ("slice", "dynamic_slice", "gather", "dynamic_gather")
)

# As many pairs of positions of a window are looked at one by one; of more, all are counted.
_MAX_PAIRS = 10**6


class UnknownSizeError(ValueError):
    """The sizes of the arrays of a program depend on the call."""


@dataclass(frozen=True)
class Amount:
    """What something takes.

    Attributes:
      flops: operations on numbers.
      transcendentals: those of them that are computed by a series. They are not in `flops`.
      bytes: read and written, if nothing is fused.
    """

    flops: int = 0
    transcendentals: int = 0
    bytes: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(
            min(self.flops + other.flops, MOST),
            min(self.transcendentals + other.transcendentals, MOST),
            min(self.bytes + other.bytes, MOST),
        )

    def __mul__(self, times: int) -> "Amount":
        return Amount(
            min(self.flops * times, MOST),
            min(self.transcendentals * times, MOST),
            min(self.bytes * times, MOST),
        )


@dataclass(frozen=True)
class Cost:
    """What a program takes.

    Attributes:
      once: without its loops whose number of iterations is not known.
      loops: how many such loops there are.
      per_iteration: one iteration of each of them.
    """

    once: Amount = Amount()
    loops: int = 0
    per_iteration: Amount = Amount()

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.once + other.once,
            min(self.loops + other.loops, MOST),
            self.per_iteration + other.per_iteration,
        )

    def __mul__(self, times: int) -> "Cost":
        return Cost(self.once * times, self.loops, self.per_iteration * times)


def cost_of(operations: Operations) -> Cost:
    """What it takes to run the main function of a program.

    Raises:
      UnknownSizeError: if that depends on the sizes of arrays.
      ValueError: if its functions call each other in a circle, or it has no main function.
    """
    functions: dict[str, Cost] = {}
    for name in operations.order:
        if name in operations.functions:
            functions[name] = _function(operations, operations.functions[name], functions)
    if MAIN not in functions:
        raise ValueError("it has no main function.")
    if isinstance(functions[MAIN], _Unknown):
        raise UnknownSizeError("the sizes of its arrays depend on the call.")
    return functions[MAIN]


class _Unknown(Cost):
    """The cost of a function that is only known for given sizes: it may never be called."""


def _function(operations: Operations, where: range, functions: dict[str, Cost]) -> Cost:
    """The cost of a function. What stands in an operation follows it, so the last come first."""
    regions: dict[int, dict[int, Cost]] = defaultdict(lambda: defaultdict(Cost))
    for position in reversed(where[1:]):
        operation = operations.all[position]
        callee = operations.called(operation)
        try:
            if callee is not None:
                cost = functions[callee]
                if isinstance(cost, _Unknown):
                    return cost
            else:
                inside = regions.pop(position, {})
                cost = _with_regions(operation, [inside[i] for i in sorted(inside)])
        except UnknownSizeError:
            return _Unknown()
        regions[operation.parent][operation.region] += cost
    return sum(regions[where[0]].values(), Cost())


def _with_regions(operation: Operation, regions: list[Cost]) -> Cost:
    """The cost of an operation with what stands in it."""
    if operation.name == "stablehlo.while":
        turn = sum(regions, Cost())
        if "trips" in operation.numbers:
            return turn * operation.numbers["trips"][0]
        return Cost(Amount(), turn.loops + 1, turn.once + turn.per_iteration)
    if operation.name == "stablehlo.convert" and operation.operands == operation.results:
        return Cost()  # it is one type by two names, where a size has become known
    own = Amount(bytes=_bytes(operation))
    if operation.name in _APPLYING:
        applied = sum((region.once for region in regions), Amount())
        times = _applications(operation)
        return Cost(own + Amount(applied.flops * times, applied.transcendentals * times))
    if operation.name in ("stablehlo.case", "stablehlo.if"):
        return max(regions, key=_dearness, default=Cost())
    return sum(regions, Cost(own + _arithmetic(operation)))


def _dearness(cost: Cost) -> tuple[int, int]:
    whole = cost.once + cost.per_iteration
    return whole.flops + whole.transcendentals, whole.bytes


def _arithmetic(operation: Operation) -> Amount:
    """What an operation without regions computes."""
    count = _COUNTS.get(operation.name)
    if count is not None:
        return Amount(flops=count(operation))
    is_special = operation.name.startswith("chlo.") and operation.name != "chlo.top_k"
    if operation.name in _TRANSCENDENTAL or is_special:
        return Amount(transcendentals=_elements(operation.results[:1]))
    if operation.name not in _ELEMENTWISE:
        return Amount()
    return Amount(flops=_elements(operation.results))


def _dot(operation: Operation) -> int:
    taken = operation.operands[0].shape
    pairs = [_known(taken[axis]) for axis in operation.numbers["contracted"] if axis < len(taken)]
    return 2 * _elements(operation.results) * math.prod(pairs)


def _convolution(operation: Operation) -> int:
    image, kernel = operation.operands[:2]
    (result,) = operation.results
    numbers = operation.numbers
    axes = zip(numbers["input_axes"], numbers["kernel_axes"], numbers["output_axes"], strict=True)
    pairs, positions = 1, 1
    for i, (image_axis, kernel_axis, result_axis) in enumerate(axes):
        given = _known(result.shape[result_axis])
        positions *= given
        pairs *= _pairs(
            _known(image.shape[image_axis]),
            _known(kernel.shape[kernel_axis]),
            given,
            stride=_at(numbers["strides"], i, 1),
            padding=_at(numbers["padding"], 2 * i, 0),
            image_dilation=_at(numbers["input_dilation"], i, 1),
            kernel_dilation=_at(numbers["kernel_dilation"], i, 1),
        )
    if not positions:
        return 0
    features = _known(kernel.shape[numbers["kernel_features"][0]])
    return 2 * pairs * features * (_elements((result,)) // positions)


def _pairs(
    image: int,
    kernel: int,
    result: int,
    *,
    stride: int,
    padding: int,
    image_dilation: int,
    kernel_dilation: int,
) -> int:
    """How many elements of an image and a kernel meet along an axis, those of padding left out."""
    if kernel * result > _MAX_PAIRS or max(image, stride, padding, kernel_dilation) > 2**31:
        return kernel * result
    steps = np.arange(result, dtype=np.int64) * stride - padding
    places = steps[:, None] + np.arange(kernel, dtype=np.int64) * kernel_dilation
    is_element = places % image_dilation == 0
    return int((is_element & (places >= 0) & (places < image * image_dilation)).sum())


def _at(values: tuple[int, ...], position: int, otherwise: int) -> int:
    return values[position] if position < len(values) else otherwise


def _batch_norm(operation: Operation) -> int:
    return 8 * _elements(operation.operands[:1])


def _cholesky(operation: Operation) -> int:
    *_, size = operation.operands[0].shape
    return _elements(operation.operands[:1]) * _known(size) // 3


def _triangular_solve(operation: Operation) -> int:
    *_, size = operation.operands[0].shape
    return _elements(operation.results) * _known(size)


_COUNTS: dict[str, Callable[[Operation], int]] = {
    "stablehlo.dot_general": _dot,
    "stablehlo.convolution": _convolution,
    "stablehlo.batch_norm_inference": _batch_norm,
    "stablehlo.batch_norm_training": _batch_norm,
    "stablehlo.batch_norm_grad": _batch_norm,
    "stablehlo.cholesky": _cholesky,
    "stablehlo.triangular_solve": _triangular_solve,
}


def _applications(operation: Operation) -> int:
    """How often an operation applies the function in its region."""
    taken, given = operation.operands, operation.results
    match operation.name:
        case "stablehlo.reduce":
            return max(0, _elements(taken[:1]) - _elements(given[:1]))
        case "stablehlo.reduce_window":
            return _elements(given[:1]) * max(0, operation.numbers["window"][0] - 1)
        case "stablehlo.sort":
            count = _elements(given[:1])
            return count * max(1, (count - 1).bit_length()) if count else 0
        case "stablehlo.scatter":
            return _elements(taken[-1:])
        case "stablehlo.select_and_scatter":
            return _elements(taken[:1])
    return _elements(given[:1])


def _bytes(operation: Operation) -> int:
    if operation.name in _WITHOUT_BYTES:
        return 0
    if operation.name in _SLICES:
        return 2 * _size(operation.results) + _size(operation.operands[1:])
    if operation.name == "stablehlo.dynamic_update_slice":
        return 2 * _size(operation.operands[1:2])
    if operation.name == "stablehlo.scatter":
        inputs = len(operation.results)
        return _size(operation.operands[inputs:]) + _size(operation.operands[inputs + 1 :])
    return _size(operation.operands) + _size(operation.results)


def _size(arrays: Iterable[Array]) -> int:
    return sum(_known(array.elements) * array.item_bytes for array in arrays)


def _elements(arrays: Iterable[Array]) -> int:
    return sum(_known(array.elements) for array in arrays)


def _known(size: int | None) -> int:
    if size is None:
        raise UnknownSizeError("the sizes of its arrays depend on the call.")
    return size
