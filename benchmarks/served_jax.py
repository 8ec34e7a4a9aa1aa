"""MiniLM and ResNet-50 as this library serves them, and as `jax.jit` of the original does."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

import batches


def prepare(network: str, folder: str) -> None:
    """Save the network, as a user would: for any number of examples and every platform."""
    import exporter
    import models

    if network == "MiniLM":
        models.minilm().save(Path(folder))
    else:
        import resnet_keras

        exporter.save(resnet_keras.model(), folder)


def loaded(network: str, folder: str, batch: int) -> Callable[[], np.ndarray]:
    """The signature, loaded without the network's code."""
    import exporter

    (signature,) = exporter.load(folder).signatures.values()
    given = batches.INPUTS[network](batch)

    def call() -> np.ndarray:
        (result,) = signature(**given).values()
        return np.asarray(result)

    return call


def original(network: str, folder: str, batch: int) -> Callable[[], np.ndarray]:  # noqa: ARG001  # all sides are called alike
    """`jax.jit` of the network itself, its parameters passed as arguments."""
    import jax

    import models

    given = batches.INPUTS[network](batch).values()
    if network == "MiniLM":
        minilm = models.minilm()
        embed, parameters = (
            jax.jit(minilm.apply),
            jax.tree.map(jax.numpy.asarray, minilm.parameters),
        )
        return lambda: np.asarray(embed(parameters, *given)["embedding"])

    import resnet_keras

    model = resnet_keras.model()
    state = [[one.value for one in model.trainable_variables]]
    state.append([one.value for one in model.non_trainable_variables])
    classify = jax.jit(lambda *inputs: model.stateless_call(*inputs, training=False)[0])
    return lambda: np.asarray(classify(*state, *given))
