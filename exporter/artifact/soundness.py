"""Whether a manifest can be true: what its types alone do not say.

JSON that has every field of the right type may still point at nothing, contradict itself, or ask
for more memory than there is. What passes here can be turned into specs, structures and objects
without another check. `FORMAT.md` states each of these rules for other readers.
"""

import keyword
import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from exporter.artifact.batching import check_batching
from exporter.artifact.derivatives import check_derivatives, check_rows
from exporter.artifact.encoding import (
    array_of,
    dim_of,
    metadata_of,
    parameters_of,
    scalar_of,
    scalar_record,
    spec_of,
)
from exporter.artifact.layout import ASSETS, SAMPLES, VARIABLES
from exporter.artifact.records import (
    AS_BYTES,
    ArrayPart,
    ConcreteRecord,
    ConstantPart,
    DictPart,
    DimRecord,
    FunctionRecord,
    Manifest,
    NodeRecord,
    ParameterRecord,
    Part,
    PlainTensorRecord,
    ProgramRecord,
    SampleArrayRecord,
    ScalarRecord,
    SequencePart,
    StaticPart,
    TensorRecord,
    VariableRecord,
)
from exporter.artifact.samples import size_of
from exporter.artifact.stages import check_stages
from signatures.arguments import python_signature
from signatures.dtypes import KeyType, as_dtype

T = TypeVar("T")

_WIDE = frozenset({"int64", "uint64", "float64", "complex128"})

# A part of a variable's key: names of folders, without dots.
_PART = re.compile(r"[^./]+(/[^./]+)*", re.DOTALL)

# NumPy has no arrays of more axes.
_MAX_AXES = 64

# Zstandard, with which checkpoints are compressed, makes a block of 128 KiB of zeros four bytes,
# and 400 MB of zeros were written as 14 kB. So every honest checkpoint is far below this ratio.
_MAX_COMPRESSION = 2**16

# How deep tuples may stand in tuples, and parts in parts. Python's own recursion limit keeps
# models far below.
_MAX_DEPTH = 200

_TUPLES = ("tuple", "namedtuple")


def check(manifest: Manifest) -> None:
    """Refuse a manifest that points at nothing or contradicts itself.

    Raises:
      ValueError: saying where and why.
    """
    _check_programs(manifest)
    _check_variables(manifest)
    for position, concrete in enumerate(manifest.concrete_functions):
        _check_concrete(f"concrete_functions[{position}]", concrete, manifest.programs)
    for position, function in enumerate(manifest.functions):
        _check_function(f"functions[{position}]", function, manifest.concrete_functions)
    _check_indices("signatures", manifest.signatures.values(), len(manifest.concrete_functions))
    _check_indices("function_aliases", manifest.function_aliases.values(), len(manifest.functions))
    _check_nodes(manifest)
    _check_samples(manifest)
    _check_labels(manifest)
    check_stages(manifest)
    _made("batching", lambda: check_batching(manifest))
    _require(_is_unique(file.path for file in manifest.files), "files lists a path twice.")


