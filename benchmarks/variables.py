"""How fast is 1 GB of variables saved and loaded, and how much memory does it take meanwhile?

python benchmarks/variables.py
"""

import itertools
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import by_hand
import exporter
import processes
from goals import GOALS
from measuring import Pass, Row, Side, arguments, by_turns, report, timed

# 64 arrays of 4 million random numbers, which no compression makes much smaller.
COUNT, LENGTH = 64, 2**22
THREADS = (1, 2, 4, 8)
BLOCK = 2**24

METHOD = """64 variables of float32[4194304] with random values: 1.07 GB. A load, until every value
is there, takes turns with reading the files of the same variables: blocks of 16 MiB, each into new
memory, by 1, 2, 4 or 8 threads, whichever is fastest. All files are in the page cache, and each
side checks or reads each byte once at least: `exporter.load` checks the digest of every file. A
restore with Orbax and `numpy.load` of a file for each array are told beside it. Peaks are measured
in new processes, from the memory that a process held before it had the variables; what a first
small save and load leave behind is not counted. The memory of the variables themselves is."""


def variables(count: int = COUNT, length: int = LENGTH) -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(0), count)
    return {f"v{number:02}": jax.random.normal(key, (length,)) for number, key in enumerate(keys)}


def first(tree: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return tree["v00"][:4] + x


def save(tree: dict[str, jax.Array], folder: Path) -> None:
    spec = exporter.TensorSpec((4,), jnp.float32, name="x")
    exporter.save((first, tree), folder, input_signature=[spec], platforms=("cpu",))


def load(folder: Path) -> Any:
    model = exporter.load(folder)
    return jax.block_until_ready(model.variables)


def read(folder: Path, threads: int) -> int:
    """Read the files of the variables into memory: the count of bytes."""
    files = [file for file in (folder / "variables").rglob("*") if file.is_file()]
    blocks = [(file, start) for file in files for start in range(0, file.stat().st_size, BLOCK)]
    with ThreadPoolExecutor(threads) as pool:
        return sum(map(len, list(pool.map(_block, blocks))))


def _block(place: tuple[Path, int]) -> bytes:
    file, start = place
    with file.open("rb", buffering=0) as stream:
        return os.pread(stream.fileno(), BLOCK, start)


def restore(folder: Path) -> Any:
    """By hand, with Orbax."""
    import orbax.checkpoint as ocp

    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = {
        f"v{number:02}": jax.ShapeDtypeStruct((LENGTH,), jnp.float32, sharding=place)
        for number in range(COUNT)
    }
    with ocp.StandardCheckpointer() as checkpointer:
        return jax.block_until_ready(checkpointer.restore(folder, target))


def peak(what: str, folder: str) -> dict[str, float]:
    """In a new process: the most memory it held in a save or a load, over what it held before."""
    path = Path(folder)
    with tempfile.TemporaryDirectory() as small:
        save(variables(2, 8), Path(small, "1"))
        load(Path(small, "1"))
    before = processes.memory_bytes()
    if what == "save":
        tree = jax.block_until_ready(variables())
        kept = processes.memory_bytes() - before
        processes.forget_peak()
        save(tree, path)
    else:
        processes.forget_peak()
        tree = load(path)
        kept = processes.memory_bytes() - before
    size = sum(one.nbytes for one in jax.tree.leaves(tree))
    return {"peak": processes.memory_bytes("VmHWM") - before, "kept": kept, "size": size}


def peaks(folder: Path, run: Pass) -> list[Row]:
    """The peaks of a save and of a load, as multiples of what is saved."""
    rows = []
    for what in ("save", "load"):
        found = []
        for number in range(run.pick(3, 1)):
            path = folder / f"peak{number}" if what == "save" else folder / "saved"
            found.append(processes.in_new_process(peak, what=what, folder=str(path)))
        rows.append(
            Row(
                f"peak of a {what}",
                Side("peak", "B", [one["peak"] for one in found]),
                Side("variables", "B", [one["size"] for one in found]),
                GOALS[f"variables/{what}_peak"],
                parameters={"kept_bytes": found[0]["kept"]},
            )
        )
    return rows


def loads(folder: Path, run: Pass) -> list[Row]:
    """Loading against reading the same bytes, and against a restore with Orbax."""
    fastest = min(THREADS, key=lambda count: min(timed(_reader(folder, count)) for _ in range(3)))
    sides = {
        "load": partial(load, folder / "saved"),
        "read": _reader(folder, fastest),
        "unchecked": lambda: jax.block_until_ready(
            exporter.load(folder / "saved", verify=False).variables
        ),
        "orbax": partial(restore, folder / "orbax"),
    }
    found = by_turns(sides, rounds=run.pick(9, 3), budget_s=40)
    speeds = {name: [COUNT * LENGTH * 4 / one for one in times] for name, times in found.items()}
    ours = Side("load", "B/s", speeds["load"])
    return [
        Row(
            "load",
            ours,
            Side(f"reading by {fastest} threads", "B/s", speeds["read"]),
            GOALS["variables/load"],
            parameters={"threads": fastest},
        ),
        Row("load, against Orbax", ours, Side("restore with Orbax", "B/s", speeds["orbax"])),
        Row(
            "load with `verify=False`",
            Side("load", "B/s", speeds["unchecked"]),
            Side(f"reading by {fastest} threads", "B/s", speeds["read"]),
        ),
    ]


def _reader(folder: Path, threads: int) -> Callable[[], int]:
    return partial(read, folder / "saved", threads)


def saves(tree: dict[str, jax.Array], run: Pass) -> Row:
    """Saving against Orbax, each time into a new folder that goes afterwards."""
    with tempfile.TemporaryDirectory() as place:
        counter = itertools.count()

        def new() -> Path:
            return Path(place, str(next(counter)))

        sides = {
            "here": lambda: save(tree, new()),
            "orbax": lambda: by_hand.write_variables(tree, new()),
        }
        found = by_turns(sides, rounds=run.pick(5, 3), warm_up=1, budget_s=40)
    size = COUNT * LENGTH * 4
    return Row(
        "save",
        Side("save", "B/s", [size / one for one in found["here"]]),
        Side("save with Orbax", "B/s", [size / one for one in found["orbax"]]),
    )


def main() -> None:
    run = arguments(__doc__)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tree = variables()
        save(tree, folder / "saved")
        by_hand.write_variables(tree, folder / "orbax")
        rows = [*loads(folder, run), saves(tree, run)]
        del tree
        rows += peaks(folder, run)
    report("variables", __doc__.splitlines()[0], METHOD, rows, run)


if __name__ == "__main__":
    main()
