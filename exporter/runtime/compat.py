"""Whether this machine can run an artifact, and if not, why."""

import jax
import numpy as np

from exporter.artifact.manifest import Manifest
from exporter.errors import IncompatibleRuntimeError, UnsafeProgramError
from exporter.jax_internals import STABLE_CUSTOM_CALLS, custom_calls, newest_stablehlo


def check_runtime(manifest: Manifest, folder: object) -> None:
    """Refuse an artifact that this process cannot run.

    Raises:
      IncompatibleRuntimeError: naming what is needed and what is here.
    """
    ours = newest_stablehlo()
    if _numbers(manifest.stablehlo_version) > _numbers(ours):
        raise IncompatibleRuntimeError(
            f"{folder} needs StableHLO {manifest.stablehlo_version}, and JAX {jax.__version__} "
            f"reads up to {ours}. It was written with JAX {manifest.producer.jax}: install that or "
            "a newer one, or save with SaveOptions(stablehlo_version=...)."
        )
    if manifest.x64 and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
        raise IncompatibleRuntimeError(
            f"{folder} has 64-bit arrays, which JAX would narrow to 32 bits here. Call "
            "jax.config.update('jax_enable_x64', True) before loading, or set JAX_ENABLE_X64=1."
        )
    here = platforms_here()
    if manifest.programs and not set(here) & set(manifest.platforms):
        raise IncompatibleRuntimeError(
            f"{folder} runs on {', '.join(manifest.platforms)}, and JAX uses {here[0]} here. Save "
            f"it with platforms=({here[0]!r}, ...), or choose another device with JAX_PLATFORMS."
        )


def check_program(bytecode: bytes, file: object) -> None:
    """Refuse a program that calls native code nobody has vouched for.

    Raises:
      UnsafeProgramError: naming the file and what it calls.
    """
    try:
        calls = custom_calls(bytecode)
    except ValueError as error:
        raise UnsafeProgramError(f"{file} is not a program that can be read: {error}") from error
    unknown = [call for call in calls if call not in STABLE_CUSTOM_CALLS]
    if unknown:
        raise UnsafeProgramError(
            f"{file} calls native code that is not on the list of stable custom calls: "
            f"{', '.join(unknown)}. It is not loaded."
        )


def platforms_here() -> tuple[str, ...]:
    """The names, as programs know them, of the platform that JAX uses by default."""
    backend = jax.default_backend()
    if backend != "gpu":
        return (backend,)
    version = str(jax.devices()[0].client.platform_version).lower()
    return ("rocm",) if "rocm" in version else ("cuda",)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
