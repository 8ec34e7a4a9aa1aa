"""The private parts of JAX that the project rests on, all of them here.

- `jaxlib._jax.mlir.serialize_portable_artifact` and its inverse, by way of `jax._src.lib`: JAX
  writes and reads its own exports with them. The public-looking functions of the StableHLO dialect
  fail on linear algebra, whose modules carry attributes of a dialect they do not register. When
  they go, those of the dialect will do by then.
- `jax._src.interpreters.mlir`: a context that knows every dialect a module may use.
- `jax._src.export._export`: the custom calls whose meaning JAX promises to keep. When it goes, a
  list of our own takes its place. Also what makes the bytecode of an export, exchanged to have the
  module itself, see `_modules_kept`. When it goes, the bytecode is read again.
- `jax._src.interpreters.batching`: whether a traced array is one of many under `jax.vmap`, for a
  message. When it goes, JAX's own takes its place.
- the trace that a traced array belongs to, and the one that is running: what a function leaves must
  be of the latter. When they go, functions that leave others are no longer refused by name, and an
  operation on constants tells whether JAX traces.
- `jax._src.interpreters.partial_eval`: a jaxpr becomes part of a trace as it is. When it goes, its
  equations are traced one by one, which takes a third as long as tracing the user's code did.
- `jax._src.source_info_util`: which line of the user's code an equation came from, for messages.
- the dialect of Shardy, as `jaxlib` brings it: where a program is split over devices. JAX writes
  its operations into what it exports, and nobody promises that they stay readable, so constraints
  are stored as composites of StableHLO and become Shardy's again when they are loaded.
- the equality of symbolic sizes: exchanged while a function is traced, see `decided_comparisons`.
  When it goes, so does the check.
- `jax._src.lax.lax._convert_element_type`: no public function makes a restored array weakly typed
  again. When it goes, restored arrays are as firmly typed as any other.
- the fields of `jax.export.Exported`: bytecode from another release is called by putting it into
  an export of the running one. When that ends, jaxlib calls portable artifacts itself.
"""

import dataclasses
import hashlib
import json
import math
import sys
import sysconfig
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax._src import core, source_info_util
from jax._src.export import _export
from jax._src.interpreters import batching, mlir
from jax._src.interpreters import partial_eval as pe
from jax._src.lax import lax
from jax._src.lib import _jax  # type: ignore[attr-defined]  # not meant to be exported
from jaxlib.mlir import ir, passmanager
from jaxlib.mlir.dialects import func, sdy, stablehlo

from exporter.errors import InconclusiveSizesError
from signatures.dtypes import DType, KeyType
from signatures.spec import Dim, TensorSpec, storage_shape

if TYPE_CHECKING:  # it brings more of JAX than loading a model needs: 17 ms of it
    import jax.extend.core

# The custom calls whose meaning JAX promises to keep.
STABLE_CUSTOM_CALLS = frozenset(_export._CUSTOM_CALL_TARGETS_GUARANTEED_STABLE)

# Where code lies that is not the user's own. JAX may lie elsewhere than the environment says.
_INSTALLED = (
    str(Path(jax.__file__).parents[1]),
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    str(Path(__file__).parent),
    "<frozen",
)


def newest_stablehlo() -> str:
    """The newest StableHLO version that this JAX reads and writes."""
    return str(stablehlo.get_current_version())


# A program of StableHLO in memory.
Module = ir.Module


def portable_bytecode(module: Module, target: str) -> bytes:
    """A module as portable bytecode of one StableHLO version.

    Raises:
      ValueError: if that version cannot express the program.
    """
    try:
        with module.context:
            return bytes(_jax.mlir.serialize_portable_artifact(module, target, True))
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(str(error).splitlines()[0]) from error


def exported_module(
    make: Callable[[], export.Exported], *, keep_locations: bool
) -> tuple[export.Exported, Module]:
    """What JAX exports, and its module as it is to be written: for other releases and any mesh.

    Args:
      make: makes the export, of a function that was traced already: loaded functions, which make
        exports of their own, are called while others are traced.
      keep_locations: whether each operation still says which line of which file it came from.
    """
    with _modules_kept() as kept:
        exported = make()
    module = kept[0] if kept else _read(exported.mlir_module_serialized)
    with module.context:
        is_plain = _is_plain(module)
    if not is_plain:
        # On the way to bytecode JAX says in StableHLO what other dialects mean.
        module = _read(_to_bytecode(module)) if kept else module
        with module.context:
            found = _operations(module)
            call_new_composites(found.get("stablehlo.composite", ()))
            _forget_meshes(module, found)
    if not keep_locations:
        with module.context:
            passmanager.PassManager.parse("builtin.module(strip-debuginfo)").run(module.operation)
    return exported, module


