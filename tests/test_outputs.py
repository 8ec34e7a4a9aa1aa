"""What a function may return: as a signature a flat set of names, as an attribute any structure."""

import functools
from collections import OrderedDict
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import TensorSpec, TracingError, Variable, function

SPEC = TensorSpec((2,), "float32", "x")
X = np.array([1, 2], np.float32)


class Pair(NamedTuple):
    right: object
    left: object


def declared(python_function):
    return function(python_function, input_signature=[SPEC])


# What a signature may return: the function, and its outputs by name in order.
FLAT = {
    "one array": (lambda x: 2 * x, {"output_0": 2 * X}),
    "a list of one": (lambda x: [2 * x], {"output_0": 2 * X}),
    "a list": (lambda x: [x, x + 1, x], {"output_0": X, "output_1": X + 1, "output_2": X}),
    "a tuple": (lambda x: (x, x + 1), {"output_0": X, "output_1": X + 1}),
    "twelve": (lambda x: [x + n for n in range(12)], {f"output_{n}": X + n for n in range(12)}),
    "a dict": (lambda x: {"b": x, "a": x + 1}, {"b": X, "a": X + 1}),
    "a dict of odd keys": (
        lambda x: {"c/d e": x, "é": x + 1, "": x + 2, "None": x + 3},
        {"c/d e": X, "é": X + 1, "": X + 2, "None": X + 3},
    ),
    "many keys": (
        lambda x: {f"k{n}": x + n for n in (9, 2, 10, 1)},
        {f"k{n}": X + n for n in (9, 2, 10, 1)},
    ),
    "an ordered dict": (lambda x: OrderedDict(z=x, a=x + 1), {"z": X, "a": X + 1}),
    "a namedtuple": (lambda x: Pair(x, x + 1), {"right": X, "left": X + 1}),
    "an input passed through": (lambda x: x, {"output_0": X}),
    "the same array twice": (
        lambda x: [x + 1] * 2,
        {"output_0": X + 1, "output_1": X + 1},
    ),
    "Python scalars": (
        lambda x: {"i": 3, "f": 2.5, "b": True, "c": 1 + 2j, "x": x},
        {
            "i": np.int32(3),
            "f": np.float32(2.5),
            "b": np.bool_(True),
            "c": np.complex64(1 + 2j),
            "x": X,
        },
    ),
    "NumPy arrays and scalars": (
        lambda x: [np.arange(3), np.ones(2), np.int64(5), np.float32(7)],
        {
            "output_0": np.arange(3, dtype=np.int32),
            "output_1": np.ones(2, np.float32),
            "output_2": np.int32(5),
            "output_3": np.float32(7),
        },
    ),
    "a constant": (lambda x: jnp.arange(3), {"output_0": np.arange(3, dtype=np.int32)}),
    "a shape": (lambda x: x.shape, {"output_0": np.int32(2)}),
    "a new Variable": (lambda x: Variable(x + 1), {"output_0": X + 1}),
}


@pytest.mark.parametrize("case", list(FLAT))
def test_a_signature_returns_its_outputs_by_name_in_the_order_declared(case, reload):
    python_function, expected = FLAT[case]
    model = reload(SimpleNamespace(f=declared(python_function)))
    signature = model.signatures["serving_default"]
    result = signature(x=X)
    assert type(result) is dict
    assert list(result) == list(signature.structured_outputs) == list(expected)
    for name, value in expected.items():
        assert isinstance(result[name], jax.Array)
        assert result[name].dtype == value.dtype
        np.testing.assert_array_equal(result[name], value)
        assert signature.structured_outputs[name] == TensorSpec(value.shape, value.dtype, name)


# What an attached function may return besides, and its outputs with NumPy's arrays in them.
NESTED = {
    "None": (lambda x: None, None),
    "None beside arrays": (
        lambda x: {"a": x, "b": None, "c": [None, x]},
        {"a": X, "b": None, "c": [None, X]},
    ),
    "deep": (
        lambda x: {"a": [x, (x + 1, {"z": x})], "n": Pair(x, None)},
        {"a": [X, (X + 1, {"z": X})], "n": Pair(X, None)},
    ),
    "a list of dicts": (lambda x: [{"a": x}, {"a": x + 1}], [{"a": X}, {"a": X + 1}]),
    "empty": (lambda x: {"l": [], "d": {}, "t": ()}, {"l": [], "d": {}, "t": ()}),
    "keys that are not text": (
        lambda x: {1: x, "1": x + 1, 2.5: x + 2, None: x + 3, False: x + 4},
        {1: X, "1": X + 1, 2.5: X + 2, None: X + 3, False: X + 4},
    ),
    "paths alike once written": (
        lambda x: {"a/b": x, "a": {"b": x + 1}},
        {"a/b": X, "a": {"b": X + 1}},
    ),
}


