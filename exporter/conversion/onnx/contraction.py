"""Products of matrices, and convolutions."""

from collections.abc import Sequence

import numpy as np

from exporter.conversion.onnx.graph import Graph, Tensor
from exporter.conversion.onnx.layout import pad, reshape, reverse, transpose
from exporter.dataflow import Instruction
from exporter.errors import ConversionError


def dot_general(graph: Graph, instruction: Instruction, given: Sequence[Tensor]) -> Tensor:
    """`MatMul`, with its axes brought into order."""
    axes = instruction.attributes["dot_dimension_numbers"]
    dtype, shape = instruction.results[0].dtype, instruction.results[0].shape
    left, right = (graph.cast(one, dtype) for one in given)
    batch = [axes["lhs_batching_dimensions"], axes["rhs_batching_dimensions"]]
    contracted = [axes["lhs_contracting_dimensions"], axes["rhs_contracting_dimensions"]]
    free = [
        [axis for axis in range(len(one.shape)) if axis not in (*batch[side], *contracted[side])]
        for side, one in enumerate((left, right))
    ]
    left_order = (*batch[0], *free[0], *contracted[0])
    right_order = (*batch[1], *contracted[1], *free[1])
    groups = tuple(left.shape[axis] for axis in batch[0])
    inner = int(np.prod([left.shape[axis] for axis in contracted[0]], dtype=np.int64))
    rows = tuple(left.shape[axis] for axis in free[0])
    columns = tuple(right.shape[axis] for axis in free[1])
    if groups or not rows:  # otherwise more axes before the last two are all rows
        rows = (int(np.prod(rows, dtype=np.int64)),)
    width = int(np.prod(columns, dtype=np.int64))
    left = reshape(graph, transpose(graph, left, left_order), (*groups, *rows, inner))
    right = reshape(graph, transpose(graph, right, right_order), (*groups, inner, width))
    made = graph.compute("MatMul", [left, right], dtype, (*groups, *rows, width))
    return reshape(graph, made, shape)


def convolution(graph: Graph, instruction: Instruction, given: Sequence[Tensor]) -> Tensor:
    """`Conv`, with the axes where ONNX has them: examples, features, space."""
    attributes, result = instruction.attributes, instruction.results[0]
    axes = attributes["dimension_numbers"]
    if attributes.get("batch_group_count", 1) != 1:
        raise ConversionError("it has a convolution by groups of examples, a derivative of one")
    space = range(len(axes["input_spatial_dimensions"]))
    if not space:
        raise ConversionError("it has a convolution over no axes")
    image, kernel = (graph.cast(one, result.dtype) for one in given)
    flipped = attributes.get("window_reversal", (False,) * len(space))
    kernel = reverse(
        graph, kernel, [axes["kernel_spatial_dimensions"][one] for one in space if flipped[one]]
    )
    image = transpose(graph, image, _order(axes, "input", "batch", "feature"))
    kernel = transpose(graph, kernel, _order(axes, "kernel", "output_feature", "input_feature"))
    ones = (1,) * len(space)
    padding = attributes.get("padding", np.zeros((len(space), 2), np.int64)).tolist()
    strides = attributes.get("window_strides", ones)
    dilations = attributes.get("rhs_dilation", ones)
    between = [one - 1 for one in attributes.get("lhs_dilation", ones)]
    if any(between) or any(amount < 0 for pair in padding for amount in pair):
        low, high = ([0, 0, *(pair[side] for pair in padding)] for side in (0, 1))
        image = pad(graph, image, graph.like(image, 0), low, high, interior=[0, 0, *between])
        padding = [[0, 0] for _ in space]
    shape = [image.shape[0], kernel.shape[0]]
    shape += [result.shape[axis] for axis in axes["output_spatial_dimensions"]]
    made = graph.compute(
        "Conv",
        [image, kernel],
        result.dtype,
        tuple(shape),
        strides=list(strides),
        dilations=list(dilations),
        pads=[pair[side] for side in (0, 1) for pair in padding],
        group=attributes.get("feature_group_count", 1),
    )
    order = _order(axes, "output", "batch", "feature")
    return transpose(graph, made, [order.index(axis) for axis in range(len(order))])


def _order(axes: dict[str, int | tuple[int, ...]], what: str, *first: str) -> list[int]:
    """Which axes are the first two, and then those of space."""
    found = []
    for one in first:
        axis = axes[f"{what}_{one}_dimension"]
        assert isinstance(axis, int)
        found.append(axis)
    spatial = axes[f"{what}_spatial_dimensions"]
    assert isinstance(spatial, tuple)
    return [*found, *spatial]
