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
# After so long no further round of the sizes begins, but for the first two.
BUDGET_S = {"layers": 40, "variables": 40, "signatures": 30}

METHOD = """Each size is measured in new processes, whose imports and first small save, load and
call are not counted, and whose caches are empty; the sizes take turns. The least of the rounds of
each is taken: other work can only add to it. The cost for each layer, variable or signature is
compared between the greatest size and the one before: where costs are linear the ratio is 1, and
below it where something is paid once. The exponent is the slope over all sizes, both axes
logarithmic. Layers are of the transformer. Variables are passed to a program that reads none,
because XLA's own time grows with the square of those that are read. Up to 1 MiB of them is embedded
in the code and costs a call nothing; at 10,000 they are passed with each call, so the cost of a
call leaps there, to less than that of `jax.jit`. With many signatures, the calls are one of each.
`jax.jit` of the original is told beside the calls, as "by jit"."""


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
    end = time.perf_counter() + BUDGET_S[kind]
    for number in range(run.pick(5, 1)):
        for size in sizes:
            with tempfile.TemporaryDirectory() as home:
                env = {"XDG_CACHE_HOME": home}
                found[size].append(processes.in_new_process(costs, env=env, kind=kind, count=size))
        if number and time.perf_counter() > end:
            break
    rows = [point(kind, operation, size, found[size]) for operation in OPERATIONS for size in sizes]
    if len(sizes) == len(SIZES[kind]):
        rows += [growth(kind, operation, sizes, found) for operation in found[sizes[0]][0]]
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
    """The cost for each unit at the greatest size, over that at the one before."""
    least = [min(one[operation] for one in found[size]) for size in sizes]
    before, last = (least[at] / sizes[at] for at in (-2, -1))
    slope = exponent(sizes, least)
    return Row(
        f"{operation}, each of {sizes[-1]:,} {kind}, exponent {slope:.2f}",
        Side(f"each of {sizes[-1]:,}", "s", [last]),
        Side(f"each of {sizes[-2]:,}", "s", [before]),
        GOALS[f"growth/{kind}"] if operation in OPERATIONS else None,
        parameters={"exponent": round(slope, 3)},
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
