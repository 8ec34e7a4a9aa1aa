"""How inputs are declared and named, and what defaults and Python values become."""

from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import BindError, SpecError, TensorSpec, function

X = np.array([1, 2], np.float32)
Y = np.array([10, 20], np.float32)
Z = np.array([100, 200], np.float32)
THREE = np.ones(3, np.float32)
WIDE = np.ones(2)


class Pair(NamedTuple):
    left: object
    right: object


def spec(name=None, shape=(2,), dtype="float32"):
    return TensorSpec(shape, dtype, name)


def declared(input_signature, python_function):
    return function(python_function, input_signature=input_signature)


def one(x):
    return x


def minus(x, y):
    return x - y


def rest(*values):
    return values[0] - values[1]


def first_and_rest(x, *others, scale=3):
    return x + scale * sum(others)


def by_keyword(x, *, y):
    return x - y


def any_keyword(x, **named):
    return x + named["p"] - named["q"]


# Inputs and results of one call by each way: the declaration, the function, the names of the
# inputs in order, the values by name, the arguments of a call by attribute, the result.
NAMINGS = {
    "the argument's name with its case": (
        [spec()],
        lambda X: X,  # noqa: N803  # its case is the test
        ["X"],
        [X],
        ((X,), {}),
        X,
    ),
    "a name given in the spec": ([spec("inp")], one, ["inp"], [X], ((X,), {}), X),
    "an empty name is none": ([spec("")], one, ["x"], [X], ((X,), {}), X),
    "permuted names": ([spec("y"), spec("x")], minus, ["y", "x"], [X, Y], ((X, Y), {}), X - Y),
    "names that differ in case": (
        [spec("a"), spec("A")],
        minus,
        ["a", "A"],
        [X, Y],
        ((X, Y), {}),
        X - Y,
    ),
    "names alike once sanitised": (
        [spec("a-b"), spec("a_b")],
        minus,
        ["a-b", "a_b"],
        [X, Y],
        ((X, Y), {}),
        X - Y,
    ),
    "any text is a name": (
        [spec("0 é:/x\n"), spec("_x")],
        minus,
        ["0 é:/x\n", "_x"],
        [X, Y],
        ((X, Y), {}),
        X - Y,
    ),
    "an argument called self": ([spec()], lambda self: 2 * self, ["self"], [X], ((X,), {}), 2 * X),
    "a list": (
        [[spec(), spec()]],
        lambda x: x[0] - x[1],
        ["x/0", "x/1"],
        [X, Y],
        (([X, Y],), {}),
        X - Y,
    ),
    "a tuple with one name": (
        [(spec(), spec("second"))],
        lambda x: x[0] - x[1],
        ["x/0", "second"],
        [X, Y],
        (((X, Y),), {}),
        X - Y,
    ),
    "a dict, its keys in their order": (
        [{"b": spec(), "a": spec()}],
        lambda x: x["b"] - x["a"],
        ["x/b", "x/a"],
        [X, Y],
        (({"a": Y, "b": X},), {}),
        X - Y,
    ),
    "a namedtuple": (
        [Pair(spec(), spec())],
        lambda x: x.left - x.right,
        ["x/left", "x/right"],
        [X, Y],
        ((Pair(X, Y),), {}),
        X - Y,
    ),
    "a nesting with a number for a key": (
        [{"mask": [spec(), (spec(), {"q": spec()})], 3: spec("three")}],
        lambda x: x["mask"][0] - x["mask"][1][0] + x["mask"][1][1]["q"] * x[3],
        ["x/mask/0", "x/mask/1/0", "x/mask/1/1/q", "three"],
        [X, Y, Z, X],
        (({"mask": [X, (Y, {"q": Z})], 3: X},), {}),
        X - Y + Z * X,
    ),
    "an empty container": ([[], spec()], lambda x, y: y, ["y"], [X], (([], X), {}), X),
    "*args": ([spec(), spec()], rest, ["values/0", "values/1"], [X, Y], ((X, Y), {}), X - Y),
    "*args after others": (
        [spec(), spec(), spec("last")],
        first_and_rest,
        ["x", "others/0", "last"],
        [X, Y, Z],
        ((X, Y, Z), {"scale": 3}),
        X + 3 * (Y + Z),
    ),
    "keyword-only": (
        {"x": spec(), "y": spec()},
        by_keyword,
        ["x", "y"],
        [X, Y],
        ((X,), {"y": Y}),
        X - Y,
    ),
    "by name in another order": (
        {"y": spec(), "x": spec()},
        minus,
        ["x", "y"],
        [X, Y],
        ((), {"y": Y, "x": X}),
        X - Y,
    ),
    "**kwargs": (
        {"x": spec(), "named": {"p": spec(), "q": spec()}},
        any_keyword,
        ["x", "named/p", "named/q"],
        [X, Y, Z],
        ((X,), {"q": Z, "p": Y}),
        X + Y - Z,
    ),
    "no **kwargs": ([spec()], lambda x, **named: x, ["x"], [X], ((X,), {}), X),
    "a struct in place of a spec": (
        [jax.ShapeDtypeStruct((2,), jnp.float32)],
        one,
        ["x"],
        [X],
        ((X,), {}),
        X,
    ),
    "an array in place of a spec": ([jnp.zeros(2)], one, ["x"], [X], ((X,), {}), X),
    "an argument that is not used": (
        [spec(), spec()],
        lambda x, y: x,
        ["x", "y"],
        [X, Y],
        ((X, Y), {}),
        X,
    ),
    "no arguments": ([], lambda: jnp.arange(3), [], [], ((), {}), np.arange(3)),
}


