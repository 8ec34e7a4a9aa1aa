"""Equinox as it is: modules as roots and parts, stateful layers, filtered jit, checks."""

import os
import subprocess
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array, Float

import exporter
from exporter import LoweringError, StateError, TensorSpec, TrackingError, function

RNG = np.random.default_rng(0)
PAIR = RNG.normal(size=2).astype(np.float32)
ROWS = RNG.normal(size=(3, 4)).astype(np.float32)
X = TensorSpec((2,), "float32")
BATCH = TensorSpec(("batch", 4), "float32")
THREE = TensorSpec((3, 4), "float32")


def close(found, wanted):
    # Programs round sums in another order than those that jax.jit compiles for one layer each.
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


class Classifier(eqx.Module):
    """Modules in a list and a tuple, static fields, activations, and leaves that are no arrays."""

    mlp: eqx.nn.MLP
    layers: list[Any]
    pair: tuple[Any, ...]
    table: np.ndarray
    scale: float
    flag: bool
    nothing: None
    weight: Float[Array, "4"] = eqx.field(converter=jnp.asarray)
    size: int = eqx.field(static=True)
    activation: Any = eqx.field(static=True)

    def __init__(self, key):
        self.mlp = eqx.nn.MLP(4, 4, 8, 2, activation=jax.nn.gelu, key=key)
        self.layers = [eqx.nn.Linear(4, 4, use_bias=False, key=key), jax.nn.relu]
        self.pair = (eqx.nn.Lambda(jnp.tanh), jnp.full(4, 2.0), (3, eqx.nn.LayerNorm(4)))
        self.table = np.arange(4, dtype=np.float32)
        self.scale, self.flag, self.nothing = 0.5, True, None
        self.weight = [1.0, 2.0, 3.0, 4.0]
        self.size, self.activation = 2, jax.nn.softplus

    def forward(self, x):
        for _ in range(self.size):
            x = self.layers[1](self.layers[0](self.mlp(x)))
        x = self.pair[2][1](self.pair[0](x) * self.pair[1]) + self.table * self.weight
        return self.activation(x * self.scale if self.flag else x)

    @function(input_signature=[BATCH], default=True)
    def __call__(self, x: Float[Array, "batch 4"]) -> Array:  # noqa: F722  # axes for jaxtyping
        return jax.vmap(self.forward)(x)

    @function(input_signature=[BATCH])
    @eqx.filter_jit
    def jitted(self, x):
        return eqx.filter_vmap(self.forward)(x)


@pytest.fixture(scope="module")
def classifier():
    return Classifier(jax.random.key(0))


@pytest.fixture(scope="module")
def saved_classifier(classifier, tmp_path_factory):
    folder = tmp_path_factory.mktemp("equinox") / "model"
    exporter.save(classifier, folder, platforms=("cpu",))
    return folder


@pytest.mark.parametrize("name", ["__call__", "jitted"])
def test_a_module_and_its_filter_jitted_method_come_back(name, saved_classifier, classifier):
    loaded = exporter.load(saved_classifier)
    for rows in (ROWS, ROWS[:1]):
        wanted = jax.jit(jax.vmap(classifier.forward))(rows)
        close(getattr(loaded, name)(rows), wanted)
        close(getattr(classifier, name)(rows), wanted)


def test_fields_that_are_arrays_are_variables_under_their_names(saved_classifier, classifier):
    loaded = exporter.load(saved_classifier)
    arrays = [a for a in jax.tree.leaves(classifier) if eqx.is_array_like(a)]
    assert len(loaded.manifest.variables) == len([a for a in arrays if np.ndim(a)]) == 12
    close(loaded.mlp.layers[1].weight, classifier.mlp.layers[1].weight)
    close(loaded.pair[2][1].bias, classifier.pair[2][1].bias)
    close(loaded.table, classifier.table)
    assert loaded.pair[2][0] == 3
    assert not hasattr(loaded, "activation")
    assert not hasattr(loaded.layers[0], "bias")


def test_a_process_without_equinox_calls_it(saved_classifier, classifier, tmp_path, elsewhere):
    np.save(tmp_path / "rows.npy", ROWS)
    elsewhere(
        """
import numpy as np
import exporter

model = exporter.load(sys.argv[1])
rows = np.load(sys.argv[2] + "/rows.npy")
np.save(sys.argv[2] + "/found.npy", model(rows))
assert "equinox" not in sys.modules
""",
        saved_classifier,
        tmp_path,
    )
    close(np.load(tmp_path / "found.npy"), classifier(ROWS))


