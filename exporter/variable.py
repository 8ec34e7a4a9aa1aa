"""A mutable array that plain classes hold, the same while a model is built and after it is loaded.

JAX arrays never change. A `Variable` is the box around one that can be given another value, so
that a function can count, and the change can be followed into the program and back.
"""

import operator
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from exporter.display import card, card_of, code, quiet
from exporter.errors import OptionError, StateError, UntrackedVariableError
from exporter.keys import from_words
from exporter.markup import Markup, element, fragment
from signatures.binding import convert
from signatures.dtypes import DType, KeyType
from signatures.errors import BindError
from signatures.spec import TensorSpec, storage_shape
from signatures.values import described, is_array, shown

# How many variables a message names.
_MAX_SHOWN = 6

# An array with more elements is shown by its corners, and one with more axes by its type.
_MAX_ELEMENTS = 100
_MAX_AXES = 4

# Of an array with more elements a notebook shows no histogram: they would come from a device.
_MAX_FETCHED = 2**20


class _Reach(frozenset[int]):
    """The variables that a function being traced may use, by identity.

    Attributes:
      level: the trace that it is run in.
    """

    level: object


def _trace() -> object:
    """The trace that is running. Nobody who only loads a model asks."""
    from jax.extend.core import get_opaque_trace_state  # its package takes 17 ms to import

    return get_opaque_trace_state()


# What may be used now. Outside of a trace it is None and every variable may be used.
_in_reach: ContextVar[_Reach | None] = ContextVar("in_reach", default=None)

# Why a value cannot be assigned where it was made, and what to do.
INNER = (
    "inside a function that JAX traces by itself, such as a branch of jax.lax.cond, the body of "
    "jax.lax.scan, or what jax.jit, jax.grad, jax.vmap or jax.checkpoint wraps: the value would "
    "not outlive it. Return the value from there and assign it outside."
)


