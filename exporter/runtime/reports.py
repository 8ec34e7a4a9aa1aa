"""Programs that were looked into, as plain data for JSON and as text for people."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypedDict

from exporter.markup import printable
from exporter.operations import OWN_CALLS
from exporter.runtime.costs import Amount, Cost
from exporter.runtime.describe import counted, size_text
from exporter.runtime.inspection import Inspected

# So many kinds of operations are listed for people. All are in the JSON.
_MAX_SHOWN = 12

_UNITS = ("", "k", "M", "G", "T", "P", "E")


class AmountReport(TypedDict):
    """What something takes. `bytes` are those that would be moved if nothing were fused."""

    flops: int
    transcendentals: int
    bytes: int


class CostReport(AmountReport):
    """What a program takes for given `sizes`, without `loops` whose iterations nobody knows."""

    sizes: dict[str, int]
    loops: int
    per_iteration: AmountReport | None


class ProgramReport(TypedDict):
    """What is in a program and who uses it. Sizes are in bytes."""

    file: str
    signatures: list[str]
    functions: list[str]
    derivative_of: str | None
    ranks: list[int]
    axes: list[str]
    platforms: list[str]
    stablehlo_version: str
    file_bytes: int
    bytecode_bytes: int
    constant_bytes: int
    custom_calls: dict[str, int]
    operations: dict[str, int]
    cost: CostReport | None
    without_cost: str | None


def report(inspected: Inspected) -> ProgramReport:
    """What was found in a program, for `json.dumps`."""
    record, users = inspected.record, inspected.users
    return {
        "file": record.file,
        "signatures": list(users.signatures),
        "functions": list(users.functions),
        "derivative_of": users.derivative_of,
        "ranks": record.ranks,
        "axes": [dim.name for dim in record.dims],
        "platforms": record.platforms,
        "stablehlo_version": record.stablehlo_version,
        "file_bytes": inspected.file_bytes,
        "bytecode_bytes": inspected.bytecode_bytes,
        "constant_bytes": inspected.operations.constant_bytes,
        "custom_calls": inspected.operations.custom_calls,
        "operations": inspected.operations.histogram,
        "cost": _cost(inspected.cost, inspected.sizes) if inspected.cost else None,
        "without_cost": inspected.without_cost,
    }


def _cost(cost: Cost, sizes: Mapping[str, int]) -> CostReport:
    return {
        **_amount(cost.once),
        "sizes": dict(sizes),
        "loops": cost.loops,
        "per_iteration": _amount(cost.per_iteration) if cost.loops else None,
    }


def _amount(amount: Amount) -> AmountReport:
    return {
        "flops": amount.flops,
        "transcendentals": amount.transcendentals,
        "bytes": amount.bytes,
    }


def describe_programs(reports: Sequence[ProgramReport]) -> str:
    """What was found in programs, as lines of text."""
    lines = ["Programs"]
    for one in reports:
        lines += [f"  {one['file']}", *(f"    {line}" for line in _lines(one))]
    return "\n".join(map(printable, lines if reports else [*lines, "  none"]))


def _lines(one: ProgramReport) -> Iterator[str]:
    rows = [("used by", user) for user in _users(one)]
    rows.append(("runs on", f"{', '.join(one['platforms'])}, StableHLO {one['stablehlo_version']}"))
    packed, whole = size_text(one["file_bytes"]), size_text(one["bytecode_bytes"])
    size = whole if packed == whole else f"{packed}, {whole} uncompressed"
    constants = one["constant_bytes"]
    rows.append(("size", f"{size}, {size_text(constants)} of it constants"))
    own = ", which checks sizes and is no native code"
    calls = (
        f"{name} ({count:,}{own if name in OWN_CALLS else ''})"
        for name, count in one["custom_calls"].items()
    )
    rows.append(("calls", ", ".join(calls) or "no native code by name"))
    rows.append(("operations", _histogram(one["operations"])))
    if one["cost"] is None:
        rows.append(("cost", f"not known: {one['without_cost']}"))
        if one["axes"] and "depends on" in str(one["without_cost"]):
            rows.append(("", f"give --size {' '.join(f'{axis}=N' for axis in one['axes'])}"))
    else:
        rows += [("cost", text) for text in _cost_lines(one["cost"])]
    previous = ""
    for label, text in rows:
        yield f"{'' if label == previous else label:10}  {text}"
        previous = label


def _users(one: ProgramReport) -> Iterator[str]:
    if one["derivative_of"]:
        yield f"the derivative of {one['derivative_of']}"
    ranks = f" for {', '.join(map(str, one['ranks']))} axes" if one["ranks"] else ""
    for kind, names in (("signature", one["signatures"]), ("function", one["functions"])):
        if names:
            yield f"{kind}{'s' if len(names) > 1 else ''} {', '.join(names)}{ranks}"


def _histogram(operations: Mapping[str, int]) -> str:
    shown = [
        f"{count:,} {name.removeprefix('stablehlo.')}"
        for name, count in list(operations.items())[:_MAX_SHOWN]
    ]
    rest = list(operations.values())[_MAX_SHOWN:]
    others = [f"{sum(rest):,} of {counted(len(rest), 'other kind')}"] if rest else []
    return f"{sum(operations.values()):,}: {', '.join([*shown, *others])}" if shown else "none"


def cost_text(inspected: Inspected) -> str:
    """What a call costs in a line, or why nobody knows."""
    if inspected.cost is None:
        return f"not known: {inspected.without_cost}"
    return " ".join(_cost_lines(_cost(inspected.cost, inspected.sizes)))


def _cost_lines(cost: CostReport) -> Iterator[str]:
    sizes = ", ".join(f"{name}={size}" for name, size in cost["sizes"].items())
    where = f" for {sizes}" if sizes else ""
    yield f"{_amount_text(cost)}{where}"
    if cost["per_iteration"] is not None:
        loops = counted(cost["loops"], "loop")
        yield f"and {_amount_text(cost['per_iteration'])} per iteration of {loops}"


def _amount_text(amount: AmountReport | CostReport) -> str:
    parts = [f"{number_text(amount['flops'])}FLOP"]
    if amount["transcendentals"]:
        parts.append(f"{amount['transcendentals']:,} transcendentals")
    return f"{', '.join(parts)}, {size_text(amount['bytes'])} moved"


def number_text(number: int) -> str:
    """A count with a prefix of three digits more, to be followed by its unit."""
    size, units = float(number), list(_UNITS)
    while size >= 999.95 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{number} " if number < 1000 else f"{size:,.1f} {units[0]}"
