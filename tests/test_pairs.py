"""A plain function and its parameters, and the values that an input signature bakes in."""

import functools
import inspect
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import BindError, ResolveError, TensorSpec, TrackingError, Variable, function

X = np.arange(6, dtype=np.float32).reshape(3, 2)
ROWS = TensorSpec(("batch", 2), "float32")


class Layer(NamedTuple):
    w: jax.Array
    b: jax.Array


def dense(params, x):
    """One layer."""
    return x @ params["w"] + params["b"]


def deep(params, x):
    for layer in params["layers"]:
        x = jnp.tanh(x @ layer.w + layer.b)
    return x * params["scale"]


def numbered(params, x):
    return x @ params[0] + params[1]["1"]


def by_number(params, x):
    return x @ params[10][2] + params[9]


def several(params, x, y=None, *rest, factor=1.0):
    return {"x": x * params, "y": y, "rest": [one + factor for one in rest]}


W, B = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([0.5, -0.5])
NESTED = {
    "layers": [Layer(W, B), Layer(W * 2, B * 2)],
    "scale": np.float32(2) * np.ones(2, "float32"),
}


@pytest.mark.parametrize(
    ("apply", "params", "paths"),
    [
        (dense, {"w": W, "b": B}, {"w": 4, "b": 2}),
        (jax.jit(dense), {"w": W, "b": B}, {"w": 4, "b": 2}),
        (jax.vmap(dense, (None, 0)), {"w": W, "b": B}, {"w": 4, "b": 2}),
        (
            deep,
            NESTED,
            {"layers": {"0": {"w": 4, "b": 2}, "1": {"w": 4, "b": 2}}, "scale": 2},
        ),
        (numbered, (W, {"1": B}), {"0": 4, "1": {"1": 2}}),
        (numbered, [W, {"1": B}], {"0": 4, "1": {"1": 2}}),
        (by_number, {10: {2: W}, 9: B}, {"10": {"2": 4}, "9": 2}),
        (lambda w, x: x * w, B, 2),
        (lambda w, x: x * w["b"].value, {"b": Variable(B)}, {"b": 2}),
    ],
)
def test_a_function_and_its_parameters(apply, params, paths, reload):
    loaded = reload((apply, params), input_signature=[ROWS])
    wanted = jax.jit(apply)(params, X) if "Variable" not in str(params) else X * B
    signature = loaded.signatures["serving_default"]
    for found in (loaded(X), loaded(x=X), signature(x=X)["output_0"]):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert jax.tree.map(np.size, loaded.variables) == {"params": paths}
    assert jax.tree.map(np.size, loaded.trainable_variables) == {"params": paths}


def test_parameters_are_what_they_were_after_saving(reload):
    params = {"layers": [{"w": W}], "b": B}
    reload((lambda p, x: x @ p["layers"][0]["w"] + p["b"], params), input_signature=[ROWS])
    assert params["layers"][0]["w"] is W
    assert params["b"] is B


def test_name_docstring_and_every_kind_of_argument_are_kept(reload):
    loaded = reload((dense, {"w": W, "b": B}), input_signature=[ROWS])
    assert loaded.manifest.nodes[0].name == "dense"
    assert loaded.__call__.__doc__ == "One layer."
    assert str(inspect.signature(loaded.__call__)) == "(x)"
    specs = [TensorSpec((2,), "float32")] * 4
    loaded = reload((several, B), {}, input_signature=specs)
    found = loaded(X[0], X[1], X[2], X[2])
    wanted = several(B, X[0], X[1], X[2], X[2])
    assert jax.tree.all(jax.tree.map(np.array_equal, found, wanted))
    assert str(inspect.signature(loaded.__call__)) == "(x, y=None, *rest, factor=1.0)"


@functools.partial(jax.jit, static_argnames="train")
def jitted(params, x, train=True):
    return x + params if train else x - params


@pytest.mark.parametrize(
    ("apply", "inputs", "wanted"),
    [
        (jitted, [ROWS], X + B),
        (jitted, {"x": ROWS}, X + B),
        (jitted, {"x": ROWS, "train": False}, X - B),
        (functools.partial(jitted, train=False), [ROWS], X - B),
        (jax.checkpoint(lambda p, x, *, add=True: x + p if add else x - p), [ROWS], X + B),
    ],
)
def test_flags_reach_compiled_functions_as_flags(apply, inputs, wanted, reload):
    np.testing.assert_array_equal(reload((apply, B), input_signature=inputs)(X), wanted)


def test_a_rng_key_is_an_input_like_any(reload):
    def noisy(params, x, key):
        return x * params + jax.random.normal(key, x.shape)

    loaded = reload((noisy, B), input_signature=[ROWS, TensorSpec((), "key<fry>")])
    key = jax.random.key(3)
    np.testing.assert_allclose(loaded(X, key), jax.jit(noisy)(B, X, key), rtol=1e-6)


def nothing():
    return jnp.zeros(())


def only_keywords(*, x):
    return x


