"""Functions without an input signature: which traces are kept, and which one a call runs."""

import inspect
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import BindError, TensorSpec, Variable, function

X = np.array([1, 2], np.float32)
THREE = np.array([1, 2, 3], np.float32)


class Pair(NamedTuple):
    a: object
    b: object


class OtherPair(NamedTuple):
    a: object
    b: object


class Model:
    def __init__(self):
        self.bias = Variable(jnp.float32(100))
        self.count = Variable(jnp.int32(0))

    @function
    def f(self, x, n=None, flag=False):
        """Adds or doubles."""
        if flag:
            return {"flagged": x}
        return 2 * x if n is None else x + n

    @function
    def gather(self, *values, **named):
        return sum(values) + sum(named.values()) * 10

    @function
    def act(self, x, kind="relu"):
        return {"relu": lambda v: jnp.maximum(v, 0), "tanh": jnp.tanh}[kind](x)

    @function
    def pair(self, p):
        return p.a - p.b

    @function
    def nested(self, tree):
        return tree["a"] - tree["b"][0]

    @function
    def stateful(self, x):
        self.count.value = self.count + 1
        return x + self.bias


def called(model):
    model.f(X)
    model.f(THREE)
    model.f(np.arange(3, dtype=np.int32))
    model.f(X, 3)
    model.f(X, X)
    model.f(X, flag=True)
    model.f(2)
    model.gather(X, X)
    model.gather(X, k=X)
    model.gather()
    model.act(X)
    model.act(X, kind="tanh")
    model.pair(Pair(X, 2 * X))
    model.nested({"a": X, "b": [X]})
    model.stateful(X)
    model.stateful(X)
    model.stateful(THREE)
    return model


@pytest.fixture(scope="module")
def model(reload):
    return reload(called(Model()), {})


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "expected"),
    [
        ("f", (X,), {}, 2 * X),
        ("f", (X, None), {}, 2 * X),
        ("f", (X, None, False), {}, 2 * X),
        ("f", (THREE,), {}, 2 * THREE),
        ("f", (np.arange(3, dtype=np.int32),), {}, np.array([0, 2, 4], np.int32)),
        ("f", (), {"n": 3, "x": X}, X + 3),
        ("f", (X,), {"n": X}, X + X),
        ("f", (2,), {}, np.int32(4)),
        ("f", ([1.0, 2.0],), {}, 2 * X),
        ("f", ([1, 2, 3],), {}, np.array([2, 4, 6], np.int32)),
        ("gather", (X, X), {}, 2 * X),
        ("gather", (X,), {"k": X}, 11 * X),
        ("gather", (), {}, np.int32(0)),
        ("act", (-X,), {}, 0 * X),
        ("act", (-X, "relu"), {}, 0 * X),
        ("act", (X, "tanh"), {}, np.asarray(jnp.tanh(X))),
        ("pair", (Pair(X, 3 * X),), {}, -2 * X),
        ("pair", (OtherPair(X, 3 * X),), {}, -2 * X),
        ("nested", ({"b": [3 * X], "a": X},), {}, -2 * X),
        ("stateful", (X,), {}, X + 100),
        ("stateful", (THREE,), {}, THREE + 100),
    ],
)
def test_every_type_it_was_called_with_can_be_called_again(model, name, args, kwargs, expected):
    result = getattr(model, name)(*args, **kwargs)
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


def test_flagged_traces_may_return_another_structure(model):
    result = model.f(X, flag=True)
    assert list(result) == ["flagged"]
    np.testing.assert_array_equal(result["flagged"], X)


