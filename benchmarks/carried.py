"""Does a model that a CPU saved on another machine compute the same here?

python benchmarks/carried.py write FOLDER     # on one machine, which JAX runs on the CPU of
python benchmarks/carried.py read FOLDER      # on another, after the folder was copied
"""

import argparse
import os
from pathlib import Path

# Products are not rounded to fewer digits than float32 has, as they are on a GPU by default.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")

import jax
import numpy as np

import exporter
import gpt
import gpt_jax
import machine
import models
from exporter.artifact.manifest import read as manifest_of
from measuring import Pass, Row, Side, report

TRANSFORMER, DECODER = "transformer", "decoder"
PROMPT, STEPS = 32, 16
QUESTION = __doc__.splitlines()[0]

METHOD = f"""A process that has nothing but a CPU saves both models and what they compute, on
another machine and with the versions that are named. Here `exporter.verify` judges all of each
folder and calls the transformer again; floats have to agree in two thirds of their digits. The
decoder is given a prompt of {PROMPT} tokens and {STEPS} more one by one, which it keeps in its
variables, and has to give the same tokens. What is told is the greatest difference of two numbers,
relative to the greatest."""


def write(folder: Path) -> None:
    """Save both models with what this CPU computes."""
    assert {one.platform for one in jax.devices()} == {"cpu"}, "set JAX_PLATFORMS=cpu"
    network = models.transformer(width=128)
    exporter.save(
        network.subject,
        folder / TRANSFORMER,
        input_signature=network.input_signature,
        samples=[network.given],
    )
    decoder = gpt_jax.Decoder(gpt.SIZES["tiny"])
    signatures = {"prefill": decoder.prefill, "step": decoder.step}
    exporter.save(decoder, folder / DECODER, signatures)
    np.savez(folder / "generated.npz", **generated(folder))


def generated(folder: Path) -> dict[str, np.ndarray]:
    """The logits after the prompt and the tokens that follow it."""
    generate = gpt_jax.loaded("tiny", str(folder / DECODER), PROMPT, STEPS)
    result = generate()
    return {"logits": np.asarray(result["logits"]), "tokens": np.concatenate(result["tokens"])}


def read(folder: Path) -> list[Row]:
    """How far the results here are from those that came with the folder."""
    (sample,) = verified(folder / TRANSFORMER).samples
    loaded = exporter.load(folder / TRANSFORMER)
    (expected,) = loaded.signatures["serving_default"](**models.transformer().given).values()
    furthest = max(one.largest for one in sample.comparisons) / np.abs(expected).max()

    verified(folder / DECODER)
    here, there = generated(folder), np.load(folder / "generated.npz")
    np.testing.assert_array_equal(here["tokens"], there["tokens"])
    apart = np.abs(here["logits"] - there["logits"]).max() / np.abs(there["logits"]).max()
    assert apart < 1e-4, apart
    return [
        Row(f"{what}, saved by {by(folder / name)}", Side("off", "of the greatest", [float(value)]))
        for what, name, value in (
            ("12-layer transformer", TRANSFORMER, furthest),
            ("12-layer decoder with a KV cache", DECODER, apart),
        )
    ]


def verified(folder: Path) -> exporter.VerificationReport:
    """The verdicts on an artifact, of which none may be that something failed."""
    verdicts = exporter.verify(folder)
    print(verdicts)
    verdicts.raise_if_failed()
    return verdicts


def by(folder: Path) -> str:
    """The versions that saved it."""
    made = manifest_of(folder).producer
    return f"JAX {made.jax} on Python {made.python}"


def main() -> None:
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("what", choices=("write", "read"))
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    if given.what == "write":
        write(given.folder)
        return
    device = str(machine.described()["device"])
    run = Pass(quick=False, keep=device != "cpu")
    rows = read(given.folder)
    report(
        f"carried_{machine.card()}", f"{QUESTION} ({device})", METHOD, rows, run, command="carried"
    )


if __name__ == "__main__":
    main()
