"""A program and the variables that it works on: what runs when nothing is traced.

A call of a compiled program costs a little for every array that is passed to it, and a model has
many. So most of its variables are not passed. Those that some function of the model changes, its
*state*, are passed each time, and written back. All others stay until somebody assigns one, and
are bound to the compiled program ahead, in one of three ways:

- *embedded*: they are constants of the code. Then they cost nothing, but there is one code for each
  set of values, and much of it to compile if there are many matrices or large ones. So this is for
  small models, until one of the variables is assigned.
- *bound*: C++ passes them along without a look at each.
- *passed*: they are arguments as any other, which costs what it costs under `jax.jit`. This is for
  models whose variables are assigned again and again: to bind them takes longer than a call.
"""

import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from exporter.errors import PlacementError
from exporter.jax_dispatch import (
    ARRAY,
    Choice,
    NotFiniteError,
    dispatcher,
    in_c,
    is_finiteness_checked,
    is_jit_disabled,
    is_top_level,
    run,
)
from exporter.keys import from_words, to_words
from exporter.runtime.compiling import Outcome
from exporter.runtime.embedding import Embedded
from exporter.runtime.programs import LoadedProgram
from exporter.variable import Changes, Variable, get_all, has_value, is_local, set_all, share
from signatures.dtypes import KeyType, as_dtype
from signatures.spec import TensorSpec, storage_shape

# Weights of more than this take longer to read from memory than to pass.
_MAX_EMBEDDED_BYTES = 2**20

# Each matrix that is embedded is code of its own: 100 equal layers take 0.2 s to compile where
# their weights are passed, and 5 s where they are embedded.
_MAX_EMBEDDED_MATRICES = 16

# How often variables are bound anew after one was assigned. To bind them takes longer than a call.
_MAX_BINDINGS = 8


# The class of NumPy's arrays, in one look-up.
_NDARRAY = np.ndarray


class NotRememberedError(Exception):
    """A call that has to be looked at by itself, each time."""


@dataclass(frozen=True, eq=False)
class Binding:
    """The variables that stay, as they were at one time.

    Attributes:
      latest: the latest assignment then.
      first: what compiled code takes first, bound or passed.
      embedded: what is part of the code.
      places: the sets of devices that they lie on: one, or none without variables.
      call: takes the state and the inputs, and remembers how it ran them.
      passing: takes what is passed before those, if anything is.
    """

    latest: object
    first: Sequence[jax.Array]
    embedded: Embedded | None
    places: frozenset[frozenset[jax.Device]]
    call: Callable[..., Any]  # an iterator of arrays where there is state, else a list of them
    passing: Callable[..., Any] | None


