"""Every obstacle to saving an object at once, each with its remedy, before anything is written."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from exporter.batching import Batching
from exporter.display import card, card_of, lines, quiet
from exporter.drafting import DEFAULT_OPTIONS, SaveOptions
from exporter.errors import Problem
from exporter.pipelines import Stages
from exporter.resolution import Signatures
from exporter.saving import prepare
from exporter.staging.findings import Findings
from exporter.staging.inputs import InputSignature
from exporter.staging.lowering import ALL_PLATFORMS
from exporter.staging.obstacles import pinned
from exporter.staging.tracing import LOCK, ConcreteFunction
from exporter.writing import Contents


@dataclass(frozen=True)
class Report:
    """What stands in the way of saving an object.

    It is true if nothing does. `print` shows it to people, `to_json` gives it to programs.

    Attributes:
      problems: what stands in the way, and what saving warns of.
      functions: the paths of the functions that can be saved.
      platforms: what was asked for.
      variables: how many variables would be written, 0 if something stands in the way.
      variable_bytes: how large they are together.
    """

    problems: tuple[Problem, ...]
    functions: tuple[str, ...]
    platforms: tuple[str, ...]
    variables: int = 0
    variable_bytes: int = 0

    @property
    def ok(self) -> bool:
        """Whether `save` succeeds."""
        return not any(problem.is_error for problem in self.problems)

    def __bool__(self) -> bool:
        return self.ok

    def to_json(self) -> str:
        """The report as JSON, with the same names."""
        return json.dumps({"ok": self.ok, **asdict(self)}, indent=2)

    def __str__(self) -> str:
        errors = sum(problem.is_error for problem in self.problems)
        first = self._summary() if self.ok else f"{_counted(errors, 'thing')} in the way of saving."
        return "\n\n".join([first, *_paragraphs(self.problems)])

    @quiet
    def __repr__(self) -> str:
        first, *rest = str(self).splitlines()
        return lines(f"Report: {first}", filter(None, rest))

    @card_of
    def _repr_html_(self) -> str:
        rows = [
            (one.function or "the object", one.kind, one.message, one.remedy or "")
            for one in self.problems
        ]
        return card(str(self).partition("\n")[0], ("Function", "Kind", "What", "What to do"), rows)

    def _summary(self) -> str:
        size = f"{_counted(self.variables, 'variable')} of {self.variable_bytes:,} bytes"
        functions = ", ".join(self.functions) or "no function"
        return (
            f"Nothing stands in the way: {functions} for {', '.join(self.platforms)}, with {size}."
        )


def check(
    obj: object,
    signatures: Signatures | None = None,
    *,
    input_signature: InputSignature | None = None,
    platforms: Sequence[str] | None = None,
    options: SaveOptions = DEFAULT_OPTIONS,
    stages: Stages | None = None,
    batching: Mapping[str, Batching] | None = None,
) -> Report:
    """Everything that stands in the way of saving an object, and what saving would warn of.

    It does what `save` does before it writes, function by function and platform by platform, and
    goes on where `save` would raise. A function that cannot be traced is tried with other sizes,
    so that a problem with its shapes is told from one with its code; so user code runs more often.
    Nothing is written, and the object stays as it is.

    Args:
      obj: as for `save`, like all others.
      signatures: likewise.
      input_signature: likewise.
      platforms: likewise.
      options: likewise.
      stages: likewise.
      batching: likewise.
    """
    findings = Findings(gather=True)
    with LOCK:
        contents = prepare(
            obj,
            signatures,
            input_signature=input_signature,
            platforms=platforms,
            options=options,
            stages=stages,
            batching=batching,
            findings=findings,
        )
    problems = tuple(dict.fromkeys(findings.problems))
    if contents is None:
        asked: object = [platforms] if isinstance(platforms, str) else platforms
        if not isinstance(asked, Iterable):  # what is no list of them is among the problems
            asked = ()
        return Report(problems, (), tuple(asked) or ALL_PLATFORMS)
    return _clean(contents, problems)


def _clean(contents: Contents, problems: tuple[Problem, ...]) -> Report:
    paths = contents.draft.paths
    notes: list[Problem] = []
    for source, path in zip(contents.draft.concrete, paths, strict=True):
        for one in source.untraced:
            message = f"{source.name} has no program for inputs of {_axes(one.ranks)}: {one.reason}"
            notes.append(Problem("ranks", path, message, is_error=False))
        notes += (Problem("warning", path, note, is_error=False) for note in source.notes)
    for traced, path in zip(contents.draft.sources, paths, strict=True):
        if isinstance(traced, ConcreteFunction):
            notes += [replace(one, function=path) for one in pinned(traced.jaxpr, traced.name)]
    return Report(
        (*problems, *notes),
        tuple(dict.fromkeys(paths)),
        contents.draft.platforms or ALL_PLATFORMS,
        len(contents.variables[0]),
        sum(getattr(value, "nbytes", 0) for value in contents.variables[1]),
    )


def _axes(ranks: Sequence[int]) -> str:
    return f"{' and '.join(map(str, ranks))} {'axis' if ranks[-1] == 1 else 'axes'}"


def _paragraphs(problems: Sequence[Problem]) -> Iterator[str]:
    """One for each problem, those of a function together under its name, the object's own first."""
    functions = dict.fromkeys(problem.function for problem in problems)
    for function in sorted(functions, key=lambda name: name is not None):
        yield f"{function or 'The object'}:"
        for problem in problems:
            if problem.function == function:
                yield _indented(problem)


def _indented(problem: Problem) -> str:
    lines = [f"[{problem.kind}] {problem.message}"]
    if problem.line and problem.line not in problem.message:
        lines.append(f"at {problem.line}")
    if problem.remedy:
        lines.append(f"-> {problem.remedy}")
    if problem.inputs and problem.is_error:
        lines.append(f"with {problem.inputs}")
    return "\n".join(f"  {line}" for text in lines for line in text.splitlines())


def _counted(number: int, noun: str) -> str:
    verb = "" if noun == "variable" else " stands" if number == 1 else " stand"
    return f"{number} {noun}{'' if number == 1 else 's'}{verb}"