@pytest.mark.parametrize("case", list(NAMINGS))
def test_inputs_are_named_in_order_and_bound_strictly_by_name(case, reload):
    input_signature, python_function, names, values, (args, kwargs), expected = NAMINGS[case]
    original = declared(input_signature, python_function)
    model = reload(SimpleNamespace(f=original))
    signature = model.signatures["serving_default"]
    assert list(signature.signature.inputs) == names
    assert signature.structured_input_signature == ((), dict(signature.signature.inputs))
    assert [one.name for one in signature.signature.inputs.values()] == names
    by_name = dict(zip(names, values, strict=True))
    backwards = dict(reversed(by_name.items()))
    for result in (
        signature(**by_name)["output_0"],
        signature(**backwards)["output_0"],
        model.f(*args, **kwargs),
        original(*args, **kwargs),
        original.get_concrete_function()(*values),
        original.get_concrete_function()(**backwards),
    ):
        np.testing.assert_array_equal(result, expected)


def test_a_function_that_becomes_a_method_after_it_was_decorated_is_bound_as_one(reload):
    def plain(self, x):
        return self.factor * x

    class Model:
        factor = 3

    Model.f = declared([spec()], plain)
    made = type("Made", (Model,), {"f": declared({"x": spec()}, plain)})
    for model in (Model(), made()):
        np.testing.assert_array_equal(model.f(X), 3 * X)
        np.testing.assert_array_equal(reload(model).f(X), 3 * X)


def test_the_argument_name_is_no_name_once_the_spec_has_another(reload):
    model = reload(SimpleNamespace(f=declared([spec("inp")], one)))
    with pytest.raises(TypeError) as refused:
        model.signatures["serving_default"](x=X)
    assert str(refused.value) == (
        "arguments do not fit signature 'serving_default':\n"
        "  inp: missing, expected float32[2]\n"
        "  x: not an input, the inputs are inp\n"
        "The signature is serving_default(inp: float32[2]) -> (output_0: float32[2])."
    )
    np.testing.assert_array_equal(model.f(x=X), X)


def test_an_argument_that_is_not_used_is_required_and_checked(reload):
    signature = reload(SimpleNamespace(f=declared([spec(), spec()], lambda x, y: x))).signatures[
        "serving_default"
    ]
    shown = (
        "The signature is serving_default(x: float32[2], y: float32[2]) -> (output_0: float32[2])."
    )
    for values, problem in (
        ({"x": X}, "y: missing, expected float32[2]"),
        ({"x": X, "y": np.ones(3, np.float32)}, "y: expected float32[2], got float32[3]"),
    ):
        with pytest.raises(BindError) as refused:
            signature(**values)
        assert str(refused.value) == (
            f"arguments do not fit signature 'serving_default':\n  {problem}\n{shown}"
        )
        assert refused.value.problems == (problem,)


NO_SPEC = (
    "Expected a TensorSpec, a jax.ShapeDtypeStruct, an array, or a list, tuple or dict of these."
)


