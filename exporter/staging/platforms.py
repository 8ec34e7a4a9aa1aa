"""What a trace asks of a platform that the platform does not have, as problems with remedies."""

from collections.abc import Iterator, Sequence

from exporter.errors import Problem
from exporter.staging.obstacles import Placed
from exporter.staging.probing import NO_RULE, Fault, faults
from exporter.staging.tracing import Variant

_KERNELS = ("pallas_call", "mosaic_gpu_kernel", "core_map")


def lacking(
    variant: Variant, name: str, platforms: Sequence[str], vouched: Sequence[str]
) -> Iterator[Problem]:
    """Every operation that a platform cannot express or has no lasting name for.

    Args:
      variant: the trace.
      name: what the function is called.
      platforms: where it is to run.
      vouched: the native functions that the caller vouches for.
    """
    found: dict[Fault, list[str]] = {}
    for platform in platforms:
        for fault in faults(variant.jaxpr, variant.structs, platform, vouched):
            found.setdefault(_general(fault), []).append(platform)
    without = {platform for refusing in found.values() for platform in refusing}
    rest = tuple(platform for platform in platforms if platform not in without)
    calls = tuple(dict.fromkeys(call for fault in found for call in fault.calls))
    for fault, refusing in sorted(found.items(), key=lambda item: item[0].reason is None):
        if fault.reason is not None:
            yield _no_lowering(fault, name, tuple(refusing), rest)
        else:
            everywhere = len(refusing) == len(platforms)
            there = () if everywhere else tuple(refusing)
            yield native(name, fault.calls, calls, platforms=there, rest=rest, placed=fault.placed)


def _general(fault: Fault) -> Fault:
    """The fault in words that are the same for every platform."""
    if fault.placed is None or not NO_RULE.match(fault.reason or ""):
        return fault
    return Fault("has no lowering there", placed=fault.placed)


def _no_lowering(
    fault: Fault, name: str, platforms: tuple[str, ...], rest: tuple[str, ...]
) -> Problem:
    placed = fault.placed
    reason = str(fault.reason).rstrip(".")
    joint = " " if reason.startswith("has ") else ": "
    what = f"{placed}{joint}{reason}" if placed else reason
    remedy = f"Save it with platforms={rest!r}." if rest else ""
    if placed and placed.equation.primitive.name in _KERNELS:
        own = rest or ("tpu",)
        remedy = (
            f"A kernel runs on the platform that it was written for: save it with platforms={own!r}"
            ", or give the others code of their own with "
            f"jax.lax.platform_dependent(..., {own[0]}=kernel, default=plain)."
        )
    return Problem(
        "platform",
        name,
        f"{name} cannot be lowered for {', '.join(platforms)}: {what}.",
        remedy,
        platforms,
        line=placed.line if placed else None,
    )


def native(
    name: str,
    calls: Sequence[str],
    every: tuple[str, ...],
    *,
    platforms: tuple[str, ...] = (),
    rest: Sequence[str] = (),
    placed: Placed | None = None,
) -> Problem:
    """The problem that native functions are for which nobody promises anything.

    Args:
      name: what the function is called that calls them.
      calls: the native functions.
      every: these and others, all of which somebody would have to vouch for.
      platforms: where they are called, or none for everywhere.
      rest: the platforms for which it can be saved without them.
      placed: where they come from.
    """
    where = f" at {placed.line}" if placed and placed.line else ""
    there = f" for {', '.join(platforms)}" if platforms else ""
    leave = f", save it with platforms={tuple(rest)!r}" if rest else ""
    return Problem(
        "custom call",
        name,
        f"{name} calls {', '.join(calls)}{where}{there}, of which nobody promises that later "
        "releases still have it.",
        f"Compute it with other operations{leave}, or vouch for it with "
        f"SaveOptions(custom_calls={every!r}), as its readers then must: "
        f"exporter.load(path, custom_calls={every!r}).",
        platforms,
        line=placed.line if placed else None,
    )