def test_name_docstring_and_parameters_are_kept(model):
    assert model.f.__name__ == "f"
    assert model.f.__doc__ == "Adds or doubles."
    assert inspect.signature(model.f) == inspect.signature(Model().f)
    assert str(inspect.signature(model.gather)) == "(*values, **named)"


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "message"),
    [
        (
            "act",
            (X, "gelu"),
            {},
            "no type of arguments that act(x, kind='relu') was saved for fits:\n"
            "  given: x: float32[2], kind: 'gelu' (str)\n"
            "  option 1: act(x: float32[2]) -> (output_0: float32[2])\n"
            "    kind: the value 'relu' is part of the saved function, got 'gelu' (str)\n"
            "  option 2: act(x: float32[2]) -> (output_0: float32[2])\n"
            "    kind: the value 'tanh' is part of the saved function, got 'gelu' (str)",
        ),
        (
            "gather",
            (X,),
            {},
            "no type of arguments that gather(*values, **named) was saved for fits:\n"
            "  given: values: (float32[2],) (tuple), named: {} (dict)\n"
            "  option 1: gather(values/0: float32[2], values/1: float32[2]) -> "
            "(output_0: float32[2])\n"
            "    values: expected (array, array), got (float32[2],) (tuple)\n"
            "  option 2: gather(values/0: float32[2], named/k: float32[2]) -> "
            "(output_0: float32[2])\n"
            "    named: expected {'k': array}, got {} (dict)\n"
            "  option 3: gather() -> (output_0: int32[])\n"
            "    values: expected (), got (float32[2],) (tuple)",
        ),
        (
            "stateful",
            (np.ones(2),),
            {},
            "no type of arguments that stateful(x) was saved for fits:\n"
            "  given: x: float64[2]\n"
            "  option 1: stateful(x: float32[2]) -> (output_0: float32[2])\n"
            "    x: expected float32[2], got float64[2]; convert it with .astype('float32') if "
            "that is meant\n"
            "  option 2: stateful(x: float32[3]) -> (output_0: float32[3])\n"
            "    x: expected float32[3], got float64[2]; convert it with .astype('float32') if "
            "that is meant",
        ),
        (
            "pair",
            ((1, 2),),
            {},
            "arguments do not fit pair(p):\n"
            "  p: expected Pair(a=array, b=array), got (1, 2) (tuple)\n"
            "The signature is pair(p/a: float32[2], p/b: float32[2]) -> (output_0: float32[2]).",
        ),
    ],
)
def test_arguments_of_no_known_type_are_refused_with_all_options(
    model, name, args, kwargs, message
):
    with pytest.raises(TypeError) as refused:
        getattr(model, name)(*args, **kwargs)
    assert isinstance(refused.value, BindError)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("args", "kwargs", "problem"),
    [
        ((X, 3.0), {}, "n: the value 3 is part of the saved function, got 3.0 (float)"),
        ((X, True), {}, "n: the value 3 is part of the saved function, got True (bool)"),
        ((X,), {"flag": 1}, "flag: the value True is part of the saved function, got 1 (int)"),
        ((2.0,), {}, "x: the value 2 is part of the saved function, got 2.0 (float)"),
        ((True,), {}, "x: the value 2 is part of the saved function, got True (bool)"),
    ],
)
def test_python_values_are_matched_by_type_and_value(model, args, kwargs, problem):
    with pytest.raises(BindError) as refused:
        model.f(*args, **kwargs)
    assert problem in refused.value.problems
    assert str(refused.value).startswith(
        "no type of arguments that f(x, n=None, flag=False) was saved for fits:\n  given: "
    )


def test_equal_values_of_other_types_are_traces_of_their_own(reload):
    class Kinds:
        @function
        def f(self, x, n):
            return x + {bool: 100, int: 10, float: 0.5}[type(n)]

    for order in ((True, 1, 1.0), (1.0, 1, True)):
        original = Kinds()
        expected = {bool: X + 100, int: X + 10, float: X + 0.5}
        for n in order:
            np.testing.assert_array_equal(original.f(X, n), expected[type(n)])
        loaded = reload(original, {})
        for n in order:
            np.testing.assert_array_equal(loaded.f(X, n), expected[type(n)])


def test_the_most_specific_trace_runs_whatever_the_order_of_recording(reload):
    class Shaped:
        @function
        def f(self, x):
            return {"sum": x.sum(), "is": jnp.int32(sum(isinstance(n, int) for n in x.shape))}

    specs = [TensorSpec((None, None)), TensorSpec(("b", 2)), TensorSpec((3, 2))]
    for order in (specs, specs[::-1]):
        original = Shaped()
        for spec in order:
            original.f.get_concrete_function(spec)
        loaded = reload(original, {})
        for shape, fixed in (((3, 2), 2), ((4, 2), 1), ((4, 5), 0), ((3, 5), 0)):
            result = loaded.f(np.ones(shape, np.float32))
            assert int(result["is"]) == fixed
            assert float(result["sum"]) == shape[0] * shape[1]


def test_traces_are_kept_for_each_object_and_made_once_for_each_type(reload):
    class Counted:
        traces = 0

        @function
        def f(self, x):
            Counted.traces += 1
            return 2 * x

    first, second = Counted(), Counted()
    for _ in range(3):
        first.f(X)
        first.f(np.asarray(X))
        first.f(jnp.asarray(X))
    assert Counted.traces == 1
    first.f(THREE)
    assert Counted.traces == 2
    loaded = reload(first, {})
    assert Counted.traces == 4
    assert [str(one.signature) for one in loaded.f.concrete] == [
        "f(x: float32[2]) -> (output_0: float32[2])",
        "f(x: float32[3]) -> (output_0: float32[3])",
    ]
    second.f(THREE)
    assert len(reload(second, {}).f.concrete) == 1


