"""What does a save cost, and how much does it write, against exporting and saving by hand?

python benchmarks/save.py
"""

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

import by_hand
import exporter
import models
import processes
from goals import GOALS
from measuring import Pass, Row, Side, arguments, by_turns, report, timed

METHOD = """By turns, each time into a new folder of the same file system: `exporter.save` of the
whole model, and by hand one `jax.export` of the function for the same platforms, its `serialize`
and one Orbax save of the same tree. The first save of a process, where JAX has traced nothing yet,
is measured in new processes, imports not counted. Bytes are those of the files. Variables take as
long for one platform as for four, so that platforms are compared on a network with small ones."""


def size(folder: Path) -> int:
    """The bytes of all files below `folder`."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def into_new(folder: Path, save: Callable[[Path], None]) -> Callable[[], None]:
    """A save that goes into another folder each time."""
    counter = itertools.count()
    return lambda: save(folder / str(next(counter)))


def measure(name: str, folder: Path, run: Pass) -> list[Row]:
    """The time and the bytes of one network."""
    network = models.NETWORKS[name]()
    (folder / "here").mkdir()
    (folder / "one").mkdir()
    (folder / "there").mkdir()
    sides = {
        "here": into_new(folder / "here", network.save),
        "one": into_new(folder / "one", lambda path: network.save(path, ("cpu",))),
        "there": into_new(folder / "there", lambda path: by_hand.save(network, path)),
    }
    found = by_turns(sides, rounds=run.pick(9, 3), budget_s=40)
    programs = size(folder / "here" / "0" / "programs")
    exported = (folder / "there" / "0" / "program").stat().st_size
    ours = Side("save", "s", found["here"])
    return [
        Row(name, ours, Side("by hand", "s", found["there"]), GOALS["save/time"]),
        Row(f"{name}, 4 platforms", ours, Side("1 platform", "s", found["one"])),
        Row(
            f"{name}, programs",
            Side("programs", "B", [programs]),
            Side("`Exported.serialize()`", "B", [exported]),
            GOALS["save/programs"],
        ),
    ]


def first(by: str) -> float:
    """In a new process: the seconds of the first save."""
    network = models.transformer()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "1")
        return timed(lambda: network.save(path) if by == "here" else by_hand.save(network, path))


def firsts(run: Pass) -> Row:
    """The first save of a process, by turns with one by hand."""
    found: dict[str, list[float]] = {"here": [], "there": []}
    for _ in range(run.pick(5, 1)):
        for by, seconds in found.items():
            seconds.append(processes.in_new_process(first, by=by))
    return Row(
        "12-layer transformer, first in a process",
        Side("save", "s", found["here"]),
        Side("by hand", "s", found["there"]),
    )


def platforms(run: Pass) -> Row:
    """Export for four platforms and for one: a save of a network whose variables are small."""
    network = models.transformer(layers=12, width=32)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sides = {
            "four": into_new(folder, network.save),
            "one": into_new(folder, lambda path: network.save(path.with_suffix(".one"), ("cpu",))),
        }
        found = by_turns(sides, rounds=run.pick(15, 3), budget_s=30)
    return Row(
        "12 layers of float32[32]",
        Side("4 platforms", "s", found["four"]),
        Side("1 platform", "s", found["one"]),
        GOALS["save/platforms"],
    )


class Scaled:
    """Eight methods that share one large array."""

    def __init__(self) -> None:
        self.table = jax.random.normal(jax.random.key(0), (1024, 1024))

    def scale(self, x: jax.Array, factor: int) -> jax.Array:
        return factor * (x @ self.table)


def shared(count: int, folder: Path) -> int:
    """The bytes of the variables that a model with `count` signatures has on disk."""
    model = Scaled()
    spec = exporter.TensorSpec(("batch", 1024), jnp.float32, name="x")
    for number in range(count):
        setattr(model, f"f{number}", _scaled(model, number, spec))
    signatures = {f"f{number}": getattr(model, f"f{number}") for number in range(count)}
    exporter.save(model, folder, signatures)
    return size(folder / "variables")


def _scaled(model: Scaled, number: int, spec: exporter.TensorSpec) -> exporter.Function:
    def scaled(x: jax.Array) -> jax.Array:
        return model.scale(x, number + 1)

    return exporter.function(scaled, input_signature=[spec])


def signatures() -> Row:
    """The bytes of variables, for eight signatures and for one."""
    with tempfile.TemporaryDirectory() as place:
        eight, one = shared(8, Path(place, "8")), shared(1, Path(place, "1"))
    return Row(
        "float32[1024, 1024] in 8 signatures",
        Side("8 signatures", "B", [eight]),
        Side("1 signature", "B", [one]),
        GOALS["save/signatures"],
    )


def main() -> None:
    run = arguments(__doc__)
    rows = []
    for name in models.available():
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(name, Path(folder), run)
    rows += [firsts(run), platforms(run), signatures()]
    report("save", __doc__.splitlines()[0], METHOD, rows, run)


if __name__ == "__main__":
    main()