def assert_same(found, expected):
    if isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected)
        return
    if hasattr(expected, "_fields"):
        assert type(found).__name__ == type(expected).__name__
        assert found._fields == expected._fields
    else:
        assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert [(type(key), key) for key in found] == [(type(key), key) for key in expected]
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for left, right in zip(found, expected, strict=True):
            assert_same(left, right)
    else:
        assert found == expected


def with_shapes(value):
    """The same structure with the shape of each array or spec in its place, as text."""
    if hasattr(value, "shape"):
        return str(tuple(value.shape))
    if isinstance(value, dict):
        return {key: with_shapes(item) for key, item in value.items()}
    if hasattr(value, "_fields"):
        return type(value)(*map(with_shapes, value))
    return type(value)(map(with_shapes, value)) if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("case", list(NESTED))
def test_an_attached_function_returns_its_structure_exactly(case, reload):
    python_function, expected = NESTED[case]
    original = declared(python_function)
    model = reload(SimpleNamespace(f=original), {})
    assert_same(original(X), expected)
    assert_same(model.f(X), expected)
    assert_same(with_shapes(model.f.structured_outputs), with_shapes(expected))


def leaves(value):
    return jax.tree.leaves(dict(value) if isinstance(value, dict) else value)


@pytest.mark.parametrize("case", [case for case in FLAT if case != "a new Variable"])
def test_an_attached_function_returns_what_the_original_does_under_jit(case, reload):
    python_function, _ = FLAT[case]
    expected = jax.jit(python_function)(X)
    model = reload(SimpleNamespace(f=declared(python_function)), {})
    for result in (declared(python_function)(X), model.f(X)):
        if isinstance(expected, dict):  # jax.jit sorts the keys
            assert isinstance(result, dict)
            assert set(result) == set(expected)
        else:
            assert type(result).__name__ == type(expected).__name__
        for found, wanted in zip(leaves(result), leaves(expected), strict=True):
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)


def test_a_namedtuple_has_its_fields_by_name_without_the_class(reload):
    result = reload(SimpleNamespace(f=declared(lambda x: Pair(x, left=x + 1))), {}).f(X)
    assert type(result) is not Pair
    assert (type(result).__name__, result._fields) == ("Pair", ("right", "left"))
    np.testing.assert_array_equal(result.left, X + 1)


def test_variables_of_the_object_are_returned_as_arrays(reload):
    class Model:
        def __init__(self):
            self.v = Variable(jnp.array([3.0, 4.0]))
            self.a = jnp.arange(2.0)

        @function(input_signature=[SPEC])
        def f(self, x):
            return {"v": self.v, "n": [self.v, self.a, x]}

    for model in (Model(), reload(Model(), {})):
        result = model.f(X)
        assert_same(result, {"v": np.array([3, 4]), "n": [np.array([3, 4]), np.arange(2), X]})
        assert isinstance(result["v"], jax.Array)


def test_a_function_may_only_change_state_and_return_nothing(reload):
    class Model:
        def __init__(self):
            self.total = Variable(jnp.zeros(2))

        @function(input_signature=[SPEC])
        def add(self, x):
            self.total.value = self.total + x

    for model in (Model(), reload(Model(), {})):
        assert model.add(X) is None
        assert model.add(X) is None
        np.testing.assert_array_equal(model.total, 2 * X)


