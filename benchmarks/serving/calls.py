"""The same functions called by hand in a process of their own, and the folders that are served."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from servers import network

import exporter
import minilm
import models


def save_mlp(folder: str, factor: float = 1.0) -> None:
    """The network of `network.py` as an artifact, with its first weights and biases multiplied."""
    (first, before), last = network.parameters()
    exporter.save(
        (network.forward, [(first * factor, before * factor), last]),
        Path(folder),
        input_signature=[exporter.TensorSpec(("batch", network.SIZES[0]), "float32", name="x")],
        samples=[{"x": network.example()}],
    )


def save_minilm(folder: str) -> None:
    """The sentence encoder with its published weights."""
    models.minilm().save(Path(folder))


def jitted() -> Callable[[], np.ndarray]:
    """The network by `jax.jit`, with an array of NumPy in and out."""
    weights = jax.device_put(network.parameters())
    call = jax.jit(lambda x: network.forward(weights, x))
    x = network.example()
    return lambda: np.asarray(call(x))


def loaded(folder: str, batch: int) -> Callable[[], np.ndarray]:
    """The loaded encoder with so many texts, arrays of NumPy in and out."""
    function = exporter.load(folder).signatures["embed"]
    given = minilm.tokens(batch)

    def call() -> np.ndarray:
        (result,) = jax.tree.leaves(function(**given))
        return np.asarray(result)

    return call
