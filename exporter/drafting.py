"""The functions of an artifact, gathered and lowered before anything is written."""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from exporter import choices
from exporter.artifact import encoding, records
from exporter.artifact.layout import PROGRAMS
from exporter.artifact.manifest import digest_of
from exporter.artifact.stored import StoredConcrete, StoredFunction, StoredProgram
from exporter.errors import LoweringError, OptionError, TracingError
from exporter.progress import Progress, steps
from exporter.pytrees import opened
from exporter.staging.functions import Function
from exporter.staging.graph import TrackedGraph, dotted
from exporter.staging.inputs import Inputs, is_array_like
from exporter.staging.lowering import ALL_PLATFORMS, LoweredProgram, lower
from exporter.staging.state import restored
from exporter.staging.tracing import ConcreteFunction, trace, untracked
from signatures.arguments import REQUIRED, Parameter
from signatures.dtypes import as_dtype, is_inexact
from signatures.spec import TensorSpec
from signatures.tree import flatten

_ORDERS = (0, 1, 2)


@dataclass(frozen=True)
class SaveOptions:
    """How an artifact is written.

    A loaded model that is saved again keeps its aliases, tags and metadata where they are `None`.

    Attributes:
      max_constant_bytes: the largest array that may be part of a program because a function uses
        it and the object does not hold it.
      stablehlo_version: the version of StableHLO that programs are written in, for example
        `"1.0.0"`. `"oldest"` is the oldest one that can express each program.
      debug_info: whether programs keep the file names and lines of the code they came from. This
        makes them about three times as large.
      vjp_order: how often functions can be differentiated once they are loaded: 0, 1 for gradients,
        2 for gradients of gradients. Each order adds a program about twice as large as the one
        before. A function without a derivative is saved without one, with a warning.
      function_aliases: functions by names of your choice, found in the loaded model's mapping of
        that name. They need not be attached to the object.
      tags: names by which readers may ask for the artifact, as in `load(path, tags="serve")`.
      metadata: what else readers should know, as JSON has it: dicts, lists, text, numbers, flags
        and `None`. It is the loaded model's `metadata`.
    """

    max_constant_bytes: int = 2**20
    stablehlo_version: str = "oldest"
    debug_info: bool = False
    vjp_order: int = 0
    function_aliases: Mapping[str, object] | None = None
    tags: Sequence[str] | None = None
    metadata: Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        choices.check_bytes("max_constant_bytes", self.max_constant_bytes)
        choices.check_text("stablehlo_version", self.stablehlo_version)
        choices.check_flag("debug_info", self.debug_info)
        if self.function_aliases is not None:
            choices.check_names("function_aliases", self.function_aliases)
        if self.tags is not None:
            choices.as_tags(self.tags)
        if self.metadata is not None:
            choices.as_json("metadata", self.metadata)
        if self.vjp_order not in _ORDERS:
            raise OptionError(
                f"vjp_order={self.vjp_order!r} is not one of {', '.join(map(str, _ORDERS))}: how "
                "often functions can be differentiated once they are loaded."
            )


DEFAULT_OPTIONS = SaveOptions()


