"""A manifest arranged as callers see a loaded model, as plain data for JSON. It needs no JAX.

Signatures stand under their names, functions and variables under the attribute path at which a
loaded model has them. The manifest's own JSON is arranged for readers of the artifact instead.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np

from exporter.artifact.encoding import array_of, metadata_of, spec_of, structure_of
from exporter.artifact.records import (
    ConcreteRecord,
    FunctionRecord,
    Manifest,
    NodeRecord,
    ParameterRecord,
    Part,
    ProgramRecord,
    StageRecord,
    TensorRecord,
    VariableRecord,
)
from exporter.artifact.stages import options_of
from exporter.runtime.paths import leaf_paths
from signatures.arguments import REQUIRED, Opaque, Parameter, python_signature
from signatures.dtypes import KeyType, as_dtype
from signatures.tree import Constant, Keyed, Sequential, Static, Structure, describe

# A value that is part of a function is cut at this length: it may be a whole vocabulary.
_MAX_VALUE_LENGTH = 60


class Tensor(TypedDict):
    """The type of an array: an axis is a size, a name or an expression, or `None` for any size.

    A `shape` of `None` is any number of axes up to `max_rank`. An input with a `default` may be
    left out.
    """

    dtype: str
    shape: list[int | str | None] | None
    max_rank: NotRequired[int]
    default: NotRequired[object]


class Bounds(TypedDict):
    """The sizes that a named axis may have."""

    min: int | None
    max: int | None
    multiple_of: int | None


class Untraced(TypedDict):
    """Numbers of axes, one for each input of any rank, for which there is no program."""

    ranks: list[int]
    reason: str


class Call(TypedDict):
    """A function for one type of arguments, as a signature sees it.

    `ranks` has the numbers of axes for which there is a program, if there are inputs of any rank,
    and `changes` the paths of the variables that a call assigns. `derivatives` says how often it
    can be differentiated, `no_derivative` why not more often although that was asked for, and
    `row_wise` along which leading axis its rows are independent of each other. One that computes
    shard by shard runs on a `mesh` of these axes and sizes only.
    """

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    bounds: dict[str, Bounds]
    ranks: list[list[int]]
    untraced: list[Untraced]
    changes: list[str]
    notes: list[str]
    derivatives: int
    no_derivative: str | None
    row_wise: str | None
    mesh: NotRequired[dict[str, int]]


class StageSummary(TypedDict):
    """Work of the host before or after a signature. One that we do not know needs `since`."""

    kind: str
    version: int
    since: str
    known: bool
    files: list[str]
    options: dict[str, Any]


class Named(Call):
    """A signature, its stages, and the path of the attached function that it calls."""

    function: str | None
    stages: NotRequired[list[StageSummary]]


class Option(Call):
    """A type of arguments that a function was saved for.

    `arguments` and `returns` are Python values as text, with a type for each array. The parameters
    in `fixed` take no value but the one shown.
    """

    arguments: dict[str, str]
    fixed: list[str]
    returns: str
    signatures: list[str]
    signature_problem: str | None


class AttachedFunction(TypedDict):
    """A function at its attribute paths, the shortest first, or its name if it has none."""

    paths: list[str]
    parameters: str
    doc: str | None
    options: list[Option]


class VariableSummary(TypedDict):
    """A variable at its shortest attribute path. `key` is its path in the checkpoint.

    One that was split over a mesh when it was saved has a `partition_spec`.
    """

    path: str
    key: list[str]
    dtype: str
    shape: list[int]
    bytes: int
    trainable: bool
    collection: str
    partition_spec: NotRequired[list[str | list[str] | None]]


class Files(TypedDict):
    """How many files there are of a kind, and their size."""

    count: int
    bytes: int


class AssetSummary(TypedDict):
    """A file or folder of the model at its attribute paths, and where it is in the artifact."""

    paths: list[str]
    file: str
    bytes: int


class Summary(TypedDict):
    """What an artifact holds. `content` has the ids of the programs and of the variables.

    `function_aliases` has the path of a function by its alias, and `samples` how many there are by
    the name of the signature or the path of the function.
    """

    class_name: str
    created: str
    format_version: int
    written_by: dict[str, str]
    platforms: list[str]
    stablehlo_version: str
    x64: bool
    content: dict[str, str]
    programs: Files
    signatures: dict[str, Named]
    signature_note: str | None
    functions: list[AttachedFunction]
    variables: list[VariableSummary]
    function_aliases: dict[str, str]
    assets: list[AssetSummary]
    samples: dict[str, int]
    tags: list[str]
    metadata: dict[str, Any]


def summarise(manifest: Manifest) -> Summary:
    """What an artifact holds, for `json.dumps`. The functions nearest to the root come first."""
    functions, variables, assets = _paths(manifest.nodes)
    names = [
        functions.get(index, [function.name]) for index, function in enumerate(manifest.functions)
    ]
    places = [
        variables.get(index, ["/".join(variable.key)])[0]
        for index, variable in enumerate(manifest.variables)
    ]
    calls = [_call(manifest, concrete, places) for concrete in manifest.concrete_functions]
    sizes = {record.path: record.size for record in manifest.files}
    producer = manifest.producer
    return {
        "class_name": manifest.nodes[0].name,
        "created": manifest.created,
        "format_version": manifest.format_version,
        "written_by": {
            "jax-exporter": producer.jax_exporter,
            "jax": producer.jax,
            "jaxlib": producer.jaxlib,
            "orbax-checkpoint": producer.orbax_checkpoint,
            "Python": producer.python,
        },
        "platforms": manifest.platforms,
        "stablehlo_version": manifest.stablehlo_version,
        "x64": manifest.x64,
        "content": {
            "programs": manifest.content.programs,
            "variables": manifest.content.variables,
        },
        "programs": {
            "count": len(manifest.programs),
            "bytes": sum(sizes[program.file] for program in manifest.programs),
        },
        "signatures": {
            name: _named(manifest, name, _owner(manifest, number, names), calls[number])
            for name, number in manifest.signatures.items()
        },
        "signature_note": manifest.signature_note,
        "functions": [
            _function(manifest, manifest.functions[index], names[index], calls)
            for index in dict.fromkeys([*functions, *range(len(names))])
        ],
        "variables": [
            _variable(variable, place)
            for variable, place in zip(manifest.variables, places, strict=True)
        ],
        "function_aliases": {
            alias: names[number][0] for alias, number in manifest.function_aliases.items()
        },
        "assets": [
            {"paths": paths, "file": file, "bytes": _size_below(file, sizes)}
            for file, paths in assets.items()
        ],
        "samples": dict(Counter(sample.name for sample in manifest.samples)),
        "tags": manifest.tags,
        "metadata": metadata_of(manifest.metadata),
    }


def _named(manifest: Manifest, name: str, owner: str | None, call: Call) -> Named:
    stages = [_stage(record) for record in manifest.stages.get(name, ())]
    named: Named = {"function": owner, "stages": stages, **call}
    if not stages:
        del named["stages"]
    return named


def _stage(record: StageRecord) -> StageSummary:
    return {
        "kind": record.kind,
        "version": record.version,
        "since": record.since,
        "known": options_of(record) is not None,
        "files": record.files,
        "options": record.options,
    }


def only(summary: Summary, manifest: Manifest, name: str) -> Summary:
    """The summary of an artifact with one signature and the variables that it uses."""
    concrete = manifest.concrete_functions[manifest.signatures[name]]
    used = {
        number for program in concrete.programs for number in manifest.programs[program].variables
    }
    return {
        **summary,
        "signatures": {name: summary["signatures"][name]},
        "variables": [one for i, one in enumerate(summary["variables"]) if i in used],
    }


def _size_below(path: str, sizes: Mapping[str, int]) -> int:
    """The size of a file, or of all files in a folder."""
    return sum(s for file, s in sizes.items() if file == path or file.startswith(f"{path}/"))


def json_values(array: np.ndarray) -> object:
    """The values of an array as nested lists for JSON.

    Floats of 16 and 32 bits become the shortest decimals that stand for them. A complex number is
    a pair of its parts. JSON has no NaN and no infinities: they are the texts `"NaN"`,
    `"Infinity"` and `"-Infinity"`.
    """
    if array.dtype.kind == "c":
        array = np.stack([array.real, array.imag], axis=-1)
    if array.dtype in (np.float16, np.float32):
        array = array.astype(str).astype(np.float64)
    return _json_value(array.tolist())


def _json_value(value: object) -> object:
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    return value


def _paths(
    nodes: Sequence[NodeRecord],
) -> tuple[dict[int, list[str]], dict[int, list[str]], dict[str, list[str]]]:
    """The attribute paths of each function, variable and asset, the shortest first."""
    functions: dict[int, list[str]] = {}
    variables: dict[int, list[str]] = {}
    assets: dict[str, list[str]] = {}
    for node, path in leaf_paths(nodes):
        if node.path is not None:
            assets.setdefault(node.path, []).append(path)
        else:
            found = functions if node.kind == "function" else variables
            found.setdefault(node.index, []).append(path)
    return functions, variables, assets


def _owner(manifest: Manifest, number: int, names: Sequence[Sequence[str]]) -> str | None:
    """The path of the attached function that a concrete function is one of, if there is any."""
    for function, paths in zip(manifest.functions, names, strict=True):
        if number in function.concrete:
            return paths[0]
    return None


def _call(manifest: Manifest, concrete: ConcreteRecord, places: Sequence[str]) -> Call:
    programs = [manifest.programs[number] for number in concrete.programs]
    changed = dict.fromkeys(number for program in programs for number in program.updates)
    bounds = {dim.name: dim for tensor in concrete.inputs for dim in spec_of(tensor).dims}
    transformations = _transformations(manifest, programs)
    call: Call = {
        "inputs": {tensor.name: _tensor(tensor) for tensor in concrete.inputs},
        "outputs": {tensor.name: _tensor(tensor) for tensor in concrete.outputs},
        "bounds": {
            name: {"min": dim.min, "max": dim.max, "multiple_of": dim.multiple_of}
            for name, dim in bounds.items()
        },
        "ranks": [program.ranks for program in programs if program.ranks],
        "untraced": [{"ranks": one.ranks, "reason": one.reason} for one in concrete.untraced],
        "changes": [places[number] for number in changed],
        "notes": concrete.notes,
        "derivatives": transformations["derivatives"],
        "no_derivative": transformations["no_derivative"],
        "row_wise": transformations["row_wise"],
    }
    mesh = {axis.name: axis.size for program in programs for axis in program.mesh}
    if mesh:
        call["mesh"] = mesh
    return call


class _Transformations(TypedDict):
    derivatives: int
    no_derivative: str | None
    row_wise: str | None


def _transformations(manifest: Manifest, programs: Sequence[ProgramRecord]) -> _Transformations:
    """What holds for each of the programs of a concrete function."""
    chains = []
    for program in programs:
        chain = [program]
        while chain[-1].vjp is not None:
            chain.append(manifest.programs[chain[-1].vjp])
        chains.append(chain)
    rows = {program.row_wise for program in programs}
    problems = (chain[-1].vjp_problem for chain in chains)
    return {
        "derivatives": min((len(chain) for chain in chains), default=1) - 1,
        "no_derivative": next((problem for problem in problems if problem), None),
        "row_wise": rows.pop() if len(rows) == 1 else None,
    }


def _tensor(record: TensorRecord) -> Tensor:
    tensor: Tensor = {"dtype": record.dtype, "shape": record.shape}
    if record.shape is None:
        tensor["max_rank"] = record.max_rank
    if record.default is not None:
        tensor["default"] = json_values(array_of(record.default))
    return tensor


def _function(
    manifest: Manifest, record: FunctionRecord, paths: list[str], calls: Sequence[Call]
) -> AttachedFunction:
    options = []
    for number in record.concrete:
        concrete = manifest.concrete_functions[number]
        option: Option = {
            "arguments": {
                name: _text(part, _types(concrete.inputs))
                for name, part in concrete.arguments.items()
            },
            "fixed": [
                name
                for name, part in concrete.arguments.items()
                if isinstance(structure_of(part), Static | Constant)
            ],
            "returns": _text(concrete.result, _types(concrete.outputs)),
            "signatures": [name for name, own in manifest.signatures.items() if own == number],
            "signature_problem": concrete.signature_problem,
            **calls[number],
        }
        options.append(option)
    parameters = _parameters(record.parameters)
    return {"paths": paths, "parameters": parameters, "doc": record.doc, "options": options}


def _types(tensors: Sequence[TensorRecord]) -> list[str]:
    return [str(spec_of(tensor)) for tensor in tensors]


def _parameters(records: Sequence[ParameterRecord]) -> str:
    """Parameters as in the function's definition."""
    return str(
        python_signature(
            Parameter(record.name, record.kind, REQUIRED if text is None else Opaque(text))
            for record, text in ((record, _default(record)) for record in records)
        )
    )


