"""Programs of known sizes: MLIR in, MLIR out, as compilers other than XLA want it.

What it rests on beside `jax_internals.py` and `jax_programs.py`:

- `jax._src.interpreters.mlir.ir_constant`, which writes an array of any dtype into a program. When
  it goes, the elements are packed by hand as the attributes of StableHLO have them.
- the blocks and functions of `jaxlib.mlir.ir`, whose Python names may change.
- `compile_and_load` of a client of PJRT, which runs a program as it is. When it goes, a program is
  compiled by whatever JAX compiles its own with.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax._src.interpreters import mlir
from jax._src.lib import _jax, xla_client  # type: ignore[attr-defined]  # not meant to be exported
from jaxlib.mlir import ir

from exporter.jax_internals import call_new_composites, newest_stablehlo, portable_bytecode
from exporter.jax_programs import call_with, composites, first_line, read_module, refined
from exporter.operations import MAIN


@dataclass(frozen=True)
class Argument:
    """One array that a program is to take.

    Attributes:
      name: what it is called.
      dtype: its dtype.
      shape: its shape.
      source: which argument of the program it is, or `None` if the program does not use it.
    """

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    source: int | None


def static_bytecode(
    bytecode: bytes,
    *,
    shapes: Sequence[tuple[int, ...]],
    platform: int | None,
    arguments: Sequence[Argument],
    constants: Mapping[int, np.ndarray],
    results: Sequence[tuple[int, str]],
) -> tuple[bytes, tuple[str, ...]]:
    """A portable program as MLIR bytecode without open sizes, with arguments and results by name.

    Args:
      bytecode: the program.
      shapes: the shapes of the arrays that it takes.
      platform: the number of the platform, for a program that is told it.
      arguments: what it is to take.
      constants: the values of what it took and is to hold itself, by their positions.
      results: what it is to return: the positions among what it returned, and their names.

    Returns:
      The program, and the native functions that it calls.

    Raises:
      ValueError: if it cannot be called with these shapes, or sizes stay open.
    """
    with mlir.make_ir_context() as context, ir.Location.unknown(context):
        module = read_module(bytecode)
        try:
            call_new_composites(composites(module), known=())  # compilers need not know any
            call_with(module, shapes, platform)
            module = refined(module)
            _rename(module, arguments, constants, results)
            _drop_conversions(module)
            module.operation.verify()
        except (ir.MLIRError, jax.errors.JaxRuntimeError, LookupError) as error:
            raise ValueError(first_line(error)) from error
        return mlir.module_to_bytecode(module), _checked(module)


def without_composites(bytecode: bytes, target: str) -> bytes:
    """A portable program that calls the function behind each composite, for the same sizes.

    Readers fall back on these functions where they do not know an operation, but do not fill in
    sizes behind them.

    Raises:
      ValueError: if it is not a portable program, or that version of StableHLO cannot express it.
    """
    with mlir.make_ir_context() as context, ir.Location.unknown(context):
        module = read_module(bytecode)
        found = composites(module)
        if not found:
            return bytecode
        call_new_composites(found, known=())
        return portable_bytecode(module, target)


def _rename(
    module: ir.Module,
    arguments: Sequence[Argument],
    constants: Mapping[int, np.ndarray],
    results: Sequence[tuple[int, str]],
) -> None:
    """Let the main function take and return just these."""
    main = ir.SymbolTable(module.operation)[MAIN]
    block = main.regions[0].blocks[0]
    old = list(block.arguments)
    with ir.InsertionPoint.at_block_begin(block):
        for position, value in constants.items():
            old[position].replace_all_uses_with(_constant(value))
    for one in arguments:
        kind = ir.RankedTensorType.get(one.shape, mlir.dtype_to_ir_type(one.dtype))
        new = block.add_argument(kind, ir.Location.name(one.name))
        if one.source is not None:
            old[one.source].replace_all_uses_with(new)
    for _ in old:
        block.erase_argument(0)
    *_, last = block.operations
    given = list(last.operands)
    with ir.InsertionPoint(last):
        ir.Operation.create("func.return", operands=[given[position] for position, _ in results])
    last.operation.erase()
    *_, last = block.operations
    function_type = ir.FunctionType.get(
        [one.type for one in block.arguments], [one.type for one in last.operands]
    )
    main.attributes["function_type"] = ir.TypeAttr.get(function_type)
    main.attributes["arg_attrs"] = _named("jax.arg_info", [one.name for one in arguments])
    main.attributes["res_attrs"] = _named("jax.result_info", [name for _, name in results])
    # It says that sizes were open once, and readers would look for the assertions about them.
    if "jax.uses_shape_polymorphism" in module.operation.attributes:
        del module.operation.attributes["jax.uses_shape_polymorphism"]


def _drop_conversions(module: ir.Module) -> None:
    """Drop what only told the types of open sizes, and converts nothing now."""
    found = []

    def visit(operation: ir.Operation) -> ir.WalkResult:
        if operation.name == "stablehlo.convert":
            found.append(operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    for operation in found:
        if operation.operands[0].type == operation.results[0].type:
            operation.results[0].replace_all_uses_with(operation.operands[0])
            operation.erase()


def _constant(value: np.ndarray) -> Any:
    return mlir.ir_constant(np.ascontiguousarray(value).reshape(value.shape))


def _named(attribute: str, names: Sequence[str]) -> ir.Attribute:
    return ir.ArrayAttr.get(
        [ir.DictAttr.get({attribute: ir.StringAttr.get(name)}) for name in names]
    )


def _checked(module: ir.Module) -> tuple[str, ...]:
    """The native functions that a module calls, once it is seen that all its sizes are known."""
    calls = set()
    open_ = []

    def visit(operation: ir.Operation) -> ir.WalkResult:
        if operation.name == "stablehlo.custom_call":
            calls.add(str(ir.StringAttr(operation.attributes["call_target_name"]).value))
        kinds = [str(one.type) for one in operation.results]
        if any("?" in kind for kind in kinds):
            open_.append(f"{operation.name} gives {', '.join(kinds)}")
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    if open_:
        raise ValueError(f"sizes stay open that depend on values: {open_[0]}")
    return tuple(sorted(calls))


def noted(bytecode: bytes, attribute: str, words: Mapping[str, str]) -> bytes:
    """A program whose main function has an attribute with these words."""
    with mlir.make_ir_context():
        module = ir.Module.parse(bytecode)
        main = ir.SymbolTable(module.operation)[MAIN]
        values: dict[str, ir.Attribute] = {
            name: ir.StringAttr.get(text) for name, text in words.items()
        }
        main.attributes[attribute] = ir.DictAttr.get(values)
        return mlir.module_to_bytecode(module)


def text_of(bytecode: bytes) -> str:
    """A program as text, with every constant in full."""
    with mlir.make_ir_context():
        return str(mlir.module_to_string(ir.Module.parse(bytecode)))


def portable(bytecode: bytes) -> bytes:
    """A program as portable bytecode, which other releases read too.

    Raises:
      ValueError: if it has operations that no version of StableHLO can express.
    """
    with mlir.make_ir_context():
        return portable_bytecode(ir.Module.parse(bytecode), newest_stablehlo())


def module_in(data: bytes) -> bytes:
    """The program in a file of text or of portable bytecode.

    Raises:
      ValueError: if it is neither.
    """
    with mlir.make_ir_context():
        try:
            module = read_module(data) if data.startswith(b"ML\xefR") else ir.Module.parse(data)
        except ir.MLIRError as error:
            raise ValueError(first_line(error)) from error
        return mlir.module_to_bytecode(module)


def run_by_pjrt(
    bytecode: bytes, arrays: Sequence[np.ndarray], device: jax.Device
) -> list[np.ndarray]:
    """What a program returns, compiled and run by the runtime of JAX without JAX itself."""
    options = xla_client.CompileOptions()
    loaded = device.client.compile_and_load(bytecode, _jax.DeviceList((device,)), options)
    given = [jax.device_put(array, device) for array in arrays]
    results = loaded.execute_sharded(given).disassemble_into_single_device_arrays()
    return [np.asarray(one[0]) for one in results]


@contextmanager
def parsed(bytecode: bytes) -> Iterator[ir.Module]:
    """A program as a module of jaxlib, in whose context the block runs."""
    with mlir.make_ir_context(), ir.Location.unknown():
        yield ir.Module.parse(bytecode)
