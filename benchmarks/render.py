"""The results as tables and plots, written into README.md between two marks.

python benchmarks/render.py            # the tables, and the plots if matplotlib is there
python benchmarks/render.py --check    # 1 if the tables are not those of the results
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import machine
import plots
from goals import GOALS
from measuring import RESULTS, goal_text, missing_text, ratio_text, reached_text, side_text

README = Path(__file__).resolve().parent / "README.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
# Results appear in this order; others follow by name.
ORDER = (
    "call",
    "throughput",
    "decoder",
    "first_prediction",
    "reload",
    "save",
    "variables",
    "growth",
    "imports",
    "serving",
)

Results = Mapping[str, Mapping[str, Any]]
Record = Mapping[str, Any]


def read(folder: Path = RESULTS) -> Results:
    """Every file of results by its name, in the order in which they are told."""
    found = {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}
    places = {name: place for place, name in enumerate(ORDER)}
    return {name: found[name] for name in sorted(found, key=lambda n: (places.get(n, 99), n))}


def rendered(results: Results) -> str:
    """All that stands between the marks."""
    parts = ["\n".join(machines(results)), "\n".join(goals(results))]
    parts += ["\n".join(question(name, document)) for name, document in results.items()]
    return "\n\n".join(part.rstrip() for part in parts)


def machines(results: Results) -> Iterator[str]:
    """One line for each machine and its versions, with the benchmarks that ran there."""

    def told(name: str) -> str:
        document = results[name]
        on, using = document["machine"], dict(document["versions"])
        quick = ", in a quick pass, whose figures are rough" if document["quick"] else ""
        return (
            f"{on['processor']}, {on['cores']} cores, {on['memory_gib']:.0f} GiB, {on['system']}; "
            f"JAX computes on {on['device']}. "
            f"{', '.join(f'{package} {version}' for package, version in using.items())}{quick}."
        )

    names = sorted(results, key=told)
    groups = [(text, list(group)) for text, group in groupby(names, key=told)]
    for text, group in groups:
        yield f"Measured on: {text}" + ("" if len(groups) == 1 else f" ({', '.join(group)})")
        yield ""


def goals(results: Results) -> Iterator[str]:
    """Every goal with the rows that answer it. One that nothing answers is said to be open."""
    yield "### The goals"
    yield ""
    yield "| what | case | against | here | there | ratio [least-greatest] | goal | reached |"
    yield "|---|---|---|---|---|---|---|---|"
    rows = [row for document in results.values() for row in document["rows"] if row["goal"]]
    known = {row["goal"]["key"]: row["goal"] for row in rows}
    for key in [*GOALS, *(key for key in known if key not in GOALS)]:
        goal = known.get(key) or vars(GOALS[key])
        answers = [row for row in rows if row["goal"]["key"] == key]
        for row in answers or [None]:
            yield _line([goal["what"], *_answer(goal, row)])


def _answer(goal: Record, row: Record | None) -> list[str]:
    if row is None:
        return ["", goal["against"], "", "", "", goal_text(goal), "not measured"]
    here, there = side_text(row["ours"]), side_text(row["theirs"]) or missing_text(row)
    ratio, verdict = ratio_text(row["ratio"]), reached_text(row)
    return [row["what"], goal["against"], here, there, ratio, goal_text(goal), f"**{verdict}**"]


def question(name: str, document: Record) -> Iterator[str]:
    """One benchmark: its rows, how they were measured, and its plot."""
    yield f"### {document['question']}"
    yield ""
    yield "| case | here | there | ratio [least-greatest] |"
    yield "|---|---|---|---|"
    for row in document["rows"]:
        if "size" not in row["parameters"]:  # those are points of a plot
            there = side_text(row["theirs"]) or missing_text(row)
            yield _line([row["what"], side_text(row["ours"]), there, ratio_text(row["ratio"])])
    yield ""
    if any("size" in row["parameters"] for row in document["rows"]):
        yield f"![{document['question']}](results/{name}.svg)"
        yield ""
    yield f"`python benchmarks/{document.get('command', name)}.py`. {document['method']}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def spliced(text: str, between: str) -> str:
    """`text` with what is between its marks exchanged."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"README.md should have the lines {BEGIN} and {END}, in this order.")
    return f"{before}{BEGIN}\n\n{between}\n\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if it would differ")
    check = parser.parse_args().check
    text, results = README.read_text(), read()
    new = spliced(text, rendered(results))
    if check:
        if new != text:
            print("benchmarks/README.md is not as its results are: python benchmarks/render.py")
        return int(new != text)
    README.write_text(new)
    if lacking := machine.missing("matplotlib"):
        print(f"Plots stay as they are: {lacking[0]} is not installed.")
    else:
        plots.draw(results, RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