class BoundProgram:
    """A program with the variables of one model.

    Attributes:
      program: the program.
      reads: the variables that it takes, in its order.
      writes: the variables that it changes, in its order.
      embeds: whether variables may become constants of the code.
    """

    def __init__(
        self,
        program: LoadedProgram,
        variables: Sequence[Variable],
        changes: Changes,
        lock: threading.RLock,
    ) -> None:
        """The program of a model with these variables, by number."""
        self.program = program
        self.reads = [variables[number] for number in program.record.variables]
        self.writes = [variables[number] for number in program.record.updates]
        self._staying = [self.reads[position] for position in program.staying]
        self._state = [self.reads[position] for position in program.changing]
        self._has_state = bool(self._state or self.writes)
        self._state_has_keys = any(isinstance(as_dtype(v.dtype), KeyType) for v in self._state)
        specs = (*program.takes, *program.gives)
        self._has_keys = any(isinstance(spec.dtype, KeyType) for spec in specs)
        self._dtypes = [spec.dtype for spec in program.inputs]
        self.embeds = True
        self._changes = changes
        self._lock = lock
        self._count = 0
        self._binding: Binding | None = None

    def quick(self, values: Sequence[object]) -> Sequence[jax.Array] | None:
        """The outputs for arrays that are like those of a call before, as `run` would give them.

        Whether they are is seen in C++, by their shapes and dtypes. An array of NumPy is looked at
        here first: there its 64 bits would be taken for the 32 that JAX makes of them. State is
        written back.

        Returns:
          `None`, with nothing done, for what has to be looked at closely.
        """
        if self._has_keys:  # which are words to a program
            return None
        for value, dtype in zip(values, self._dtypes):  # noqa: B905  # its check takes longer
            kind = type(value)
            if kind is not ARRAY and (kind is not _NDARRAY or value.dtype is not dtype):  # type: ignore[attr-defined]  # an array of NumPy
                return None
        binding = self._binding
        if binding is None or binding.latest is not self._changes.latest:
            if not is_top_level() or not all(map(has_value, self.reads)):
                return None
            binding = self._bind()
        try:
            if not self._has_state:
                return binding.call(*values)  # type: ignore[no-any-return]  # a list
            if is_finiteness_checked():  # the state has to outlast results that are refused
                return None
            with self._lock:
                binding = self._current()  # of the same moment as the state
                results = in_c(binding.call, [*get_all(self._state), *values])
                set_all(self.writes, results)
                return list(results)
        except (NotRememberedError, NotFiniteError):
            return None

    def prepare(self, shapes: Sequence[tuple[int, ...]]) -> Outcome:
        """Compile what a call would run with inputs of these shapes. Says what became of it."""
        program, placement = self.program, self.program.placement
        place = placement.rest if placement.mesh is not None else None
        inputs = [
            _struct(spec, shape, place) for spec, shape in zip(program.inputs, shapes, strict=True)
        ]
        if all(map(has_value, self.reads)):
            binding = self._current()
            state = [to_words(value) for value in get_all(self._state)]
            return program.prepare([*binding.first, *state, *inputs], binding.embedded)
        self._count = max(self._count, 1)  # what is embedded has to be known, so nothing is
        variables = [
            _struct(
                program.takes[position],
                self.reads[position].shape,
                placement.variables[program.record.variables[position]],
            )
            for position in (*program.staying, *program.changing)
        ]
        return program.prepare([*variables, *inputs])

    def run(self, values: Sequence[jax.Array], names: Sequence[str]) -> list[jax.Array]:
        """The outputs for plain arrays that fit. State is written back.

        Args:
          values: the inputs. The variables have values.
          names: what the caller calls each of them.

        Raises:
          PlacementError: if they lie on other devices than the variables.
          FloatingPointError: under `jax.debug_nans` and `jax.debug_infs`. The state stays then.
        """
        placed = self.program.placement.of_inputs(values)
        with self._lock:
            binding = self._current()
            state = get_all(self._state)
            if self._state_has_keys:
                state = [to_words(value) for value in state]
            if len(_places([*state, *placed]) | binding.places) > 1:
                raise self._apart(names, values)
            if is_finiteness_checked():  # results may be refused after the state was donated
                state = [array.copy() for array in state]
            results: list[jax.Array] = []
            try:
                self._call(binding, [*state, *placed], results)
            finally:  # an interrupt may come when the program has taken the state
                pairs = zip(self.writes, results, strict=False)
                set_all(self.writes, [from_words(new, as_dtype(one.dtype)) for one, new in pairs])
        return results[len(self.writes) :]

    def _call(self, binding: Binding, arrays: list[jax.Array], results: list[jax.Array]) -> None:
        """Run the program. The results are in the list as soon as they are there."""
        try:
            with suppress(NotRememberedError):
                results.extend(in_c(binding.call, arrays))
                return
            for position in range(len(self._state)):  # Python runs the program, interruptibly
                arrays[position] = arrays[position].copy()
            arrays = [*binding.first, *arrays]
            results.extend(run(self.program.compiled(arrays, binding.embedded), arrays))
        except NotFiniteError as error:
            found = getattr(error, "ty", "not finite")
            message = f"invalid value ({found}) encountered in {self.program.name}"
            raise FloatingPointError(message) from None

    def _current(self) -> Binding:
        """The variables as they are now, bound already or not."""
        binding = self._binding
        if binding is None or binding.latest is not self._changes.latest:
            binding = self._bind()
        return binding

    def _bind(self) -> Binding:
        """The variables as they are now."""
        with self._lock:  # nobody assigns only some of a tree meanwhile
            last = self._binding
            latest = self._changes.latest
            if last is not None and last.latest is latest:
                return last
            values = [to_words(value) for value in get_all(self._staying)]
            self._count += 1
            places = _places(values)
            embedded = passing = None
            if self._count == 1 and self._can_be_embedded(values):
                embedded, values = Embedded(values), []
            if self._count <= _MAX_BINDINGS:
                state = range(len(self._state))
                choose = self._chooser(values, places, embedded)
                call = dispatcher(self.program.name, choose, state)
            else:
                passing = None if last is None else last.passing
                if passing is None:
                    state = range(len(values), len(values) + len(self._state))
                    choose = self._chooser((), frozenset(), None)
                    passing = dispatcher(self.program.name, choose, state)
                call = partial(passing, *values)
            self._binding = Binding(latest, values, embedded, places, call, passing)
            return self._binding

    def _can_be_embedded(self, values: Sequence[jax.Array]) -> bool:
        # JAX makes arguments of constants if it is told so when it is imported.
        hoists = getattr(jax.config, "jax_use_simplified_jaxpr_constants", False)
        is_small = sum(value.nbytes for value in values) <= _MAX_EMBEDDED_BYTES
        matrices = sum(value.ndim > 1 for value in values)
        return (
            self.embeds
            and is_small
            and matrices <= _MAX_EMBEDDED_MATRICES
            and self.program.placement.mesh is None
            and not hoists
            and bool(values)
            and self._is_in_place(values)
            and not any(map(is_local, self._staying))
        )

    def _is_in_place(self, values: Sequence[jax.Array]) -> bool:
        """Whether nobody moved them from where the model was loaded: constants have no place."""
        home = self.program.place
        return home is None or _places(values) <= {frozenset(home.device_set)}

    def _chooser(
        self,
        bound: Sequence[jax.Array],
        places: frozenset[frozenset[jax.Device]],
        embedded: Embedded | None,
    ) -> Callable[..., Choice]:
        """What says how a call that is unlike all before is run."""
        placement = self.program.placement

        def choose(*arrays: jax.Array) -> Choice:
            values = arrays[len(arrays) - len(self.program.inputs) :]
            if (
                not is_top_level()
                or is_jit_disabled()
                or any(isinstance(array, jax.core.Tracer) for array in (*arrays, *bound))
                or not self.program.fits(values)
                or len(_places(arrays) | places) > 1
                or not _same(placement.of_inputs(values), values)
            ):
                raise NotRememberedError
            return self.program.compiled([*bound, *arrays], embedded), bound

        return choose

    def _apart(self, names: Sequence[str], values: Sequence[jax.Array]) -> PlacementError:
        arrays = get_all(self.reads)
        held = [(one.title, array.sharding) for one, array in zip(self.reads, arrays, strict=True)]
        if len(_places(arrays)) > 1:
            lines = [f"{title}: {place}" for title, place in held]
            shown = "".join(f"\n  {line}" for line in lines)
            return PlacementError(
                f"{self.program.name} uses variables that lie on other devices than each other:"
                f"{shown}\nMove all of them, as in model.variables = jax.device_put("
                "model.variables, device).",
                lines,
            )
        where = [getattr(value, "sharding", "the host") for value in values]
        lines = [f"{name}: {place}" for name, place in zip(names, where, strict=True)]
        shown = "".join(f"\n  {line}" for line in lines)
        others = f"the variables, which are on {held[0][1]}" if held else "each other"
        return PlacementError(
            f"{self.program.name} has inputs on other devices than {others}:{shown}"
            "\nLoad the model with mesh= to run it on the devices of that mesh, or "
            "give arrays of NumPy.",
            lines,
        )


