"""The values of a call matched to a signature: what fits, what is solved, what every error says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import export

from signatures import BindError, Dim, Signature, TensorSpec
from signatures.binding import ABSENT, bind, bind_values, check_values, convert, solve

UNHURRIED = settings(deadline=None)  # the time of one example says nothing on a busy machine

FLOAT32 = "; convert it with .astype('float32') if that is meant"


def signature(*, name="f", outputs=(), defaults=None, **inputs):
    """A signature from printed specs or specs."""
    specs = {
        key: TensorSpec.parse(spec) if isinstance(spec, str) else spec
        for key, spec in inputs.items()
    }
    return Signature(
        name, specs, {key: TensorSpec.parse(text) for key, text in outputs}, defaults or {}
    )


def array(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


CLASSIFY = signature(
    name="classify",
    image="float32[batch, 3]",
    ids="int32[batch]",
    outputs=[("logits", "float32[batch, 4]")],
)


def message(of, *args, **kwargs):
    """The lines of the error for a call, without the first and the last, which are checked here."""
    with pytest.raises(BindError) as caught:
        bind(of, args, kwargs)
    first, *lines, last = str(caught.value).split("\n")
    assert first == f"arguments do not fit signature {of.name!r}:"
    assert last == f"The signature is {of}."
    assert lines == [f"  {problem}" for problem in caught.value.problems]
    return list(caught.value.problems)


# What fits.


@pytest.mark.parametrize(
    ("inputs", "shapes", "sizes"),
    [
        ({}, {}, {}),
        ({"x": "float32[]"}, {"x": ()}, {}),
        ({"x": "float32[0]"}, {"x": (0,)}, {}),
        ({"x": "float32[n]"}, {"x": (0,)}, {"n": 0}),
        ({"x": "float32[None, 3]"}, {"x": (5, 3)}, {}),
        ({"x": "float32[None, None]"}, {"x": (5, 3)}, {}),
        ({"x": "float32[...]"}, {"x": ()}, {}),
        ({"x": "float32[...]"}, {"x": (1, 2, 3, 4)}, {}),
        ({"x": "float32[n, n]"}, {"x": (2, 2)}, {"n": 2}),
        ({"x": "float32[n, m]", "y": "float32[m]"}, {"x": (2, 3), "y": (3,)}, {"n": 2, "m": 3}),
        ({"x": "float32[2*n]"}, {"x": (10,)}, {"n": 5}),
        ({"x": "float32[2*n]"}, {"x": (0,)}, {"n": 0}),
        ({"x": "float32[n + 3]"}, {"x": (3,)}, {"n": 0}),
        ({"x": "float32[n + m]", "y": "float32[m]"}, {"x": (5,), "y": (2,)}, {"n": 3, "m": 2}),
        ({"x": "float32[n*m, n]"}, {"x": (6, 2)}, {"n": 2, "m": 3}),
        ({"x": "float32[n^2]", "y": "float32[n]"}, {"x": (9,), "y": (3,)}, {"n": 3}),
        ({"x": "float32[floordiv(n, 2), n]"}, {"x": (3, 7)}, {"n": 7}),
        ({"x": "float32[a + b, b + c, c]"}, {"x": (3, 5, 4)}, {"a": 2, "b": 1, "c": 4}),
        ({"x": "float32[größe]"}, {"x": (2,)}, {"größe": 2}),
    ],
)
def test_arrays_that_fit_are_bound_and_their_names_solved(inputs, shapes, sizes):
    given_arrays = {name: array(*shape) for name, shape in shapes.items()}
    bound = bind(signature(**inputs), (), given_arrays)
    assert bound.sizes == sizes
    assert list(map(id, bound.values)) == list(map(id, given_arrays.values()))


def test_the_values_of_a_call_come_in_the_order_of_the_signature():
    bound = bind(CLASSIFY, (), {"ids": array(5, dtype="int32"), "image": array(5, 3)})
    assert [value.shape for value in bound.values] == [(5, 3), (5,)]


def test_a_single_input_may_be_given_by_position():
    only = signature(x="float32[n]")
    assert bind(only, ([1.0, 2.0],), {}).values[0].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("name", ["x/0", "class", "größe", "a b", "", "self", "signature", "args"])
def test_an_input_may_have_any_name(name):
    assert bind(signature(**{name: "float32[n]"}), (), {name: array(2)}).sizes == {"n": 2}


@pytest.mark.parametrize("library", [np, jnp])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn", "int4", "bool"])
def test_arrays_of_any_library_and_dtype_are_bound(library, dtype):
    value = library.zeros((2,), getattr(jnp, dtype))
    assert bind(signature(x=f"{dtype}[n]"), (), {"x": value}).values == (value,)


def test_inputs_left_out_take_their_defaults():
    default = np.float32(0.5) * np.ones((), np.float32)
    warm = signature(x="float32[n]", t="float32[]", defaults={"t": np.asarray(default)})
    assert bind(warm, (), {"x": [1.0]}).values[1] == 0.5
    assert bind(warm, (), {"t": 2, "x": [1.0]}).values[1] == 2.0


def test_the_sizes_of_defaults_count():
    masked = signature(x="float32[n]", mask="float32[n]", defaults={"mask": array(3)})
    assert bind(masked, (), {"x": array(3)}).sizes == {"n": 3}
    assert message(masked, x=array(2)) == [
        "mask: expected float32[n] with n=2 from x, got float32[3]"
    ]


# What does not fit.


def test_every_problem_is_listed_in_one_pass_with_the_sizes_that_are_known():
    with pytest.raises(BindError) as caught:
        bind(CLASSIFY, (), {"image": array(5, 4), "ids": array(6, dtype="int64")})
    assert str(caught.value) == (
        "arguments do not fit signature 'classify':\n"
        "  image: expected float32[batch, 3] with batch=5, got float32[5, 4]\n"
        "  ids: expected int32[batch] with batch=5, got int64[6]; convert it with "
        ".astype('int32') if that is meant\n"
        "The signature is classify(image: float32[batch, 3], ids: int32[batch]) -> "
        "(logits: float32[batch, 4])."
    )


@pytest.mark.parametrize(
    ("inputs", "values", "problems"),
    [
        # The number of axes.
        ({"x": "float32[]"}, {"x": array(1)}, ["x: expected float32[], got float32[1]"]),
        ({"x": "float32[n]"}, {"x": array()}, ["x: expected float32[n], got float32[]"]),
        ({"x": "float32[n]"}, {"x": 1.5}, ["x: expected float32[n], got float32[]"]),
        ({"x": "float32[n, 3]"}, {"x": []}, ["x: expected float32[n, 3], got float32[0]"]),
        (
            {"x": "float32[n]", "y": "float32[n]"},
            {"x": array(4, 1), "y": array(3)},
            ["x: expected float32[n] with n=3, got float32[4, 1]"],
        ),
        (
            {"x": TensorSpec(None, max_rank=2)},
            {"x": array(1, 1, 1)},
            ["x: expected float32[...] with at most 2 axes, got float32[1, 1, 1]"],
        ),
        # Sizes.
        ({"x": "float32[3]"}, {"x": array(0)}, ["x: expected float32[3], got float32[0]"]),
        ({"x": "float32[0]"}, {"x": array(3)}, ["x: expected float32[0], got float32[3]"]),
        (
            {"x": "float32[n, n]"},
            {"x": array(2, 3)},
            ["x: expected float32[n, n] with n=2, got float32[2, 3]"],
        ),
        (
            {"x": "float32[n]", "y": "int32[n, m]"},
            {"x": array(5), "y": array(6, 2, dtype="int32")},
            ["y: expected int32[n, m] with n=5 from x, m=2, got int32[6, 2]"],
        ),
        (
            {"x": "float32[n, 3]", "y": "float32[n]"},
            {"x": array(5, 4), "y": array(6)},
            # The array that fits otherwise is believed.
            ["x: expected float32[n, 3] with n=6 from y, got float32[5, 4]"],
        ),
        (
            {"x": "float32[n]", "y": "float32[n]", "z": "float32[n]"},
            {"x": array(1), "y": array(2), "z": array(3)},
            [
                "y: expected float32[n] with n=1 from x, got float32[2]",
                "z: expected float32[n] with n=1 from x, got float32[3]",
            ],
        ),
        # Arithmetic.
        (
            {"x": "float32[2*n]"},
            {"x": array(7)},
            ["x: expected float32[2*n], got float32[7]; no n was found for which 2*n is 7"],
        ),
        (
            {"x": "float32[n + 3]"},
            {"x": array(2)},
            ["x: expected float32[n + 3], got float32[2]; no n was found for which n + 3 is 2"],
        ),
        (
            {"x": "float32[n^2]"},
            {"x": array(9)},
            ["x: expected float32[n^2], got float32[9]; no n was found for which n^2 is 9"],
        ),
        (
            {"x": "float32[n + m]"},
            {"x": array(9)},
            [
                "x: expected float32[m + n], got float32[9]; no m and n were found for which m + n "
                "is 9"
            ],
        ),
        (
            {"x": "float32[2*n]", "y": "float32[n]"},
            {"x": array(7), "y": array(3)},
            ["x: expected float32[2*n] with n=3 from y, got float32[7]"],
        ),
        (
            {"x": "float32[2*n]", "y": "float32[3*n]"},
            {"x": array(10), "y": array(14)},
            ["y: expected float32[3*n] with n=5 from x, got float32[14]"],
        ),
        (
            {"x": "float32[n, floordiv(6, n)]"},
            {"x": array(0, 3)},
            ["x: expected float32[n, floordiv(6, n)] with n=0, got float32[0, 3]"],
        ),
        (
            {"x": "float32[n, m*floordiv(6, n)]"},
            {"x": array(0, 3)},
            [
                "x: expected float32[n, floordiv(6, n)*m] with n=0, got float32[0, 3]; no m was "
                "found for which floordiv(6, n)*m is 3"
            ],
        ),
        # Bounds.
        (
            {"x": TensorSpec((Dim("n", max=4), 3))},
            {"x": array(5, 3)},
            ["x: expected float32[n, 3] where n is at most 4, got float32[5, 3] with n=5"],
        ),
        (
            {"x": TensorSpec((Dim("n", min=4, multiple_of=4),))},
            {"x": array(2)},
            [
                "x: expected float32[n] where n is at least 4 and a multiple of 4, got float32[2] "
                "with n=2"
            ],
        ),
        (
            {"x": TensorSpec((Dim("n", min=1), Dim("m", max=1)))},
            {"x": array(0, 2)},
            [
                "x: expected float32[n, m] where n is at least 1 and m is at most 1, got "
                "float32[0, 2] with n=0, m=2"
            ],
        ),
        (
            {"x": TensorSpec((Dim("n", max=4),)), "y": "float32[2*n]"},
            {"x": array(5), "y": array(10)},
            [
                "x: expected float32[n] where n is at most 4, got float32[5] with n=5",
                "y: expected float32[2*n] where n is at most 4, got float32[10] with n=5",
            ],
        ),
        (
            {"x": TensorSpec(("2*n",)).with_bounds((Dim("n", max=4),))},
            {"x": array(10)},
            ["x: expected float32[2*n] where n is at most 4, got float32[10] with n=5"],
        ),
        # What values of a call say about each other, and about what is not there.
        (
            {"x": "float32[n]", "y": "int32[n]"},
            {"y": "a", "x": array(3)},
            ["y: expected int32[n] with n=3, got 'a' (str)"],
        ),
        ({"x": "float32[n]"}, {}, ["x: missing, expected float32[n]"]),
        (
            {"x": "float32[n]", "y": "int32[n]", "z": "float32[n]"},
            {"z": array(3, 3), "w": 1, "y": array(2, dtype="int32"), "größe": 2},
            [
                "x: missing, expected float32[n] with n=2",
                "z: expected float32[n] with n=2, got float32[3, 3]",
                "w: not an input, the inputs are x, y, z",
                "größe: not an input, the inputs are x, y, z",
            ],
        ),
        ({}, {"x": 1}, ["x: not an input, the inputs are none"]),
        (
            {"x": "float32[n]"},
            {"X": array(2), "x": array(2)},
            ["X: not an input, the inputs are x"],
        ),
    ],
)
def test_what_does_not_fit_is_named_with_what_was_expected_and_found(inputs, values, problems):
    assert message(signature(**inputs), **values) == problems


def test_a_missing_input_is_listed_although_another_has_a_default():
    both = signature(x="float32[n]", t="float32[]", defaults={"t": array()})
    assert message(both, t="a") == [
        "x: missing, expected float32[n]",
        "t: expected float32[], got 'a' (str)",
    ]


def test_an_input_given_twice_is_refused():
    only = signature(x="float32[n]")
    assert message(only, array(2), x=array(2), y=1) == [
        "x: given twice, by position and by keyword",
        "y: not an input, the inputs are x",
    ]


@pytest.mark.parametrize(
    ("inputs", "args", "text"),
    [
        (
            {"x": "float32[]", "y": "float32[]"},
            (1, 2),
            "signature 'f' takes its inputs by keyword, got 2 positional values. Name each one, as "
            "in (x=..., y=...).\nThe signature is f(x: float32[], y: float32[]) -> ().",
        ),
        (
            {"x": "float32[]", "y": "float32[]"},
            (1,),
            "signature 'f' takes its inputs by keyword, got 1 positional value. Name each one, as "
            "in (x=..., y=...).\nThe signature is f(x: float32[], y: float32[]) -> ().",
        ),
        (
            {"x": "float32[]"},
            (1, 2),
            "signature 'f' takes its inputs by keyword, got 2 positional values. Name each one, as "
            "in (x=...).\nThe signature is f(x: float32[]) -> ().",
        ),
        (
            {"x/0": "float32[]", "class": "float32[]"},
            (1,),
            "signature 'f' takes its inputs by keyword, got 1 positional value. Name each one, as "
            "in (**{'x/0': ..., 'class': ...}).\n"
            "The signature is f(x/0: float32[], class: float32[]) -> ().",
        ),
        (
            {},
            (1,),
            "signature 'f' has no inputs, got 1 positional value.\nThe signature is f() -> ().",
        ),
    ],
)
def test_several_inputs_are_not_taken_by_position(inputs, args, text):
    with pytest.raises(BindError) as caught:
        bind(signature(**inputs), args, {})
    assert str(caught.value) == text
    assert caught.value.problems == ()


def test_the_values_of_the_caller_are_left_alone():
    values = {"image": array(5, 3).tolist(), "ids": [1, 2, 3, 4, 5]}
    before = {name: list(value) for name, value in values.items()}
    bind(CLASSIFY, (), values)
    with pytest.raises(BindError):
        bind(CLASSIFY, (), values | {"other": 1})
    assert values == before


# The parts that other rooms use.


def test_values_in_order_are_bound_as_named_ones_are():
    assert bind_values(CLASSIFY, [array(5, 3), [1] * 5]).sizes == {"batch": 5}
    with pytest.raises(BindError, match="ids: expected int32"):
        bind_values(CLASSIFY, [array(5, 3), [1] * 4])


def test_a_value_that_is_known_to_be_absent_is_not_reported_again():
    bound, problems = check_values(CLASSIFY, [ABSENT, [1, 2]])
    assert (bound.sizes, problems) == ({"batch": 2}, [])
    assert bound.values[0] is ABSENT
    _, problems = check_values(CLASSIFY, [array(2, 4), ABSENT])
    assert problems == ["image: expected float32[batch, 3] with batch=2, got float32[2, 4]"]


@pytest.mark.parametrize(
    ("value", "spec", "text"),
    [
        (array(2), "int32[n]", "expected int32[n], got float32[2]; convert it with "
         ".astype('int32') if that is meant"),
        (array(2, 2), "float32[n]", "expected float32[n], got float32[2, 2]"),
        ([[1]], "float32[n]", "expected float32[n], got [[1]] (list), nested more than 1 deep"),
        ([1.0], "float32[]", "expected float32[], got [1.0] (list)"),
        (array(1, 1, 1, 1, 1), "float32[...]", "expected float32[...] with at most 4 axes, got "
         "float32[1, 1, 1, 1, 1]"),
    ],
)  # fmt: skip
def test_one_value_that_does_not_fit_its_spec_says_why(value, spec, text):
    with pytest.raises(BindError) as caught:
        convert(value, TensorSpec.parse(spec))
    assert str(caught.value) == text


def test_one_value_that_fits_its_spec_is_an_array_of_it():
    assert convert([1, 2], TensorSpec(("n",))).dtype == np.float32
    assert convert(array(7), TensorSpec((3,))).shape == (7,)  # sizes are not its question


@pytest.mark.parametrize(
    ("pairs", "sizes", "problems"),
    [
        ([], {}, []),
        ([("float32[n]", (3,))], {"n": 3}, [None]),
        ([("float32[n]", (3,)), ("float32[n]", (4,))], {"n": 3},
         [None, "expected float32[n] with n=3"]),
        ([("float32[n*n]", (4,))], {}, ["expected float32[n^2]"]),
        ([("float32[...]", ())], {}, [None]),
    ],
)  # fmt: skip
def test_sizes_are_solved_from_shapes_alone(pairs, sizes, problems):
    shapes = [(TensorSpec.parse(text), shape) for text, shape in pairs]
    assert solve(shapes) == (sizes, problems)


# Laws.

dtypes = st.sampled_from(["float32", "int8", "bool", "bfloat16", "float8_e5m2", "int4"])
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
some_arrays = st.builds(lambda shape, dtype: np.zeros(shape, getattr(jnp, dtype)), shapes, dtypes)


@UNHURRIED
@given(some_arrays, some_arrays)
def test_bind_accepts_exactly_the_arrays_that_a_spec_describes(value, other):
    exact = Signature("f", {"x": TensorSpec.of(value)}, {})
    assert bind(exact, (value,), {}).values == (value,)
    if TensorSpec.of(other) == TensorSpec.of(value):
        bind(exact, (other,), {})
    else:
        with pytest.raises(BindError):
            bind(exact, (other,), {})


names = st.sampled_from(["a", "b", "c"])
axes = st.one_of(
    st.none(),
    st.integers(0, 3),
    names,
    st.builds("{}*{} + {}".format, st.integers(1, 3), names, st.integers(0, 2)),
    st.builds("{} + {}".format, names, names),
    st.builds("floordiv({}, 2)".format, names),
)
spec_lists = st.lists(st.lists(axes, max_size=3).map(TensorSpec), min_size=1, max_size=4)
all_sizes = st.fixed_dictionaries({name: st.integers(0, 4) for name in "abc"})


def of_sizes(spec, sizes, free):
    return tuple(
        free if axis is None else size
        for axis, size in zip(spec.shape, spec.evaluate(sizes), strict=True)
    )


@UNHURRIED
@given(spec_lists, all_sizes, st.integers(0, 3))
def test_shapes_made_for_some_sizes_bind_to_those_sizes(specs, sizes, free):
    made = Signature("f", {f"x{i}": spec for i, spec in enumerate(specs)}, {})
    values = [array(*of_sizes(spec, sizes, free)) for spec in specs]
    bound, problems = check_values(made, values)
    # Nothing but names that cannot be told from these axes keeps them from fitting.
    assert all(" found for which " in problem for problem in problems)
    if not problems:
        assert bound.sizes == {name: sizes[name] for name in made.dims}


@UNHURRIED
@given(spec_lists, st.data())
def test_whatever_is_bound_fits_and_whatever_is_refused_has_a_reason(specs, data):
    made = Signature("f", {f"x{i}": spec for i, spec in enumerate(specs)}, {})
    shape = st.integers(0, 4)
    values = [array(*(data.draw(shape) for _ in spec.shape)) for spec in specs]
    bound, problems = check_values(made, values)
    solved, found = solve([(spec, value.shape) for spec, value in zip(specs, values, strict=True)])
    assert bool(problems) == any(found)
    if not problems:
        assert bound.sizes == solved
        for spec, value in zip(specs, values, strict=True):
            for size, wanted, axis in zip(
                value.shape, spec.evaluate(bound.sizes), spec.shape, strict=True
            ):
                assert axis is None or size == wanted


@UNHURRIED
@given(st.permutations(["x", "y", "z"]), st.integers(0, 4))
def test_the_order_of_keywords_does_not_matter(order, size):
    inputs = {"x": "float32[n]", "y": "int32[n, 2]", "z": "bool[...]"}
    values = {"x": array(size), "y": array(size, 2, dtype="int32"), "z": array(dtype="bool")}
    bound = bind(signature(**inputs), (), {name: values[name] for name in order})
    assert bound.values == tuple(values.values())


@UNHURRIED
@given(st.lists(st.floats(width=32), max_size=4), st.integers(0, 4))
def test_a_list_binds_as_the_array_that_numpy_makes_of_it(numbers, size):
    assume(len(numbers) != size)
    two = signature(x="float32[n]", y="float32[n]")
    as_list = bind(two, (), {"x": numbers, "y": numbers}).values[0]
    np.testing.assert_array_equal(as_list, np.array(numbers, np.float32))
    assert message(two, x=numbers, y=array(size)) == [
        f"y: expected float32[n] with n={len(numbers)} from x, got float32[{size}]"
    ]


# Inside of traces of JAX.


def test_traced_arrays_are_bound_and_refused_as_others_are():
    def called(image, ids):
        bound = bind(CLASSIFY, (), {"image": image, "ids": ids})
        assert bound.sizes == {"batch": 5}
        assert bound.values[0] is image
        return message(CLASSIFY, image=ids, ids=image)

    image, ids = jnp.zeros((5, 3)), jnp.zeros(5, jnp.int32)
    found = []
    jax.jit(lambda x, y: found.append(called(x, y)))(image, ids)
    jax.vmap(lambda x, y: found.append(called(x, y)))(image[None], ids[None])
    assert found[0] == found[1] == [
        f"image: expected float32[batch, 3], got int32[5]{FLOAT32}",
        "ids: expected int32[batch], got float32[5, 3]; convert it with .astype('int32') if that "
        "is meant",
    ]  # fmt: skip


def test_symbolic_sizes_are_bound_as_they_are():
    found = []

    def called(x, y):
        bounded = signature(x=TensorSpec((Dim("m", max=8, multiple_of=2), 3)), y="float32[2*m + 1]")
        found.append(bind(bounded, (), {"x": x, "y": y}).sizes)
        solvable = signature(y="float32[2*k + 1]")
        found.append(bind(solvable, (y,), {}).sizes)
        found.append(message(signature(x="float32[m, 4]"), x=x))
        return x

    n, twice = export.symbolic_shape("n, 2*n + 1")
    export.export(jax.jit(called))(
        jax.ShapeDtypeStruct((n, 3), "float32"), jax.ShapeDtypeStruct((twice,), "float32")
    )
    assert [str(found[0]["m"]), str(found[1]["k"])] == ["n", "n"]
    assert found[2] == ["x: expected float32[m, 4] with m=n, got float32[n, 3]"]
