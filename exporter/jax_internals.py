"""The private parts of JAX that the project rests on, all of them here.

- `jaxlib._jax.mlir.serialize_portable_artifact` and its inverse, by way of `jax._src.lib`: JAX
  writes and reads its own exports with them. The public-looking functions of the StableHLO dialect
  fail on linear algebra, whose modules carry attributes of a dialect they do not register. When
  they go, those of the dialect will do by then.
- `jax._src.interpreters.mlir`: a context that knows every dialect a module may use.
- `jax._src.export._export`: the custom calls whose meaning JAX promises to keep. When it goes, a
  list of our own takes its place.
- `jax._src.interpreters.batching`: whether a traced array is one of many under `jax.vmap`, for a
  message. When it goes, JAX's own takes its place.
- the trace that a traced array belongs to, and the one that is running: what a function leaves must
  be of the latter. When they go, functions that leave others are no longer refused by name.
- `jax._src.source_info_util`: which line of the user's code an equation came from, for messages.
- the dialect of Shardy, as `jaxlib` brings it: where a program is split over devices. JAX writes
  its operations into what it exports, and nobody promises that they stay readable, so constraints
  are stored as composites of StableHLO and become Shardy's again when they are loaded.
- the equality of symbolic sizes: exchanged while a function is traced, see `decided_comparisons`.
  When it goes, so does the check.
- `jax._src.lax.lax._convert_element_type`: no public function makes a restored array weakly typed
  again. When it goes, restored arrays are as firmly typed as any other.
- `jax._src.lax.linalg`: makes the functions of LAPACK known to compiled programs that call them.
  When it goes, lowering any call of them does the same.
- `jax._src.lib.xla_client`: the fingerprint of the devices and their drivers, which no public
  function tells. When it goes, the names of devices have to do.
- the fields of `jax.export.Exported`: bytecode from another release is called by putting it into
  an export of the running one. When that ends, jaxlib calls portable artifacts itself.
"""

import dataclasses
import json
import math
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax import export
from jax._src import core, source_info_util
from jax._src.export import _export
from jax._src.interpreters import batching, mlir
from jax._src.lax import lax, linalg
from jax._src.lib import _jax, xla_client  # type: ignore[attr-defined]  # not meant to be exported
from jaxlib.mlir import ir, passmanager
from jaxlib.mlir.dialects import func, sdy, stablehlo

from exporter.errors import InconclusiveSizesError
from signatures.dtypes import KeyType
from signatures.spec import Dim, TensorSpec, storage_shape

# The custom calls whose meaning JAX promises to keep.
STABLE_CUSTOM_CALLS = frozenset(_export._CUSTOM_CALL_TARGETS_GUARANTEED_STABLE)

# Where code lies that is not the user's own.
_INSTALLED = (
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    str(Path(__file__).parent),
    "<frozen",
)


def newest_stablehlo() -> str:
    """The newest StableHLO version that this JAX reads and writes."""
    return str(stablehlo.get_current_version())


def topology_fingerprint(devices: Sequence[jax.Device]) -> str:
    """What the compiler knows of devices, in short, or no text where a backend does not tell it.

    It is the same in every process that sees the same devices by the same drivers. Of a CPU it
    covers the instructions that the compiler uses.
    """
    try:
        return str(xla_client.get_topology_for_devices(list(devices)).fingerprint())
    except (jax.errors.JaxRuntimeError, NotImplementedError):
        return ""


def initialize_lapack() -> None:
    """Look up the functions of LAPACK, for compiled programs that nobody lowers in this process."""
    linalg.initialize_lapack()


def portable_bytecode(text: str, target: str) -> bytes:
    """A module as portable bytecode of one StableHLO version.

    Raises:
      ValueError: if that version cannot express the program.
    """
    try:
        return bytes(_jax.mlir.serialize_portable_artifact(text, target, True))
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(str(error).splitlines()[0]) from error


def module_text(exported: export.Exported, *, keep_locations: bool) -> str:
    """The module of an export as text that `portable_bytecode` takes.

    Args:
      exported: what JAX exported.
      keep_locations: whether each operation still says which line of which file it came from.
    """
    with mlir.make_ir_context():
        module = _jax.mlir.deserialize_portable_artifact(exported.mlir_module_serialized)
        _call_new_composites(module)
        _forget_meshes(module)
        if keep_locations:
            return str(module.operation.get_asm(enable_debug_info=True))
        passmanager.PassManager.parse("builtin.module(strip-debuginfo)").run(module.operation)
        return mlir.module_to_string(module)


