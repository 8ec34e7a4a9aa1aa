"""LiteRT (formerly TensorFlow Lite): a `.tflite` with the signature by name, without TensorFlow."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from litert_converter import converter_api_ext as converter
from litert_converter.mlir import ir, passmanager

from exporter.conversion.litert_loops import outline
from exporter.conversion.program import StaticProgram, Written
from exporter.errors import ConversionError


def write(program: StaticProgram, file: Path) -> Written:
    """Converted by the compiler of `litert-converter`.

    Raises:
      ConversionError: if it has no operations for what the program does.
    """
    inputs = tuple(one.name for one in program.inputs)
    outputs = tuple(one.name for one in program.outputs)
    context = ir.Context()
    converter.prepare_mlir_context(context)
    try:
        with context:
            module = ir.Module.parse(program.bytecode)
            converter.set_signature(module.operation, program.name, inputs, outputs)
            config = converter.ConvertToTFLConfig()
            converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), config)
            outline(module)
            file.write_bytes(converter.export_flatbuffer_to_bytes(module.operation))
    except (RuntimeError, ValueError, ir.MLIRError) as error:
        raise ConversionError(f"LiteRT cannot express it: {_matter(str(error))}") from error

    def run(values: Sequence[np.ndarray]) -> list[np.ndarray]:
        return _run(file, program, values)

    return Written(inputs, outputs, run)


def _run(file: Path, program: StaticProgram, values: Sequence[np.ndarray]) -> list[np.ndarray]:
    interpreter = Interpreter(model_path=str(file))
    call = interpreter.get_signature_runner(program.name)
    named = {one.name: value for one, value in zip(program.inputs, values, strict=True)}
    found = call(**named)
    return [np.asarray(found[one.name]) for one in program.outputs]


def _matter(text: str) -> str:
    """The first error, without the program that is quoted after it."""
    found = next((line for line in text.splitlines() if "error: " in line), None)
    return found.partition("error: ")[2] if found else text.partition("\n")[0]
