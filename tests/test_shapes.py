"""Axes: fixed, named, free, bounded, computed; arrays of any rank; sizes 0 and 1."""

import dataclasses
from collections.abc import Sequence
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import BindError, Dim, SpecError, TensorSpec, TracingError, Variable, function


def floats(*shape):
    """Distinct numbers, so that a wrong axis gives a wrong answer."""
    size = int(np.prod(shape))
    return (np.arange(size, dtype=np.float32) + 1).reshape(shape)


def declared(python_function, *shapes, **options):
    specs = [TensorSpec(shape, "float32", **options) for shape in shapes]
    return function(python_function, input_signature=specs)


def add(x, y):
    return x + y


def join(x, y):
    return jnp.concatenate([x, y])


@pytest.fixture(scope="module")
def signature(reload):
    """The signature of a function that is saved alone; each is saved once."""
    known = {}

    def signature(python_function, *shapes, **options):
        key = (python_function, shapes, tuple(options.items()))
        if key not in known:
            model = reload(SimpleNamespace(f=declared(python_function, *shapes, **options)))
            known[key] = model.signatures["serving_default"]
        return known[key]

    return signature


def row_sums(x):
    return x.sum(1)


def divided_by_length(x):
    return x / x.shape[0]


def doubled_length(x):
    return jnp.zeros(x.shape[0] * 2) + 1


def several(x):
    return {
        "flat": x.reshape(-1),
        "half": x[::2],
        "twice": jnp.concatenate([x, x]),
        "rest": x[1:],
        "sizes": jnp.array([x.shape[0], x.shape[1]]),
    }


def halves(x):
    return x.reshape(2, -1).sum(0)


def total(x):
    return x.sum()


def looped(x):
    return jax.lax.fori_loop(0, x.shape[0], lambda i, t: t + x[i], jnp.float32(0))


def doubled_and_summed(x):
    return {"doubled": 2 * x, "sum": x.sum(0)}


def outer(x, y):
    return x[:, None] * y[None, :]


def pairwise(x, y):
    return x @ y.T


# A function, the shapes in its specs, and shapes of arguments that it must take.
ACCEPTED = [
    (row_sums, [(2, 3)], [[(2, 3)]]),
    (row_sums, [("batch", 3)], [[(n, 3)] for n in (0, 1, 2, 7)]),
    (row_sums, [(None, 3)], [[(n, 3)] for n in (0, 1, 5)]),
    (row_sums, [(None, None)], [[(n, k)] for n in (0, 1, 5) for k in (1, 4)]),
    (row_sums, [("a", "b")], [[(n, k)] for n in (0, 1, 5) for k in (1, 4)]),
    (divided_by_length, [("n",)], [[(0,)], [(1,)], [(4,)]]),
    (doubled_length, [(None,)], [[(0,)], [(1,)], [(4,)]]),
    (add, [("b", 3), ("b", 3)], [[(n, 3), (n, 3)] for n in (0, 1, 4)]),
    (add, [("b", 3), (3,)], [[(n, 3), (3,)] for n in (0, 1, 4)]),
    (add, [("a", 1), (1, "b")], [[(3, 1), (1, 2)], [(1, 1), (1, 1)], [(2, 1), (1, 1)]]),
    (add, [(None,), (None,)], [[(n,), (n,)] for n in (0, 1, 4)]),
    (add, [(None, 3), (None, 3)], [[(n, 3), (n, 3)] for n in (0, 1, 4)]),
    (add, [(None, None), (None, None)], [[(2, 3), (2, 3)], [(1, 1), (1, 1)]]),
    (join, [(None,), (None,)], [[(2,), (3,)], [(1,), (1,)]]),
    (join, [("n",), ("2*n",)], [[(2,), (4,)], [(1,), (2,)], [(0,), (0,)]]),
    (join, [("n",), ("n + 1",)], [[(2,), (3,)], [(1,), (2,)]]),
    (halves, [("2*n",)], [[(6,)], [(2,)], [(0,)]]),
    (several, [("a", "b")], [[(3, 4)], [(1, 1)], [(2, 1)], [(1, 5)]]),
    (outer, [("m",), ("n",)], [[(2,), (3,)], [(1,), (1,)], [(0,), (3,)], [(3,), (0,)]]),
    (pairwise, [("m", "k"), ("n", "k")], [[(2, 3), (4, 3)], [(1, 1), (1, 1)], [(0, 2), (3, 2)]]),
    (total, [("n", "m")], [[(2, 3)], [(1, 1)]]),
    (looped, [("n",)], [[(3,)], [(1,)]]),
    (doubled_and_summed, [(0, 3)], [[(0, 3)]]),
    (doubled_and_summed, [("n", 0)], [[(0, 0)], [(2, 0)], [(1, 0)]]),
]


