"""How long is it from the start of a process to its first prediction, imports included?

python benchmarks/first_prediction.py
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import by_hand
import machine
import models
import processes
from goals import GOALS
from measuring import Pass, Row, Side, arguments, by_turns, report

HERE = """
import sys

import numpy as np

import exporter

model = exporter.load(sys.argv[1])
inputs = np.load(sys.argv[2])
(signature,) = model.signatures.values()
result = signature(**inputs)
print(np.abs(next(iter(result.values()))).sum())
"""

TENSORFLOW = """
import sys

import numpy as np
import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])
inputs = np.load(sys.argv[2])
result = model.signatures["serving_default"](**{k: tf.constant(v) for k, v in inputs.items()})
print(np.abs(next(iter(result.values())).numpy()).sum())
"""

JAX = """
import jax
print(0)
"""

METHOD = """Each side is a whole script in a new process, timed from its start to its end: it
imports, loads the network and its inputs, predicts once and prints. Every script has run once
before, so that files are in the page cache, and what a side keeps for its second start is there.
The scripts take turns. The hand-written one restores its parameters with Orbax and calls
`jit(exported.call)`; it is measured again with JAX's own persistent compilation cache turned on,
which it is not by default. Caches are in folders of their own. All print the same number."""


def save_tensorflow(folder: str, layers: int) -> None:
    """In a process of TensorFlow's own."""
    import tensorflow_models

    tensorflow_models.save_transformer(folder, layers)


def measure(name: str, folder: Path, run: Pass) -> list[Row]:
    """The rows of one network."""
    network = models.NETWORKS[name]()
    network.save(folder / "here")
    by_hand.save(network, folder / "by_hand")
    np.savez(folder / "inputs.npz", **network.given)
    scripts = {
        "here": (HERE, "here", {}),
        "by hand": (by_hand.SCRIPT, "by_hand", {}),
        "by hand, cached": (by_hand.SCRIPT, "by_hand", cached(folder)),
        "import jax": (JAX, "", {}),
    }
    missing = machine.missing("tensorflow")
    with_tensorflow = name == "12-layer transformer"
    if with_tensorflow and not missing:
        processes.in_new_process(save_tensorflow, folder=str(folder / "tensorflow"), layers=12)
        scripts["TensorFlow"] = (TENSORFLOW, "tensorflow", {})
    starts = {side: start(folder, *script) for side, script in scripts.items()}
    check(starts)
    found = by_turns(starts, rounds=run.pick(9, 3), warm_up=0, budget_s=80)
    ours = Side("the script", "s", found["here"])
    rows = [
        Row(name, ours, Side("by hand", "s", found["by hand"]), GOALS["first/by_hand"]),
        Row(
            f"{name}, JAX's cache for the other",
            ours,
            Side("by hand", "s", found["by hand, cached"]),
        ),
        Row(f"{name}, against the floor", ours, Side("`import jax`", "s", found["import jax"])),
    ]
    if with_tensorflow:
        peer = None if missing else Side("TensorFlow", "s", found["TensorFlow"])
        rows.insert(1, Row(name, ours, peer, GOALS["first/tensorflow"], missing))
    return rows


def start(folder: Path, code: str, place: str, env: dict[str, str]) -> Callable[[], str]:
    """One run of a script, which gives what it printed."""
    env = {**processes.apart(folder / "cache"), **env}
    given = (folder / place, folder / "inputs.npz")
    return lambda: processes.run(code, *given, env=env, cwd=folder).last_line


def cached(folder: Path) -> dict[str, str]:
    """JAX's persistent compilation cache, for all programs however small."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "jax-cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def check(starts: dict[str, Callable[[], str]]) -> None:
    """The first start of each, and whether all of them found the same."""
    printed = {side: float(start()) for side, start in starts.items()}
    del printed["import jax"]
    np.testing.assert_allclose(list(printed.values()), printed["by hand"], rtol=1e-5)


def main() -> None:
    run = arguments(__doc__)
    rows = []
    for name in models.available():
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(name, Path(folder), run)
    report("first_prediction", __doc__.splitlines()[0], METHOD, rows, run)


if __name__ == "__main__":
    main()
