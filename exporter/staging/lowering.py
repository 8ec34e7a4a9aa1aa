"""A trace becomes one portable program for a set of platforms."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import jax
from jax import export

from exporter import notices
from exporter.errors import LoweringError, Problem
from exporter.jax_internals import (
    Module,
    exported_module,
    joined,
    module_facts,
    newest_stablehlo,
    portable_bytecode,
)
from exporter.staging.derivatives import FlatFunction, derivative_of
from exporter.staging.independence import row_wise
from exporter.staging.obstacles import callbacks, constants, equations, mapped_by_process
from exporter.staging.platforms import lacking
from exporter.staging.prints import is_print, without_prints
from exporter.staging.probing import UNCHECKED, first_line, unstable
from exporter.staging.tracing import Variant
from signatures.spec import Dim, TensorSpec

ALL_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_ALIASES = {"gpu": "cuda"}

# The versions at which StableHLO learnt something that older readers cannot express, oldest
# first: nearly all programs need 0.9.0 only, composites such as top_k need 1.0.0. In between
# lie the releases that brought a type or an operation, each worth a try before the newest.
_COMPOSITES_SINCE = "1.0.0"
STABLEHLO_TARGETS = ("0.9.0", "1.0.0", "1.4.0", "1.8.0", "1.10.0", "1.12.0", "1.13.0", "1.15.0")


@dataclass(frozen=True)
class LoweredProgram:
    """One trace as code.

    Attributes:
      bytecode: portable StableHLO.
      stablehlo_version: the oldest version of StableHLO that reads it.
      platforms: where it runs.
      variables: the variables it takes before the inputs, by number.
      updates: the variables whose new arrays it returns before the outputs, by number.
      inputs: the inputs, every axis a size or a symbol.
      outputs: the outputs likewise.
      dims: the symbols, with their bounds.
      ranks: the numbers of axes it was traced for, of the inputs that may have any.
      custom_calls: the native functions that it calls by name.
      calling_convention_version: JAX's number for how its main function is called.
      kept_inputs: the positions, among variables and inputs, that its main function takes.
      uses_global_constants: whether inner functions take the platform or named sizes, as JAX's
        calling convention has it.
      mesh_axes: the mesh axes that its sharding constraints name.
      mesh: the axes, with their sizes, of the mesh that it computes on shard by shard, if any.
      derivative: the program of its derivative. `None` if nobody asked for it, all of it is zero
        or it cannot be had.
      derivative_problem: in the last case, why.
      row_wise: the dimension along which its rows do not depend on each other, see
        `independence.py`, or `None` if none is known.
    """

    bytecode: bytes
    stablehlo_version: str
    platforms: tuple[str, ...]
    variables: tuple[int, ...]
    updates: tuple[int, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: tuple[Dim, ...]
    ranks: tuple[int, ...]
    custom_calls: tuple[str, ...]
    calling_convention_version: int
    kept_inputs: tuple[int, ...]
    uses_global_constants: bool
    mesh_axes: tuple[str, ...]
    mesh: tuple[tuple[str, int], ...]
    derivative: "LoweredProgram | None" = None
    derivative_problem: str | None = None
    row_wise: str | None = None


@dataclass(frozen=True)
class _Job:
    """What is the same for a program and its derivatives: the trace and some options."""

    variant: Variant
    platforms: tuple[str, ...]
    version: str
    keep_locations: bool
    custom_calls: tuple[str, ...]


def normalised_platforms(platforms: Sequence[str]) -> tuple[str, ...]:
    """The platforms by the names JAX lowers for, each once.

    Raises:
      LoweringError: if one is unknown, or there is none.
    """
    if isinstance(platforms, str) or not isinstance(platforms, Iterable):
        platforms = (platforms,)
    names = tuple(dict.fromkeys(_ALIASES.get(name, name) for name in platforms))
    unknown = [name for name in names if name not in ALL_PLATFORMS]
    if unknown or not names:
        found = repr(unknown[0]) if unknown else "none"
        raise LoweringError(
            f"platforms= names {found}; the choices are {', '.join(ALL_PLATFORMS)} "
            "('gpu' is 'cuda')."
        )
    return names


def check_target(target: str) -> None:
    """Refuse a version of StableHLO that this JAX does not write.

    Raises:
      LoweringError: naming those it writes.
    """
    newest, oldest = newest_stablehlo(), STABLEHLO_TARGETS[0]
    numbers = re.fullmatch(r"(\d{1,5})\.(\d{1,5})\.(\d{1,5})", target)
    version = tuple(map(int, numbers.groups())) if numbers else (-1,)
    low, high = (tuple(map(int, end.split("."))) for end in (oldest, newest))
    if target != "oldest" and not low <= version <= high:
        raise LoweringError(
            f"stablehlo_version={target!r} is not a version that JAX {jax.__version__} writes: "
            f"{oldest!r} to {newest!r}, or 'oldest'."
        )


@dataclass(frozen=True)
class _Lowered:
    """A program in memory, with what its callers need to know.

    Attributes:
      module: the program.
      exported: what JAX says of it, for one of its platforms at least.
      uses_global_constants: see `LoweredProgram`.
      traced: what it was lowered from.
    """

    module: Module
    exported: export.Exported
    uses_global_constants: bool
    traced: jax.stages.Traced


def lower(
    variant: Variant,
    name: str,
    platforms: Sequence[str],
    *,
    numbers: Mapping[int, int],
    target: str = "oldest",
    keep_locations: bool = False,
    max_constant_bytes: int,
    custom_calls: Sequence[str] = (),
    python_function: Callable[..., object] | None = None,
    vjp_order: int = 0,
) -> LoweredProgram:
    """One StableHLO program for a trace.

    The function is not traced again; the program is made from the jaxpr.

    Args:
      variant: the trace.
      name: what the function is called, for messages.
      platforms: as `normalised_platforms` gives them. The program runs on these and no other.
      numbers: the number of each variable in the artifact, by its position in the graph.
      target: a StableHLO version, or `"oldest"` for the oldest that can express the program.
      keep_locations: whether operations still say which line of the user's code they came from.
      max_constant_bytes: the largest array that may be part of the program itself.
      custom_calls: the native functions that the caller vouches for.
      python_function: what was traced, to find the names of arrays in.
      vjp_order: how many times the program is differentiated, each time into a program of its own.
        One that cannot be is left out, with a warning.

    Raises:
      LoweringError: with everything that stands in the way: large constants, calls of Python or
        of native functions without a promise of stability, operations that a platform lacks.
    """
    every = list(equations(variant.jaxpr.jaxpr))
    if prints := [placed for placed in every if is_print(placed.equation)]:
        variant = without_prints(variant, name, prints)
        every = list(equations(variant.jaxpr.jaxpr))
    job = _Job(variant, tuple(platforms), target, keep_locations, tuple(custom_calls))
    problems = [*callbacks(every, name)]
    problems += constants(variant.jaxpr, name, max_constant_bytes, python_function)
    problems += mapped_by_process(every, name)
    flat = _flat(job, name, numbers)
    lowered = _lowered(flat, job)
    if isinstance(lowered, Exception):
        problems += lacking(variant, name, platforms, custom_calls)
        problems = problems or [_unexplained(lowered, name, platforms)]
    if problems or isinstance(lowered, Exception):
        cause = lowered if isinstance(lowered, Exception) else None
        raise LoweringError.of(_with_inputs(problems, variant)) from cause
    program, results = _program(lowered, flat, job)
    return _with_derivatives(program, flat, results, job, vjp_order)


def _flat(job: _Job, name: str, numbers: Mapping[int, int]) -> FlatFunction:
    """The trace as a function of the variables of the artifact."""
    variant = job.variant
    variables = tuple(dict.fromkeys(numbers[index] for index in variant.reads))
    # Two places that hold the same array are one variable of the program.
    positions = [variables.index(numbers[index]) for index in variant.reads]
    first = [positions.index(i) for i in range(len(variables))]

    def call(*arrays: jax.Array) -> list[jax.Array]:
        state = (arrays[position] for position in positions)
        inputs = arrays[len(variables) :]
        return variant.flat(*state, *inputs, keep_locations=job.keep_locations)

    inputs = variant.structs[len(variant.reads) :]
    return FlatFunction(
        name=name,
        call=call,
        structs=(*(variant.structs[i] for i in first), *inputs),
        variables=variables,
        updates=tuple(numbers[index] for index in variant.writes),
        inputs=variant.inputs,
        outputs=variant.outputs,
    )


def _program(
    lowered: _Lowered, flat: FlatFunction, job: _Job
) -> tuple[LoweredProgram, list[jax.ShapeDtypeStruct]]:
    """The program of a flat function, without its derivatives, and what it returns."""
    try:
        facts = module_facts(lowered.module)
    except ValueError as error:
        message = f"{flat.name} cannot be a portable program: {error}"
        raise LoweringError.of([Problem("program", flat.name, message)]) from error
    if unstable(facts.custom_calls, job.custom_calls):
        found = lacking(job.variant, flat.name, job.platforms, job.custom_calls)
        raise LoweringError.of(_with_inputs(found, job.variant))
    targets = [job.version]
    if job.version == "oldest":
        first = STABLEHLO_TARGETS.index(_COMPOSITES_SINCE) if facts.has_composites else 0
        targets = [*STABLEHLO_TARGETS[first:], newest_stablehlo()]
    bytecode, version = _portable(lowered.module, flat.name, targets)
    traced = lowered.traced
    program = LoweredProgram(
        bytecode=bytecode,
        stablehlo_version=version,
        platforms=job.platforms,
        variables=flat.variables,
        updates=flat.updates,
        inputs=flat.inputs,
        outputs=flat.outputs,
        dims=job.variant.dims,
        ranks=job.variant.ranks,
        custom_calls=facts.custom_calls,
        calling_convention_version=lowered.exported.calling_convention_version,
        kept_inputs=tuple(lowered.exported.module_kept_var_idx),
        uses_global_constants=lowered.uses_global_constants,
        mesh_axes=facts.mesh_axes,
        mesh=facts.mesh,
        row_wise=None if flat.updates else row_wise(traced.jaxpr, len(flat.variables)),
    )
    return program, list(traced.out_info)


def _jitted(flat: FlatFunction) -> jax.stages.Wrapped:
    """The function under the name that its program is to have. JAX traces it once."""

    def call(*arrays: jax.Array) -> Sequence[jax.Array]:
        return flat.call(*arrays)

    call.__name__ = call.__qualname__ = flat.name
    return jax.jit(call)


def _with_derivatives(
    program: LoweredProgram,
    flat: FlatFunction,
    results: Sequence[jax.ShapeDtypeStruct],
    job: _Job,
    order: int,
) -> LoweredProgram:
    """The program with its derivative, and that one's, as often as asked and possible."""
    derivative = derivative_of(flat, results) if order else None
    if derivative is None:
        return program
    try:
        lowered = _lowered(derivative, job)
        if isinstance(lowered, Exception):
            raise lowered
        first, cotangents = _program(lowered, derivative, job)
    except Exception as error:  # noqa: BLE001  # rules of derivatives are anybody's code
        reason = first_line(error)
        notices.warn(
            f"{flat.name} is saved without its derivative, so gradients through it will be refused "
            f"when it is loaded: {reason}",
        )
        return replace(program, derivative_problem=reason)
    first = _with_derivatives(first, derivative, cotangents, job, order - 1)
    return replace(program, derivative=first)


