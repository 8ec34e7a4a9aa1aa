"""The parts of a manifest as values. They are its schema: JSON is parsed into them or refused.

`FORMAT.md` beside this file says what each field means to a reader in another language, and
`manifest.schema.json` is made from these classes.
"""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from exporter.artifact.layout import FileRecord
from exporter.display import card, card_of, code, lines, quiet

FORMAT = "jax-exporter"

# The ledger of format versions.
#   1  the first. Read by every release.
#   2  derivatives, independent rows, meshes, assets, samples, aliases, tags and metadata; names on
#      dicts and tuples; more kinds of random keys; compressed programs; stages; batching.
#      Read since 0.2.
FORMAT_VERSION = 2
OLDEST_FORMAT_VERSION = 1

# The dtypes that TensorStore does not know: a variable of one is stored as bytes, an element each.
AS_BYTES = frozenset(
    ("uint4", "uint2", "uint1", "int1", "float6_e2m3fn", "float6_e3m2fn", "float8_e4m3")
)

# A position in a list, a number of axes, a size.
Number = Annotated[int, Meta(ge=0)]
Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Version = Annotated[str, Meta(pattern=r"^[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}$")]

# A number that need not be whole, as the shortest decimal that reads back as the same double.
Decimal = Annotated[str, Meta(pattern=r"^-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?$", max_length=32)]


