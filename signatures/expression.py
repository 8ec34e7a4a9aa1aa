"""Sizes written as arithmetic over named dimensions: `"batch"`, `"2*n + 1"`, `"floordiv(n, 2)"`.

The text is the interface: users write it in a spec, JAX prints it for the shape of an output, and
the manifest keeps it. It is read with Python's own parser, so that users may write `n // 2` and
`2*(n + 1)`. JAX reads neither: its grammar has no parentheses and no operators but `+ - * ^`. So
every expression is brought into one form, a sum of products, and printed in that grammar. What is
equal by the laws of arithmetic then has equal text, and the terms show which names an expression is
linear in.
"""

import ast
import operator
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from math import prod

from signatures.errors import SpecError

# The longest expression seen from JAX for a real model (a stack of strided convolutions) has about
# 600 characters. The limits keep a hostile file from building a deep tree or a huge number.
MAX_CHARACTERS = 4096
MAX_TERMS = 128
MAX_POWER = 64
MAX_DEPTH = 256  # of operations inside each other; whole programs change Python's own limit
MAX_NUMBER = 2**63 - 1  # sizes are 64-bit integers in a program

_FUNCTIONS: dict[str, Callable[[int, int], int]] = {
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "max": max,
    "min": min,
}
_OPERATORS: dict[type[ast.operator], str] = {ast.FloorDiv: "floordiv", ast.Mod: "mod"}


@dataclass(frozen=True)
class Expression:
    """Integer arithmetic over named dimensions.

    >>> parse("n + 2*(n + 1)").text
    '3*n + 2'
    >>> parse("2*n").solve("n", 10, {})
    5

    Attributes:
      text: the expression as a sum of products, in the grammar of JAX.
      names: the dimensions in it, each once, in the order they appear.
    """

    text: str
    names: tuple[str, ...]
    _terms: "tuple[tuple[_Product, int], ...]" = field(repr=False, compare=False)

    @cached_property
    def is_name(self) -> bool:
        """Whether this is one dimension and no arithmetic."""
        return self.names == (self.text,)

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        """The size, for given sizes of every dimension in it.

        Raises:
          SpecError: if it divides by zero.
        """
        return sum(_times(product, factor, sizes) for product, factor in self._terms)

    def solve(self, name: str, size: int, sizes: Mapping[str, int]) -> int | None:
        """The size of `name` for which the expression is `size`, all others being known.

        Only expressions that are linear in `name` are solved, because others have several answers
        or none. `None` means that it is not linear, or that no size fits.
        """
        slope = rest = 0
        for product, factor in self._terms:
            others: _Product = tuple(atom for atom in product if atom != name)
            if len(product) - len(others) > 1 or any(name in _names(atom) for atom in others):
                return None
            value = _times(others, factor, sizes)
            if len(others) < len(product):
                slope += value
            else:
                rest += value
        if slope == 0 or (size - rest) % slope:
            return None
        found = (size - rest) // slope
        return None if _is_negative(found) else found

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class _Call:
    """A function of two sizes that is no polynomial, as a factor of a product."""

    text: str
    function: Callable[[int, int], int] = field(compare=False)
    left: Expression = field(compare=False)
    right: Expression = field(compare=False)

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        try:
            return self.function(self.left.evaluate(sizes), self.right.evaluate(sizes))
        except ZeroDivisionError as error:
            shown = ", ".join(f"{name}={sizes[name]}" for name in _names(self))
            raise SpecError(f"{self.text} divides by zero for {shown}.") from error

    def __str__(self) -> str:
        return self.text


# A product holds a factor as often as its power says: n^2*m is (m, n, n), a number alone is ().
_Atom = str | _Call
_Product = tuple[_Atom, ...]
_Sum = dict[_Product, int]