class Recurrent(eqx.Module):
    lstm: eqx.nn.LSTMCell
    gru: eqx.nn.GRUCell
    attention: eqx.nn.MultiheadAttention
    conv: eqx.nn.Conv1d

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.lstm = eqx.nn.LSTMCell(2, 3, key=keys[0])
        self.gru = eqx.nn.GRUCell(3, 2, key=keys[1])
        self.attention = eqx.nn.MultiheadAttention(1, 2, key=keys[2])
        self.conv = eqx.nn.Conv1d(1, 1, 3, padding=1, key=keys[3])

    def __call__(self, xs):
        def step(carry, x):
            carry = self.lstm(x, carry)
            return carry, carry[0]

        _, hidden = jax.lax.scan(step, (jnp.zeros(3), jnp.zeros(3)), xs)
        ys = jax.vmap(lambda h: self.gru(h, jnp.zeros(2)))(hidden)
        return jax.vmap(self.conv)(self.attention(ys, ys, ys)[:, None])[:, 0]


def test_an_undecorated_model_of_equinox_s_layers_is_saved_by_its_inputs(reload):
    model = Recurrent(jax.random.key(0))
    loaded = reload(model, input_signature=[TensorSpec(("time", 2), "float32")])
    assert str(loaded.signatures["serving_default"].signature) == (
        "serving_default(xs: float32[time, 2]) -> (output_0: float32[time, 2])"
    )
    for length in (1, 3):
        xs = RNG.normal(size=(length, 2)).astype(np.float32)
        close(loaded(xs), eqx.filter_jit(model)(xs))


class Wrapper:
    """A plain object around models, one undecorated and one function that is filter_jitted."""

    def __init__(self):
        self.model = eqx.nn.MLP(4, 2, 3, 1, key=jax.random.key(0))
        self.other = eqx.filter_jit(eqx.nn.Linear(2, 2, key=jax.random.key(1)))
        self.shift = eqx.Partial(jnp.add, jnp.ones(2))

    @function(input_signature=[BATCH])
    def __call__(self, x):
        return free(self.other, jax.vmap(self.model)(x), self.shift)


@eqx.filter_jit
def free(model, x, shift):
    return jax.vmap(model)(shift(x))


def test_models_and_filter_jitted_functions_in_a_plain_object(reload):
    original = Wrapper()
    loaded = reload(original)
    wanted = free(original.other, jax.vmap(original.model)(ROWS), original.shift)
    close(loaded(ROWS), wanted)
    close(original(ROWS), wanted)
    assert len(loaded.manifest.variables) == 7


class Tied(eqx.Module):
    shared: eqx.nn.Shared

    def __init__(self):
        keys = jax.random.split(jax.random.key(0))
        layers = (eqx.nn.Embedding(2, 2, key=keys[0]), eqx.nn.Linear(2, 2, key=keys[1]))
        self.shared = eqx.nn.Shared(layers, lambda p: p[1].weight, lambda p: p[0].weight)

    @function(input_signature=[X])
    def __call__(self, x):
        embedding, linear = self.shared()
        return linear(x) + embedding(0)


def test_a_shared_layer_is_stored_once(reload):
    original = Tied()
    loaded = reload(original)
    assert len(loaded.manifest.variables) == 2
    embedding, linear = original.shared()
    close(loaded(PAIR), linear(PAIR) + embedding(0))


class Normed(eqx.Module):
    linear: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    spectral: eqx.nn.SpectralNorm

    def __init__(self, key):
        self.linear = eqx.nn.Linear(4, 4, key=key)
        self.norm = eqx.nn.BatchNorm(4, axis_name="batch", mode="batch")
        self.spectral = eqx.nn.SpectralNorm(eqx.nn.Linear(4, 2, key=key), "weight", key=key)

    def __call__(self, x, state):
        x, state = self.norm(self.linear(x), state)
        return self.spectral(x, state)


def batched(model, x, state):
    return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)


class Stateful:
    def __init__(self):
        self.model, self.state = eqx.nn.make_with_state(Normed)(jax.random.key(0))

    @function(input_signature=[THREE])
    def train(self, x):
        y, self.state = batched(self.model, x, self.state)
        return y

    @function(input_signature=[BATCH])
    def evaluate(self, x):
        return batched(eqx.nn.inference_mode(self.model), x, self.state)[0]


