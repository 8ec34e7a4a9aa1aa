"""Arrays combined along axes: whole, by windows, and running.

StableHLO says with a block how two elements are combined, and leaves the order open. A block that
is one operation has an operator of ONNX. Any other is applied to the two halves of an array at
once, and to the halves of what it gives, until one element is left.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from exporter.conversion.onnx.graph import BOOL, Graph, Tensor
from exporter.conversion.onnx.layout import cut_axis, full, join, pad, reshape
from exporter.dataflow import Block, Instruction

# Applies a block to arrays instead of single elements.
Apply = Callable[[Sequence[Tensor]], list[Tensor]]

_OPERATORS = {
    "add": "ReduceSum",
    "maximum": "ReduceMax",
    "minimum": "ReduceMin",
    "multiply": "ReduceProd",
    "or": "ReduceMax",
    "and": "ReduceMin",
}


def combiner(block: Block) -> str | None:
    """The one operation that a block of two arguments does with them, if that is all it does."""
    if len(block.instructions) != 1 or len(block.arguments) != 2:
        return None
    (only,) = block.instructions
    if set(only.operands) != set(block.arguments) or block.results != only.results:
        return None
    return only.name


def reduce(
    graph: Graph, instruction: Instruction, given: Sequence[Tensor], apply: Apply
) -> list[Tensor]:
    """Arrays without the axes along which they are combined, and begun with a value each."""
    count = len(given) // 2
    arrays, begun = given[:count], given[count:]
    axes = instruction.attributes["dimensions"]
    shapes = [one.shape for one in instruction.results]
    if any(arrays[0].shape[axis] == 0 for axis in axes):
        return [full(graph, one, shape) for one, shape in zip(begun, shapes, strict=True)]
    name = combiner(instruction.blocks[0])
    if name in _OPERATORS and not _lacks(name, arrays[0]):
        arrays = [_reduced(graph, name, arrays[0], axes)]
    else:
        for axis in axes:
            arrays = _halved(graph, arrays, axis, apply)
        arrays = [reshape(graph, one, shape) for one, shape in zip(arrays, shapes, strict=True)]
    return _begun(graph, name, arrays, begun, apply)


def _lacks(name: str, array: Tensor) -> bool:
    """Whether no dtype of the operator has the order of these numbers, or their bits."""
    is_bitwise = name in ("or", "and") and array.dtype != BOOL
    return is_bitwise or (array.dtype.name == "uint64" and name in ("maximum", "minimum"))


def _reduced(graph: Graph, name: str, array: Tensor, axes: Sequence[int]) -> Tensor:
    if not axes:
        return array
    shape = tuple(size for axis, size in enumerate(array.shape) if axis not in axes)
    operator = _OPERATORS["or" if name == "add" else name] if array.dtype == BOOL else None
    if array.dtype == BOOL and name == "multiply":
        operator = _OPERATORS["and"]
    inputs = [array, graph.integers(axes)]
    return graph.compute(operator or _OPERATORS[name], inputs, array.dtype, shape, keepdims=0)


def _halved(graph: Graph, arrays: Sequence[Tensor], axis: int, apply: Apply) -> list[Tensor]:
    """Each array with one element along an axis."""
    arrays = list(arrays)
    while (size := arrays[0].shape[axis]) > 1:
        half = size // 2
        first = [cut_axis(graph, one, axis, 0, half) for one in arrays]
        second = [cut_axis(graph, one, axis, half, 2 * half) for one in arrays]
        made = _applied(graph, apply, first, second)
        if size % 2:
            last = [cut_axis(graph, one, axis, size - 1, size) for one in arrays]
            made = [join(graph, pair, axis) for pair in zip(made, last, strict=True)]
        arrays = made
    return arrays


def _applied(
    graph: Graph, apply: Apply, first: Sequence[Tensor], second: Sequence[Tensor]
) -> list[Tensor]:
    """What a block makes of two arrays of the same shape, each element of them."""
    shape = np.broadcast_shapes(*(one.shape for one in (*first, *second)))
    return [full(graph, one, shape) for one in apply([*first, *second])]


def _begun(
    graph: Graph,
    name: str | None,
    arrays: Sequence[Tensor],
    begun: Sequence[Tensor],
    apply: Apply,
) -> list[Tensor]:
    """Combined with what they begin with, unless that changes nothing."""
    value = graph.value(begun[0])
    if value is not None and name is not None and _is_neutral(name, value):
        return list(arrays)
    made = apply([*begun, *arrays])
    return [full(graph, one, array.shape) for one, array in zip(made, arrays, strict=True)]


def _is_neutral(name: str, value: np.ndarray) -> bool:
    dtype = value.dtype
    if name == "multiply":
        return bool(np.all(value == 1))
    if name in ("add", "or"):
        return bool(np.all(value == 0))
    if name not in ("maximum", "minimum"):
        return dtype == BOOL and bool(np.all(value))  # it is "and", or nothing that has one
    if dtype == BOOL:
        return bool(np.all(value == (name == "minimum")))
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return bool(np.all(value == (limits.min if name == "maximum" else limits.max)))
    return bool(np.all(value == (-math.inf if name == "maximum" else math.inf)))


def reduce_window(
    graph: Graph, instruction: Instruction, given: Sequence[Tensor], apply: Apply
) -> list[Tensor]:
    """Arrays of windows, each combined to one element, along one axis after the other."""
    attributes = instruction.attributes
    count = len(given) // 2
    arrays, begun = list(given[:count]), given[count:]
    window = attributes["window_dimensions"]
    rank = len(window)
    ones = (1,) * rank
    padding = attributes.get("padding", np.zeros((rank, 2), np.int64)).tolist()
    low, high = ([pair[side] for pair in padding] for side in (0, 1))
    between = [one - 1 for one in attributes.get("base_dilations", ones)]
    arrays = [
        pad(graph, one, value, low, high, interior=between)
        for one, value in zip(arrays, begun, strict=True)
    ]
    strides = attributes.get("window_strides", ones)
    apart = attributes.get("window_dilations", ones)
    for axis in range(rank):
        size = instruction.results[0].shape[axis]
        if window[axis] > 1 or strides[axis] > 1:
            arrays = _slid(
                graph, arrays, apply, axis, (window[axis], strides[axis], apart[axis], size)
            )
    return _begun(graph, combiner(instruction.blocks[0]), arrays, begun, apply)


def _slid(
    graph: Graph, arrays: list[Tensor], apply: Apply, axis: int, row: tuple[int, int, int, int]
) -> list[Tensor]:
    """Each window along an axis combined.

    A window is put together of windows whose sizes are powers of two, each made of two of half its
    size, so that running sums of many elements take few steps.

    Args:
      row: the size of a window, how far it moves, how far apart its elements are, how many windows
        there are.
    """
    window, stride, apart, size = row
    if size == 0:
        return [cut_axis(graph, one, axis, 0, 0) for one in arrays]
    made: list[Tensor] | None = None
    width, start = 1, 0
    while True:
        if window & width:
            first = start * apart
            last = first + (size - 1) * stride + 1
            part = [cut_axis(graph, one, axis, first, last, step=stride) for one in arrays]
            made = part if made is None else _applied(graph, apply, made, part)
            start += width
        if start == window:
            assert made is not None
            return made
        rest = arrays[0].shape[axis] - width * apart
        arrays = _applied(
            graph,
            apply,
            [cut_axis(graph, one, axis, 0, rest) for one in arrays],
            [cut_axis(graph, one, axis, width * apart, width * apart + rest) for one in arrays],
        )
        width *= 2
