"""A trace becomes one portable program for a set of platforms."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.extend.core
import numpy as np
from jax import export

from exporter.errors import LoweringError
from exporter.jax_internals import (
    STABLE_CUSTOM_CALLS,
    module_text,
    newest_stablehlo,
    portable_bytecode,
    program_facts,
    user_line,
)
from exporter.staging.derivatives import FlatFunction, derivative_of
from exporter.staging.independence import row_wise
from exporter.staging.tracing import Variant
from signatures.spec import Dim, TensorSpec

ALL_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_ALIASES = {"gpu": "cuda"}

# The versions at which StableHLO learnt something that older readers cannot express, oldest
# first: nearly all programs need 0.9.0 only, composites such as top_k need 1.0.0. In between
# lie the releases that brought a type or an operation, each worth a try before the newest.
STABLEHLO_TARGETS = ("0.9.0", "1.0.0", "1.4.0", "1.8.0", "1.10.0", "1.12.0", "1.13.0", "1.15.0")


# How JAX names what it cannot lower.
_NAMED_CALL = re.compile(r"custom_call @\"?([\w$.]+)")
_NO_RULE = re.compile(
    r"primitive '(?P<primitive>[^']+)' not found for platforms? (?P<platforms>.*)"
)


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


def normalised_platforms(platforms: Sequence[str]) -> tuple[str, ...]:
    """The platforms by the names JAX lowers for, each once.

    Raises:
      LoweringError: if one is unknown, or there is none.
    """
    if isinstance(platforms, str):
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


def lower(
    variant: Variant,
    name: str,
    platforms: Sequence[str],
    *,
    numbers: Mapping[int, int],
    target: str = "oldest",
    keep_locations: bool = False,
    max_constant_bytes: int,
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
      vjp_order: how many times the program is differentiated, each time into a program of its own.
        One that cannot be is left out, with a warning.

    Raises:
      LoweringError: if the program holds a large constant, calls Python or a native function
        without a promise of stability, or cannot be expressed for a platform or at the target.
    """
    variant = _without_prints(variant, name)
    _refuse_callbacks(variant, name)
    _refuse_constants(variant, name, max_constant_bytes)
    flat = _flat(variant, name, numbers)
    job = _Job(variant, tuple(platforms), target, keep_locations)
    program, results = _lowered(flat, job)
    return _with_derivatives(program, flat, results, job, vjp_order)


def _flat(variant: Variant, name: str, numbers: Mapping[int, int]) -> FlatFunction:
    """The trace as a function of the variables of the artifact."""
    variables = tuple(dict.fromkeys(numbers[index] for index in variant.reads))
    # Two places that hold the same array are one variable of the program.
    positions = [variables.index(numbers[index]) for index in variant.reads]
    first = [positions.index(i) for i in range(len(variables))]

    def call(*arrays: jax.Array) -> list[jax.Array]:
        state = (arrays[position] for position in positions)
        return variant.flat(*state, *arrays[len(variables) :])

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


def _lowered(flat: FlatFunction, job: _Job) -> tuple[LoweredProgram, list[jax.ShapeDtypeStruct]]:
    """The program of a flat function, without its derivatives, and what it returns."""

    def call(*arrays: jax.Array) -> Sequence[jax.Array]:
        return flat.call(*arrays)

    call.__name__ = call.__qualname__ = flat.name
    jitted = jax.jit(call)
    traced = jitted.trace(*flat.structs)
    try:
        exported = export.export(jitted, platforms=job.platforms)(*flat.structs)
    except (ValueError, NotImplementedError, KeyError) as error:
        raise _cannot_lower(error, job.variant, flat.name, job.platforms) from error
    bytecode, version = _portable(
        exported, flat.name, job.version, keep_locations=job.keep_locations
    )
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
        custom_calls=_checked_custom_calls(bytecode, flat.name),
        calling_convention_version=exported.calling_convention_version,
        kept_inputs=exported.module_kept_var_idx,
        uses_global_constants=exported.uses_global_constants,
        row_wise=None if flat.updates else row_wise(traced.jaxpr, len(flat.variables)),
    )
    return program, list(traced.out_info)


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
        first, cotangents = _lowered(derivative, job)
    except Exception as error:  # noqa: BLE001  # rules of derivatives are anybody's code
        reason = _first_line(error)
        warnings.warn(
            f"{flat.name} is saved without its derivative, so gradients through it will be refused "
            f"when it is loaded: {reason}",
            stacklevel=2,
        )
        return replace(program, derivative_problem=reason)
    first = _with_derivatives(first, derivative, cotangents, job, order - 1)
    return replace(program, derivative=first)


def _portable(
    exported: export.Exported, name: str, target: str, *, keep_locations: bool
) -> tuple[bytes, str]:
    text = module_text(exported, keep_locations=keep_locations)
    newest = newest_stablehlo()
    targets = [*STABLEHLO_TARGETS, newest] if target == "oldest" else [target]
    for version in targets:
        try:
            return portable_bytecode(text, version), version
        except ValueError as error:
            last = error
    raise LoweringError(
        f"{name} cannot be expressed in StableHLO {targets[-1]}: {_first_line(last)}"
    ) from last


