"""What in a trace stands in the way of a portable program, found by reading its equations."""

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.extend.core
import numpy as np

from exporter.errors import Problem
from exporter.jax_internals import is_users, passes_through, user_lines
from exporter.keys import to_words
from exporter.staging.registered import is_array

# How deep a search for the name of an array goes into functions that call functions.
_DEPTH = 4


@dataclass(frozen=True)
class Placed:
    """An equation with those whose bodies it stands in.

    Attributes:
      equation: the equation.
      around: the equation of the loop, branch or call around it, or `None`.
    """

    equation: jax.extend.core.JaxprEqn
    around: "Placed | None" = None

    @property
    def line(self) -> str | None:
        """The innermost line of the user's own code, else a line of an installed package."""
        place: Placed | None = self
        while place is not None:
            own, _ = user_lines(place.equation)
            if own:
                return own
            place = place.around
        return user_lines(self.equation)[1]

    def __str__(self) -> str:
        return f"{self.equation.primitive.name} at {self.line or 'an unknown line'}"


def equations(jaxpr: Any, around: Placed | None = None) -> Iterator[Placed]:
    """Every equation of a jaxpr, those of its loops, branches and calls included."""
    for equation in jaxpr.eqns:
        placed = Placed(equation, around)
        yield placed
        for inner in inner_jaxprs(equation.params):
            yield from equations(inner, placed)


def inner_jaxprs(params: Any) -> Iterator[Any]:
    """The jaxprs in the parameters of an equation, closed ones as they are."""
    values = params.values() if isinstance(params, dict) else params
    for value in values:
        if isinstance(value, jax.extend.core.Jaxpr | jax.extend.core.ClosedJaxpr):
            yield value
        elif isinstance(value, tuple | list | dict):
            yield from inner_jaxprs(value)


def is_callback(equation: Any) -> bool:
    """Whether an equation calls Python."""
    name = equation.primitive.name
    return "callback" in name or name == "debug_print"


def callbacks(every: Iterable[Placed], name: str) -> Iterator[Problem]:
    """The calls back into Python, which no program can hold."""
    for placed in every:
        if not is_callback(placed.equation):
            continue
        remedy = "Remove the call, or return the value and use it outside."
        if passes_through(placed.equation, "equinox"):
            remedy = (
                "It is a check of Equinox's error_if: set the environment variable "
                "EQX_ON_ERROR=nan to have NaN where it fails, or EQX_ON_ERROR=off to leave it out."
            )
        message = (
            f"{name} calls back into Python, which a program without its Python code cannot do: "
            f"{placed}."
        )
        yield Problem("callback", name, message, remedy, line=placed.line)


def constants(
    jaxpr: Any, name: str, max_bytes: int, function: Callable[..., object] | None
) -> Iterator[Problem]:
    """The arrays above a size that would be written into the program itself."""
    seen: set[int] = set()
    for constant, users in _held(jaxpr, None):
        size = np.asarray(to_words(constant)).nbytes
        if size <= max_bytes or id(constant) in seen:
            continue
        seen.add(id(constant))
        user = next(users, None)
        line = user.line if user else None
        called = name_of(constant, function)
        shape = f"{constant.dtype}[{', '.join(map(str, np.shape(constant)))}]"
        shown = f"the array {called}, {shape}" if called else f"an array {shape}"
        message = (
            f"{name} uses {shown} of {size:,} bytes at {line or 'an unknown line'}, which the "
            "object does not hold, so it would be written into the program itself."
        )
        remedy = (
            "Assign it to an attribute of the object and read it from there "
            f"(or raise SaveOptions(max_constant_bytes={max_bytes}))."
        )
        yield Problem("constant", name, message, remedy, line=line)


def _held(jaxpr: Any, around: Placed | None) -> Iterator[tuple[Any, Iterator[Placed]]]:
    """Each array that a jaxpr or one inside it holds, with the equations that use it."""
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    placed = [Placed(equation, around) for equation in inner.eqns]
    for variable, constant in zip(inner.constvars, getattr(jaxpr, "consts", ()), strict=False):
        yield constant, _users(variable, placed)
    for one in placed:
        for atom in one.equation.invars:
            if isinstance(atom, jax.extend.core.Literal) and getattr(atom.val, "shape", None):
                yield atom.val, iter([one])
        for nested in inner_jaxprs(one.equation.params):
            yield from _held(nested, one)


