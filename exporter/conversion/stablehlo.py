"""StableHLO as a file of its own: text for people, or portable bytecode for other compilers."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from exporter.conversion.program import StaticProgram, Written
from exporter.errors import ConversionError
from exporter.jax_static import module_in, portable, run_by_pjrt, text_of


def write(program: StaticProgram, file: Path) -> Written:
    """Text if the file is called `.mlir`, portable bytecode if it is called `.mlirbc`.

    Raises:
      ConversionError: if no version of StableHLO can express the program.
    """
    if file.suffix == ".mlir":
        file.write_text(text_of(program.bytecode), encoding="utf-8")
    else:
        try:
            file.write_bytes(portable(program.bytecode))
        except ValueError as error:
            raise ConversionError(f"it has no portable bytecode: {error}") from error
    device = _device(program.platform)

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        assert device is not None
        return run_by_pjrt(module_in(file.read_bytes()), inputs, device)

    return Written(
        tuple(one.name for one in program.inputs),
        tuple(one.name for one in program.outputs),
        run if device else None,
    )


def _device(platform: str) -> jax.Device | None:
    try:
        return jax.local_devices(backend=platform)[0]
    except RuntimeError:  # JAX has no such platform here
        return None
