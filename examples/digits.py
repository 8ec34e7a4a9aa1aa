"""Train a digit reader with Flax, save it, and use it where there is no Flax.

    python examples/digits.py

The first half of this file is ordinary Flax: a small convolutional network, trained in seconds on
1347 handwritten digits. Two of its methods carry `@exporter.function`, which says what arrays they
take. Nothing else has to be said to save it. Stages around them say how a picture becomes such an
array, and which digit each score is for.

The second half is `READER`, a complete program that runs in a process of its own. All it is given
is the saved folder. It has neither `DigitNetwork` nor Flax, and it reads the other 450 digits
exactly as well as the network did before it was saved, and one more from a PNG file. A shell reads
that one without a program:

    exporter run artifacts/digits --inputs image=artifacts/digits.png
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import exporter

SEED = 0
EPOCHS = 15
BATCH_SIZE = 64

IMAGES = exporter.TensorSpec(("batch", 8, 8), jnp.float32, name="image")


class DigitNetwork(nnx.Module):
    """Two convolutions and two dense layers. A pixel is 0.0 where there is no ink, at most 1.0."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.strokes = nnx.Conv(1, 32, kernel_size=(3, 3), rngs=rngs)
        self.shapes = nnx.Conv(32, 64, kernel_size=(3, 3), rngs=rngs)
        self.summary = nnx.Linear(2 * 2 * 64, 64, rngs=rngs)
        self.classes = nnx.Linear(64, 10, rngs=rngs)

    @exporter.function(input_signature=[IMAGES])
    def embedding(self, image: jax.Array) -> dict[str, jax.Array]:
        """64 numbers for each image, near each other where the images look alike."""
        return {"embedding": self._embed(image)}

    @exporter.function(input_signature=[IMAGES])
    def scores(self, image: jax.Array) -> dict[str, jax.Array]:
        """10 scores for each image, one a digit. The highest is the network's answer."""
        return {"scores": self.classes(nnx.relu(self._embed(image)))}

    def _embed(self, image: jax.Array) -> jax.Array:
        x = image[..., None]
        for convolution in (self.strokes, self.shapes):
            x = nnx.max_pool(nnx.relu(convolution(x)), window_shape=(2, 2), strides=(2, 2))
        return self.summary(x.reshape(x.shape[0], -1))


@nnx.jit
def train_step(
    network: DigitNetwork, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array
) -> jax.Array:
    """One step of gradient descent. Gives the mean loss before it."""

    def loss(network: DigitNetwork) -> jax.Array:
        scores = network.scores(images)["scores"]
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    value, gradients = nnx.value_and_grad(loss)(network)
    optimizer.update(network, gradients)
    return value


def train(network: DigitNetwork, images: np.ndarray, labels: np.ndarray) -> None:
    """Teach `network` in place, in batches drawn in a new order every epoch."""
    optimizer = nnx.Optimizer(network, optax.adamw(2e-3), wrt=nnx.Param)
    rng = np.random.default_rng(SEED)
    for _ in (progress := tqdm(range(EPOCHS), desc="training", unit="epoch")):
        shuffled = rng.permutation(len(images))
        for start in range(0, len(images) - BATCH_SIZE + 1, BATCH_SIZE):
            batch = shuffled[start : start + BATCH_SIZE]
            loss = train_step(network, optimizer, images[batch], labels[batch])
        progress.set_postfix(loss=f"{loss:.4f}")


READER = '''
import pathlib
import sys

import numpy as np

import exporter

INK = " ░▒▓█"


def draw(image, caption):
    """The lines of one digit, two characters a pixel, and a caption below them."""
    shades = np.rint(image * (len(INK) - 1)).astype(int)
    return ["".join(2 * INK[shade] for shade in row) for row in shades] + [caption.center(16)]


folder, test_file, picture = sys.argv[1:]
test = np.load(test_file)
images, labels = test["images"], test["labels"]

model = exporter.load(folder)
print("signatures:", *model.signatures)
scores = model.signatures["serving_default"](image=images)["scores"]

answers = np.asarray(scores).argmax(axis=1)
right = answers == labels
shown = [*np.flatnonzero(right)[:2], *np.flatnonzero(~right)[:2]]
captions = [f"{answers[i]}" if right[i] else f"{answers[i]} (wrong)" for i in shown]
for line in zip(*map(draw, images[shown], captions), strict=True):
    print(*line, sep="  ")

answer = model.pipelines["serving_default"](image=pathlib.Path(picture))
print(f"\\nthe picture of a {labels[0]} is read as {answer['label'][0]}")

embedding = np.asarray(model.signatures["embedding"](image=images)["embedding"])
nearest = np.linalg.norm(embedding - embedding[0], axis=1).argsort()[1:9]
print(f"nearest to a {labels[0]} by embedding:", *labels[nearest])
print("Flax imported here:", "flax" in sys.modules)
print(f"accuracy {right.mean():.4f}")
'''


def read_elsewhere(folder: Path, picture: Path, images: np.ndarray, labels: np.ndarray) -> str:
    """Run `READER` in a process of its own and show what it prints. Gives its last line."""
    with tempfile.TemporaryDirectory() as scratch:
        test_file = Path(scratch, "test.npz")
        np.savez(test_file, images=images, labels=labels)
        command = [sys.executable, "-c", READER, str(folder), str(test_file), str(picture)]
        reading = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(reading.stdout)
    if reading.returncode != 0:
        sys.exit("The reading process failed.")
    return reading.stdout.splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train, save and use a reader of digits.")
    parser.add_argument("--out", type=Path, default=Path("artifacts/digits"))
    folder: Path = parser.parse_args().out

    digits = load_digits()
    images, test_images, labels, test_labels = train_test_split(
        digits.images.astype(np.float32) / 16, digits.target, random_state=SEED
    )

    network = DigitNetwork(nnx.Rngs(SEED))
    train(network, images, labels)
    answers = network.scores(test_images)["scores"].argmax(axis=1)
    before = f"accuracy {np.mean(answers == test_labels):.4f}"

    picture = exporter.stages.Image(scale=1 / 255)
    exporter.save(
        network,
        folder,
        signatures={"serving_default": network.scores, "embedding": network.embedding},
        stages={
            "serving_default": [picture, exporter.stages.Labels([str(n) for n in range(10)])],
            "embedding": [picture],
        },
        overwrite=True,
    )
    file = folder.with_name(f"{folder.name}.png")
    Image.fromarray(np.uint8(test_images[0] * 255)).save(file)
    print(f"saved {folder}; another process loads it:\n")
    after = read_elsewhere(folder, file, test_images, test_labels)

    print(f"before saving: {before}\nafter loading: {after}")
    if after != before:
        sys.exit("The loaded model does not do what the saved one did.")
    print(f"\nA shell needs no program:\n  exporter run {folder} --inputs image={file}")


if __name__ == "__main__":
    main()
