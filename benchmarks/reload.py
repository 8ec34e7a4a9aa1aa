"""What do a load and a first call cost in a process that has done both before?

    python benchmarks/reload.py

A server does so when a model of the same programs comes with new values.
"""

import tempfile
from pathlib import Path

import jax
import numpy as np

import by_hand
import exporter
import models
from goals import GOALS
from measuring import Pass, Row, Side, arguments, by_turns, report

METHOD = """In one process, by turns: `exporter.load` and one call of the signature; by hand,
`jax.export.deserialize`, a restore with Orbax, and one call of a new `jit(exported.call)`; and the
same by hand with parameters that are in memory already. Each was done once before. Everything that
was loaded is let go after each round. Results are compared first."""


def measure(name: str, folder: Path, run: Pass) -> list[Row]:
    """The rows of one network."""
    network = models.NETWORKS[name]()
    inputs = network.given
    network.save(folder / "here")
    by_hand.save(network, folder / "by_hand")

    def here() -> jax.Array:
        (signature,) = exporter.load(folder / "here").signatures.values()
        return next(iter(signature(**inputs).values()))

    def there() -> jax.Array:
        call, parameters = by_hand.load(folder / "by_hand")
        return jax.tree.leaves(call(parameters, *inputs.values()))[0]

    def program_alone() -> jax.Array:
        call = by_hand.program(folder / "by_hand")
        return jax.tree.leaves(call(network.parameters, *inputs.values()))[0]

    np.testing.assert_allclose(here(), there(), atol=1e-5)
    sides = {"here": here, "there": there, "alone": program_alone}
    found = by_turns(sides, rounds=run.pick(15, 3), budget_s=30)
    ours = Side("load and call", "s", found["here"])
    goal = GOALS["reload"] if name == "12-layer transformer" else None
    return [
        Row(name, ours, Side("by hand", "s", found["there"]), goal),
        Row(
            f"{name}, the other without reading parameters",
            ours,
            Side("by hand", "s", found["alone"]),
        ),
    ]


def main() -> None:
    run = arguments(__doc__)
    rows = []
    for name in models.available():
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(name, Path(folder), run)
    report("reload", __doc__.splitlines()[0], METHOD, rows, run)


if __name__ == "__main__":
    main()