def _default(record: ParameterRecord) -> str | None:
    if record.default is None:
        return None
    values = [_cut(str(array_of(array).tolist())) for array in record.default_arrays]
    return _text(record.default, values)


def _text(part: Part, arrays: Sequence[str]) -> str:
    """A Python value as text, with what `arrays` says in the place of each array."""
    return describe(_shortened(structure_of(part)), arrays.__getitem__)


def _shortened(structure: Structure) -> Structure:
    """The structure with long values cut."""
    match structure:
        case Static() | Constant():
            return Static(_cut(describe(structure, str)), opaque=True)
        case Sequential() | Keyed():
            return dataclasses.replace(structure, items=tuple(map(_shortened, structure.items)))
    return structure


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[: _MAX_VALUE_LENGTH - 3]}..."


def _variable(record: VariableRecord, path: str) -> VariableSummary:
    dtype = as_dtype(record.dtype)
    # What it takes in memory: NumPy gives the small integers and floats a byte each.
    itemsize = 4 * dtype.words if isinstance(dtype, KeyType) else dtype.itemsize
    summary: VariableSummary = {
        "path": path,
        "key": record.key,
        "dtype": record.dtype,
        "shape": record.shape,
        "bytes": math.prod(record.shape) * itemsize,
        "trainable": record.trainable,
        "collection": record.collection,
    }
    spec = record.partition_spec
    return summary | {"partition_spec": spec} if spec else summary
