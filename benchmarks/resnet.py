"""ResNet-50 as NumPy parameters: the same numbers for every library that computes with them.

Layers are named as in `keras.applications.ResNet50`, and kernels lie as there, in
`[height, width, in, out]`. The numbers are drawn, not trained: what a network costs does not depend
on them. Statistics and scales are drawn too, so that none of them can be left out unnoticed.
"""

from dataclasses import dataclass

import numpy as np

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # the width and the number of the blocks
EPSILON = 1.001e-5
CLASSES = 1000
SIDE = 224


@dataclass(frozen=True)
class Convolution:
    """A convolution and the normalisation after it, `NAME_conv` and `NAME_bn`."""

    name: str
    inputs: int
    outputs: int
    size: int
    stride: int


@dataclass(frozen=True)
class Block:
    """Three convolutions, and one beside them where a stage begins; otherwise their input."""

    path: tuple[Convolution, Convolution, Convolution]
    shortcut: Convolution | None


STEM = Convolution("conv1", 3, 64, 7, 2)


def blocks() -> list[Block]:
    found = []
    inputs = STEM.outputs
    for stage, (width, count) in enumerate(STAGES, start=2):
        for number in range(1, count + 1):
            name = f"conv{stage}_block{number}"
            stride = 2 if number == 1 and stage > 2 else 1
            path = (
                Convolution(f"{name}_1", inputs, width, 1, stride),
                Convolution(f"{name}_2", width, width, 3, 1),
                Convolution(f"{name}_3", width, 4 * width, 1, 1),
            )
            beside = Convolution(f"{name}_0", inputs, 4 * width, 1, stride)
            found.append(Block(path, beside if number == 1 else None))
            inputs = 4 * width
    return found


def convolutions() -> list[Convolution]:
    return [
        STEM,
        *(one for block in blocks() for one in (block.shortcut, *block.path) if one is not None),
    ]


def parameters() -> dict[str, np.ndarray]:
    """25.6 million numbers by layer and name, as in `conv1_conv/kernel`."""
    random = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}
    for one in convolutions():
        shape = (one.size, one.size, one.inputs, one.outputs)
        # The last of a block is scaled down, so that the sum of 16 blocks stays within bounds.
        scale = 0.2 if one.name.endswith("_3") else 1.0
        found[f"{one.name}_conv/kernel"] = random.normal(0, (2 / np.prod(shape[:3])) ** 0.5, shape)
        found[f"{one.name}_conv/bias"] = random.normal(0, 0.1, one.outputs)
        found[f"{one.name}_bn/gamma"] = scale * random.uniform(0.5, 1.5, one.outputs)
        found[f"{one.name}_bn/beta"] = random.normal(0, 0.1, one.outputs)
        found[f"{one.name}_bn/moving_mean"] = random.normal(0, 0.1, one.outputs)
        found[f"{one.name}_bn/moving_variance"] = random.uniform(0.5, 1.5, one.outputs)
    width = 4 * STAGES[-1][0]
    found["predictions/kernel"] = random.normal(0, width**-0.5, (width, CLASSES))
    found["predictions/bias"] = random.normal(0, 0.1, CLASSES)
    return {name: value.astype(np.float32) for name, value in found.items()}


def images(batch: int) -> dict[str, np.ndarray]:
    """`image`, `float32[batch, 224, 224, 3]`."""
    random = np.random.default_rng(1)
    return {"image": random.normal(size=(batch, SIDE, SIDE, 3)).astype(np.float32)}
