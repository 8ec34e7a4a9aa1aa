"""Whether this machine can run an artifact, and if not, why."""

import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import jax
import jax.export
import numpy as np

from exporter.artifact.records import Manifest, PlainTensorRecord, ProgramRecord, VariableRecord
from exporter.errors import ArtifactError, IncompatibleRuntimeError, UnsafeProgramError
from exporter.jax_internals import (
    STABLE_CUSTOM_CALLS,
    ProgramReader,
    newest_stablehlo,
    shown_mesh,
    tensor_type,
)
from signatures.dtypes import as_dtype


def check_process() -> None:
    """Refuse a process that was forked from one that has loaded already.

    JAX and TensorStore run in threads, of which a forked process has none. TensorStore ends it, and
    XLA waits for them for ever, in calls of all but small programs.

    Raises:
      IncompatibleRuntimeError: saying what to start instead.
    """
    if _first_process() != os.getpid():
        raise IncompatibleRuntimeError(
            f"this process was forked from process {_first_process()}, which had loaded a model: "
            "the threads that JAX runs on are not in it, and calls could wait for ever. Start "
            "processes with multiprocessing.get_context('spawn'), or fork before anything is "
            "loaded."
        )


@cache
def _first_process() -> int:
    """The process that first asked: this one, or one that it was forked from."""
    return os.getpid()


def check_backend() -> None:
    """Start JAX, unless it runs already.

    Raises:
      IncompatibleRuntimeError: if the platform that was chosen for it is not there.
    """
    try:
        jax.default_backend()
    except RuntimeError as error:
        chosen = jax.config.values.get("jax_platforms")
        reason = str(error).partition(" (set JAX_PLATFORMS")[0].rstrip(".")
        raise IncompatibleRuntimeError(
            f"JAX cannot start with JAX_PLATFORMS={chosen or ''}: {reason}. Choose a platform that "
            "is there, such as JAX_PLATFORMS=cpu, or unset it."
        ) from error


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
    oldest = jax.export.minimum_supported_calling_convention_version
    newest = jax.export.maximum_supported_calling_convention_version
    for program in manifest.programs:
        convention = program.calling_convention_version
        if not oldest <= convention <= newest:
            raise IncompatibleRuntimeError(
                f"{folder} calls its programs by convention {convention}, and JAX "
                f"{jax.__version__} knows {oldest} to {newest}. It was written with JAX "
                f"{manifest.producer.jax}: install that one."
            )
    if manifest.x64 and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
        raise IncompatibleRuntimeError(
            f"{folder} has 64-bit arrays, which JAX would narrow to 32 bits here. Call "
            "jax.config.update('jax_enable_x64', True) before loading, or set JAX_ENABLE_X64=1."
        )
    here = platforms_here()
    if manifest.programs and not manifest.platforms:
        each = "; ".join(f"{p.file} on {', '.join(p.platforms)}" for p in manifest.programs)
        raise IncompatibleRuntimeError(
            f"{folder} has programs that run on no platform in common: {each}. Save again what is "
            "meant to run together, from its originals."
        )
    if manifest.programs and not set(here) & set(manifest.platforms):
        raise IncompatibleRuntimeError(
            f"{folder} runs on {', '.join(manifest.platforms)}, and JAX uses {here[0]} here. Save "
            f"it with platforms=({here[0]!r}, ...), or choose another device with JAX_PLATFORMS."
        )


def check_tags(manifest: Manifest, tags: Sequence[str], folder: Path) -> None:
    """Refuse an artifact that lacks one of the tags that were asked for.

    Raises:
      ArtifactError: naming the tags that it has.
    """
    missing = [tag for tag in tags if tag not in manifest.tags]
    if missing:
        has = ", ".join(map(repr, manifest.tags)) or "none"
        raise ArtifactError(
            f"{folder} was not saved with the tag {', '.join(map(repr, missing))}; its tags are "
            f"{has}. Leave out tags=, or pass some of these."
        )


def promised(calls: Iterable[str]) -> frozenset[str]:
    """Those of some native functions whose meaning JAX promises to keep."""
    return STABLE_CUSTOM_CALLS.intersection(calls)


def check_program(
    bytecode: bytes,
    file: object,
    record: ProgramRecord,
    variables: Sequence[VariableRecord],
    vouched: Sequence[str] = (),
    *,
    reader: ProgramReader,
) -> None:
    """Refuse a program that calls unknown native code, or is another one than the manifest says.

    Args:
      bytecode: the program.
      file: where it lies, for messages.
      record: what the manifest says of it.
      variables: all variables of the manifest.
      vouched: the native functions that the caller vouches for.
      reader: reads it.

    Raises:
      UnsafeProgramError: naming the file and what it calls.
      ArtifactError: naming the file and how it differs.
    """
    try:
        facts = reader.facts(bytecode)
    except ValueError as error:
        raise UnsafeProgramError(f"{file} is not a program that can be read: {error}") from error
    known = STABLE_CUSTOM_CALLS.union(vouched)
    unknown = tuple(call for call in facts.custom_calls if call not in known)
    if unknown:
        raise UnsafeProgramError(
            f"{file} calls native code that is not on the list of stable custom calls: "
            f"{', '.join(map(repr, unknown))}. It is not loaded. If you trust it, and this process "
            f"has that code, say so: exporter.load(path, custom_calls={unknown!r})."
        )
    mesh = tuple((axis.name, axis.size) for axis in record.mesh)
    if facts.mesh_axes != tuple(record.mesh_axes) or facts.mesh != mesh:
        raise ArtifactError(
            f"{file} does not fit the manifest: it has the mesh ({shown_mesh(dict(facts.mesh))}) "
            f"and constraints on ({', '.join(facts.mesh_axes)}), and the manifest says "
            f"({shown_mesh(dict(mesh))}) and ({', '.join(record.mesh_axes)})."
        )
    state = [variables[number] for number in record.variables]
    updates = [variables[number] for number in record.updates]
    arguments = _types([*state, *record.inputs])
    kept = (arguments[position] for position in record.kept_inputs)
    # A program for several platforms is told first which one it runs on, in 32 bits or, if it was
    # saved with x64, in 64.
    told = facts.takes[:1] if facts.takes[:1] == ("tensor<i64>",) else ("tensor<i32>",)
    takes = (*(told if len(record.platforms) > 1 else ()), *kept)
    gives = _types([*updates, *record.outputs])
    for does, found, said in (("takes", facts.takes, takes), ("gives", facts.gives, gives)):
        if found != said:
            raise ArtifactError(
                f"{file} does not fit the manifest: its main function {does} "
                f"({', '.join(found)}), and the manifest says ({', '.join(said)})."
            )


def _types(tensors: Sequence[VariableRecord | PlainTensorRecord]) -> tuple[str, ...]:
    return tuple(tensor_type(tensor.shape, as_dtype(tensor.dtype)) for tensor in tensors)


def platforms_here() -> tuple[str, ...]:
    """The names, as programs know them, of the platform that JAX uses by default."""
    backend = jax.default_backend()
    if backend != "gpu":
        return (backend,)
    version = str(jax.devices()[0].client.platform_version).lower()
    return ("rocm",) if "rocm" in version else ("cuda",)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
