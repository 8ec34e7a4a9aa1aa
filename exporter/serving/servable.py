"""A version that is served: loaded, compiled for the shapes in use, tried, then called."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from exporter.artifact.batching import batching_of
from exporter.artifact.manifest import read as read_manifest
from exporter.artifact.records import Manifest
from exporter.batching import Batching
from exporter.errors import OptionError, VerificationError
from exporter.loading import concrete_of, load
from exporter.progress import Progress, steps
from exporter.replay import replay
from exporter.runtime.compiling import Outcome
from exporter.runtime.model import LoadedModel
from exporter.runtime.origin import Origin
from exporter.serving.batcher import Batch, Batcher, Lane
from exporter.serving.joining import Joining, batch_axis
from exporter.serving.method import Computation, Method
from exporter.serving.repository import Found
from exporter.serving.shapes import Shapes, shapes_of
from signatures.resolver import DEFAULT, resolve_call

if TYPE_CHECKING:
    from exporter.stages.pipeline import HostStages

# How many calls may wait that are not joined.
_MAX_WAITING = 1024


@dataclass(frozen=True)
class Options:
    """How versions are loaded and called.

    Attributes:
      batching: how calls are joined, by the names of a model and a signature, where it is not as
        the artifact says. An empty name of a signature stands for all of the model, and an empty
        name of a model for all.
      mesh: the devices to run on, or `None` for the default one.
      cache: where compiled programs are kept, as for `exporter.load`.
      custom_calls: as for `exporter.load`.
      tries_samples: whether the samples of a version must agree before it is served.
    """

    batching: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    mesh: jax.sharding.Mesh | None = None
    cache: bool | Path = True
    custom_calls: Sequence[str] = ()
    tries_samples: bool = True

    def batching_of(self, model: str, signature: str) -> Mapping[str, Any] | None:
        """What is said of the batching of a signature: the more special, the more it counts."""
        places = (("", ""), (model, ""), (model, signature))
        said = [self.batching[place] for place in places if place in self.batching]
        merged: dict[str, Any] = {}
        for one in said:
            merged |= one
        return merged if said else None


class Servable:
    """A version of a model, ready to be called.

    Attributes:
      found: where it is.
      manifest: what its artifact says.
      methods: its signatures by name.
      outcomes: what became of each program that was compiled, so far.
    """

    def __init__(
        self,
        found: Found,
        model: LoadedModel,
        computations: Mapping[str, Computation],
        methods: Mapping[str, Method],
        batcher: Batcher,
    ) -> None:
        """A version with its signatures, which a batcher computes."""
        self.found = found
        self.manifest: Manifest = model.manifest
        self.methods = dict(methods)
        self.outcomes: Sequence[Outcome] = model.__dict__["__origin__"].outcomes
        self._computations = dict(computations)
        self._batcher = batcher
        self._default = next(iter(methods)) if len(methods) == 1 else DEFAULT

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.found.model}/{self.found.version}"

    @property
    def default(self) -> Method | None:
        """The signature that is called when none is named, if there is one."""
        return self.methods.get(self._default)

    def method(self, name: str | None) -> Method:
        """The signature of that name, or the default one.

        Raises:
          UnknownSignatureError: listing those there are.
        """
        wanted = self._default if name is None else name
        method = self.methods.get(wanted)
        return method or resolve_call(self.methods, wanted, self.manifest.signature_note)

    def rows_waiting(self) -> dict[str, int]:
        """How many rows wait for each signature."""
        return {name: method.lane.waiting.rows for name, method in self.methods.items()}

    def shapes(self) -> dict[str, list[Shapes]]:
        """The shapes that each signature has been called with."""
        return {name: list(one.shapes) for name, one in self._computations.items()}

    def close(self) -> None:
        """Finish what it took, and take no more. It returns at once."""
        self._batcher.close()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it has finished, and say whether it has."""
        return self._batcher.join(timeout)


def open_servable(
    found: Found,
    options: Options,
    observe: Callable[[str, int, Batch], None],
    in_use: Mapping[str, Sequence[Shapes]] | None = None,
    progress: Progress | None = None,
) -> Servable:
    """Load a version, compile it for the sizes of batches and the shapes in use, and try it.

    Args:
      found: the version.
      options: how.
      observe: is told of each batch, with the model and the version.
      in_use: the shapes that the signatures of the version before are called with.
      progress: is told how far it has come.

    Raises:
      ExporterError: if it cannot be loaded, or its samples do not agree.
    """
    _widen(read_manifest(found.folder))
    model = load(
        found.folder,
        mesh=options.mesh,
        cache=options.cache,
        custom_calls=options.custom_calls,
    )
    _share_code(model)
    stages = {
        name: model.pipelines[name].stages for name in model.pipelines if name in model.signatures
    }
    computations = {name: Computation(one) for name, one in model.signatures.items()}
    lanes = {
        name: _lane(model, name, one, _batching(model, name, found, options))
        for name, one in computations.items()
    }
    batcher = Batcher(
        f"{found.model}/{found.version}",
        list(lanes.values()),
        lambda batch: observe(found.model, found.version, batch),
    )
    try:
        methods = dict(_methods(model, lanes, batcher, stages))
        servable = Servable(found, model, computations, methods, batcher)
        _compile(model, methods, in_use or {}, progress)
        if options.tries_samples:
            _try_samples(model, found, progress)
    except BaseException:
        batcher.close()
        raise
    return servable


