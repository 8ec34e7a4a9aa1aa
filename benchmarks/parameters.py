"""Parameters and inputs as NumPy arrays, the same for every library that computes with them."""

from typing import Any

import numpy as np

WIDTH = 256
HEADS = 4
WORDS = 1000
LONGEST = 512

TOKENS = np.arange(2 * 16, dtype=np.int32).reshape(2, 16)
ROWS = np.ones((8, 64), np.float32)


def transformer(layers: int, width: int = WIDTH) -> dict[str, Any]:
    """At 256 wide, about 0.8 million numbers for each layer and 0.4 million for the words."""
    random = np.random.default_rng(0)

    def drawn(*shape: int) -> np.ndarray:
        return random.normal(0, shape[0] ** -0.5, shape).astype(np.float32)

    return {
        "words": drawn(WORDS, width),
        "positions": drawn(LONGEST, width),
        "layers": [
            {
                "scale": np.ones(width, np.float32),
                "query": drawn(width, width),
                "key": drawn(width, width),
                "value": drawn(width, width),
                "out": drawn(width, width),
                "expand": drawn(width, 4 * width),
                "bias": np.zeros(4 * width, np.float32),
                "contract": drawn(4 * width, width),
            }
            for _ in range(layers)
        ],
    }


def terms(count: int) -> list[np.ndarray]:
    return [np.full(64, number, np.float32) for number in range(count)]
