"""Several calls as one and apart again: laws, whatever the rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter import Batching, OptionError
from exporter.serving.joining import Joining, batch_axis, whole
from signatures import BindError, Dim, Signature, TensorSpec

BATCH = ("batch", 3)


def joining(inputs, outputs=None, **options):
    given = {
        name: spec if isinstance(spec, TensorSpec) else TensorSpec(spec)
        for name, spec in inputs.items()
    }
    found = {name: TensorSpec(spec) for name, spec in (outputs or {"y": BATCH}).items()}
    return Joining(Signature("f", given, found), "batch", Batching(**options))


@pytest.mark.parametrize(
    ("inputs", "outputs", "axis"),
    [
        ({"x": BATCH}, {"y": BATCH}, "batch"),
        ({"x": BATCH, "k": (4,)}, {"y": ("batch",)}, "batch"),
        ({"x": BATCH}, {"y": BATCH, "n": ()}, None),
        ({"x": (None, 3)}, {"y": (None, 3)}, None),
        ({"x": ("batch", "batch")}, {"y": ("batch",)}, None),
        ({"x": ("2*batch",)}, {"y": ("2*batch",)}, None),
        ({"x": BATCH}, {"y": (3, "batch")}, None),
        ({"x": BATCH}, {}, None),
        ({"x": None}, {"y": ("batch",)}, None),
    ],
)
def test_the_batch_axis_is_first_everywhere_and_nowhere_else(inputs, outputs, axis):
    made = [{n: TensorSpec(s) for n, s in one.items()} for one in (inputs, outputs)]
    assert batch_axis(Signature("f", *made)) == axis


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 2**31))
def test_what_is_joined_comes_apart_as_each_alone(counts, seed):
    made = joining({"x": BATCH, "z": ("batch",)}, {"y": BATCH}, max_batch_size=64)
    random = np.random.default_rng(seed)
    calls = [[random.normal(size=(n, 3)), random.normal(size=n)] for n in counts]
    calls = [[array.astype(np.float32) for array in arrays] for arrays in calls]
    parts = [made.part(arrays) for arrays in calls]
    assert len({part.form for part in parts}) == 1
    x, z = made.joined(parts)
    assert len(x) == len(z) == made.size_for(sum(counts))
    # It is filled up with copies of a row that was given: zeros may be what a model fails for.
    for row in x[sum(counts) :]:
        assert np.array_equal(row, calls[0][0][0])
    outputs = [x * z[:, None]]
    for (left, right), (found,) in zip(calls, made.apart(outputs, parts), strict=True):
        assert np.array_equal(found, left * right[:, None])


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 10))
def test_buckets_are_filled_up_and_cut_back(rows, tokens):
    made = joining(
        {"x": ("batch", "tokens")},
        {"y": ("batch", "tokens"), "n": ("batch",)},
        buckets={"tokens": (4, 8)},
        pad_values={"x": 7},
    )
    given = np.arange(rows * tokens, dtype=np.float32).reshape(rows, tokens)
    part = made.part([given])
    size = next((size for size in (4, 8) if size >= tokens), tokens)
    assert part.arrays[0].shape == (rows, size)
    assert (part.arrays[0][:, tokens:] == 7).all()
    (x,) = made.joined([part]) if rows <= 32 else part.arrays
    ((y, n),) = made.apart([x, x.sum(axis=1)], [part])
    assert np.array_equal(y, given)
    assert n.shape == (rows,)


def test_calls_of_another_form_are_not_joined():
    made = joining({"x": ("batch", "k"), "scale": TensorSpec((2,))}, {"y": ("batch", "k")})
    one = np.ones((2, 3), np.float32)
    scale = np.ones(2, np.float32)
    form = made.part([one, scale]).form
    assert made.part([np.ones((5, 3), np.float32), scale]).form == form
    assert made.part([np.ones((2, 4), np.float32), scale]).form != form
    assert made.part([one, 2 * scale]).form != form
    assert made.part([np.ones((0, 3), np.float32), scale]).form is None
    large = joining({"x": BATCH, "table": TensorSpec((5000,))})
    assert large.part([one, np.zeros(5000, np.float32)]).form is None


def test_the_quick_way_sees_what_does_not_fit():
    made = joining({"x": TensorSpec((Dim("batch", max=4), 3))}, max_batch_size=4)
    ones = np.ones((2, 3), np.float32)
    assert made.part([ones]).form == made.part([ones]).form
    for wrong in (np.ones((5, 3), "f"), np.ones((2, 4), "f"), np.ones((2, 3), "d"), "no array"):
        with pytest.raises(BindError):
            made.part([wrong])


def test_slices_make_up_the_whole():
    made = joining({"x": BATCH, "k": TensorSpec((2,))}, max_batch_size=4)
    given = np.arange(33, dtype=np.float32).reshape(11, 3)
    part = made.part([given, np.zeros(2, np.float32)])
    slices = made.slices(part)
    assert [one.rows for one in slices] == [4, 4, 3]
    assert np.array_equal(whole([[one.arrays[0]] for one in slices])[0], given)


def test_sizes_that_no_bound_allows_are_left_out():
    spec = TensorSpec((Dim("batch", min=2, max=12, multiple_of=2), 3))
    assert joining({"x": spec}).sizes == (2, 4, 8)
    with pytest.raises(OptionError, match="none of the batch sizes"):
        joining({"x": TensorSpec((Dim("batch", min=100), 3))})


@pytest.mark.parametrize(
    ("inputs", "buckets", "words"),
    [
        ({"x": BATCH}, {"tokens": (4,)}, "is for a named axis other than the first"),
        ({"x": BATCH}, {"batch": (4,)}, "is for a named axis other than the first"),
        ({"x": ("batch", "t"), "z": ("2*t",)}, {"t": (4,)}, "cannot be filled up"),
        ({"x": TensorSpec(("batch", Dim("t", max=4)))}, {"t": (8,)}, "t is at most 4"),
    ],
)
def test_buckets_that_cannot_be_are_refused(inputs, buckets, words):
    with pytest.raises(OptionError, match=words):
        joining(inputs, buckets=buckets)