@pytest.mark.parametrize(
    ("input_signature", "python_function", "message"),
    [
        (
            [spec()],
            minus,
            "input_signature of minus(x, y) has no spec for 'y', which has no default either. Give "
            "one spec for each parameter, in order or as a dict by name.",
        ),
        (
            [],
            one,
            "input_signature of one(x) has no spec for 'x', which has no default either. Give one "
            "spec for each parameter, in order or as a dict by name.",
        ),
        (
            [spec()],
            by_keyword,
            "input_signature of by_keyword(x, *, y) has no spec for 'y', which has no default "
            "either. Give one spec for each parameter, in order or as a dict by name.",
        ),
        (
            [spec(), spec()],
            one,
            "input_signature of one(x) has 2 specs, 1 more than the function has positional "
            "parameters.",
        ),
        (
            [spec(), spec(), spec()],
            one,
            "input_signature of one(x) has 3 specs, 2 more than the function has positional "
            "parameters.",
        ),
        (
            {"x": spec(), "z": spec()},
            minus,
            "input_signature of minus(x, y) names 'z', which is not one of its parameters: x, y.",
        ),
        (
            spec(),
            one,
            "input_signature of one must be a list or tuple with one spec for each argument, or a "
            "dict by name, got TensorSpec(shape=(2,), dtype='float32').",
        ),
        (
            3,
            one,
            "input_signature of one must be a list or tuple with one spec for each argument, or a "
            "dict by name, got 3.",
        ),
        ([3], one, f"input_signature of one(x) has 3 (int) for 'x'. {NO_SPEC}"),
        ([None], one, f"input_signature of one(x) has None (NoneType) for 'x'. {NO_SPEC}"),
        ([(None, 2)], one, f"input_signature of one(x) has (None, 2) (tuple) for 'x'. {NO_SPEC}"),
        (["float32"], one, f"input_signature of one(x) has 'float32' (str) for 'x'. {NO_SPEC}"),
        ([float], one, f"input_signature of one(x) has {float!r} (type) for 'x'. {NO_SPEC}"),
    ],
)
def test_a_declaration_that_does_not_fit_the_function_is_refused_at_once(
    input_signature, python_function, message
):
    with pytest.raises(TypeError) as refused:
        declared(input_signature, python_function)
    assert isinstance(refused.value, BindError)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("input_signature", "where"),
    [
        ([spec("a"), spec("a")], "'a': x and y"),
        ([spec(), spec("x")], "'x': x and y"),
        ([[spec(), spec("x/0")], spec()], "'x/0': x/0 and x/1"),
    ],
)
def test_two_inputs_of_one_name_are_refused(input_signature, where):
    with pytest.raises(SpecError) as refused:
        declared(input_signature, minus)
    assert str(refused.value) == (
        f"two inputs of minus are named {where}. Name one of them otherwise, with "
        "TensorSpec(name=...)."
    )


@pytest.mark.parametrize(
    ("dtype", "narrow"),
    [
        ("float64", "float32"),
        ("int64", "int32"),
        ("uint64", "uint32"),
        ("complex128", "complex64"),
    ],
)
def test_specs_of_64_bits_are_refused_where_jax_computes_with_32(dtype, narrow):
    for input_signature, where in (
        ([spec(dtype=dtype)], "x"),
        ([{"ids": spec(dtype=dtype)}], "x/ids"),
        ([np.zeros(2, dtype)], "x"),
    ):
        with pytest.raises(SpecError) as refused:
            declared(input_signature, one)
        assert str(refused.value) == (
            f"input {where!r} is {dtype}[2], but JAX computes with {narrow} here. Declare it as "
            f"{narrow!r}, or call jax.config.update('jax_enable_x64', True) first."
        )


def test_64_bits_are_kept_with_x64_and_the_artifact_says_so_without(tmp_path, reload):
    with jax.enable_x64(True):
        model = SimpleNamespace(f=declared([spec(dtype="float64")], lambda x: x / 3))
        loaded = reload(model)
        result = loaded.f(np.array([1.0, 2.0]))
        assert result.dtype == np.float64
        np.testing.assert_array_equal(result, np.array([1.0, 2.0]) / 3)
        exporter.save(model, tmp_path / "m", platforms=("cpu",))
    with pytest.raises(exporter.IncompatibleRuntimeError) as refused:
        exporter.load(tmp_path / "m")
    assert str(refused.value) == (
        f"{tmp_path / 'm'} has 64-bit arrays, which JAX would narrow to 32 bits here. Call "
        "jax.config.update('jax_enable_x64', True) before loading, or set JAX_ENABLE_X64=1."
    )


