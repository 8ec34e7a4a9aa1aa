"""Whether a function of one artifact can take the place of one of another. It needs no JAX."""

from collections.abc import Iterator, Sequence

from exporter.artifact.encoding import signature_of_record, structure_of
from exporter.artifact.records import (
    ConcreteRecord,
    FunctionRecord,
    Manifest,
    ParameterRecord,
    Part,
    ProgramRecord,
)
from signatures.replacement import Change, changes
from signatures.tree import describe

_POSITIONAL = ("positional_only", "positional_or_keyword")


def call_changes(
    old: Manifest, one: ConcreteRecord, new: Manifest, other: ConcreteRecord
) -> Iterator[Change]:
    """How the call of a concrete function differs from that of another, in the order of the old."""
    yield from changes(signature_of_record(one, "a"), signature_of_record(other, "b"))
    if not _ranks(old, one, one) <= _ranks(new, other, one):
        yield Change("inputs", "have no program for some numbers of axes", breaks=True)
    before, after = _programs(old, one), _programs(new, other)
    yield from _program_changes(old, before, new, after)
    changed = [_changed(old, before), _changed(new, after)]
    if changed[0] != changed[1]:
        yield Change("calls", f"assign {', '.join(changed[1]) or 'no variables'}")


def _program_changes(
    old: Manifest, before: Sequence[ProgramRecord], new: Manifest, after: Sequence[ProgramRecord]
) -> Iterator[Change]:
    """What can be done with the programs, and whether they are the same to the bit."""
    had = min((_depth(old, program) for program in before), default=0)
    has = min((_depth(new, program) for program in after), default=0)
    if has != had:
        yield Change("programs", f"have {has} derivatives, had {had}", has < had)
    rows = [{program.row_wise for program in programs} for programs in (before, after)]
    if rows[0] != rows[1]:
        was = next(iter(rows[0])) if len(rows[0]) == 1 else None
        is_lost = was is not None and None in rows[1]
        text = (
            "no longer keep rows apart: jax.vmap is refused" if is_lost else "keep other rows apart"
        )
        yield Change("programs", text, is_lost)
    meshes = [
        {tuple((axis.name, axis.size) for axis in program.mesh) for program in programs}
        for programs in (before, after)
    ]
    if meshes[0] != meshes[1]:
        is_other = not meshes[1] <= {*meshes[0], ()}
        yield Change("programs", "run on another mesh of devices", is_other)
    contents = [[digests(old)[p.file] for p in before], [digests(new)[p.file] for p in after]]
    if contents[0] != contents[1]:
        yield Change("programs", "have another digest")


def digests(manifest: Manifest) -> dict[str, str]:
    """The digest of each file."""
    return {record.path: record.blake3 for record in manifest.files}


def _programs(manifest: Manifest, concrete: ConcreteRecord) -> list[ProgramRecord]:
    return [manifest.programs[number] for number in concrete.programs]


def _ranks(
    manifest: Manifest, concrete: ConcreteRecord, asked: ConcreteRecord
) -> set[tuple[int, ...]]:
    """The numbers of axes that there are programs for, of the inputs of any rank of `asked`.

    An input that has a number of axes there, but takes any here, is not told: it fits if all do.
    """
    free = [tensor.name for tensor in concrete.inputs if tensor.shape is None]
    wanted = [tensor.name for tensor in asked.inputs if tensor.shape is None]
    fixed = {t.name: len(t.shape) for t in asked.inputs if t.shape is not None}
    found = set()
    for program in _programs(manifest, concrete):
        ranks = dict(zip(free, program.ranks, strict=True))
        if all(fixed.get(name, rank) == rank for name, rank in ranks.items()):
            found.add(tuple(ranks.get(name, -1) for name in wanted))
    return found


def _depth(manifest: Manifest, program: ProgramRecord) -> int:
    """How often a program can be differentiated."""
    depth = 0
    while program.vjp is not None:
        program = manifest.programs[program.vjp]
        depth += 1
    return depth


