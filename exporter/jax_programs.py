"""Programs taken apart: MLIR bytecode becomes the plain values of `operations.py`.

What it rests on beside `jax_internals.py`:

- `jaxlib._jax.mlir.refine_polymorphic_shapes`, with which JAX gives the arrays of a program their
  sizes before it compiles it. When it goes, a program with named axes has no estimate of its cost.
- the spelling of the attributes of StableHLO in `jaxlib.mlir`. When it changes, costs are missing
  the numbers that stand in them, and the tests that compare with XLA's own fail.
"""

import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import jax
from jax._src.interpreters import mlir
from jax._src.lib import _jax  # type: ignore[attr-defined]  # not meant to be exported
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func, stablehlo

from exporter.jax_internals import call_new_composites
from exporter.operations import FUNCTION, MAIN, Array, Operation, Operations

# With these bytes MLIR bytecode begins.
_BYTECODE = b"ML\xefR"

# Every function is written out where it is called before sizes are filled in. A small program can
# call functions that call functions, and so on, until no memory would hold it.
_MAX_WRITTEN_OUT = 500_000

_TENSOR = re.compile(
    r"tensor<((?:(?:\d+|\?)x)*)((?:complex<)?[A-Za-z0-9_]+>?)(?:, .*)?>", re.DOTALL
)


# The shape of each array that a program takes.
Shapes = Sequence[tuple[int, ...]]


def read_operations(
    bytecode: bytes, shapes: Shapes | None = None, platform: int | None = None
) -> tuple[Operations, Operations | str | None]:
    """All operations of a portable program, as they stand in it and for given sizes.

    None of it is run or compiled. Where sizes are known, functions are written out where they are
    called, and branches for other platforms are gone.

    Args:
      bytecode: the program.
      shapes: the shapes of the arrays that it takes, without the first that says the platform.
        `None` if they are not known.
      platform: the number of the platform, for a program that is told it.

    Returns:
      The operations, and those that are left for these shapes: `None` without shapes, and a text
      that says why if it cannot be called with them.

    Raises:
      ValueError: if the bytes are not a portable program that this JAX can read.
    """
    with mlir.make_ir_context() as context, ir.Location.unknown(context):
        module = _module(bytecode)
        found = _operations(module)
        if shapes is None:
            return found, None
        try:
            if found.count > _MAX_WRITTEN_OUT:
                raise ValueError(f"it has {found.count:,} operations with every call written out")
            call_new_composites(_composites(module))  # sizes are not filled in behind others
            _call_with(module, shapes, platform)
            return found, _operations(_refined(module))
        except (ir.MLIRError, jax.errors.JaxRuntimeError, LookupError, ValueError) as error:
            return found, f"its arrays cannot have these sizes: {_first_line(error)}"


def _refined(module: ir.Module) -> ir.Module:
    """A module with the sizes of all arrays, as far as the types of what it takes tell them."""
    bytecode = mlir.module_to_bytecode(module)
    return ir.Module.parse(
        _jax.mlir.refine_polymorphic_shapes(
            bytecode, enable_shape_assertions=True, validate_static_shapes=True, enable_shardy=True
        )
    )