class Record(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The base of every part: immutable, and closed to fields that it does not know."""


R = TypeVar("R", bound=Record)


class ScalarRecord(Record, frozen=True):
    """A Python value, as text that says its type: JSON has no infinity, bytes or complex."""

    type: Literal["none", "bool", "int", "float", "complex", "str", "bytes", "opaque"]
    text: str


class ArrayRecord(Record, frozen=True):
    """A small array inside the manifest: little-endian bytes in C order, as base64."""

    dtype: str
    shape: list[Size]
    data: str


class ArrayPart(Record, frozen=True, tag_field="kind", tag="array"):
    """Where an array stands in a structure."""

    index: Number


class StaticPart(Record, frozen=True, tag_field="kind", tag="static"):
    """A Python value that was there when the function was traced."""

    value: ScalarRecord


class ConstantPart(Record, frozen=True, tag_field="kind", tag="constant"):
    """An array that was there when the function was traced and is no input of it."""

    array: ArrayRecord


class SequencePart(Record, frozen=True, tag_field="kind", tag="sequence"):
    """A list, a tuple, or with fields a namedtuple of that type name."""

    type: str
    items: "list[Part]"
    fields: list[str] = []


class DictPart(Record, frozen=True, tag_field="kind", tag="dict"):
    """A dict, in the order of its keys."""

    keys: list[ScalarRecord]
    items: "list[Part]"


Part = ArrayPart | StaticPart | ConstantPart | SequencePart | DictPart


class DimRecord(Record, frozen=True):
    """A named dimension with its bounds."""

    name: str
    min: int | None = None
    max: int | None = None
    multiple_of: int | None = None


class TensorRecord(Record, frozen=True):
    """One array. An axis is a size, text for a name or expression, or null for any size."""

    name: str
    dtype: str
    shape: list[Size | str | None] | None
    max_rank: Number = 4
    dims: list[DimRecord] = []
    default: ArrayRecord | None = None


class PlainTensorRecord(Record, frozen=True):
    """One array of a program: every axis a size or an expression of the program's dimensions."""

    dtype: str
    shape: list[Size | str]


class ParameterRecord(Record, frozen=True):
    """A parameter of a Python function."""

    name: str
    kind: Literal[
        "positional_only", "positional_or_keyword", "var_positional", "keyword_only", "var_keyword"
    ]
    default: "Part | None" = None
    default_arrays: list[ArrayRecord] = []


class UntracedRecord(Record, frozen=True):
    """Numbers of axes for which there is no program, and why."""

    ranks: list[Number]
    reason: str


class ConcreteRecord(Record, frozen=True):
    """A function for one type of arguments."""

    name: str
    inputs: list[TensorRecord]
    outputs: list[TensorRecord]
    arguments: dict[str, Part]
    result: Part
    programs: list[Number]
    signature_problem: str | None = None
    untraced: list[UntracedRecord] = []
    notes: list[str] = []


class FunctionRecord(Record, frozen=True):
    """A decorated function, with each type of arguments it was saved for."""

    name: str
    parameters: list[ParameterRecord]
    concrete: list[Number]
    doc: str | None = None
    by_input: bool = False


class AxisRecord(Record, frozen=True):
    """An axis of a mesh of devices."""

    name: str
    size: Annotated[int, Meta(ge=1, le=2**31 - 1)]


class ProgramRecord(Record, frozen=True):
    """One file of StableHLO and how it is called."""

    file: str
    stablehlo_version: Version
    platforms: list[str]
    calling_convention_version: int
    kept_inputs: list[Number]
    uses_global_constants: bool
    custom_calls: list[str]
    variables: list[Number]
    updates: list[Number]
    inputs: list[PlainTensorRecord]
    outputs: list[PlainTensorRecord]
    dims: list[DimRecord] = []
    ranks: list[Number] = []
    mesh_axes: list[str] = []
    mesh: list[AxisRecord] = []
    vjp: Number | None = None
    vjp_problem: str | None = None
    row_wise: str | None = None


class VariableRecord(Record, frozen=True):
    """One array of the model. `key` is its path in the checkpoint."""

    path: list[ScalarRecord]
    key: list[str]
    dtype: str
    shape: list[Size]
    trainable: bool
    collection: str
    storage: Literal["array", "bytes", "empty"]
    name: str | None = None
    partition_spec: list[str | list[str] | None] | None = None


class NodeRecord(Record, frozen=True):
    """One thing in the tree of the saved object. The first is the root."""

    kind: Literal[
        "object",
        "list",
        "tuple",
        "namedtuple",
        "dict",
        "variable",
        "function",
        "asset",
        "value",
    ]
    name: str = ""
    keys: list[ScalarRecord] = []
    children: list[Number] = []
    index: int = -1
    value: ScalarRecord | None = None
    signatures: dict[str, Number] | None = None
    path: str | None = None


class SampleArrayRecord(Record, frozen=True):
    """One array of a sample."""

    name: str
    dtype: str
    shape: list[Size]


class SampleRecord(Record, frozen=True):
    """Inputs that a function was called with when it was saved, and what it returned."""

    name: str
    concrete: Number
    file: str
    inputs: list[SampleArrayRecord]
    outputs: list[SampleArrayRecord]


class StageRecord(Record, frozen=True):
    """Work of the host before or after a signature, as data: one of a closed list of kinds.

    What is in `options` is said by the kind and its version. `since` is the release that was the
    first to know them, for the message of one that does not.
    """

    kind: str
    version: Annotated[int, Meta(ge=1)]
    since: Version
    options: dict[str, Any]
    files: list[str] = []


class TokenizerOptions(Record, frozen=True):
    """The options of the kind `tokenizer`, version 1: texts become rows of token ids."""

    input: str
    outputs: dict[Literal["ids", "attention_mask", "type_ids"], str]
    pad_id: Number
    pad_type_id: Number
    pad_side: Literal["left", "right"]
    max_length: Annotated[int, Meta(ge=1)] | None = None


class VocabularyOptions(Record, frozen=True):
    """The options of the kind `vocabulary`, version 1: words become their positions in a list."""

    input: str
    output: str
    unknown: str | None = None


class ImageOptions(Record, frozen=True):
    """The options of the kind `image`, version 1: pictures become arrays of pixels."""

    input: str
    output: str
    size: Annotated[list[Annotated[int, Meta(ge=1, le=2**14)]], Meta(min_length=2, max_length=2)]
    mode: Literal["L", "RGB"]
    layout: Literal["HW", "HWC", "CHW"]
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    scale: Decimal = "1.0"
    mean: list[Decimal] = []
    std: list[Decimal] = []


class LabelsOptions(Record, frozen=True):
    """The options of the kind `labels`, version 1: scores become the labels of the highest."""

    output: str
    name: str
    top_k: Annotated[int, Meta(ge=1)] = 1
    with_scores: bool = True


class Producer(Record, frozen=True):
    """The releases of what wrote the artifact."""

    jax_exporter: str
    jax: str
    jaxlib: str
    orbax_checkpoint: str
    python: str


class Content(Record, frozen=True):
    """Two ids that are the same whenever the same thing is saved.

    `programs` covers signatures, functions, programs, stages and the object tree, `variables` the
    values.
    """

    programs: Digest
    variables: Digest


class BatchingRecord(Record, frozen=True):
    """How a server joins the calls of a signature."""

    max_batch_size: Size = 32
    allowed_batch_sizes: list[Size] = []
    batch_timeout_micros: Size = 0
    max_enqueued_batches: Size = 64
    enable_large_batch_splitting: bool = True
    buckets: dict[str, list[Size]] = {}
    pad_values: dict[str, Decimal] = {}


class Manifest(Record, frozen=True):
    """An artifact without its programs and arrays. See `FORMAT.md`."""

    format: str
    format_version: int
    created: str
    producer: Producer
    content: Content
    platforms: list[str]
    stablehlo_version: Version
    x64: bool
    signatures: dict[str, Number]
    signature_note: str | None
    functions: list[FunctionRecord]
    concrete_functions: list[ConcreteRecord]
    programs: list[ProgramRecord]
    variables: list[VariableRecord]
    nodes: list[NodeRecord]
    files: list[FileRecord]
    function_aliases: dict[str, Number] = {}
    tags: list[str] = []
    metadata: str = "{}"
    samples: list[SampleRecord] = []
    stages: dict[str, list[StageRecord]] = {}
    batching: dict[str, BatchingRecord] = {}

    @quiet
    def __repr__(self) -> str:
        facts = (f"{name}: {value}" for name, value in self._facts())
        return lines(f"Manifest of {self.nodes[0].name}", facts)

    @card_of
    def _repr_html_(self) -> str:
        rows = [(name, code(value)) for name, value in self._facts()]
        return card(code(self.nodes[0].name), ("Manifest", ""), rows)

    def _facts(self) -> list[tuple[str, str]]:
        """What one screen has room for."""
        return [
            ("saved", f"{self.created} by jax-exporter {self.producer.jax_exporter}"),
            ("format", f"{self.format_version}, StableHLO {self.stablehlo_version}"),
            ("platforms", ", ".join(self.platforms)),
            ("signatures", ", ".join(self.signatures) or "none"),
            ("functions", ", ".join(function.name for function in self.functions) or "none"),
            ("programs", f"{len(self.programs):,}"),
            ("variables", f"{len(self.variables):,}"),
            ("files", f"{len(self.files):,}"),
            ("tags", ", ".join(self.tags)),
            ("content", f"{self.content.programs[:12]}, {self.content.variables[:12]}"),
        ]


def replace(record: R, **changes: object) -> R:
    """The record with other values in some fields."""
    return msgspec.structs.replace(record, **changes)