@pytest.mark.parametrize(
    ("python_function", "shapes", "sizes"),
    [(f, shapes, sizes) for f, shapes, accepted in ACCEPTED for sizes in accepted],
)
def test_arrays_that_fit_give_what_jit_gives(signature, python_function, shapes, sizes):
    arrays = [floats(*shape) for shape in sizes]
    expected = jax.jit(python_function)(*arrays)
    if not isinstance(expected, dict):
        expected = {"output_0": expected}
    loaded = signature(python_function, *map(tuple, shapes))
    result = loaded(**dict(zip(loaded.signature.inputs, arrays, strict=True)))
    assert set(result) == set(expected)
    for name, wanted in expected.items():
        assert (result[name].shape, result[name].dtype) == (wanted.shape, wanted.dtype)
        # Both run XLA on the same machine, which may add up in another order for other shapes.
        np.testing.assert_allclose(result[name], wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("python_function", "shapes", "shown"),
    [
        (row_sums, [("batch", 3)], "(x: float32[batch, 3]) -> (output_0: float32[batch])"),
        (row_sums, [(None, 3)], "(x: float32[None, 3]) -> (output_0: float32[None])"),
        (
            add,
            [(None,), (None,)],
            "(x: float32[batch], y: float32[batch]) -> (output_0: float32[batch])",
        ),
        (
            add,
            [(None, None), (None, None)],
            "(x: float32[batch, axis_1], y: float32[batch, axis_1]) -> "
            "(output_0: float32[batch, axis_1])",
        ),
        (
            join,
            [(None,), (None,)],
            "(x: float32[None], y: float32[None]) -> (output_0: float32[None])",
        ),
        (join, [("n",), ("2*n",)], "(x: float32[n], y: float32[2*n]) -> (output_0: float32[3*n])"),
        (halves, [("2*n",)], "(x: float32[2*n]) -> (output_0: float32[n])"),
        (outer, [("m",), ("n",)], "(x: float32[m], y: float32[n]) -> (output_0: float32[m, n])"),
        (
            several,
            [("a", "b")],
            "(x: float32[a, b]) -> (flat: float32[a*b], half: float32[floordiv(a + 1, 2), b], "
            "twice: float32[2*a, b], rest: float32[a - 1, b], sizes: int32[2])",
        ),
    ],
)
def test_a_signature_shows_what_its_axes_are(signature, python_function, shapes, shown):
    assert str(signature(python_function, *shapes).signature) == f"serving_default{shown}"