def _lowered(flat: FlatFunction, job: _Job) -> _Lowered | Exception:
    """The program for all platforms, or what JAX has against it."""
    function = _jitted(flat)

    def made(chosen: Sequence[str]) -> _Lowered:
        traced = function.trace(*flat.structs)
        make = export.export(function, platforms=chosen, disabled_checks=UNCHECKED)
        exported, module = exported_module(
            lambda: make(*flat.structs), keep_locations=job.keep_locations
        )
        return _Lowered(module, exported, exported.uses_global_constants, traced)

    try:
        return made(job.platforms)
    except Exception as error:  # noqa: BLE001  # each backend refuses in its own way
        if len(job.platforms) == 1:
            return error
    try:
        each = [made((platform,)) for platform in job.platforms]
    except Exception as error:  # noqa: BLE001  # as above
        return error
    module = joined([one.module for one in each])
    return replace(each[0], module=module, uses_global_constants=True)


def _portable(module: Module, name: str, targets: Sequence[str]) -> tuple[bytes, str]:
    """The program in the first of the versions that can express it."""
    for version in targets:
        try:
            return portable_bytecode(module, version), version
        except ValueError as error:
            last = error
    message = f"{name} cannot be expressed in StableHLO {targets[-1]}: {first_line(last)}"
    raise LoweringError.of([Problem("program", name, message)]) from last


def _unexplained(error: Exception, name: str, platforms: Sequence[str]) -> Problem:
    message = f"{name} cannot be lowered for {', '.join(platforms)}: {first_line(error)}"
    return Problem("platform", name, message, platforms=tuple(platforms))


def _with_inputs(problems: Iterable[Problem], variant: Variant) -> list[Problem]:
    shown = ", ".join(f"{spec.name}: {spec}" for spec in variant.inputs)
    return [replace(problem, inputs=shown) for problem in problems]
