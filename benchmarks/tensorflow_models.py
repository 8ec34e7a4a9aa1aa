"""The same networks for TensorFlow, saved by it. Nothing here imports JAX."""

from pathlib import Path
from typing import Any

import tensorflow as tf

import parameters


class Transformer(tf.Module):
    """The encoder of `models.encode`."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        tree = parameters.transformer(layers)
        self.words = tf.Variable(tree["words"])
        self.positions = tf.Variable(tree["positions"])
        self.layers = [
            {name: tf.Variable(value) for name, value in layer.items()} for layer in tree["layers"]
        ]

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32, name="ids")])
    def encode(self, ids: tf.Tensor) -> dict[str, tf.Tensor]:
        length = tf.shape(ids)[1]
        x = tf.gather(self.words, ids) + tf.gather(self.positions, tf.range(length))
        for layer in self.layers:
            x += attention(layer, normal(x) * layer["scale"])
            hidden = tf.nn.gelu(normal(x) @ layer["expand"] + layer["bias"], approximate=True)
            x += hidden @ layer["contract"]
        return {"output_0": tf.reduce_mean(normal(x), axis=1)}


def normal(x: tf.Tensor) -> tf.Tensor:
    mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + 1e-6)


def attention(layer: dict[str, tf.Variable], x: tf.Tensor) -> tf.Tensor:
    shape, heads = tf.shape(x), parameters.HEADS
    size = parameters.WIDTH // heads
    query, key, value = (
        tf.transpose(tf.reshape(x @ layer[name], (shape[0], shape[1], heads, size)), (0, 2, 1, 3))
        for name in ("query", "key", "value")
    )
    weights = tf.nn.softmax(tf.matmul(query, key, transpose_b=True) / size**0.5)
    return tf.reshape(tf.transpose(weights @ value, (0, 2, 1, 3)), shape) @ layer["out"]


class Total(tf.Module):
    """The sum of `models.add`."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.terms = [tf.Variable(one) for one in parameters.terms(count)]

    @tf.function(input_signature=[tf.TensorSpec((None, 64), tf.float32, name="x")])
    def add(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        for term in self.terms:
            x += term
        return {"output_0": x}


def save(model: tf.Module, function: Any, folder: Path) -> None:
    tf.saved_model.save(model, str(folder), signatures={"serving_default": function})


def save_transformer(folder: str, layers: int) -> None:
    model = Transformer(layers)
    save(model, model.encode, Path(folder))