# To JAX, a variable given to one of its functions is the array it holds: a tree of one leaf.
@jax.tree_util.register_pytree_node_class
class Variable(NDArrayOperatorsMixin):
    """A mutable array: read and assign `.value`, inside decorated functions and outside.

    It can be used wherever an array can: in arithmetic, in functions of `jax.numpy` and NumPy,
    with the methods of arrays. Operators give JAX arrays, never another variable; `+=` and its
    like assign the value.

    Attributes:
      trainable: whether an optimiser should change it.
      name: what it is called in messages, or `None`. Where it is saved depends on the attribute
        it is assigned to, not on this.
      collection: the kind of state, for example `Param` or `BatchStat`.
    """

    __slots__ = (
        "__weakref__",
        "_changes",
        "_home",
        "_is_donated",
        "_label",
        "_lock",
        "_made_in",
        "_value",
        "collection",
        "name",
        "trainable",
    )

    def __init__(
        self,
        value: object,
        trainable: bool = True,  # noqa: FBT001, FBT002  # as in TensorFlow's Variable
        name: str | None = None,
        *,
        collection: str = "Variable",
        label: str | None = None,
    ) -> None:
        """A variable with a first value.

        Args:
          value: an array, or what `jax.numpy.asarray` makes one of. Its shape and dtype stay.
          trainable: whether an optimiser should change it.
          name: what it is called in messages.
          collection: the kind of state.
          label: what to call a variable without a name in messages.
        """
        if not isinstance(trainable, bool):
            raise OptionError(f"trainable is True or False; got {trainable!r}.")
        if not isinstance(name, str | None):
            raise OptionError(f"the name of a Variable is text; got {name!r}.")
        self.trainable = trainable
        self.name = name
        self.collection = collection
        self._label = label
        self._made_in = _in_reach.get()
        self._home: object | None = None
        self._is_donated = False
        self._lock: threading.RLock | None = None
        self._changes: Changes | None = None
        self._value: jax.Array = _made(value)

    @property
    def value(self) -> jax.Array:
        """The array. Assigning needs the same shape and dtype. What is split over a mesh stays so.

        Raises:
          StateError: if it was loaded without a value and given none since; on assigning an array
            of another shape or dtype, or a traced one where it would outlive its trace.
          UntrackedVariableError: in a traced function, if the variable is not part of the saved
            object.
        """
        self._check_reach()
        return get_own(self)

    @value.setter
    def value(self, new: object) -> None:
        set_raw(self, self._accepted(new))

    def _accepted(self, new: object) -> jax.Array:
        """The array that it holds once `new` is assigned."""
        self._check_reach()
        self._check_level()
        old = self._value
        try:
            array = fitting(self, new)
        except BindError as error:
            found = str(error).partition(", got ")[2]
            raise StateError(
                f"{self._title()} holds {_type(old)} and cannot be assigned {found}."
            ) from error
        if isinstance(array, jax.core.Tracer) and not self._may_be_traced():
            raise StateError(
                f"{self._title()} cannot be assigned under jax.jit or another transformation of "
                "JAX: the traced value would outlive its trace. Assign it in an "
                "@exporter.function, or return the value and assign it outside."
            )
        return self._own(_kept_in_place(array, old))

    def _check_level(self) -> None:
        reach = _in_reach.get()
        if reach is not None and id(self) in reach and reach.level != _trace():
            raise StateError(f"{self._title()} is assigned {INNER}")

    def _may_be_traced(self) -> bool:
        """Whether a traced array, assigned now, would not outlive its trace."""
        if self._home is not None:
            return bool(self._home == _trace())
        return isinstance(self._value, jax.core.Tracer) or self._made_in is not None

    def _own(self, array: jax.Array) -> jax.Array:
        """The array, or a copy if programs take the buffer for themselves."""
        return jnp.copy(array) if self._is_donated else array

    def _check_reach(self) -> None:
        reach = _in_reach.get()
        if reach is not None and self._made_in is not reach and id(self) not in reach:
            raise UntrackedVariableError(
                f"{self._title()} is used by the function but is not part of the saved object, so "
                "its value would be lost. Assign it to an attribute of the object, or of one that "
                "the object holds.",
                self,
            )

    @property
    def title(self) -> str:
        """Its name, or where it was loaded from, for messages."""
        return self.name or self._label or "a Variable"

    def _title(self) -> str:
        named = self.name or self._label
        return f"Variable {named!r}" if named else f"a Variable of {_type(self._value)}"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        return self._value.shape

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The dtype of the value."""
        return self._value.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self._value.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(self._value.size)

    @property
    def T(self) -> jax.Array:  # noqa: N802  # as arrays have it
        """The value with its axes reversed."""
        return self.value.T

    def __jax_array__(self) -> jax.Array:
        return self.value

    def __array__(
        self,
        dtype: np.dtype[np.generic] | None = None,
        copy: bool | None = None,  # noqa: FBT001  # NumPy's protocol
    ) -> np.ndarray:
        return np.array(self.value, dtype=dtype, copy=copy)

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: object, **kwargs: object
    ) -> object:
        """What NumPy's operators and functions do with a variable: as `jax.numpy`, on its value."""
        function = getattr(jnp, ufunc.__name__, None)
        target = kwargs.pop("out", None)
        if method != "__call__" or function is None or target not in (None, (self,)):
            return NotImplemented
        values = [one.value if isinstance(one, Variable) else one for one in inputs]
        result = function(*values, **kwargs)
        if target is None:
            return result
        self.value = result
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.value, name)

    def tree_flatten(self) -> tuple[tuple[jax.Array], None]:
        """The value, for JAX."""
        return (self.value,), None

    @classmethod
    def tree_unflatten(cls, _: None, children: tuple[Any]) -> Any:
        """What JAX makes of the value is an array and not a variable."""
        return children[0]

    # Comparing is by element, as for arrays, but a variable is itself: it can be a dict's key.
    __hash__ = object.__hash__

    def __getitem__(self, index: object) -> jax.Array:
        return self.value[index]

    def __len__(self) -> int:
        return len(self._value)

    def __iter__(self) -> Iterator[jax.Array]:
        return iter(self.value)

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __complex__(self) -> complex:
        return complex(self.value)

    def __index__(self) -> int:
        return operator.index(self.value)

    def __round__(self, ndigits: int = 0) -> jax.Array:
        return jnp.round(self.value, ndigits)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    @quiet
    def __repr__(self) -> str:
        name = f", name={self.name!r}" if self.name else ""
        frozen = "" if self.trainable else ", trainable=False"
        return f"Variable({_shown(self._value)}{frozen}{name})"

    @card_of
    def _repr_html_(self) -> str:
        facts = [self.name or self._label, self.collection]
        facts += [] if self.trainable else ["not trainable"]
        title = fragment("Variable ", code(_type(self._value)))
        return card(title, note=fragment(", ".join(filter(None, facts)), _values(self._value)))


