"""What does a call of a loaded signature cost, against `jax.jit` of the original?

    python benchmarks/call.py

The model adds its variables to a small input, so that nearly all of the time is the call itself.
Two models with state are called too, against the same step with its state held by hand.
"""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import exporter
import machine
import models
from goals import GOALS
from measuring import Pass, Row, Side, arguments, by_turns, report
from processes import Worker

COUNTS = (4, 200, 1000)
LENGTH, WIDTH = 512, 256

METHOD = """Each side is called some times in a row and the last result is waited for; the sides
take turns, round by round. Results are compared first. TensorFlow runs in a process of its own,
which is idle while the other is timed. The model with a cache attends to 512 positions of
float32[256] and writes one more at each call; by hand, its state is an argument whose memory is
given away (`donate_argnums`) and a result that is kept for the next call."""


class Cached:
    """Attention over the inputs so far, which are kept in place."""

    def __init__(self) -> None:
        self.count = exporter.Variable(jnp.int32(0), trainable=False)
        self.kept = exporter.Variable(jnp.zeros((LENGTH, WIDTH)), trainable=False)

    @exporter.function(input_signature=[exporter.TensorSpec((WIDTH,), jnp.float32)])
    def step(self, x: jax.Array) -> jax.Array:
        (self.count.value, self.kept.value), result = attend((self.count.value, self.kept.value), x)
        return result


class Counter:
    """Counts its calls."""

    def __init__(self) -> None:
        self.count = exporter.Variable(jnp.int32(0), trainable=False)

    @exporter.function(input_signature=[exporter.TensorSpec((WIDTH,), jnp.float32)])
    def step(self, x: jax.Array) -> jax.Array:
        self.count.value, result = counted(self.count.value, x)
        return result


def attend(state: tuple[jax.Array, jax.Array], x: jax.Array) -> tuple[Any, jax.Array]:
    count, kept = state
    kept = jax.lax.dynamic_update_index_in_dim(kept, x, count % LENGTH, 0)
    weights = jax.nn.softmax(jnp.where(jnp.arange(LENGTH) <= count, kept @ x, -jnp.inf))
    return (count + 1, kept), weights @ kept


def counted(count: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return count + 1, x + count.astype(x.dtype)


def tensorflow_total(count: int) -> Callable[[], Any]:
    """In a process of TensorFlow's own: its loaded signature, with an input of its own kind."""
    import tensorflow as tf

    import parameters
    import tensorflow_models

    model = tensorflow_models.Total(count)
    with tempfile.TemporaryDirectory() as folder:
        tensorflow_models.save(model, model.add, Path(folder, "1"))
        loaded = tf.saved_model.load(str(Path(folder, "1")))
    signature, x = loaded.signatures["serving_default"], tf.constant(parameters.ROWS)

    def call() -> Any:
        _ = loaded  # TensorFlow's signatures do not keep their variables alive
        return signature(x=x)["output_0"]

    return call


def with_variables(count: int, run: Pass) -> list[Row]:
    """The rows of a model with `count` variables."""
    network = models.total(count)
    with tempfile.TemporaryDirectory() as folder:
        network.save(Path(folder, "1"), platforms=("cpu", "cuda"))
        loaded = exporter.load(Path(folder, "1"))
    signature, compiled = loaded.signatures["serving_default"], jax.jit(network.apply)
    plain = network.given["x"]
    x, terms = jnp.asarray(plain), network.parameters
    sides: dict[str, Any] = {
        "signature": lambda: signature(x=x)["output_0"],
        "jit": lambda: compiled(terms, x),
        "function": lambda: loaded(x),
        "signature, NumPy": lambda: signature(x=plain)["output_0"],
        "jit, NumPy": lambda: compiled(terms, plain),
    }
    missing = machine.missing("tensorflow")
    with ExitStack() as stack:
        if not missing:
            sides["tensorflow"] = stack.enter_context(Worker(tensorflow_total, count=count))
        check(sides)
        found = by_turns(sides, rounds=run.pick(200, 10), number=10, warm_up=20, budget_s=20)
    made = Side("`jax.jit`", "s", found["jit"])
    ours = Side("signature", "s", found["signature"])
    case = f"{count:,} variables"
    peer = Side("TensorFlow", "s", found["tensorflow"]) if "tensorflow" in found else None
    return [
        Row(f"{case}, JAX arrays", ours, made, GOALS[f"call/{count}"]),
        Row(
            f"{case}, NumPy inputs",
            Side("signature", "s", found["signature, NumPy"]),
            Side("`jax.jit`", "s", found["jit, NumPy"]),
            GOALS[f"call/{count}"],
        ),
        Row(f"{case}, attached function", Side("function", "s", found["function"]), ours),
        Row(case, ours, peer, GOALS["call/tensorflow"], missing),
    ]


def check(sides: dict[str, Any]) -> None:
    """Whether all sides compute the same. Each is called once: some count their calls."""
    results = {
        name: np.asarray(side.result() if isinstance(side, Worker) else side())
        for name, side in sides.items()
    }
    for result in results.values():
        np.testing.assert_allclose(result, results["jit"], rtol=1e-6)


def with_state(what: str, model: Any, step: Callable[..., Any], state: Any, run: Pass) -> Row:
    """The row of a model with state, against `step` with `state` held by hand."""
    with tempfile.TemporaryDirectory() as folder:
        exporter.save(model, Path(folder, "1"), platforms=("cpu", "cuda"))
        loaded = exporter.load(Path(folder, "1"))
    signature = loaded.signatures["serving_default"]
    compiled = jax.jit(step, donate_argnums=0)
    held = [jax.tree.map(jnp.copy, state)]
    x = jnp.ones(WIDTH)

    def by_hand() -> jax.Array:
        held[0], result = compiled(held[0], x)
        return result

    sides = {"signature": lambda: signature(x)["output_0"], "jit": by_hand}
    for _ in range(3):
        check(sides)
    found = by_turns(sides, rounds=run.pick(200, 10), number=10, warm_up=20, budget_s=20)
    return Row(what, Side("signature", "s", found["signature"]), Side("by hand", "s", found["jit"]))


def main() -> None:
    run = arguments(__doc__)
    rows = [row for count in COUNTS for row in with_variables(count, run)]
    rows.append(with_state("a counter", Counter(), counted, jnp.int32(0), run))
    cache = (jnp.int32(0), jnp.zeros((LENGTH, WIDTH)))
    rows.append(with_state("a cache", Cached(), attend, cache, run))
    report("call", __doc__.splitlines()[0], METHOD, rows, run)


if __name__ == "__main__":
    main()
