"""Flax NNX models as people write them: undecorated, lifted, compiled, split, trained.

Every loaded result is compared with the same model under `nnx.jit`, several calls in a row, and the
state after them. The tolerance allows for another order of additions in the fused loops of another
version of XLA.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import exporter
from exporter import TensorSpec, function

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(3, 4)).astype(np.float32)
IMAGES = RNG.normal(size=(2, 8, 8, 1)).astype(np.float32)
TOKENS = RNG.integers(0, 7, (1, 4)).astype(np.int32)


def spec(*shape, dtype="float32", name=None):
    return TensorSpec(shape, dtype, name=name)


def words(value):
    is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(value) if is_key else value


def assert_same(found, wanted):
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_allclose(words(left), words(right), rtol=1e-4, atol=1e-5)


def state_of(module):
    """The arrays of a module by path, keys as text, as `loaded.variables` has them."""
    pure = nnx.to_pure_dict(nnx.state(module))
    flat = nnx.traversals.flatten_mapping(pure)
    return nnx.traversals.unflatten_mapping({tuple(map(str, p)): v for p, v in flat.items()})


class Block(nnx.Module):
    """Every kind of state of a layer."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(nnx.relu(self.norm(self.linear(x))))


class Stack(nnx.Module):
    """Layers made by `nnx.vmap`, run by `nnx.scan`."""

    def __init__(self, rngs):
        self.blocks = nnx.split_rngs(splits=3)(nnx.vmap(Block))(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def run(block, x):
            return block(x)

        return run(self.blocks, x)


class Ensemble(Stack):
    def __call__(self, x):
        return nnx.vmap(lambda block, x: block(x), in_axes=(0, None))(self.blocks, x)


class Compiled(nnx.Module):
    def __init__(self, rngs):
        self.block = Block(rngs)
        self.calls = nnx.Variable(jnp.int32(0))

    @nnx.jit
    def __call__(self, x):
        self.calls[...] += 1
        return self.block(x)


class Chooses(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 2, rngs=rngs)
        self.positive = nnx.Variable(jnp.int32(0))

    def __call__(self, x):
        def count(module):
            module.positive[...] += 1

        nnx.cond(x.sum() > 0, count, lambda module: None, self)
        return nnx.remat(lambda module, x: module.linear(x))(self, x)


class Streams(nnx.Module):
    """An LSTM whose carry goes on from call to call, a variable of two arrays."""

    def __init__(self, rngs):
        self.cell = nnx.OptimizedLSTMCell(4, 3, rngs=rngs)
        self.carry = nnx.Cache(self.cell.initialize_carry((3, 4), rngs))

    def __call__(self, x):
        carry, y = self.cell(self.carry.get_value(), x)
        self.carry.set_value(carry)
        return y


class Shares(nnx.Module):
    def __init__(self, rngs):
        self.first = Block(rngs)
        self.all = nnx.List([self.first, nnx.List([Block(rngs), self.first])])
        self.scales = nnx.Dict(inner=nnx.List([nnx.Param(jnp.full(4, 2.0))]))

    def __call__(self, x):
        return self.all[1][1](self.all[1][0](self.all[0](x))) * self.scales["inner"][0]


class Normalised(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.SpectralNorm(nnx.Linear(4, 2, rngs=rngs), rngs=rngs)

    def __call__(self, x):
        return self.norm(x, update_stats=True)


class Forks(nnx.Module):
    def __init__(self, rngs):
        self.rngs = rngs

    def __call__(self, x):
        forked = self.rngs.split(2)
        drawn = nnx.vmap(lambda rngs: jax.random.normal(rngs.noise(), (4,)))(forked)
        other = self.rngs.fork()
        return (
            x
            + drawn.sum(0)
            + jax.random.normal(other.noise(), (4,))
            + jax.random.normal(self.rngs.noise(), (4,))
        )


def sequence(rngs):
    return nnx.Sequential(nnx.Linear(4, 3, rngs=rngs), nnx.relu, nnx.Linear(3, 2, rngs=rngs))


def adapted(rngs):
    return nnx.LoRA(4, 2, 2, base_module=nnx.Linear(4, 2, rngs=rngs), rngs=rngs)


def bridged(rngs):
    return nnx.bridge.lazy_init(nnx.bridge.ToNNX(nn.Dense(2), rngs=rngs), ROWS)


MODELS = [
    Block, Stack, Ensemble, Compiled, Chooses, Streams, Shares, Normalised, Forks, sequence,
    adapted, bridged,
]  # fmt: skip


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_undecorated_models_agree_call_after_call_and_in_their_state(make, reload):
    original, reference = (make(nnx.Rngs(0, dropout=1, noise=2)) for _ in range(2))
    loaded = reload(original, input_signature=[spec(3, 4, name="x")])
    assert_same(state_of(original), state_of(reference))
    call = nnx.jit(lambda module, x: module(x))
    for step in range(3):
        wanted = call(reference, ROWS + step)
        assert_same(loaded.signatures["serving_default"](x=ROWS + step)["output_0"], wanted)
    if make is Normalised:  # its keys are paths
        assert set(loaded.variables["norm"]["batch_stats"]) == {"kernel/u", "kernel/sigma"}
    elif make is Shares:  # variables have one of their paths
        assert loaded.first is loaded.all[0] is loaded.all[1][1]
        assert_same(loaded.first.norm.mean, reference.first.norm.mean[...])
    else:
        assert_same(loaded.variables, state_of(reference))


@pytest.mark.parametrize("training", [True, False])
def test_an_undecorated_model_keeps_the_mode_it_is_saved_in(training, reload):
    original = Block(nnx.Rngs(0))
    original.train() if training else original.eval()
    loaded = reload(original, input_signature=[spec("batch", 4)])
    wanted = nnx.jit(lambda module, x: module(x))(original, ROWS)
    assert_same(loaded(ROWS), wanted)
    assert bool(loaded.manifest.programs[0].updates) is training


@pytest.mark.parametrize("filters", [(), (nnx.Param, ...), (nnx.Param, nnx.BatchStat, ...)])
def test_a_model_that_was_split_is_saved_as_the_whole(filters, reload):
    original = Block(nnx.Rngs(0))
    original.eval()
    loaded = reload(nnx.split(original, *filters), input_signature=[spec("batch", 4)])
    assert_same(loaded(ROWS), original(ROWS))
    assert_same(loaded.variables, state_of(original))
    assert loaded.norm.mean.collection == "BatchStat"


class Flagged(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x, *, train: bool, scale=2.0):
        return self.linear(x) * scale if train else x[:, :2]


@pytest.mark.parametrize("train", [True, False])
def test_flags_of_the_forward_pass_are_baked_in(train, reload):
    original = Flagged(nnx.Rngs(0))
    loaded = reload(original, input_signature={"x": spec("batch", 4), "train": train})
    assert_same(loaded(ROWS), jnp.asarray(original(ROWS, train=train)))
    assert_same(loaded(ROWS, train=train), loaded(ROWS))


class Decorated(nnx.Module):
    """Methods that NNX compiles or transforms itself, under our decorator."""

    def __init__(self, rngs):
        self.block = Block(rngs)
        self.optimizer = nnx.Optimizer(self.block, optax.adam(0.1), wrt=nnx.Param)

    @function(input_signature=[spec("batch", 4)])
    @nnx.jit
    def compiled(self, x):
        return self.block(x)

    @function(input_signature=[spec("batch", 4)])
    @nnx.remat
    def recomputed(self, x):
        return self.block(x)

    @function(input_signature=[spec("batch", 4), spec("batch", 4)])
    def train(self, x, y):
        loss, gradients = nnx.value_and_grad(lambda block: ((block(x) - y) ** 2).mean())(self.block)
        self.optimizer.update(self.block, gradients)
        return loss


def test_compiled_recomputed_and_trained_under_the_decorator(reload):
    original, reference = (Decorated(nnx.Rngs(0)) for _ in range(2))
    loaded = reload(original, {"train": original.train})
    forward = nnx.jit(lambda module, x: module.block(x))
    train = nnx.jit(Decorated.train.python_function)
    for _ in range(2):
        wanted = train(reference, ROWS, ROWS)
        assert_same(loaded.train(ROWS, ROWS), wanted)
        for name in ("compiled", "recomputed"):
            assert_same(getattr(loaded, name)(ROWS), forward(reference, ROWS))
    assert_same(loaded.variables, state_of(reference))
    assert int(loaded.optimizer.step) == 2


# Models as Flax's own examples have them, small.


class CNN(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Conv(1, 2, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.dropout = nnx.Dropout(0.25)
        self.out = nnx.Linear(32, 3, rngs=rngs)

    def __call__(self, x, rngs=None):
        x = nnx.avg_pool(nnx.relu(self.norm(self.conv1(x))), (2, 2), (2, 2))
        return self.out(self.dropout(x.reshape(x.shape[0], -1), rngs=rngs))


class Residual(nnx.Module):
    def __init__(self, rngs):
        self.convs = nnx.List([nnx.Conv(1, 1, (3, 3), rngs=rngs) for _ in range(2)])
        self.norms = nnx.List([nnx.BatchNorm(1, rngs=rngs) for _ in range(2)])

    def __call__(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(x + norm(conv(x)))
        return x.mean((1, 2))


class VAE(nnx.Module):
    def __init__(self, rngs):
        self.encoder = nnx.Linear(64, 4, rngs=rngs)
        self.decoder = nnx.Linear(2, 64, rngs=rngs)
        self.rngs = rngs.fork()

    def __call__(self, images):
        mean, deviation = jnp.split(self.encoder(images.reshape(-1, 64)), 2, axis=-1)
        z = mean + jnp.exp(deviation) * self.rngs.noise.normal(mean.shape)
        return {"images": nnx.sigmoid(self.decoder(z)), "mean": mean}


class Decoder(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(7, 4, rngs=rngs)
        self.norm = nnx.RMSNorm(4, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 4, 4, rngs=rngs, decode=True)
        self.attention.init_cache((1, 4, 4))

    def __call__(self, token):
        x = self.embed(token)
        return self.embed.attend(x + self.attention(self.norm(x)))


@pytest.mark.parametrize(
    ("make", "inputs", "axes"),
    [
        (Residual, [IMAGES] * 2, ("batch", 8, 8, 1)),
        (VAE, [IMAGES] * 2, (2, 8, 8, 1)),
        (Decoder, [TOKENS[:, i : i + 1] for i in range(4)], (1, 1)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_models_of_the_examples(make, inputs, axes, reload):
    reference = make(nnx.Rngs(0, noise=1))
    original = make(nnx.Rngs(0, noise=1))
    declared = [spec(*axes, dtype=inputs[0].dtype.name)]
    loaded = reload(original, input_signature=declared)
    call = nnx.jit(lambda module, x: module(x))
    for one in inputs:
        assert_same(loaded(one), call(reference, one))
    assert_same(loaded.variables, state_of(reference))


def test_a_process_without_flax_runs_an_undecorated_model_in_training_mode(tmp_path, elsewhere):
    original = CNN(nnx.Rngs(0))
    original.dropout.deterministic = True
    exporter.save(
        original,
        tmp_path / "m",
        input_signature=[spec("batch", 8, 8, 1)],
        platforms=("cpu",),
    )
    np.save(tmp_path / "images.npy", IMAGES)
    elsewhere(
        """
import numpy as np
import exporter

model = exporter.load(sys.argv[1] + "/m")
images = np.load(sys.argv[1] + "/images.npy")
np.save(sys.argv[1] + "/out.npy", model(images))
np.save(sys.argv[1] + "/mean.npy", model.norm.mean)
assert "flax" not in sys.modules
""",
        tmp_path,
    )
    wanted = nnx.jit(lambda module, x: module(x))(original, IMAGES)
    assert_same(np.load(tmp_path / "out.npy"), wanted)
    assert_same(np.load(tmp_path / "mean.npy"), original.norm.mean[...])