def _shown(held: object) -> str:
    """The array as text that fits a screen, or its type where it has no values to show."""
    if isinstance(held, jax.Array) and not isinstance(held, jax.core.Tracer):
        if held.is_deleted():
            return f"{_type(held)}, deleted"
        if held.ndim > _MAX_AXES:
            return _type(held)
    with np.printoptions(threshold=_MAX_ELEMENTS, edgeitems=3):
        return repr(held)


def _values(held: object) -> Markup | None:
    """How the values are distributed, if they are here and not too many to fetch."""
    if not isinstance(held, jax.Array) or isinstance(held, jax.core.Tracer):
        return None
    is_key = jnp.issubdtype(held.dtype, jax.dtypes.prng_key)
    if is_key or not held.is_fully_addressable or held.size > _MAX_FETCHED:
        return None
    from exporter.distribution import Distribution, drawing
    from exporter.distribution import facts as facts_of

    found = Distribution.of(np.asarray(held).reshape(-1))
    return fragment(
        element("div", drawing(found)), element("div", facts_of(found, found.looked_at))
    )


def _type(array: jax.Array) -> str:
    return f"{array.dtype}[{', '.join(map(str, array.shape))}]"


def _kept_in_place(new: jax.Array, old: jax.Array) -> jax.Array:
    """The new array on the devices of the old one, if that lay on several and this does not."""
    if isinstance(old, jax.core.Tracer) or isinstance(new, jax.core.Tracer):
        return new
    place: jax.sharding.Sharding | None = old.sharding  # None where there is no value yet
    if place is None or len(place.device_set) == 1:
        return new
    if new.sharding.device_set == place.device_set:
        return new
    return cast(jax.Array, jax.device_put(new, place))


@contextmanager
def only(variables: frozenset[int]) -> Iterator[None]:
    """Within the block, a function may use these variables (by identity) and new ones only."""
    reach = _Reach(variables)
    reach.level = _trace()
    token = _in_reach.set(reach)
    try:
        yield
    finally:
        _in_reach.reset(token)


def is_tracing() -> bool:
    """Whether a function is being traced, so that variables may hold traced arrays."""
    return _in_reach.get() is not None


def get_raw(variable: Variable) -> jax.Array:
    """The array itself, without asking whether the variable may be used.

    Raises:
      StateError: if it has none.
    """
    if not has_value(variable):
        check_values([variable])
    return variable._value  # noqa: SLF001  # this file's own


def get_own(variable: Variable) -> jax.Array:
    """The array likewise, or a copy if programs take the buffer for themselves.

    Raises:
      StateError: if it has none.
    """
    with held([variable]):
        return variable._own(get_raw(variable))  # noqa: SLF001  # this file's own


def without_value(
    shape: Sequence[int],
    dtype: DType,
    trainable: bool,  # noqa: FBT001  # as the class has it
    name: str | None,
    *,
    collection: str,
    label: str,
) -> Variable:
    """A variable that has a type and is yet to be given its value. Using it is an error."""
    made = Variable(_nothing(), trainable, name, collection=collection, label=label)
    # Its type stands where its value will be.
    made._value = cast(Any, _type_of(tuple(shape), dtype))  # noqa: SLF001  # this file's own
    return made