@lru_cache(maxsize=4096)
def parse(text: str) -> Expression:
    """`text` as an expression.

    >>> parse("n // 2 + 1").text
    'floordiv(n, 2) + 1'

    Raises:
      SpecError: if it is not integer arithmetic over names, or too long to be meant.
    """
    if len(text) > MAX_CHARACTERS:
        raise SpecError(f"the axis {text[:40]!r}... has {len(text)} characters, too many to read.")
    try:
        # JAX writes a power as n^2, which Python would read as "xor" with another precedence.
        tree = ast.parse(text.strip().replace("^", "**"), mode="eval").body
        _check_depth(tree)
        return _expression(_read(tree))
    # Python's parser answers deep nesting with any of the last three.
    except (_UnreadableError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        raise SpecError(
            f"{shown!r} is not an axis. An axis is a size (64), None, a name ('batch') or "
            "arithmetic over names ('2*n + 1', with + - * // % ^ and max, min, mod, floordiv)."
        ) from error


def _is_negative(size: object) -> bool:
    """Whether a size is below 0. Of a symbolic size, inside a trace of JAX, that is not known."""
    return isinstance(size, int) and size < 0


class _UnreadableError(Exception):
    """Something other than integer arithmetic over names, or too much of it."""


def _check_depth(tree: ast.expr) -> None:
    level: list[ast.AST] = [tree]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return
    raise _UnreadableError


def _read(node: ast.expr) -> _Sum:
    match node:
        case ast.Name(id=name):
            return {(name,): 1}
        case ast.Constant(value=value) if type(value) is int:
            return _sum({(): value})
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _multiply({(): -1}, _read(operand))
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _read(operand)
        case ast.BinOp(op=ast.Pow(), left=left, right=ast.Constant(value=int(power))):
            return _power(_read(left), power)
        case ast.BinOp(op=op, left=left, right=right):
            return _combine(op, _read(left), _read(right))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return _call(name, [_read(argument) for argument in arguments])
    raise _UnreadableError


def _combine(op: ast.operator, left: _Sum, right: _Sum) -> _Sum:
    match op:
        case ast.Add():
            return _sum(left, right)
        case ast.Sub():
            return _sum(left, _multiply({(): -1}, right))
        case ast.Mult():
            return _multiply(left, right)
        case ast.FloorDiv() | ast.Mod():
            return _call(_OPERATORS[type(op)], [left, right])
    raise _UnreadableError


def _sum(*sums: _Sum) -> _Sum:
    """The sum of sums, checked against the limits."""
    total: _Sum = {}
    for terms in sums:
        for product, factor in terms.items():
            total[product] = total.get(product, 0) + factor
    kept = {product: factor for product, factor in total.items() if factor}
    if len(kept) > MAX_TERMS or any(
        abs(factor) > MAX_NUMBER or len(product) > MAX_POWER for product, factor in kept.items()
    ):
        raise _UnreadableError
    return kept


def _multiply(left: _Sum, right: _Sum) -> _Sum:
    if len(left) * len(right) > 16 * MAX_TERMS:  # most of them would have to be alike
        raise _UnreadableError
    return _sum(
        *(
            {tuple(sorted(one + other, key=str)): factor * times}
            for one, factor in left.items()
            for other, times in right.items()
        )
    )


def _power(base: _Sum, power: int) -> _Sum:
    if not 0 <= power <= MAX_POWER:
        raise _UnreadableError
    result: _Sum = {(): 1}
    for _ in range(power):
        result = _multiply(result, base)
    return result


def _call(name: str, arguments: list[_Sum]) -> _Sum:
    match name, arguments:
        case "non_negative", [size]:  # as older releases of JAX print it
            return _call("max", [{}, size])
        case "max" | "min", [first, second, third, *rest]:
            return _call(name, [_call(name, [first, second]), third, *rest])
        case _, [first, second] if name in _FUNCTIONS:
            left, right = _expression(first), _expression(second)
            call = _Call(f"{name}({left}, {right})", _FUNCTIONS[name], left, right)
            return {(call,): 1} if _names(call) else _sum({(): call.evaluate({})})
    raise _UnreadableError


def _expression(terms: _Sum) -> Expression:
    """A sum with its text: the highest powers first, and something positive in front."""
    ordered = sorted(terms, key=lambda product: (-len(product), tuple(map(str, product))))
    first = next((product for product in ordered if terms[product] > 0), None)
    if first is not None:
        ordered.remove(first)
        ordered.insert(0, first)
    names = dict.fromkeys(name for product in ordered for atom in product for name in _names(atom))
    signs = "".join(
        f" {'-' if terms[product] < 0 else '+'} {_printed(product, abs(terms[product]))}"
        for product in ordered
    )
    text = signs.removeprefix(" + ") if first is not None else signs.replace(" - ", "-", 1)
    if len(text) > MAX_CHARACTERS:
        raise _UnreadableError
    return Expression(text or "0", tuple(names), tuple((p, terms[p]) for p in ordered))


def _printed(product: _Product, factor: int) -> str:
    powers = Counter(map(str, product))
    factors = [f"{atom}^{power}" if power > 1 else atom for atom, power in powers.items()]
    return "*".join(factors if factors and factor == 1 else [str(factor), *factors])


def _times(product: _Product, factor: int, sizes: Mapping[str, int]) -> int:
    return factor * prod(
        sizes[atom] if isinstance(atom, str) else atom.evaluate(sizes) for atom in product
    )


def _names(atom: _Atom) -> tuple[str, ...]:
    if isinstance(atom, str):
        return (atom,)
    return tuple(dict.fromkeys((*atom.left.names, *atom.right.names)))
