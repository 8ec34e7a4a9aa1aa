"""The sizes of named dimensions, as the shapes of arrays tell them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signatures.expression import parse
from signatures.sizes import Sizes, fits, solved

UNHURRIED = settings(deadline=None)  # the time of one example says nothing on a busy machine


def axes(*triples):
    return [(parse(text), size, where) for text, size, where in triples]


@pytest.mark.parametrize(
    ("triples", "known", "origins"),
    [
        ([], {}, {}),
        ([("n", 3, "x")], {"n": 3}, {"n": "x"}),
        ([("n", 3, "x"), ("n", 4, "y")], {"n": 3}, {"n": "x"}),
        ([("2*n", 8, "x"), ("n", 3, "y")], {"n": 3}, {"n": "y"}),
        ([("2*n", 8, "x")], {"n": 4}, {"n": "x"}),
        ([("2*n", 8, "x"), ("3*n", 9, "y")], {"n": 4}, {"n": "x"}),
        ([("2*n", 7, "x"), ("3*n", 9, "y")], {"n": 3}, {"n": "y"}),
        ([("n + m", 5, "x"), ("m + k", 3, "y"), ("k", 1, "z")], {"k": 1, "m": 2, "n": 3},
         {"k": "z", "m": "y", "n": "x"}),
        ([("n + m", 5, "x")], {}, {}),
        ([("n*n", 9, "x")], {}, {}),
        ([("n*m", 0, "x"), ("m", 0, "y")], {"m": 0}, {"m": "y"}),
        ([("n + floordiv(1, m)", 3, "x"), ("m", 0, "y")], {"m": 0}, {"m": "y"}),
        ([("n - 3", 0, "x")], {"n": 3}, {"n": "x"}),
        ([("n + 3", 0, "x")], {}, {}),
    ],
)  # fmt: skip
def test_the_first_axis_that_tells_a_size_decides(triples, known, origins):
    assert solved(axes(*triples)) == Sizes(known, origins)


@pytest.mark.parametrize(
    ("axis", "size", "known", "does"),
    [
        (None, 0, {}, True),
        (3, 3, {}, True),
        (3, 4, {}, False),
        ("n", 3, {"n": 3}, True),
        ("n", 3, {"n": 4}, False),
        ("n", 3, {}, False),
        ("2*n + m", 5, {"n": 2, "m": 1}, True),
        ("floordiv(6, n)", 3, {"n": 0}, False),
    ],
)
def test_an_axis_fits_a_size_that_the_known_ones_give_it(axis, size, known, does):
    assert fits(parse(axis) if isinstance(axis, str) else axis, size, known) is does


@UNHURRIED
@given(st.permutations(["a", "a + b", "b + c", "2*c + d", "3*d + a"]), st.data())
def test_the_order_of_axes_does_not_change_what_consistent_ones_tell(texts, data):
    size = st.integers(0, 9)
    sizes = data.draw(st.fixed_dictionaries(dict.fromkeys("abcd", size)))
    told = solved(axes(*((text, parse(text).evaluate(sizes), "x") for text in texts)))
    assert told.known == sizes