def test_a_trace_asked_for_is_kept_without_a_call(reload):
    original = Model()
    concrete = original.f.get_concrete_function(TensorSpec(("n", 2), "float32"), 5)
    assert str(concrete.signature) == "f(x: float32[n, 2]) -> (output_0: float32[n, 2])"
    assert "add" in str(concrete.jaxpr)
    with pytest.warns(UserWarning, match="was never called"):
        loaded = reload(original, {"five": concrete})
    matrix = np.ones((3, 2), np.float32)
    np.testing.assert_array_equal(loaded.f(matrix, 5), matrix + 5)
    np.testing.assert_array_equal(loaded.signatures["five"](matrix)["output_0"], matrix + 5)


def test_a_loaded_function_gives_its_traces_but_no_new_ones(model):
    concrete = model.f.get_concrete_function(TensorSpec((3,), "int32"))
    assert str(concrete.signature) == "f(x: int32[3]) -> (output_0: int32[3])"
    assert str(model.f.get_concrete_function(X, 3).signature) == (
        "f(x: float32[2]) -> (output_0: float32[2])"
    )
    with pytest.raises(BindError) as refused:
        model.f.get_concrete_function(TensorSpec((7,), "float32"))
    assert str(refused.value).startswith(
        "no type of arguments that f(x, n=None, flag=False) was saved for fits:\n  given: "
    )


def test_a_trace_held_as_an_attribute_is_called_by_its_inputs_as_before_saving(reload):
    class Holds:
        @function
        def f(self, x, training=True):
            return 2 * x if training else 3 * x

        @function
        def g(self, tree, rest):
            return tree["a"] - rest[0]

    model = Holds()
    model.c = model.f.get_concrete_function(TensorSpec((2,), name="inp"), False)
    model.d = model.g.get_concrete_function({"a": TensorSpec(())}, [TensorSpec(())])
    loaded = reload(model, {})
    again = reload(loaded, {})
    for one in (model, loaded, again):
        np.testing.assert_array_equal(one.c(X), 3 * X)
        np.testing.assert_array_equal(one.c(inp=X), 3 * X)
        assert float(one.d(5.0, 2.0)) == 3
        assert float(one.d(**{"tree/a": 5.0, "rest/0": 2.0})) == 3
        with pytest.raises(BindError, match="'f' has 1 inputs, got 2 positional values"):
            one.c(X, False)
        with pytest.raises(BindError, match="inp: given twice, by position and by keyword"):
            one.c(X, inp=X)
        with pytest.raises(BindError, match="x: not an input, the inputs are inp"):
            one.c(x=X)
    np.testing.assert_array_equal(loaded.f.get_concrete_function(X, False)(X), 3 * X)


def test_a_loaded_function_gives_its_most_specific_trace(reload):
    class Open:
        @function
        def f(self, x):
            return x * (30 if isinstance(x.shape[0], int) else 10)

    model = Open()
    model.f.get_concrete_function(TensorSpec((None,)))
    model.f.get_concrete_function(TensorSpec((3,)))
    loaded = reload(model, {})
    np.testing.assert_array_equal(loaded.f.get_concrete_function(THREE)(THREE), 30 * THREE)
    np.testing.assert_array_equal(loaded.f.get_concrete_function(TensorSpec((2,)))(X), 10 * X)


def test_a_call_that_cannot_be_traced_is_not_kept(reload):
    original = Model()
    original.f(X)
    with pytest.raises(exporter.TracingError):
        original.f("ab")
    with pytest.raises(TypeError):
        original.f(object())
    with pytest.warns(UserWarning, match="was never called"):
        loaded = reload(original, {})
    assert len(loaded.f.concrete) == 1


def test_a_variable_is_taken_as_its_value(reload):
    original = Model()
    v = Variable(X)
    np.testing.assert_array_equal(original.f(v), 2 * X)
    np.testing.assert_array_equal(original.f(X, n=v), 2 * X)
    with pytest.warns(UserWarning, match="was never called"):
        loaded = reload(original, {})
    assert len(loaded.f.concrete) == 2
    np.testing.assert_array_equal(loaded.f(v), 2 * X)


def test_types_are_remembered_for_objects_that_no_weak_reference_can_reach(reload):
    class Slotted:
        __slots__ = ("scale",)

        def __init__(self):
            self.scale = Variable(jnp.float32(3))

        @function
        def f(self, x):
            return self.scale * x

    original = Slotted()
    np.testing.assert_array_equal(original.f(X), 3 * X)
    np.testing.assert_array_equal(reload(original, {}).f(X), 3 * X)


def test_every_type_shares_the_state(reload):
    original = called(Model())
    loaded = reload(original, {})
    assert int(original.count) == int(loaded.count) == 3
    loaded.stateful(X)
    loaded.stateful(THREE)
    assert (int(original.count), int(loaded.count)) == (3, 5)
