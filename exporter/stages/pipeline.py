"""A signature with the stages before and after it: plain values in, plain values out."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from exporter.artifact.encoding import signature_of
from exporter.artifact.records import (
    ImageOptions,
    LabelsOptions,
    Manifest,
    StageRecord,
    TokenizerOptions,
    VocabularyOptions,
)
from exporter.artifact.stages import (
    MAX_FILE_BYTES,
    Options,
    fed_by,
    given_by,
    known_options,
    options_of,
    problems_of,
)
from exporter.display import card, card_of, code, cut, lines, quiet
from exporter.errors import StageError
from exporter.markup import Markup
from exporter.stages.image import Picturing
from exporter.stages.labels import Labelling
from exporter.stages.stage import InputStage, Kind, OutputStage
from exporter.stages.tokenizer import Tokenizing
from exporter.stages.vocabulary import LookingUp
from signatures.errors import BindError, UnknownSignatureError
from signatures.signature import Signature
from signatures.spec import TensorSpec

Read = Callable[[str], bytes]

_KINDS: Mapping[type[Options], Kind] = {
    TokenizerOptions: "text",
    VocabularyOptions: "words",
    ImageOptions: "image",
}

_PLURALS = {"text": "texts", "image": "pictures"}


def opened(options: Options, files: Sequence[bytes], signature: Signature) -> Any:
    """A stage at work, made from what was saved.

    Raises:
      StageError: if a file is damaged or does not fit.
    """
    match options:
        case TokenizerOptions():
            return Tokenizing(options, files[0], signature)
        case VocabularyOptions():
            return LookingUp(options, files[0], signature)
        case ImageOptions():
            return Picturing(options, signature)
        case LabelsOptions():
            return Labelling(options, files[0], signature)


def check(options: Sequence[Options], signature: Signature) -> None:
    """Refuse stages that do not fit around a signature.

    Raises:
      StageError: with everything that does not fit.
    """
    problems = problems_of(options, signature)
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise StageError(
            f"the stages do not fit signature {signature.name!r}:{lines}\n"
            f"The signature is {signature}.",
            problems,
        )


class HostStages:
    """The stages of one signature, without the signature. They need no JAX.

    Several threads may use them at once. Tokenizers and lists are read when they are first used,
    once.

    Attributes:
      inputs: what a caller gives, by name: `text`, `words` or `image`, or the spec of an array.
      outputs: what a caller gets, likewise: `label`, or the spec of an array.
    """

    def __init__(self, records: Sequence[StageRecord], signature: Signature, read: Read) -> None:
        """The stages around that signature.

        Args:
          records: as in the manifest.
          signature: the signature.
          read: gives the content of a file of the artifact.

        Raises:
          FormatVersionError: if we do not know such stages.
        """
        self.signature = signature
        self._options = [known_options(record, signature.name) for record in records]
        self._files = [record.files for record in records]
        self._read = read
        self._lock = threading.Lock()
        self._made: dict[int, Any] = {}
        self.inputs = dict(_inputs(self._options, signature))
        self.outputs = dict(_outputs(self._options, signature))

    def arrays(self, values: Mapping[str, object]) -> dict[str, Any]:
        """The inputs of the signature, from the values of a caller.

        Raises:
          BindError: naming every value that is missing, unknown or cannot be used.
          MissingExtraError: if a library is not installed, saying how to install it.
        """
        names = [
            one.input
            for one in self._options
            if not isinstance(one, LabelsOptions) and not self._may_lack(one)
        ]
        problems = [f"{name}: missing" for name in names if name not in values]
        problems += [f"{name}: not an input" for name in values if name not in self.inputs]
        arrays = {n: v for n, v in values.items() if isinstance(self.inputs.get(n), TensorSpec)}
        for number, options in enumerate(self._options):
            if not isinstance(options, LabelsOptions) and options.input in values:
                worker: InputStage = self._stage(number)
                try:
                    made = worker.arrays(values[options.input])
                except BindError as error:
                    problems += error.problems
                    continue
                problems += self._miscounted(options.input, made)
                arrays |= made
        if problems:
            raise self._refused(problems)
        return arrays

    def fed(self, values: Mapping[str, object]) -> dict[str, Any]:
        """Those of `arrays` that stages make."""
        arrays = self.arrays(values).items()
        return {n: one for n, one in arrays if not isinstance(self.inputs.get(n), TensorSpec)}

    def results(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """What a caller gets for the outputs of the signature."""
        found = dict(outputs)
        for number, options in enumerate(self._options):
            if isinstance(options, LabelsOptions):
                worker: OutputStage = self._stage(number)
                found |= worker.results(outputs[options.output])
        return {name: found[name] for name in self.outputs}

    def _miscounted(self, name: str, arrays: Mapping[str, Any]) -> list[str]:
        """Why there may not be so many of what a caller gave, if that is so."""
        for key, array in arrays.items():
            spec = self.signature.inputs[key]
            axis, count = (spec.shape or (None,))[0], len(array) if array.ndim else 1
            if isinstance(axis, int) and axis != count:
                return [f"{name}: expected {axis} of them, got {count}"]
            bound = next((dim for dim in spec.dims if dim.name == axis), None)
            if bound is not None and (problem := bound.problem(count)):
                return [f"{name}: got {count} of them, and {problem}"]
        return []

    def _may_lack(self, options: Options) -> bool:
        """Whether a caller may leave out what a stage takes, since its inputs have defaults."""
        return all(name in self.signature.defaults for name in fed_by(options))

    def _stage(self, number: int) -> Any:
        with self._lock:
            if number not in self._made:
                self._made[number] = self._opened(self._options[number], self._files[number])
            return self._made[number]

    def _opened(self, options: Options, files: Sequence[str]) -> Any:
        try:
            return opened(options, [self._read(path) for path in files], self.signature)
        except StageError as error:
            where = f" of {', '.join(files)}" if files else ""
            raise StageError(
                f"a stage{where} cannot be used with signature {self.signature.name!r}: {error}.",
                error.problems,
            ) from error

    def _refused(self, problems: Sequence[str]) -> BindError:
        found = "".join(f"\n  {problem}" for problem in problems)
        inputs = ", ".join(f"{name}: {_PLURALS.get(str(k), k)}" for name, k in self.inputs.items())
        return BindError(
            f"values do not fit the pipeline {self.signature.name!r}:{found}\nIt takes {inputs}.",
            problems,
        )


class Pipeline:
    """A signature that takes texts, words or pictures, and gives labels, as its stages say.

    Attributes:
      name: the name of the signature.
      inputs: what it takes, by name: `text`, `words` or `image`, or the spec of an array.
      outputs: what it gives, likewise: `label`, or the spec of an array.
      stages: what is done before and after the signature.
    """

    def __init__(self, stages: HostStages, call: Callable[..., dict[str, Any]]) -> None:
        """The stages around the call of their signature."""
        self.name = stages.signature.name
        self.inputs: Mapping[str, Kind | TensorSpec] = stages.inputs
        self.outputs: Mapping[str, Kind | TensorSpec] = stages.outputs
        self.stages = stages
        self._call = call

    def __call__(self, /, *args: object, **values: object) -> dict[str, Any]:
        """The named outputs for named values; a single input may be given by position.

        A single value is a batch of one. Stages work on the host, so this cannot be traced.

        Raises:
          BindError: naming every value that is missing, unknown or cannot be used.
          MissingExtraError: if a library is not installed, saying how to install it.
        """
        if args:
            names = list(self.inputs)
            if len(args) > 1 or len(names) > 1 or values:
                raise BindError(
                    f"the pipeline {self.name!r} takes its inputs by keyword, got {len(args)} "
                    f"positional. The inputs are {', '.join(names)}."
                )
            values = {names[0]: args[0]}
        try:
            return self.stages.results(self._call(**self.stages.arrays(values)))
        except TypeError as error:
            if type(error).__name__ != "TracerArrayConversionError":  # JAX is not imported here
                raise
            raise StageError(
                f"the stages of {self.name!r} work on the host, and cannot be traced. Inside of "
                f"jax.jit and its like call the signature, model.signatures[{self.name!r}]."
            ) from error

    def __str__(self) -> str:
        """It as signatures are written."""
        inputs = ", ".join(f"{name}: {kind}" for name, kind in self.inputs.items())
        outputs = ", ".join(f"{name}: {kind}" for name, kind in self.outputs.items())
        return f"{self.name}({inputs}) -> ({outputs})"

    @quiet
    def __repr__(self) -> str:
        return f"<Pipeline {cut(str(self))}>"

    @card_of
    def _repr_html_(self) -> str:
        return card(code(self.name), ("Pipeline", ""), _rows(self))


class Pipelines(Mapping[str, Pipeline]):
    """The signatures that have stages, with them, by name. It cannot be changed."""

    def __init__(
        self,
        stages: Mapping[str, Sequence[StageRecord]],
        known: Mapping[str, Pipeline],
        signatures: Iterable[str],
    ) -> None:
        """The pipelines of a model.

        Args:
          stages: the stages of each signature that has any.
          known: the pipelines of those of whose kinds we know all.
          signatures: the names of all signatures.
        """
        self._stages = dict(stages)
        self._known = dict(known)
        self._signatures = tuple(signatures)

    def __getitem__(self, name: str) -> Pipeline:
        """The pipeline of that name.

        Raises:
          UnknownSignatureError: if the signature has no stages, or there is none.
          FormatVersionError: if it has a stage that we do not know.
        """
        if name in self._known:
            return self._known[name]
        for record in self._stages.get(name, ()):
            known_options(record, name)
        known = ", ".join(map(repr, self._stages)) or "none"
        hint = f" It takes arrays: model.signatures[{name!r}]." if name in self._signatures else ""
        raise UnknownSignatureError(
            f"no signature {name!r} has stages; those that have are {known}.{hint}",
            name,
            self._stages,
        )

    def __contains__(self, name: object) -> bool:
        return name in self._stages

    def __iter__(self) -> Iterator[str]:
        return iter(self._stages)

    def __len__(self) -> int:
        return len(self._stages)

    def lines(self) -> list[str]:
        """Each as signatures are written, or its name alone if we do not know its stages."""
        return [str(self._known.get(name, name)) for name in self._stages]

    @quiet
    def __repr__(self) -> str:
        return lines("Pipelines", self.lines()) if self._stages else "<Pipelines: none>"

    @card_of
    def _repr_html_(self) -> str:
        rows = [(code(name), code(self._known.get(name, "not known here"))) for name in self]
        return card("Pipelines", ("Signature", ""), rows)


def _rows(pipeline: Pipeline) -> list[tuple[Markup, Markup]]:
    """What a pipeline takes and gives, for a table."""
    given = [(code(name), code(kind)) for name, kind in pipeline.inputs.items()]
    found = [
        (code(f"\N{RIGHTWARDS ARROW} {n}"), code(kind)) for n, kind in pipeline.outputs.items()
    ]
    return [*given, *found]


def host_stages(manifest: Manifest, read: Read) -> dict[str, HostStages]:
    """The stages of each signature of an artifact, of those of whose kinds we know all."""
    sizes = {file.path: file.size for file in manifest.files}

    def limited(path: str) -> bytes:
        if sizes[path] > MAX_FILE_BYTES:
            raise StageError(
                f"it has {sizes[path]:,} bytes, and no more than {MAX_FILE_BYTES:,} are read"
            )
        return read(path)

    return {
        name: HostStages(records, signature_of(manifest, manifest.signatures[name], name), limited)
        for name, records in manifest.stages.items()
        if all(options_of(record) is not None for record in records)
    }


def _inputs(
    stages: Sequence[Options], signature: Signature
) -> Iterator[tuple[str, Kind | TensorSpec]]:
    fed = {name for one in stages for name in fed_by(one)}
    for one in stages:
        if not isinstance(one, LabelsOptions):
            yield one.input, _KINDS[type(one)]
    yield from ((name, spec) for name, spec in signature.inputs.items() if name not in fed)


def _outputs(
    stages: Sequence[Options], signature: Signature
) -> Iterator[tuple[str, Kind | TensorSpec]]:
    reading = {one.output: one for one in stages if isinstance(one, LabelsOptions)}
    for name, spec in signature.outputs.items():
        options = reading.get(name)
        if options is None:
            yield name, spec
            continue
        label, *score = given_by(options)
        yield label, "label"
        axes = tuple(spec.shape or ())[:-1]
        kept = axes if options.top_k == 1 else (*axes, options.top_k)
        yield from ((one, spec.with_shape(kept)) for one in score)
