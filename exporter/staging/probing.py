"""Which operations of a trace a platform lacks, found by lowering ever smaller parts of it alone.

JAX stops at the first operation that it cannot lower, and often does not say which one it was. A
run of equations is a program of its own, which takes what it uses and returns what it computes. So
the run is halved until single equations are left, and these are named with the user's lines.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.extend.core
from jax import export

from exporter.jax_internals import STABLE_CUSTOM_CALLS, program_facts
from exporter.staging.obstacles import Placed, equations, inner_jaxprs, is_callback

# Custom calls are ours to judge: JAX would name only the first.
UNCHECKED = (export.DisabledSafetyCheck.custom_call("ALL"),)

# How JAX says that a platform has no rule for an operation.
NO_RULE = re.compile(r"^MLIR translation rule for primitive '([^']+)' not found for platforms? ")

# Equations whose inner jaxprs mean nothing outside of them: kernels, and code on a mesh.
_WHOLE = ("pallas_call", "shard_map", "xla_pmap", "core_map", "mosaic_gpu_kernel")


@dataclass(frozen=True)
class Fault:
    """What a platform has against some equations.

    Attributes:
      reason: what JAX says, or `None` if it lowers them.
      calls: the native functions without a promise of stability that they become.
      placed: the equation, where it is a single one.
    """

    reason: str | None
    calls: tuple[str, ...] = ()
    placed: Placed | None = None


def faults(
    jaxpr: Any, structs: Sequence[jax.ShapeDtypeStruct], platform: str, vouched: Sequence[str] = ()
) -> list[Fault]:
    """What stands in the way of a jaxpr on one platform, each with its place.

    Args:
      jaxpr: what is to be lowered.
      structs: what it takes. They tell the sizes of its named axes.
      platform: for which platform.
      vouched: the native functions that somebody vouches for.
    """
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    probe = _Probe(inner, tuple(structs), platform, frozenset(vouched))
    return list(probe.search(inner.eqns, None))


@dataclass(frozen=True)
class _Probe:
    """The search within one jaxpr, its own equations numbered, those inside one by one."""

    jaxpr: Any
    structs: tuple[jax.ShapeDtypeStruct, ...]
    platform: str
    vouched: frozenset[str]

    def search(self, run: Sequence[Any], around: Placed | None) -> Iterator[Fault]:
        fault = self.fault(run) if run else None
        if fault is None:
            return
        if len(run) == 1:
            placed = Placed(run[0], around)
            inside = list(self.inside(placed))
            alone = Fault(fault.reason, fault.calls, placed)
            yield from inside or ([] if _calls_python(run) else [alone])
            return
        half = len(run) // 2
        found = [*self.search(run[:half], around), *self.search(run[half:], around)]
        if not found and not _calls_python(run):
            found = [replace(fault, placed=_named(run, fault, around))]
        yield from found

    def inside(self, placed: Placed) -> Iterator[Fault]:
        """The faults of the equations in an equation, if any of these fails alone."""
        if placed.equation.primitive.name in _WHOLE:
            return
        for jaxpr in self.branches(placed.equation.params):
            yield from self.search(getattr(jaxpr, "jaxpr", jaxpr).eqns, placed)

    def branches(self, params: Any) -> Iterator[Any]:
        """The inner jaxprs, of those chosen by platform the one for this platform."""
        chosen = params.get("branches_platforms")
        if chosen is None:
            yield from inner_jaxprs(params)
            return
        for branch, platforms in zip(params["branches"], chosen, strict=True):
            if platforms is None or self.platform in platforms:
                yield branch
                return

    def fault(self, run: Sequence[Any]) -> Fault | None:
        """What the platform has against a run of equations, or `None`."""
        made = {id(variable) for equation in run for variable in equation.outvars}
        used = [a for e in run for a in e.invars if not isinstance(a, jax.extend.core.Literal)]
        free = list({id(atom): atom for atom in used if id(atom) not in made}.values())
        outs = [out for equation in run for out in equation.outvars if _is_array(out)]
        if not all(map(_is_array, free)):
            return None  # it shares mutable references with its surroundings
        part = self.jaxpr.replace(constvars=[], invars=free, outvars=outs, eqns=list(run))

        def program(_: Any, arrays: Sequence[jax.Array]) -> Any:
            return jax.core.eval_jaxpr(part, [], *arrays)

        arrays = [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in free]
        jitted = jax.jit(program, keep_unused=True)
        make = export.export(jitted, platforms=(self.platform,), disabled_checks=UNCHECKED)
        try:
            bytecode = make(self.structs, arrays).mlir_module_serialized
            calls = unstable(program_facts(bytecode).custom_calls, self.vouched)
        except Exception as error:  # noqa: BLE001  # each backend refuses in its own way
            return Fault(first_line(error))
        return Fault(None, calls) if calls else None


def _named(run: Sequence[Any], fault: Fault, around: Placed | None) -> Placed | None:
    """The first of the equations that JAX names, where none of them can be lowered alone."""
    named = NO_RULE.match(fault.reason or "")
    each = (Placed(equation, around) for equation in run)
    return next((one for one in each if named and one.equation.primitive.name == named[1]), None)


def _calls_python(run: Sequence[Any]) -> bool:
    """Whether there are callbacks in the equations: another problem, told elsewhere."""
    inner = (placed for e in run for jaxpr in inner_jaxprs(e.params) for placed in equations(jaxpr))
    return any(is_callback(e) for e in (*run, *(placed.equation for placed in inner)))


def unstable(calls: Sequence[str], vouched: Sequence[str] | frozenset[str]) -> tuple[str, ...]:
    """The native functions that nobody promises to keep, and nobody vouches for."""
    return tuple(call for call in calls if call not in STABLE_CUSTOM_CALLS and call not in vouched)


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _is_array(atom: Any) -> bool:
    return type(atom.aval).__name__ == "ShapedArray"
