"""Named inputs and outputs of one callable, as plain data."""

import numpy as np
import pytest

from signatures import Dim, Signature, SpecError, TensorSpec

N = TensorSpec(("n",))


def signature(inputs=None, outputs=None, defaults=None, name="f"):
    return Signature(name, inputs or {}, outputs or {}, defaults or {})


@pytest.mark.parametrize(
    ("made", "printed"),
    [
        (signature(), "f() -> ()"),
        (signature({"x": N}), "f(x: float32[n]) -> ()"),
        (
            signature({"x/0": N, "größe": TensorSpec(None, "int4")}, {"output_0": TensorSpec(())}),
            "f(x/0: float32[n], größe: int4[...]) -> (output_0: float32[])",
        ),
        (
            signature({"x": N, "t": TensorSpec(())}, {"y": N}, {"t": np.ones((), "f4")}),
            "f(x: float32[n], t: float32[] = default) -> (y: float32[n])",
        ),
    ],
)
def test_a_signature_prints_as_a_function_would(made, printed):
    assert str(made) == printed


@pytest.mark.parametrize(
    ("inputs", "dims", "bounded"),
    [
        ({}, {}, ()),
        ({"x": TensorSpec(None)}, {}, ()),
        ({"x": N, "y": N}, {"n": Dim("n")}, ()),
        (
            {"x": N, "y": TensorSpec((Dim("n", max=4), "m"))},
            {"n": Dim("n", max=4), "m": Dim("m")},
            (Dim("n", max=4),),
        ),
        (
            {"x": TensorSpec((Dim("n", max=4),)), "y": TensorSpec((Dim("n", max=4),))},
            {"n": Dim("n", max=4)},
            (Dim("n", max=4),),
        ),
        (
            {"x": TensorSpec(("2*m + n",)), "y": TensorSpec((Dim("m", min=2),))},
            {"m": Dim("m", min=2), "n": Dim("n")},
            (Dim("m", min=2),),
        ),
    ],
)
def test_the_dimensions_of_all_inputs_are_known_with_their_bounds(inputs, dims, bounded):
    assert signature(inputs).dims == dims
    assert list(signature(inputs).dims) == list(dims)
    assert signature(inputs).bounded_dims == bounded


@pytest.mark.parametrize(
    ("axes", "has"),
    [((), False), ((2, None), False), (("n", "m"), False), (("2*n",), True), (("n", "n-1"), True)],
)
def test_arithmetic_in_the_inputs_is_known(axes, has):
    assert signature({"x": N, "y": TensorSpec(axes)}).has_arithmetic is has


def test_two_bounds_for_one_dimension_are_refused():
    with pytest.raises(SpecError) as caught:
        signature({"x": TensorSpec((Dim("n", max=4),)), "y": TensorSpec((Dim("n", max=5),))})
    assert str(caught.value) == (
        "signature 'f' has two bounds for one dimension: Dim('n', max=4) and Dim('n', max=5)."
    )


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "signature 'f' has a default for 't', which is not an input: it has none."),
        (
            {"x": N, "y": N},
            "signature 'f' has a default for 't', which is not an input: x, y.",
        ),
    ],
)
def test_a_default_for_no_input_is_refused(inputs, message):
    with pytest.raises(SpecError) as caught:
        signature(inputs, defaults={"t": np.ones(())})
    assert str(caught.value) == message


def test_a_signature_does_not_change_with_the_dicts_it_was_made_of():
    inputs = {"x": N}
    made = signature(inputs)
    inputs["y"] = N
    assert list(made.inputs) == ["x"]


def ones(dtype="float32", shape=(2,)):
    return np.ones(shape, dtype)


def test_equal_signatures_are_equal_and_one_key():
    left, right = (
        signature({"x": N, "y": N}, {"z": N}, {"y": ones(), "x": ones()}) for _ in range(2)
    )
    assert left == right
    assert len({left, right}) == 1


@pytest.mark.parametrize(
    "other",
    [
        signature({"x": N, "y": N}, {"z": N}, {"y": ones()}, name="g"),
        signature({"y": N, "x": N}, {"z": N}, {"y": ones()}),
        signature({"x": N}, {"z": N}),
        signature({"x": N, "y": N}, {}, {"y": ones()}),
        signature({"x": N, "y": N}, {"z": N}),
        signature({"x": N, "y": N}, {"z": N}, {"x": ones()}),
        signature({"x": N, "y": N}, {"z": N}, {"y": ones() * 2}),
        signature({"x": N, "y": N}, {"z": N}, {"y": ones("int32")}),
        signature({"x": N, "y": N}, {"z": N}, {"y": ones(shape=(2, 1))}),
        "f(x: float32[n], y: float32[n] = default) -> (z: float32[n])",
    ],
)
def test_signatures_that_promise_something_else_are_not_equal(other):
    assert signature({"x": N, "y": N}, {"z": N}, {"y": ones()}) != other