def test_the_state_of_stateful_layers_is_written_back(reload):
    original, plain = Stateful(), Stateful()
    loaded = reload(original, {})
    model, state = plain.model, plain.state
    run = eqx.filter_jit(batched)
    for step in range(3):
        wanted, state = run(model, ROWS * step, state)
        for one in (original, loaded):
            close(one.train(ROWS * step), wanted)
    wanted, _ = run(eqx.nn.inference_mode(model), ROWS[:2], state)
    for one in (original, loaded):
        close(one.evaluate(ROWS[:2]), wanted)
    for found, value in zip(
        jax.tree.leaves(loaded.variables["state"]), jax.tree.leaves(state), strict=True
    ):
        close(found, value)
    assert isinstance(original.state, eqx.nn.State)


class Counter(eqx.nn.StatefulLayer):
    index: eqx.nn.StateIndex

    def __init__(self):
        self.index = eqx.nn.StateIndex({"n": jnp.zeros(2), "k": (jnp.int32(0),)})

    def __call__(self, x, state, *, key=None):
        held = state.get(self.index)
        held = {"n": held["n"] + x, "k": (held["k"][0] + 1,)}
        return held["n"] * held["k"][0], state.set(self.index, held)


class Own:
    def __init__(self):
        make = eqx.nn.make_with_state(eqx.nn.Sequential)
        self.model, self.state = make([Counter(), eqx.nn.Lambda(jnp.negative), Counter()])

    @function(input_signature=[X])
    def step(self, x):
        y, self.state = self.model(x, self.state)
        return y


def test_a_stateful_layer_of_one_s_own_counts(reload):
    original, plain = Own(), Own()
    loaded = reload(original)
    state = plain.state
    for _ in range(3):
        wanted, state = plain.model(PAIR, state)
        for model in (original, loaded):
            close(model.step(PAIR), wanted)


def test_a_state_that_was_replaced_is_refused_by_name(tmp_path):
    model = Own()
    model.model(PAIR, model.state)
    with pytest.raises(TrackingError) as refused:
        exporter.save(model, tmp_path / "m", platforms=("cpu",))
    assert str(refused.value).startswith(
        "state is a State that JAX cannot take apart: Attempted to use old state."
    )


class Trainer:
    def __init__(self):
        self.model = eqx.nn.MLP(4, 1, 3, 1, key=jax.random.key(0))
        self.layers = [eqx.nn.Linear(2, 2, key=jax.random.key(1)), "end"]
        self.optimizer = optax.adam(0.1)
        self.opt_state = self.optimizer.init(eqx.filter(self.model, eqx.is_array))

    @function(input_signature=[THREE])
    def train(self, x):
        loss, self.model, self.opt_state = step(self.optimizer, self.model, self.opt_state, x)
        return loss

    @function(input_signature=[X])
    def nudge(self, x):
        self.layers[0] = eqx.tree_at(lambda one: one.bias, self.layers[0], x)
        return self.layers[0](x)


@eqx.filter_jit
def step(optimizer, model, opt_state, x):
    def loss_of(model):
        return (jax.vmap(model)(x) ** 2).mean()

    loss, gradients = eqx.filter_value_and_grad(loss_of)(model)
    updates, opt_state = optimizer.update(gradients, opt_state, model)
    return loss, eqx.apply_updates(model, updates), opt_state


def test_a_model_that_a_function_replaces_whole_goes_on_training(reload):
    original, plain = Trainer(), Trainer()
    held = original.model
    loaded = reload(original, {})
    model, opt_state = plain.model, plain.opt_state
    for _ in range(3):
        wanted, model, opt_state = step(plain.optimizer, model, opt_state, ROWS)
        for one in (original, loaded):
            close(one.train(ROWS), wanted)
    close(loaded.model.layers[0].weight, model.layers[0].weight)
    assert original.model is held
    for one in (original, loaded):
        close(one.nudge(PAIR), plain.layers[0].weight @ PAIR + PAIR)
        close(one.layers[0].bias, PAIR)


