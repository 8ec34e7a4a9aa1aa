"""Flax Linen: a module and its variables, in each form that people have them in.

Every loaded result is compared with `module.apply` under `jax.jit`. The tolerance allows for
another order of additions in the fused loops of another version of XLA.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax.core import freeze, unfreeze
from flax.training.train_state import TrainState

import exporter
from exporter import ResolveError, StateError, TensorSpec, TracingError, TrackingError, function

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(3, 4)).astype(np.float32)
IMAGES = RNG.normal(size=(2, 8, 8, 1)).astype(np.float32)
KEY = jax.random.key(0)
KEY_SPEC = TensorSpec((), "key<fry>")


def spec(*shape, dtype="float32", name=None):
    return TensorSpec(shape, dtype, name=name)


def assert_same(found, wanted):
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


def assert_same_tree(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(unfreeze(wanted))
    assert_same(found, wanted)


def shapes(tree):
    return jax.tree.map(jnp.shape, tree)


class Network(nn.Module):
    """Dense, batch statistics, dropout."""

    features: int = 3

    @nn.compact
    def __call__(self, x, train: bool = False):
        """Scores of each class."""
        x = nn.Dense(self.features)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dropout(0.5, deterministic=not train)(x)


NETWORK = Network()
VARIABLES = NETWORK.init(KEY, ROWS)
EVALUATED = jax.jit(NETWORK.apply)(VARIABLES, ROWS)


class State(TrainState):
    """As users extend it."""

    batch_stats: Any
    key: jax.Array
    ema: Any = None


def train_state(apply_fn=NETWORK.apply):
    return State.create(
        apply_fn=apply_fn,
        params=VARIABLES["params"],
        tx=optax.adam(1e-3),
        batch_stats=VARIABLES["batch_stats"],
        key=KEY,
    )


FORMS = {
    "a pair": lambda: (NETWORK, VARIABLES),
    "a pair with a FrozenDict": lambda: (NETWORK, freeze(VARIABLES)),
    "FrozenDicts in a dict": lambda: (NETWORK, {k: freeze(v) for k, v in VARIABLES.items()}),
    "apply": lambda: (NETWORK.apply, VARIABLES),
    "apply, compiled": lambda: (jax.jit(NETWORK.apply), VARIABLES),
    "bound": lambda: NETWORK.bind(VARIABLES),
    "a TrainState": train_state,
    "a TrainState with compiled apply": lambda: train_state(jax.jit(NETWORK.apply)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_model_is_saved_with_the_paths_its_users_know(form, reload):
    loaded = reload(FORMS[form](), input_signature=[spec("batch", 4)])
    assert str(loaded.signatures["serving_default"].signature) == (
        "serving_default(x: float32[batch, 4]) -> (output_0: float32[batch, 3])"
    )
    assert_same(loaded(ROWS), EVALUATED)
    assert_same(loaded.signatures["serving_default"](x=ROWS)["output_0"], EVALUATED)
    assert_same_tree(loaded.variables, VARIABLES)
    assert set(loaded.trainable_variables) == {"params"}
    assert loaded.batch_stats["BatchNorm_0"]["mean"].collection == "batch_stats"
    assert loaded.params["Dense_0"]["kernel"].collection == "params"
    assert loaded.manifest.nodes[0].name == "Network"
    assert loaded.__call__.__doc__ == "Scores of each class."


def test_statistics_are_not_even_written_when_a_module_only_reads_them(reload):
    loaded = reload((NETWORK, VARIABLES), input_signature=[spec("batch", 4)])
    assert loaded.manifest.programs[0].updates == []


def test_training_mode_moves_the_statistics_and_takes_the_key_as_an_input(reload):
    loaded = reload(
        (NETWORK, VARIABLES),
        input_signature={"x": spec("batch", 4), "train": True, "rngs": {"dropout": KEY_SPEC}},
    )
    assert list(loaded.signatures["serving_default"].signature.inputs) == ["x", "rngs/dropout"]
    step = jax.jit(lambda v, x, key: NETWORK.apply(v, x, True, rngs=key, mutable=["batch_stats"]))
    variables = VARIABLES
    for index in range(3):
        key = jax.random.key(index)
        wanted, new = step(variables, ROWS + index, {"dropout": key})
        assert_same(loaded(ROWS + index, rngs={"dropout": key}), wanted)
        variables = {**variables, **new}
        assert_same_tree(loaded.variables, variables)
    assert not np.allclose(loaded.batch_stats["BatchNorm_0"]["mean"], 0)


def test_saving_leaves_the_variables_alone(reload):
    variables = {"params": VARIABLES["params"], "batch_stats": dict(VARIABLES["batch_stats"])}
    kernel, mean = variables["params"]["Dense_0"]["kernel"], variables["batch_stats"]["BatchNorm_0"]
    reload((NETWORK, variables), input_signature=[spec("batch", 4)])
    assert variables["params"]["Dense_0"]["kernel"] is kernel
    assert variables["batch_stats"]["BatchNorm_0"] is mean


class Attention(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, 4)(tokens)
        x = x + nn.MultiHeadDotProductAttention(2, decode=True)(x)
        return nn.Dense(11)(nn.LayerNorm()(x))


def test_a_cache_fills_as_tokens_are_decoded(reload):
    model = Attention()
    variables = jax.jit(model.init)(KEY, jnp.zeros((1, 5), jnp.int32))
    loaded = reload((model, variables), input_signature=[spec(1, 1, dtype="int32")])
    step = jax.jit(lambda v, token: model.apply(v, token, mutable=["cache"]))
    for token in (3, 1, 4, 1):
        tokens = jnp.full((1, 1), token, jnp.int32)
        wanted, new = step(variables, tokens)
        variables = {**variables, **new}
        assert_same(loaded(tokens), wanted)
    assert_same_tree(loaded.variables, variables)
    assert int(loaded.cache["MultiHeadDotProductAttention_0"]["cache_index"]) == 4
    assert set(loaded.trainable_variables) == {"params"}


class Reports(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(2)(x)
        self.sow("intermediates", "hidden", x)
        self.sow("losses", "size", jnp.sum(x))
        self.sow("totals", "sum", jnp.sum(x), init_fn=lambda: jnp.float32(0), reduce_fn=jnp.add)
        return self.perturb("seen", x)


def test_what_is_sown_stays_a_report_and_what_is_summed_goes_on(reload):
    model = Reports()
    variables = model.init({"params": KEY}, ROWS, mutable=True)
    loaded = reload((model, variables), input_signature=[spec(3, 4)])
    wanted, sown = model.apply(variables, ROWS, mutable=["totals", "losses"])
    assert_same(loaded(ROWS), wanted)
    assert len(sown["losses"]["size"]) == 2
    assert_same(loaded.variables["losses"]["size"]["0"], variables["losses"]["size"][0])
    assert_same(loaded.variables["totals"], sown["totals"])
    assert "intermediates" not in loaded.variables


@pytest.mark.parametrize(
    "lifted",
    [
        nn.remat(Network),
        nn.jit(Network),
        nn.vmap(
            Network, variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True}
        ),
    ],
)
def test_lifted_modules_keep_their_inputs_and_statistics(lifted, reload):
    model, rows = lifted(4), jnp.stack([ROWS, ROWS + 1, ROWS * 2])
    variables = jax.jit(model.init)(KEY, rows)
    loaded = reload((model, variables), input_signature=[spec(3, 3, 4, name="rows")])
    wanted, new = jax.jit(lambda v, x: model.apply(v, x, mutable=["batch_stats"]))(variables, rows)
    assert_same(loaded(rows), wanted)
    assert_same(loaded.signatures["serving_default"](rows=rows)["output_0"], wanted)
    assert_same_tree(loaded.variables, {**variables, **new})


class Layer(nn.Module):
    @nn.compact
    def __call__(self, carry, _):
        return nn.tanh(nn.Dense(4)(carry)), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        layers = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return layers()(x, None)[0]


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        return nn.Bidirectional(nn.RNN(nn.LSTMCell(3)), nn.RNN(nn.GRUCell(3)))(inputs)


class Sharded(nn.Module):
    @nn.compact
    def __call__(self, x):
        init = nn.with_partitioning(nn.initializers.lecun_normal(), ("data", "model"))
        return nn.Dense(2, kernel_init=init)(x)


@pytest.mark.parametrize(
    ("model", "shape", "axes", "paths"),
    [
        (
            Scanned(),
            (3, 4),
            ("batch", 4),
            {"ScanLayer_0": {"Dense_0": {"bias": (3, 4), "kernel": (3, 4, 4)}}},
        ),
        (Recurrent(), (2, 5, 4), ("batch", "time", 4), None),
        (Sharded(), (3, 4), ("batch", 4), {"Dense_0": {"bias": (2,), "kernel": (4, 2)}}),
        (nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(2)]), (3, 4), ("batch", 4), None),
        (nn.Dense(2), (3, 4), ("batch", 4), {"bias": (2,), "kernel": (4, 2)}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_other_modules_run_for_any_size(model, shape, axes, paths, reload):
    variables = jax.jit(model.init)(KEY, jnp.zeros(shape))
    loaded = reload((model, variables), input_signature=[spec(*axes)])
    for size in (1, shape[0], 7):
        x = RNG.normal(size=(size, *shape[1:])).astype(np.float32)
        assert_same(loaded(x), jax.jit(model.apply)(variables, x))
    assert paths is None or shapes(loaded.variables) == {"params": paths}


def test_a_module_whose_parameters_cannot_be_told_has_numbered_inputs(reload):
    model = nn.Sequential([nn.Dense(2)])
    variables = jax.jit(model.init)(KEY, ROWS)
    loaded = reload((model, variables), input_signature=[spec("batch", 4)])
    assert list(loaded.signatures["serving_default"].signature.inputs) == ["args/0"]
    named = reload((model, variables), input_signature=[spec("batch", 4, name="x")])
    assert_same(named.signatures["serving_default"](x=ROWS)["output_0"], loaded(ROWS))


class ByKeyword(nn.Module):
    @nn.compact
    def __call__(self, x, *, mask=None, scale: float = 1.0):
        x = nn.Dense(2)(x) * scale
        return x if mask is None else jnp.where(mask[:, None], x, 0)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_inputs_by_keyword_and_flags_are_those_of_the_module(scale, reload):
    model = ByKeyword()
    variables = jax.jit(model.init)(KEY, ROWS)
    mask = np.array([True, False, True])
    loaded = reload(
        (model, variables),
        input_signature={
            "x": spec("batch", 4),
            "mask": spec("batch", dtype="bool"),
            "scale": scale,
        },
    )
    wanted = model.apply(variables, ROWS, mask=mask, scale=scale)
    assert_same(loaded(ROWS, mask=mask), wanted)
    assert_same(loaded(ROWS, mask=mask, scale=scale), wanted)
    assert_same(loaded.signatures["serving_default"](x=ROWS, mask=mask)["output_0"], wanted)


class NoCall(nn.Module):
    def encode(self, x):
        return x


class Makes(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.variable("cache", "last", lambda: x)
        return x


class Grows(nn.Module):
    @nn.compact
    def __call__(self, x):
        kept = self.variable("cache", "last", lambda: x)
        kept.value = jnp.concatenate([kept.value, x])
        return x


ONE = [spec(3, 4)]


@pytest.mark.parametrize(
    ("model", "inputs", "kind", "message"),
    [
        (
            NETWORK,
            ONE,
            TrackingError,
            "Network is a Linen module, which holds no arrays. Save it with its variables, as in "
            "exporter.save((module, variables), path, input_signature=[...]).",
        ),
        (
            (NETWORK, VARIABLES),
            None,
            ResolveError,
            "a model apart from its parameters is saved as its forward pass. Pass input_signature= "
            "with a spec for each of its inputs, in order or as a dict by name.",
        ),
        (
            (NETWORK, VARIABLES["params"]),
            ONE,
            TracingError,
            "Network finds no parameters: its variables have no 'params', but Dense_0, "
            "BatchNorm_0. Save (module, {'params': ...}).",
        ),
        (
            (NETWORK, [VARIABLES]),
            ONE,
            TrackingError,
            "Network is given list as its variables. Expected a dict of collections as "
            "module.init returns it: {'params': {...}, ...}.",
        ),
        (
            (NETWORK, VARIABLES),
            {"x": ONE[0], "train": True},
            TracingError,
            "Network draws random numbers and has no key for them: Dropout_0 needs PRNG for "
            "\"dropout\". Make the key an input, as in input_signature={..., 'rngs': {'dropout': "
            "TensorSpec((), 'key<fry>')}}, or bake in the flag that turns them off, as in {..., "
            "'train': False}.",
        ),
        (
            (NoCall(), {}),
            ONE,
            TrackingError,
            "NoCall has no __call__, so it has no forward pass. Save an object of your own with "
            "decorated methods that call module.apply(variables, ..., method=...).",
        ),
        (
            (Makes(), {"cache": {}}),
            ONE,
            StateError,
            "the function makes an array at cache['last'], where none was before. State must exist "
            "before it is saved: initialise the model in the same mode, and save it with what that "
            "gives.",
        ),
        (
            (Grows(), {"cache": {"last": jnp.zeros((3, 4))}}),
            ONE,
            StateError,
            "cache.last holds float32[3, 4] and the function assigns float32[6, 4]. State keeps "
            "its shape and dtype.",
        ),
        (
            TrainState.create(apply_fn=lambda p, x: x, params={}, tx=optax.sgd(1)),
            ONE,
            TrackingError,
            "the apply_fn of this TrainState is not the apply of a Linen module, so how it takes "
            "its parameters is not known. Save the pair (function, state.params), where "
            "function(params, *inputs) is the forward pass.",
        ),
    ],
)
def test_what_is_missing_is_told_with_what_to_do(model, inputs, kind, message, tmp_path):
    with pytest.raises(kind) as refused:
        exporter.save(model, tmp_path / "m", input_signature=inputs, platforms=("cpu",))
    assert str(refused.value) == message
    assert not (tmp_path / "m").exists()


class Trainer:
    """Decorated methods that call `apply` themselves, with what it gives assigned."""

    def __init__(self):
        self.module = Network()
        self.weights = unfreeze(VARIABLES)
        self.optimizer = optax.sgd(0.1)

    @function(input_signature=[spec("batch", 4)])
    def classify(self, x):
        return self.module.apply(self.weights, x)

    @function(input_signature=[spec("batch", 4), KEY_SPEC])
    def step(self, x, key):
        scores, new = self.module.apply(
            self.weights, x, True, rngs={"dropout": key}, mutable=["batch_stats"]
        )
        self.weights = {**self.weights, **new}
        return scores


def test_a_plain_class_that_holds_a_module_and_its_variables(reload):
    original = Trainer()
    loaded = reload(original, {"classify": original.classify, "step": original.step})
    assert_same(loaded.classify(ROWS), EVALUATED)
    variables = VARIABLES
    for _ in range(2):
        wanted, new = NETWORK.apply(
            variables, ROWS, True, rngs={"dropout": KEY}, mutable=["batch_stats"]
        )
        variables = {**variables, **new}
        for model in (loaded, original):
            assert_same(model.step(ROWS, KEY), wanted)
    assert_same_tree(loaded.variables["weights"], variables)
    assert_same_tree(original.weights, variables)


def test_a_bound_module_in_an_object_is_not_walked_into(reload):
    original = Trainer()
    original.bound = NETWORK.bind(VARIABLES)
    loaded = reload(original, original.classify)
    assert set(loaded.variables) == {"weights"}


# Models as Flax's own examples have them, small.


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        for features in (2, 3):
            x = nn.relu(nn.Conv(features, (3, 3))(x))
            x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape((x.shape[0], -1))
        return nn.log_softmax(nn.Dense(10)(x))


class ResidualBlock(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, train: bool = True):
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9)
        y = nn.Conv(self.features, (3, 3), (2, 2), use_bias=False)(x)
        y = nn.GroupNorm(1)(nn.relu(norm(y)))
        residual = nn.Conv(self.features, (1, 1), (2, 2), use_bias=False, name="proj")(x)
        return nn.relu(residual + y)


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = True):
        for features in (2, 4):
            x = ResidualBlock(features)(x, train=train)
        return nn.Dense(3)(jnp.mean(x, axis=(1, 2)))


def test_a_convolutional_network_for_images(reload):
    model = CNN()
    variables = jax.jit(model.init)(KEY, IMAGES)
    loaded = reload((model, variables), input_signature=[spec("batch", 8, 8, 1, name="image")])
    wanted = jax.jit(model.apply)(variables, IMAGES)
    assert_same(loaded.signatures["serving_default"](image=IMAGES)["output_0"], wanted)


@pytest.mark.parametrize("train", [True, False])
def test_a_residual_network_in_both_modes(train, reload):
    model = ResNet()
    variables = jax.jit(model.init)(KEY, IMAGES)
    inputs = {"x": spec("batch", 8, 8, 1), "train": train}
    loaded = reload((model, variables), input_signature=inputs)
    step = jax.jit(lambda v, x: model.apply(v, x, train=train, mutable=["batch_stats"]))
    for _ in range(2):
        wanted, new = step(variables, IMAGES)
        variables = {**variables, **new}
        assert_same(loaded(IMAGES), wanted)
    assert_same_tree(loaded.variables, variables)


class VAE(nn.Module):
    def setup(self):
        self.encoder = nn.Dense(4)
        self.decoder = nn.Dense(4)

    def encode(self, x):
        return jnp.split(self.encoder(x), 2, axis=-1)

    def decode(self, z):
        return nn.sigmoid(self.decoder(z))

    def __call__(self, x):
        mean, log_variance = self.encode(x)
        noise = jax.random.normal(self.make_rng("noise"), mean.shape)
        return self.decode(mean + jnp.exp(log_variance / 2) * noise), mean, log_variance


class Service:
    def __init__(self, variables):
        self.model = VAE()
        self.params = variables["params"]

    @function(input_signature=[spec("batch", 4)])
    def encode(self, x):
        return self.model.apply({"params": self.params}, x, method="encode")

    @function(input_signature=[spec("batch", 2)])
    def decode(self, z):
        return self.model.apply({"params": self.params}, z, method=VAE.decode)


def test_a_variational_autoencoder_by_its_forward_pass_and_by_its_methods(reload):
    model = VAE()
    variables = model.init({"params": KEY, "noise": KEY}, ROWS)
    inputs = {"x": spec("batch", 4), "rngs": {"noise": KEY_SPEC}}
    loaded = reload((model, variables), input_signature=inputs)
    key = jax.random.key(5)
    assert_same(
        loaded(ROWS, rngs={"noise": key}), model.apply(variables, ROWS, rngs={"noise": key})
    )
    parts = reload(Service(variables), {})
    wanted = model.apply(variables, ROWS, method="encode")
    assert_same(parts.encode(ROWS), wanted)
    assert_same(parts.decode(wanted[0]), model.apply(variables, wanted[0], method="decode"))
    part = reload(model.bind(variables).encoder, input_signature=[spec("batch", 4)])
    assert_same(part(ROWS), jnp.concatenate(wanted, axis=-1))


def test_a_process_without_flax_trains_the_statistics(tmp_path, elsewhere):
    exporter.save(
        (ResNet(), jax.jit(ResNet().init)(KEY, IMAGES)),
        tmp_path / "m",
        input_signature={"x": spec("batch", 8, 8, 1), "train": True},
        platforms=("cpu",),
    )
    np.save(tmp_path / "images.npy", IMAGES)
    elsewhere(
        """
import numpy as np
import exporter

folder = sys.argv[1]
model = exporter.load(folder + "/m")
images = np.load(folder + "/images.npy")
for step in range(2):
    np.save(f"{folder}/{step}.npy", model(images, train=True))
statistics = model.variables["batch_stats"]["ResidualBlock_0"]["BatchNorm_0"]
np.save(f"{folder}/mean.npy", statistics["mean"])
assert "flax" not in sys.modules
""",
        tmp_path,
    )
    model = ResNet()
    variables = jax.jit(model.init)(KEY, IMAGES)
    for step in range(2):
        wanted, new = jax.jit(lambda v, x: model.apply(v, x, mutable=["batch_stats"]))(
            variables, IMAGES
        )
        variables = {**variables, **new}
        assert_same(np.load(tmp_path / f"{step}.npy"), wanted)
    assert_same(
        np.load(tmp_path / "mean.npy"),
        variables["batch_stats"]["ResidualBlock_0"]["BatchNorm_0"]["mean"],
    )