def _users(variable: object, placed: Sequence[Placed]) -> Iterator[Placed]:
    return (one for one in placed if any(atom is variable for atom in one.equation.invars))


def name_of(constant: object, function: Callable[..., object] | None) -> str | None:
    """What the user's code calls an array: a global, a closure variable, an attribute of either."""
    if function is None:
        return None
    for path, value in _reached(function, _DEPTH, set()):
        if value is constant or _is_same(value, constant):
            return path
    return None


def _is_same(value: Any, constant: Any) -> bool:
    """Whether an array became this constant: JAX wraps those of NumPy, or copies them."""
    if value.shape != constant.shape or value.dtype != constant.dtype:
        return False
    if isinstance(value, jax.core.Tracer) or not isinstance(value, np.ndarray):
        return False
    return np.asarray(constant).tobytes() == value.tobytes()


def _reached(function: object, depth: int, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """The arrays that a function can name, and those that the functions it names can."""
    function = getattr(function, "__func__", function)
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function) if callable(function) else function
    if not depth or id(function) in seen or not inspect.isfunction(function):
        return
    if not is_users(function.__code__.co_filename):
        return
    seen.add(id(function))
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
    named = {name: cell.cell_contents for name, cell in cells if cell != types.CellType()}
    words = _words(function.__code__)
    named |= {word: function.__globals__[word] for word in words if word in function.__globals__}
    for name, value in named.items():
        yield from _arrays_in(name, value, words)
    for value in named.values():
        yield from _reached(value, depth - 1, seen)


def _arrays_in(name: str, value: object, words: list[str]) -> Iterator[tuple[str, Any]]:
    """The value if it is an array, and those among its items and the attributes that are named."""
    if is_array(value):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        yield from ((f"{name}[{key!r}]", item) for key, item in items if is_array(item))
    elif not isinstance(value, type):
        found = ((word, inspect.getattr_static(value, word, None)) for word in words)
        yield from ((f"{name}.{word}", item) for word, item in found if is_array(item))


def _words(code: types.CodeType) -> list[str]:
    """The names in a function and in those written inside it."""
    inner = (one for one in code.co_consts if isinstance(one, types.CodeType))
    return [*code.co_names, *(word for one in inner for word in _words(one))]


def mapped_by_process(every: Iterable[Placed], name: str) -> Iterator[Problem]:
    """The calls of `jax.pmap`, which ties a program to the devices of this process."""
    for placed in every:
        mesh = placed.equation.params.get("mesh")
        axes = tuple(map(str, getattr(mesh, "axis_names", ())))
        by_name = placed.equation.primitive.name == "xla_pmap"
        if by_name or any(axis.startswith("_internal_pmap") for axis in axes):
            yield Problem(
                "mesh",
                name,
                f"{name} uses jax.pmap at {placed.line or 'an unknown line'}, which runs on the "
                "devices of the process that traces it.",
                "Use jax.vmap, and split the arrays over a mesh; or jax.shard_map over a mesh with "
                "names.",
                line=placed.line,
            )


def pinned(jaxpr: Any, name: str) -> Iterator[Problem]:
    """The operations that tie a program to a mesh of certain sizes. It is saved all the same."""
    for placed in equations(getattr(jaxpr, "jaxpr", jaxpr)):
        if placed.equation.primitive.name == "shard_map":
            mesh = placed.equation.params["mesh"].shape
            axes = ", ".join(f"{axis}={size}" for axis, size in mesh.items())
            yield Problem(
                "mesh",
                name,
                f"{name} runs on a mesh of ({axes}) and on no other: {placed}.",
                "Load it with such a mesh, or use with_sharding_constraint, which needs none.",
                line=placed.line,
                is_error=False,
            )
