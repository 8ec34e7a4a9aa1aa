"""How do save, load and call grow with layers, variables and signatures?

python benchmarks/growth.py
"""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import exporter
import models
import parameters
import processes
from goals import GOALS
from measuring import Pass, Row, Side, arguments, report, timed

SIZES = {
    "layers": (12, 24, 48),
    "variables": (10, 100, 1000, 10000),
    "signatures": (1, 10, 100),
}
OPERATIONS = ("save", "load", "first call", "call")
BUDGET_S = {"layers": 60, "variables": 90, "signatures": 40}

METHOD = """Each size is measured in new processes, whose imports and first small save, load and
call are not counted, and whose caches are empty; the sizes take turns. The least of the rounds of
each is taken: other work can only add to it. Then the cost of one more is compared, among the
greater sizes and among the smaller ones: where costs are linear, the ratio is 1, whatever is paid
once. Layers are of the transformer. Variables are passed to a program that reads none of them,
because XLA's own time grows with the square of those that are read. With many signatures, the
calls are one of each. `jax.jit` of the original is told beside the calls."""


class Shared:
    """An array that many functions use."""

    def __init__(self, count: int) -> None:
        self.table = jnp.ones((64, 64))
        for number in range(count):
            setattr(self, f"f{number}", self._function(number))

    def _function(self, number: int) -> exporter.Function:
        def scaled(x: jax.Array) -> jax.Array:
            return x @ self.table * (number + 1)

        spec = exporter.TensorSpec((64,), jnp.float32, name="x")
        return exporter.function(scaled, input_signature=[spec])


def costs(kind: str, count: int) -> dict[str, float]:
    """In a new process: the seconds of each operation at one size."""
    with tempfile.TemporaryDirectory() as folder:
        _save_load_call(*_of("variables", 3), Path(folder, "small"))
        return _save_load_call(*_of(kind, count), Path(folder, "1"))


def _of(kind: str, count: int) -> tuple[Callable[[Path], None], Any, Any]:
    """How it is saved, the inputs of each of its signatures, and the network if it is one."""
    if kind == "signatures":
        model = Shared(count)
        named = {f"f{number}": getattr(model, f"f{number}") for number in range(count)}
        return lambda path: exporter.save(model, path, named), {"x": parameters.ROWS[0]}, None
    network = models.transformer(count) if kind == "layers" else models.passed(count)
    return network.save, network.given, network


def _save_load_call(
    save: Callable[[Path], None], inputs: Any, network: models.Network | None, path: Path
) -> dict[str, float]:
    found = {"save": timed(lambda: save(path))}
    start = time.perf_counter()
    model = exporter.load(path)
    jax.block_until_ready(model.variables)
    found["load"] = time.perf_counter() - start

    def call() -> list[Any]:
        return [signature(**inputs) for signature in model.signatures.values()]

    found["first call"] = timed(call)
    found["call"] = min(timed(call, 3) for _ in range(7))
    if network is not None:
        compiled, given = jax.jit(network.apply), tuple(inputs.values())

        def original() -> Any:
            return compiled(network.parameters, *given)

        found["first call by jit"] = timed(original)
        found["call by jit"] = min(timed(original, 3) for _ in range(7))
    return found


def measure(kind: str, run: Pass) -> list[Row]:
    """The rows of one kind of size: each point, then how each operation grows."""
    sizes = SIZES[kind][: run.pick(4, 2)]
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    end = time.perf_counter() + (0 if run.quick else BUDGET_S[kind])
    for _ in range(5):
        for size in sizes:
            with tempfile.TemporaryDirectory() as home:
                env = {"XDG_CACHE_HOME": home}
                found[size].append(processes.in_new_process(costs, env=env, kind=kind, count=size))
        if time.perf_counter() > end:
            break
    rows = [point(kind, operation, size, found[size]) for operation in OPERATIONS for size in sizes]
    if len(sizes) == len(SIZES[kind]):
        rows += [growth(kind, operation, sizes, found) for operation in OPERATIONS]
    return rows


def point(kind: str, operation: str, size: int, found: Sequence[dict[str, float]]) -> Row:
    original = f"{operation} by jit"
    peer = [one[original] for one in found] if original in found[0] else None
    return Row(
        f"{operation}, {size:,} {kind}",
        Side(operation, "s", [one[operation] for one in found]),
        Side("`jax.jit`", "s", peer) if peer else None,
        parameters={"kind": kind, "operation": operation, "size": size},
    )


def growth(
    kind: str, operation: str, sizes: Sequence[int], found: dict[int, list[dict[str, float]]]
) -> Row:
    """The cost of one more among the greater sizes, over that among the smaller ones."""
    least = [min(one[operation] for one in found[size]) for size in sizes]
    smaller, greater = (
        # Noise may make the greater of two sizes the cheaper one; a cost is positive.
        max((least[at] - least[at - 1]) / (sizes[at] - sizes[at - 1]), 1e-9)
        for at in (len(sizes) - 2, len(sizes) - 1)
    )
    return Row(
        f"{operation}, one more of {kind}",
        Side(f"up to {sizes[-1]:,}", "s", [greater]),
        Side(f"up to {sizes[-2]:,}", "s", [smaller]),
        GOALS[f"growth/{kind}"],
        parameters={"exponent": round(exponent(sizes, least), 3)},
    )


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """The slope of the straight line through both, on scales of powers."""
    x, y = [math.log(one) for one in sizes], [math.log(one) for one in costs]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True))
    return over / sum((a - middle_x) ** 2 for a in x)


def main() -> None:
    run = arguments(__doc__)
    rows = [row for kind in SIZES for row in measure(kind, run)]
    report("growth", __doc__.splitlines()[0], METHOD, rows, run)


if __name__ == "__main__":
    main()
