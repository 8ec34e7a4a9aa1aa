"""What became of a verification: a verdict for each part of an artifact and for each sample."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from exporter.comparison import Comparison
from exporter.display import card, card_of, code, lines, quiet
from exporter.errors import VerificationError
from exporter.runtime.summary import json_values

PartName = Literal["signer", "manifest", "files", "programs", "variables", "samples"]

# A part is `none` if there is nothing of it, or if it cannot be judged: its detail says which.
State = Literal["ok", "failed", "none"]

_MAX_SHOWN = 10


@dataclass(frozen=True)
class Part:
    """One part of an artifact and the verdict on it.

    Attributes:
      name: which part.
      state: `ok`, `failed`, or `none` if there was nothing to judge.
      detail: what was looked at, or why nothing was.
      problems: what is wrong, a line for each, naming the file, the program or the sample.
    """

    name: PartName
    state: State
    detail: str
    problems: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name:<9}  {self.state:<6}  {self.detail}"


@dataclass(frozen=True)
class SampleResult:
    """One sample, run again.

    Attributes:
      name: the signature, or the path of the function.
      number: its position among the samples of the artifact.
      comparisons: one for each output.
      problem: what kept it from being run, or `None`.
    """

    name: str
    number: int
    comparisons: tuple[Comparison, ...]
    problem: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every output is as it was."""
        return self.problem is None and all(one.ok for one in self.comparisons)

    def __str__(self) -> str:
        return "\n".join(line for line, _ in self.lines())

    def lines(self) -> Iterator[tuple[str, State]]:
        """Its text, line by line, each with what it tells of."""
        state = _state(is_ok=self.ok)
        yield f"sample {self.number} of {self.name}: {'ok' if self.ok else 'FAILED'}", state
        if self.problem:
            yield f"  {self.problem}", "failed"
        for one in self.comparisons:
            yield f"  {one}", "none" if one.ok else "failed"


@dataclass(frozen=True)
class VerificationReport:
    """Whether an artifact is intact, fits this machine, and computes what it did. It prints well.

    Attributes:
      path: the artifact.
      platform: where it was run.
      parts: the verdict on each part: the signer, if a key was given; the manifest, the files by
        their digests, the programs, the variables, the samples.
      samples: the results of the samples, in the order in which they were taken.
      extra_files: what lies in the folder although the manifest does not speak of it. No digest
        covers it, and nothing reads it.
    """

    path: Path
    platform: str
    parts: tuple[Part, ...]
    samples: tuple[SampleResult, ...] = ()
    extra_files: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no part has failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[PartName, ...]:
        """The parts that have."""
        return tuple(part.name for part in self.parts if part.state == "failed")

    def part(self, name: PartName) -> Part:
        """The verdict on one part."""
        return next(part for part in self.parts if part.name == name)

    def raise_if_failed(self) -> None:
        """Nothing if all is as it was.

        Raises:
          VerificationError: with this report, if it is not.
        """
        if not self.ok:
            raise VerificationError(str(self), self)

    @quiet
    def __repr__(self) -> str:
        first, *rest = str(self).splitlines()
        return lines(f"VerificationReport: {first}", rest)

    @card_of
    def _repr_html_(self) -> str:
        rows = [(code(part.name), part.state, code(part.detail)) for part in self.parts]
        rows += [
            (code(f"sample {one.number}"), _state(is_ok=one.ok), code(f"of {one.name}"))
            for one in self.samples
        ]
        title = str(self).partition("\n")[0]
        return card(title, ("Part", "", "What was found"), rows)

    def to_json(self) -> str:
        """The report as JSON, with the same names. What JSON cannot hold is text."""
        document = {
            "ok": self.ok,
            "path": str(self.path),
            "platform": self.platform,
            "parts": [asdict(part) for part in self.parts],
            "samples": [_sample_as_json(sample) for sample in self.samples],
            "extra_files": list(self.extra_files),
        }
        return json.dumps(document, indent=2)

    def __str__(self) -> str:
        return "\n".join(line for line, _ in self.lines())

    def lines(self) -> Iterator[tuple[str, State]]:
        """Its text, line by line, each with what it tells of."""
        verdict = f"{_listed(self.failed)} FAILED" if self.failed else "all is well"
        yield f"{self.path} on {self.platform}: {verdict}", _state(is_ok=self.ok)
        for part in self.parts:
            yield f"  {part}", part.state
            for problem in part.problems[:_MAX_SHOWN]:
                yield f"    {problem}", "failed"
            if hidden := len(part.problems[_MAX_SHOWN:]):
                yield f"    and {hidden} more", "failed"
        for sample in self.samples:
            yield from sample.lines()
        for name in self.extra_files[:_MAX_SHOWN]:
            yield f"note: no digest covers {name}", "none"
        if hidden := len(self.extra_files[_MAX_SHOWN:]):
            yield f"note: nor {hidden} more files", "none"


def _state(*, is_ok: bool) -> State:
    return "ok" if is_ok else "failed"


def _listed(words: tuple[str, ...]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _sample_as_json(sample: SampleResult) -> dict[str, object]:
    return {
        "name": sample.name,
        "number": sample.number,
        "ok": sample.ok,
        "problem": sample.problem,
        "comparisons": [_comparison_as_json(one) for one in sample.comparisons],
    }


def _comparison_as_json(comparison: Comparison) -> dict[str, object]:
    fields = asdict(comparison)
    for name in ("largest", "expected", "found"):
        fields[name] = json_values(np.asarray(fields[name]))
    if comparison.first is None:
        fields["expected"] = fields["found"] = None
    return {"ok": comparison.ok, **fields}