def _composites(module: ir.Module) -> list[ir.Operation]:
    found = []

    def visit(operation: ir.Operation) -> ir.WalkResult:
        if operation.name == "stablehlo.composite":
            found.append(operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return found


def _module(bytecode: bytes) -> ir.Module:
    if not bytecode.startswith(_BYTECODE):
        raise ValueError("it is not MLIR bytecode.")
    try:
        module: ir.Module = _jax.mlir.deserialize_portable_artifact(bytecode)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise ValueError(_first_line(error)) from error
    return module


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _call_with(module: ir.Module, shapes: Shapes, platform: int | None) -> None:
    """Give a module a main function that takes arrays of known sizes and calls the one it had."""
    table = ir.SymbolTable(module.operation)
    main = table[MAIN]
    kind = ir.FunctionType(ir.TypeAttr(main.attributes["function_type"]).value)
    original = f"{MAIN}_of_any_size"
    ir.SymbolTable.replace_all_symbol_uses(MAIN, original, module.operation)
    table.set_symbol_name(main, original)
    main.attributes["sym_visibility"] = ir.StringAttr.get("private")
    wanted = [ir.RankedTensorType(one) for one in kind.inputs]
    first = 0 if platform is None else 1
    if len(shapes) + first != len(wanted):
        raise ValueError(f"it takes {len(wanted)} arrays, and not {len(shapes) + first}")
    types = [
        ir.RankedTensorType.get(shape, one.element_type)
        for shape, one in zip(shapes, wanted[first:], strict=True)
    ]
    with ir.InsertionPoint.at_block_begin(module.body):
        caller: Any = func.FuncOp(MAIN, (types, list(kind.results)))
        caller.attributes["sym_visibility"] = ir.StringAttr.get("public")
    block = caller.add_entry_block()
    with ir.InsertionPoint(block):
        given: list[Any] = list(block.arguments)
        if platform is not None:
            value = ir.IntegerAttr.get(wanted[0].element_type, platform)
            given.insert(0, stablehlo.constant(ir.DenseElementsAttr.get_splat(wanted[0], value)))
        arguments = [
            one if one.type == type_ else stablehlo.convert(type_, one)
            for one, type_ in zip(given, wanted, strict=True)
        ]
        called = ir.FlatSymbolRefAttr.get(original)
        func.ReturnOp(list(func.CallOp(list(kind.results), called, arguments).results))


def _operations(module: ir.Module) -> Operations:
    """Walked without recursion: regions may stand in regions as often as an author likes."""
    found: list[Operation] = []
    open_: list[tuple[Iterator[Any], int, int]] = [(iter(module.body.operations), -1, 0)]
    while open_:
        siblings, parent, region = open_[-1]
        view = next(siblings, None)
        if view is None:
            open_.pop()
            continue
        operation = view.operation
        position = len(found)
        found.append(_plain(operation, parent, region))
        inner = [(_inside(one), position, i) for i, one in enumerate(operation.regions)]
        open_ += reversed(inner)
    return Operations(tuple(found))


def _inside(region: ir.Region) -> Iterator[Any]:
    for block in region.blocks:
        yield from block.operations


def _plain(operation: ir.Operation, parent: int, region: int) -> Operation:
    name = str(operation.name)
    numbers = _NUMBERS.get(name)
    takes = [one.type for one in operation.operands]
    gives = [one.type for one in operation.results]
    if name == FUNCTION:
        kind = ir.FunctionType(ir.TypeAttr(operation.attributes["function_type"]).value)
        takes, gives = kind.inputs, kind.results
    return Operation(
        name,
        tuple(_array(str(one)) for one in takes),
        tuple(_array(str(one)) for one in gives),
        parent,
        region,
        _target(operation, name),
        _constant_bytes(operation, name),
        numbers(operation) if numbers else {},
    )


@lru_cache(maxsize=4096)
def _array(text: str) -> Array:
    """A type as MLIR writes it."""
    found = _TENSOR.fullmatch(text)
    if found is None:
        return Array("token" if text.endswith(".token") else text)
    sizes = found[1].split("x")[:-1]
    return Array(found[2], tuple(None if size == "?" else int(size) for size in sizes))


_TARGETS = {
    FUNCTION: "sym_name",
    "func.call": "callee",
    "stablehlo.composite": "decomposition",
    "stablehlo.custom_call": "call_target_name",
}


def _target(operation: ir.Operation, name: str) -> str:
    if name not in _TARGETS:
        return ""
    attribute: Any = operation.attributes[_TARGETS[name]]
    return str(attribute.value)


def _constant_bytes(operation: ir.Operation, name: str) -> int:
    """What is written into an operation: arrays, one element where all are equal, and payloads."""
    if name == "stablehlo.constant":
        value = operation.attributes["value"]
        kind = _array(str(operation.results[0].type))
        is_splat = isinstance(value, ir.DenseElementsAttr) and value.is_splat
        return kind.item_bytes * (1 if is_splat else kind.elements or 0)
    if name == "stablehlo.custom_call":
        payloads = ("backend_config", "mhlo.backend_config")
        given = (operation.attributes[one] for one in payloads if one in operation.attributes)
        return sum(
            len(one.value_bytes if isinstance(one, ir.StringAttr) else str(one)) for one in given
        )
    return 0


def _list(operation: ir.Operation, name: str) -> tuple[int, ...]:
    """A list of numbers, none if it is left out."""
    if name not in operation.attributes:
        return ()
    values: Any = operation.attributes[name]
    return tuple(int(value) for value in values)


def _number(operation: ir.Operation, name: str) -> int:
    value: Any = operation.attributes[name]
    return int(value.value)


def _dot(operation: ir.Operation) -> dict[str, tuple[int, ...]]:
    axes: Any = stablehlo.DotDimensionNumbers(operation.attributes["dot_dimension_numbers"])
    return {"contracted": tuple(axes.lhs_contracting_dimensions)}


def _convolution(operation: ir.Operation) -> dict[str, tuple[int, ...]]:
    axes: Any = stablehlo.ConvDimensionNumbers(operation.attributes["dimension_numbers"])
    return {
        "input_axes": tuple(axes.input_spatial_dimensions),
        "kernel_axes": tuple(axes.kernel_spatial_dimensions),
        "kernel_features": (axes.kernel_input_feature_dimension,),
        "output_axes": tuple(axes.output_spatial_dimensions),
        "strides": _list(operation, "window_strides"),
        "padding": _list(operation, "padding"),
        "input_dilation": _list(operation, "lhs_dilation"),
        "kernel_dilation": _list(operation, "rhs_dilation"),
    }


def _window(operation: ir.Operation) -> dict[str, tuple[int, ...]]:
    return {"window": (math.prod(_list(operation, "window_dimensions")),)}


def _loop(operation: ir.Operation) -> dict[str, tuple[int, ...]]:
    trips = _trips(operation)
    return {} if trips is None else {"trips": (trips,)}


_NUMBERS = {
    "stablehlo.dot_general": _dot,
    "stablehlo.convolution": _convolution,
    "stablehlo.reduce_window": _window,
    "stablehlo.while": _loop,
}


def _trips(loop: ir.Operation) -> int | None:
    """How often a loop runs that counts from a constant to a constant, as `lax.scan` makes it."""
    condition, body = (region.blocks[0] for region in loop.regions)
    test = _maker(_last(condition).operands[0])
    if test is None or test.name != "stablehlo.compare":
        return None
    counter, bound = test.operands
    position = _argument(counter, condition)
    if position is None:
        return None
    step = _step(_last(body).operands[position], position, body)
    start = _constant(loop.operands[position])
    end = _carried(bound, loop, condition, body)
    found = re.search(r"comparison_direction (\w+)", str(test.attributes["comparison_direction"]))
    if step is None or start is None or end is None or found is None:
        return None
    if step < 0:  # counting down is counting up with all signs changed
        start, end, step = -start, -end, -step
        direction = {"GT": "LT", "GE": "LE"}.get(found[1])
    else:
        direction = {"LT": "LT", "LE": "LE"}.get(found[1])
    if direction is None or step == 0:
        return None
    return max(0, -((start - end - (direction == "LE")) // step))


def _last(block: ir.Block) -> ir.Operation:
    *_, last = block.operations
    return last.operation


def _maker(value: ir.Value[Any]) -> ir.Operation | None:
    """The operation that gives a value, unless it is an argument."""
    owner: Any = value.owner
    return None if isinstance(owner, ir.Block) else owner.operation


def _argument(value: ir.Value[Any], block: ir.Block) -> int | None:
    """Which argument of a block a value is, if it is one."""
    if _maker(value) is not None or value.owner != block:
        return None
    return int(ir.BlockArgument(value).arg_number)


def _step(value: ir.Value[Any], position: int, body: ir.Block) -> int | None:
    """What is added to a counter in each turn of a loop."""
    maker = _maker(value)
    if maker is None or maker.name not in ("stablehlo.add", "stablehlo.subtract"):
        return None
    first, second = maker.operands
    if maker.name == "stablehlo.add" and _argument(first, body) is None:
        first, second = second, first
    amount = _constant(second)
    if amount is None or _argument(first, body) != position:
        return None
    return amount if maker.name == "stablehlo.add" else -amount


def _carried(
    value: ir.Value[Any], loop: ir.Operation, condition: ir.Block, body: ir.Block
) -> int | None:
    """A constant, also one that a loop carries along unchanged."""
    position = _argument(value, condition)
    if position is None:
        return _constant(value)
    if _argument(_last(body).operands[position], body) != position:
        return None
    return _constant(loop.operands[position])


def _constant(value: ir.Value[Any]) -> int | None:
    maker = _maker(value)
    if maker is None or maker.name != "stablehlo.constant":
        return None
    elements = maker.attributes["value"]
    if not isinstance(elements, ir.DenseIntElementsAttr) or len(elements) != 1:
        return None
    return int(elements[0])
