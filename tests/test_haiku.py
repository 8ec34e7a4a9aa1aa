"""Haiku: what `transform` and `transform_with_state` give, with its parameters.

Every loaded result is compared with `apply` under `jax.jit`. The tolerance allows for another order
of additions in the fused loops of another version of XLA.
"""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import TensorSpec, TracingError, TrackingError, function

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


def classify(image, scale=1.0):
    """Scores of each class."""
    return hk.nets.MLP([5, 3])(image) * scale


CLASSIFY = hk.transform(classify)
PARAMS = CLASSIFY.init(KEY, ROWS)


@pytest.mark.parametrize("transformed", [CLASSIFY, hk.without_apply_rng(CLASSIFY)])
def test_a_transformed_function_has_its_own_input_names_and_paths(transformed, reload):
    loaded = reload((transformed, PARAMS), input_signature=[spec("batch", 4)])
    assert str(loaded.signatures["serving_default"].signature) == (
        "serving_default(image: float32[batch, 4]) -> (output_0: float32[batch, 3])"
    )
    wanted = jax.jit(CLASSIFY.apply)(PARAMS, None, ROWS)
    assert_same(loaded(ROWS), wanted)
    assert_same(loaded(image=ROWS, scale=1.0), wanted)
    assert_same(loaded.signatures["serving_default"](image=ROWS)["output_0"], wanted)
    assert jax.tree.structure(loaded.variables) == jax.tree.structure({"params": PARAMS})
    assert_same(loaded.variables["params"]["mlp/~/linear_1"]["w"], PARAMS["mlp/~/linear_1"]["w"])
    assert set(loaded.trainable_variables) == {"params"}


def network(x, is_training):
    x = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(
        hk.Linear(3)(x), is_training
    )
    return hk.dropout(hk.next_rng_key(), 0.5, x) if is_training else x


NETWORK = hk.transform_with_state(network)
INITIAL = NETWORK.init(KEY, ROWS, True)


def test_state_is_written_back_and_the_key_is_an_input(reload):
    loaded = reload(
        (NETWORK, INITIAL),
        input_signature={"x": spec("batch", 4), "is_training": True, "rng": KEY_SPEC},
    )
    assert list(loaded.signatures["serving_default"].signature.inputs) == ["x", "rng"]
    params, state = INITIAL
    apply = jax.jit(NETWORK.apply, static_argnums=4)
    for step in range(3):
        key = jax.random.key(step)
        wanted, state = apply(params, state, key, ROWS + step, True)
        assert_same(loaded(ROWS + step, rng=key), wanted)
        assert_same(loaded.variables, {"params": params, "state": state})
    assert int(loaded.state["batch_norm/~/mean_ema"]["counter"]) == 3
    assert set(loaded.trainable_variables) == {"params"}
    assert loaded.state["batch_norm/~/mean_ema"]["average"].collection == "state"


def test_evaluation_needs_no_key_and_writes_nothing(reload):
    inputs = {"x": spec("batch", 4), "is_training": False}
    loaded = reload((NETWORK, INITIAL), input_signature=inputs)
    assert_same(loaded(ROWS), NETWORK.apply(*INITIAL, None, ROWS, False)[0])
    assert loaded.manifest.programs[0].updates == []


def test_a_seed_can_be_baked_in(reload):
    inputs = {"x": spec("batch", 4), "is_training": True, "rng": 7}
    loaded = reload((NETWORK, INITIAL), input_signature=inputs)
    assert_same(loaded(ROWS), NETWORK.apply(*INITIAL, jax.random.PRNGKey(7), ROWS, True)[0])


def test_immutable_mappings_of_parameters_are_dicts_when_loaded(reload):
    frozen = hk.data_structures.to_immutable_dict(PARAMS)
    assert type(frozen) is not dict
    loaded = reload((CLASSIFY, frozen), input_signature=[spec("batch", 4)])
    assert_same(loaded.variables["params"], PARAMS)


def counter():
    count = hk.get_state("count", (), jnp.int32, init=jnp.zeros)
    hk.set_state("count", count + 1)
    return count


def test_a_function_without_inputs_counts(reload):
    transformed = hk.transform_with_state(counter)
    loaded = reload((transformed, transformed.init(None)), input_signature=[])
    assert [int(loaded()) for _ in range(3)] == [0, 1, 2]


