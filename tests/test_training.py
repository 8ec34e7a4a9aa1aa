"""Training what was loaded: with optax, with state, again and again, as the original is trained."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import exporter
from exporter import SaveOptions, StateError, TensorSpec, Variable, function
from exporter.variable import get_all

rng = np.random.default_rng(0)
X = rng.normal(size=(16, 3)).astype("float32")
Y = np.tanh(X @ rng.normal(size=(3, 2))).astype("float32")


class Net:
    """Two layers with a running mean between them, as batch normalisation has one."""

    def __init__(self):
        self.layers = [{"w": Variable(jnp.eye(3))}, {"w": Variable(jnp.ones((3, 2)) / 3)}]
        self.scale = Variable(jnp.ones(3), trainable=False)
        self.mean = Variable(jnp.zeros(3), trainable=False)
        self.steps = Variable(jnp.int32(0))

    @function(input_signature=[TensorSpec(("batch", 3), "float32")])
    def predict(self, x):
        return jnp.tanh((x @ self.layers[0]["w"] - self.mean) * self.scale) @ self.layers[1]["w"]

    @function(input_signature=[TensorSpec(("batch", 3), "float32")])
    def train(self, x):
        h = x @ self.layers[0]["w"]
        self.mean.value = 0.9 * self.mean + 0.1 * jax.lax.stop_gradient(h.mean(0))
        self.steps.value = self.steps + 1
        return jnp.tanh((h - self.mean) * self.scale) @ self.layers[1]["w"]


def plain(params, mean, x):
    """`Net.train` in plain JAX."""
    h = x @ params["layers"]["0"]["w"]
    mean = 0.9 * mean + 0.1 * jax.lax.stop_gradient(h.mean(0))
    return jnp.tanh(h - mean) @ params["layers"]["1"]["w"], mean


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("training") / "m"
    net = Net()
    exporter.save(net, path, net.predict, platforms=("cpu",), options=SaveOptions(vjp_order=1))
    return path


@pytest.fixture
def loaded(folder):
    return exporter.load(folder)


def trained(model, steps):
    """The losses of some steps of Adam on a loaded model, which keeps what it learnt."""
    optimiser = optax.adam(0.05)

    @jax.jit
    def step(values, learnt, state):
        def loss(learnt):
            new = model.with_variables(values).with_variables(learnt)
            return ((new.train(X) - Y) ** 2).mean(), new.variables

        (value, values), slope = jax.value_and_grad(loss, has_aux=True)(learnt)
        updates, state = optimiser.update(slope, state, learnt)
        return value, values, optax.apply_updates(learnt, updates), state

    losses = []
    values, learnt = model.variables, model.trainable_variables
    state = optimiser.init(learnt)
    for _ in range(steps):
        value, values, learnt, state = step(values, learnt, state)
        losses.append(float(value))
    model.variables = values
    model.trainable_variables = learnt
    return losses


def trained_plainly(steps):
    """The same in plain JAX, and what is learnt."""
    optimiser = optax.adam(0.05)
    params = {"layers": {"0": {"w": jnp.eye(3)}, "1": {"w": jnp.ones((3, 2)) / 3}}}
    mean, state = jnp.zeros(3), optimiser.init(params)

    def loss(params, mean):
        y, mean = plain(params, mean, X)
        return ((y - Y) ** 2).mean(), mean

    @jax.jit
    def step(params, mean, state):
        (value, mean), slope = jax.value_and_grad(loss, has_aux=True)(params, mean)
        updates, state = optimiser.update(slope, state, params)
        return value, optax.apply_updates(params, updates), mean, state

    losses = []
    for _ in range(steps):
        value, params, mean, state = step(params, mean, state)
        losses.append(float(value))
    return losses, params, mean


def test_adam_on_a_loaded_model_is_adam_on_the_original_and_goes_on_when_saved_again(
    loaded, reload
):
    losses = trained(loaded, 12)
    wanted, params, mean = trained_plainly(12)
    np.testing.assert_allclose(losses, wanted, rtol=1e-4)
    assert losses[-1] < losses[0] / 2
    np.testing.assert_allclose(loaded.mean, mean, rtol=1e-3, atol=1e-5)
    assert int(loaded.steps) == 12
    again = reload(loaded)
    jax.tree.map(np.testing.assert_array_equal, again.variables, loaded.variables)
    last, wanted = again.layers[1]["w"], params["layers"]["1"]["w"]
    np.testing.assert_allclose(last, wanted, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(again.scale, [1, 1, 1])
    assert trained(again, 3)[-1] < losses[-1]


def test_the_signature_of_a_trained_model_sees_what_was_learnt(loaded):
    before = loaded.signatures["serving_default"](x=X)["output_0"]
    trained(loaded, 2)
    after = loaded.signatures["serving_default"](x=X)["output_0"]
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_array_equal(after, loaded.predict(X))


class TestWithVariables:
    """The same model with other values."""

    def test_it_shares_the_programs_and_has_state_of_its_own(self, loaded):
        new = loaded.with_variables({"mean": jnp.full(3, 0.5)})
        programs = [model.train.concrete[0].programs[()].program for model in (new, loaded)]
        assert programs[0] is programs[1]
        np.testing.assert_array_equal(new.mean, [0.5] * 3)
        np.testing.assert_array_equal(loaded.mean, [0, 0, 0])
        new.train(X)
        new.train(X)
        loaded.train(X)
        assert (int(new.steps), int(loaded.steps)) == (2, 1)
        assert new.layers[0]["w"].trainable
        assert not new.mean.trainable
        assert list(new.signatures) == list(loaded.signatures)
        np.testing.assert_array_equal(
            new.signatures["serving_default"](x=X)["output_0"], new.predict(X)
        )

    def test_values_that_somebody_else_holds_are_not_donated(self, loaded):
        mine = jnp.full(3, 0.25)
        new = loaded.with_variables({"mean": mine})
        for model in (new, loaded, new):
            model.train(X)
        np.testing.assert_array_equal(mine, [0.25] * 3)
        assert int(new.steps) == 2

    def test_names_that_are_not_given_keep_the_values_of_now(self, loaded):
        loaded.train(X)
        new = loaded.with_variables(loaded.trainable_variables)
        assert int(new.steps) == 1
        loaded.train(X)
        assert int(new.steps) == 1

    def test_it_can_be_saved_and_given_other_values_again(self, loaded, reload):
        new = loaded.with_variables({"steps": jnp.int32(5)}).with_variables({"mean": jnp.ones(3)})
        again = reload(new)
        assert int(again.steps) == 5
        np.testing.assert_array_equal(again.mean, [1, 1, 1])

    @pytest.mark.parametrize(
        ("tree", "problems"),
        [
            ({"layers": {"2": {"w": jnp.ones(3)}}}, ["layers/2/w: not a variable"]),
            ({"mean": jnp.ones(2)}, ["mean: expected float32[3], got float32[2]"]),
            ({"mean": 3.0}, ["mean: expected float32[3], got float32[]"]),
            (
                {"steps": jnp.float32(1), "mine": jnp.ones(1)},
                [
                    "mine: not a variable",
                    "steps: expected int32[], got float32[]; convert it with .astype('int32') if "
                    "that is meant",
                ],
            ),
        ],
    )
    def test_values_that_do_not_fit_are_named(self, loaded, tree, problems):
        with pytest.raises(StateError) as refused:
            loaded.with_variables(tree)
        lines = "".join(f"\n  {problem}" for problem in problems)
        assert str(refused.value) == f"the values do not fit the variables:{lines}"

    def test_a_part_that_is_a_model_has_it_too(self, loaded, reload):
        class Outer:
            def __init__(self):
                self.net = loaded
                self.k = Variable(jnp.float32(2))

            @function(input_signature=[TensorSpec(("batch", 3), "float32")])
            def f(self, x):
                return self.k * self.net.predict(x)

        outer = reload(Outer(), options=SaveOptions(vjp_order=1))
        inner = outer.net.with_variables({"scale": jnp.zeros(3)})
        np.testing.assert_array_equal(inner.predict(X), np.zeros((16, 2)))
        np.testing.assert_allclose(outer.f(X), 2 * outer.net.predict(X), rtol=1e-6)
        found = jax.jit(jax.grad(lambda v: outer.with_variables(v).f(X).sum()))(
            outer.trainable_variables
        )
        np.testing.assert_allclose(found["k"], outer.net.predict(X).sum(), rtol=1e-4)

    def test_a_part_loaded_alone_keeps_its_derivative(self, folder):
        part = exporter.load(folder, only="predict")
        found = jax.grad(lambda v: part.with_variables(v).predict(X).sum())(
            part.trainable_variables
        )
        assert set(part.variables) == {"layers", "scale", "mean"}
        assert float(jnp.abs(found["layers"]["0"]["w"]).sum()) > 0

    def test_values_can_be_given_to_a_model_loaded_without(self, folder, loaded):
        empty = exporter.load(folder, skip_variables=True)
        full = empty.with_variables(loaded.variables)
        np.testing.assert_array_equal(full.train(X), loaded.train(X))
        some = empty.with_variables({"steps": jnp.int32(0)})
        with pytest.raises(StateError, match="have no values: the model was loaded with skip_"):
            some.predict(X)

    def test_the_name_is_reserved(self, tmp_path):
        class Clash:
            with_variables = None

            def __init__(self):
                self.with_variables = Variable(jnp.ones(1))

        with pytest.raises(exporter.TrackingError, match="an attribute 'with_variables'"):
            exporter.save(Clash(), tmp_path / "m", {}, platforms=("cpu",))


def test_threads_that_take_gradients_and_threads_that_count_do_not_meet(loaded):
    values, errors, found = loaded.trainable_variables, [], []

    @jax.jit
    def slope(values):
        return jax.grad(lambda v: loaded.with_variables(v).train(X).sum())(values)

    wanted = slope(values)

    def run(call):
        try:
            for _ in range(50):
                call()
        except BaseException as error:
            errors.append(error)

    calls = [lambda: loaded.train(X), lambda: found.append(slope(values))] * 2
    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert int(loaded.steps) == 100
    for one in found:
        jax.tree.map(np.testing.assert_array_equal, one, wanted)


def test_the_buffers_of_what_is_updated_are_donated(loaded):
    program = loaded.train.concrete[0].programs[()]
    for _ in range(2):  # the first call of a kind goes through Python, all later ones do not
        held = get_all(program.reads)
        loaded.train(X)
        donated = [array.is_deleted() for array in held]
        assert donated == [any(one is other for other in program.writes) for one in program.reads]
        assert donated.count(True) == 2


def test_models_of_one_folder_train_apart(folder):
    one, other = exporter.load(folder), exporter.load(folder)
    trained(one, 2)
    np.testing.assert_array_equal(other.layers[0]["w"], np.eye(3))
    assert int(other.steps) == 0
