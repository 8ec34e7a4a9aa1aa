"""An artifact of one release of Python and JAX, loaded by another, and the reverse.

The other interpreter is named by the environment variable EXPORTER_OTHER_PYTHON. This file is also
the program that both of them run: `write FOLDER` saves one model with a function for each kind of
program, beside the inputs and what plain `jax.jit` makes of them; `read FOLDER` loads such a model,
calls every function twice and compares.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import exporter
from exporter import Dim, TensorSpec, Variable

ROOT = Path(__file__).resolve().parent.parent
OTHER = os.environ.get("EXPORTER_OTHER_PYTHON")

needs_other = pytest.mark.skipif(
    OTHER is None,
    reason="EXPORTER_OTHER_PYTHON is not set: artifacts are not carried to another release of "
    "Python and JAX, nor from one",
)

# Both releases compile for the same processor, with other versions of XLA. The largest relative
# difference seen was 1.1e-7, one unit in the last place, for `fft`. Other processors may sum in
# another order; 40 units are still far below any mistake.
TOLERANCE = 5e-6


@dataclass(frozen=True)
class Kind:
    """One kind of program.

    Attributes:
      function: on arrays.
      specs: its inputs.
      shapes: the shapes to call it with.
      tolerance: relative to the largest element of an output. Zero means: equal bit for bit.
    """

    function: Callable[..., object]
    specs: tuple[TensorSpec, ...]
    shapes: tuple[tuple[int, ...], ...]
    tolerance: float = TOLERANCE


def fixed(*shapes: tuple[int, ...], dtype: str = "float32") -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(shape, dtype) for shape in shapes)


def kind(function, *shapes, dtype="float32", specs=None, tolerance=TOLERANCE):
    return Kind(function, specs or fixed(*shapes, dtype=dtype), shapes, tolerance)


def symmetric(x):
    return x @ x.T + 4 * jnp.eye(x.shape[0])


def attention(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, is_causal=True)


def convolution(images, kernel):
    return lax.conv_general_dilated(
        images, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


ONE_DEVICE = jax.sharding.NamedSharding(
    jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)),
    jax.sharding.PartitionSpec("data"),
)


def collatz(x):
    """How many steps each number takes to 1."""

    def step(carry):
        number, count = carry
        following = jnp.where(number % 2 == 0, number // 2, 3 * number + 1)
        return following, count + 1

    def steps(number):
        start = jnp.abs(number) + 1
        return lax.while_loop(lambda carry: carry[0] > 1, step, (start, jnp.int32(0)))[1]

    return jax.vmap(steps)(x)


def recurrence(x):
    def step(carry, row):
        following = jnp.tanh(carry + row)
        return following, following * 2

    return lax.scan(step, jnp.zeros(x.shape[1:]), x)


def branches(x):
    return lax.switch(
        jnp.int32(x.sum() > 0), [lambda a: a - 1, lambda a: jnp.flip(a) + 1], x
    ), lax.cond(x[0] > 0, jnp.sin, jnp.cos, x)


def draws(x):
    key = jax.random.fold_in(jax.random.key(7), x.shape[0])
    first, second = jax.random.split(key)
    return (
        jax.random.uniform(first, x.shape),
        jax.random.normal(second, x.shape) + x,
        jax.random.randint(first, (4,), 0, 100),
        jax.random.key_data(second),
    )


def eights(x):
    small = x.astype(jnp.float8_e4m3fn)
    return small, (small.astype(jnp.float32) * 3).astype(jnp.float8_e5m2)


def fours(x):
    small = jnp.clip(x * 3, -8, 7).astype(jnp.int4)
    return small, small.astype(jnp.int32) + 1


def nested(x):
    return {"sum": x.sum(), "rows": [x, (x * 2, None)], "last": {"x": x[-1]}}


def expressions(x, y):
    pairs = x.reshape(x.shape[0] // 2, 2, *x.shape[1:])
    return jnp.concatenate([pairs.sum(1), y]), jnp.tile(y, (3, 1))[:-1], jnp.zeros(x.shape[0] + 1)


def pooled(x):
    windows = lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (2, 2), "VALID")
    return windows, jnp.cumsum(x, 0), jnp.argmax(x, 1)


EVEN = Dim("n", min=2, max=64, multiple_of=2)

KINDS = {
    "matmul": kind(lambda x, y: x @ y, (3, 4), (4, 5)),
    "cholesky": kind(lambda x: jnp.linalg.cholesky(symmetric(x)), (4, 4)),
    "solve": kind(lambda x, y: jnp.linalg.solve(symmetric(x), y), (4, 4), (4, 2)),
    "svd": kind(lambda x: jnp.linalg.svd(x)[1], (4, 3)),
    "qr": kind(lambda x: jnp.abs(jnp.linalg.qr(x)[1]), (4, 3)),
    "eigh": kind(lambda x: jnp.linalg.eigh(symmetric(x))[0], (4, 4)),
    "fft": kind(lambda x: (jnp.abs(jnp.fft.fft(x)), jnp.fft.irfft(jnp.fft.rfft(x))), (16,)),
    "random": kind(draws, (5,)),
    "while": kind(collatz, (6,), dtype="int32", tolerance=0),
    "scan": kind(recurrence, (5, 3)),
    "branches": kind(branches, (4,)),
    "convolution": kind(convolution, (2, 8, 8, 3), (3, 3, 3, 4)),
    "attention": kind(attention, (2, 6, 2, 4), (2, 6, 2, 4), (2, 6, 2, 4)),
    "sort": kind(lambda x: (jnp.sort(x), jnp.argsort(-x)), (9,), tolerance=0),
    "top_k": kind(lambda x: lax.top_k(x, 3), (9,), tolerance=0),
    "float8": kind(eights, (6,), tolerance=0),
    "int4": kind(fours, (6,), tolerance=0),
    "bfloat16": kind(lambda x: x * x + 1, (6,), dtype="bfloat16", tolerance=2**-8),
    "complex": kind(lambda x: jnp.conj(x) * 2j, (3,), dtype="complex64"),
    "bits": kind(lambda x: (x ^ 21) << 2, (4,), dtype="uint8", tolerance=0),
    "gather": kind(lambda x: x.at[jnp.array([0, 2])].add(x[::-1][:2])[jnp.array([2, 1])], (4, 2)),
    "pooling": kind(pooled, (4, 6)),
    "special": kind(lambda x: jax.scipy.special.erf(x) + lax.lgamma(jnp.abs(x) + 1), (5,)),
    "gradient": kind(jax.grad(lambda a: jnp.sum(jnp.tanh(a) ** 3)), (5,)),
    "ragged": kind(
        lambda x, y: lax.ragged_dot(x, y, jnp.array([1, 3], jnp.int32)), (4, 3), (2, 3, 2)
    ),
    "nested": kind(nested, (3, 2)),
    "constrained": kind(
        lambda x: lax.with_sharding_constraint(x * 2, ONE_DEVICE) + 1,
        (3, 2),
        specs=(TensorSpec(("batch", 2), "float32"),),
    ),
    "named_axes": kind(
        lambda x: x / jnp.sum(x, 1, keepdims=True), (5, 3), specs=(TensorSpec(("batch", 3)),)
    ),
    "expressions": kind(
        expressions,
        (6, 2),
        (3, 2),
        specs=(TensorSpec((EVEN, 2)), TensorSpec(("floordiv(n, 2)", 2))),
    ),
    "any_rank": kind(lambda x: jnp.sin(x) * 2, (2, 2, 1), specs=(TensorSpec(None, max_rank=3),)),
}


class Zoo:
    """One function of each kind, and two that change state."""

    def __init__(self):
        for name, one in KINDS.items():
            setattr(self, name, exporter.function(one.function, input_signature=list(one.specs)))
        self.count = Variable(jnp.int32(0), trainable=False)
        self.cache = jnp.zeros((4, 2))
        self.key = jax.random.key(3)
        self.small = jnp.arange(4).astype(jnp.uint4)

    @exporter.function(input_signature=[TensorSpec((2,))])
    def remember(self, row):
        self.cache = self.cache.at[self.count.value % 4].set(row)
        self.count.value += 1
        return {"mean": self.cache.mean(0), "count": self.count.value}

    @exporter.function(input_signature=[])
    def draw(self):
        self.key, now = jax.random.split(self.key)
        return jax.random.uniform(now, (3,)), self.small + 1


def arrays_for(name: str) -> list[np.ndarray]:
    """The same inputs wherever they are made."""
    one = KINDS[name]
    chance = np.random.default_rng(sum(name.encode()))
    arrays = []
    for spec, shape in zip(one.specs, one.shapes, strict=True):
        array = chance.standard_normal(shape) * 2
        if spec.dtype.name == "complex64":
            array = array + 1j * chance.standard_normal(shape)
        elif spec.dtype.name.startswith(("int", "uint")):
            array = chance.integers(0, 40, shape)
        arrays.append(array.astype(spec.dtype))
    return arrays


def expected_results() -> dict[str, list[np.ndarray]]:
    """What plain `jax.jit` makes of the inputs, and two calls of what changes state."""
    results = {name: flat(jax.jit(one.function)(*arrays_for(name))) for name, one in KINDS.items()}
    row = np.array([1, 2], np.float32)
    key = jax.random.key(3)
    for call in ("first", "second"):
        key, now = jax.random.split(key)
        results[f"{call} draw"] = [*flat(jax.random.uniform(now, (3,))), np.arange(1, 5)]
        seen = 1 if call == "first" else 2
        results[f"{call} remember"] = [np.int32(seen), row * seen / 4]
    return results


def flat(tree: object) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def plain(array: np.ndarray) -> np.ndarray:
    """With a dtype that every NumPy knows, for a file and for arithmetic."""
    wide = np.complex128 if array.dtype.kind == "c" else np.float64
    return array.astype(wide)


def write(folder: Path) -> None:
    model = Zoo()
    exporter.save(model, folder / "zoo", signatures={"matmul": model.matmul})
    results = expected_results()
    arrays = {
        f"{name}/{i}": plain(a) for name, found in results.items() for i, a in enumerate(found)
    }
    np.savez(folder / "expected.npz", **arrays)


def differences(folder: Path) -> dict[str, str]:
    """The kinds whose results are not those that were written beside them, and how."""
    model = exporter.load(folder / "zoo")
    stored = np.load(folder / "expected.npz")
    found = {name: getattr(model, name)(*arrays_for(name)) for name in KINDS}
    for call in ("first", "second"):
        found[f"{call} draw"] = model.draw()
        found[f"{call} remember"] = model.remember(np.array([1, 2], np.float32))
    problems = {}
    for name, result in found.items():
        tolerance = KINDS[name].tolerance if name in KINDS else TOLERANCE
        pairs = [(plain(a), stored[f"{name}/{i}"]) for i, a in enumerate(flat(result))]
        for one, other in pairs:
            bound = tolerance * np.max(np.abs(other), initial=0)
            if one.shape != other.shape or not np.all(np.abs(one - other) <= bound):
                problems[name] = f"{one} is not {other}"
    missing = [key for key in stored.files if key.rsplit("/", 1)[0] not in found]
    return problems | dict.fromkeys(missing, "not compared")


def run(python: str, command: str, folder: Path) -> str:
    done = subprocess.run(
        [python, __file__, command, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def versions(python: str) -> str:
    code = "import sys, jax; print(sys.version_info[:2], jax.__version__)"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    write(folder)
    return folder


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("theirs")
    run(OTHER, "write", folder)
    return folder


def test_every_kind_of_program_gives_what_jax_gives(ours):
    assert differences(ours) == {}


@needs_other
def test_the_other_environment_is_another_release():
    assert versions(OTHER) != versions(sys.executable)


@needs_other
def test_every_kind_of_program_of_the_other_release_runs_here(theirs):
    assert differences(theirs) == {}


@needs_other
def test_every_kind_of_program_from_here_runs_on_the_other_release(ours):
    assert json.loads(run(OTHER, "read", ours)) == {}


@needs_other
def test_both_releases_write_the_same_signatures_and_variables(ours, theirs):
    one, other = (exporter.load(folder / "zoo").manifest for folder in (ours, theirs))
    assert one.producer != other.producer
    assert one.signatures == other.signatures
    assert one.functions == other.functions
    assert one.variables == other.variables
    assert one.nodes == other.nodes
    assert one.content.variables == other.content.variables
    assert one.concrete_functions == other.concrete_functions


def main() -> None:
    command, folder = sys.argv[1], Path(sys.argv[2])
    if command == "write":
        write(folder)
    else:
        sys.stdout.write(json.dumps(differences(folder)))


if __name__ == "__main__":
    main()
