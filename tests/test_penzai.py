"""Penzai, a library that nothing here knows: its layers are registered, its variables objects."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exporter import TensorSpec, function

pz = pytest.importorskip("penzai.pz", reason="penzai is not installed", exc_type=ImportError)
simple_mlp = pytest.importorskip("penzai.models.simple_mlp", exc_type=ImportError)

X = np.array([1, 2], np.float32)


def mlp():
    return simple_mlp.MLP.from_config(
        name="mlp", init_base_rng=jax.random.key(0), feature_sizes=[2, 3, 2]
    )


def called(model, x):
    return model(pz.nx.wrap(x).tag("features")).untag("features").unwrap()


class Holder:
    """A model with its parameters in it, and one whose parameters are held apart."""

    def __init__(self):
        self.model = mlp()
        self.unbound, self.values = pz.unbind_params(mlp(), freeze=True)
        self.count = pz.StateVariable(value=jnp.zeros(2), label="count")

    @function(input_signature=[TensorSpec((2,), "float32")])
    def run(self, x):
        self.count.value = self.count.value + x
        return called(self.model, x) * self.count.value

    @function(input_signature=[TensorSpec((2,), "float32")])
    def update(self, x):
        self.values = jax.tree.map(lambda one: one * 2, self.values)
        return called(pz.bind_variables(self.unbound, self.values), x)

    @function(input_signature=[TensorSpec((2,), "float32")])
    def double(self, x):
        named = pz.select(self.values).at_instances_of(pz.nx.NamedArray)
        self.values = named.apply(lambda one: one + 1)
        return x * named.count()


def test_layers_and_variables_are_state_without_a_file_of_their_own(reload):
    original, plain = Holder(), Holder()
    loaded = reload(original, {})
    for name in ("run", "update", "double", "update", "run"):
        wanted = getattr(plain, name).call(X)
        for model in (original, loaded):
            np.testing.assert_allclose(getattr(model, name)(X), wanted, rtol=1e-5)
    np.testing.assert_array_equal(jax.tree.leaves(loaded.variables["count"])[0], 2 * X)