def with_options(x, flag=False, count=3, name="q", factor=2.5, nothing=None):  # noqa: PLR0917
    return x * (100 if flag else count) * factor + len(name)


@pytest.fixture(scope="module")
def both(reload):
    """A function with defaults that no spec covers, and the loaded one."""
    original = declared([spec()], with_options)
    return original, reload(SimpleNamespace(f=original))


class TestBaked:
    """A default that no spec covers is part of the function."""

    @pytest.mark.parametrize(
        ("args", "kwargs"),
        [
            ((), {}),
            ((False,), {}),
            ((False, 3, "q", 2.5, None), {}),
            ((), {"name": "q", "count": 3}),
        ],
    )
    def test_it_may_be_left_out_or_given_again(self, both, args, kwargs):
        original, model = both
        assert list(model.signatures["serving_default"].signature.inputs) == ["x"]
        for call in (original, model.f):
            np.testing.assert_array_equal(call(X, *args, **kwargs), 7.5 * X + 1)

    @pytest.mark.parametrize(
        ("kwargs", "problems"),
        [
            (
                {"flag": True},
                ["flag: the value False is part of the saved function, got True (bool)"],
            ),
            ({"flag": 0}, ["flag: the value False is part of the saved function, got 0 (int)"]),
            ({"count": 4}, ["count: the value 3 is part of the saved function, got 4 (int)"]),
            ({"count": 3.0}, ["count: the value 3 is part of the saved function, got 3.0 (float)"]),
            (
                {"factor": X},
                ["factor: the value 2.5 is part of the saved function, got an array float32[2]"],
            ),
            (
                {"name": "z", "nothing": 0},
                [
                    "name: the value 'q' is part of the saved function, got 'z' (str)",
                    "nothing: the value None is part of the saved function, got 0 (int)",
                ],
            ),
        ],
    )
    def test_another_value_is_refused(self, both, kwargs, problems):
        original, model = both
        head = (
            "arguments do not fit with_options(x, flag=False, count=3, name='q', factor=2.5, "
            "nothing=None):"
        )
        lines = "".join(f"\n  {problem}" for problem in problems)
        for call, end in (
            (original, "The inputs are (x: float32[2])."),
            (model.f, "The signature is with_options(x: float32[2]) -> (output_0: float32[2])."),
        ):
            with pytest.raises(BindError) as refused:
                call(X, **kwargs)
            assert str(refused.value) == f"{head}{lines}\n{end}"
            assert list(refused.value.problems) == problems


def test_values_and_defaults_of_other_kinds_are_matched_by_what_they_are(reload):
    marker = object()

    def f(x, act=jnp.tanh, marker=marker):
        return act(x)

    model = reload(SimpleNamespace(f=declared([spec()], f)))
    np.testing.assert_array_equal(model.f(X), jnp.tanh(X))
    np.testing.assert_array_equal(model.signatures["serving_default"](X)["output_0"], jnp.tanh(X))
    with pytest.raises(BindError, match="marker: the value <object object at .* is part of the "):
        model.f(X, marker=object())