@pytest.mark.parametrize(
    ("other", "place", "problem"),
    [
        (
            lambda: eqx.nn.Linear(2, 2, use_bias=False, key=jax.random.key(0)),
            "layer",
            "has other static parts, which are part of the saved function",
        ),
        (
            lambda: eqx.nn.Embedding(2, 2, key=jax.random.key(0)),
            "layer",
            "is a Embedding instead of a Linear",
        ),
    ],
)
def test_a_model_that_is_built_otherwise_is_refused(other, place, problem, tmp_path):
    class Model(eqx.Module):
        layer: eqx.nn.Linear = eqx.nn.Linear(2, 2, key=jax.random.key(0))

        @function(input_signature=[X])
        def change(self, x):
            object.__setattr__(self, "layer", other())
            return x

    with pytest.raises(StateError) as refused:
        exporter.save(Model(), tmp_path / "m", platforms=("cpu",))
    assert str(refused.value) == (
        f"the function replaces layer by a value that is built otherwise: {place} {problem}. "
        "State keeps its shape and dtype."
    )


class Dropping(eqx.Module):
    dropout: eqx.nn.Dropout = eqx.nn.Dropout(0.5)

    @function(input_signature=[THREE, TensorSpec((), "key<fry>")])
    def __call__(self, x, key):
        return self.dropout(x, key=key)


@pytest.mark.parametrize("inference", [False, True])
def test_dropout_takes_a_key_and_its_mode_is_the_one_it_was_saved_in(inference, reload):
    original = eqx.nn.inference_mode(Dropping(), value=inference)
    loaded = reload(original)
    key = jax.random.key(3)
    wanted = jax.jit(lambda x, key: original.dropout(x, key=key))(ROWS, key)
    np.testing.assert_array_equal(loaded(ROWS, key), wanted)
    assert bool((wanted == ROWS).all()) is inference


class Bound(eqx.Module):
    factor: Any

    def scaled(self, x):
        return x * self.factor


class Binds(eqx.Module):
    call: Any

    @function(input_signature=[X])
    def __call__(self, x):
        return self.call(x)


def test_a_bound_method_in_a_field_brings_its_module(reload):
    original = Binds(Bound(jnp.full(2, 3.0)).scaled)
    loaded = reload(original)
    np.testing.assert_array_equal(loaded(PAIR), 3 * PAIR)
    assert list(loaded.variables["call"]["self"]) == ["factor"]


CHECKED = """
import equinox as eqx
import jax.numpy as jnp

import exporter


class Checked(eqx.Module):
    weight: object

    @exporter.function(input_signature=[exporter.TensorSpec((2,), "float32")])
    def __call__(self, x):
        return eqx.error_if(x, (x < 0).any(), "negative") * self.weight
"""


def test_a_check_at_run_time_is_refused(tmp_path):
    names: dict[str, Any] = {}
    exec(CHECKED, names)
    with pytest.raises(LoweringError, match="__call__ calls back into Python") as refused:
        exporter.save(names["Checked"](jnp.ones(2)), tmp_path / "m", platforms=("cpu",))
    assert refused.value


def test_a_check_that_is_set_to_give_nan_is_saved(tmp_path):
    program = CHECKED + (
        "import sys\nexporter.save(Checked(jnp.full(2, 2.0)), sys.argv[1], platforms=('cpu',))"
    )
    subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(tmp_path / "m")],
        env={**os.environ, "EQX_ON_ERROR": "nan", "JAX_PLATFORMS": "cpu"},
        check=True,
        timeout=240,
    )
    loaded = exporter.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded(np.array([1, 2], np.float32)), [2, 4])
    assert np.isnan(loaded(np.array([-1, 2], np.float32))).all()


def test_a_module_and_its_state_are_saved_as_a_pair(reload):
    class Net(eqx.Module):
        linear: eqx.nn.Linear
        norm: eqx.nn.BatchNorm

        def __init__(self, key):
            self.linear = eqx.nn.Linear(3, 4, key=key)
            self.norm = eqx.nn.BatchNorm(4, "batch", mode="ema")

        def __call__(self, x, state, scale=2.0):
            y, state = self.norm(self.linear(x) * scale, state)
            return y, state

    model, state = eqx.nn.make_with_state(Net)(jax.random.key(0))
    model = eqx.nn.inference_mode(model)
    loaded = reload((model, state), input_signature=[TensorSpec((3,), "float32")])
    x = np.array([1, -2, 0.5], np.float32)
    np.testing.assert_allclose(loaded(x), model(x, state)[0], rtol=1e-6)
    assert list(loaded.signatures) == ["serving_default"]
    with pytest.raises(exporter.TrackingError, match="has no parameter 'state'"):
        exporter.save((model.linear, state), "unused", input_signature=[TensorSpec((3,))])
