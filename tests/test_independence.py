"""Whether the rows of a function stay apart: proved for the usual ones, never for those that mix.

A "yes" is checked by what it means: the function of two batches, one after the other, is what it is
of each. So no function here is row-wise because the table says so.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from exporter.jax_internals import symbolic_scope
from exporter.staging.independence import row_wise
from signatures.spec import Dim

W = jnp.arange(12.0).reshape(3, 4) / 7
TABLE = jnp.arange(20.0).reshape(10, 2)


@jax.custom_jvp
def clipped(x):
    return jnp.clip(x, -1, 1)


clipped.defjvp(lambda primals, tangents: (clipped(*primals), tangents[0]))


@jax.custom_vjp
def reversing(x):
    return x


reversing.defvjp(lambda x: (x, None), lambda _, g: (-g,))


def cell(x):
    """A recurrent network over the second axis of `float32[b, 3]`."""

    def step(carry, column):
        carry = jnp.tanh(carry + column)
        return carry, carry * 2

    last, every = lax.scan(step, jnp.zeros(x.shape[:1]), x.T)
    return last, every.T


def convolved(x):
    image = x[:, None, :, None]
    kernel = jnp.ones((1, 2, 1, 2))
    return lax.conv_general_dilated(
        image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def pooled(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2), (1, 1), "VALID")


def attention(x):
    heads = (x @ W).reshape(-1, 2, 2)
    scores = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", heads, heads))
    return jnp.einsum("bqk,bkd->bqd", scores, heads)


def looped(x):
    return lax.fori_loop(0, 3, lambda i, y: y * 1.5 + i, x)


def looked_up(x):
    return TABLE[jnp.clip(x, 0, 9).astype(int)]


def along(x):
    return jnp.take_along_axis(x, jnp.argsort(x, axis=1), axis=1)


APART = {
    "nothing": lambda x: x,
    "elements": lambda x: jnp.where(x > 0, jnp.sin(x) ** 2, 3 / (1 + jnp.exp(-x))),
    "dense": lambda x: jax.nn.gelu(x @ W + jnp.arange(4.0)),
    "dense from the left": lambda x: jnp.einsum("fo,bf->bo", W, x),
    "softmax of features": lambda x: jax.nn.log_softmax(x, axis=-1),
    "layer norm": lambda x: (x - x.mean(1, keepdims=True)) / (x.std(1, keepdims=True) + 1),
    "sum of features": lambda x: x.sum(1),
    "best feature": lambda x: x.argmax(1),
    "sorted features": lambda x: jnp.sort(x, axis=1),
    "cumulated features": lambda x: jnp.cumsum(x, axis=1),
    "features reversed": lambda x: x[:, ::-1],
    "features sliced": lambda x: (x[:, 1:], x[:, 0], lax.dynamic_slice_in_dim(x, 1, 2, 1)),
    "features joined": lambda x: jnp.concatenate([x, 2 * x, jnp.zeros((x.shape[0], 1))], axis=1),
    "features padded": lambda x: jnp.pad(x, ((0, 0), (1, 2))),
    "features split": lambda x: jnp.split(x, 3, axis=1),
    "two transposes": lambda x: (x.T * jnp.arange(3.0)[:, None]).T,
    "reshaped behind": lambda x: jnp.stack([x, x], -1).reshape(x.shape[0], 6),
    "outer of features": lambda x: x[:, :, None] * x[:, None, :],
    "matrices": lambda x: jnp.linalg.cholesky(x[:, :, None] * x[:, None, :] + 9 * jnp.eye(3)),
    "spectrum": lambda x: jnp.abs(jnp.fft.rfft(x)),
    "set in place": lambda x: lax.dynamic_update_slice(x, 0 * x[:, :1], (0, 1)),
    "rows of a constant": lambda x: jnp.broadcast_to(jnp.arange(2.0), (x.shape[0], 2)),
    "a constant beside": lambda x: (jnp.arange(3.0), x),
    "conditional": lambda x: lax.cond(W.sum() > 0, jnp.sin, jnp.cos, x),
    "checkpointed": jax.checkpoint(lambda x: jnp.sin(jnp.sin(x))),
    "jitted": jax.jit(lambda x: jnp.sin(x) + 1),
    "custom_jvp": clipped,
    "custom_vjp": reversing,
    "mapped": jax.vmap(lambda row: row @ W),
    "gradient of each": jax.vmap(jax.grad(lambda row: jnp.tanh(row).sum())),
    "recurrent": cell,
    "convolved": convolved,
    "pooled": pooled,
    "attention": attention,
    "looped": looped,
    "looked up": looked_up,
    "along the features": along,
    "one hot": lambda x: jax.nn.one_hot(jnp.clip(x, 0, 2).argmax(1), 3),
    "half precision": lambda x: x.astype(jnp.bfloat16) @ W.astype(jnp.bfloat16),
    "complex": lambda x: lax.complex(x, -x) * 1j,
    "integer power": lambda x: x**3 + lax.rsqrt(x * x + 1),
    "stopped": lambda x: lax.stop_gradient(x) + x,
}

MIXED = {
    "mean": lambda x: x - x.mean(0),
    "sum": lambda x: x + x.sum(0),
    "mean alone": lambda x: x.mean(),
    "size": lambda x: x / x.shape[0],
    "size alone": lambda x: x + jnp.zeros(()) + x.shape[0],
    "flip": lambda x: x[::-1],
    "shift": lambda x: jnp.roll(x, 1, axis=0),
    "cumsum": lambda x: jnp.cumsum(x, axis=0),
    "softmax": lambda x: jax.nn.softmax(x, axis=0),
    "first row": lambda x: x + x[0],
    "first row by dynamic slice": lambda x: x + lax.dynamic_slice_in_dim(x, 0, 1, 0),
    "last row": lambda x: x + x[-1],
    "all but the first": lambda x: x[1:],
    "every other": lambda x: x[::2],
    "sort": lambda x: jnp.sort(x, axis=0),
    "argsort": lambda x: jnp.argsort(x, axis=0),
    "argmax": lambda x: x.argmax(0) + x,
    "batch norm": lambda x: (x - x.mean(0)) / (x.std(0) + 1),
    "rows numbered": lambda x: x + jnp.arange(x.shape[0])[:, None],
    "mixing reshape": lambda x: x.reshape(3, -1).T,
    "flat": lambda x: x.reshape(-1),
    "flat and back": lambda x: x.reshape(-1)[::-1].reshape(-1, 3),
    "transposed": lambda x: x.T,
    "covariance": lambda x: x @ (x.T @ x),
    "gram": lambda x: x @ x.T,
    "contracted": lambda x: jnp.ones((2, x.shape[0])) @ x,
    "pairs": lambda x: x[:, None] - x[None],
    "diagonal": lambda x: jnp.diagonal(x[:, None] - x[None]),
    "doubled": lambda x: jnp.concatenate([x, x]),
    "doubled and cut": lambda x: jnp.concatenate([x[1:], x[:1]]),
    "padded": lambda x: jnp.pad(x, ((1, 0), (0, 0))),
    "padded and cut": lambda x: jnp.pad(x, ((1, 0), (0, 0)))[:-1],
    "scanned": lambda x: lax.scan(lambda c, row: (c + row, c), jnp.zeros(3), x)[1],
    "while any": lambda x: lax.while_loop(lambda y: y.max() < 9, lambda y: y * 2 + 1, x),
    "a while for each": jax.vmap(
        lambda row: lax.while_loop(lambda y: y.max() < 9, lambda y: y * 2 + 1, row)
    ),
    "branch": lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x),
    "gathered by itself": lambda x: x[jnp.clip(x[:, 0], 0, 1).astype(int)],
    "scattered": lambda x: jnp.zeros((4, 3)).at[jnp.clip(x[:, 0], 0, 3).astype(int)].add(x),
    "noise": lambda x: x + jax.random.normal(jax.random.key(0), x.shape),
    "dropped out": lambda x: jnp.where(jax.random.bernoulli(jax.random.key(1), 0.5, x.shape), x, 0),
    "convolved over rows": lambda x: (
        lax.conv_general_dilated(x.T[:, None], jnp.ones((1, 1, 3)), (1,), "SAME")[:, 0].T
    ),
    "pooled over rows": lambda x: lax.reduce_window(x, 0.0, lax.add, (2, 1), (1, 1), "SAME"),
    "hidden in a jit": jax.jit(lambda x: x - x.mean(0)),
    "hidden in a checkpoint": jax.checkpoint(lambda x: x - x.mean(0)),
    "hidden in a custom_jvp": lambda x: clipped(x).sum() + x,
    "hidden in a branch": lambda x: lax.cond(W.sum() > 0, lambda y: y[::-1], jnp.cos, x),
    "hidden in a loop": lambda x: lax.fori_loop(0, 3, lambda i, y: y[::-1] + 1, x),
    "spectrum": lambda x: jnp.abs(jnp.fft.fft(x, axis=0)),
    "top": lambda x: lax.top_k(x.T, 1)[0].T + x,
    "quantile": lambda x: x - jnp.median(x, axis=0),
    "cross": lambda x: x + jnp.einsum("bi,ci->bc", x, x).sum(1, keepdims=True),
}


def answer(function, *structs, variables=0):
    traced = jax.jit(lambda *arrays: jax.tree.leaves(function(*arrays))).trace(*structs)
    return row_wise(traced.jaxpr, variables)


def batch(*axes, least=2, dtype=jnp.float32):
    (size,) = jax.export.symbolic_shape("b", scope=symbolic_scope([Dim("b", min=least)]))
    return jax.ShapeDtypeStruct((size, *axes), dtype)


@pytest.fixture(scope="module")
def results():
    """What each function makes of two batches together, of the one and of the other."""

    @jax.jit  # once for all of them: compiling one by one takes ten times as long
    def everything(one, other):
        batches = (jnp.concatenate([one, other]), one, other)
        return {
            name: [jax.tree.leaves(function(x)) for x in batches]
            for name, function in APART.items()
        }

    return everything(*np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32))


@pytest.mark.parametrize("name", APART)
def test_rows_that_stay_apart_are_seen_to(name, results):
    assert answer(APART[name], batch(3)) == "b"
    for found, left, right in zip(*results[name], strict=True):
        if len(found) == 3:  # the constant
            np.testing.assert_array_equal(found, left)
        else:  # a sum may be grouped otherwise for another number of rows
            np.testing.assert_allclose(
                found.astype("complex64"),
                np.concatenate([left, right]).astype("complex64"),
                rtol=2e-6,
                atol=2e-6,
            )


@pytest.mark.parametrize("name", MIXED)
def test_rows_that_depend_on_each_other_or_on_their_number_are_never_apart(name):
    assert answer(MIXED[name], batch(3)) is None


def test_variables_and_other_inputs_are_shared_by_all_rows():
    def function(w, x, scale):
        return [x @ w * scale, w.sum()]

    w, scale = jax.ShapeDtypeStruct((3, 2), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    assert answer(function, w, batch(3), scale, variables=1) == "b"


def test_two_dimensions_are_told_apart():
    scope = symbolic_scope([Dim("b"), Dim("t")])
    b, t = jax.export.symbolic_shape("b, t", scope=scope)
    sequence = jax.ShapeDtypeStruct((b, t, 3), jnp.float32)
    assert answer(lambda x: x - x.mean(1, keepdims=True), sequence) == "b"
    assert answer(lambda x: x / x.shape[1] + jnp.arange(x.shape[1])[:, None], sequence) == "b"
    assert answer(lambda x: x.swapaxes(0, 1), sequence) is None
    lengths = jax.ShapeDtypeStruct((t,), jnp.float32)
    assert answer(lambda n, x: x + n[:, None], lengths, sequence) == "b"
    assert answer(lambda n, x: n * 2, lengths, sequence) is None
    assert answer(lambda n, y: n * 2, lengths, batch()) == "t"


@pytest.mark.parametrize(
    ("axes", "function"),
    [
        ("b, 2*b", lambda x: x),
        ("b, b", lambda x: x.sum(1)),
        ("3, b", lambda x: x),
        ("2*b, 3", lambda x: x),
        ("b + 1, 3", lambda x: x),
    ],
)
def test_a_size_that_is_made_of_the_number_of_rows_is_none_of_rows(axes, function):
    shape = jax.export.symbolic_shape(axes, scope=symbolic_scope([Dim("b")]))
    assert answer(function, jax.ShapeDtypeStruct(shape, jnp.float32)) is None


def test_without_a_named_axis_nothing_has_rows():
    assert answer(jnp.sin, jax.ShapeDtypeStruct((4, 3), jnp.float32)) is None
    assert answer(lambda: jnp.ones(3)) is None