@dataclass
class Draft:
    """The functions of an artifact, gathered before anything is written."""

    graph: TrackedGraph
    platforms: tuple[str, ...] | None
    options: SaveOptions
    functions: list[records.FunctionRecord] = field(default_factory=list)
    sources: list[ConcreteFunction | StoredConcrete] = field(default_factory=list)
    concrete: list[records.ConcreteRecord] = field(default_factory=list)
    programs: list[records.ProgramRecord] = field(default_factory=list)
    bytecode: list[bytes] = field(default_factory=list)
    numbers: dict[tuple[object, ...], int] = field(default_factory=dict)
    kept: list[int] = field(default_factory=list)
    _known: dict[object, list[int]] = field(default_factory=dict)
    _numbered: dict[int, int] = field(default_factory=dict)

    def add_function(self, function: object, path: str) -> int:
        """A function with each type of arguments it is saved for. Gives its number."""
        indices = self.add_sources(function)
        if not indices:
            warnings.warn(
                f"{path} has no input_signature and was never called, so it will not be callable "
                "when loaded. Decorate it with @exporter.function(input_signature=[...]), or call "
                "it before saving.",
                stacklevel=3,
            )
        name, doc, parameters = _described(function)
        self.functions.append(
            records.FunctionRecord(name, list(map(_parameter_record, parameters)), indices, doc)
        )
        return len(self.functions) - 1

    def add_sources(self, function: object) -> list[int]:
        """The numbers of the concrete functions of a function, which is traced only once."""
        if function not in self._known:
            self._known[function] = [self._add_source(s) for s in self._sources_of(function)]
        return self._known[function]

    def _add_source(self, source: ConcreteFunction | StoredConcrete) -> int:
        origin = source.origin if isinstance(source, StoredConcrete) else source
        if id(origin) not in self._numbered:
            self._numbered[id(origin)] = len(self.sources)
            self.sources.append(source)
        return self._numbered[id(origin)]

    def named_sources(self, functions: Iterable[tuple[str, object]]) -> dict[str, int]:
        """The number of the concrete function of each signature."""
        return {name: self.add_sources(function)[0] for name, function in functions}

    def _sources_of(self, function: object) -> Sequence[ConcreteFunction | StoredConcrete]:
        if isinstance(function, Function):
            recorded = function.recorded_inputs()
            _refuse_lookalikes(function.name, recorded)
            with restored(self.graph, function.name):
                return [trace(function.subject, inputs, self.graph) for inputs in recorded]
        if isinstance(function, ConcreteFunction):
            return [function]
        stored: StoredFunction = function.__exporter_stored__  # type: ignore[attr-defined]
        return stored.concrete

    def lower_all(self, progress: Progress | None = None) -> None:
        """Number the variables, then make a program of each trace."""
        self._number_variables()
        for source in steps(self.sources, "lowering", progress):
            if isinstance(source, ConcreteFunction):
                programs = self._lower(source)
            else:
                programs = self._adopt(source)
            self.concrete.append(_concrete_record(source, programs))

    def _number_variables(self) -> None:
        """Each place gets the number of its variable: one array in two places is one variable.

        Unless a function assigns one of the places: from then on they hold different arrays.
        """
        assigned = {
            source.graph.variables[index].place.key
            for source in self.sources
            if isinstance(source, ConcreteFunction)
            for variant in source.variants
            for index in variant.writes
        }
        by_array: dict[int, int] = {}
        for index, variable in enumerate(self.graph.variables):
            key = variable.place.key
            same = by_array.get(id(variable.read())) if variable.shareable else None
            if same is None or key in assigned:
                same = len(self.kept)
                self.kept.append(index)
                if variable.shareable and key not in assigned:
                    by_array[id(variable.read())] = same
            self.numbers[key] = same

    def _lower(self, source: ConcreteFunction) -> list[int]:
        numbers: dict[int, int] = {}
        used = {i for variant in source.variants for i in (*variant.reads, *variant.writes)}
        for index in sorted(used):
            variable = source.graph.variables[index]
            if variable.place.key not in self.numbers:
                raise untracked(source.name, dotted(variable.path))
            numbers[index] = self.numbers[variable.place.key]
        lowered = (
            lower(
                variant,
                source.name,
                self.platforms or ALL_PLATFORMS,
                numbers=numbers,
                target=self.options.stablehlo_version,
                keep_locations=self.options.debug_info,
                max_constant_bytes=self.options.max_constant_bytes,
                vjp_order=self.options.vjp_order,
            )
            for variant in source.variants
        )
        return [self._add_lowered(program, source.name) for program in lowered]

    def _add_lowered(self, program: LoweredProgram, name: str, order: int = 0) -> int:
        """The number of a program, which its derivatives follow."""
        number = self._add_program(_program_record(program), program.bytecode, name, order)
        if program.derivative is not None:
            self._link(number, self._add_lowered(program.derivative, name, order + 1))
        return number

    def _link(self, number: int, derivative: int) -> None:
        self.programs[number] = records.replace(self.programs[number], vjp=derivative)

    def _adopt(self, source: StoredConcrete) -> list[int]:
        if any(_lacks(program, self.options.vjp_order) for program in source.programs):
            warnings.warn(
                f"{source.record.name} was loaded and keeps the derivatives it was saved with, "
                f"fewer than vjp_order={self.options.vjp_order}: they cannot be made from a "
                "program. Save the original with that option.",
                stacklevel=2,
            )
        return [self._add_stored(program, source) for program in source.programs]

    def _add_stored(self, program: StoredProgram, source: StoredConcrete, order: int = 0) -> int:
        self._check_platforms(program.record.platforms, source.record.name)
        record = records.replace(
            program.record,
            variables=[self._number_of(box, source) for box in program.variables],
            updates=[self._number_of(box, source) for box in program.updates],
            vjp=None,
        )
        number = self._add_program(record, program.bytecode, source.record.name, order)
        if program.derivative is not None:
            self._link(number, self._add_stored(program.derivative, source, order + 1))
        return number

    def _check_platforms(self, stored: Sequence[str], name: str) -> None:
        """A program that was loaded keeps its platforms: it cannot be lowered anew."""
        missing = [p for p in self.platforms or () if p not in stored]
        if missing:
            raise LoweringError(
                f"{name} was loaded and has a program for {', '.join(stored)}, which cannot be "
                f"made one for {', '.join(missing)}. Leave out platforms=, or save the original."
            )

    def _number_of(self, box: object, source: StoredConcrete) -> int:
        key = ("variable", id(box), 0)
        if key not in self.numbers:
            raise untracked(source.record.name, getattr(box, "title", "a Variable"))
        return self.numbers[key]

    def _add_program(
        self, record: records.ProgramRecord, bytecode: bytes, name: str, order: int
    ) -> int:
        """The number of a program of that name, differentiated so many times."""
        stem = re.sub(r"\W+", "_", name) or "function"
        end = ".vjp" * order
        taken = {program.file for program in self.programs}
        choices = (f"{stem}{f'-{n}' if n else ''}{end}" for n in range(len(taken) + 1))
        files = (f"{PROGRAMS}/{choice}.mlirbc" for choice in choices)
        file = next(file for file in files if file not in taken)
        self.programs.append(records.replace(record, file=file))
        self.bytecode.append(bytecode)
        return len(self.programs) - 1