@contextmanager
def _modules_kept() -> Iterator[list[Module]]:
    """Within the block, this thread's exports have no bytecode, and their modules are in the list.

    The bytecode would be of a newer version than ours is to be. Making it and reading it again
    takes a quarter of the time of an export.
    """
    kept: list[Module] = []
    thread = threading.get_ident()

    def keep(module: Module) -> bytes:
        if threading.get_ident() != thread:
            return _to_bytecode(module)
        kept.append(module)
        return b""

    private: Any = _export
    private._module_to_bytecode = keep
    try:
        yield kept
    finally:
        private._module_to_bytecode = _to_bytecode


_to_bytecode: Callable[[Module], bytes] = _export._module_to_bytecode


def _read(bytecode: bytes) -> Module:
    with mlir.make_ir_context():
        module: Module = _jax.mlir.deserialize_portable_artifact(bytecode)
        return module


# The dialects of modules that are written as they are.
_PLAIN = frozenset({"builtin", "func", "stablehlo"})

# Operations that JAX writes as several of StableHLO, whatever the version that is asked for. The
# others of their dialect become composites, in this release or another.
_SPELLED_OUT = frozenset(
    f"chlo.{name}"
    for name in ("atan", "bessel_i1e", "digamma", "erf_inv", "lgamma", "next_after", "square")
)


def _is_plain(module: Module) -> bool:
    """Whether a module has neither operations that readers may lack, nor anything of meshes."""
    found = _operations(module).keys() - _SPELLED_OUT
    if "stablehlo.composite" in found or not _dialects(found) <= _PLAIN:
        return False
    return b"sdy" not in mlir.module_to_bytecode(module)  # names stand in bytecode as they are