@cache
def _nothing() -> jax.Array:
    return jnp.zeros((0,))


def _type_of(shape: tuple[int, ...], dtype: DType) -> jax.ShapeDtypeStruct:
    if not isinstance(dtype, KeyType):
        return jax.ShapeDtypeStruct(shape, dtype)
    words = jax.ShapeDtypeStruct(storage_shape(shape, dtype), np.uint32)
    found: jax.ShapeDtypeStruct = jax.eval_shape(lambda array: from_words(array, dtype), words)
    return found


def check_values(variables: Iterable[Variable]) -> None:
    """Refuse to use variables that have no values.

    Raises:
      StateError: naming them.
    """
    missing = [variable.title for variable in variables if not has_value(variable)]
    if missing:
        shown = ", ".join(missing[:_MAX_SHOWN])
        more = f" and {len(missing) - _MAX_SHOWN} more" if len(missing) > _MAX_SHOWN else ""
        raise StateError(
            f"{shown}{more} {'have no values' if len(missing) > 1 else 'has no value'}: the model "
            "was loaded with skip_variables=True. Assign values first, as in "
            "model.variables = tree."
        )


def has_value(variable: Variable) -> bool:
    """Whether it has a value, as all have that were not loaded without."""
    held: object = variable._value  # noqa: SLF001  # this file's own
    return type(held) is not jax.ShapeDtypeStruct


def get_all(variables: Iterable[Variable]) -> list[jax.Array]:
    """The arrays of many variables likewise."""
    return [variable._value for variable in variables]  # noqa: SLF001  # this file's own


def set_raw(variable: Variable, value: jax.Array) -> None:
    """Assign without any check. For those who know that the value fits."""
    with held([variable]):
        _announce(variable)
        variable._value = value  # noqa: SLF001  # this file's own


def assign_all(values: Mapping[Variable, object]) -> None:
    """Assign all or, if one is refused or an interrupt comes, none."""
    arrays = [variable._accepted(new) for variable, new in values.items()]  # noqa: SLF001
    with held(values):
        for variable in values:
            _announce(variable)
        set_all(list(values), arrays)


def _announce(variable: Variable) -> None:
    """Tell whoever watches that it is assigned: before it is, since an interrupt may come then."""
    changes = variable._changes  # noqa: SLF001  # this file's own
    if changes is not None:
        changes.latest = object()


def set_all(variables: Sequence[Variable], values: Iterable[jax.Array]) -> None:
    """Assign many likewise, of which nobody watches the changes. There may be more values.

    All of it is done in C, so that an interrupt comes before or after. That is so from the moment
    on in which the first value is asked for, if the values come from C.
    """
    deque(map(_SET_VALUE, variables, values), maxlen=0)


_SET_VALUE = Variable.__dict__["_value"].__set__


def held(variables: Iterable[Variable]) -> AbstractContextManager[object]:
    """Within the block, nobody else assigns these variables and no call takes their buffers."""
    found = {id(lock): lock for lock in map(_lock_of, variables) if lock is not None}
    if len(found) == 1:  # as a lock does it, so that no interrupt leaves it held
        return next(iter(found.values()))
    return _all_held([found[key] for key in sorted(found)])


@contextmanager
def _all_held(locks: Sequence["threading.RLock"]) -> Iterator[None]:
    """Within the block, all are held. Whoever asks for several asks for them in one order."""
    with ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock)
        yield


def _lock_of(variable: Variable) -> "threading.RLock | None":
    return variable._lock  # noqa: SLF001  # this file's own


def share(variables: Iterable[Variable], lock: threading.RLock) -> None:
    """From now on whoever uses several of the variables together holds the lock."""
    for variable in variables:
        variable._lock = lock  # noqa: SLF001  # this file's own


