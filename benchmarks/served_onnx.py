"""MiniLM and ResNet-50 as ONNX Runtime serves them, from the files that PyTorch exports."""

import os
from collections.abc import Callable

import numpy as np

import batches
import served_torch


def prepare(network: str, folder: str) -> None:
    """Export the network of PyTorch for any number of examples."""
    import torch

    model, given = served_torch.network_and_inputs(network, 2)
    torch.onnx.export(
        model,
        given,
        f"{folder}.onnx",
        dynamo=True,
        input_names=list(batches.INPUTS[network](1)),
        dynamic_shapes=tuple({0: torch.export.Dim("batch", max=served_torch.MOST)} for _ in given),
        external_data=False,
        verbose=False,
    )


def loaded(network: str, folder: str, batch: int) -> Callable[[], np.ndarray]:
    """A session with every optimisation, which is the default."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(
        f"{folder}.onnx", options, providers=["CPUExecutionProvider"]
    )
    given = batches.INPUTS[network](batch)
    return lambda: session.run(None, given)[0]
