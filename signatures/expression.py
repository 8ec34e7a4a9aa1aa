"""Sizes written as arithmetic over named dimensions: `"batch"`, `"2*n + 1"`, `"floordiv(n, 2)"`.

The text is the interface: it is what users write in a spec, what JAX prints for the shape of an
output, and what the manifest keeps. It is read with Python's own parser, and nothing but integer
arithmetic over names is let through.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from signatures.errors import SpecError

# The longest expression seen from JAX for a real model (a stack of strided convolutions) has about
# 600 characters. The limit keeps a hostile file from building a deep tree.
MAX_CHARACTERS = 4096

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_FUNCTIONS: dict[str, Callable[..., int]] = {
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "max": max,
    "min": min,
    "non_negative": lambda size: max(size, 0),
}


@dataclass(frozen=True)
class Expression:
    """Integer arithmetic over named dimensions.

    Attributes:
      text: the expression as it was written.
      names: the dimensions in it, each once, in the order they appear.
    """

    text: str
    names: tuple[str, ...]

    @property
    def is_name(self) -> bool:
        """Whether this is one dimension and no arithmetic."""
        return self.names == (self.text,)

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        """The size, for given sizes of every dimension in it."""
        try:
            return _evaluate(_syntax(self.text), sizes)
        except (ZeroDivisionError, OverflowError) as error:
            raise SpecError(f"the axis {self.text!r} has no size for {dict(sizes)}.") from error

    def solve(self, name: str, size: int, sizes: Mapping[str, int]) -> int | None:
        """The size of `name` for which the expression is `size`, all others being known.

        Only expressions that are linear in `name` are solved. `None` means that there is no whole
        number, or that the expression is not linear.
        """
        at_zero, at_one, at_two = (self.evaluate({**sizes, name: n}) for n in range(3))
        slope = at_one - at_zero
        if slope == 0 or at_two - at_one != slope or (size - at_zero) % slope:
            return None
        found = (size - at_zero) // slope
        return found if self.evaluate({**sizes, name: found}) == size else None

    def __str__(self) -> str:
        return self.text


@lru_cache(maxsize=4096)
def parse(text: str) -> Expression:
    """`text` as an expression.

    Raises:
      SpecError: if it is not integer arithmetic over names.
    """
    names: dict[str, None] = {}
    _check(_syntax(text), text, names)
    return Expression(text, tuple(names))


@lru_cache(maxsize=4096)
def _syntax(text: str) -> ast.expr:
    if len(text) > MAX_CHARACTERS:
        raise SpecError(f"the axis {text[:40]!r}... has {len(text)} characters, too many to read.")
    try:
        # JAX writes a power as n^2, which Python would read as "xor" with another precedence.
        return ast.parse(text.strip().replace("^", "**"), mode="eval").body
    except (SyntaxError, RecursionError, ValueError) as error:
        raise _malformed(text) from error


def _malformed(text: str) -> SpecError:
    return SpecError(
        f"{text!r} is not an axis. An axis is a size (64), None, a name ('batch') or arithmetic "
        "over names ('2*n + 1', with + - * // % and max, min, mod, floordiv)."
    )


def _check(node: ast.expr, text: str, names: dict[str, None]) -> None:
    match node:
        case ast.Name(id=name):
            names[name] = None
        case ast.Constant(value=value) if type(value) is int:
            pass
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            _check(operand, text, names)
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _OPERATORS:
            _check(left, text, names)
            _check(right, text, names)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            for argument in arguments:
                _check(argument, text, names)
        case _:
            raise _malformed(text)


def _evaluate(node: ast.expr, sizes: Mapping[str, int]) -> int:
    match node:
        case ast.Name(id=name):
            return sizes[name]
        case ast.Constant(value=int(value)):
            return value
        case ast.UnaryOp(operand=operand):
            return -_evaluate(operand, sizes)
        case ast.BinOp(op=op, left=left, right=right):
            return _OPERATORS[type(op)](_evaluate(left, sizes), _evaluate(right, sizes))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return _FUNCTIONS[name](*(_evaluate(argument, sizes) for argument in arguments))
    raise AssertionError(ast.dump(node))
