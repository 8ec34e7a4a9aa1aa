"""Bytecode and manifest back into something JAX can call."""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from exporter.artifact.encoding import dim_of, spec_of
from exporter.artifact.layout import digest_bytes
from exporter.artifact.manifest import digest_of
from exporter.artifact.records import ProgramRecord, replace
from exporter.errors import IncompatibleRuntimeError
from exporter.jax_internals import rebuild, shown_mesh
from exporter.runtime.compiling import Compiler, Outcome
from exporter.runtime.embedding import Embedded
from exporter.runtime.placement import Placement
from exporter.runtime.transformations import transformable
from signatures.binding import check_values
from signatures.dtypes import WIDE, KeyType, is_inexact
from signatures.errors import SpecError
from signatures.signature import Signature
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
      staying: the positions in `takes` of the variables that no program of the model changes.
      changing: the positions of the other variables.
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
        changed: Collection[int],
        placement: Placement,
        compiler: Compiler,
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
          changed: the numbers of the variables that any program of the model returns anew.
          placement: where the arrays of the model lie.
          compiler: compiles it.
          derivative: the program of its derivative.
          order: how many times it was differentiated itself.
        """
        self.record = record
        self.bytecode = bytecode
        self.inputs = tuple(spec_of(tensor) for tensor in record.inputs)
        self.outputs = tuple(spec_of(tensor) for tensor in record.outputs)
        self.takes = (*state, *self.inputs)
        self.gives = (*updates, *self.outputs)
        numbers = list(enumerate(record.variables))
        self.staying = [position for position, number in numbers if number not in changed]
        self.changing = [position for position, number in numbers if number in changed]
        self.placement = placement
        self._compiler = compiler
        self._compiled: dict[tuple[object, ...], jax.stages.Compiled] = {}
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
    def place(self) -> jax.sharding.Sharding | None:
        """Where it runs, unless its inputs say otherwise. `None` is JAX's default device."""
        numbers = self.record.variables
        return self.placement.variables[numbers[0]] if numbers else self.placement.rest

    def fits(self, values: Sequence[object]) -> bool:
        """Whether it can be run with these plain arrays. None has an axis of size 0."""
        bound, problems = check_values(self._plain, values)
        is_same = all(one is other for one, other in zip(bound.values, values, strict=True))
        return not problems and is_same and not any(0 in value.shape for value in values)  # type: ignore[attr-defined]  # arrays

    @cached_property
    def _plain(self) -> Signature:
        """Its inputs as plain arrays, by number."""
        dims = tuple(dim_of(dim) for dim in self.record.dims)
        specs = {}
        for number, spec in enumerate(self.inputs):
            assert spec.shape is not None
            words = (spec.dtype.words,) if isinstance(spec.dtype, KeyType) else ()
            plain = TensorSpec((*spec.shape, *words), _plain(spec))
            specs[str(number)] = plain.with_bounds(dims)
        return Signature(self.name, specs, {})

    def compiled(
        self, arrays: Sequence[Any], embedded: Embedded | None = None
    ) -> jax.stages.Compiled:
        """The code for arrays of these shapes and places.

        It takes flat plain arrays: the variables that stay, those that change, the inputs. It
        returns the variables anew, then the outputs. The variables of these are donated, and on a
        mesh they stay where they were.

        Args:
          arrays: the arguments of a call, or what has their shapes, dtypes and places.
          embedded: the variables that stay, which are not arguments then.
        """
        self.check_width()
        structs = self._structs(arrays)
        devices = _devices(structs)
        digest = None if embedded is None else embedded.digest
        key = (digest, *devices, *((one.shape, one.dtype, one.sharding) for one in structs))
        found = self._compiled.get(key)
        if found is None:
            donated = self._donated(is_embedded=embedded is not None)
            found = self._compiled[key] = self._compiler.compiled(
                self._description(structs, donated, digest),
                devices,
                (len(structs), len(self.gives)),
                partial(self._lowered, structs, donated, embedded),
            )
        return found

    def prepare(self, arrays: Sequence[Any], embedded: Embedded | None = None) -> Outcome:
        """Compile ahead what `compiled` gives for the same arguments. Says what became of it."""
        count = len(self._compiler.outcomes)
        self.compiled(arrays, embedded)
        return next(iter(self._compiler.outcomes[count:]), "found")

    def _structs(self, arrays: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
        """The types of the arrays, each bound to a place if the caller bound it.

        What is bound to none goes to the one device of the others. It is named, so that the code is
        the same whichever arrays are bound.
        """
        places = [_place(array) for array in arrays]
        bound = next(filter(None, places), None)
        rest = self.place if bound is None else bound
        if bound is not None and not isinstance(bound, jax.sharding.SingleDeviceSharding):
            rest = None
        return [
            jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=place or rest)
            for array, place in zip(arrays, places, strict=True)
        ]

    def _donated(self, *, is_embedded: bool) -> list[int]:
        """The positions of the arguments that it returns anew."""
        order = [*([] if is_embedded else self.staying), *self.changing]
        updates = set(self.record.updates)
        return [i for i, position in enumerate(order) if self.record.variables[position] in updates]

    def _lowered(
        self,
        structs: Sequence[jax.ShapeDtypeStruct],
        donated: Sequence[int],
        embedded: Embedded | None,
    ) -> jax.stages.Lowered:
        order = [*self.staying, *self.changing, *range(len(self.record.variables), len(self.takes))]
        rebuilt = self._rebuilt

        def flat(*arrays: jax.Array) -> list[jax.Array]:
            fixed = [] if embedded is None else embedded.constants()
            given = dict(zip(order, (*fixed, *arrays), strict=True))
            return list(rebuilt(*(given[position] for position in range(len(order)))))

        flat.__name__ = self.name
        stay = None
        if self.placement.mesh is not None:
            places = [self.placement.variables[number] for number in self.record.updates]
            stay = [*places, *(None for _ in self.outputs)]
        return jax.jit(flat, donate_argnums=tuple(donated), out_shardings=stay).lower(*structs)

    def _description(
        self, structs: Sequence[jax.ShapeDtypeStruct], donated: Sequence[int], embedded: str | None
    ) -> dict[str, object]:
        """All that its code depends on beside the machine and its software."""
        updates = [self.placement.variables[number] for number in self.record.updates]
        return {
            "program": self._digest,
            "takes": list(map(str, self.takes)),
            "gives": list(map(str, self.gives)),
            "staying": self.staying,
            "arguments": [[list(one.shape), str(one.dtype), str(one.sharding)] for one in structs],
            "donated": list(donated),
            "embedded": embedded,
            "mesh": self.placement.axes,
            "results": list(map(str, updates)) if self.placement.mesh else [],
        }

    @cached_property
    def _digest(self) -> str:
        plain = replace(self.record, file="", variables=[], updates=[], vjp=None, vjp_problem=None)
        return digest_of([digest_bytes(self.bytecode), plain])

    @cached_property
    def call_traced(self) -> Callable[..., Sequence[jax.Array]]:
        """The same inside another trace, where nothing can be donated."""
        return transformable(self, jax.jit(self._rebuilt))

    def check_width(self) -> None:
        """Refuse to run a program of 64-bit arrays where JAX has only 32.

        Raises:
          IncompatibleRuntimeError: if it was switched since the model was loaded.
        """
        if self._is_wide and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
            raise IncompatibleRuntimeError(
                f"{self.name} has 64-bit arrays, and jax_enable_x64 was switched off since it was "
                "loaded. Switch it on again, or call it under jax.enable_x64(True)."
            )

    @cached_property
    def _is_wide(self) -> bool:
        return any(spec.dtype.name in WIDE for spec in (*self.takes, *self.gives))

    def _check_mesh(self) -> None:
        """Refuse a program that computes shard by shard on another mesh.

        Raises:
          IncompatibleRuntimeError: naming both.
        """
        needed = {axis.name: axis.size for axis in self.record.mesh}
        here = self.placement.axes
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
            mesh=self.placement.axes,
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


def _place(array: Any) -> jax.sharding.Sharding | None:
    """Where the caller bound an array, or wants one that has a type only."""
    if getattr(array, "committed", True):
        return getattr(array, "sharding", None)
    return None


def _devices(structs: Iterable[jax.ShapeDtypeStruct]) -> list[jax.Device]:
    """The devices in their order."""
    found = next((one.sharding for one in structs if one.sharding is not None), None)
    if isinstance(found, jax.sharding.NamedSharding):
        return list(found.mesh.devices.flat)
    if found is not None:
        return sorted(found.device_set, key=lambda device: device.id)
    return list(jax.device_put(0).devices())


def _plain(spec: TensorSpec) -> np.dtype[np.generic]:
    return np.dtype(np.uint32) if isinstance(spec.dtype, KeyType) else spec.dtype
