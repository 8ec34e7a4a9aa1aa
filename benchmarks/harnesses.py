"""Of JAX's own harnesses of its primitives, how many agree after being saved and loaded?

    python benchmarks/harnesses.py --count 1000 --seed 7 [--platforms cpu,cuda,tpu] [--x64]

draws some at random, and prints each that does not agree, then how many did of those that
`jax.export` itself can export.
"""

import argparse
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.internal_test_util import test_harnesses

import exporter

# Both sides are compiled by the same XLA from the same StableHLO but for one pass of portable
# bytecode, which may be fused in another order: a few units in the last place.
WIDE_UNITS, NARROW_UNITS = 64, 2


def drawn(count: int, seed: int) -> list[test_harnesses.Harness]:
    """Some harnesses, the same for a seed."""
    harnesses = sorted(test_harnesses.all_harnesses, key=lambda one: one.fullname)
    return random.Random(seed).sample(harnesses, count)


def outcomes(
    harnesses: Sequence[test_harnesses.Harness], platforms: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """For each harness its name and `agrees`, `JAX cannot export it`, or what went wrong."""
    for harness in harnesses:
        try:
            given = harness.dyn_args_maker(np.random.RandomState(0))
            arguments = [jnp.asarray(value) for value in given]  # NumPy's 64 bits as JAX has them
            plain = jax.jit(harness.dyn_fun)
            jax.export.export(plain, platforms=platforms)(*arguments)
            expected = plain(*arguments)
        except Exception:  # noqa: BLE001  # JAX may refuse in any way
            yield harness.fullname, "JAX cannot export it"
            continue
        try:
            check(harness, arguments, expected, platforms)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the outcome
            text = " ".join(str(error).split())
            yield harness.fullname, f"{type(error).__name__}: {text[:300]}"
        else:
            yield harness.fullname, "agrees"


def check(
    harness: test_harnesses.Harness,
    arguments: Sequence[jax.Array],
    expected: object,
    platforms: Sequence[str],
) -> None:
    model = SimpleNamespace(f=exporter.function(_named(harness)))
    model.f.get_concrete_function(*arguments)
    with tempfile.TemporaryDirectory() as folder:
        exporter.save(model, Path(folder, "model"), {}, platforms=platforms)
        result = exporter.load(Path(folder, "model")).f(*arguments)
    for one, other in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        close = tolerance(other)
        np.testing.assert_allclose(comparable(one), comparable(other), rtol=close, atol=close)


def tolerance(array: jax.Array) -> float:
    """How far results may lie apart, in the distance of neighbouring numbers near 1."""
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return 0.0
    eps = float(jnp.finfo(array.dtype).eps)
    return eps * (WIDE_UNITS if eps < 1e-6 else NARROW_UNITS)


def _named(harness: test_harnesses.Harness) -> Callable[..., object]:
    """The harness's function under a name of its own: it may be a primitive or a partial."""

    def harnessed(*given: jax.Array) -> object:
        return harness.dyn_fun(*given)

    return harnessed


def comparable(array: jax.Array) -> np.ndarray:
    """The elements as numbers that NumPy compares: wide floats for narrow ones, words for keys."""
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    plain = np.asarray(jax.random.key_data(array) if is_key else array)
    return plain if plain.dtype.kind in "biufc" else plain.astype(np.float64)


def main() -> int:
    """Print the outcomes of a large sample; 1 if less than 99 of 100 agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--platforms", default="cpu", help="for example cpu,cuda,tpu")
    parser.add_argument("--x64", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", options.x64)
    counts: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = drawn(options.count, options.seed)
        for name, outcome in outcomes(chosen, options.platforms.split(",")):
            known = outcome in ("agrees", "JAX cannot export it")
            counts[outcome if known else "fails"] += 1
            if not known:
                print(f"{name}: {outcome}", flush=True)
    exportable = counts["agrees"] + counts["fails"]
    print(f"{counts['agrees']} of {exportable} agree; {options.count - exportable} left out")
    return int(counts["agrees"] < 0.99 * exportable)


if __name__ == "__main__":
    sys.exit(main())
