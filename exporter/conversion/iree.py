"""IREE: a program compiled for any processor of this architecture, as a `.vmfb`.

Its function `main` takes and gives arrays by position. Their names are in what the function says of
itself (`reflection`), as lists of JSON: `inputs`, `outputs`, and `signature`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from iree import runtime
from iree.compiler import CompilerToolError, compile_str

from exporter.conversion.program import StaticProgram, Written
from exporter.errors import ConversionError
from exporter.jax_static import noted

# The least that every processor of the architecture has, so that the file runs on other machines.
_FLAGS = ("--iree-llvmcpu-target-cpu=generic", "--iree-input-demote-f64-to-f32=false")


def write(program: StaticProgram, file: Path) -> Written:
    """Compiled by `iree-compile`, which is a process of its own.

    Raises:
      ConversionError: if the compiler refuses it.
    """
    try:
        compile_str(
            noted(program.bytecode, "iree.reflection", _names(program)),
            output_file=str(file),
            target_backends=["llvm-cpu"],
            input_type="stablehlo",
            extra_args=list(_FLAGS),
        )
    except CompilerToolError as error:
        raise ConversionError(f"IREE cannot compile it: {_matter(str(error))}") from error

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return _run(file, inputs)

    return Written(None, None, run)


def _names(program: StaticProgram) -> dict[str, str]:
    return {
        "signature": json.dumps(program.name),
        "inputs": json.dumps([one.name for one in program.inputs]),
        "outputs": json.dumps([one.name for one in program.outputs]),
    }


def _run(file: Path, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    context = runtime.SystemContext(config=runtime.Config("local-task"))
    module = runtime.VmModule.copy_buffer(context.instance, file.read_bytes())
    context.add_vm_module(module)
    found = context.modules[module.name]["main"](*inputs)
    return [np.asarray(one) for one in (found if isinstance(found, tuple | list) else [found])]


def _matter(text: str) -> str:
    """The first error of the compiler, without the program that it quotes after it."""
    found = next((line for line in text.splitlines() if "error: " in line), text)
    return found.partition("error: ")[2] or found.splitlines()[0]
