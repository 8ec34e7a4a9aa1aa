"""Signatures as ONNX, run by onnxruntime and compared with plain JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import TensorSpec, Variable

pytest.importorskip("onnx", reason="onnx is not installed: its format is not checked")
onnxruntime = pytest.importorskip(
    "onnxruntime", reason="onnxruntime is not installed: its format is not checked"
)

RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(size=(16, 16)).astype(np.float32)
KERNEL = RANDOM.normal(size=(3, 3, 3, 4)).astype(np.float32)


def attention(x):
    queries = jnp.einsum("bid,de->bie", x, WEIGHTS)
    scores = jax.nn.softmax(jnp.einsum("bid,bjd->bij", queries, x) / 4)
    y = jnp.einsum("bij,bjd->bid", scores, x)
    y = (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-5)
    return jax.nn.gelu(y)


def convolution(x):
    y = jax.lax.conv_general_dilated(
        x, KERNEL, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    y = (y - y.mean((0, 1, 2))) * jax.lax.rsqrt(y.var((0, 1, 2)) + 1e-5)
    window = (1, 2, 2, 1)
    return (
        jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, window, window, "VALID"),
        jax.lax.reduce_window(y, 0.0, jax.lax.add, window, (1, 1, 1, 1), "SAME"),
    )


def loops(x):
    def step(carry, _):
        inner = jax.lax.fori_loop(0, 2, lambda i, y: y * 0.5 + i * x, carry)
        return inner + 1, carry.sum()

    carry, sums = jax.lax.scan(step, x, None, length=4)
    chosen = jax.lax.cond(x.sum() > 0, lambda y: y * 2, lambda y: y - 1, x)
    return carry, sums, chosen


def integers(a, b):
    return a // 3 + 1, a % 5, a << 2, b & (a > 2), a.astype(jnp.int8)


class Model:
    def __init__(self):
        self.count = Variable(jnp.int32(0), trainable=False)

    @exporter.function(input_signature=[TensorSpec((3,), "float32", name="x")])
    def step(self, x):
        self.count.value += 1
        return {"y": x * self.count.value}


def _saved(path, function, arrays):
    specs = [TensorSpec(one.shape, one.dtype.name) for one in arrays]
    model = Model()
    model.function = exporter.function(function, input_signature=specs)
    exporter.save(model, path, {"serving_default": model.function})
    return path


@pytest.mark.parametrize(
    ("function", "arrays"),
    [
        (attention, [RANDOM.normal(size=(2, 5, 16)).astype(np.float32)]),
        (convolution, [RANDOM.normal(size=(2, 8, 8, 3)).astype(np.float32)]),
        (loops, [RANDOM.normal(size=(3, 4)).astype(np.float32)]),
        (integers, [np.arange(-3, 4, dtype=np.int32), np.arange(7) % 2 == 0]),
    ],
)
def test_onnxruntime_computes_what_jax_does(tmp_path, function, arrays):
    file = tmp_path / "m.onnx"
    exporter.convert(_saved(tmp_path / "m", function, arrays), "onnx", file)
    session = onnxruntime.InferenceSession(file)
    names = [one.name for one in session.get_inputs()]
    found = session.run(None, dict(zip(names, arrays, strict=True)))
    expected = jax.tree.leaves(jax.jit(function)(*arrays))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


def test_state_goes_into_onnx_and_comes_out(tmp_path):
    model = Model()
    exporter.save(model, tmp_path / "m", {"serving_default": model.step})
    exporter.convert(tmp_path / "m", "onnx", tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    given = {"x": np.ones(3, np.float32), "state/count": np.int32(41)}
    y, count = session.run(["y", "state/count_out"], {k: np.asarray(v) for k, v in given.items()})
    assert y.tolist() == [42, 42, 42]
    assert count == 42


def test_an_operation_without_translation_is_named_and_nothing_is_written(tmp_path):
    folder = _saved(tmp_path / "m", lambda x: jnp.abs(jnp.fft.rfft(x)), [np.ones(8, np.float32)])
    with pytest.raises(exporter.ConversionError, match="ONNX has no operators here for fft"):
        exporter.convert(folder, "onnx", tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()
