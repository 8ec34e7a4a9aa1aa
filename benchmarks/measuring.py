"""Two sides of one question, measured by turns, and what was found as a file of results.

Other work on a machine comes and goes. Both sides are therefore timed in short rounds, by turns,
and compared round by round: the ratio of a round has both its times from the same second. What is
told is the median of these ratios with the least and the greatest of them.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import machine
import processes

RESULTS = Path(__file__).resolve().parent / "results"
# So few rounds are run at least, however soon the time for them is over.
FEWEST_ROUNDS = 3


@dataclass(frozen=True)
class Goal:
    """What a ratio should be.

    `key` is how rows name it, `what` is measured `against` something, and `ratio` is the bound.
    """

    key: str
    what: str
    against: str
    bound: Literal["at most", "at least"]
    ratio: float

    def is_reached(self, ratio: float) -> bool:
        return ratio <= self.ratio if self.bound == "at most" else ratio >= self.ratio


@dataclass(frozen=True)
class Spread:
    """Measured values of one side: five numbers that say how they lie, and their count."""

    min: float
    lower: float
    median: float
    upper: float
    max: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of at least one value. Quartiles are interpolated, the ends included."""
        lower, median, upper = (
            statistics.quantiles(values, method="inclusive") if len(values) > 1 else [values[0]] * 3
        )
        return cls(min(values), lower, median, upper, max(values), len(values))


@dataclass(frozen=True)
class Side:
    """What was measured of one side of a row: seconds, bytes, or another unit."""

    name: str
    unit: str
    values: Sequence[float]


@dataclass(frozen=True)
class Row:
    """One comparison.

    Args:
      what: the case, as in "200 variables, NumPy inputs".
      ours: what this library does.
      theirs: what it is compared with. Without one, the row is a figure by itself.
      goal: what the ratio should be.
      missing: the packages without which the other side could not be measured.
      inverted: whether the ratio is theirs over ours, as for speeds.
      parameters: the numbers that the case stands for, from which plots are drawn.
    """

    what: str
    ours: Side
    theirs: Side | None = None
    goal: Goal | None = None
    missing: Sequence[str] = ()
    inverted: bool = False
    parameters: Mapping[str, float | str] = field(default_factory=dict)

    def ratios(self) -> list[float]:
        """Of each round; of the medians, if the sides were not measured in the same rounds."""
        if self.theirs is None:
            return []
        one, other = self.ours.values, self.theirs.values
        if len(one) != len(other):
            one, other = [statistics.median(one)], [statistics.median(other)]
        if self.inverted:
            one, other = other, one
        return [ours / theirs for ours, theirs in zip(one, other, strict=True)]

    def record(self) -> dict[str, object]:
        """The row as it stands in a file of results."""
        ratios = self.ratios()
        ratio = Spread.of(ratios) if ratios else None
        return {
            "what": self.what,
            "parameters": dict(self.parameters),
            "ours": _record(self.ours),
            "theirs": None if self.theirs is None else _record(self.theirs),
            "ratio": None if ratio is None else _rounded(asdict(ratio)),
            "goal": None if self.goal is None else asdict(self.goal),
            "reached": self.goal.is_reached(ratio.median) if self.goal and ratio else None,
            "missing": list(self.missing),
        }