class TestArrayDefaults:
    """A default that is an array, with a spec and without."""

    def test_with_a_spec_it_is_an_input_that_may_be_left_out(self, reload):
        def f(x, y=Y, z=2.0):
            return x * y + z

        original = declared([spec(), spec(), spec(shape=())], f)
        model = reload(SimpleNamespace(f=original))
        signature = model.signatures["serving_default"]
        assert str(signature.signature) == (
            "serving_default(x: float32[2], y: float32[2] = default, z: float32[] = default) -> "
            "(output_0: float32[2])"
        )
        assert list(signature.signature.defaults) == ["y", "z"]
        np.testing.assert_array_equal(signature.signature.defaults["y"], Y)
        for result, expected in (
            (signature(x=X)["output_0"], X * Y + 2),
            (signature(x=X, y=Z)["output_0"], X * Z + 2),
            (signature(z=3, x=X)["output_0"], X * Y + 3),
            (model.f(X), X * Y + 2),
            (model.f(X, Z, z=1.0), X * Z + 1),
            (original(X), X * Y + 2),
            (original(X, Z), X * Z + 2),
        ):
            np.testing.assert_array_equal(result, expected)

    def test_a_nesting_of_defaults_fits_a_nesting_of_specs(self, reload):
        def f(x, weights=(1.0, [2.0])):
            return x * weights[0] + weights[1][0]

        number = spec(shape=())
        model = reload(SimpleNamespace(f=declared([spec(), (number, [number])], f)))
        signature = model.signatures["serving_default"]
        np.testing.assert_array_equal(signature(x=X)["output_0"], X + 2)
        np.testing.assert_array_equal(signature(x=X, **{"weights/1/0": 5})["output_0"], X + 5)
        np.testing.assert_array_equal(model.f(X, (3.0, [1.0])), 3 * X + 1)

    @pytest.mark.parametrize("default", [Y, jnp.asarray(Y), np.zeros(3000, np.float32)])
    def test_without_a_spec_it_is_part_of_the_function(self, default, reload):
        def f(x, y=default):
            return x + y[:2]

        original = declared([spec()], f)
        model = reload(SimpleNamespace(f=original))
        expected = X + np.asarray(default)[:2]
        other = np.array(default)
        other[len(other) // 2] = 7
        for call in (original, model.f):
            np.testing.assert_array_equal(call(X), expected)
            np.testing.assert_array_equal(call(X, default), expected)
            with pytest.raises(BindError, match="^arguments do not fit f\\(x, y="):
                call(X, other)

    def test_a_default_that_does_not_fit_its_spec_is_refused_at_once(self):
        def short(x, y=THREE):
            return x * y

        def wide(x, y=WIDE):
            return x * y

        for python_function, got in ((short, "float32[3]"), (wide, "float64[2]")):
            with pytest.raises(BindError) as refused:
                declared([spec(), spec()], python_function)
            assert str(refused.value).startswith(
                f"the default of 'y' in {python_function.__name__}"
            )
            assert f"expected float32[2], got {got}" in str(refused.value)

    def test_none_is_no_default_for_an_array(self, reload):
        def f(x, y=None):
            return x if y is None else x * y

        model = reload(SimpleNamespace(f=declared([spec(), spec()], f)))
        np.testing.assert_array_equal(model.f(X, Y), X * Y)
        with pytest.raises(BindError) as refused:
            model.f(X)
        assert str(refused.value) == (
            "arguments do not fit f(x, y=None):\n"
            "  y: expected float32[2], got None (NoneType)\n"
            "The signature is f(x: float32[2], y: float32[2]) -> (output_0: float32[2])."
        )
        with pytest.raises(BindError, match="y: missing, expected float32\\[2\\]"):
            model.signatures["serving_default"](x=X)


def test_a_narrower_type_gives_the_declared_trace_and_a_wider_one_is_refused():
    f = declared([spec(shape=("n", 2))], one)
    for types in ((), (spec(shape=(3, 2)),), (np.ones((5, 2), np.float32),)):
        assert str(f.get_concrete_function(*types).signature) == (
            "one(x: float32[n, 2]) -> (output_0: float32[n, 2])"
        )
    for wider, shown in (
        (spec(shape=(3, None)), "TensorSpec(shape=(3, None), dtype='float32')"),
        (spec(shape=(3, 2), dtype="int32"), "TensorSpec(shape=(3, 2), dtype='int32')"),
        (spec(shape=(2,)), "TensorSpec(shape=(2,), dtype='float32')"),
    ):
        with pytest.raises(BindError) as refused:
            f.get_concrete_function(wider)
        assert str(refused.value) == (
            "the types do not fit the input_signature of one:\n"
            f"  x: expected float32[n, 2], got {shown}"
        )


def test_random_keys_are_inputs_and_outputs(reload):
    def f(key, keys):
        return {"next": jax.random.split(key)[0], "drawn": jax.vmap(jax.random.normal)(keys)}

    original = declared([TensorSpec((), "key<fry>"), TensorSpec(("n",), "key<fry>")], f)
    signature = reload(SimpleNamespace(f=original)).signatures["serving_default"]
    key, keys = jax.random.key(1), jax.random.split(jax.random.key(2), 5)
    result, expected = signature(key=key, keys=keys), jax.jit(f)(key, keys)
    np.testing.assert_array_equal(
        jax.random.key_data(result["next"]), jax.random.key_data(expected["next"])
    )
    np.testing.assert_array_equal(result["drawn"], expected["drawn"])
    with pytest.raises(BindError) as refused:
        signature(key=jax.random.PRNGKey(1), keys=keys)
    assert refused.value.problems == ("key: expected key<fry>[], got uint32[2]",)
