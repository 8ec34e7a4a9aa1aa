"""What an error says of the values of a call; how errors read as a whole is in test_binding."""

import numpy as np
import pytest

from signatures import Dim, Signature, TensorSpec
from signatures.mismatches import bound_problem, expected, misfit, mismatches
from signatures.sizes import Sizes
from signatures.values import Misfit

NOTHING = Sizes({}, {})


@pytest.mark.parametrize(
    ("found", "spec", "text"),
    [
        (Misfit("got 'a' (str)"), TensorSpec(()), "got 'a' (str)"),
        (np.zeros(2), TensorSpec(("n",)), None),
        (np.zeros(2), TensorSpec(()), "got float64[2]"),
        (np.zeros(()), TensorSpec((None,)), "got float64[]"),
        (np.zeros((1, 1)), TensorSpec(None, max_rank=1), "got float64[1, 1]"),
        (np.zeros(1), TensorSpec(None, max_rank=1), None),
    ],
)
def test_a_value_is_a_misfit_by_its_dtype_or_its_number_of_axes(found, spec, text):
    assert misfit(found, spec) == text


@pytest.mark.parametrize(
    ("spec", "sizes", "elsewhere", "text"),
    [
        (TensorSpec(()), NOTHING, (), "expected float32[]"),
        (TensorSpec(("n",)), NOTHING, (), "expected float32[n]"),
        (
            TensorSpec(("n", "m")),
            Sizes({"m": 3}, {"m": "x"}),
            (),
            "expected float32[n, m] with m=3",
        ),
        (
            TensorSpec(("n", "2*m", "n")),
            Sizes({"m": 3, "n": 0, "k": 1}, {"m": "x", "n": "y", "k": "y"}),
            ("m",),
            "expected float32[n, 2*m, n] with n=0, m=3 from x",
        ),
        (TensorSpec(None, max_rank=2), NOTHING, (), "expected float32[...] with at most 2 axes"),
    ],
)
def test_a_spec_is_told_with_the_sizes_that_are_known(spec, sizes, elsewhere, text):
    assert expected(spec, sizes, elsewhere) == text


def test_only_the_inputs_that_were_given_are_looked_at():
    signature = Signature("f", {"x": TensorSpec(("n",)), "y": TensorSpec(("n", 2))}, {})
    sizes, lines = mismatches(signature, {"y": np.zeros((3, 2), np.float32)})
    assert (sizes.known, lines) == ({"n": 3}, {})


@pytest.mark.parametrize(
    ("size", "problem"), [(4, None), (5, "n is at most 4"), ("a symbolic size", None)]
)
def test_the_bounds_of_a_size_that_is_not_known_yet_are_left_for_later(size, problem):
    assert bound_problem(Dim("n", max=4), size) == problem


def test_a_broken_bound_is_told_beside_a_wrong_size():
    keys = Dim("keys", max=512)
    inputs = {
        "queries": TensorSpec(("batch", "queries", 4)),
        "keys": TensorSpec(("batch", keys, 4)),
    }
    found = {"queries": np.zeros((2, 3, 4), "f"), "keys": np.zeros((5, 513, 4), "f")}
    _, lines = mismatches(Signature("f", inputs, {}), found)
    assert lines["keys"].endswith("got float32[5, 513, 4]; keys is at most 512")
