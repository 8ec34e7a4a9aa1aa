"""Write the golden artifact of the running release of JAX, with calls and their results beside it.

    python tests/golden/write.py tests/golden

writes `format_1_jax_0_12/`, an artifact that holds something of everything, and
`format_1_jax_0_12.json`: calls in order, with their inputs and what NumPy makes of them. What
stands in `tests/golden` is never written again: it is what a release has promised to read.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

import exporter
from exporter import Dim, TensorSpec, Variable
from exporter.artifact.records import FORMAT_VERSION

KERNEL = np.arange(12, dtype=np.float32).reshape(3, 4) / 8
BIAS = np.array([1, -1, 0.5, 2], np.float32)
SHIFT = np.array([0.5, -2, 3], ml_dtypes.bfloat16)


class Pair(NamedTuple):
    """A namedtuple, which comes back by the names of its fields."""

    low: object
    high: object


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Point:
    """An object of a registered class, which comes back as a namedtuple."""

    x: object
    label: str = dataclasses.field(default="", metadata={"static": True})


class Layer:
    """A plain object inside the model."""

    def __init__(self) -> None:
        """Two arrays, one of them mutable."""
        self.kernel = jnp.asarray(KERNEL)
        self.bias = Variable(BIAS, name="bias")

    @exporter.function(input_signature=[TensorSpec((Dim("batch", max=8), 3))])
    def apply(self, x: jax.Array) -> jax.Array:
        """Multiply and add."""
        return x @ self.kernel + self.bias


class Golden:
    """One model with something of everything that the format can express."""

    def __init__(self) -> None:
        """Variables of many kinds in places of many kinds, and a file."""
        self.words = exporter.Asset(Path(__file__).with_name("words.txt"))
        self.layers = [Layer(), {"dotted.key": jnp.asarray(SHIFT), 7: (jnp.ones(2), None)}]
        self.alias = self.layers[0]
        self.myself = self
        self.count = Variable(jnp.int32(0), trainable=False)
        self.key = jax.random.key(5)
        self.pair = Pair(jnp.zeros((0, 3)), jnp.arange(5, dtype=jnp.int32).astype(jnp.uint4))

    @exporter.function(
        input_signature=[TensorSpec((2, 3), name="x"), TensorSpec((), name="scale")], default=True
    )
    def fixed(self, x: jax.Array, scale: float = 0.5) -> dict[str, jax.Array]:
        """Fixed axes, and an input that may be left out."""
        return {"y": self.layers[0].apply(x) * scale, "total": x.sum()}

    @exporter.function(
        input_signature=[TensorSpec((Dim("n", min=2, max=64, multiple_of=2),), "int32")]
    )
    def halves(self, x: jax.Array, mode: str = "both") -> tuple[jax.Array, jax.Array]:
        """Named axes, bounds, expressions, and a Python value."""
        assert mode == "both"
        return x.reshape(x.shape[0] // 2, 2).sum(1), jnp.concatenate([x, x[:1]])

    @exporter.function(input_signature=[TensorSpec(None, max_rank=2)])
    def any_rank(self, x: jax.Array) -> jax.Array:
        """Any number of axes up to two."""
        return 2 * x + 1

    @exporter.function(input_signature=[TensorSpec((), "int32")])
    def add(self, step: jax.Array) -> jax.Array:
        """Changed state."""
        self.count.value += step
        return self.count.value

    @exporter.function(input_signature=[])
    def draw(self) -> jax.Array:
        """A random key that changes with every call."""
        self.key, now = jax.random.split(self.key)
        return jax.random.bits(now, (3,))

    @exporter.function(input_signature=[TensorSpec((3, 3))])
    def factor(self, x: jax.Array) -> jax.Array:
        """Linear algebra: native code that JAX promises to keep."""
        return jnp.linalg.cholesky(x)

    @exporter.function(input_signature=[TensorSpec((6,))])
    def best(self, x: jax.Array) -> Sequence[jax.Array]:
        """An operation that StableHLO learnt after its oldest version."""
        return jax.lax.top_k(x, 2)

    @exporter.function(input_signature=[TensorSpec((None,), "bfloat16")])
    def half(self, x: jax.Array) -> jax.Array:
        """Small floats, and an axis without a name."""
        return x[:, None] + self.layers[1]["dotted.key"]

    @exporter.function(input_signature=[TensorSpec((2,))])
    def nested(self, x: jax.Array) -> object:
        """Every container."""
        small = self.pair.high.astype(jnp.int32)
        return {"a": [x, (None, x + 1)], 3: Pair(small, {"deep": x[0]})}

    @exporter.function(input_signature=[Point(TensorSpec(("n",)), "in")])
    def moved(self, point: Point) -> Point:
        """An object of a class of its own."""
        return Point(point.x + 1, "out")

    @exporter.function(input_signature=[TensorSpec(("n", 2))])
    def split(self, x: jax.Array) -> jax.Array:
        """A constraint on how an array is split over a mesh."""
        mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        return jax.lax.with_sharding_constraint(3 * x, place)


def calls() -> list[tuple[str, list[np.ndarray], list[np.ndarray]]]:
    """Calls in order: the function, its inputs, and its outputs as NumPy computes them."""
    two = np.array([[1, 2, 3], [-1, 0.5, 4]], np.float32)
    six = np.array([3, -1, 7, 7, 0, 2], np.float32)
    low = np.array([[2, 0, 0], [1, 3, 0], [-1, 0.5, 1]], np.float32)
    whole = np.arange(6, dtype=np.int32)
    small = np.array([1, -3], ml_dtypes.bfloat16)
    three = np.arange(3, dtype=np.float32)
    pair = np.array([0.25, 8], np.float32)
    first, second = _draws()
    return [
        ("fixed", [two], [(two @ KERNEL + BIAS) / 2, two.sum()]),
        ("fixed", [two, np.float32(3)], [(two @ KERNEL + BIAS) * 3, two.sum()]),
        ("layers.0.apply", [two[:1]], [two[:1] @ KERNEL + BIAS]),
        (
            "halves",
            [whole],
            [whole.reshape(3, 2).sum(1, dtype=np.int32), np.append(whole, np.int32(0))],
        ),
        ("any_rank", [np.float32(4)], [np.float32(9)]),
        ("any_rank", [three], [2 * three + 1]),
        ("any_rank", [two], [2 * two + 1]),
        ("add", [np.int32(3)], [np.int32(3)]),
        ("add", [np.int32(4)], [np.int32(7)]),
        ("draw", [], [first]),
        ("draw", [], [second]),
        ("factor", [low @ low.T], [low]),
        ("best", [six], [np.array([7, 7], np.float32), np.array([2, 3], np.int32)]),
        ("half", [small], [small[:, None] + SHIFT]),
        ("nested", [pair], [pair, pair + 1, np.arange(5, dtype=np.int32), pair[0]]),
    ]


def _draws() -> list[np.ndarray]:
    """The random bits of two calls, from plain JAX: NumPy has no such generator."""
    key, drawn = jax.random.key(5), []
    for _ in range(2):
        key, now = jax.random.split(key)
        drawn.append(np.asarray(jax.random.bits(now, (3,))))
    return drawn


def described(array: np.ndarray) -> dict[str, object]:
    """An array as JSON. Every element in these files is a double, exactly."""
    array = np.asarray(array)
    elements = array.astype(np.float64).reshape(-1).tolist()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "elements": elements}


def main(folder: Path) -> None:
    """Write the artifact and the calls into `folder`."""
    release = "_".join(jax.__version__.split(".")[:2])
    path = folder / f"format_{FORMAT_VERSION}_jax_{release}"
    model = Golden()
    exporter.save(
        model,
        path,
        samples={"serving_default": [{"x": KERNEL[:2, :3]}], "add": [{"step": 2}]},
        options=exporter.SaveOptions(
            vjp_order=1,
            function_aliases={"apply": model.layers[0].apply},
            tags=["golden"],
            metadata={"labels": ["a", None, 1]},
        ),
    )
    listed = [
        {"function": name, "inputs": list(map(described, a)), "outputs": list(map(described, b))}
        for name, a, b in calls()
    ]
    lines = ",\n ".join(map(json.dumps, listed))
    path.with_suffix(".json").write_text(f"[\n {lines}\n]\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
