"""Blocks of StableHLO written as nodes of ONNX, one instruction after the other."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from exporter.conversion.onnx import control, layout
from exporter.conversion.onnx.contraction import convolution, dot_general
from exporter.conversion.onnx.elementwise import ELEMENTWISE
from exporter.conversion.onnx.graph import Graph, Tensor
from exporter.conversion.onnx.indexing import (
    dynamic_slice,
    dynamic_update_slice,
    gather,
    scatter,
)
from exporter.conversion.onnx.reduction import Apply, reduce, reduce_window
from exporter.conversion.onnx.sorting import sort
from exporter.dataflow import Block, Instruction, Value
from exporter.errors import ConversionError

_One = Callable[[Graph, Instruction, Sequence[Tensor]], Tensor]
_Applying = Callable[[Graph, Instruction, Sequence[Tensor], Apply], list[Tensor]]


def _slice(graph: Graph, instruction: Instruction, given: Sequence[Tensor]) -> Tensor:
    axes = instruction.attributes
    return layout.cut(
        graph, given[0], axes["start_indices"], axes["limit_indices"], axes.get("strides")
    )


def _pad(graph: Graph, instruction: Instruction, given: Sequence[Tensor]) -> Tensor:
    axes = instruction.attributes
    edges = axes["edge_padding_low"], axes["edge_padding_high"]
    return layout.pad(graph, given[0], given[1], *edges, interior=axes["interior_padding"])


def _concatenate(graph: Graph, instruction: Instruction, given: Sequence[Tensor]) -> Tensor:
    return layout.join(graph, given, instruction.attributes["dimension"])


def _reverse(graph: Graph, instruction: Instruction, given: Sequence[Tensor]) -> Tensor:
    return layout.reverse(graph, given[0], instruction.attributes["dimensions"])


# Operations on arrays that have all their elements.
_WHOLE: Mapping[str, _One] = {
    "concatenate": _concatenate,
    "convolution": convolution,
    "dot_general": dot_general,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    "gather": gather,
    "pad": _pad,
    "reverse": _reverse,
    "scatter": scatter,
    "slice": _slice,
}

# Operations that apply a block to elements.
_APPLYING: Mapping[str, _Applying] = {
    "reduce": reduce,
    "reduce_window": reduce_window,
    "sort": sort,
}

_CONTROL = {"while": control.while_, "case": control.case, "if": control.case}


class Translation:
    """A program on its way into a graph.

    Attributes:
      functions: those of the program, by name.
    """

    def __init__(self, functions: Mapping[str, Block]) -> None:
        self.functions = functions
        self._known: dict[Value, Tensor] = {}

    def write(self, graph: Graph, block: Block, given: Sequence[Tensor]) -> list[Tensor]:
        """Write a block into a graph, on what it takes. Gives what it returns, each in full."""
        self._run(graph, block, given)
        return [self._whole(graph, one) for one in block.results]

    def _run(self, graph: Graph, block: Block, given: Sequence[Tensor]) -> None:
        self._known.update(zip(block.arguments, given, strict=True))
        for instruction in block.instructions:
            made = self._written(graph, instruction)
            self._known.update(zip(instruction.results, made, strict=True))

    def _whole(self, graph: Graph, value: Value) -> Tensor:
        return layout.full(graph, self._known[value], value.shape)

    def _applied(self, graph: Graph, block: Block, given: Sequence[Tensor]) -> list[Tensor]:
        """What a block on single elements makes of arrays that broadcast.

        Raises:
          ConversionError: if it does more than computing with elements.
        """
        for instruction in block.instructions:
            plain = instruction.name in ELEMENTWISE or instruction.name == "constant"
            single = instruction.name in ("broadcast_in_dim", "reshape")
            if not plain and not (single and not instruction.operands[0].shape):
                raise ConversionError(f"it combines elements with {instruction.name}")
        self._run(graph, block, given)
        return [self._known[one] for one in block.results]

    def _written(self, graph: Graph, instruction: Instruction) -> Sequence[Tensor]:
        name = instruction.name
        if name in ELEMENTWISE:
            given = [self._known[one] for one in instruction.operands]
            return [ELEMENTWISE[name](graph, instruction, given)]
        if name == "constant":
            return [_constant(graph, instruction)]
        if name == "iota":
            return [control.iota(graph, instruction)]
        if name == "optimization_barrier":
            return [self._known[one] for one in instruction.operands]
        if name in ("broadcast_in_dim", "reshape", "transpose"):
            return [self._moved(graph, instruction)]
        whole = [self._whole(graph, one) for one in instruction.operands]
        if name in _WHOLE:
            return [_WHOLE[name](graph, instruction, whole)]
        if name in _APPLYING:
            apply = partial(self._applied, graph, instruction.blocks[0])
            return _APPLYING[name](graph, instruction, whole, apply)
        if name in _CONTROL:
            return _CONTROL[name](graph, instruction, whole, self.write)
        if name == "func.call":
            return self.write(graph, self.functions[instruction.attributes["callee"]], whole)
        raise ConversionError(f"ONNX has no operators here for {name}")

    def _moved(self, graph: Graph, instruction: Instruction) -> Tensor:
        """An operation that leaves elements alone, on an array as it was before its broadcast."""
        (value,), (result,) = instruction.operands, instruction.results
        tensor = self._known[value]
        if value.shape == () == result.shape:
            return tensor
        if tensor.size == 1:
            return layout.reshape(graph, tensor, ())
        if instruction.name == "broadcast_in_dim":
            axes = instruction.attributes["broadcast_dimensions"]
            return layout.broadcast(graph, tensor, axes, len(result.shape))
        if instruction.name == "transpose":
            return layout.transpose(graph, tensor, instruction.attributes["permutation"])
        return layout.reshape(graph, self._whole(graph, value), result.shape)


def _constant(graph: Graph, instruction: Instruction) -> Tensor:
    """A constant, as one number if all its elements are the same."""
    value = instruction.attributes["value"]
    if value.size > 1 and not any(value.strides):  # one element was repeated
        value = value.reshape(-1)[:1].reshape(())
    return graph.constant(np.asarray(value))
