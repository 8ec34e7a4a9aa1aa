"""A trace becomes one portable program for a set of platforms."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import jax
from jax import export

from exporter.errors import LoweringError, Problem
from exporter.jax_internals import (
    joined_text,
    module_text,
    newest_stablehlo,
    portable_bytecode,
    program_facts,
)
from exporter.staging.obstacles import callbacks, constants, pinned
from exporter.staging.platforms import lacking
from exporter.staging.prints import without_prints
from exporter.staging.probing import UNCHECKED, first_line, unstable
from exporter.staging.tracing import Variant
from signatures.spec import Dim, TensorSpec

ALL_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_ALIASES = {"gpu": "cuda"}

# The versions at which StableHLO learnt something that older readers cannot express, oldest
# first: nearly all programs need 0.9.0 only, composites such as top_k need 1.0.0. In between
# lie the releases that brought a type or an operation, each worth a try before the newest.
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


@dataclass(frozen=True)
class _Module:
    """A program as text, with what its callers need to know."""

    text: str
    calling_convention_version: int
    kept_inputs: tuple[int, ...]
    uses_global_constants: bool
    devices: int

    @classmethod
    def of(cls, exported: export.Exported, *, keep_locations: bool) -> "_Module":
        return cls(
            module_text(exported, keep_locations=keep_locations),
            exported.calling_convention_version,
            tuple(exported.module_kept_var_idx),
            exported.uses_global_constants,
            exported.nr_devices,
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
    custom_calls: Sequence[str] = (),
    python_function: Callable[..., object] | None = None,
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

    Raises:
      LoweringError: with everything that stands in the way: large constants, calls of Python or
        of native functions without a promise of stability, operations that a platform lacks.
    """
    variant = without_prints(variant, name)
    jaxpr = variant.jaxpr
    problems = [*callbacks(jaxpr.jaxpr, name)]
    problems += constants(jaxpr, name, max_constant_bytes, python_function)
    variables = tuple(dict.fromkeys(numbers[index] for index in variant.reads))
    flat, given = _flat(variant, variables, numbers, name)
    module = _module(flat, given, platforms, keep_locations=keep_locations)
    if isinstance(module, Exception):
        problems += lacking(variant, name, platforms, custom_calls)
        problems = problems or [_unexplained(module, name, platforms)]
    else:
        problems += pinned(jaxpr.jaxpr, name, module.devices)
    if problems or isinstance(module, Exception):
        cause = module if isinstance(module, Exception) else None
        raise LoweringError.of(_with_inputs(problems, variant)) from cause
    bytecode, version = _portable(module.text, name, target)
    calls = program_facts(bytecode).custom_calls
    if unstable(calls, custom_calls):
        found = lacking(variant, name, platforms, custom_calls)
        raise LoweringError.of(_with_inputs(found, variant))
    return LoweredProgram(
        bytecode=bytecode,
        stablehlo_version=version,
        platforms=tuple(platforms),
        variables=variables,
        updates=tuple(numbers[index] for index in variant.writes),
        inputs=variant.inputs,
        outputs=variant.outputs,
        dims=variant.dims,
        ranks=variant.ranks,
        custom_calls=calls,
        calling_convention_version=module.calling_convention_version,
        kept_inputs=module.kept_inputs,
        uses_global_constants=module.uses_global_constants,
    )


def _flat(
    variant: Variant, variables: Sequence[int], numbers: Mapping[int, int], name: str
) -> tuple[Callable[..., list[jax.Array]], list[jax.ShapeDtypeStruct]]:
    """The function on one array for each variable and input, and what it takes."""
    # Two places that hold the same array are one variable of the program.
    positions = [variables.index(numbers[index]) for index in variant.reads]
    first = [positions.index(i) for i in range(len(variables))]

    def flat(*arrays: jax.Array) -> list[jax.Array]:
        state = (arrays[position] for position in positions)
        return variant.flat(*state, *arrays[len(variables) :])

    flat.__name__ = flat.__qualname__ = name
    inputs = variant.structs[len(variant.reads) :]
    return flat, [*(variant.structs[i] for i in first), *inputs]


def _module(
    flat: Callable[..., object],
    given: Sequence[jax.ShapeDtypeStruct],
    platforms: Sequence[str],
    *,
    keep_locations: bool,
) -> _Module | Exception:
    """The program for all platforms, or what JAX has against it."""

    def made(chosen: Sequence[str]) -> _Module:
        make = export.export(jax.jit(flat), platforms=chosen, disabled_checks=UNCHECKED)
        return _Module.of(make(*given), keep_locations=keep_locations)

    try:
        return made(platforms)
    except Exception as error:  # noqa: BLE001  # each backend refuses in its own way
        if len(platforms) == 1:
            return error
    try:
        modules = [made((platform,)) for platform in platforms]
    except Exception as error:  # noqa: BLE001
        return error
    text = joined_text([module.text for module in modules])
    return replace(modules[0], text=text, uses_global_constants=True)


def _portable(text: str, name: str, target: str) -> tuple[bytes, str]:
    newest = newest_stablehlo()
    targets = [*STABLEHLO_TARGETS, newest] if target == "oldest" else [target]
    for version in targets:
        try:
            return portable_bytecode(text, version), version
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