@pytest.mark.parametrize(
    ("python_function", "shapes", "sizes", "problem"),
    [
        (row_sums, [(2, 3)], [(2, 4)], "x: expected float32[2, 3], got float32[2, 4]"),
        (
            row_sums,
            [("batch", 3)],
            [(3, 4)],
            "x: expected float32[batch, 3] with batch=3, got float32[3, 4]",
        ),
        (row_sums, [("batch", 3)], [(3,)], "x: expected float32[batch, 3], got float32[3]"),
        (row_sums, [(None, 3)], [(3, 4)], "x: expected float32[None, 3], got float32[3, 4]"),
        (
            add,
            [("b", 3), ("b", 3)],
            [(4, 3), (5, 3)],
            "y: expected float32[b, 3] with b=4 from x, got float32[5, 3]",
        ),
        (
            add,
            [("b", 3), ("b", 3)],
            [(1, 3), (5, 3)],
            "y: expected float32[b, 3] with b=1 from x, got float32[5, 3]",
        ),
        (
            add,
            [("b", 3), ("b", 3)],
            [(0, 3), (1, 3)],
            "y: expected float32[b, 3] with b=0 from x, got float32[1, 3]",
        ),
        (
            add,
            [(None,), (None,)],
            [(2,), (3,)],
            "y: expected float32[batch] with batch=2 from x, got float32[3]",
        ),
        (
            add,
            [(None,), (None,)],
            [(1,), (3,)],
            "y: expected float32[batch] with batch=1 from x, got float32[3]",
        ),
        (
            join,
            [("n",), ("2*n",)],
            [(2,), (5,)],
            "y: expected float32[2*n] with n=2 from x, got float32[5]",
        ),
        (
            halves,
            [("2*n",)],
            [(5,)],
            "x: expected float32[2*n], got float32[5]; no n was found for which 2*n is 5",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(
    signature, python_function, shapes, sizes, problem
):
    loaded = signature(python_function, *shapes)
    arrays = dict(zip(loaded.signature.inputs, (floats(*size) for size in sizes), strict=True))
    with pytest.raises(BindError) as refused:
        loaded(**arrays)
    assert str(refused.value) == (
        f"arguments do not fit signature 'serving_default':\n  {problem}\n"
        f"The signature is {loaded.signature}."
    )
    original = declared(python_function, *shapes)
    if not any(None in shape for shape in shapes):
        with pytest.raises(BindError) as refused:
            original(*arrays.values())
        assert refused.value.problems == (problem,)


@pytest.mark.parametrize(
    ("python_function", "shapes", "sizes"),
    [
        (total, [("n", "m")], [(0, 3)]),
        (looped, [("n",)], [(0,)]),
        (doubled_and_summed, [("n", 2)], [(0, 2)]),
        (join, [(None,), (None,)], [(0,), (3,)]),
        (several, [("a", "b")], [(0, 4)]),
        (join, [("n",), ("n + 1",)], [(0,), (1,)]),
        (lambda x: {"rest": x[1:], "x": x}, [("n", "n")], [(0, 0)]),
        (lambda x: jnp.max(x, initial=-1.0), [("n",)], [(0,)]),
        (lambda x: jnp.pad(x, 1), [("n",)], [(0,)]),
        (lambda x: x.mean(), [("n",)], [(0,)]),
    ],
)
def test_size_0_is_refused_by_name_where_a_result_has_elements(
    signature, python_function, shapes, sizes
):
    loaded = signature(python_function, *shapes)
    arrays = dict(zip(loaded.signature.inputs, (floats(*size) for size in sizes), strict=True))
    with pytest.raises(BindError) as refused:
        loaded(**arrays)
    assert str(refused.value) == (
        "arguments do not fit signature 'serving_default':\n"
        "  x: an axis has size 0, and there is a result for sizes of at least 1 only\n"
        f"The signature is {loaded.signature}."
    )
    assert len(refused.value.problems) == 1


def test_a_refused_size_0_leaves_the_state_alone(reload):
    class Sum:
        def __init__(self):
            self.total = Variable(jnp.float32(0))

        @function(input_signature=[TensorSpec(("n",), "float32")])
        def add(self, x):
            self.total.value = self.total + x.sum()
            return self.total

    loaded = reload(Sum())
    assert float(loaded.add(floats(3))) == 6
    with pytest.raises(BindError) as refused:
        loaded.add(floats(0))
    assert str(refused.value) == (
        "arguments do not fit add(x):\n"
        "  x: an axis has size 0, and there is a result for sizes of at least 1 only\n"
        "The signature is add(x: float32[n]) -> (output_0: float32[])."
    )
    assert float(loaded.total) == 6


NOTE = (
    "the leading axes given as None are one dimension, 'batch': the function cannot be traced with "
    "sizes independent of each other."
)
NOTE_ALL = (
    "the axes given as None at the same position are one dimension: the function cannot be traced "
    "with sizes independent of each other."
)


@pytest.mark.parametrize(
    ("python_function", "shapes", "notes"),
    [
        (join, [(None,), (None,)], []),
        (add, [(None,), (None,)], [NOTE]),
        (add, [(None, None), (None, None)], [NOTE_ALL]),
    ],
)
def test_free_axes_that_had_to_be_tied_are_noted(python_function, shapes, notes, reload):
    f = declared(python_function, *shapes)
    assert list(f.get_concrete_function().notes) == notes
    manifest = reload(SimpleNamespace(f=f)).manifest
    assert list(manifest.concrete_functions[0].notes) == notes


@pytest.fixture(scope="module")
def both(reload):
    """A signature with a bounded axis, and its original."""
    spec = TensorSpec((Dim("seq", min=2, max=8, multiple_of=2), 3), "float32")
    f = function(lambda x: 2 * x, input_signature=[spec])
    return reload(SimpleNamespace(f=f)).signatures["serving_default"], f


class TestBounds:
    """`Dim` with bounds."""

    @pytest.mark.parametrize("size", [2, 4, 8])
    def test_sizes_within_run(self, both, size):
        np.testing.assert_array_equal(both[0](floats(size, 3))["output_0"], 2 * floats(size, 3))
        np.testing.assert_array_equal(both[1](floats(size, 3)), 2 * floats(size, 3))

    @pytest.mark.parametrize(
        ("size", "bound"),
        [
            (0, "seq is at least 2"),
            (1, "seq is at least 2 and a multiple of 2"),
            (3, "seq is a multiple of 2"),
            (10, "seq is at most 8"),
        ],
    )
    def test_sizes_outside_are_refused_with_the_bound(self, both, size, bound):
        problem = (
            f"x: expected float32[seq, 3] where {bound}, got float32[{size}, 3] with seq={size}"
        )
        for call in both:
            with pytest.raises(BindError) as refused:
                call(floats(size, 3))
            assert refused.value.problems == (problem,)
        with pytest.raises(BindError) as refused:
            both[0](floats(size, 3))
        assert str(refused.value) == (
            f"arguments do not fit signature 'serving_default':\n  {problem}\n"
            f"The signature is {both[0].signature}."
        )

    def test_bounds_come_back_with_the_signature(self, both):
        assert both[0].signature.dims == {"seq": Dim("seq", min=2, max=8, multiple_of=2)}

    @pytest.mark.parametrize("least", [None, 0])
    def test_without_a_least_size_0_and_1_are_allowed(self, least, reload):
        spec = TensorSpec((Dim("n", min=least, max=8),), "float32")
        f = function(lambda x: 2 * x, input_signature=[spec])
        loaded = reload(SimpleNamespace(f=f)).signatures["serving_default"]
        for size in (0, 1, 8):
            np.testing.assert_array_equal(loaded(floats(size))["output_0"], 2 * floats(size))

    def test_a_bound_holds_wherever_the_name_stands(self, reload):
        specs = [TensorSpec((Dim("n", max=4),), "float32"), TensorSpec(("n",), "float32")]
        loaded = reload(SimpleNamespace(f=function(add, input_signature=specs)))
        np.testing.assert_array_equal(loaded.f(floats(4), floats(4)), 2 * floats(4))
        with pytest.raises(BindError) as refused:
            loaded.f(floats(5), floats(5))
        assert refused.value.problems == (
            "x: expected float32[n] where n is at most 4, got float32[5] with n=5",
            "y: expected float32[n] where n is at most 4, got float32[5] with n=5",
        )

    def test_a_bound_decides_a_branch(self, reload):
        def f(x):
            return x + 1 if x.shape[0] <= 8 else x

        spec = TensorSpec((Dim("n", max=8),), "float32")
        loaded = reload(SimpleNamespace(f=function(f, input_signature=[spec])))
        np.testing.assert_array_equal(loaded.f(floats(3)), floats(3) + 1)

    def test_two_bounds_for_one_name_are_refused(self, tmp_path):
        specs = [TensorSpec((Dim("n", max=n),), "float32") for n in (4, 5)]
        with pytest.raises((TracingError, SpecError)) as refused:
            exporter.save(
                SimpleNamespace(f=function(add, input_signature=specs)),
                tmp_path / "m",
                platforms=("cpu",),
            )
        assert str(refused.value) == (
            "two bounds for one dimension: Dim('n', max=4) and Dim('n', max=5)."
        )


@pytest.mark.parametrize("name", ["_n", "max", "min", "mod", "floordiv", "non_negative"])
def test_reserved_names_of_axes_are_refused(name):
    shown = "an axis" if name != "_n" else "_n"
    with pytest.raises(SpecError) as refused:
        declared(lambda x: x, (name,))
    assert shown in str(refused.value) or (
        f"the axis name {name!r} is reserved. Names start with a letter and are none of floordiv, "
        "max, min, mod, non_negative."
    ) in str(refused.value)


@pytest.mark.parametrize(
    ("python_function", "shapes"),
    [
        (lambda x: x if x.shape[0] > 5 else 2 * x, [("n",)]),
        (lambda x: x.reshape(-1, 2), [("n",)]),
        (add, [("a",), ("b",)]),
        (lambda x: x[x > 0], [(3,)]),
        (lambda x: x if x[0] > 0 else -x, [(3,)]),
    ],
    ids=["comparison", "division", "two names", "boolean mask", "python if"],
)
def test_what_cannot_be_traced_fails_at_save_naming_the_function(python_function, shapes, tmp_path):
    with pytest.raises(Exception) as raised:  # noqa: PT011  # JAX's own, of many kinds
        exporter.save(
            SimpleNamespace(f=declared(python_function, *shapes)),
            tmp_path / "m",
            platforms=("cpu",),
        )
    name = python_function.__name__
    told = "\n".join([str(raised.value), *getattr(raised.value, "__notes__", [])])
    assert f"tracing {name}(x: float32[" in told
    assert list(tmp_path.iterdir()) == []


def any_rank(x):
    return x + x + 1.0


class TestAnyRank:
    """`TensorSpec(shape=None)`."""

    def test_the_adder_adds_for_ranks_0_to_4_in_a_process_without_its_code(
        self, tmp_path, elsewhere
    ):
        class Adder:
            @function(input_signature=[TensorSpec(shape=None, dtype=jnp.float32)])
            def add(self, x):
                return x + x + 1.0

        exporter.save(Adder(), tmp_path / "adder")
        printed = elsewhere(
            """
import numpy as np
import exporter

model = exporter.load(sys.argv[1])
for rank in range(5):
    for shape in ((1, 2, 3, 4)[:rank], (1,) * rank, (3, 0, 2, 1)[:rank]):
        x = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
        for result in (model.add(x), model.signatures["serving_default"](x=x)["output_0"]):
            assert result.dtype == np.float32
            np.testing.assert_array_equal(result, x + x + 1)
assert float(model.add(3.0)) == 7
assert model.add([[1, 2]]).tolist() == [[3, 5]]
try:
    model.add(np.ones((1,) * 5, np.float32))
except TypeError as refused:
    print(refused)
print(model.signatures["serving_default"].signature)
print("flax" in sys.modules)
""",
            tmp_path / "adder",
        )
        assert printed.splitlines() == [
            "arguments do not fit add(x):",
            "  x: expected float32[...] with at most 4 axes, got float32[1, 1, 1, 1, 1]",
            "The signature is add(x: float32[...]) -> (output_0: float32[...]).",
            "serving_default(x: float32[...]) -> (output_0: float32[...])",
            "False",
        ]

    @pytest.mark.parametrize("most", [0, 1, 6])
    def test_the_largest_rank_can_be_chosen(self, most, reload):
        f = declared(any_rank, None, max_rank=most)
        loaded = reload(SimpleNamespace(f=f))
        x = np.ones((1,) * most, np.float32)
        for call in (loaded.f, f, f.get_concrete_function()):
            np.testing.assert_array_equal(call(x), 3 * x)
            with pytest.raises(BindError) as refused:
                call(x[None])
            ones = ", ".join(["1"] * (most + 1))
            assert refused.value.problems == (
                f"x: expected float32[...] with at most {most} axes, got float32[{ones}]",
            )

    def test_ranks_that_do_not_trace_are_left_out_with_the_reason(self, reload):
        f = declared(lambda x: x @ jnp.swapaxes(x, -1, -2), None)
        loaded = reload(SimpleNamespace(f=f))
        for shape in ((2, 3), (2, 2, 3), (1, 1, 1, 1)):
            x = floats(*shape)
            np.testing.assert_array_equal(loaded.f(x), x @ np.swapaxes(x, -1, -2))
        untraced = loaded.manifest.concrete_functions[0].untraced
        assert [list(one.ranks) for one in untraced] == [[0], [1]]
        assert all("out of bounds" in one.reason for one in untraced)
        for call in (loaded.f, loaded.signatures["serving_default"]):
            with pytest.raises(BindError) as refused:
                call(floats(3))
            assert refused.value.problems == (
                "there is no program for x with 1 axes; it has programs for 2, 3, 4 axes. Tracing "
                f"it failed with: {untraced[1].reason}",
            )

    def test_if_no_rank_traces_the_last_error_is_told(self, tmp_path):
        f = declared(lambda x: x.nothing_of_the_kind, None, max_rank=1)
        with pytest.raises(TracingError) as refused:
            exporter.save(SimpleNamespace(f=f), tmp_path / "m", platforms=("cpu",))
        assert str(refused.value).startswith(
            "<lambda> cannot be traced with any number of axes that its input_signature allows; "
            "the last attempt failed with: AttributeError: "
        )

    def test_a_result_of_one_rank_is_shown_as_such(self, signature):
        loaded = signature(total, None)
        assert str(loaded.signature) == "serving_default(x: float32[...]) -> (output_0: float32[])"
        for shape in ((), (3,), (2, 3), (1, 2, 1, 3)):
            assert float(loaded(floats(*shape))["output_0"]) == floats(*shape).sum()

    def test_several_inputs_of_any_rank_have_a_program_for_each_combination(self, reload):
        loaded = reload(SimpleNamespace(f=declared(add, None, None, max_rank=2)))
        for left, right in (((), ()), ((), (3, 2)), ((2,), ()), ((2,), (2,)), ((2, 3), (2, 3))):
            x, y = floats(*left), floats(*right)
            np.testing.assert_array_equal(loaded.f(x, y), x + y)
            result = loaded.signatures["serving_default"](y=y, x=x)["output_0"]
            np.testing.assert_array_equal(result, x + y)

    def test_sizes_that_do_not_fit_each_other_are_refused_by_name(self, reload):
        loaded = reload(SimpleNamespace(f=declared(add, None, None, max_rank=2)))
        for call in (loaded.f, loaded.signatures["serving_default"]):
            with pytest.raises(BindError) as refused:
                call(x=floats(2), y=floats(3))
            assert len(refused.value.problems) == 1
            assert refused.value.problems[0].startswith("y: expected ")
            assert refused.value.problems[0].endswith(", got float32[3]")

    def test_any_rank_and_named_axes_stand_together(self, reload):
        def f(x, y):
            return {"x": 2 * x, "y": y * y.shape[0]}

        loaded = reload(SimpleNamespace(f=declared(f, None, ("n",), max_rank=2)))
        for shape, size in (((), 1), ((2, 3), 4)):
            result = loaded.f(floats(*shape), floats(size))
            np.testing.assert_array_equal(result["x"], 2 * floats(*shape))
            np.testing.assert_array_equal(result["y"], size * floats(size))

    def test_too_many_combinations_are_refused(self, tmp_path):
        f = declared(lambda x, y, z: x + y + z, None, None, None)
        with pytest.raises(TracingError) as refused:
            exporter.save(SimpleNamespace(f=f), tmp_path / "m", platforms=("cpu",))
        assert str(refused.value) == (
            "<lambda> has 3 inputs of any rank, which makes 125 programs; at most 64 are written. "
            "Give some a shape, or a smaller TensorSpec(max_rank=...)."
        )

    def test_another_structure_for_another_rank_is_refused(self, tmp_path):
        f = declared(lambda x: x if x.ndim else {"a": x}, None, max_rank=1)
        with pytest.raises(TracingError) as refused:
            exporter.save(SimpleNamespace(f=f), tmp_path / "m", platforms=("cpu",))
        assert str(refused.value) == (
            "<lambda> returns other structures for other numbers of axes."
        )

    def test_state_is_written_back_for_every_rank(self, reload):
        class Sum:
            def __init__(self):
                self.total = Variable(jnp.float32(0))

            @function(input_signature=[TensorSpec(None, "float32", max_rank=2)])
            def add(self, x):
                self.total.value = self.total + x.sum()
                return self.total

        loaded = reload(Sum())
        for shape in ((), (2,), (2, 2)):
            loaded.add(np.ones(shape, np.float32))
        assert float(loaded.total) == 7


@dataclasses.dataclass(frozen=True)
class Sized:
    size: object


class Sizes(Sequence):
    """Looks for things with code of the standard library, as JAX's caches do with their own."""

    def __getitem__(self, index):
        return [Sized(3), Sized(4)][index]

    def __len__(self):
        return 2


def test_installed_code_may_compare_dataclasses_that_hold_sizes(reload):
    def found(x):
        assert Sizes().count(Sized(x.shape[0])) == 0
        return x * 2

    model = reload(SimpleNamespace(f=function(found, input_signature=[TensorSpec(("n",))])))
    np.testing.assert_array_equal(model.f(np.ones(3, np.float32)), 2 * np.ones(3))

    def asked(x):
        return x if Sized(x.shape[0]) == Sized(3) else 2 * x

    model = SimpleNamespace(f=function(asked, input_signature=[TensorSpec(("n",))]))
    with pytest.raises(exporter.TracingError, match="whether the size n equals 3"):
        exporter.save(model, "unused")
