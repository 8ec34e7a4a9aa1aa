"""Programs of known sizes taken apart: MLIR becomes the plain values of `dataflow.py`.

What it rests on beside `jax_internals.py` and `jax_static.py`:

- the spelling of the attributes of StableHLO in `jaxlib.mlir`. When it changes, conversions that
  read them fail, and their tests.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from exporter.dataflow import Block, Instruction, Value
from exporter.jax_static import parsed
from exporter.operations import FUNCTION

_TENSOR = re.compile(r"tensor<((?:\d+x)*)(complex<f\d+>|\w+)>")
_ENUM = re.compile(r"#stablehlo<\w+ (\w+)>")

_DTYPES = {
    "i1": np.dtype(np.bool_),
    "f16": np.dtype(np.float16),
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "complex<f32>": np.dtype(np.complex64),
    "complex<f64>": np.dtype(np.complex128),
    **{f"i{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"ui{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
}


def read_dataflow(bytecode: bytes) -> dict[str, Block]:
    """The functions of a program in memory, by name.

    Raises:
      ValueError: if it has values that are no arrays of known sizes, or of dtypes of few bits.
    """
    with parsed(bytecode) as module:
        functions: dict[str, Block] = {}
        for view in module.body.operations:
            operation = view.operation
            if operation.name == FUNCTION and operation.regions[0].blocks:
                name = str(ir.StringAttr(operation.attributes["sym_name"]).value)
                functions[name] = _block(operation.regions[0].blocks[0], {})
        return functions


def _block(block: ir.Block, known: dict[Any, Value]) -> Block:
    arguments = tuple(_value(one, known) for one in block.arguments)
    *most, last = [view.operation for view in block.operations]
    found = tuple(_instruction(one, known) for one in most)
    return Block(arguments, found, tuple(known[one] for one in last.operands))


def _instruction(operation: Any, known: dict[Any, Value]) -> Instruction:
    name = str(operation.name).removeprefix("stablehlo.")
    operands = tuple(known[one] for one in operation.operands)
    blocks = tuple(_block(region.blocks[0], known) for region in operation.regions)
    results = tuple(_value(one, known) for one in operation.results)
    if name == "constant":
        attributes = {"value": _elements(operation.attributes["value"], results[0])}
    else:
        attributes = {key: _attribute(operation.attributes[key]) for key in operation.attributes}
    return Instruction(name, operands, results, attributes, blocks)


def _value(value: Any, known: dict[Any, Value]) -> Value:
    text = str(value.type)
    found = _TENSOR.fullmatch(text)
    if found is None or found[2] not in _DTYPES:
        raise ValueError(f"it has values of type {text}")
    shape = tuple(int(size) for size in found[1].split("x")[:-1])
    known[value] = Value(_DTYPES[found[2]], shape)
    return known[value]


def _attribute(attribute: Any) -> Any:
    for kind, plain in _KINDS.items():
        if isinstance(attribute, kind):
            return plain(attribute)
    for kind, names in _AXES.items():
        if kind.isinstance(attribute):
            return _axes(kind(attribute), names)
    text = str(attribute)
    found = _ENUM.fullmatch(text)
    return found[1] if found else text


def _axes(attribute: Any, names: Sequence[str]) -> dict[str, int | tuple[int, ...]]:
    """What an attribute says of axes, by name."""
    values = {name: getattr(attribute, name) for name in names}
    return {
        name: value if isinstance(value, int) else tuple(value) for name, value in values.items()
    }


# How the attributes of MLIR are read that hold values of Python.
_KINDS: dict[Any, Callable[[Any], Any]] = {
    ir.BoolAttr: lambda one: bool(one.value),
    ir.IntegerAttr: lambda one: int(one.value),
    ir.StringAttr: lambda one: str(one.value),
    ir.FlatSymbolRefAttr: lambda one: str(one.value),
    ir.DenseI64ArrayAttr: tuple,
    ir.DenseBoolArrayAttr: tuple,
    ir.DenseIntElementsAttr: np.array,
}

# Those of StableHLO that say which axis is what, and what they say.
_AXES: dict[Any, tuple[str, ...]] = {
    stablehlo.DotDimensionNumbers: (
        "lhs_batching_dimensions",
        "rhs_batching_dimensions",
        "lhs_contracting_dimensions",
        "rhs_contracting_dimensions",
    ),
    stablehlo.ConvDimensionNumbers: (
        "input_batch_dimension",
        "input_feature_dimension",
        "input_spatial_dimensions",
        "kernel_input_feature_dimension",
        "kernel_output_feature_dimension",
        "kernel_spatial_dimensions",
        "output_batch_dimension",
        "output_feature_dimension",
        "output_spatial_dimensions",
    ),
    stablehlo.GatherDimensionNumbers: (
        "offset_dims",
        "collapsed_slice_dims",
        "operand_batching_dims",
        "start_indices_batching_dims",
        "start_index_map",
        "index_vector_dim",
    ),
    stablehlo.ScatterDimensionNumbers: (
        "update_window_dims",
        "inserted_window_dims",
        "input_batching_dims",
        "scatter_indices_batching_dims",
        "scattered_dims_to_operand_dims",
        "index_vector_dim",
    ),
}


def _elements(attribute: Any, value: Value) -> np.ndarray:
    """The elements of a constant."""
    if value.dtype == _DTYPES["bf16"]:
        return _brain_floats(str(attribute), value)
    try:
        found = np.array(attribute, value.dtype)
    except TypeError as error:  # complex numbers have no class there
        raise ValueError(f"it has a constant of {value.dtype.name}") from error
    return np.broadcast_to(found, value.shape)


def _brain_floats(text: str, value: Value) -> np.ndarray:
    """Those of bfloat16, which have no buffer, from how they are written."""
    body = text.removeprefix("dense<").rpartition("> : ")[0]
    if body.startswith('"0x'):
        found = np.frombuffer(bytes.fromhex(body[3:-1]), value.dtype)
    else:
        words = re.findall(r"0x[0-9A-F]+|[-+.\deE]+", body)
        found = np.asarray([_brain_float(word) for word in words], value.dtype)
    is_whole = found.size == math.prod(value.shape)
    return np.broadcast_to(found.reshape(value.shape if is_whole else ()), value.shape)


def _brain_float(word: str) -> Any:
    """A number, which is written as its bits if it is none."""
    if word.startswith("0x"):
        return np.uint16(int(word, 16)).view(ml_dtypes.bfloat16)
    return ml_dtypes.bfloat16(float(word))
