"""Loops and branches, whose blocks become graphs inside nodes."""

from collections.abc import Callable, Sequence

import numpy as np

from exporter.conversion.onnx.graph import BOOL, INT64, Graph, Tensor
from exporter.conversion.onnx.layout import reshape
from exporter.dataflow import Block, Instruction

# Writes a block into a graph, on what it takes, and gives what it returns, each in full.
Write = Callable[[Graph, Block, Sequence[Tensor]], list[Tensor]]


def while_(
    graph: Graph, instruction: Instruction, given: Sequence[Tensor], write: Write
) -> list[Tensor]:
    """`Loop`, which asks after each turn for another. What stays as it is, stays out."""
    condition, body = instruction.blocks
    fixed = [value is result for value, result in zip(body.arguments, body.results, strict=True)]
    inner = graph.inner()
    turn = Tensor(inner.fresh("turn"), INT64, ())
    before = Tensor(inner.fresh("again"), BOOL, ())
    inside = [
        outer if stays else Tensor(inner.fresh("carried"), outer.dtype, outer.shape)
        for outer, stays in zip(given, fixed, strict=True)
    ]
    made = write(inner, body, inside)
    following = [old if stays else new for old, new, stays in zip(inside, made, fixed, strict=True)]
    (again,) = write(inner, condition, following)
    moved = [position for position, stays in enumerate(fixed) if not stays]
    proto = inner.proto(
        inner.fresh("body"),
        [turn, before, *(inside[position] for position in moved)],
        [
            (inner.fresh("again"), again),
            *((inner.fresh("carried"), following[position]) for position in moved),
        ],
    )
    (first,) = write(graph, condition, given)
    results = graph.add(
        "Loop",
        [None, first, *(given[position] for position in moved)],
        [(given[position].dtype, given[position].shape) for position in moved],
        body=proto,
    )
    by_position = dict(zip(moved, results, strict=True))
    return [by_position.get(position, one) for position, one in enumerate(given)]


def case(
    graph: Graph, instruction: Instruction, given: Sequence[Tensor], write: Write
) -> list[Tensor]:
    """`If`, as often as there are branches less one. A number of no branch means the last."""
    blocks = instruction.blocks
    (which,) = given
    if which.dtype == BOOL:
        tests = [which]
    else:
        number = reshape(graph, which, ())
        tests = [
            graph.elementwise("Equal", number, graph.like(number, one), dtype=BOOL)
            for one in range(len(blocks) - 1)
        ]
    outputs = [(one.dtype, one.shape) for one in instruction.results]

    def chosen(inside: Graph, position: int) -> list[Tensor]:
        if position == len(blocks) - 1:
            return write(inside, blocks[position], ())
        then, otherwise = inside.inner(), inside.inner()
        branches = {
            "then_branch": (then, write(then, blocks[position], ())),
            "else_branch": (otherwise, chosen(otherwise, position + 1)),
        }
        protos = {
            name: branch.proto(
                branch.fresh(name), [], [(branch.fresh("result"), one) for one in made]
            )
            for name, (branch, made) in branches.items()
        }
        return inside.add("If", [tests[position]], outputs, **protos)

    return chosen(graph, 0)


def iota(graph: Graph, instruction: Instruction) -> Tensor:
    """Positions along one axis, which the others repeat."""
    result = instruction.results[0]
    axis = instruction.attributes["iota_dimension"]
    shape = [1] * len(result.shape)
    shape[axis] = result.shape[axis]
    return graph.constant(np.arange(result.shape[axis]).astype(result.dtype).reshape(shape))
