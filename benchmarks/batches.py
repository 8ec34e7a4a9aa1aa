"""What the networks are given, as NumPy arrays by name."""

from collections.abc import Callable, Mapping

import numpy as np

import minilm
import resnet

# Each gives the inputs for a number of examples.
INPUTS: Mapping[str, Callable[[int], dict[str, np.ndarray]]] = {
    "MiniLM": minilm.tokens,
    "ResNet-50": resnet.images,
}
