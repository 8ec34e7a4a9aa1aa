"""What callers see of a function: named inputs and outputs, defaults and bounds, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from signatures.errors import SpecError
from signatures.expression import Expression
from signatures.spec import Dim, TensorSpec


@dataclass(frozen=True, eq=False)
class Signature:
    """Named inputs and outputs of one callable.

    It knows no file, no device and no JAX, so a client can read one anywhere.

    Examples:
      >>> image = TensorSpec(("batch", 64), "float32")
      >>> print(Signature("embed", {"image": image}, {"output_0": TensorSpec(("batch", 8))}))
      embed(image: float32[batch, 64]) -> (output_0: float32[batch, 8])

    Attributes:
      name: what the callable is called, for error messages.
      inputs: the spec of each input by its name, in the order of the arguments.
      outputs: the spec of each output by its name, in the order they are returned.
      defaults: the values of the inputs that a caller may leave out.

    Raises:
      SpecError: if two inputs bound one dimension differently, or a default has no input.
    """

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    defaults: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for one in ("inputs", "outputs", "defaults"):
            object.__setattr__(self, one, dict(getattr(self, one)))
        unknown = [name for name in self.defaults if name not in self.inputs]
        if unknown:
            raise SpecError(
                f"signature {self.name!r} has a default for {unknown[0]!r}, which is not an input: "
                f"{', '.join(self.inputs) or 'it has none'}."
            )
        bounds: dict[str, Dim] = {}
        for dim in (dim for spec in self.inputs.values() for dim in spec.dims):
            if bounds.setdefault(dim.name, dim) != dim:
                raise SpecError(
                    f"signature {self.name!r} has two bounds for one dimension: "
                    f"{bounds[dim.name]} and {dim}."
                )

    @cached_property
    def dims(self) -> Mapping[str, Dim]:
        """Every named dimension of the inputs, with its bounds if it has any."""
        bounds = {dim.name: dim for spec in self.inputs.values() for dim in spec.dims}
        names = dict.fromkeys(name for spec in self.inputs.values() for name in spec.names)
        return {name: bounds.get(name) or Dim(name) for name in names}

    @cached_property
    def bounded_dims(self) -> tuple[Dim, ...]:
        """Those of them that have bounds."""
        return tuple(dim for dim in self.dims.values() if dim.is_bounded)

    @cached_property
    def has_arithmetic(self) -> bool:
        """Whether an axis of the inputs is more than a size or a name, so that names are solved."""
        return any(
            isinstance(axis, Expression) and not axis.is_name
            for spec in self.inputs.values()
            for axis in spec.expressions
        )

    @cached_property
    def plain(self) -> "Signature":
        """It with random keys as the words they are made of, `uint32[..., n]`.

        Neither files nor messages can hold keys, and only JAX can make them.
        """
        return replace(
            self,
            inputs={name: spec.plain for name, spec in self.inputs.items()},
            outputs={name: spec.plain for name, spec in self.outputs.items()},
        )

    def __eq__(self, other: object) -> bool:
        """Equal names, specs and defaults, in the same order."""
        if not isinstance(other, Signature):
            return NotImplemented
        return self._parts == other._parts

    def __hash__(self) -> int:
        return hash(self._parts)

    @cached_property
    def _parts(self) -> tuple[object, ...]:
        values = {name: (v.dtype.name, v.shape, v.tobytes()) for name, v in self.defaults.items()}
        return (
            self.name,
            tuple(self.inputs.items()),
            tuple(self.outputs.items()),
            tuple(sorted(values.items())),
        )

    def __str__(self) -> str:
        inputs = ", ".join(
            f"{name}: {spec}{' = default' if name in self.defaults else ''}"
            for name, spec in self.inputs.items()
        )
        outputs = ", ".join(f"{name}: {spec}" for name, spec in self.outputs.items())
        return f"{self.name}({inputs}) -> ({outputs})"
