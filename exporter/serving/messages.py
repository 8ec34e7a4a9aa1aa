"""A call and its answer, whatever protocol they came by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# What the protocols are told of the kind of our models.
PLATFORM = "jax_exporter"

# Extensions of Triton that change what a request means. To ignore them would be a wrong answer.
NOT_OFFERED = {
    "shared_memory_region": "shared memory",
    "classification": "classification of outputs",
    "sequence_id": "sequences",
}


@dataclass(slots=True)
class Request:
    """What a client wants of a signature.

    Attributes:
      inputs: by name: arrays, nested lists of numbers, or what stages take (`str` and `bytes`, in
        lists or in arrays of objects).
      outputs: the names of those that are wanted, or `None` for all.
      signature: its name, or `None` for the default one.
      id: what the client calls the request, to be sent back.
      timeout: how long the client waits, in seconds.
      binary: the outputs that are wanted as bytes, or whether all are; of protocols with a choice.
    """

    inputs: Mapping[str, Any]
    outputs: Sequence[str] | None = None
    signature: str | None = None
    id: str = ""
    timeout: float | None = None
    binary: frozenset[str] | bool = field(default=False)


@dataclass(slots=True)
class Answer:
    """What a signature gave.

    Attributes:
      model: the name of the model.
      version: the number of its version.
      signature: the name of the signature.
      outputs: by name. Texts, such as labels, are arrays of `str` objects.
    """

    model: str
    version: int
    signature: str
    outputs: Mapping[str, np.ndarray]
