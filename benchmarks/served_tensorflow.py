"""MiniLM and ResNet-50 as TensorFlow serves them: the signature of a SavedModel."""

import os
from collections.abc import Callable

import numpy as np

import batches


def prepare(network: str, folder: str) -> None:
    """Write the SavedModel; Keras writes that of its own network itself."""
    if network == "MiniLM":
        import tensorflow as tf

        import minilm_tensorflow

        encoder = minilm_tensorflow.SentenceEncoder()
        tf.saved_model.save(encoder, folder, signatures={"serving_default": encoder.embed})
    else:
        import resnet_keras

        resnet_keras.model().export(folder, format="tf_saved_model", verbose=False)


def loaded(network: str, folder: str, batch: int) -> Callable[[], np.ndarray]:
    """The signature, loaded without the network's code."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(len(os.sched_getaffinity(0)))
    model = tf.saved_model.load(folder)
    signature = model.signatures["serving_default"]
    given = batches.INPUTS[network](batch)

    def call() -> np.ndarray:
        _ = model  # a signature does not keep its model's variables alive
        (result,) = signature(**{name: tf.constant(one) for name, one in given.items()}).values()
        return result.numpy()

    return call
