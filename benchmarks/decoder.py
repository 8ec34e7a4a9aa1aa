"""How many tokens a second does a saved decoder generate, its cache held by the loaded model?

python benchmarks/decoder.py --size small
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gpt_jax
import machine
from measuring import Pass, Row, Side, by_turns, report
from processes import ProcessError, Worker, in_new_process, last_line, unimportable

PROMPT = 32
# How far the logits of two libraries may lie apart, in parts of the greatest.
TOLERANCE = 1e-4
# Processes share a device's memory, which JAX otherwise takes most of.
ENV = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

METHOD = f"""Every side has the same parameters in a process of its own and generates greedily, the
last token staying on the device, from a prompt of {PROMPT} tokens; the processes take turns. The
loaded model keeps its cache in variables and writes them back. Under `jax.jit`, the cache is an
argument whose memory is given away. PyTorch keeps it in buffers that it changes in place; compiled,
only its step is. All compute in float32 without shorter products. The logits after the prompt agree
within {TOLERANCE} of the greatest, and the tokens after it are the same. The cost of a step's call
is that of a decoder with as many arrays as GPT-2 whose layers are of width 16."""


def torch_eager(**given: Any) -> Callable[[], Any]:
    """In a process of PyTorch's own."""
    import gpt_torch

    return gpt_torch.eager(**given)


def torch_compiled(**given: Any) -> Callable[[], Any]:
    """In a process of PyTorch's own."""
    import gpt_torch

    return gpt_torch.compiled(**given)


OURS, ORIGINAL = "loaded signatures", "`jax.jit` by hand"
EAGER, COMPILED = "PyTorch", "PyTorch, compiled"
SIDES: Mapping[str, Callable[..., Any]] = {
    OURS: gpt_jax.loaded,
    ORIGINAL: gpt_jax.original,
    EAGER: torch_eager,
    COMPILED: torch_compiled,
}


@dataclass(frozen=True)
class Case:
    """A decoder, and how many tokens are generated after the one that its prompt gives."""

    size: str
    tokens: int
    run: Pass

    def found(self) -> tuple[dict[str, list[float]], dict[str, list[str]]]:
        """The seconds of each side, and what those lack that could not be measured."""
        lacks: dict[str, list[str]] = {}
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            saved = str(Path(folder, "1"))
            in_new_process(gpt_jax.prepare, env=ENV, size=self.size, folder=saved)
            workers, results = {}, {}
            for name, side in SIDES.items():
                if name == COMPILED and not self.tokens:  # a prompt is no step
                    continue
                if lacks.setdefault(name, self.missing(name)):
                    continue
                worker = stack.enter_context(
                    Worker(
                        side,
                        env=ENV,
                        size=self.size,
                        folder=saved,
                        prompt=PROMPT,
                        tokens=self.tokens,
                    )
                )
                try:
                    results[name] = worker.result()
                except ProcessError as error:  # installed, but it does not run on this machine
                    lacks[name] = [f"{name} to work: {last_line(error)}"]
                    continue
                workers[name] = worker
            check(results)
            rounds, budget = self.run.pick(40, 3), self.run.pick(20, 1)
            return by_turns(workers, rounds=rounds, budget_s=budget), lacks

    def missing(self, name: str) -> list[str]:
        if name == COMPILED and self.run.quick:
            return ["a full pass"]
        if name == COMPILED and shutil.which("g++") is None:
            return ["g++"]
        return unimportable("torch") if name in {EAGER, COMPILED} else []


def check(results: Mapping[str, Any]) -> None:
    """Whether all sides computed the same."""
    expected = results[ORIGINAL]
    logits = np.asarray(expected["logits"])
    for name, result in results.items():
        furthest = np.abs(np.asarray(result["logits"]) - logits).max() / np.abs(logits).max()
        assert furthest <= TOLERANCE, f"{name} is off by {furthest:.2e} of the greatest logit"
        assert np.array_equal(result["tokens"], expected["tokens"]), f"{name}: other tokens"


def rows(what: str, unit: str, case: Case, told: Callable[[float], float]) -> list[Row]:
    """A row for each other side; `told` gives the figure for the seconds of one call."""
    found, lacks = case.found()
    figures = {name: [told(one) for one in seconds] for name, seconds in found.items()}
    return [
        Row(
            what,
            Side(OURS, unit, figures[OURS]),
            Side(name, unit, figures[name]) if name in figures else None,
            missing=lacks[name],
            parameters={"decoder": case.size, "tokens": case.tokens},
        )
        for name in lacks
        if name != OURS
    ]


def measure(size: str, run: Pass) -> list[Row]:
    tokens, calls = run.pick(96, 16), run.pick(64, 16)
    return [
        *rows(f"{size}: prompt of {PROMPT} tokens", "s", Case(size, 0, run), float),
        *rows(
            f"{size}: prompt and {tokens} tokens",
            "tokens/s",
            Case(size, tokens, run),
            lambda seconds: tokens / seconds,
        ),
        *rows(
            "the cost of a step's call",
            "s",
            Case("tiny", calls, run),
            lambda seconds: seconds / calls,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds; keeps no figures")
    parser.add_argument("--keep", action="store_true", help="keep the figures of a quick pass too")
    parser.add_argument("--size", choices=("gpt2", "small"), help="gpt2 on a GPU, else small")
    given = parser.parse_args()
    run = Pass(given.quick, given.keep or not given.quick)
    card = machine.card()
    size, name = ("small", "decoder") if card == "cpu" else ("gpt2", f"decoder_{card}")
    question = __doc__.splitlines()[0]
    report(name, question, METHOD, measure(given.size or size, run), run, command="decoder")


if __name__ == "__main__":
    main()
