"""MiniLM and ResNet-50 as PyTorch serves them: eagerly, and compiled ahead by AOTInductor."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

import batches

# The most examples that an exported network takes. Two are traced: of one, sizes are guessed.
MOST = 1024


def network_and_inputs(network: str, batch: int) -> tuple[Any, tuple[Any, ...]]:
    """The network of PyTorch with all the threads that this process may use, and its inputs."""
    import torch

    import torch_models

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    made = {
        "MiniLM": torch_models.sentence_encoder,
        "ResNet-50": torch_models.residual_network,
    }[network]()
    return made, tuple(map(torch.from_numpy, batches.INPUTS[network](batch).values()))


def eager(network: str, folder: str, batch: int) -> Callable[[], np.ndarray]:  # noqa: ARG001  # all sides are called alike
    """The network itself, on a GPU where there is one."""
    import torch

    model, given = network_and_inputs(network, batch)
    place = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(place)

    @torch.inference_mode()
    def call() -> np.ndarray:
        return model(*(one.to(place) for one in given)).cpu().numpy()

    return call


def prepare(network: str, folder: str) -> None:
    """Export the network for any number of examples and compile it; its weights are fixed."""
    import torch
    from torch._inductor import aoti_compile_and_package, config

    model, given = network_and_inputs(network, 2)
    sizes = tuple({0: torch.export.Dim("batch", max=MOST)} for _ in given)
    # Only with its weights fixed does PyTorch fold the normalisations into the convolutions.
    with torch.no_grad(), config.patch(freezing=True):
        exported = torch.export.export(model, given, dynamic_shapes=sizes)
        aoti_compile_and_package(exported, package_path=f"{folder}.pt2")


def compiled(network: str, folder: str, batch: int) -> Callable[[], np.ndarray]:
    """The compiled package, loaded without the network's code."""
    import torch
    from torch._inductor import aoti_load_package

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = aoti_load_package(f"{folder}.pt2")
    given = tuple(map(torch.from_numpy, batches.INPUTS[network](batch).values()))

    @torch.inference_mode()
    def call() -> np.ndarray:
        return model(*given).numpy()

    return call
