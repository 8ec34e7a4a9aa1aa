"""What one writes without this library: `jax.export` for the program, Orbax for the parameters."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from models import Network

ALL = ("cpu", "cuda", "rocm", "tpu")

# A whole script, from a folder that `save` made to the first prediction. The inputs are in a file.
SCRIPT = """
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

folder = Path(sys.argv[1])
exported = jax.export.deserialize(bytearray((folder / "program").read_bytes()))
place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
(tree, *_), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
target = jax.tree.map(lambda one: jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=place), tree)
with ocp.StandardCheckpointer() as checkpointer:
    parameters = checkpointer.restore((folder / "variables").resolve(), target)
inputs = np.load(sys.argv[2])
result = jax.jit(exported.call)(parameters, *inputs.values())
print(np.abs(jax.tree.leaves(result)[0]).sum())
"""


def save(network: Network, folder: Path, platforms: Sequence[str] = ALL) -> None:
    """The program and the parameters of `network`, in a folder that is not there yet."""
    folder.mkdir()
    (folder / "program").write_bytes(network.export(platforms).serialize())
    write_variables(network.parameters, folder / "variables")


def write_variables(tree: Any, folder: Path) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, tree)


def load(folder: Path) -> tuple[Callable[..., Any], Any]:
    """The program, to be compiled when it is first called, and the parameters for it."""
    exported = jax.export.deserialize(bytearray((folder / "program").read_bytes()))
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    (tree, *_), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    target = jax.tree.map(
        lambda one: jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=place), tree
    )
    with ocp.StandardCheckpointer() as checkpointer:
        return jax.jit(exported.call), checkpointer.restore(folder / "variables", target)


def program(folder: Path) -> Callable[..., Any]:
    """The program alone."""
    return jax.jit(jax.export.deserialize(bytearray((folder / "program").read_bytes())).call)