def _operations(module: Module) -> dict[str, list[ir.Operation]]:
    """All operations of a module by name, in order."""
    found: dict[str, list[ir.Operation]] = {}

    def visit(operation: ir.Operation) -> ir.WalkResult:
        found.setdefault(operation.name, []).append(operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return found


def _dialects(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


# The composite operations that the oldest JAX we support knows.
_KNOWN_COMPOSITES = frozenset({"chlo.erf", "chlo.top_k"})


def call_new_composites(
    composites: Iterable[ir.Operation], known: Collection[str] = _KNOWN_COMPOSITES
) -> None:
    """Call the function that defines an operation, where readers lack the operation.

    A composite names an operation and a function that computes the same. Readers of JAX 0.10 fall
    back on the function where they do not know the operation, but not for named axes: their sizes
    are refined everywhere but there.
    """
    for operation in composites:
        if _text(operation, "name") in known:
            continue
        with ir.InsertionPoint(operation), operation.location:
            results = [result.type for result in operation.results]
            definition = ir.FlatSymbolRefAttr(operation.attributes["decomposition"])
            call = func.CallOp(results, definition, list(operation.operands))
        for old, new in zip(operation.results, call.results, strict=True):
            old.replace_all_uses_with(new)
        operation.erase()


def joined(modules: Sequence[Module]) -> Module:
    """One module that runs the first of these on the first platform, and so on.

    JAX lowers every branch of `jax.lax.platform_dependent` for every platform of a module, so that
    a kernel with one platform stands in the way of the others. Modules lowered for a platform each
    do not, and their main functions take and return the same.
    """
    with mlir.make_ir_context() as context, ir.Location.unknown(context):
        copies = [ir.Module.parse(mlir.module_to_bytecode(module)) for module in modules]
        for number, module in enumerate(copies):
            _rename_symbols(module, f"_{number}")
        whole, *others = copies
        for other in others:
            for operation in list(other.body.operations):
                operation.operation.detach_from_parent()
                whole.body.append(operation)
        _add_dispatch(whole, [f"main_{number}" for number in range(len(copies))])
        return whole


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


def _forget_meshes(module: ir.Module, found: Mapping[str, Sequence[ir.Operation]]) -> None:
    """Turn the sharding constraints of a module into composites, which name axes and no sizes.

    A module that computes on the shard of each device (`jax.shard_map`) keeps its mesh: it is a
    program for that many devices. `found` are its operations by name.
    """
    if "sdy.manual_computation" in found:
        return
    # With explicit axes JAX constrains every array to what its type says. The types of arrays that
    # nobody splits say that they are whole, which the user did not ask for.
    has_typed = _forget_types(found.get("func.func", ()))
    for operation in found.get("sdy.sharding_constraint", ()):
        value = operation.operands[0]
        spec = _spec_of(sdy.TensorShardingAttr(operation.attributes["sharding"]))
        if spec is not None and (any(spec) or not has_typed):
            value = _marked(module, operation, json.dumps(spec, separators=(",", ":")))
        operation.results[0].replace_all_uses_with(value)
        operation.erase()
    for operation in found.get("sdy.mesh", ()):
        operation.erase()
    count = ir.IntegerAttr.get(ir.IntegerType.get_signless(32, module.context), 1)
    module.operation.attributes["mhlo.num_partitions"] = count


def _forget_types(functions: Iterable[ir.Operation]) -> bool:
    """Drop what the types of arguments and results say of shardings; whether there was any."""
    found = False
    for function in functions:
        for field in ("arg_attrs", "res_attrs"):
            if field in function.attributes:
                kept = []
                for one in map(ir.DictAttr, ir.ArrayAttr(function.attributes[field])):
                    names = [one[position].name for position in range(len(one))]
                    found = found or "sdy.sharding" in names
                    rest = {name: one[name] for name in names if name != "sdy.sharding"}
                    kept.append(ir.DictAttr.get(rest, function.context))
                function.attributes[field] = ir.ArrayAttr.get(kept, function.context)
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


def _constraints(composites: Iterable[ir.Operation]) -> list[tuple[ir.Operation, Spec]]:
    """The composites that stand for sharding constraints.

    Raises:
      ValueError: if one says something else.
    """
    return [
        (operation, _spec_in(operation))
        for operation in composites
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
        composites = _operations(module).get("stablehlo.composite", ())
        for operation, spec in _constraints(composites):
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
        return portable_bytecode(module, newest_stablehlo())


def _mesh_of(declared: Iterable[ir.Operation]) -> tuple[tuple[str, int], ...]:
    """The axes, with their sizes, of the mesh that a module computes on shard by shard.

    Raises:
      ValueError: if there is more than one.
    """
    meshes = {
        tuple((str(axis.name), int(axis.size)) for axis in map(sdy.MeshAxisAttr, mesh.axes))
        for mesh in (sdy.MeshAttr(one.attributes["mesh"]) for one in declared)
    }
    if len(meshes) != 1:
        shown = " and ".join(sorted(shown_mesh(dict(mesh)) for mesh in meshes))
        raise ValueError(f"it computes shard by shard on more than one mesh: {shown}.")
    return meshes.pop()


def shown_mesh(mesh: Mapping[str, int]) -> str:
    """A mesh for messages: `x=4, y=2`."""
    return ", ".join(f"{name}={size}" for name, size in mesh.items())


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
      has_composites: whether it has operations that are also written as others.
    """

    custom_calls: tuple[str, ...]
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    mesh_axes: tuple[str, ...]
    mesh: tuple[tuple[str, int], ...]
    has_composites: bool


# The dialects of a portable program. The operations of any other could do anything.
DIALECTS = frozenset({"builtin", "func", "stablehlo", "sdy"})


def program_facts(bytecode: bytes) -> ProgramFacts:
    """What a program calls, takes and gives, found by walking all of its operations.

    Raises:
      ValueError: if the bytes are not a portable program that this JAX can read.
    """
    return ProgramReader().facts(bytecode)


class ProgramReader:
    """Reads programs that belong together in one context: to make one takes longer than most."""

    @cached_property
    def _context(self) -> ir.Context:
        return mlir.make_ir_context()

    def facts(self, bytecode: bytes) -> ProgramFacts:
        """See `program_facts`. A program that was read before is not read again."""
        key = hashlib.sha256(bytecode).digest()
        found = _known_facts.get(key)
        if found is None:
            found = self._read(bytecode)
            if len(_known_facts) >= _MAX_KNOWN:
                _known_facts.clear()
            _known_facts[key] = found
        return found

    def _read(self, bytecode: bytes) -> ProgramFacts:
        if not bytecode.startswith(_BYTECODE):
            raise ValueError("it is not MLIR bytecode.")
        with self._context:
            try:
                module = _jax.mlir.deserialize_portable_artifact(bytecode)
            except (jax.errors.JaxRuntimeError, ValueError) as error:
                raise ValueError(str(error).splitlines()[0]) from error
            return _facts(module, frozenset())


_known_facts: dict[bytes, ProgramFacts] = {}
_MAX_KNOWN = 4096


def module_facts(module: Module) -> ProgramFacts:
    """The same of a program in memory that is yet to be written.

    Raises:
      ValueError: if it is no portable program.
    """
    return _facts(module, _SPELLED_OUT)


def _facts(module: Module, others: frozenset[str]) -> ProgramFacts:
    """The facts of a module that may have some other operations than those of the dialects."""
    with module.context:
        found = _operations(module)
        names = found.keys() - others
        foreign = [name for name in names if not _dialects((name,)) <= DIALECTS]
        if foreign:
            shown = ", ".join(map(repr, sorted(foreign)))
            raise ValueError(f"it has operations that are not StableHLO: {shown}.")
        calls = {_text(call, "call_target_name") for call in found.get("stablehlo.custom_call", ())}
        functions = [one for one in module.operation.regions[0].blocks[0] if _is_function(one)]
        mains = [one for one in functions if _text(one.operation, "sym_name") == "main"]
        if len(mains) != 1:
            raise ValueError(f"it has {len(mains)} main functions.")
        kind = ir.FunctionType(ir.TypeAttr(mains[0].attributes["function_type"]).value)
        composites = found.get("stablehlo.composite", ())
        named = (part or () for _, spec in _constraints(composites) for part in spec)
        return ProgramFacts(
            tuple(sorted(calls)),
            tuple(map(str, kind.inputs)),
            tuple(map(str, kind.results)),
            tuple(sorted({name for names in named for name in names})),
            _mesh_of(found.get("sdy.mesh", ())) if "sdy.manual_computation" in found else (),
            bool(composites),
        )


def _is_function(operation: ir.OpView) -> bool:
    return str(operation.operation.name) == "func.func"


def tensor_type(shape: Sequence[int | str], dtype: DType) -> str:
    """The type of an array of a program as MLIR writes it: `tensor<?x3xf32>`."""
    parts = [str(axis) if isinstance(axis, int) else "?" for axis in shape]
    parts += [str(dtype.words), "ui32"] if isinstance(dtype, KeyType) else [_element(dtype)]
    return f"tensor<{'x'.join(parts)}>"


@cache
def _element(dtype: np.dtype[np.generic]) -> str:
    with mlir.make_ir_context() as context, ir.Location.unknown(context):
        return str(mlir.dtype_to_ir_type(dtype))


def is_tracing() -> bool:
    """Whether JAX traces: arrays made now have no values, even those of constants alone."""
    if isinstance(core.trace_ctx.trace, core.EvalTrace):
        return False  # known without an operation, which XLA would have to compile first: 25 ms
    return isinstance(jnp.zeros(()) + 0, jax.core.Tracer)


def is_of_this_trace(array: object) -> bool:
    """Whether an array has a value, or is traced by what is being traced now and nothing inside."""
    return not isinstance(array, jax.core.Tracer) or array._trace is core.trace_ctx.trace


def evaluated(
    jaxpr: "jax.extend.core.ClosedJaxpr",
    arrays: Sequence[jax.Array | None],
    *,
    keep_locations: bool = False,
) -> list[jax.Array]:
    """What a jaxpr returns. Arrays that it does not use may be `None`.

    Where JAX traces for `jax.jit` or `jax.export`, the equations are copied and not traced anew.
    They then come from the line that copies them, unless their own locations are to be kept.
    """
    trace = core.trace_ctx.trace
    if keep_locations or not isinstance(trace, pe.DynamicJaxprTrace):
        return list(jax.core.eval_jaxpr(jaxpr.jaxpr, jaxpr.consts, *arrays))
    # JAX's copying forgets that there are operations that JAX must lower to others first, such as
    # `jnp.searchsorted` in JAX 0.12.
    trace.frame.is_high |= jaxpr.jaxpr.is_high
    source = source_info_util.current()
    tracers: list[Any] = [None if a is None else trace.to_jaxpr_tracer(a, source) for a in arrays]
    return list(pe.inline_jaxpr_into_trace(trace, source, jaxpr.jaxpr, jaxpr.consts, *tracers))


def is_mapped(array: object) -> bool:
    """Whether an array stands for one element of those that `jax.vmap` maps over."""
    return isinstance(array, batching.BatchTracer)


def user_lines(equation: "jax.extend.core.JaxprEqn") -> tuple[str | None, str | None]:
    """The file and line that an equation came from: in the user's own code, and in any but JAX."""
    frames = list(source_info_util.user_frames(equation.source_info.traceback))
    own = [frame for frame in frames if is_users(frame.file_name)]
    return _line_of(own), _line_of(frames)


def _line_of(frames: Sequence[source_info_util.Frame]) -> str | None:
    return f"{frames[0].file_name}:{frames[0].start_line}" if frames else None


def passes_through(equation: "jax.extend.core.JaxprEqn", package: str) -> bool:
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
