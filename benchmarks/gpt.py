"""A decoder of the sizes and the shape of GPT-2, as NumPy parameters for every library."""

from dataclasses import dataclass
from typing import Any

import numpy as np

EPSILON = 1e-5


@dataclass(frozen=True)
class Size:
    """What a decoder consists of. Its cache holds `length` tokens."""

    layers: int
    width: int
    heads: int
    words: int
    length: int


SIZES = {
    "gpt2": Size(layers=12, width=768, heads=12, words=50257, length=1024),
    "small": Size(layers=6, width=384, heads=6, words=8192, length=256),
    # As many arrays as GPT-2, and next to nothing to compute: the cost of the calls alone.
    "tiny": Size(layers=12, width=16, heads=2, words=64, length=128),
}


def parameters(size: Size) -> dict[str, Any]:
    """The tree of parameters, drawn with GPT-2's own scale; matrices lie in `[in, out]`."""
    random = np.random.default_rng(0)

    def drawn(*shape: int, scale: float = 0.02) -> np.ndarray:
        return random.normal(0, scale, shape).astype(np.float32)

    def norm() -> dict[str, np.ndarray]:
        return {"scale": 1 + drawn(size.width), "bias": drawn(size.width)}

    def dense(inputs: int, outputs: int) -> dict[str, np.ndarray]:
        return {"kernel": drawn(inputs, outputs, scale=inputs**-0.5), "bias": drawn(outputs)}

    width = size.width
    return {
        "words": drawn(size.words, width, scale=1.0),
        "positions": drawn(size.length, width, scale=1.0),
        "layers": [
            {
                "attention_norm": norm(),
                "attention": dense(width, 3 * width),
                "attention_out": dense(width, width),
                "hidden_norm": norm(),
                "expand": dense(width, 4 * width),
                "contract": dense(4 * width, width),
            }
            for _ in range(size.layers)
        ],
        "norm": norm(),
    }


def prompt(size: Size, tokens: int) -> np.ndarray:
    """`int32[1, tokens]`."""
    random = np.random.default_rng(1)
    return random.integers(0, size.words, size=(1, tokens)).astype(np.int32)
