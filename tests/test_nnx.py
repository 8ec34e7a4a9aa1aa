"""Flax NNX modules: the same answers, statistics, random numbers and caches after loading.

Every loaded result is compared with the same module under `nnx.jit`. Both compile the same
operations for the same machine, and agreed to the last bit on every machine tried. The tolerance
allows for another order of additions in the fused loops of another version of XLA.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import exporter
from exporter import ResolveError, StateError, TensorSpec, Variable, function

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(3, 4)).astype(np.float32)
IMAGES = RNG.normal(size=(2, 8, 8, 1)).astype(np.float32)
PAIR = np.array([1, 2], np.float32)


def spec(*shape, dtype="float32"):
    return TensorSpec(shape, dtype)


def words(value):
    """The value as numbers: a random key as the words it is made of."""
    is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(value) if is_key else value


def assert_same(found, wanted):
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_allclose(words(left), words(right), rtol=1e-6, atol=1e-6)


def state_of(module):
    """The arrays of a module by path, as `loaded.variables` has them."""
    return nnx.to_pure_dict(nnx.state(module))


class Linear(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 2, rngs=rngs)

    @function(input_signature=[spec("batch", 4)])
    def __call__(self, x):
        return nnx.relu(self.linear(x))


def test_a_linear_layer_gives_the_same_answers_by_every_way_to_it(reload):
    module = Linear(nnx.Rngs(0))
    wanted = nnx.jit(lambda m, x: m(x))(module, ROWS)
    loaded = reload(module)
    for found in (
        loaded(ROWS),
        loaded.signatures["serving_default"](ROWS)["output_0"],
        jax.jit(loaded.__call__)(ROWS),
        module(ROWS),
    ):
        assert_same(found, wanted)
    assert_same(loaded.variables, state_of(module))
    assert loaded.linear.kernel.collection == "Param"
    assert loaded.linear.kernel.trainable


class Network(nnx.Module):
    """Convolution, batch statistics, dropout."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(8 * 8 * 4, 3, rngs=rngs)

    def forward(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        return self.out(self.dropout(x.reshape(x.shape[0], -1)))

    @function(input_signature=[spec("batch", 8, 8, 1)])
    def evaluate(self, x):
        self.eval()
        return self.forward(x)

    @function(input_signature=[spec("batch", 8, 8, 1)])
    def train_step(self, x):
        self.train()
        return self.forward(x)


@nnx.jit
def evaluated(module, x):
    module.eval()
    return module.forward(x)


@nnx.jit
def trained(module, x):
    module.train()
    return module.forward(x)


def network():
    return Network(nnx.Rngs(0, dropout=7))


@pytest.fixture(scope="module")
def saved_network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network") / "m"
    module = network()
    exporter.save(
        module,
        folder,
        {"evaluate": module.evaluate, "train": module.train_step},
        platforms=("cpu",),
    )
    return folder


def test_both_modes_agree_step_by_step_and_statistics_and_counters_are_written_back(saved_network):
    loaded, reference, original = exporter.load(saved_network), network(), network()
    for step in range(3):
        wanted = trained(reference, IMAGES + step)
        for model in (loaded, original):
            assert_same(model.train_step(IMAGES + step), wanted)
        wanted = evaluated(reference, IMAGES)
        for model in (loaded, original):
            assert_same(model.evaluate(IMAGES), wanted)
        assert_same(loaded.variables, state_of(reference))
        assert_same(state_of(original), state_of(reference))
    assert not np.allclose(loaded.norm.mean, 0)
    assert int(loaded.dropout.rngs.count) == 3


def test_signatures_and_methods_share_the_statistics(saved_network):
    loaded, reference = exporter.load(saved_network), network()
    assert_same(loaded.signatures["train"](IMAGES)["output_0"], trained(reference, IMAGES))
    assert_same(loaded.train_step(IMAGES), trained(reference, IMAGES))
    assert_same(loaded.signatures["evaluate"](IMAGES)["output_0"], evaluated(reference, IMAGES))


def test_random_numbers_go_on_where_the_original_was_when_it_was_saved(reload):
    module, reference = network(), network()
    for _ in range(2):
        module.train_step(IMAGES)
        trained(reference, IMAGES)
    loaded = reload(module, {})
    assert int(loaded.dropout.rngs.count) == 2
    assert_same(loaded.train_step(IMAGES), trained(reference, IMAGES))


def test_evaluation_changes_nothing(saved_network):
    loaded = exporter.load(saved_network)
    before = jax.tree.map(lambda x: x, loaded.variables)
    loaded.evaluate(IMAGES)
    assert_same(loaded.variables, before)


def test_kinds_of_variables_are_kept(saved_network):
    loaded = exporter.load(saved_network)
    assert loaded.norm.mean.collection == "BatchStat"
    assert loaded.dropout.rngs.count.collection == "RngCount"
    assert loaded.dropout.rngs.key.collection == "RngKey"
    assert set(loaded.trainable_variables) == {"conv", "norm", "out"}
    assert set(loaded.trainable_variables["norm"]) == {"scale", "bias"}


@pytest.mark.parametrize("training", [True, False])
def test_saving_leaves_the_mode_and_state_of_the_module_alone(training, reload):
    module = network()
    module.train() if training else module.eval()
    before = state_of(module)
    reload(module, {})
    assert module.norm.use_running_average is not training
    assert module.dropout.deterministic is not training
    assert_same(state_of(module), before)


def test_a_forward_pass_without_a_decorator_is_exported_with_its_inputs(reload):
    module = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    loaded = reload(module, input_signature=[spec("batch", 4)])
    assert str(loaded.signatures["serving_default"].signature) == (
        "serving_default(inputs: float32[batch, 4]) -> (output_0: float32[batch, 2])"
    )
    wanted = nnx.jit(lambda m, x: m(x))(module, ROWS)
    assert_same(loaded(ROWS), wanted)
    assert_same(loaded.signatures["serving_default"](inputs=ROWS)["output_0"], wanted)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Linear(nnx.Rngs(0)),
            "input_signature= is for objects without decorated methods, but this one has __call__. "
            "Give the decorator an input_signature instead.",
        ),
        (
            lambda: SimpleNamespace(v=Variable(1.0)),
            "input_signature= describes the inputs of __call__, which SimpleNamespace does not "
            "have.",
        ),
    ],
)
def test_inputs_for_a_forward_pass_that_is_not_there_are_refused(make, message, tmp_path):
    with pytest.raises(ResolveError) as refused:
        exporter.save(make(), tmp_path / "m", input_signature=[spec(3, 4)], platforms=("cpu",))
    assert str(refused.value) == message