def _require(holds: object, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _made(where: str, make: Callable[[], T]) -> T:
    """What `make` gives. If it cannot, the error says where."""
    try:
        return make()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{where}: {error}") from error


def _check_indices(where: str, indices: Iterable[int], count: int) -> None:
    for index in indices:
        _require(0 <= index < count, f"{where} refers to {index}, but there are {count}.")


def _is_unique(values: Iterable[object]) -> bool:
    found = list(values)
    return len(set(found)) == len(found)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _check_programs(manifest: Manifest) -> None:
    files = {file.path for file in manifest.files}
    newest = _numbers(manifest.stablehlo_version)
    for position, program in enumerate(manifest.programs):
        where = f"programs[{position}]"
        _require(
            program.file in files,
            f"{where}.file is {program.file!r}, which is not listed in files.",
        )
        _require(
            _numbers(program.stablehlo_version) <= newest,
            f"{where} needs StableHLO {program.stablehlo_version}, and the artifact says "
            f"{manifest.stablehlo_version}.",
        )
        _require(
            set(manifest.platforms) <= set(program.platforms),
            f"{where} does not run on all of {', '.join(manifest.platforms)}.",
        )
        _check_indices(where, (*program.variables, *program.updates), len(manifest.variables))
        _check_arguments(where, program)
        _check_mesh(where, program)
        _check_wide(where, (*program.inputs, *program.outputs), manifest)
        check_rows(where, program)
    check_derivatives(manifest)


def _check_arguments(where: str, program: ProgramRecord) -> None:
    for field, numbers in (("variables", program.variables), ("updates", program.updates)):
        _require(_is_unique(numbers), f"{where}.{field} names a variable twice.")
    count = len(program.variables) + len(program.inputs)
    _check_indices(f"{where}.kept_inputs", program.kept_inputs, count)
    _require(
        program.kept_inputs == sorted(set(program.kept_inputs)),
        f"{where}.kept_inputs is not in ascending order.",
    )
    _check_dims(where, program.dims)
    known = {dim.name for dim in program.dims}
    for tensor in (*program.inputs, *program.outputs):
        _check_shape(where, tensor)
        for name in _made(where, partial(spec_of, tensor)).names:
            _require(name in known, f"{where}.dims does not have {name!r}.")


def _check_mesh(where: str, program: ProgramRecord) -> None:
    axes = [axis.name for axis in program.mesh]
    _require(_is_unique(axes) and all(axes), f"{where}.mesh has an axis twice, or without a name.")
    named = program.mesh_axes
    sound = named == sorted(set(named)) and all(named)
    _require(sound, f"{where}.mesh_axes is {named!r}, which are no names in ascending order.")


def _check_dims(where: str, dims: Sequence[DimRecord]) -> None:
    for dim in dims:
        _made(f"{where}.dims", partial(dim_of, dim))
    _require(_is_unique(dim.name for dim in dims), f"{where}.dims has a name twice.")


def _check_shape(where: str, tensor: TensorRecord | PlainTensorRecord | VariableRecord) -> None:
    shape = tensor.shape or []
    _require(len(shape) <= _MAX_AXES, f"{where} has an array of {len(shape)} axes.")


def _check_wide(
    where: str,
    arrays: Iterable[TensorRecord | PlainTensorRecord | VariableRecord],
    manifest: Manifest,
) -> None:
    for array in arrays:
        narrow = manifest.x64 or array.dtype not in _WIDE
        _require(narrow, f"{where} has an array of {array.dtype}, and x64 is false.")


def _check_variables(manifest: Manifest) -> None:
    total = 0
    for position, variable in enumerate(manifest.variables):
        where = f"variables[{position}]"
        _check_shape(where, variable)
        for scalar in variable.path:
            _check_scalar(f"{where}.path", scalar)
        _require(
            variable.key and all(map(_PART.fullmatch, variable.key)),
            f"{where}.key is {variable.key!r}, which is no path in a checkpoint.",
        )
        _check_wide(where, [variable], manifest)
        _check_spec(where, variable)
        total += _bytes_on_disk(where, variable)
    keys = [tuple(variable.key) for variable in manifest.variables]
    _require(_is_unique(keys), "two variables have the same key.")
    inner = {key[:length] for key in keys for length in range(1, len(key))}
    for key in keys:
        _require(key not in inner, f"the key {list(key)!r} is also the beginning of another.")
    stored = sum(f.size for f in manifest.files if f.path.startswith(f"{VARIABLES}/"))
    _require(stored or not total, f"files lists none in {VARIABLES}/, and there are variables.")
    _require(
        total <= stored * _MAX_COMPRESSION,
        f"the variables take {total:,} bytes, and the files in {VARIABLES}/ have {stored:,}: no "
        "compression does that.",
    )


def _check_spec(where: str, variable: VariableRecord) -> None:
    spec = variable.partition_spec or []
    _require(
        len(spec) <= len(variable.shape),
        f"{where}.partition_spec has {len(spec)} axes, and the array {len(variable.shape)}.",
    )
    named = [name for part in spec for name in ([part] if isinstance(part, str) else part or ())]
    _require(
        _is_unique(named) and all(named),
        f"{where}.partition_spec names a mesh axis twice, or one without a name.",
    )


def _bytes_on_disk(where: str, variable: VariableRecord) -> int:
    """How many bytes the checkpoint must hold for a variable, before compression."""
    dtype = _made(where, partial(as_dtype, variable.dtype))
    held = "bytes" if variable.dtype in AS_BYTES else "array"
    _require(
        variable.storage == ("empty" if 0 in variable.shape else held),
        f"{where} is {variable.dtype}{variable.shape} and cannot be stored as {variable.storage}.",
    )
    width = 4 * dtype.words if isinstance(dtype, KeyType) else dtype.itemsize
    return math.prod(variable.shape) * width


def _check_concrete(
    where: str, concrete: ConcreteRecord, programs: Sequence[ProgramRecord]
) -> None:
    _check_indices(f"{where}.programs", concrete.programs, len(programs))
    for field, tensors in (("inputs", concrete.inputs), ("outputs", concrete.outputs)):
        names = [tensor.name for tensor in tensors]
        _require(_is_unique(names), f"{where}.{field} has a name twice.")
        for tensor in tensors:
            _check_tensor(f"{where}.{field}", tensor)
    _check_parts(f"{where}.arguments", concrete.arguments.values(), len(concrete.inputs))
    _check_parts(f"{where}.result", [concrete.result], len(concrete.outputs))
    ranks = [tuple(programs[index].ranks) for index in concrete.programs]
    _require(_is_unique(ranks), f"{where} has two programs for the same numbers of axes.")
    for index in concrete.programs:
        _check_fit(f"{where} and programs[{index}]", concrete, programs[index])


def _check_tensor(where: str, tensor: TensorRecord) -> None:
    _check_shape(where, tensor)
    _check_dims(where, tensor.dims)
    _made(where, partial(spec_of, tensor))
    if tensor.default is not None:
        default = _made(where, partial(array_of, tensor.default))
        _require(
            tensor.default.dtype == tensor.dtype
            and (tensor.shape is None or default.ndim == len(tensor.shape)),
            f"{where} has a default for {tensor.name!r} that does not fit it.",
        )


def _check_fit(where: str, concrete: ConcreteRecord, program: ProgramRecord) -> None:
    """A concrete function and its program agree on the number, dtype and axes of arrays."""
    pairs = [(concrete.inputs, program.inputs), (concrete.outputs, program.outputs)]
    for named, plain in pairs:
        _require(len(named) == len(plain), f"{where} differ in their numbers of arrays.")
        for one, other in zip(named, plain, strict=True):
            fits = one.dtype == other.dtype and _same_axes(one.shape, other.shape)
            _require(fits, f"{where} differ in {one.name!r}.")
    free = [
        len(plain.shape)
        for named, plain in zip(concrete.inputs, program.inputs, strict=True)
        if named.shape is None
    ]
    _require(program.ranks == free, f"{where} differ in their numbers of axes.")


def _same_axes(public: Sequence[object] | None, plain: Sequence[object]) -> bool:
    if public is None:
        return True
    return len(public) == len(plain) and all(
        one == other for one, other in zip(public, plain, strict=True) if isinstance(one, int)
    )


def _check_function(
    where: str, function: FunctionRecord, concrete: Sequence[ConcreteRecord]
) -> None:
    _check_indices(f"{where}.concrete", function.concrete, len(concrete))
    for parameter in function.parameters:
        named = parameter.name.isidentifier()
        _require(named, f"{where} has a parameter {parameter.name!r}, which is no name.")
        _check_parameter(f"{where}.parameters", parameter)
    parameters = parameters_of(function.parameters)
    _made(f"{where}.parameters", partial(python_signature, parameters))
    names = {parameter.name for parameter in function.parameters}
    single = len(function.concrete) == 1
    _require(single or not function.by_input, f"{where} is called by the inputs of several.")
    for index in function.concrete:
        _require(
            set(concrete[index].arguments) == names,
            f"{where} and concrete_functions[{index}] differ in their parameters.",
        )


def _check_parameter(where: str, parameter: ParameterRecord) -> None:
    for array in parameter.default_arrays:
        _made(where, partial(array_of, array))
    if parameter.default is not None:
        _check_parts(where, [parameter.default], len(parameter.default_arrays))


def _check_parts(where: str, parts: Iterable[Part], count: int) -> None:
    """Parts are well-formed and every array of `count` stands in them exactly once."""
    found: list[int] = []
    for part in parts:
        _check_part(where, part, found, 0)
    _require(
        sorted(found) == list(range(count)),
        f"{where} refers to the arrays {sorted(found)}, and should once to each of {count}.",
    )


def _check_part(where: str, part: Part, found: list[int], depth: int) -> None:
    _require(depth < _MAX_DEPTH, f"{where} is more than {_MAX_DEPTH} deep.")
    match part:
        case ArrayPart(index=index):
            found.append(index)
            return
        case StaticPart(value=value):
            _check_scalar(where, value)
            return
        case ConstantPart(array=array):
            _made(where, partial(array_of, array))
            return
        case SequencePart(type=kind, items=items, fields=fields):
            if fields:
                _check_record(where, kind, fields, len(items))
            else:
                _require(kind in ("list", "tuple"), f"{where} has a sequence of type {kind!r}.")
        case DictPart(keys=keys, items=items):
            _check_keys(where, keys, len(items))
    for item in items:
        _check_part(where, item, found, depth + 1)


def _check_record(where: str, kind: str, fields: Sequence[str], count: int) -> None:
    """What Python allows as a namedtuple."""
    sound = all(n.isidentifier() and not keyword.iskeyword(n) for n in (kind, *fields))
    # Python renames fields that cannot be to their position, if it is asked to.
    renamed = [f"_{position}" for position in range(len(fields))]
    hidden = {field for field in fields if field.startswith("_")}
    _require(
        sound and _is_unique(fields) and len(fields) == count and hidden <= set(renamed),
        f"{where} has a namedtuple {kind!r} that cannot be.",
    )


def _check_keys(where: str, keys: Sequence[ScalarRecord], count: int) -> None:
    _require(len(keys) == count, f"{where} has {len(keys)} keys for {count} items.")
    for key in keys:
        _check_scalar(where, key)
        _require(key.type != "opaque", f"{where} has a key of a type that cannot be kept.")
    _require(_is_unique(map(scalar_of, keys)), f"{where} has a key twice.")


def _check_scalar(where: str, record: ScalarRecord) -> None:
    value = _made(where, partial(scalar_of, record))
    again = scalar_record(value, opaque=record.type == "opaque")
    _require(again == record, f"{where} has {record.text!r} for a {record.type}.")


def _check_nodes(manifest: Manifest) -> None:
    nodes = manifest.nodes
    _require(nodes and nodes[0].kind == "object", "nodes does not begin with an object.")
    depths = [0] * len(nodes)
    for position, node in reversed(list(enumerate(nodes))):
        where = f"nodes[{position}]"
        _check_indices(where, node.children, len(nodes))
        named = list((node.signatures or {}).values())
        _check_indices(f"{where}.signatures", named, len(manifest.concrete_functions))
        _check_node(where, node, manifest)
        if node.kind in _TUPLES:
            # A tuple is made after its items. So circles must go through something else, and the
            # writer, which numbers the parts of a tuple after it, has this order by itself.
            inner = [child for child in node.children if nodes[child].kind in _TUPLES]
            _require(
                all(child > position for child in inner),
                f"{where} is a tuple that holds itself or an earlier tuple.",
            )
            depths[position] = 1 + max((depths[child] for child in inner), default=0)
            _require(depths[position] < _MAX_DEPTH, f"{where} is more than {_MAX_DEPTH} deep.")


def _check_node(where: str, node: NodeRecord, manifest: Manifest) -> None:
    match node.kind:
        case "variable":
            _check_indices(where, [node.index], len(manifest.variables))
        case "function":
            _check_indices(where, [node.index], len(manifest.functions))
        case "asset":
            _check_asset(where, node, manifest)
        case "value" if node.value is not None:
            _check_scalar(where, node.value)
        case "dict":
            _check_keys(where, node.keys, len(node.children))
        case "namedtuple":
            fields = [key.text for key in node.keys]
            _check_record(where, node.name, fields, len(node.children))
        case "object":
            _check_keys(where, node.keys, len(node.children))
            for key in node.keys:
                _require(
                    key.type == "str" and (key.text == "__call__" or key.text[:2] != "__"),
                    f"{where} has the attribute {key.text!r}, which is reserved.",
                )
    for field, kinds, is_absent in (
        ("keys", ("dict", "namedtuple", "object"), not node.keys),
        ("a path", ("asset",), node.path is None),
        ("signatures", ("object",), node.signatures is None),
    ):
        _require(node.kind in kinds or is_absent, f"{where} is a {node.kind} and has {field}.")


def _check_asset(where: str, node: NodeRecord, manifest: Manifest) -> None:
    """An asset is a file in the folder of assets, or a folder there that has files."""
    path = node.path or ""
    below = f"{path}/"
    _require(
        path.startswith(f"{ASSETS}/")
        and any(file.path == path or file.path.startswith(below) for file in manifest.files),
        f"{where} is the asset {path!r}, which files does not list in {ASSETS}/.",
    )


def _check_samples(manifest: Manifest) -> None:
    sizes = {file.path: file.size for file in manifest.files}
    for position, sample in enumerate(manifest.samples):
        where = f"samples[{position}]"
        _check_indices(where, [sample.concrete], len(manifest.concrete_functions))
        concrete = manifest.concrete_functions[sample.concrete]
        pairs = [(concrete.inputs, sample.inputs), (concrete.outputs, sample.outputs)]
        for tensors, arrays in pairs:
            _require(
                len(tensors) == len(arrays) and all(map(_is_sample_of, arrays, tensors)),
                f"{where} does not fit concrete_functions[{sample.concrete}].",
            )
        _require(
            sample.file.startswith(f"{SAMPLES}/") and sample.file in sizes,
            f"{where}.file is {sample.file!r}, which files does not list in {SAMPLES}/.",
        )
        total = sum(map(size_of, (*sample.inputs, *sample.outputs)))
        _require(
            sizes[sample.file] == total,
            f"{where} takes {total:,} bytes, and its file has {sizes[sample.file]:,}.",
        )


def _is_sample_of(array: SampleArrayRecord, tensor: TensorRecord) -> bool:
    same = array.name == tensor.name and array.dtype == tensor.dtype
    if tensor.shape is None:
        return same and len(array.shape) <= _MAX_AXES
    return same and _same_axes(tensor.shape, array.shape)


def _check_labels(manifest: Manifest) -> None:
    _require(_is_unique(manifest.tags), "tags has one twice.")
    _made("metadata", partial(metadata_of, manifest.metadata))