def made_late():
    hk.set_state("late", jnp.zeros(2))
    return jnp.zeros(())


ONE = [spec(3, 4)]


@pytest.mark.parametrize(
    ("model", "inputs", "kind", "message"),
    [
        (
            CLASSIFY,
            ONE,
            TrackingError,
            "a Transformed holds no arrays. Save it with its parameters, as in "
            "exporter.save((transformed, params), path, input_signature=[...]).",
        ),
        (
            (NETWORK, INITIAL[0]),
            ONE,
            TrackingError,
            "what transform_with_state gives was paired with dict. Expected (transformed, (params, "
            "state)).",
        ),
        (
            (CLASSIFY, [PARAMS]),
            ONE,
            TrackingError,
            "params is list. Expected a dict of modules as transformed.init returns it: "
            "{'linear': {'w': ..., 'b': ...}, ...}.",
        ),
        (
            (hk.multi_transform(lambda: (hk.Linear(2), (hk.Linear(2), hk.Linear(2)))), {}),
            ONE,
            TrackingError,
            "a MultiTransformed has several functions. Save an object of your own that holds the "
            "parameters, with a decorated method for each function.",
        ),
        (
            (NETWORK, INITIAL),
            {"x": ONE[0], "is_training": True},
            TracingError,
            "the transformed function draws random numbers and has no key for them. Make the key "
            "an input, as in input_signature={..., 'rng': TensorSpec((), 'key<fry>')}, or bake in "
            "a seed, as in {..., 'rng': 0}.",
        ),
        (
            (hk.transform_with_state(made_late), ({}, {})),
            [],
            exporter.StateError,
            "the function makes an array at state['~']['late'], where none was before. State must "
            "exist before it is saved: initialise the model in the same mode, and save it with "
            "what that gives.",
        ),
    ],
)
def test_what_is_missing_is_told_with_what_to_do(model, inputs, kind, message, tmp_path):
    with pytest.raises(kind) as refused:
        exporter.save(model, tmp_path / "m", input_signature=inputs, platforms=("cpu",))
    assert str(refused.value) == message


class Service:
    """Decorated methods that call `apply` themselves, with what it gives assigned."""

    def __init__(self):
        self.network = NETWORK
        self.params, self.state = INITIAL

    @function(input_signature=[spec("batch", 4)])
    def classify(self, x):
        return self.network.apply(self.params, self.state, None, x, False)[0]

    @function(input_signature=[spec("batch", 4), KEY_SPEC])
    def step(self, x, key):
        scores, self.state = self.network.apply(self.params, self.state, key, x, True)
        return scores


def test_a_plain_class_that_holds_parameters_and_state(reload):
    original = Service()
    loaded = reload(original, {"classify": original.classify})
    assert_same(loaded.classify(ROWS), NETWORK.apply(*INITIAL, None, ROWS, False)[0])
    params, state = INITIAL
    for _ in range(2):
        wanted, state = NETWORK.apply(params, state, KEY, ROWS, True)
        for model in (loaded, original):
            assert_same(model.step(ROWS, KEY), wanted)
    assert_same(loaded.variables, {"params": params, "state": state})
    assert_same(original.state, state)


def encoder_and_decoder():
    encoder, decoder = hk.Linear(2, name="encoder"), hk.Linear(4, name="decoder")
    return (lambda x: decoder(encoder(x))), (encoder, decoder)


class Autoencoder:
    def __init__(self):
        self.network = hk.without_apply_rng(hk.multi_transform(encoder_and_decoder))
        self.params = self.network.init(KEY, ROWS)

    @function(input_signature=[spec("batch", 4)])
    def encode(self, x):
        return self.network.apply[0](self.params, x)

    @function(input_signature=[spec("batch", 2)])
    def decode(self, z):
        return self.network.apply[1](self.params, z)


def test_several_functions_of_the_same_parameters(reload):
    original = Autoencoder()
    loaded = reload(original, {})
    code = original.network.apply[0](original.params, ROWS)
    assert_same(loaded.encode(ROWS), code)
    assert_same(loaded.decode(code), original.network.apply[1](original.params, code))
    assert_same(loaded.variables["params"], original.params)


# Models as Haiku's own examples have them, small.