class Cache(nnx.Module):
    def __init__(self):
        self.cache = nnx.Cache(jnp.zeros((4, 2)))
        self.position = nnx.Variable(jnp.int32(0))

    @function(input_signature=[spec(2)])
    def push(self, x):
        self.cache[...] = jax.lax.dynamic_update_index_in_dim(
            self.cache[...], x, self.position[...], 0
        )
        self.position[...] = self.position[...] + 1
        return {"cache": self.cache[...], "position": self.position}


def test_a_cache_array_fills(reload):
    loaded, original = reload(Cache()), Cache()
    wanted = np.zeros((4, 2), np.float32)
    for step in range(3):
        wanted[step] = PAIR + step
        for model in (loaded, original):
            result = model.push(PAIR + step)
            np.testing.assert_array_equal(result["cache"], wanted)
            assert int(result["position"]) == step + 1
    assert loaded.cache.collection == "Cache"
    assert not loaded.cache.trainable
    np.testing.assert_array_equal(loaded.cache, wanted)


class Attention(nnx.Module):
    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(2, 4, 4, 4, rngs=rngs, decode=True)
        self.attention.init_cache((1, 5, 4))

    @function(input_signature=[spec(1, 1, 4)])
    def step(self, x):
        return self.attention(x)


def test_the_cache_of_flax_s_own_attention_decodes_as_the_original(reload):
    loaded, reference = reload(Attention(nnx.Rngs(0))), Attention(nnx.Rngs(0))
    plain = nnx.jit(lambda m, x: m.attention(x))
    for step in range(4):
        x = np.full((1, 1, 4), step, np.float32)
        assert_same(loaded.step(x), plain(reference, x))
    assert int(loaded.attention.cache_index) == 4