class Binder:
    """Binds programs to the variables of one model."""

    def __init__(self, variables: Sequence[Variable], changed: Collection[int]) -> None:
        """These variables, of which programs change those with the numbers in `changed`."""
        self._variables = variables
        staying = [one for number, one in enumerate(variables) if number not in changed]
        self._changes = Changes(staying)
        self._lock = threading.RLock()  # held while state is read and written back
        share(variables, self._lock)

    def bound(self, program: LoadedProgram) -> BoundProgram:
        """The program with the variables it works on."""
        return BoundProgram(program, self._variables, self._changes, self._lock)


def _struct(
    spec: TensorSpec, shape: tuple[int, ...], place: jax.sharding.Sharding | None
) -> jax.ShapeDtypeStruct:
    """The type of the plain array that carries an array of this shape."""
    dtype = spec.dtype if isinstance(spec.dtype, np.dtype) else np.dtype(np.uint32)
    return jax.ShapeDtypeStruct(storage_shape(shape, spec.dtype), dtype, sharding=place)


def _places(arrays: Sequence[object]) -> frozenset[frozenset[jax.Device]]:
    """The sets of devices that arrays are bound to."""
    return frozenset(
        frozenset(array.sharding.device_set)
        for array in arrays
        if isinstance(array, jax.Array) and array.committed
    )


def _same(one: Sequence[object], other: Sequence[object]) -> bool:
    return all(a is b for a, b in zip(one, other, strict=True))
