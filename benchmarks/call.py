"""What does a call of a loaded signature cost, against `jax.jit` of the original?

    python benchmarks/call.py

The model adds its variables to a small input, so that nearly all of the time is the call itself.
Both are called in turn, and the fastest of many rounds of each is taken: other work on the machine
can only add to it. The result is a ratio, below 1 where the loaded signature is faster.
"""

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

import exporter

COUNTS = (4, 200, 1000)
ROUNDS = 60
CALLS = 10


class Sum:
    """Adds `count` variables to its input."""

    def __init__(self, count: int) -> None:
        self.terms = [jnp.full((64,), i, jnp.float32) for i in range(count)]

    @exporter.function(input_signature=[exporter.TensorSpec(("batch", 64), jnp.float32)])
    def add(self, x: jax.Array) -> jax.Array:
        return add(self.terms, x)


def add(terms: list[jax.Array], x: jax.Array) -> jax.Array:
    for term in terms:
        x = x + term
    return x


def fastest(*calls: Callable[[], jax.Array]) -> list[float]:
    """The seconds of one call of each, the least of all rounds."""
    best = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for index, call in enumerate(calls):
            start = time.perf_counter()
            for _ in range(CALLS):
                result = call()
            result.block_until_ready()
            best[index] = min(best[index], (time.perf_counter() - start) / CALLS)
    return best


def measure(count: int) -> dict[str, float]:
    """The cost of one call with `count` variables, in microseconds."""
    model = Sum(count)
    with tempfile.TemporaryDirectory() as folder:
        exporter.save(model, Path(folder, "1"), platforms=("cpu", "cuda"))
        loaded = exporter.load(Path(folder, "1"))
    signature, compiled = loaded.signatures["serving_default"], jax.jit(add)
    x = jnp.ones((8, 64), jnp.float32)
    assert jnp.array_equal(signature(x=x)["output_0"], compiled(model.terms, x))
    ours, original = fastest(lambda: signature(x=x)["output_0"], lambda: compiled(model.terms, x))
    return {"variables": count, "loaded_us": 1e6 * ours, "jit_us": 1e6 * original}


def main() -> None:
    rows = [measure(count) for count in COUNTS]
    print("variables   loaded signature   jax.jit of the original   ratio")
    for row in rows:
        ratio = row["loaded_us"] / row["jit_us"]
        print(
            f"{row['variables']:9.0f}   {row['loaded_us']:13.1f} us   "
            f"{row['jit_us']:20.1f} us   {ratio:5.2f}"
        )
    machine = {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
    results = Path(__file__).parent / "results" / "call.json"
    results.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
