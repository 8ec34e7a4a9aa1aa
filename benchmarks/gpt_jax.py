"""The decoder of `gpt.py` in JAX: as a class that this library saves, and by hand."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import exporter
import gpt
from exporter import TensorSpec, Variable

# Numbers of all libraries are compared, so none of them may round products to fewer digits.
jax.config.update("jax_default_matmul_precision", "highest")

# A prompt has to fit into the smallest cache of `gpt.SIZES`.
TOKENS = exporter.Dim("tokens", max=128)

Tree = Any


def empty_cache(size: gpt.Size) -> Tree:
    """The keys and values of each layer, `float32[1, heads, length, width / heads]`."""
    shape = (1, size.heads, size.length, size.width // size.heads)
    layers = range(size.layers)
    return [{"key": jnp.zeros(shape), "value": jnp.zeros(shape)} for _ in layers]


def extended(tree: Tree, cache: Tree, start: jax.Array, ids: jax.Array) -> tuple[Tree, jax.Array]:
    """The cache with `ids`, int32[1, tokens], from `start` on, and the logits after the last."""
    here = start + jnp.arange(ids.shape[1])
    x = tree["words"][ids] + tree["positions"][here]
    new_cache = []
    for layer, kept in zip(tree["layers"], cache, strict=True):
        new_kept, seen = attended(layer, kept, here, normal(layer["attention_norm"], x))
        x = x + dense(layer["attention_out"], seen)
        hidden = jax.nn.gelu(dense(layer["expand"], normal(layer["hidden_norm"], x)))
        x = x + dense(layer["contract"], hidden)
        new_cache.append(new_kept)
    return new_cache, normal(tree["norm"], x[:, -1]) @ tree["words"].T


def attended(layer: Tree, kept: Tree, here: jax.Array, x: jax.Array) -> tuple[Tree, jax.Array]:
    _, heads, length, size = kept["key"].shape
    parts = dense(layer["attention"], x).reshape(1, x.shape[1], 3, heads, size)
    query, key, value = (parts[:, :, part].swapaxes(1, 2) for part in range(3))
    kept = {
        name: jax.lax.dynamic_update_slice_in_dim(kept[name], new, here[0], axis=2)
        for name, new in (("key", key), ("value", value))
    }
    near = query @ kept["key"].swapaxes(2, 3) / size**0.5
    near = jnp.where(jnp.arange(length) <= here[:, None], near, -jnp.inf)
    seen = jax.nn.softmax(near) @ kept["value"]
    return kept, seen.swapaxes(1, 2).reshape(x.shape)


def normal(norm: Tree, x: jax.Array) -> jax.Array:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + gpt.EPSILON) * norm["scale"] + norm["bias"]


def dense(layer: Tree, x: jax.Array) -> jax.Array:
    return x @ layer["kernel"] + layer["bias"]


def prefilled(tree: Tree, state: Tree, ids: jax.Array) -> tuple[Tree, dict[str, jax.Array]]:
    """The state after a prompt, whatever was there before, and what comes next."""
    cache, logits = extended(tree, state["cache"], jnp.int32(0), ids)
    token = logits.argmax(-1).astype(jnp.int32)
    return {"cache": cache, "count": jnp.int32(ids.shape[1])}, {"token": token, "logits": logits}


def stepped(tree: Tree, state: Tree, token: jax.Array) -> tuple[Tree, jax.Array]:
    """The state after one more token, int32[1], and the token after it."""
    cache, logits = extended(tree, state["cache"], state["count"], token[:, None])
    token = logits.argmax(-1).astype(jnp.int32)
    return {"cache": cache, "count": state["count"] + 1}, token


class Decoder:
    """The decoder with its cache as variables, which a loaded model writes back."""

    def __init__(self, size: gpt.Size) -> None:
        self.parameters = jax.tree.map(jnp.asarray, gpt.parameters(size))
        self.cache = jax.tree.map(lambda one: Variable(one, trainable=False), empty_cache(size))
        self.count = Variable(jnp.int32(0), trainable=False)

    @property
    def state(self) -> Tree:
        cache = [{name: one.value for name, one in kept.items()} for kept in self.cache]
        return {"cache": cache, "count": self.count.value}

    def keep(self, state: Tree) -> None:
        self.count.value = state["count"]
        for kept, new in zip(self.cache, state["cache"], strict=True):
            for name, value in new.items():
                kept[name].value = value

    @exporter.function(input_signature=[TensorSpec((1, TOKENS), jnp.int32, name="ids")])
    def prefill(self, ids: jax.Array) -> dict[str, jax.Array]:
        state, result = prefilled(self.parameters, self.state, ids)
        self.keep(state)
        return result

    @exporter.function(input_signature=[TensorSpec((1,), jnp.int32, name="token")])
    def step(self, token: jax.Array) -> dict[str, jax.Array]:
        state, token = stepped(self.parameters, self.state, token)
        self.keep(state)
        return {"token": token}


def prepare(size: str, folder: str) -> None:
    """Save the decoder for any length of prompt."""
    decoder = Decoder(gpt.SIZES[size])
    signatures = {"prefill": decoder.prefill, "step": decoder.step}
    exporter.save(decoder, folder, signatures)


def loaded(size: str, folder: str, prompt: int, tokens: int) -> Callable[[], Any]:
    """The saved decoder: what follows a prompt, and `tokens` more."""
    model = exporter.load(folder)
    prefill, step = model.signatures["prefill"], model.signatures["step"]
    ids = jnp.asarray(gpt.prompt(gpt.SIZES[size], prompt))

    def generate() -> Any:
        first = prefill(ids=ids)
        found = [first["token"]]
        for _ in range(tokens):
            found.append(step(token=found[-1])["token"])
        return {"logits": first["logits"], "tokens": found}

    return generate


def original(size: str, folder: str, prompt: int, tokens: int) -> Callable[[], Any]:  # noqa: ARG001  # all sides are called alike
    """`jax.jit` of the functions themselves; the state's memory is given away at each call."""
    sizes = gpt.SIZES[size]
    tree = jax.tree.map(jnp.asarray, gpt.parameters(sizes))
    prefill, step = (jax.jit(one, donate_argnums=1) for one in (prefilled, stepped))
    ids = jnp.asarray(gpt.prompt(sizes, prompt))
    held = {"cache": empty_cache(sizes), "count": jnp.int32(0)}

    def generate() -> Any:
        nonlocal held
        held, first = prefill(tree, held, ids)
        found = [first["token"]]
        for _ in range(tokens):
            held, token = step(tree, held, found[-1])
            found.append(token)
        return {"logits": first["logits"], "tokens": found}

    return generate