def fitting(variable: Variable, new: object) -> jax.Array:
    """The value as an array like the one that the variable holds, by the rule for inputs of calls.

    Arrays have its shape and dtype already; numbers and lists are converted if nothing is lost.

    Raises:
      BindError: saying what was expected and what was given.
    """
    found: Any = new
    if not is_array(found) or found.dtype != variable.dtype or found.shape != variable.shape:
        spec = TensorSpec.of(variable._value)  # noqa: SLF001  # this file's own
        found = convert(new, spec)
        if tuple(found.shape) != variable.shape:
            raise BindError(f"expected {spec}, got {described(found)}")
    array = jnp.asarray(found)
    if array.dtype != variable.dtype:
        raise BindError(
            f"expected {_type(variable._value)}, got {described(found)}, which JAX narrows to 32 "  # noqa: SLF001  # this file's own
            "bits here; call jax.config.update('jax_enable_x64', True) first"
        )
    return array


def _made(value: object) -> jax.Array:
    """The array that a variable is made with, as `jax.numpy.asarray` makes it.

    Raises:
      OptionError: if it makes none, or one of 32 bits that has other values.
    """
    if isinstance(value, np.ndarray):  # JAX does not know other orders of bytes
        value = value.astype(value.dtype.newbyteorder("="), copy=False)
    try:
        with np.errstate(over="ignore"):
            array = jnp.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise OptionError(
            "the value of a Variable is what jax.numpy.asarray makes an array of; got "
            f"{shown(value)}, of which it says: {str(error).strip().partition(chr(10))[0]}"
        ) from error
    if isinstance(value, np.ndarray) and value.dtype != array.dtype and _is_changed(value, array):
        raise OptionError(
            f"the value of a Variable is {described(value)}, of which JAX would make "
            f"{array.dtype.name}, which does not have its values. Call "
            "jax.config.update('jax_enable_x64', True) first, or convert it."
        )
    return array


def _is_changed(wide: np.ndarray, narrow: jax.Array) -> bool:
    """Whether more than digits are lost where JAX makes 32 bits of 64."""
    found = np.asarray(narrow)
    if wide.dtype.kind in "iu":
        return not np.array_equal(wide, found)
    return not np.array_equal(np.isfinite(wide), np.isfinite(found))


class Changes:
    """Tells whether any of some variables was assigned.

    Attributes:
      latest: stands for the latest assignment: another object after each. A number would not do:
        of two threads that add to it at once, one may be lost.
    """

    __slots__ = ("latest",)

    def __init__(self, variables: Iterable[Variable]) -> None:
        """The changes of these variables from now on. A variable's are told to one object."""
        self.latest = object()
        for variable in variables:
            variable._changes = self  # noqa: SLF001  # this file's own


def local_copy(variable: Variable, values: Mapping[Variable, object]) -> Variable:
    """A variable like another, with the value for it in `values`, if any, perhaps a traced one.

    Only here, at this level of JAX's transformations, can it be assigned traced arrays: whoever
    makes a variable inside a function to be transformed, uses it up there.
    """
    made = Variable(
        jnp.zeros((0,)),
        variable.trainable,
        variable.name,
        collection=variable.collection,
        label=variable._label,  # noqa: SLF001  # this file's own
    )
    made._home = _trace()  # noqa: SLF001  # this file's own
    made._is_donated = variable._is_donated  # noqa: SLF001  # this file's own
    held = variable._value  # noqa: SLF001  # this file's own
    if variable in values:
        new = _kept_in_place(jnp.asarray(values[variable]), held)
        made._value = made._own(new)  # noqa: SLF001  # this file's own
    else:
        made._value = made._own(held) if has_value(variable) else held  # noqa: SLF001  # this file's own
    return made


def may_be_traced(variable: Variable) -> bool:
    """Whether a traced array, assigned to it now, would not outlive its trace."""
    return variable._may_be_traced()  # noqa: SLF001  # this file's own


def is_local(variable: Variable) -> bool:
    """Whether `local_copy` made it."""
    return variable._home is not None  # noqa: SLF001  # this file's own


def mark_donated(variable: Variable) -> None:
    """From now on a program takes the variable's buffer, so whoever reads it gets a copy."""
    variable._is_donated = True  # noqa: SLF001  # this file's own
