"""Loops as the files of LiteRT have them: a function for the condition and one for the body.

The passes of `litert-converter` leave both where they stand, in the loop, and what writes the file
then refuses it without a reason. A function sees nothing that is outside of it: constants are
copied into it, and other values go through the loop unchanged.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from litert_converter.mlir import ir

_LOOP = "tfl.while"
_CONSTANTS = frozenset({"arith.constant", "tfl.pseudo_const", "tfl.pseudo_qconst"})


def outline(module: ir.Module) -> None:
    """Give each loop of a converted module its two functions, inner loops first."""
    loops = []

    def visit(operation: Any) -> Any:
        if operation.name == _LOOP:
            loops.append(operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit, ir.WalkOrder.POST_ORDER)
    for number, loop in enumerate(loops):
        _outline(module, loop, f"loop_{number}")


def _outline(module: ir.Module, loop: Any, name: str) -> None:
    blocks = [region.blocks[0] for region in loop.regions]
    outside = _outside(blocks)
    constants = [one for one in outside if _is_constant(one)]
    carried = [one for one in outside if not _is_constant(one)]
    given = [*loop.operands, *carried]
    types = [one.type for one in given]
    attributes = {name: loop.attributes[name] for name in loop.attributes}
    with loop.location, ir.InsertionPoint(loop):
        made = ir.Operation.create(
            _LOOP, results=types, operands=given, attributes=attributes, regions=2
        )
    for block, region, part in zip(blocks, made.regions, ("cond", "body"), strict=True):
        with loop.location:
            passed = _closed(block, constants, carried)
            function = f"{name}_{part}"
            results = _function(module, function, block, passed if part == "body" else ())
            _call(region.blocks.append(*types), function, results)
    for old, new in zip(loop.results, list(made.results)[: len(loop.results)], strict=True):
        old.replace_all_uses_with(new)
    loop.erase()


def _inside(block: Any) -> Iterator[Any]:
    """Every operation of a block, those in regions included."""
    for view in block.operations:
        yield view.operation
        for region in view.operation.regions:
            for inner in region.blocks:
                yield from _inside(inner)


def _outside(blocks: Sequence[Any]) -> list[Any]:
    """The values that operations in some blocks take and that are made elsewhere."""
    made = []
    for block in blocks:
        made += block.arguments
        for operation in _inside(block):
            made += operation.results
            for region in operation.regions:
                for inner in region.blocks:
                    made += inner.arguments
    known = set(made)
    taken = [one for block in blocks for op in _inside(block) for one in op.operands]
    return list(dict.fromkeys(one for one in taken if one not in known))


def _is_constant(value: Any) -> bool:
    owner = value.owner
    return not isinstance(owner, ir.Block) and owner.operation.name in _CONSTANTS


def _closed(block: Any, constants: Sequence[Any], carried: Sequence[Any]) -> list[Any]:
    """Let a block take nothing from outside. Gives its arguments for the values carried."""
    replaced = {}
    with ir.InsertionPoint.at_block_begin(block):
        for one in constants:
            replaced[one] = one.owner.operation.clone().results[0]
    passed = [block.add_argument(one.type, ir.Location.unknown()) for one in carried]
    replaced.update(zip(carried, passed, strict=True))
    for operation in _inside(block):
        for position, one in enumerate(operation.operands):
            if one in replaced:
                operation.operands[position] = replaced[one]
    return passed


def _function(module: ir.Module, name: str, block: Any, passed: Sequence[Any]) -> list[Any]:
    """Move a block into a function of its own. Gives the types that it returns."""
    *_, last = block.operations
    results = [*last.operands, *passed]
    types = [one.type for one in results]
    kind = ir.FunctionType.get([one.type for one in block.arguments], types)
    with ir.InsertionPoint(module.body):
        function = ir.Operation.create(
            "func.func",
            attributes={
                "sym_name": ir.StringAttr.get(name),
                "function_type": ir.TypeAttr.get(kind),
                "sym_visibility": ir.StringAttr.get("private"),
            },
            regions=1,
        )
    block.append_to(function.regions[0])
    with ir.InsertionPoint(last):
        ir.Operation.create("func.return", operands=results)
    last.operation.erase()
    return types


def _call(block: Any, name: str, types: Sequence[Any]) -> None:
    """Fill the block of a loop with a call of the function."""
    with ir.InsertionPoint(block):
        callee = {"callee": ir.FlatSymbolRefAttr.get(name)}
        called = ir.Operation.create(
            "func.call", results=types, operands=list(block.arguments), attributes=callee
        )
        ir.Operation.create("tfl.yield", operands=list(called.results))