@pytest.mark.parametrize(
    ("python_function", "shown"),
    [
        (lambda x: "s", "'s'"),
        (lambda x: {"a": "s"}, "'s'"),
        (lambda x: [x, b"q"], "b'q'"),
        (lambda x: {1}, "{1}"),
        (lambda x: x.dtype, "dtype('float32')"),
        (lambda x: range(3), "range(0, 3)"),
        (lambda x: (x, jnp.float32), "<class 'jax.numpy.float32'>"),
    ],
)
def test_what_is_no_array_cannot_be_returned(python_function, shown, tmp_path):
    f = declared(python_function)
    for attempt in (
        lambda: f(X),
        lambda: exporter.save(SimpleNamespace(f=f), tmp_path / "m", platforms=("cpu",)),
    ):
        with pytest.raises(TracingError) as refused:
            attempt()
        assert str(refused.value) == (
            f"the function returns {shown}, which is not an array. It may return arrays, numbers "
            "and None, in lists, tuples and dicts."
        )
        assert "This happened while tracing <lambda>(x: float32[2])." in refused.value.__notes__


def test_a_key_that_is_neither_text_nor_number_cannot_be_returned(tmp_path):
    f = declared(lambda x: {(1, 2): x})
    with pytest.raises(TracingError) as refused:
        exporter.save(SimpleNamespace(f=f), tmp_path / "m", {}, platforms=("cpu",))
    assert "(1, 2)" in str(refused.value)
    assert not (tmp_path / "m").exists()


def test_a_function_with_no_result_at_all_may_be_empty_in_a_signature(reload):
    for python_function, empty in ((lambda x: {}, {}), (lambda x: [], []), (lambda x: (), ())):
        f = declared(python_function)
        model = reload(SimpleNamespace(f=f), {"s": f})
        assert model.signatures["s"](x=X) == {}
        assert_same(model.f(X), empty)


@pytest.mark.parametrize(
    "python_function",
    [
        jnp.sin,
        jax.jit(lambda x: x * 2),
        jax.checkpoint(lambda x: jnp.sin(x) * 2),
        jax.nn.gelu,
        functools.partial(jnp.multiply, 3),
        lambda x: jax.lax.while_loop(lambda y: y.sum() < 100, lambda y: 2 * y, x),
        lambda x: jax.lax.fori_loop(0, 3, lambda i, y: y + i, x),
        lambda x: jax.lax.scan(lambda total, y: (total + y, total), jnp.float32(0), x),
        lambda x: jax.lax.cond(x.sum() > 2, jnp.sin, jnp.cos, x),
        jax.vmap(lambda y: y**2),
        jax.grad(lambda x: (x**3).sum()),
        lambda x: [y + 1 for y in x],
    ],
)
def test_whatever_jax_can_trace_gives_what_jit_gives(python_function, reload):
    expected = jax.jit(python_function)(X)
    f = function(python_function, input_signature=[TensorSpec((2,), "float32")])
    loaded = reload(SimpleNamespace(f=f), {})
    for found, wanted in zip(leaves(loaded.f(X)), leaves(expected), strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


def test_printing_is_dropped_with_a_warning(tmp_path):
    def f(x):
        jax.debug.print("x is {}", x)
        return jax.lax.fori_loop(0, 2, lambda i, y: (jax.debug.print("{}", i), y + 1)[1], x)

    with pytest.warns(UserWarning, match="print") as caught:
        exporter.save(SimpleNamespace(f=declared(f)), tmp_path / "m", platforms=("cpu",))
    assert "f" in str(caught[0].message).split()
    np.testing.assert_array_equal(exporter.load(tmp_path / "m").f(X), X + 2)


@pytest.mark.parametrize(
    "python_function",
    [
        lambda x: jax.pure_callback(np.sin, x, x),
        jax.jit(lambda x: jax.pure_callback(np.sin, x, x)),
        lambda x: jax.lax.fori_loop(0, 2, lambda i, y: jax.pure_callback(np.sin, y, y), x),
    ],
)
def test_a_call_back_into_python_is_refused_with_its_place(python_function, tmp_path):
    f = declared(python_function)
    with pytest.raises(exporter.LoweringError) as refused:
        exporter.save(SimpleNamespace(f=f), tmp_path / "m", platforms=("cpu",))
    assert str(refused.value).startswith(
        "<lambda> calls back into Python, which a program without its Python code cannot do: "
        f"pure_callback at {__file__}:"
    )
    assert str(refused.value).endswith("Remove the call, or return the value and use it outside.")
    assert list(tmp_path.iterdir()) == []
