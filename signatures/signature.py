"""What callers see of a function: named inputs and outputs, defaults and bounds, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from signatures.spec import Dim, TensorSpec


@dataclass(frozen=True)
class Signature:
    """Named inputs and outputs of one callable.

    It knows no file, no device and no JAX, so a client can read one anywhere.

    Attributes:
      name: what the callable is called, for error messages.
      inputs: the spec of each input by its name, in the order of the arguments.
      outputs: the spec of each output by its name, in the order they are returned.
      defaults: the values of the inputs that a caller may leave out.
    """

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    defaults: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def dims(self) -> dict[str, Dim]:
        """Every named dimension of the inputs, with its bounds if it has any."""
        found: dict[str, Dim] = {}
        for spec in self.inputs.values():
            bounds = {dim.name: dim for dim in spec.dims}
            for name in spec.names:
                if name in bounds or name not in found:
                    found[name] = bounds.get(name, Dim(name))
        return found

    def __str__(self) -> str:
        inputs = ", ".join(
            f"{name}: {spec}{' = default' if name in self.defaults else ''}"
            for name, spec in self.inputs.items()
        )
        outputs = ", ".join(f"{name}: {spec}" for name, spec in self.outputs.items())
        return f"{self.name}({inputs}) -> ({outputs})"
