"""The laws of measuring, and that what is told of the results is in them. Nothing is measured."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goals import GOALS
from measuring import RESULTS, Goal, Row, Side, Spread, by_turns, quantity
from processes import ProcessError, Worker, in_new_process, memory_bytes
from render import BEGIN, END, README, read, rendered, spliced

TIMES = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=30)


def test_the_readme_tells_the_results_that_are_kept():
    text = README.read_text()
    assert spliced(text, rendered(read())) == text


def test_every_goal_is_answered_by_a_row():
    rows = [row for document in read().values() for row in document["rows"]]
    answered = {row["goal"]["key"] for row in rows if row["goal"]}
    assert set(GOALS) <= answered


def test_goals_in_results_are_those_that_were_set():
    for document in read().values():
        for row in document["rows"]:
            if row["goal"] and row["goal"]["key"] in GOALS:
                assert row["goal"] == vars(GOALS[row["goal"]["key"]])


def test_results_name_no_path():
    for file in RESULTS.glob("*.json"):
        assert not re.search(r"(?<![\w`])/\w", file.read_text()), file.name


@settings(max_examples=30)
@given(TIMES)
def test_a_spread_is_what_numpy_finds(times):
    expected = [*np.percentile(times, [0, 25, 50, 75, 100]), len(times)]
    np.testing.assert_allclose(list(vars(Spread.of(times)).values()), expected, rtol=1e-9)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(1e-6, 1e3), st.floats(1e-6, 1e3)), min_size=1))
def test_ratios_are_of_rounds_and_invert(pairs):
    one, other = (
        Side(name, "s", times) for name, times in zip("ab", zip(*pairs, strict=True), strict=True)
    )
    np.testing.assert_allclose(
        Row("", one, other).ratios(), np.divide(one.values, other.values), rtol=1e-9
    )
    assert Row("", one, other, inverted=True).ratios() == Row("", other, one).ratios()


def test_sides_of_other_rounds_are_compared_by_their_medians():
    assert Row("", Side("a", "s", [9, 2, 1]), Side("b", "s", [4])).ratios() == [0.5]


@pytest.mark.parametrize(
    ("bound", "below", "equal", "above"), [("at most", 1, 1, 0), ("at least", 0, 1, 1)]
)
def test_a_goal_is_reached_at_its_bound(bound, below, equal, above):
    goal = Goal("", "", "", bound, 0.5)
    assert [goal.is_reached(one) for one in (0.4, 0.5, 0.6)] == [below, equal, above]


def test_a_row_without_the_other_side_is_not_measured():
    goal = Goal("", "", "", "at most", 1)
    record = Row("", Side("a", "s", [1.0]), None, goal, ["tensorflow"]).record()
    assert (record["ratio"], record["reached"], record["missing"]) == (None, None, ["tensorflow"])
    assert json.loads(json.dumps(record)) == record


def test_sides_take_turns_in_both_orders():
    calls = []
    sides = {name: lambda name=name: calls.append(name) for name in "ab"}
    found = by_turns(sides, rounds=3, number=2, warm_up=1)
    assert "".join(calls) == "ab" + "aabb" + "bbaa" + "aabb"
    assert {name: len(times) for name, times in found.items()} == {"a": 3, "b": 3}


def test_without_time_left_three_rounds_are_run():
    assert len(by_turns({"a": int}, rounds=50, budget_s=0)["a"]) == 3


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.00002713, "s", "27.1 us"),
        (1.5, "s", "1.5 s"),
        (0.0, "s", "0 us"),
        (123456789, "B", "123 MB"),
        (999, "B", "999 B"),
        (2.5e9, "B/s", "2.5 GB/s"),
        (1234.5, "examples/s", "1234 examples/s"),
    ],
)
def test_quantities_are_told_in_a_size_that_reads_well(value, unit, text):
    assert quantity(value, unit) == text


def test_a_new_process_answers_or_says_why_not():
    assert in_new_process(memory_bytes) > 2**20
    with (
        pytest.raises(ProcessError, match="this system tells no VmNothing"),
        Worker(memory_bytes, which="VmNothing") as worker,
    ):
        worker.timed()


def test_only_what_is_between_the_marks_of_a_readme_is_exchanged():
    assert spliced(f"a {BEGIN} old {END} b", "new") == f"a {BEGIN}\n\nnew\n\n{END} b"
    with pytest.raises(SystemExit, match="should have the lines"):
        spliced("no marks", "new")