@pytest.mark.parametrize(
    ("model", "inputs", "kind", "message"),
    [
        (
            (dense, {}),
            None,
            ResolveError,
            "a model apart from its parameters is saved as its forward pass. Pass input_signature= "
            "with a spec for each of its inputs, in order or as a dict by name.",
        ),
        (
            (nothing, {}),
            [],
            TrackingError,
            "nothing() was paired with parameters, but has no positional parameter for them. Save "
            "(function, parameters), where function(parameters, *inputs) is the forward pass.",
        ),
        (
            (only_keywords, {}),
            [ROWS],
            TrackingError,
            "only_keywords(*, x) was paired with parameters, but has no positional parameter for "
            "them. Save (function, parameters), where function(parameters, *inputs) is the forward "
            "pass.",
        ),
        (
            ({}, dense),
            [ROWS],
            TrackingError,
            "({}, <function dense>) (tuple) cannot be saved: an object with attributes was "
            "expected, such as an instance of your class or a Flax module. To save functions or "
            "arrays, assign them to the attributes of one.",
        ),
        (
            (dense, {"w": W, "b": B}),
            [ROWS, ROWS],
            BindError,
            "input_signature of __call__(x) has 2 specs, 1 more than the function has positional "
            "parameters.",
        ),
        (
            (dense, {"w": W, "b": B}),
            [None],
            BindError,
            "input_signature of __call__(x) has None (NoneType) for 'x'. Expected a TensorSpec, a "
            "jax.ShapeDtypeStruct, an array, or a list, tuple or dict of these.",
        ),
    ],
)
def test_what_does_not_fit_is_told(model, inputs, kind, message, tmp_path):
    with pytest.raises(kind) as refused:
        exporter.save(model, tmp_path / "m", input_signature=inputs, platforms=("cpu",))
    found = str(refused.value).replace(hex(id(dense)), "").replace("dense at >", "dense>")
    assert found == message


# Values that are baked in by name, in the decorator as on save.


def flagged(x, train: bool, *, mode="sum", scale=1.0, mask=None):
    x = x * scale if mask is None else jnp.where(mask, x, 0)
    return (x.sum(0) if mode == "sum" else x.mean(0)) + (1 if train else 0)


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"train": True}, "(x, train: bool = True, *, mode='sum', scale=1.0, mask=None)"),
        (
            {"train": False, "mode": "mean", "scale": 3},
            "(x, train: bool = False, *, mode='mean', scale=3, mask=None)",
        ),
        (
            {"train": True, "mask": None},
            "(x, train: bool = True, *, mode='sum', scale=1.0, mask=None)",
        ),
    ],
)
def test_plain_values_by_name_are_baked_in_and_become_the_defaults(values, shown, reload):
    declared = function(input_signature={"x": ROWS, **values})(flagged)
    loaded = reload(SimpleNamespace(f=declared)).f
    wanted = flagged(X, **values)
    for model in (declared, loaded):
        np.testing.assert_allclose(model(X), wanted)
        np.testing.assert_allclose(model(X, **values), wanted)
    np.testing.assert_allclose(jax.jit(declared.__call__)(X), wanted)
    assert str(inspect.signature(declared)) == shown
    assert str(inspect.signature(loaded)) == shown.replace(": bool =", "=").replace("= ", "=")


def test_another_value_is_refused(reload):
    declared = function(input_signature={"x": ROWS, "train": False})(flagged)
    for model in (declared, reload(SimpleNamespace(f=declared)).f):
        with pytest.raises(BindError) as refused:
            model(X, True)
        assert refused.value.problems == (
            "train: the value False is part of the saved function, got True (bool)",
        )


def test_a_value_before_inputs_that_must_be_given_is_given_too(reload):
    @function(input_signature={"x": ROWS, "negate": True})
    def f(negate, x):
        return -x if negate else x

    loaded = reload(SimpleNamespace(f=f))
    for model in (f, loaded.f):
        np.testing.assert_array_equal(model(True, X), -X)
        with pytest.raises(TypeError):
            model(x=X)
    np.testing.assert_array_equal(loaded.signatures["serving_default"](x=X)["output_0"], -X)


def test_methods_bake_in_values_as_well(reload):
    class Model:
        def __init__(self):
            self.w = B

        @function(input_signature={"x": ROWS, "train": False})
        def f(self, x, train=True):
            return x * self.w if train else x

    original = Model()
    for model in (original, reload(original)):
        np.testing.assert_array_equal(model.f(X), X)


@pytest.mark.parametrize(
    ("value", "text"),
    [([True], "[True] (list)"), ({"a": 1}, "{'a': 1} (dict)"), (object, "<class 'object'> (type)")],
)
def test_only_plain_values_are_baked_in(value, text):
    with pytest.raises(BindError) as refused:
        function(input_signature={"x": ROWS, "train": value})(flagged)
    assert str(refused.value) == (
        "input_signature of flagged(x, train: bool, *, mode='sum', scale=1.0, mask=None) has "
        f"{text} for 'train'. Expected a TensorSpec, a jax.ShapeDtypeStruct, an array, or a list, "
        "tuple or dict of these."
    )


def test_the_values_of_variadic_arguments_are_specs():
    with pytest.raises(BindError, match=r"has 3 \(int\) for 'rest'"):
        function(input_signature={"rest": 3})(lambda *rest: rest[0])
