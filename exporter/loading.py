"""From an artifact to a model that can be called: the whole lower line of the map, on one page."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from exporter import choices, notices
from exporter.artifact import records
from exporter.artifact.layout import VARIABLES, as_path, checked_when_read
from exporter.artifact.layout import verify as verify_files
from exporter.artifact.manifest import read as read_manifest
from exporter.artifact.programs import read_program
from exporter.artifact.reading import unmixed
from exporter.artifact.variables import read_variables
from exporter.jax_dispatch import is_top_level
from exporter.jax_internals import ProgramReader
from exporter.runtime.assembly import Blueprint
from exporter.runtime.compat import (
    check_backend,
    check_process,
    check_program,
    check_runtime,
    check_tags,
)
from exporter.runtime.compiling import Compiler
from exporter.runtime.concrete import LoadedConcrete
from exporter.runtime.executables import ExecutableCache, cache_of
from exporter.runtime.model import LoadedModel
from exporter.runtime.origin import Origin
from exporter.runtime.placement import Placement, Shardings, placement_of
from exporter.variable import Variable, mark_donated, without_value
from signatures.dtypes import as_dtype

if TYPE_CHECKING:
    from exporter.runtime.warming import Plan


def load(
    path: str | os.PathLike[str],
    *,
    mesh: jax.sharding.Mesh | None = None,
    sharding: Shardings | None = None,
    device: jax.Device | str | None = None,
    verify: bool = True,
    only: str | Sequence[str] | None = None,
    skip_variables: bool = False,
    tags: str | Sequence[str] | None = None,
    custom_calls: Sequence[str] = (),
    cache: bool | str | os.PathLike[str] = True,
    warm: bool | Mapping[str, int | Sequence[int]] = False,
) -> LoadedModel:
    """The model in the folder `path`. None of the code that made it is needed.

    Programs are compiled when they are first called, once for each shape, or found compiled in the
    cache. Nothing that was in the folder runs before. If another artifact is saved at `path`
    meanwhile, that one is loaded. The model needs the folder no more, except for its assets and for
    the samples when it is saved again or verified.

    Args:
      path: an artifact.
      mesh: the devices to run on. Each variable is split over the axes that it was split over when
        it was saved, and is whole on every device if it was not. Each device reads its part only.
      sharding: where each variable goes instead: a `NamedSharding` or `SingleDeviceSharding` for
        all; nested dicts of them in the shape of `loaded.variables`; or a function that gives one
        for a path such as `"layers/0/kernel"`, a shape and a dtype's name. Variables that are left
        out, or get `None`, are whole on every device of the others.
      device: where the variables are put: a device, or the name of a platform for its first one.
        With none of the three they go to JAX's default device.
      verify: whether the digest of every file that is needed is checked first.
      only: the attribute path of a part, as `exporter show` prints it, or several. The model then
        has these parts with the variables that their functions use, and nothing else: other
        programs and arrays are not read. Signatures stay that need nothing else.
      skip_variables: whether variables stay without values. Using one is then an error until it is
        given a value, as in `model.variables = tree`.
      tags: names that the artifact must have been saved with, among others.
      custom_calls: the native functions that programs may call by name although nobody promises
        that they exist, for example kernels that this process has registered with `jax.ffi`.
      cache: where compiled programs are kept for other processes: `True` is the user's own cache,
        `$XDG_CACHE_HOME/jax-exporter/executables` or the same in `~/.cache`; `False` is nowhere. A
        folder may hold what `exporter compile` left there; programs of that folder are native code
        that runs here, so choose none that strangers could have filled. What others can write to
        is not read, with a warning. A run of several processes has no cache.
      warm: what to compile now instead of when it is first called: sizes of named axes, as in
        `{"batch": (1, 8), "seq": 128}`, for every signature with each combination of the sizes of
        its axes; or `True` for the signatures whose shapes are fixed and the shapes of the samples
        that were saved with the model. Signatures with axes that have no name are compiled for
        the shapes of their samples only.

    Raises:
      OptionError: if `path` is no path, `only`, `tags` or `custom_calls` are not text, `verify` or
        `skip_variables` is no flag, `cache` is no folder, or `warm` lacks the size of an axis, has
        one that is not allowed, or names an axis that is not there.
      UnknownPartError: if `only` leads to nothing, listing where it could lead.
      ArtifactNotFoundError: if there is no artifact at `path`.
      FormatVersionError: if it is of a format that this version does not read.
      ArtifactError: if a file is missing or damaged, naming it.
      ArtifactReplacedError: if others save there again and again faster than it can be read.
      UnsafeProgramError: if a program calls native code nobody has vouched for.
      IncompatibleRuntimeError: if this JAX or this machine cannot run it, or this process was
        forked from one that has loaded already.
      PlacementError: if variables cannot be placed so, naming each.
    """
    folder = as_path("path", path)
    choices.check_flag("verify", verify)
    choices.check_flag("skip_variables", skip_variables)
    vouched = choices.as_calls(custom_calls)
    wanted = choices.as_sizes(warm)
    chosen = choices.as_cache(cache)
    check_process()
    check_backend()
    kept = cache_of(chosen)
    place = partial(placement_of, mesh=mesh, sharding=sharding, device=device)

    def read() -> "tuple[LoadedModel, Plan | None]":
        whole = manifest = read_manifest(folder)
        check_tags(manifest, () if tags is None else choices.as_tags(tags), folder)
        if only is not None:
            from exporter.runtime.parts import part_of

            manifest = part_of(whole, choices.as_paths("only", only))
        plan = None
        if wanted is not False:
            from exporter.runtime.warming import planned

            plan = planned(manifest, None if wanted is True else wanted)
        model = _load(
            folder,
            manifest,
            place,
            verify=verify,
            skip_variables=skip_variables,
            custom_calls=vouched,
            cache=kept,
        )
        model.__dict__["__signatures__"] = model.signatures.without(whole.signatures)
        return model, plan

    with jax.ensure_compile_time_eval():  # arrays have values, even where somebody traces
        model, plan = unmixed(folder, read)
        if kept and not isinstance(cache, bool) and (problem := kept.reading_problem()):
            notices.warn(f"cache= is of no use: {problem}.")
    if plan is not None and is_top_level():  # nobody calls compiled code in a trace
        _compile(model, plan)
    return model


def _load(
    folder: Path,
    manifest: records.Manifest,
    place: Callable[..., Placement],
    *,
    verify: bool,
    skip_variables: bool,
    custom_calls: Sequence[str],
    cache: ExecutableCache | None,
) -> LoadedModel:
    skipped = f"{VARIABLES}/" if skip_variables else None
    files = [one for one in manifest.files if verify and not _is_below(one.path, skipped)]
    if verify:
        verify_files(folder, files, late=checked_when_read(files))
    check_runtime(manifest, folder)
    sizes = {file.path: file.size for file in manifest.files}
    bytecode, reader = [], ProgramReader()
    for record in manifest.programs:
        bytecode.append(read_program(folder, record.file, sizes))
        file = folder / record.file
        check_program(bytecode[-1], file, record, manifest.variables, custom_calls, reader=reader)
    placement = place(manifest.variables)
    if skip_variables:
        variables = [_without_value(record) for record in manifest.variables]
    else:
        values = read_variables(folder, manifest.variables, placement.variables, files=files)
        variables = [
            Variable(
                value,
                record.trainable,
                record.name,
                collection=record.collection,
                label="/".join(record.key),
            )
            for record, value in zip(manifest.variables, values, strict=True)
        ]
    for program in manifest.programs:
        for number in set(program.variables) & set(program.updates):
            mark_donated(variables[number])
    blueprint = Blueprint.of(folder, manifest, bytecode, placement, Compiler(cache))
    return blueprint.assembled(variables)


def _compile(model: LoadedModel, plan: "Plan") -> None:
    """Compile what is planned, and tell what is not."""
    for case in plan.cases:
        concrete_of(model, case.concrete).prepare(case.shapes)
    for name, reason in plan.left_out.items():
        notices.warn(f"signature {name!r} is not compiled ahead: {reason}.")


def concrete_of(model: LoadedModel, number: int) -> LoadedConcrete:
    """The concrete function of that number in the manifest that a whole model was loaded from."""
    origin: Origin = model.__dict__["__origin__"]
    return origin.concrete[number]


def _is_below(path: str, folder: str | None) -> bool:
    return folder is not None and path.startswith(folder)


def _without_value(record: records.VariableRecord) -> Variable:
    return without_value(
        record.shape,
        as_dtype(record.dtype),
        record.trainable,
        record.name,
        collection=record.collection,
        label="/".join(record.key),
    )
