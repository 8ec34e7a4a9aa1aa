"""MiniLM for TensorFlow. Nothing here imports JAX."""

from collections.abc import Mapping

import tensorflow as tf

import minilm

SPEC = tf.TensorSpec((None, None), tf.int32)


class SentenceEncoder(tf.Module):
    """One vector of length 1 for each row of token ids. Weights have their published names."""

    def __init__(self) -> None:
        super().__init__()
        config = minilm.config()
        self.heads: int = config["num_attention_heads"]
        self.layers: int = config["num_hidden_layers"]
        self.epsilon: float = config["layer_norm_eps"]
        # A matrix is turned once, here, and not in every call.
        self.weights = {
            name: tf.Variable(
                value.T if name.endswith("dense.weight") or ".self." in name else value
            )
            for name, value in minilm.parameters().items()
            if not name.startswith("pooler.")
        }

    @tf.function(input_signature=[SPEC, SPEC])
    def embed(self, ids: tf.Tensor, mask: tf.Tensor) -> Mapping[str, tf.Tensor]:
        table = "embeddings.{}_embeddings.weight".format
        x = tf.gather(self.weights[table("word")], ids)
        x += self.weights[table("position")][: tf.shape(ids)[1]]
        x += self.weights[table("token_type")][0]
        x = self.normal("embeddings.LayerNorm", x)
        unseen = tf.where(mask[:, None, None, :] > 0, 0.0, -1e9)
        for number in range(self.layers):
            x = self.layer(f"encoder.layer.{number}", x, unseen)
        weight = tf.cast(mask[:, :, None], x.dtype)
        mean = tf.reduce_sum(x * weight, 1) / tf.maximum(tf.reduce_sum(weight, 1), 1.0)
        return {"embedding": tf.math.l2_normalize(mean, axis=1, epsilon=1e-24)}

    def layer(self, name: str, x: tf.Tensor, unseen: tf.Tensor) -> tf.Tensor:
        seen = self.attention(f"{name}.attention.self", x, unseen)
        seen = self.dense(f"{name}.attention.output.dense", seen)
        x = self.normal(f"{name}.attention.output.LayerNorm", x + seen)
        hidden = tf.nn.gelu(self.dense(f"{name}.intermediate.dense", x), approximate=False)
        hidden = self.dense(f"{name}.output.dense", hidden)
        return self.normal(f"{name}.output.LayerNorm", x + hidden)

    def attention(self, name: str, x: tf.Tensor, unseen: tf.Tensor) -> tf.Tensor:
        shape, width = tf.shape(x), x.shape[2]
        heads = (shape[0], shape[1], self.heads, width // self.heads)
        query, key, value = (
            tf.transpose(tf.reshape(self.dense(f"{name}.{part}", x), heads), (0, 2, 1, 3))
            for part in ("query", "key", "value")
        )
        near = tf.matmul(query, key, transpose_b=True) / (width // self.heads) ** 0.5
        seen = tf.matmul(tf.nn.softmax(near + unseen), value)
        return tf.reshape(tf.transpose(seen, (0, 2, 1, 3)), (shape[0], shape[1], width))

    def dense(self, name: str, x: tf.Tensor) -> tf.Tensor:
        """In two dimensions, for which TensorFlow fuses the bias."""
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        shape = tf.shape(x)
        flat = tf.matmul(tf.reshape(x, (-1, weight.shape[0])), weight)
        flat = tf.nn.bias_add(flat, bias)
        return tf.reshape(flat, (shape[0], shape[1], weight.shape[1]))

    def normal(self, name: str, x: tf.Tensor) -> tf.Tensor:
        mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
        return tf.nn.batch_normalization(
            x,
            mean,
            variance,
            self.weights[f"{name}.bias"],
            self.weights[f"{name}.weight"],
            self.epsilon,
        )
