"""Bytecode and manifest back into something JAX can call."""

from collections.abc import Callable, Sequence
from functools import cached_property

import jax
import numpy as np

from exporter.artifact.encoding import dim_of, spec_of
from exporter.artifact.records import ProgramRecord
from exporter.errors import IncompatibleRuntimeError
from exporter.jax_internals import rebuild, shown_mesh
from exporter.runtime.placement import Placement
from exporter.runtime.transformations import transformable
from signatures.dtypes import KeyType, is_inexact
from signatures.errors import SpecError
from signatures.spec import TensorSpec, storage_shape


class LoadedProgram:
    """One program, made callable when it is first called and compiled once for each shape.

    Attributes:
      record: the manifest's entry.
      bytecode: the content of its file.
      inputs: the inputs, every axis a size or a symbol.
      outputs: the outputs likewise.
      takes: the variables that it takes, then the inputs.
      gives: the variables that it returns anew, then the outputs.
      derivative: the program of its derivative, or `None` if there is none.
      order: how many times it was differentiated itself.
      name: what to call it in messages.
      rows: the leading dimension along which its rows do not depend on each other, or `None`.
      noted: what its callers were told already.
    """

    def __init__(
        self,
        name: str,
        record: ProgramRecord,
        bytecode: bytes,
        state: Sequence[TensorSpec],
        updates: Sequence[TensorSpec],
        *,
        placement: Placement,
        derivative: "LoadedProgram | None" = None,
        order: int = 0,
    ) -> None:
        """A program of that name.

        Args:
          name: what the function is called, for messages.
          record: the manifest's entry.
          bytecode: the content of its file.
          state: the variables that it takes before the inputs.
          updates: the variables that it returns anew before the outputs.
          placement: where the arrays of the model lie.
          derivative: the program of its derivative.
          order: how many times it was differentiated itself.
        """
        self.record = record
        self.bytecode = bytecode
        self.inputs = tuple(spec_of(tensor) for tensor in record.inputs)
        self.outputs = tuple(spec_of(tensor) for tensor in record.outputs)
        self.takes = (*state, *self.inputs)
        self.gives = (*updates, *self.outputs)
        self._placement = placement
        self.derivative = derivative
        self.order = order
        self.name = "the derivative of " * order + name
        dims = {dim.name: dim_of(dim) for dim in record.dims}
        self.rows = dims.get(record.row_wise or "")
        self.noted: list[str] = ["vmap"] if order else []  # its callers mapped the program itself

    @property
    def has_derivative(self) -> bool:
        """Whether its derivative can be other than zero: something goes in and out that varies."""
        return all(any(is_inexact(spec.dtype) for spec in s) for s in (self.takes, self.gives))

    @cached_property
    def call(self) -> Callable[..., Sequence[jax.Array]]:
        """The program on flat plain arrays. Variables it returns anew are donated.

        On a mesh they stay where they were, and inputs from elsewhere are copied to it.
        """
        donated = [
            position
            for position, number in enumerate(self.record.variables)
            if number in self.record.updates
        ]
        placement, count = self._placement, len(self.takes) - len(self.inputs)
        if placement.mesh is None:
            return jax.jit(self._rebuilt, donate_argnums=donated)
        stay = [placement.variables[number] for number in self.record.updates]
        places = [*stay, *(None for _ in self.outputs)]
        run = jax.jit(self._rebuilt, donate_argnums=donated, out_shardings=places)
        return lambda *arrays: run(*arrays[:count], *placement.of_inputs(arrays[count:]))

    @cached_property
    def call_traced(self) -> Callable[..., Sequence[jax.Array]]:
        """The same inside another trace, where nothing can be donated."""
        return transformable(self, jax.jit(self._rebuilt))

    def _check_mesh(self) -> None:
        """Refuse a program that computes shard by shard on another mesh.

        Raises:
          IncompatibleRuntimeError: naming both.
        """
        needed = {axis.name: axis.size for axis in self.record.mesh}
        here = self._placement.axes
        if needed and list(needed.items()) != list(here.items()):
            found = f"a mesh ({shown_mesh(here)})" if here else "no mesh"
            raise IncompatibleRuntimeError(
                f"{self.name} uses jax.shard_map, and so runs on a mesh of the same "
                f"axes and sizes as when it was saved: ({shown_mesh(needed)}). The model was "
                f"loaded with {found}. Load it with mesh=jax.make_mesh("
                f"{tuple(needed.values())}, {tuple(needed)}); its other functions run here."
            )

    @cached_property
    def _rebuilt(self) -> Callable[..., Sequence[jax.Array]]:
        self._check_mesh()
        return rebuild(
            self.name,
            self.bytecode,
            inputs=self.takes,
            outputs=self.gives,
            dims=[dim_of(dim) for dim in self.record.dims],
            platforms=self.record.platforms,
            calling_convention_version=self.record.calling_convention_version,
            kept_inputs=self.record.kept_inputs,
            uses_global_constants=self.record.uses_global_constants,
            mesh=self._placement.axes,
            pinned_mesh={axis.name: axis.size for axis in self.record.mesh},
        )

    def empty_outputs(self, sizes: dict[str, int]) -> list[jax.Array] | None:
        """The outputs if they have no elements for these sizes, whatever the program computes."""
        try:
            shapes = [spec.evaluate(sizes) for spec in self.outputs]
        except SpecError:  # an axis such as n - 1 has no size for n=0
            return None
        if self.record.updates or any(min(shape, default=1) != 0 for shape in shapes):
            return None
        return [
            jax.numpy.zeros(storage_shape(shape, spec.dtype), _plain(spec))
            for shape, spec in zip(shapes, self.outputs, strict=True)
        ]


def _plain(spec: TensorSpec) -> np.dtype[np.generic]:
    return np.dtype(np.uint32) if isinstance(spec.dtype, KeyType) else spec.dtype
