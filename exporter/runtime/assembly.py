"""Programs and variables put together to a model, as often as there are variables for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.artifact import encoding, records
from exporter.artifact.assets import read_asset
from exporter.runtime.bound import Binder
from exporter.runtime.compiling import Compiler, Outcome
from exporter.runtime.concrete import LoadedConcrete
from exporter.runtime.functions import LoadedFunction, LoadedSignature
from exporter.runtime.model import LoadedModel, Signatures
from exporter.runtime.origin import Origin
from exporter.runtime.placement import Placement
from exporter.runtime.programs import LoadedProgram
from exporter.runtime.tree import build
from exporter.variable import Variable, held, local_copy
from signatures.spec import TensorSpec

if TYPE_CHECKING:
    from exporter.stages.pipeline import HostStages


@dataclass(frozen=True, eq=False)
class Blueprint:
    """All of a model but its variables. Models made from it share programs and compiled code.

    Attributes:
      folder: where the artifact is.
      manifest: what it says.
      programs: its programs, in the manifest's order.
      stages: the stages of its signatures, of those of whose kinds we know all.
      outcomes: what became of each program that was compiled, so far.
    """

    folder: Path
    manifest: records.Manifest
    programs: Sequence[LoadedProgram]
    stages: "Mapping[str, HostStages]"
    outcomes: Sequence[Outcome]

    @classmethod
    def of(
        cls,
        folder: Path,
        manifest: records.Manifest,
        bytecode: Sequence[bytes],
        placement: Placement,
        compiler: Compiler,
    ) -> "Blueprint":
        """The blueprint of an artifact. Nothing is compiled yet."""
        changed = frozenset(number for one in manifest.programs for number in one.updates)
        specs = [TensorSpec(record.shape, record.dtype) for record in manifest.variables]
        names = {
            number: concrete.name
            for concrete in manifest.concrete_functions
            for number in concrete.programs
        }
        orders = dict.fromkeys(names, 0)
        for number, record in enumerate(manifest.programs):  # derivatives come after their programs
            if record.vjp is not None:
                names[record.vjp] = names.get(number, "a program")
                orders[record.vjp] = orders.get(number, 0) + 1
        made: dict[int, LoadedProgram] = {}
        for number, record in reversed(list(enumerate(manifest.programs))):
            made[number] = LoadedProgram(
                names.get(number, "a program"),
                record,
                bytecode[number],
                [specs[variable] for variable in record.variables],
                [specs[variable] for variable in record.updates],
                changed=changed,
                placement=placement,
                compiler=compiler,
                derivative=None if record.vjp is None else made[record.vjp],
                order=orders.get(number, 0),
            )
        read = partial(read_asset, folder.resolve(), manifest.files)
        programs = [made[number] for number in range(len(made))]
        stages: dict[str, HostStages] = {}
        if manifest.stages:  # most have none, and need not pay for the import
            from exporter.stages.pipeline import host_stages

            stages = host_stages(manifest, read)
        return cls(folder, manifest, programs, stages, compiler.outcomes)

    def assembled(self, variables: Sequence[Variable]) -> LoadedModel:
        """The model with these variables, in the manifest's order."""
        root: LoadedModel = self._nodes(variables)[0]
        return root

    def _nodes(self, variables: Sequence[Variable]) -> Mapping[int, Any]:
        """What each node of the saved tree becomes; the first is the whole model."""
        manifest = self.manifest
        concrete = self._concrete(variables)
        functions = [
            LoadedFunction(
                record.name,
                record.doc,
                encoding.parameters_of(record.parameters),
                [concrete[number] for number in record.concrete],
                by_input=record.by_input,
            )
            for record in manifest.functions
        ]

        def signatures(numbers: Mapping[str, int], note: str | None = None) -> Signatures:
            found = {
                name: LoadedSignature(
                    name, concrete[number], _owner(number, manifest, functions, concrete)
                )
                for name, number in numbers.items()
            }
            return Signatures(found, note)

        nodes = build(manifest, variables, functions, signatures, self.folder)
        books = nodes[0].__dict__
        books["__variables__"] = [
            (tuple(record.key), variable)
            for record, variable in zip(manifest.variables, variables, strict=True)
        ]
        books["__signatures__"] = signatures(manifest.signatures, manifest.signature_note)
        if manifest.stages:
            from exporter.stages.pipeline import Pipeline, Pipelines

            named = books["__signatures__"]
            pipelines = {name: Pipeline(one, named[name]) for name, one in self.stages.items()}
            books["__pipelines__"] = Pipelines(manifest.stages, pipelines, named)
        books["__manifest__"] = manifest
        books["__origin__"] = Origin(
            self.folder.resolve(), manifest, functions, concrete, self.outcomes
        )
        for index, node in nodes.items():
            if isinstance(node, LoadedModel):
                node.__dict__["__remade__"] = partial(self._remade, index, variables)
        return nodes

    def _concrete(self, variables: Sequence[Variable]) -> list[LoadedConcrete]:
        changed = {number for one in self.manifest.programs for number in one.updates}
        binder = Binder(variables, changed)
        return [
            LoadedConcrete(
                record,
                encoding.signature_of(self.manifest, index),
                [binder.bound(self.programs[number]) for number in record.programs],
            )
            for index, record in enumerate(self.manifest.concrete_functions)
        ]

    def _remade(
        self, index: int, variables: Sequence[Variable], values: Mapping[Variable, object]
    ) -> LoadedModel:
        """The model at a node once more, with other values in some variables."""
        with held(variables):
            copies = [local_copy(one, values) for one in variables]
        model: LoadedModel = self._nodes(copies)[index]
        return model


def _owner(
    number: int,
    manifest: records.Manifest,
    functions: Sequence[LoadedFunction],
    concrete: Sequence[LoadedConcrete],
) -> LoadedFunction:
    """The function that a signature's concrete function belongs to, attached or not."""
    for record, function in zip(manifest.functions, functions, strict=True):
        if number in record.concrete:
            return function
    return LoadedFunction(concrete[number].record.name, None, [], [concrete[number]])
