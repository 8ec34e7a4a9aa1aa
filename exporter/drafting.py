"""The functions of an artifact, gathered and lowered before the folder is filled."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

import numpy as np

from exporter import choices, notices
from exporter.artifact import encoding, records
from exporter.artifact.manifest import digest_of
from exporter.artifact.programs import name_of
from exporter.artifact.stored import StoredConcrete, StoredFunction, StoredProgram
from exporter.errors import LoweringError, OptionError, Problem, TracingError
from exporter.progress import Progress, steps
from exporter.pytrees import opened
from exporter.staging.findings import Findings
from exporter.staging.functions import Function
from exporter.staging.graph import TrackedGraph, dotted
from exporter.staging.inputs import Inputs, is_array_like
from exporter.staging.lowering import ALL_PLATFORMS, LoweredProgram, lower
from exporter.staging.platforms import native
from exporter.staging.probing import unstable
from exporter.staging.state import restored
from exporter.staging.suggestions import explained
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
      custom_calls: the native functions that programs may call by name although nobody promises
        that later releases have them. Who loads the artifact has to name them too.
    """

    max_constant_bytes: int = 2**20
    stablehlo_version: str = "oldest"
    debug_info: bool = False
    vjp_order: int = 0
    custom_calls: tuple[str, ...] = ()
    function_aliases: Mapping[str, object] | None = None
    tags: Sequence[str] | None = None
    metadata: Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        choices.check_bytes("max_constant_bytes", self.max_constant_bytes)
        choices.check_text("stablehlo_version", self.stablehlo_version)
        choices.check_flag("debug_info", self.debug_info)
        object.__setattr__(self, "custom_calls", choices.as_calls(self.custom_calls))
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
    """The functions of an artifact, gathered before anything is written.

    Attributes:
      findings: what stands in the way, raised or gathered.
      broken: the functions that could not be traced, where such problems are gathered.
    """

    graph: TrackedGraph
    platforms: tuple[str, ...] | None
    options: SaveOptions
    findings: Findings = field(default_factory=Findings)
    broken: set[object] = field(default_factory=set)
    functions: list[records.FunctionRecord] = field(default_factory=list)
    sources: list[ConcreteFunction | StoredConcrete] = field(default_factory=list)
    concrete: list[records.ConcreteRecord] = field(default_factory=list)
    programs: list[records.ProgramRecord] = field(default_factory=list)
    bytecode: list[bytes] = field(default_factory=list)
    numbers: dict[tuple[object, ...], int] = field(default_factory=dict)
    kept: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    _paths: dict[object, str] = field(default_factory=dict)
    _known: dict[object, list[int]] = field(default_factory=dict)
    _numbered: dict[int, int] = field(default_factory=dict)
    _names: Counter[tuple[str, int]] = field(default_factory=Counter)
    _files: set[str] = field(default_factory=set)

    def add_function(self, function: object, path: str) -> int:
        """A function with each type of arguments it is saved for. Gives its number."""
        self._paths.setdefault(function, path)
        indices = self.add_sources(function)
        if not indices and function not in self.broken:
            notices.warn(
                f"{path} has no input_signature and was never called, so it will not be callable "
                "when loaded. Decorate it with @exporter.function(input_signature=[...]), or call "
                "it before saving.",
            )
        name, doc, parameters = _described(function)
        self.functions.append(
            records.FunctionRecord(
                name, list(map(_parameter_record, parameters)), indices, doc, _by_input(function)
            )
        )
        return len(self.functions) - 1

    def add_sources(self, function: object) -> list[int]:
        """The numbers of the concrete functions of a function, which is traced only once."""
        if function not in self._known:
            path = self._paths.get(function) or _described(function)[0]
            self._known[function] = []
            before = self.findings.errors
            with self.findings.of(path):
                sources = self._sources_of(function, path)
                self._known[function] = [self._add_source(source, path) for source in sources]
            if self.findings.errors > before:
                self.broken.add(function)
        return self._known[function]

    def _add_source(self, source: ConcreteFunction | StoredConcrete, path: str) -> int:
        origin = source.origin if isinstance(source, StoredConcrete) else source
        if id(origin) not in self._numbered:
            self._numbered[id(origin)] = len(self.sources)
            self.sources.append(source)
            self.paths.append(path)
        return self._numbered[id(origin)]

    def first_source(self, function: object) -> int:
        """The number of the one concrete function of a function, or -1 if it is broken."""
        return -1 if function in self.broken else self.add_sources(function)[0]

    def named_sources(self, functions: Iterable[tuple[str, object]]) -> dict[str, int]:
        """The number of the concrete function of each signature."""
        return {name: self.first_source(function) for name, function in functions}

    def _sources_of(
        self, function: object, path: str
    ) -> Sequence[ConcreteFunction | StoredConcrete]:
        if isinstance(function, Function):
            recorded = function.recorded_inputs()
            _refuse_lookalikes(function.name, recorded)
            traced = []
            with restored(self.graph, function.name):
                for inputs in recorded:
                    subject = function.subject
                    explain = partial(
                        explained, path=path, subject=subject, inputs=inputs, graph=self.graph
                    )
                    with self.findings.of(path, explain):
                        traced.append(trace(subject, inputs, self.graph))
            return traced
        if isinstance(function, ConcreteFunction):
            return [function]
        stored: StoredFunction = function.__exporter_stored__  # type: ignore[attr-defined]
        return stored.concrete

    def lower_all(self, progress: Progress | None = None) -> None:
        """Make a program of each trace. The variables have their numbers.

        Raises:
          LoweringError: with everything that stands in the way, in whatever function.
        """
        refusals: list[LoweringError] = []
        pairs = list(zip(self.sources, self.paths, strict=True))
        for source, path in steps(pairs, "lowering", progress):
            programs: list[int] = []
            with self.findings.of(path):
                if isinstance(source, ConcreteFunction):
                    programs, refused = self._lower(source, path)
                else:
                    programs, refused = self._adopt(source, path)
                refusals += refused
            self.concrete.append(_concrete_record(source, programs))
        if refusals:
            found = (problem for refusal in refusals for problem in refusal.problems)
            raise LoweringError.of(found) from refusals[0].__cause__

    def number_variables(self) -> None:
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

    def _lower(self, source: ConcreteFunction, path: str) -> tuple[list[int], list[LoweringError]]:
        """The programs of a trace, and what stands in the way of the others."""
        numbers: dict[int, int] = {}
        used = {i for variant in source.variants for i in (*variant.reads, *variant.writes)}
        for index in sorted(used):
            variable = source.graph.variables[index]
            if variable.place.key not in self.numbers:
                raise untracked(source.name, dotted(variable.path))
            numbers[index] = self.numbers[variable.place.key]
        programs: list[int] = []
        refusals: list[LoweringError] = []
        for variant in source.variants:
            try:
                program = lower(
                    variant,
                    source.name,
                    self.platforms or ALL_PLATFORMS,
                    numbers=numbers,
                    target=self.options.stablehlo_version,
                    keep_locations=self.options.debug_info,
                    max_constant_bytes=self.options.max_constant_bytes,
                    custom_calls=self.options.custom_calls,
                    python_function=source.python_function,
                    vjp_order=self.options.vjp_order,
                )
            except LoweringError as error:
                error.problems = tuple(replace(one, function=path) for one in error.problems)
                refusals.append(error)
            else:
                programs.append(self._add_lowered(program, source.name))
        return programs, refusals

    def _add_lowered(self, program: LoweredProgram, name: str, order: int = 0) -> int:
        """The number of a program, which its derivatives follow."""
        number = self._add_program(_program_record(program), program.bytecode, name, order)
        if program.derivative is not None:
            self._link(number, self._add_lowered(program.derivative, name, order + 1))
        return number

    def _link(self, number: int, derivative: int) -> None:
        self.programs[number] = records.replace(self.programs[number], vjp=derivative)

    def _adopt(self, source: StoredConcrete, path: str) -> tuple[list[int], list[LoweringError]]:
        """The programs of a loaded function as they are, and what keeps them from being saved."""
        if any(_lacks(program, self.options.vjp_order) for program in source.programs):
            notices.warn(
                f"{source.record.name} was loaded and keeps the derivatives it was saved with, "
                f"fewer than vjp_order={self.options.vjp_order}: they cannot be made from a "
                "program. Save the original with that option.",
            )
        problems: list[Problem] = []
        for program in source.programs:
            problems += self._misfits(program.record, source.record.name, path)
        programs = [self._add_stored(program, source) for program in source.programs]
        return programs, [LoweringError.of(problems)] if problems else []

    def _add_stored(self, program: StoredProgram, source: StoredConcrete, order: int = 0) -> int:
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

    def _misfits(self, stored: records.ProgramRecord, name: str, path: str) -> Iterable[Problem]:
        """What does not fit of a program that was loaded: it cannot be lowered anew."""
        missing = tuple(p for p in self.platforms or () if p not in stored.platforms)
        if missing:
            yield Problem(
                "platform",
                path,
                f"{name} was loaded and has a program for {', '.join(stored.platforms)}, which "
                f"cannot be made one for {', '.join(missing)}.",
                "Leave out platforms=, or save the original.",
                missing,
            )
        calls = unstable(stored.custom_calls, self.options.custom_calls)
        if calls:
            yield replace(native(name, calls, calls), function=path)

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
        choices = (f"{stem}{f'-{n}' if n else ''}{end}" for n in count(self._names[stem, order]))
        file = next(file for file in map(name_of, choices) if file not in self._files)
        self._names[stem, order] += 1
        self._files.add(file)
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


def _by_input(function: object) -> bool:
    """Whether a function is one trace, which is called by the names of its inputs."""
    if isinstance(function, Function | ConcreteFunction):
        return isinstance(function, ConcreteFunction)
    stored: StoredFunction = function.__exporter_stored__  # type: ignore[attr-defined]
    return stored.by_input


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