def _lacks(program: StoredProgram, order: int) -> bool:
    """Whether a program has fewer derivatives than asked for, and not because it can have none."""
    record = program.record
    taken = [as_dtype(box.dtype) for box in program.variables]  # type: ignore[attr-defined]  # boxes of arrays
    given = [as_dtype(box.dtype) for box in program.updates]  # type: ignore[attr-defined]  # likewise
    moves = any(map(is_inexact, [*taken, *(as_dtype(one.dtype) for one in record.inputs)]))
    shows = any(map(is_inexact, [*given, *(as_dtype(one.dtype) for one in record.outputs)]))
    if order == 0 or record.vjp_problem is not None or not (moves and shows):
        return False
    return program.derivative is None or _lacks(program.derivative, order - 1)


def _refuse_lookalikes(name: str, recorded: Sequence[Inputs]) -> None:
    """Refuse two types of arguments that an artifact would not tell apart."""
    seen = set()
    for inputs in recorded:
        parts = [[key, encoding.part_of(part)] for key, part in inputs.arguments.items()]
        key = digest_of([parts, [repr(spec) for spec in inputs.specs]])
        if key in seen:
            shown = ", ".join(f"{spec.name}: {spec}" for spec in inputs.specs)
            raise TracingError(
                f"{name} was called with two types of arguments that cannot be told apart once "
                f"they are saved: ({shown}). They differ in what only their classes know, such as "
                "a function that an object holds. Make two functions of it, or pass a name instead."
            )
        seen.add(key)


def _described(function: object) -> tuple[str, str | None, Sequence[Parameter]]:
    if isinstance(function, Function):
        return function.subject.name, function.subject.doc, function.subject.parameters
    if isinstance(function, ConcreteFunction):
        return function.name, function.doc, function.parameters
    stored: StoredFunction = function.__exporter_stored__  # type: ignore[attr-defined]
    return stored.name, stored.doc, stored.parameters


def _parameter_record(parameter: Parameter) -> records.ParameterRecord:
    if parameter.default is REQUIRED:
        return encoding.parameter_record(parameter, None, [])
    structure, arrays = flatten(parameter.default, is_array_like, opened)
    return encoding.parameter_record(parameter, structure, [np.asarray(a) for a in arrays])


def _concrete_record(
    source: ConcreteFunction | StoredConcrete, programs: list[int]
) -> records.ConcreteRecord:
    if isinstance(source, StoredConcrete):
        return records.replace(source.record, programs=programs)
    signature = source.signature
    return records.ConcreteRecord(
        name=source.name,
        inputs=[
            encoding.tensor_record(name, spec, signature.defaults.get(name))
            for name, spec in signature.inputs.items()
        ],
        outputs=[encoding.tensor_record(name, spec) for name, spec in signature.outputs.items()],
        arguments={name: encoding.part_of(part) for name, part in source.arguments.items()},
        result=encoding.part_of(source.result),
        programs=programs,
        signature_problem=source.signature_problem,
        untraced=[records.UntracedRecord(list(r), reason) for r, reason in source.untraced],
        notes=list(source.notes),
    )


def _plain_tensor(spec: TensorSpec) -> records.PlainTensorRecord:
    axes = [axis for axis in spec.shape or () if axis is not None]
    return records.PlainTensorRecord(spec.dtype.name, axes)


def _program_record(program: LoweredProgram) -> records.ProgramRecord:
    return records.ProgramRecord(
        file="",
        stablehlo_version=program.stablehlo_version,
        platforms=list(program.platforms),
        calling_convention_version=program.calling_convention_version,
        kept_inputs=list(program.kept_inputs),
        uses_global_constants=program.uses_global_constants,
        custom_calls=list(program.custom_calls),
        variables=list(program.variables),
        updates=list(program.updates),
        inputs=[_plain_tensor(spec) for spec in program.inputs],
        outputs=[_plain_tensor(spec) for spec in program.outputs],
        dims=[encoding.dim_record(dim) for dim in program.dims],
        ranks=list(program.ranks),
        mesh_axes=list(program.mesh_axes),
        mesh=[records.AxisRecord(name, size) for name, size in program.mesh],
        vjp_problem=program.derivative_problem,
        row_wise=program.row_wise,
    )