class Block(hk.Module):
    def __call__(self, x, is_training):
        shortcut = hk.Conv2D(3, 1, 2, with_bias=False, name="shortcut")(x)
        x = hk.Conv2D(3, 3, 2, with_bias=False)(x)
        x = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(x, is_training)
        return jax.nn.relu(x + shortcut)


def resnet(images, is_training=True):
    for _ in range(2):
        images = Block()(images, is_training)
    return hk.Linear(2)(images.mean((1, 2)))


def lstm(tokens):
    core = hk.DeepRNN([hk.LSTM(3), jax.nn.relu, hk.GRU(3)])
    embedded = hk.Embed(7, 4)(tokens)
    outputs, _ = hk.dynamic_unroll(
        core, embedded, core.initial_state(tokens.shape[0]), time_major=False
    )
    return hk.BatchApply(hk.Linear(7))(outputs)


def transformer(tokens):
    x = hk.Embed(7, 4)(tokens)
    mask = jnp.tril(jnp.ones((tokens.shape[1], tokens.shape[1])))[None, None]
    attention = hk.MultiHeadAttention(2, 2, w_init=hk.initializers.VarianceScaling())
    norm = hk.LayerNorm(axis=-1, create_scale=True, create_offset=True)
    x = norm(x + attention(x, x, x, mask=mask))
    return hk.Linear(7)(hk.Sequential([hk.Linear(8), jax.nn.gelu, hk.Linear(4)])(x) + x)


def recurrent(tokens):
    """Keeps its state from call to call, as for a stream."""
    core = hk.LSTM(3)
    carry = hk.get_state("carry", (), init=lambda *_: core.initial_state(1))
    output, carry = core(hk.Embed(7, 4)(tokens), carry)
    hk.set_state("carry", carry)
    return output


def as_dicts(tree):
    """The tree with the carry of an LSTM as a dict, as paths have it."""
    is_carry = lambda value: isinstance(value, hk.LSTMState)  # noqa: E731
    return jax.tree.map(lambda v: v._asdict() if is_carry(v) else v, tree, is_leaf=is_carry)


TOKENS = RNG.integers(0, 7, (2, 5)).astype(np.int32)


@pytest.mark.parametrize(
    ("net", "inputs", "axes", "name"),
    [
        (resnet, IMAGES, ("batch", 8, 8, 1), "images"),
        (lstm, TOKENS, (2, 5), "tokens"),
        (transformer, TOKENS, ("batch", "time"), "tokens"),
        (recurrent, TOKENS[0, :1], (1,), "tokens"),
        (
            lambda x: hk.nets.VectorQuantizerEMA(4, 5, 0.25, 0.9)(x, True)["quantize"],
            ROWS,
            (3, 4),
            "x",
        ),
    ],
)
def test_networks_agree_call_after_call(net, inputs, axes, name, reload):
    transformed = hk.transform_with_state(net)
    params, state = jax.jit(transformed.init)(KEY, inputs)
    declared = [spec(*axes, dtype=inputs.dtype.name)]
    loaded = reload((transformed, (params, state)), input_signature=declared)
    assert list(loaded.signatures["serving_default"].signature.inputs) == [name]
    apply = jax.jit(transformed.apply)
    for _ in range(2):
        wanted, state = apply(params, state, None, inputs)
        assert_same(loaded(inputs), wanted)
    assert_same(loaded.variables.get("state", {}), as_dicts(state))


def test_a_process_without_haiku_trains_the_statistics(tmp_path, elsewhere):
    transformed = hk.transform_with_state(resnet)
    params, state = jax.jit(transformed.init)(KEY, IMAGES)
    exporter.save(
        (transformed, (params, state)),
        tmp_path / "m",
        input_signature=[spec("batch", 8, 8, 1)],
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
    np.save(f"{folder}/{step}.npy", model(images=images))
np.save(f"{folder}/count.npy", model.variables["state"]["block/batch_norm/~/mean_ema"]["counter"])
assert "haiku" not in sys.modules
""",
        tmp_path,
    )
    for step in range(2):
        wanted, state = jax.jit(transformed.apply)(params, state, None, IMAGES)
        assert_same(np.load(tmp_path / f"{step}.npy"), wanted)
    assert int(np.load(tmp_path / "count.npy")) == 2