def _widen(manifest: Manifest) -> None:
    """Let JAX have 64-bit arrays if a model does. Others compute as before: their programs say."""
    if manifest.x64 and not jax.config.read("jax_enable_x64"):
        jax.config.update("jax_enable_x64", True)


def _share_code(model: LoadedModel) -> None:
    """Let no weights become constants of the code: a version with others needs none of its own."""
    origin: Origin = model.__dict__["__origin__"]
    for concrete in origin.concrete:
        for program in concrete.programs.values():
            program.embeds = False


def _batching(
    model: LoadedModel, name: str, found: Found, options: Options
) -> tuple[Batching, str] | None:
    """How the calls of a signature are joined and along which axis, or `None` if they are not."""
    saved = model.manifest.batching.get(name)
    said = options.batching_of(found.model, name)
    signature = model.signatures[name].signature
    axis = _row_wise(model.manifest, name)
    is_vouched = saved is not None or (found.model, name) in options.batching
    if axis is None and is_vouched:
        axis = batch_axis(signature)  # its author, or whoever serves it, says so
        if axis is None:
            raise OptionError(
                f"batching is set for signature {name!r} of {found.model!r}, which has no named "
                f"axis that is the first of every output: {signature}."
            )
    if axis is None:
        return None
    batching = replace(batching_of(saved) if saved else Batching(), **(said or {}))
    return (batching, axis) if batching.max_batch_size > 1 else None


def _row_wise(manifest: Manifest, name: str) -> str | None:
    """The axis along which the rows of a signature do not depend on each other, if it has one."""
    numbers = manifest.concrete_functions[manifest.signatures[name]].programs
    programs = [manifest.programs[number] for number in numbers]
    axes = {None if program.updates else program.row_wise for program in programs}
    return axes.pop() if len(axes) == 1 else None


def _lane(
    model: LoadedModel,
    name: str,
    computation: Computation,
    batching: tuple[Batching, str] | None,
) -> Lane:
    if batching is None:
        return Lane(name, computation, None, max_rows=_MAX_WAITING)
    how, axis = batching
    joining = Joining(model.signatures[name].signature.plain, axis, how)
    rows = joining.max_rows * how.max_enqueued_batches
    return Lane(
        name,
        computation,
        joining,
        max_rows=rows,
        delay=how.batch_timeout_micros / 1e6,
        is_pure=_row_wise(model.manifest, name) == axis,
    )


def _methods(
    model: LoadedModel,
    lanes: Mapping[str, Lane],
    batcher: Batcher,
    stages: "Mapping[str, HostStages]",
) -> Iterator[tuple[str, Method]]:
    for name, lane in lanes.items():
        signature = model.signatures[name].signature.plain
        yield name, Method(signature, batcher, lane, stages.get(name))


def _compile(
    model: LoadedModel,
    methods: Mapping[str, Method],
    in_use: Mapping[str, Sequence[Shapes]],
    progress: Progress | None,
) -> None:
    """Compile all that is known to be needed, each thing once."""
    cases = []
    for name, method in methods.items():
        number = model.manifest.signatures[name]
        signature = model.signatures[name].signature  # with keys as keys
        wanted = shapes_of(signature, method.lane.joining, in_use.get(name, ()))
        cases += [(number, shapes) for shapes in wanted]
    for number, shapes in steps(list(dict.fromkeys(cases)), "compiling", progress):
        concrete_of(model, number).prepare(shapes)


def _try_samples(model: LoadedModel, found: Found, progress: Progress | None) -> None:
    """Run what was recorded. Functions that change variables run on a copy of them.

    Raises:
      VerificationError: if a result is not what the original gave.
    """
    samples = model.manifest.samples
    if not samples:
        return
    changes = any(program.updates for program in model.manifest.programs)
    tried = model.with_variables({}) if changes else model
    origin: Origin = tried.__dict__["__origin__"]
    results = []
    for number, record in enumerate(steps(samples, "samples", progress)):
        results.append(replay(origin, record, number))
    wrong = [str(one) for one in results if not one.ok]
    if wrong:
        lines = "".join(f"\n  {one}" for one in wrong)
        raise VerificationError(
            f"{found.folder} gives other results than when it was saved:{lines}", results
        )