# The composite operations that the oldest JAX we support knows.
_KNOWN_COMPOSITES = frozenset({"chlo.erf", "chlo.top_k"})


def _call_new_composites(module: ir.Module) -> None:
    """Call the function that defines an operation, where older readers lack the operation.

    A composite names an operation and a function that computes the same. Readers of JAX 0.10 fall
    back on the function where they do not know the operation, but not for named axes: their sizes
    are refined everywhere but there.
    """
    found = []

    def visit(operation: ir.Operation) -> ir.WalkResult:
        is_composite = operation.name == "stablehlo.composite"
        if is_composite and _text(operation, "name") not in _KNOWN_COMPOSITES:
            found.append(operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    for operation in found:
        with ir.InsertionPoint(operation), operation.location:
            results = [result.type for result in operation.results]
            definition = ir.FlatSymbolRefAttr(operation.attributes["decomposition"])
            call = func.CallOp(results, definition, list(operation.operands))
        for old, new in zip(operation.results, call.results, strict=True):
            old.replace_all_uses_with(new)
        operation.erase()


def joined_text(texts: Sequence[str]) -> str:
    """One module that runs the first of these on the first platform, and so on.

    JAX lowers every branch of `jax.lax.platform_dependent` for every platform of a module, so that
    a kernel with one platform stands in the way of the others. Modules lowered for a platform each
    do not, and their main functions take and return the same.
    """
    with mlir.make_ir_context() as context, ir.Location.unknown(context):
        modules = [ir.Module.parse(text) for text in texts]
        for number, module in enumerate(modules):
            _rename_symbols(module, f"_{number}")
        whole, *others = modules
        for other in others:
            for operation in list(other.body.operations):
                operation.operation.detach_from_parent()
                whole.body.append(operation)
        _add_dispatch(whole, [f"main_{number}" for number in range(len(texts))])
        return mlir.module_to_string(whole)


def _rename_symbols(module: ir.Module, suffix: str) -> None:
    table = ir.SymbolTable(module.operation)
    for operation in module.body.operations:
        name = _text(operation.operation, "sym_name")
        ir.SymbolTable.replace_all_symbol_uses(name, name + suffix, module.operation)
        table.set_symbol_name(operation, name + suffix)
        if _is_function(operation):
            operation.attributes["sym_visibility"] = ir.StringAttr.get("private")


def _add_dispatch(module: ir.Module, names: Sequence[str]) -> None:
    """A main function that takes the number of the platform first and calls one of the others."""
    first = ir.SymbolTable(module.operation)[names[0]]
    kind = ir.FunctionType(ir.TypeAttr(first.attributes["function_type"]).value)
    with ir.InsertionPoint.at_block_begin(module.body):
        number = ir.RankedTensorType.get([], ir.IntegerType.get_signless(32))
        main: Any = func.FuncOp("main", ([number, *kind.inputs], kind.results))
        main.attributes["sym_visibility"] = ir.StringAttr.get("public")
        told: dict[str, ir.Attribute] = {
            "jax.global_constant": ir.StringAttr.get("_platform_index")
        }
        given = first.attributes.get("arg_attrs", None)
        rest = list(ir.ArrayAttr(given)) if given else [ir.DictAttr.get({})] * len(kind.inputs)
        main.attributes["arg_attrs"] = ir.ArrayAttr.get([ir.DictAttr.get(told), *rest])
    block = main.add_entry_block()
    with ir.InsertionPoint(block):
        index, *arguments = block.arguments
        case = stablehlo.CaseOp(kind.results, index=index, num_branches=len(names))
        for region, name in zip(case.regions, names, strict=True):
            with ir.InsertionPoint(region.blocks.append()):
                called = ir.FlatSymbolRefAttr.get(name)
                stablehlo.return_(list(func.CallOp(kind.results, called, arguments).results))
        func.ReturnOp(list(case.results))


def _text(operation: ir.Operation, attribute: str) -> str:
    return str(ir.StringAttr(operation.attributes[attribute]).value)


# The composite that stands for a sharding constraint. Its decomposition gives what it takes, so a
# reader that does not know it computes the same. Its attribute `spec` is JSON: for each axis of the
# array the names of the mesh axes that split it, or null for an axis that is left to the compiler.
CONSTRAINT = "exporter.sharding_constraint"

Spec = list[list[str] | None]


def _forget_meshes(module: ir.Module) -> None:
    """Turn the sharding constraints of a module into composites, which name axes and no sizes.

    A module that computes on the shard of each device (`jax.shard_map`) keeps its mesh: it is a
    program for that many devices.
    """
    found = _by_name(module, "sdy.manual_computation", "sdy.sharding_constraint", "sdy.mesh")
    if found["sdy.manual_computation"]:
        return
    # With explicit axes JAX constrains every array to what its type says. The types of arrays that
    # nobody splits say that they are whole, which the user did not ask for.
    has_typed = _forget_types(module)
    for operation in found["sdy.sharding_constraint"]:
        value = operation.operands[0]
        spec = _spec_of(sdy.TensorShardingAttr(operation.attributes["sharding"]))
        if spec is not None and (any(spec) or not has_typed):
            value = _marked(module, operation, json.dumps(spec, separators=(",", ":")))
        operation.results[0].replace_all_uses_with(value)
        operation.erase()
    for operation in found["sdy.mesh"]:
        operation.erase()
    count = ir.IntegerAttr.get(ir.IntegerType.get_signless(32, module.context), 1)
    module.operation.attributes["mhlo.num_partitions"] = count


def _forget_types(module: ir.Module) -> bool:
    """Drop what the types of arguments and results say of shardings; whether there was any."""
    found = False
    for function in _by_name(module, "func.func")["func.func"]:
        for field in ("arg_attrs", "res_attrs"):
            if field in function.attributes:
                kept = []
                for one in map(ir.DictAttr, ir.ArrayAttr(function.attributes[field])):
                    names = [one[position].name for position in range(len(one))]
                    found = found or "sdy.sharding" in names
                    rest = {name: one[name] for name in names if name != "sdy.sharding"}
                    kept.append(ir.DictAttr.get(rest, module.context))
                function.attributes[field] = ir.ArrayAttr.get(kept, module.context)
    return found


def _spec_of(sharding: sdy.TensorShardingAttr) -> Spec | None:
    """The names of the mesh axes of each axis, or `None` if an axis is split over part of one."""
    spec: Spec = []
    for dimension in map(sdy.DimensionShardingAttr, sharding.dimension_shardings):
        axes = list(map(sdy.AxisRefAttr, dimension.axes))
        if any(axis.sub_axis_info is not None for axis in axes):
            return None
        names = [str(axis.name) for axis in axes]
        spec.append(names if dimension.is_closed else None)
    return spec


def _marked(module: ir.Module, operation: ir.Operation, spec: str) -> ir.OpResult[Any]:
    """The result of a composite that stands in front of an operation."""
    kind = operation.operands[0].type
    with module.context:
        function = ir.Operation.parse(
            f"func.func private @unconstrained(%0: {kind}) -> {kind} {{ return %0 : {kind} }}"
        )
    symbols = ir.SymbolTable(module.operation)
    module.body.append(function)
    name = symbols.insert(function)  # one of its own
    with operation.location, ir.InsertionPoint(operation):
        composite = ir.Operation.create(
            "stablehlo.composite",
            results=[kind],
            operands=[operation.operands[0]],
            attributes={
                "name": ir.StringAttr.get(CONSTRAINT),
                "composite_attributes": ir.DictAttr.get({"spec": ir.StringAttr.get(spec)}),
                "decomposition": ir.FlatSymbolRefAttr.get(ir.StringAttr(name).value),
            },
        )
    return composite.result


def _constraints(module: ir.Module) -> list[tuple[ir.Operation, Spec]]:
    """The composites of a module that stand for sharding constraints.

    Raises:
      ValueError: if one says something else.
    """
    return [
        (operation, _spec_in(operation))
        for operation in _by_name(module, "stablehlo.composite")["stablehlo.composite"]
        if _text(operation, "name") == CONSTRAINT
    ]


def _spec_in(operation: ir.Operation) -> Spec:
    """What a composite says, which may have been written by anybody."""
    arrays = [*[*operation.operands][-1:], *operation.results]
    kinds = [ir.RankedTensorType(array.type) for array in arrays]
    try:
        attributes = ir.DictAttr(operation.attributes["composite_attributes"])
        spec = json.loads(str(ir.StringAttr(attributes["spec"]).value))
    except (LookupError, ValueError, RecursionError) as error:
        raise ValueError("it has a sharding constraint without a spec.") from error
    parts = spec if isinstance(spec, list) else [spec]
    names = [name for part in parts for name in (part if isinstance(part, list) else ())]
    sound = (
        all(part is None or isinstance(part, list) for part in parts)
        and all(isinstance(name, str) and name for name in names)
        and len(set(map(str, names))) == len(names)
        and len(kinds) == 2
        and kinds[0] == kinds[1]
        and kinds[0].rank == len(parts)
    )
    if not sound:
        raise ValueError("it has a sharding constraint that does not fit its array.")
    return parts


def _constrained(bytecode: bytes, mesh: Mapping[str, int]) -> bytes:
    """A program whose sharding constraints hold on a mesh, those that name other axes left out."""
    with mlir.make_ir_context():
        module = _jax.mlir.deserialize_portable_artifact(bytecode)
        axes = [sdy.MeshAxisAttr.get(name, size) for name, size in mesh.items()]
        inlined = sdy.MeshAttr.get(axes)
        for operation, spec in _constraints(module):
            value = operation.operands[len(operation.operands) - 1]
            if mesh and {name for part in spec for name in part or ()} <= mesh.keys():
                parts = [
                    sdy.DimensionShardingAttr.get(
                        [sdy.AxisRefAttr.get(name) for name in part or ()], part is not None
                    )
                    for part in spec
                ]
                sharding = sdy.TensorShardingAttr.get(inlined, parts)
                with ir.InsertionPoint(operation), operation.location:
                    value = sdy.ShardingConstraintOp(value, sharding).result
            operation.results[0].replace_all_uses_with(value)
            operation.erase()
        return portable_bytecode(mlir.module_to_string(module), newest_stablehlo())


def _mesh_of(module: ir.Module) -> tuple[tuple[str, int], ...]:
    """The axes, with their sizes, of the mesh that a module computes on shard by shard, if any.

    Raises:
      ValueError: if there is more than one.
    """
    found = _by_name(module, "sdy.manual_computation", "sdy.mesh")
    if not found["sdy.manual_computation"]:
        return ()
    meshes = {
        tuple((str(axis.name), int(axis.size)) for axis in map(sdy.MeshAxisAttr, mesh.axes))
        for mesh in (sdy.MeshAttr(one.attributes["mesh"]) for one in found["sdy.mesh"])
    }
    if len(meshes) != 1:
        shown = " and ".join(sorted(shown_mesh(dict(mesh)) for mesh in meshes))
        raise ValueError(f"it computes shard by shard on more than one mesh: {shown}.")
    return meshes.pop()


def shown_mesh(mesh: Mapping[str, int]) -> str:
    """A mesh for messages: `x=4, y=2`."""
    return ", ".join(f"{name}={size}" for name, size in mesh.items())


def _by_name(module: ir.Module, *names: str) -> dict[str, list[ir.Operation]]:
    """The operations of a module that have one of the names, in order."""
    found: dict[str, list[ir.Operation]] = {name: [] for name in names}

    def visit(operation: ir.Operation) -> ir.WalkResult:
        if operation.name in found:
            found[operation.name].append(operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return found


# With these bytes MLIR bytecode begins.
_BYTECODE = b"ML\xefR"


@dataclass(frozen=True)
class ProgramFacts:
    """What a program says of itself.

    Attributes:
      custom_calls: the native functions that it calls by name, sorted.
      takes: the types of what its main function takes, as `tensor_types` writes them.
      gives: the types of what its main function returns.
      mesh_axes: the mesh axes that its sharding constraints name, sorted.
      mesh: the axes, with their sizes, of the mesh that it computes on shard by shard, if any.
    """

    custom_calls: tuple[str, ...]
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    mesh_axes: tuple[str, ...]
    mesh: tuple[tuple[str, int], ...]


# The dialects of a portable program. The operations of any other could do anything.
_DIALECTS = frozenset({"builtin", "func", "stablehlo", "sdy"})


def program_facts(bytecode: bytes) -> ProgramFacts:
    """What a program calls, takes and gives, found by walking all of its operations.

    Raises:
      ValueError: if the bytes are not a portable program that this JAX can read.
    """
    if not bytecode.startswith(_BYTECODE):
        raise ValueError("it is not MLIR bytecode.")
    calls: set[str] = set()
    foreign: set[str] = set()

    def visit(operation: ir.Operation) -> ir.WalkResult:
        if operation.name.partition(".")[0] not in _DIALECTS:
            foreign.add(operation.name)
        if operation.name == "stablehlo.custom_call":
            calls.add(_text(operation, "call_target_name"))
        return ir.WalkResult.ADVANCE

    with mlir.make_ir_context():
        try:
            module = _jax.mlir.deserialize_portable_artifact(bytecode)
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            raise ValueError(str(error).splitlines()[0]) from error
        module.operation.walk(visit)
        if foreign:
            names = ", ".join(map(repr, sorted(foreign)))
            raise ValueError(f"it has operations that are not StableHLO: {names}.")
        functions = [one for one in module.operation.regions[0].blocks[0] if _is_function(one)]
        mains = [one for one in functions if _text(one.operation, "sym_name") == "main"]
        if len(mains) != 1:
            raise ValueError(f"it has {len(mains)} main functions.")
        kind = ir.FunctionType(ir.TypeAttr(mains[0].attributes["function_type"]).value)
        named = (part or () for _, spec in _constraints(module) for part in spec)
        return ProgramFacts(
            tuple(sorted(calls)),
            tuple(map(str, kind.inputs)),
            tuple(map(str, kind.results)),
            tuple(sorted({name for names in named for name in names})),
            _mesh_of(module),
        )


def _is_function(operation: ir.OpView) -> bool:
    return str(operation.operation.name) == "func.func"


def tensor_types(specs: Iterable[TensorSpec]) -> tuple[str, ...]:
    """The types of arrays of a program as MLIR writes them: `tensor<?x3xf32>`."""
    with mlir.make_ir_context() as context, ir.Location.unknown(context):
        return tuple(map(_tensor_type, specs))


def _tensor_type(spec: TensorSpec) -> str:
    key = spec.dtype if isinstance(spec.dtype, KeyType) else None
    dtype = np.dtype(np.uint32) if isinstance(spec.dtype, KeyType) else spec.dtype
    axes = (*(spec.shape or ()), *((key.words,) if key else ()))
    free = ir.ShapedType.get_dynamic_size()
    sizes = [axis if isinstance(axis, int) else free for axis in axes]
    return str(ir.RankedTensorType.get(sizes, mlir.dtype_to_ir_type(dtype)))


def is_of_this_trace(array: object) -> bool:
    """Whether an array has a value, or is traced by what is being traced now and nothing inside."""
    return not isinstance(array, jax.core.Tracer) or array._trace is core.trace_ctx.trace


def is_mapped(array: object) -> bool:
    """Whether an array stands for one element of those that `jax.vmap` maps over."""
    return isinstance(array, batching.BatchTracer)


def user_lines(equation: jax.extend.core.JaxprEqn) -> tuple[str | None, str | None]:
    """The file and line that an equation came from: in the user's own code, and in any but JAX."""
    frames = list(source_info_util.user_frames(equation.source_info.traceback))
    own = [frame for frame in frames if is_users(frame.file_name)]
    return _line_of(own), _line_of(frames)


def _line_of(frames: Sequence[source_info_util.Frame]) -> str | None:
    return f"{frames[0].file_name}:{frames[0].start_line}" if frames else None


def passes_through(equation: jax.extend.core.JaxprEqn, package: str) -> bool:
    """Whether an equation was made by the code of an installed package."""
    frames = source_info_util.user_frames(equation.source_info.traceback)
    return any(package in Path(frame.file_name).parts for frame in frames)


# Python makes the `__eq__` of a dataclass, in no file.
_MADE_EQUALITY = ("<string>", "__eq__")


def _asking(frame: FrameType) -> str:
    """The file of the code that asks whether things are equal, by whatever `__eq__`."""
    while frame.f_back and (frame.f_code.co_filename, frame.f_code.co_name) == _MADE_EQUALITY:
        frame = frame.f_back
    return frame.f_code.co_filename


def is_users(file: str) -> bool:
    """Whether a file of code is the user's own: not of Python, of an installed package or ours."""
    return not file.startswith(_INSTALLED)


@contextmanager
def decided_comparisons() -> Iterator[None]:
    """Within the block, the user's code that asks whether two sizes are equal is told the truth.

    JAX answers "no" where it cannot know, and the program then is wrong for the sizes that are
    equal: `if x.shape[0] == 1` takes the other branch for every batch. Here that is an error. JAX's
    own code and that of installed libraries relies on the "no" and keeps it.

    Raises:
      InconclusiveSizesError: in the user's code, at the comparison.
    """
    kind: Any = type(export.symbolic_shape("a")[0])
    equal = kind.__eq__

    def decided(self: object, other: object) -> bool:
        answer = bool(equal(self, other))
        if not answer and isinstance(other, int | kind) and is_users(_asking(sys._getframe(1))):
            _refuse_if_unknown(self, other)
        return answer

    kind.__eq__ = decided
    try:
        yield
    finally:
        kind.__eq__ = equal


def _refuse_if_unknown(one: Any, other: Any) -> None:
    try:
        differ = bool(one > other) or bool(one < other)
    except jax.errors.InconclusiveDimensionOperation:
        differ = False
    if not differ:
        name = str(one)
        shown = "of an axis given as None" if name.startswith("_") else name
        raise InconclusiveSizesError(
            f"the function asks whether the size {shown} equals {other}, which depends on the "
            "call: the program would be wrong for one of the answers. Give the axis a fixed size "
            f"or a bound that decides it, such as Dim({name.lstrip('_0123456789') or 'n'!r}, "
            "min=2), or do without the question."
        )


def symbolic_scope(dims: Sequence[Dim]) -> export.SymbolicScope:
    """A scope in which each dimension has its bounds. JAX has no size 0: the least is 1."""
    constraints = []
    for dim in dims:
        constraints.append(f"{dim.name} >= {max(dim.min or 1, 1)}")
        if dim.max is not None:
            constraints.append(f"{dim.name} <= {dim.max}")
        if dim.multiple_of is not None and dim.multiple_of > 1:
            constraints.append(f"mod({dim.name}, {dim.multiple_of}) == 0")
    return export.SymbolicScope(constraints)


def symbolic_struct(spec: TensorSpec, scope: export.SymbolicScope) -> jax.ShapeDtypeStruct:
    """The plain array that carries an array of this spec, its named axes symbolic."""
    assert spec.shape is not None
    axes = tuple(_symbol(axis, scope) for axis in spec.shape)
    if isinstance(spec.dtype, KeyType):
        return jax.ShapeDtypeStruct(storage_shape(axes, spec.dtype), jnp.uint32)
    return jax.ShapeDtypeStruct(axes, spec.dtype)


def _symbol(axis: int | str | None, scope: export.SymbolicScope) -> int:
    if isinstance(axis, int):
        return axis
    assert axis is not None
    return export.symbolic_shape(axis, scope=scope)[0]  # type: ignore[return-value]  # as an int


def rebuild(
    name: str,
    bytecode: bytes,
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    dims: Sequence[Dim],
    platforms: Sequence[str],
    calling_convention_version: int,
    kept_inputs: Sequence[int],
    uses_global_constants: bool,
    mesh: Mapping[str, int] | None = None,
    pinned_mesh: Mapping[str, int] | None = None,
) -> Callable[..., Sequence[jax.Array]]:
    """A callable that takes and returns flat arrays, from bytecode of any JAX.

    A stub with the same inputs and outputs is exported by the running JAX, and its module is
    exchanged for the stored one. So only the fields below have to stay, not the constructor of
    `Exported`, which changes between releases.

    Its sharding constraints hold on `mesh`, the axes of the mesh it is to run on with their sizes;
    without one they are dropped. `pinned_mesh` is the mesh that it was exported for, if it computes
    shard by shard.
    """
    if CONSTRAINT.encode() in bytecode:  # the text of attributes stands in the bytecode as it is
        bytecode = _constrained(bytecode, mesh or {})
    scope = symbolic_scope(dims)
    structs = [symbolic_struct(spec, scope) for spec in inputs]
    results = [symbolic_struct(spec, scope) for spec in outputs]

    def stub(*_: jax.Array) -> list[jax.Array]:
        return [jnp.zeros(result.shape, result.dtype) for result in results]

    exported = export.export(jax.jit(stub, keep_unused=True), platforms=["cpu"])(*structs)
    return dataclasses.replace(
        exported,
        _get_vjp=None,  # derivatives are programs of their own, see runtime/transformations.py
        fun_name=name,
        platforms=tuple(platforms),
        mlir_module_serialized=bytecode,
        calling_convention_version=calling_convention_version,
        module_kept_var_idx=tuple(kept_inputs),
        uses_global_constants=uses_global_constants,
        nr_devices=math.prod((pinned_mesh or {}).values()),
    ).call


def weakly_typed(array: jax.Array) -> jax.Array:
    """The array, giving way to the dtype of others as a Python number does."""
    weak: jax.Array = lax._convert_element_type(array, weak_type=True)
    return weak
