"""Arrays in another shape or order: reshaped, broadcast, cut, joined and padded."""

from collections.abc import Sequence

import numpy as np

from exporter.conversion.onnx.graph import Graph, Shape, Tensor


def full(graph: Graph, tensor: Tensor, shape: Shape) -> Tensor:
    """An array with every element that its value has."""
    if tensor.shape == shape:
        return tensor
    return graph.one("Expand", [tensor, graph.integers(shape)], tensor.dtype, shape)


def reshape(graph: Graph, tensor: Tensor, shape: Shape) -> Tensor:
    """The same elements in the same order."""
    if tensor.shape == shape:
        return tensor
    value = graph.value(tensor)
    if value is not None and value.size <= 1:
        return graph.constant(value.reshape(shape))
    # A size of 0 means itself, and not that of the input.
    return graph.one(
        "Reshape", [tensor, graph.integers(shape)], tensor.dtype, shape, allowzero=int(0 in shape)
    )


def transpose(graph: Graph, tensor: Tensor, order: Sequence[int]) -> Tensor:
    """The axes in another order."""
    if list(order) == sorted(order):
        return tensor
    shape = tuple(tensor.shape[axis] for axis in order)
    if sum(size != 1 for size in shape) <= 1:
        return reshape(graph, tensor, shape)
    return graph.one("Transpose", [tensor], tensor.dtype, shape, perm=list(order))


def broadcast(graph: Graph, tensor: Tensor, axes: Sequence[int], rank: int) -> Tensor:
    """The axes of an array at these places among `rank`, with a size of 1 elsewhere."""
    if tensor.size == 1 and all(size == 1 for size in tensor.shape):
        return reshape(graph, tensor, ())
    order = sorted(range(len(axes)), key=lambda position: axes[position])
    moved = transpose(graph, tensor, order)
    shape = [1] * rank
    for position in order:
        shape[axes[position]] = tensor.shape[position]
    return reshape(graph, moved, tuple(shape))


def cut(
    graph: Graph,
    tensor: Tensor,
    starts: Sequence[int],
    limits: Sequence[int],
    steps: Sequence[int] | None = None,
) -> Tensor:
    """From each start to before each limit along each axis. Steps are positive."""
    strides = steps or [1] * len(starts)
    rows = list(zip(starts, limits, strides, strict=True))
    kept = [
        axis for axis, (size, row) in enumerate(zip(tensor.shape, rows, strict=True))
        if row != (0, size, 1)
    ]  # fmt: skip
    if not kept:
        return tensor
    shape = tuple(max(0, -(-(limit - start) // step)) for start, limit, step in rows)
    lists = [graph.integers([rows[axis][part] for axis in kept]) for part in range(3)]
    inputs = [tensor, *lists[:2], graph.integers(kept), lists[2]]
    return graph.one("Slice", inputs, tensor.dtype, shape)


def cut_axis(
    graph: Graph, tensor: Tensor, axis: int, start: int, limit: int, *, step: int = 1
) -> Tensor:
    """The same along one axis."""
    starts, limits, steps = [0] * len(tensor.shape), list(tensor.shape), [1] * len(tensor.shape)
    starts[axis], limits[axis], steps[axis] = start, limit, step
    return cut(graph, tensor, starts, limits, steps)


def reverse(graph: Graph, tensor: Tensor, axes: Sequence[int]) -> Tensor:
    """Backwards along some axes."""
    if not axes:
        return tensor
    ones = [-1] * len(axes)
    inputs = [
        tensor,
        graph.integers(ones),
        graph.integers([np.iinfo(np.int64).min] * len(axes)),
        graph.integers(list(axes)),
        graph.integers(ones),
    ]
    return graph.one("Slice", inputs, tensor.dtype, tensor.shape)


def join(graph: Graph, tensors: Sequence[Tensor], axis: int) -> Tensor:
    """One after the other along an axis."""
    if len(tensors) == 1:
        return tensors[0]
    first = tensors[0]
    size = sum(one.shape[axis] for one in tensors)
    shape = (*first.shape[:axis], size, *first.shape[axis + 1 :])
    return graph.one("Concat", tensors, first.dtype, shape, axis=axis)


def pad(
    graph: Graph,
    tensor: Tensor,
    filling: Tensor,
    low: Sequence[int],
    high: Sequence[int],
    *,
    interior: Sequence[int],
) -> Tensor:
    """An array with `filling`, of no axes, before, behind and between its elements.

    Negative numbers before and behind cut off.
    """
    for axis, between in enumerate(interior):
        if between and tensor.shape[axis] > 1:
            tensor = _spread(graph, tensor, filling, axis, between)
    for axis in range(len(low)):
        for at_end, amount in ((False, low[axis]), (True, high[axis])):
            if amount > 0:
                shape = (*tensor.shape[:axis], amount, *tensor.shape[axis + 1 :])
                more = full(graph, filling, shape)
                tensor = join(graph, [tensor, more] if at_end else [more, tensor], axis)
    starts = [max(0, -one) for one in low]
    limits = [size - max(0, -one) for size, one in zip(tensor.shape, high, strict=True)]
    return cut(graph, tensor, starts, limits)


def _spread(graph: Graph, tensor: Tensor, filling: Tensor, axis: int, between: int) -> Tensor:
    """An array with `between` elements after each but the last along an axis."""
    before, size, behind = tensor.shape[:axis], tensor.shape[axis], tensor.shape[axis + 1 :]
    apart = reshape(graph, tensor, (*before, size, 1, *behind))
    more = full(graph, filling, (*before, size, between, *behind))
    joined = join(graph, [apart, more], axis + 1)
    together = reshape(graph, joined, (*before, size * (1 + between), *behind))
    return cut_axis(graph, together, axis, 0, size * (1 + between) - between)
