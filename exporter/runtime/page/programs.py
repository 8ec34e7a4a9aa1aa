"""The section of the programs: what each is for, and its operations as far as they were read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from exporter.artifact.encoding import spec_of
from exporter.artifact.records import Manifest, ProgramRecord
from exporter.markup import Child, Markup, element, fragment, joined
from exporter.operations import OWN_CALLS, Operation
from exporter.runtime.describe import counted, size_text
from exporter.runtime.inspection import Inspected
from exporter.runtime.page.parts import code, cut, definitions, fold, left_out, section, table
from exporter.runtime.reports import cost_text

MAX_PROGRAMS = 200
MAX_LINES = 20_000
MAX_KINDS = 100

# So many kinds of operations, the most frequent ones, are open from the start.
_MAX_OPEN = 10

# Lines of a listing that a browser lays out at once.
_GROUP = 250

# Browsers flatten what is nested more than 512 elements deep; a level takes two.
_MAX_DEPTH = 60
_MAX_TEXT = 400
_MAX_TITLE = 150
_MAX_SHOWN = 12


@dataclass(frozen=True)
class Inside:
    """What is in a program.

    Attributes:
      counts: how often each operation is in it, the most frequent first.
      lines: its operations in the order of its text, each with how deep it is nested.
      costs: what it takes to run it, in words by name.
    """

    counts: Mapping[str, int]
    lines: Sequence[tuple[int, str]]
    costs: Mapping[str, str]


def looked_into(found: Inspected) -> Inside:
    """What was read of a program, as it is shown."""
    depths: list[int] = []
    lines = []
    for one in found.operations:
        depths.append(depths[one.parent] + 1 if one.parent >= 0 else 0)
        lines.append((depths[-1], _line(one)))
    return Inside(found.operations.histogram, lines, {"a call costs": cost_text(found)})


def _line(one: Operation) -> str:
    """An operation as text: what it is, what it takes and what it gives."""
    taken, given = (", ".join(map(str, types)) for types in (one.operands, one.results))
    target = f" @{one.target}" if one.target else ""
    numbers = "".join(f" {name}={list(values)}" for name, values in one.numbers.items())
    return f"{one.name}{target}({taken}){f' -> {given}' if given else ''}{numbers}"


def programs(manifest: Manifest, inside: Mapping[int, Inside] | str) -> Markup | None:
    """Each program with what calls it, what it takes, and what is in it.

    Args:
      manifest: of the artifact.
      inside: what is known of the programs, by their numbers, or why nothing is.
    """
    if not manifest.programs:
        return None
    shown = manifest.programs[:MAX_PROGRAMS]
    sizes = {record.path: record.size for record in manifest.files}
    users = _users(manifest)
    left = MAX_LINES
    folds = []
    for number, program in enumerate(shown):
        found = None if isinstance(inside, str) else inside.get(number)
        body: Child = None
        if found is not None:
            body = _inside(found, left, program.file)
            left = max(0, left - len(found.lines))
        name = users.get(number, "nothing")
        costs = {} if found is None else found.costs
        title = fragment(
            element("b", code(name)),
            element(
                "span", f"{cut(program.file)}, {size_text(sizes[program.file])}", class_="size"
            ),
        )
        is_open = len(shown) == 1
        folds.append(fold(title, _about(program, costs), body, is_open=is_open, kind="program"))
    return section(
        "programs",
        "Programs",
        element("p", inside, class_="quiet") if isinstance(inside, str) else None,
        *folds,
        left_out(len(manifest.programs) - len(shown), "programs"),
        count=f"{len(manifest.programs):,}",
    )


def _users(manifest: Manifest) -> dict[int, str]:
    """What each program is for, in words."""
    names: dict[int, list[str]] = {}
    for number, concrete in enumerate(manifest.concrete_functions):
        signatures = [name for name, own in manifest.signatures.items() if own == number]
        for program in concrete.programs:
            names.setdefault(program, []).extend(signatures or [concrete.name])
    users = {number: ", ".join(dict.fromkeys(found)) for number, found in names.items()}
    for position, one in enumerate(manifest.programs):  # a derivative follows what it is of
        if one.vjp is not None and one.vjp not in users:
            users[one.vjp] = f"derivative of {users.get(position, 'a program')}"
    return users


def _about(program: ProgramRecord, costs: Mapping[str, str]) -> Markup:
    rows: list[tuple[str, Child]] = [
        ("takes", _types(program.inputs)),
        ("gives", _types(program.outputs)),
        ("variables", f"reads {len(program.variables):,}, changes {len(program.updates):,}"),
        ("platforms", cut(", ".join(program.platforms))),
        ("StableHLO", program.stablehlo_version),
    ]
    if program.ranks:
        rows.append(("axes", ", ".join(map(str, program.ranks))))
    if program.mesh:
        rows.append(("mesh", ", ".join(f"{axis.name}={axis.size}" for axis in program.mesh)))
    calls = [name for name in program.custom_calls if name not in OWN_CALLS]
    if calls:
        shown = fragment(*(fragment(code(cut(name, _MAX_TEXT)), " ") for name in calls[:100]))
        rows.append(("native calls", shown))
    if program.row_wise:
        rows.append(("rows", cut(f"independent along {program.row_wise}")))
    if program.vjp_problem:
        rows.append(("no derivative", cut(program.vjp_problem)))
    return definitions([*rows, *costs.items()], "about")


def _types(records: Sequence[object]) -> Child:
    shown = [str(spec_of(one)) for one in records[:_MAX_SHOWN]]  # type: ignore[arg-type]  # specs
    more = f" and {len(records) - len(shown):,} more" if len(records) > len(shown) else ""
    return fragment(code(", ".join(shown)), more) if shown else "nothing"


def _inside(found: Inside, left: int, name: str) -> Markup:
    total = sum(found.counts.values())
    most = max(found.counts.values(), default=1)
    kinds = list(found.counts.items())[:MAX_KINDS]
    rows = [(code(cut(kind, _MAX_TEXT)), f"{count:,}", _bar(count, most)) for kind, count in kinds]
    lines = found.lines[:left]
    columns = ("Operation", "Count", "Compared")
    rest = rows[_MAX_OPEN:]
    others = table(f"Others of {name}", columns, rest)
    return fragment(
        element("h3", counted(total, "operation")),
        element(
            "p",
            "Each as often as it is called. The listing has every function once, with its frame.",
            class_="quiet",
        ),
        table(f"Operations of {name}", columns, rows[:_MAX_OPEN]),
        fold(counted(len(rest), "other kind"), others) if rest else None,
        left_out(len(found.counts) - len(kinds), "kinds of operations"),
        fold("Listing", *_listing(lines), kind="listing-fold") if lines else None,
        left_out(len(found.lines) - len(lines), "operations"),
    )


def _bar(count: int, most: int) -> Markup:
    return element(
        "svg",
        element("rect", width=round(100 * count / most, 1), height=8),
        class_="bar",
        viewBox="0 0 100 8",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def _listing(lines: Sequence[tuple[int, str]]) -> Iterator[Markup]:
    """The operations in blocks of text, what stands in another one folded below it."""
    position = 0
    while position < len(lines):
        end = position + 1
        while end < len(lines) and end - position < _GROUP and not _opens(lines, end - 1):
            end += 1
        if _opens(lines, end - 1):
            yield from _block(lines[position : end - 1])
            inner_end = end
            while inner_end < len(lines) and lines[inner_end][0] > lines[end - 1][0]:
                inner_end += 1
            depth, text = lines[end - 1]
            title = code(cut(text, _MAX_TITLE))
            inner = lines[end:inner_end]
            size = element("span", counted(len(inner), "operation"), class_="size")
            is_deep = depth >= _MAX_DEPTH
            yield from (
                _block(lines[end - 1 : inner_end])
                if is_deep
                else [fold(fragment(title, size), *_listing(inner), kind="block")]
            )
            position = inner_end
        else:
            yield from _block(lines[position:end])
            position = end


def _opens(lines: Sequence[tuple[int, str]], position: int) -> bool:
    """Whether others stand in the operation at a position."""
    return position + 1 < len(lines) and lines[position + 1][0] > lines[position][0]


def _block(lines: Sequence[tuple[int, str]]) -> Iterator[Markup]:
    if lines:
        yield element("pre", joined((cut(text, _MAX_TEXT) for _, text in lines), Markup("\n")))