class Recurrent(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(10, 4, rngs=rngs)
        self.rnn = nnx.RNN(nnx.LSTMCell(4, 6, rngs=rngs), rngs=rngs)
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(1, 6, 6, 6, rngs=rngs, decode=False)

    @function(input_signature=[spec("batch", "time", dtype="int32")])
    def __call__(self, tokens):
        return self.attention(self.norm(self.rnn(self.embed(tokens))))


def test_recurrent_layers_and_attention_run_for_any_length(reload):
    module = Recurrent(nnx.Rngs(0))
    loaded = reload(module)
    for shape in ((2, 3), (1, 1), (3, 7)):
        tokens = RNG.integers(0, 10, shape).astype(np.int32)
        reference = Recurrent(nnx.Rngs(0))
        assert_same(loaded(tokens), nnx.jit(lambda m, x: m(x))(reference, tokens))


class Buffer:
    """A plain object with state."""

    def __init__(self):
        self.total = Variable(jnp.zeros(2))
        self.factor = jnp.full(2, 3.0)

    @function(input_signature=[spec(2)])
    def add(self, x):
        self.total.value = self.total + x
        return self.factor * self.total


class Plain:
    """Modules inside a plain object."""

    def __init__(self):
        self.first = nnx.Linear(4, 2, rngs=nnx.Rngs(1))
        self.scale = Variable(jnp.float32(2))
        self.several = [nnx.Linear(2, 2, rngs=nnx.Rngs(2)), self.first]
        self.by_name = {"first": self.first}

    @function(input_signature=[spec("batch", 4)])
    def f(self, x):
        return self.several[0](self.by_name["first"](x)) * self.scale


def test_modules_inside_a_plain_object(reload):
    original = Plain()
    loaded = reload(original)
    assert loaded.first is loaded.several[1] is loaded.by_name["first"]
    assert len(loaded.manifest.variables) == 5
    wanted = (
        (ROWS @ original.first.kernel[...] + original.first.bias[...])
        @ original.several[0].kernel[...]
        * 2
    )
    for model in (loaded, original):
        assert_same(model.f(ROWS), wanted)


class Holds(nnx.Module):
    """A plain object inside a module."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(2, 2, rngs=rngs)
        self.buffer = Buffer()

    @function(input_signature=[spec(2)])
    def f(self, x):
        return self.linear(x) + self.buffer.add(x)


def test_a_plain_object_inside_a_module(reload):
    original = Holds(nnx.Rngs(0))
    loaded = reload(original)
    for model in (loaded, original):
        linear = PAIR @ np.asarray(original.linear.kernel[...])
        for times in (1, 2):
            assert_same(model.f(PAIR), jnp.asarray(linear + 3 * times * PAIR))
        np.testing.assert_array_equal(model.buffer.total, 2 * PAIR)
        np.testing.assert_array_equal(model.buffer.add(PAIR), 9 * PAIR)


class Shared(nnx.Module):
    def __init__(self, rngs):
        self.a = nnx.Linear(2, 2, rngs=rngs)
        self.b = self.a
        self.tied = self.a.kernel

    @function(input_signature=[spec(2)])
    def f(self, x):
        return self.b(self.a(x)) @ self.tied[...]

    @function(input_signature=[spec(2)])
    def shift(self, x):
        self.tied[...] = self.tied[...] + x
        return self.a.kernel[...]


def test_a_shared_submodule_and_a_tied_parameter_stay_shared(reload):
    original = Shared(nnx.Rngs(0))
    loaded = reload(original, {})
    assert loaded.a is loaded.b
    assert loaded.tied is loaded.a.kernel
    assert len(loaded.manifest.variables) == 2
    for model in (loaded, original):
        kernel = np.asarray(model.a.kernel[...])
        assert_same(model.f(PAIR), jnp.asarray(PAIR @ kernel @ kernel @ kernel))
        np.testing.assert_array_equal(model.shift(PAIR), kernel + PAIR)
        np.testing.assert_array_equal(model.b.kernel[...], kernel + PAIR)


class Containers(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs) for _ in range(12)])
        self.by_name = nnx.Dict(
            {"a": nnx.Linear(2, 2, rngs=rngs), "scale": nnx.Param(jnp.full(2, 2.0))}
        )
        self.stack = nnx.Sequential(
            nnx.Linear(2, 3, rngs=rngs), nnx.relu, nnx.Linear(3, 2, rngs=rngs)
        )

    @function(input_signature=[spec("batch", 2)])
    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.stack(self.by_name["a"](x) * self.by_name["scale"])


def test_lists_dicts_and_sequences_of_modules(reload):
    module = Containers(nnx.Rngs(0))
    loaded = reload(module)
    assert_same(loaded(ROWS[:, :2]), nnx.jit(lambda m, x: m(x))(module, ROWS[:, :2]))
    assert len(loaded.layers) == 12
    for found, wanted in zip(loaded.layers, module.layers, strict=True):
        np.testing.assert_array_equal(found.kernel, wanted.kernel[...])
    np.testing.assert_array_equal(loaded.by_name["scale"], [2, 2])
    np.testing.assert_array_equal(loaded.by_name["a"].kernel, module.by_name["a"].kernel[...])
    np.testing.assert_array_equal(loaded.stack.layers[2].kernel, module.stack.layers[2].kernel[...])
    assert set(loaded.variables["layers"]) == {str(n) for n in range(12)}


class Draws(nnx.Module):
    def __init__(self):
        self.rngs = nnx.Rngs(0, noise=3)

    @function(input_signature=[])
    def draw(self):
        return {
            "default": jax.random.normal(self.rngs(), (2,)),
            "noise": jax.random.normal(self.rngs.noise(), (2,)),
        }


def test_streams_of_random_numbers_go_on_equally_in_original_and_copy(reload):
    original = Draws()
    first = original.draw()
    loaded = reload(original)
    for _ in range(3):
        found, wanted = loaded.draw(), original.draw()
        assert_same(found, wanted)
        assert not np.allclose(found["noise"], first["noise"])
        first = found


@pytest.mark.parametrize(
    "assign",
    [lambda p, x: p.set_value(x), lambda p, x: setattr(p, "value", x)],
    ids=["set_value", "value"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_parameter_of_another_shape_is_refused(assign, tmp_path):
    class Wrong(nnx.Module):
        def __init__(self):
            self.p = nnx.Param(jnp.zeros(2))

        @function(input_signature=[spec(3)])
        def f(self, x):
            assign(self.p, x)
            return x

    module = Wrong()
    with pytest.raises(StateError) as refused:
        exporter.save(module, tmp_path / "m", platforms=("cpu",))
    assert str(refused.value) == (
        "p holds float32[2] and the function assigns float32[3]. State keeps its shape and dtype."
    )
    np.testing.assert_array_equal(module.p[...], [0, 0])


def test_a_parameter_made_in_a_function_is_refused(tmp_path):
    class Grows(nnx.Module):
        @function(input_signature=[spec(2)])
        def f(self, x):
            self.made = nnx.Param(x)
            return x

    module = Grows()
    with pytest.raises(StateError) as refused:
        exporter.save(module, tmp_path / "m", platforms=("cpu",))
    assert str(refused.value) == (
        "the function leaves an array at made, where none was before. State must exist before it "
        "is saved: assign an array of the right shape and dtype there first."
    )
    assert not hasattr(module, "made")


def test_half_precision_parameters_come_back_as_they_were(reload):
    module = nnx.Linear(4, 2, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    loaded = reload(module, input_signature=[spec("batch", 4, dtype="bfloat16")])
    x = jnp.asarray(ROWS, jnp.bfloat16)
    found, wanted = loaded(x), nnx.jit(lambda m, x: m(x))(module, x)
    assert found.dtype == wanted.dtype == jnp.bfloat16
    # One unit in the last place of bfloat16's eight bits.
    np.testing.assert_allclose(found.astype("float32"), wanted.astype("float32"), rtol=2**-7)


def test_a_process_without_flax_runs_trains_and_counts(saved_network, tmp_path, elsewhere):
    np.save(tmp_path / "images.npy", IMAGES)
    elsewhere(
        """
import numpy as np
import exporter

model = exporter.load(sys.argv[1])
images = np.load(sys.argv[2] + "/images.npy")
for step in range(2):
    np.save(f"{sys.argv[2]}/trained-{step}.npy", model.train_step(images))
np.save(f"{sys.argv[2]}/evaluated.npy", model.signatures["evaluate"](images)["output_0"])
np.save(f"{sys.argv[2]}/mean.npy", model.norm.mean)
np.save(f"{sys.argv[2]}/count.npy", model.dropout.rngs.count)
assert "flax" not in sys.modules
""",
        saved_network,
        tmp_path,
    )
    reference = network()
    wanted = {
        "trained-0": trained(reference, IMAGES),
        "trained-1": trained(reference, IMAGES),
        "evaluated": evaluated(reference, IMAGES),
        "mean": reference.norm.mean[...],
        "count": jnp.uint32(2),
    }
    for name, value in wanted.items():
        assert_same(np.load(tmp_path / f"{name}.npy"), np.asarray(value))