def _checked_custom_calls(bytecode: bytes, name: str) -> tuple[str, ...]:
    calls = program_facts(bytecode).custom_calls
    unstable = [call for call in calls if call not in STABLE_CUSTOM_CALLS]
    if unstable:
        raise _unstable(name, unstable)
    return calls


def _unstable(name: str, calls: Sequence[str]) -> LoweringError:
    return LoweringError(
        f"{name} calls {', '.join(calls)}, of which nobody promises that later releases still have "
        "it. Compute it with other operations, or leave the platforms that need it out of "
        "platforms=."
    )


def _cannot_lower(
    error: Exception, variant: Variant, name: str, platforms: Sequence[str]
) -> LoweringError:
    """What JAX has against lowering a trace, in words that say what to do."""
    text = str(error)
    calls = sorted(set(_NAMED_CALL.findall(text)))
    if calls and "compatibility guarantees" in text:
        return _unstable(name, calls)
    missing = _NO_RULE.search(text)
    if missing is None:
        return LoweringError(
            f"{name} cannot be lowered for {', '.join(platforms)}: {_first_line(error)}"
        )
    primitive = missing["primitive"]
    without = [platform for platform in platforms if platform in missing["platforms"]]
    lines = (
        f" at {user_line(equation)}"
        for equation in _equations(variant.jaxpr.jaxpr)
        if equation.primitive.name == primitive
    )
    rest = tuple(platform for platform in platforms if platform not in without)
    advice = f" Save it with platforms={rest!r}." if rest else ""
    return LoweringError(
        f"{name} cannot be lowered for {', '.join(without) or ', '.join(platforms)}: "
        f"{primitive}{next(lines, '')} has no lowering there.{advice}"
    )


_PRINTS = ("debug_callback", "debug_print")


def _without_prints(variant: Variant, name: str) -> Variant:
    """The trace without `jax.debug` calls, which no program can hold and no result needs."""
    dropped: list[str] = []
    inner = _stripped(variant.jaxpr.jaxpr, dropped)
    if not dropped:
        return variant
    warnings.warn(
        f"{name} is saved without what it prints with jax.debug, which needs Python: "
        f"{'; '.join(dropped)}.",
        stacklevel=2,
    )
    return replace(variant, jaxpr=jax.extend.core.ClosedJaxpr(inner, variant.jaxpr.consts))


def _stripped(jaxpr: Any, dropped: list[str]) -> Any:
    equations = []
    for equation in jaxpr.eqns:
        if equation.primitive.name in _PRINTS:
            dropped.append(user_line(equation))
            continue
        params = {key: _inside(value, dropped) for key, value in equation.params.items()}
        effects = _without_debug(equation.effects)
        equations.append(equation.replace(params=params, effects=effects))
    return jaxpr.replace(eqns=equations, effects=_without_debug(jaxpr.effects))


def _inside(param: Any, dropped: list[str]) -> Any:
    """A parameter of an equation with the programs in it stripped: bodies, branches."""
    if isinstance(param, tuple | list) and param:
        items = [_inside(item, dropped) for item in param]
        same = all(new is old for new, old in zip(items, param, strict=True))
        return param if same or hasattr(param, "_fields") else type(param)(items)
    is_closed = isinstance(param, jax.extend.core.ClosedJaxpr)
    if not is_closed and not isinstance(param, jax.extend.core.Jaxpr):
        return param
    inner = param.jaxpr if is_closed else param
    if not any(equation.primitive.name in _PRINTS for equation in _equations(inner)):
        return param
    stripped = _stripped(inner, dropped)
    return jax.extend.core.ClosedJaxpr(stripped, param.consts) if is_closed else stripped


def _without_debug(effects: Any) -> Any:
    kept = {effect for effect in effects if "DebugEffect" not in type(effect).__name__}
    return type(effects)(kept)


def _refuse_callbacks(variant: Variant, name: str) -> None:
    found = [
        f"{equation.primitive.name} at {user_line(equation)}"
        for equation in _equations(variant.jaxpr.jaxpr)
        if "callback" in equation.primitive.name or equation.primitive.name == "debug_print"
    ]
    if found:
        raise LoweringError(
            f"{name} calls back into Python, which a program without its Python code cannot do: "
            f"{'; '.join(found)}. Remove the call, or return the value and use it outside."
        )


def _refuse_constants(variant: Variant, name: str, max_bytes: int) -> None:
    for constant in variant.jaxpr.consts:
        size = int(np.size(constant)) * np.dtype(getattr(constant, "dtype", float)).itemsize
        if size > max_bytes:
            shape, dtype = np.shape(constant), constant.dtype
            raise LoweringError(
                f"{name} uses an array {dtype}[{', '.join(map(str, shape))}] of {size:,} bytes "
                "that the object does not hold, so it would be written into the program itself. "
                "Assign it to an attribute of the object and read it from there "
                f"(or raise SaveOptions(max_constant_bytes={max_bytes}))."
            )


def _equations(jaxpr: jax.extend.core.Jaxpr) -> Iterator[jax.extend.core.JaxprEqn]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from _equations(inner)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