def _changed(manifest: Manifest, programs: Sequence[ProgramRecord]) -> list[str]:
    keys = ("/".join(manifest.variables[n].key) for program in programs for n in program.updates)
    return sorted(set(keys))


def function_changes(
    old: Manifest, one: FunctionRecord, new: Manifest, other: FunctionRecord
) -> Iterator[tuple[str, bool]]:
    """How a function differs: ends of sentences that begin with its path; whether each breaks."""
    problem = _parameter_problem(one.parameters, other.parameters)
    names = [[record.name for record in function.parameters] for function in (one, other)]
    if problem:
        yield problem, True
    elif names[0] != names[1]:
        yield f"takes ({', '.join(names[1])}), took ({', '.join(names[0])})", False
    if one.by_input != other.by_input:
        yield "takes its arguments in another way", True
    for number in one.concrete:
        yield from _option(old, old.concrete_functions[number], new, other)


def _option(
    old: Manifest, one: ConcreteRecord, new: Manifest, other: FunctionRecord
) -> Iterator[tuple[str, bool]]:
    """How a function differs for one type of arguments: from the option that is nearest to it."""
    found: list[list[tuple[str, bool]]] = []
    for number in other.concrete:
        record = new.concrete_functions[number]
        if (problem := _structure_problem(one, record)) is None:
            ways = call_changes(old, one, new, record)
            found.append([(str(way), way.breaks) for way in ways])
        else:
            found.append([(problem, True)])
    if not found:
        yield "is no longer saved for any arguments", True
        return
    nearest = min(found, key=lambda ways: (sum(breaks for _, breaks in ways), len(ways)))
    inputs = ", ".join(tensor.name for tensor in one.inputs)
    for text, breaks in nearest:
        yield f"called with ({inputs}): {text}", breaks


def _structure_problem(one: ConcreteRecord, other: ConcreteRecord) -> str | None:
    """Why arguments are nested in another way, or results are."""
    before, after = _arguments(one), _arguments(other)
    for name, text in before.items():
        if after.get(name) != text:
            return f"argument {name} is {after.get(name, 'gone')}, was {text}"
    results = [_nested(r.result, [t.name for t in r.outputs]) for r in (one, other)]
    return None if results[0] == results[1] else f"returns {results[1]}, returned {results[0]}"


def _arguments(record: ConcreteRecord) -> dict[str, str]:
    names = [tensor.name for tensor in record.inputs]
    return {name: _nested(part, names) for name, part in record.arguments.items()}


def _nested(part: Part, names: Sequence[str]) -> str:
    return describe(structure_of(part), names.__getitem__)


def _parameter_problem(
    old: Sequence[ParameterRecord], new: Sequence[ParameterRecord]
) -> str | None:
    """Why arguments that fitted may not be taken, or taken for others."""
    before, after = ([p for p in ps if p.kind in _POSITIONAL] for ps in (old, new))
    now = {parameter.name: parameter for parameter in new}
    if [p.name for p in before] != [p.name for p in after[: len(before)]]:
        return f"takes ({', '.join(p.name for p in after)}) by position"
    for parameter in old:
        match = now.get(parameter.name)
        if match is None:
            return f"no longer takes {parameter.name}"
        is_by_name = {"keyword_only": "positional_or_keyword"}
        kinds = (parameter.kind, is_by_name.get(parameter.kind))
        if match.kind not in kinds and parameter.kind != "positional_only":
            return f"takes {parameter.name} as {match.kind.replace('_', ' ')}"
        if parameter.default is not None and match.default is None:
            return f"has no default for {parameter.name} any more"
    known = {parameter.name for parameter in old}
    for parameter in new:
        if (
            parameter.name not in known
            and parameter.default is None
            and "var" not in parameter.kind
        ):
            return f"needs {parameter.name}"
    return None