def _record(side: Side) -> dict[str, object]:
    return {"name": side.name, "unit": side.unit, **_rounded(asdict(Spread.of(side.values)))}


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Four digits: no measurement here has more, and files of results stay easy to compare."""
    return {
        name: value if isinstance(value, int) else float(f"{value:.4g}")
        for name, value in values.items()
    }


def timed(call: Callable[[], object], number: int = 1) -> float:
    """The seconds of one of `number` calls in a row, until the last result is there."""
    start = time.perf_counter()
    for _ in range(number):
        result = call()
    processes.wait_for(result)
    return (time.perf_counter() - start) / number


def by_turns(
    sides: Mapping[str, Callable[[], object] | processes.Worker],
    *,
    rounds: int,
    number: int = 1,
    warm_up: int = 1,
    budget_s: float = 60.0,
) -> dict[str, list[float]]:
    """The seconds of one call of each side in each round.

    Args:
      sides: what is timed: a function without arguments, or one that waits in another process. A
        JAX array that is returned is waited for.
      rounds: how many rounds at most. Every second one goes through the sides backwards.
      number: the calls of one side in a round, of which the mean is taken.
      warm_up: the calls of each side before, which are not timed.
      budget_s: after this time no further round begins, but for the first three.
    """
    timers = {
        name: side.timed if isinstance(side, processes.Worker) else partial(timed, side)
        for name, side in sides.items()
    }
    for timer in timers.values():
        if warm_up:
            timer(warm_up)
    found: dict[str, list[float]] = {name: [] for name in sides}
    end = time.perf_counter() + budget_s
    collects = gc.isenabled()
    gc.disable()  # a collection would fall to one of the sides, whoever left the garbage
    gc.collect()
    gc.freeze()  # what is there now need not be looked through after each round
    try:
        for index in range(rounds):
            if index >= FEWEST_ROUNDS and time.perf_counter() > end:
                break
            for name in list(sides)[:: -1 if index % 2 else 1]:
                found[name].append(timers[name](number))
            gc.collect()
    finally:
        gc.unfreeze()
        if collects:
            gc.enable()
    return found


@dataclass(frozen=True)
class Pass:
    """How a benchmark is run: in full, or quickly to see that it works."""

    quick: bool
    keep: bool

    def pick(self, full: int, quick: int) -> int:
        return quick if self.quick else full


def arguments(description: str) -> Pass:
    """What the command line of a benchmark says. All of them take the same two options."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds; keeps no figures")
    parser.add_argument("--keep", action="store_true", help="keep the figures of a quick pass too")
    given = parser.parse_args()
    return Pass(given.quick, given.keep or not given.quick)


def report(
    name: str, question: str, method: str, rows: Sequence[Row], run: Pass, **facts: object
) -> None:
    """Print a table of `rows` and keep them in `results/NAME.json`, unless `run` says otherwise.

    Args:
      name: the benchmark's file, without its ending.
      question: one line, as a question.
      method: how both sides were measured, in plain words.
      rows: what was found.
      run: as `arguments` gave it.
      facts: anything else that should be in the file, as plain data.
    """
    records = [row.record() for row in rows]
    print(f"\n{question}\n")
    print(table([_cells(record) for record in records]))
    if not run.keep:
        return
    document = {
        "question": question,
        "method": " ".join(method.split()),
        "quick": run.quick,
        "machine": machine.described(),
        "versions": machine.versions(),
        "rows": records,
        **facts,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def table(rows: Sequence[Sequence[str]]) -> str:
    """`rows` of text under the heads of a comparison, in columns."""
    lines = [("case", "here", "there", "ratio [least-greatest]", "goal", "reached"), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cells(record: Mapping[str, object]) -> list[str]:
    return [
        str(record["what"]),
        side_text(record["ours"]),
        side_text(record["theirs"]) or missing_text(record),
        ratio_text(record["ratio"]),
        goal_text(record["goal"]),
        reached_text(record),
    ]


def side_text(side: Mapping[str, object] | None) -> str:
    """A side's median with its unit, in a size that reads well, and what it is of."""
    return "" if side is None else f"{quantity(side['median'], side['unit'])} ({side['name']})"


def missing_text(record: Mapping[str, object]) -> str:
    return f"needs {', '.join(record['missing'])}" if record["missing"] else ""


def ratio_text(ratio: Mapping[str, float] | None) -> str:
    if ratio is None:
        return ""
    return f"{_short(ratio['median'])} [{_short(ratio['min'])}-{_short(ratio['max'])}]"


def goal_text(goal: Mapping[str, object] | None) -> str:
    return "" if goal is None else f"{goal['bound']} {goal['ratio']:g}"


def reached_text(record: Mapping[str, object]) -> str:
    if record["goal"] is None:
        return ""
    return {True: "yes", False: "no", None: "not measured"}[record["reached"]]


# The sizes that a unit is told in, greatest first. Units that are not here are told as they are.
_SCALES = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")),
    "B": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")),
    "B/s": ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s")),
}


def quantity(value: float, unit: str) -> str:
    """`value` with three digits, as in `27.1 us`."""
    scales = _SCALES.get(unit, ((1, unit),))
    scale, shown = next((one for one in scales if abs(value) >= one[0]), scales[-1])
    return f"{_short(value / scale)} {shown}"


def _short(value: float) -> str:
    """Three digits without an exponent."""
    text = f"{value:.3g}"
    return f"{value:.0f}" if "e+" in text else text
