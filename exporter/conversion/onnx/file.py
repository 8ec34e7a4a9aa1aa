"""ONNX: an `.onnx` with the arrays by name, of operators that every runtime of ONNX has.

Its operators are of version 18, or 26 where the bits of numbers are taken as others.
"""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import Error
from onnx import helper

from exporter.conversion.onnx.graph import Graph, Tensor, element_type
from exporter.conversion.onnx.translation import Translation
from exporter.conversion.program import PlainArray, StaticProgram, Written
from exporter.errors import ConversionError
from exporter.jax_dataflow import read_dataflow
from exporter.operations import MAIN

# The oldest layout of files that has all dtypes, and that runtimes of the last years read.
_IR_VERSION = 10

# Protocol buffers hold no more, and half a megabyte is left for what is no number.
_MOST_BYTES = 2**31 - 2**19


def write(program: StaticProgram, file: Path) -> Written:
    """Written operation by operation, and checked by the checker of ONNX.

    Raises:
      ConversionError: if ONNX has no operators for what the program does, or it is too large.
    """
    size = sum(value.nbytes for _, value in program.variables)
    if size > _MOST_BYTES:
        raise ConversionError(f"a file of ONNX has at most 2 GiB, and its variables {size:,} bytes")
    try:
        model, inputs, outputs = _model(program)
        onnx.checker.check_model(model, full_check=True)
        file.write_bytes(model.SerializeToString())
    except ConversionError:
        raise
    except RecursionError as error:
        raise ConversionError("its blocks stand in each other too deep") from error
    except (
        ValueError,
        Error,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    ) as error:
        first = str(error).strip().partition("\n")[0]
        raise ConversionError(f"ONNX cannot express it: {first}") from error

    def run(values: Sequence[np.ndarray]) -> list[np.ndarray]:
        return _run(file, inputs, program.outputs, outputs, values)

    return Written(inputs, outputs, run)


def _model(program: StaticProgram) -> tuple[onnx.ModelProto, tuple[str, ...], tuple[str, ...]]:
    """The model, and the names of its inputs and outputs."""
    functions = read_dataflow(program.bytecode)
    inputs = tuple(one.name for one in program.inputs)
    outputs = _unlike((one.name for one in program.outputs), inputs)
    variables = _unlike((name for name, _ in program.variables), (*inputs, *outputs))
    graph = Graph((*inputs, *outputs, *variables))
    given = [
        graph.constant(value, name)
        for name, (_, value) in zip(variables, program.variables, strict=True)
    ]
    taken = [Tensor(one.name, one.dtype, one.shape) for one in program.inputs]
    made = Translation(functions).write(graph, functions[MAIN], [*given, *taken])
    main = graph.proto(program.name, taken, list(zip(outputs, made, strict=True)))
    main.initializer.extend(graph.initializers)
    opsets = [helper.make_opsetid("", graph.opset)]
    model = helper.make_model(
        main, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="jax-exporter"
    )
    return model, inputs, outputs


def _unlike(names: Iterable[str], taken: Collection[str]) -> tuple[str, ...]:
    """Names that are not taken, with as little added as that needs."""
    found: list[str] = []
    for name in names:
        new = name
        while new in taken or new in found:
            new += "_out"
        found.append(new)
    return tuple(found)


def _run(
    file: Path,
    inputs: Sequence[str],
    arrays: Sequence[PlainArray],
    outputs: Sequence[str],
    values: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """What a file computes, with memory of ours for inputs and outputs.

    The runtime makes arrays of NumPy itself, but not of dtypes that NumPy has from others.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    given = [np.ascontiguousarray(one).reshape(one.shape) for one in values]
    found = [np.empty(one.shape, one.dtype) for one in arrays]
    for name, value in zip(inputs, given, strict=True):
        binding.bind_ortvalue_input(name, _lent(value))
    for name, value in zip(outputs, found, strict=True):
        binding.bind_ortvalue_output(name, _lent(value))
    session.run_with_iobinding(binding)
    return found


def _lent(array: np.ndarray) -> onnxruntime.OrtValue:
    """The memory of an array as the runtime takes it. It is read and written in place."""
    bits = array.view(np.uint16) if array.dtype.name == "bfloat16" else array
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, element_type(array.dtype))
