"""State that is assigned, or arrays that are left, inside what JAX traces by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import StateError, TensorSpec, TracingError, Variable, function

SCALAR = TensorSpec((), "float32")


class Holder:
    def __init__(self):
        self.rate = Variable(jnp.float32(100), name="rate")
        self.v = Variable(jnp.float32(1))
        self.plain = jnp.float32(1)


def in_cond(self, x):
    def then():
        self.v.value = x * 5
        return x

    return jax.lax.cond(x > 0, then, lambda: x) + self.rate.value


def constant_in_cond(self, x):
    def then():
        self.v.value = 5.0
        return x

    return jax.lax.cond(x > 0, then, lambda: x)


def in_scan(self, x):
    def step(carry, _):
        self.v.value = carry
        return carry + 1, None

    return jax.lax.scan(step, x, None, length=3)[0]


def in_while(self, x):
    def body(c):
        self.v.value = self.v.value + c
        return c - 1

    return jax.lax.while_loop(lambda c: c > 0, body, x)


def in_jit(self, x):
    @jax.jit
    def inner(y):
        self.v.value = y
        return y

    return inner(x)


def in_grad(self, x):
    def loss(y):
        self.v.value = y
        return y * y

    return jax.grad(loss)(x)


def in_vmap(self, x):
    def one(y):
        self.v.value = y
        return y

    return jax.vmap(one)(jnp.stack([x, x])).sum()


def in_checkpoint(self, x):
    def inner(y):
        self.v.value = y
        return y

    return jax.checkpoint(inner)(x)


def attribute_in_cond(self, x):
    def then():
        self.plain = x * 5
        return x

    return jax.lax.cond(x > 0, then, lambda: x)


def returned(self, x):
    kept = []

    def then():
        kept.append(x * 5)
        return x

    jax.lax.cond(x > 0, then, lambda: x)
    return kept[0]


VARIABLES = (
    in_cond,
    constant_in_cond,
    in_scan,
    in_while,
    in_jit,
    in_grad,
    in_vmap,
    in_checkpoint,
)


def model_of(python):
    class Model(Holder):
        f = function(python, input_signature=[SCALAR])

    return Model()


def refused(python, tmp_path):
    """The errors of calling, checking and saving, which say the same."""
    texts = []
    for attempt in (
        lambda: model_of(python).f(2.0),
        lambda: exporter.save(model_of(python), tmp_path / "m", platforms=("cpu",)),
    ):
        with pytest.raises((StateError, TracingError)) as caught:
            attempt()
        texts.append(str(caught.value).removeprefix("self."))
    assert not exporter.check(model_of(python), platforms=("cpu",)).ok
    assert texts[0] == texts[1]
    assert not (tmp_path / "m").exists()
    return texts[0]


END = "the value would not outlive it. Return the value from there and assign it outside."


@pytest.mark.parametrize("python", VARIABLES, ids=lambda one: one.__name__)
def test_a_variable_is_not_assigned_inside_what_jax_traces_by_itself(python, tmp_path):
    text = refused(python, tmp_path)
    assert text.startswith("a Variable of float32[] is assigned inside a function that JAX traces")
    assert text.endswith(END)


def test_an_attribute_is_not_left_holding_an_array_of_an_inner_trace(tmp_path):
    text = refused(attribute_in_cond, tmp_path)
    assert text.startswith("plain is assigned inside a function that JAX traces by itself")


def test_an_array_of_an_inner_trace_is_not_returned(tmp_path):
    text = refused(returned, tmp_path)
    assert text.startswith("returned returns an array that was made inside a function that JAX")


def test_a_refused_function_leaves_the_object_as_it_was():
    model = model_of(in_cond)
    with pytest.raises(StateError):
        model.f(2.0)
    assert (float(model.v), float(model.rate), float(model.plain)) == (1, 100, 1)


def test_variables_made_inside_may_be_assigned_there_and_carried_values_outside(reload):
    class Model(Holder):
        @function(input_signature=[SCALAR])
        def f(self, x):
            def step(carry, _):
                local = Variable(carry)
                local.value = local.value * 2
                return local.value, None

            total, _ = jax.lax.scan(step, x, None, length=3)
            self.v.value = jax.lax.cond(x > 0, lambda: total, lambda: self.v.value)
            return self.v.value

    loaded = reload(Model())
    assert float(loaded.f(2.0)) == 16
    assert float(loaded.f(-2.0)) == 16
    np.testing.assert_array_equal(loaded.v, 16)
