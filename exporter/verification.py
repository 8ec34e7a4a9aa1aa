"""Whether a saved model is intact, fits this machine, and still computes what the original did.

Each part of an artifact is judged by itself, so that one report has all that is wrong. A part rests
on others: variables are read from files, and samples need the programs and the variables. What
cannot be judged for that reason says so.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from exporter import choices
from exporter.artifact.layout import MANIFEST, VARIABLES, as_path, unrecorded_files
from exporter.artifact.layout import verify as verify_files
from exporter.artifact.manifest import read as read_manifest
from exporter.artifact.programs import read_program
from exporter.artifact.reading import unmixed
from exporter.artifact.records import Manifest, replace
from exporter.artifact.variables import read_variables
from exporter.errors import (
    ArtifactError,
    ArtifactNotFoundError,
    AuthenticityError,
    FormatVersionError,
    IncompatibleRuntimeError,
    OptionError,
)
from exporter.jax_internals import ProgramReader
from exporter.loading import load
from exporter.progress import Progress, steps
from exporter.replay import replay, told
from exporter.runtime.compat import check_backend, check_program, check_runtime
from exporter.runtime.model import LoadedModel
from exporter.runtime.origin import Origin
from exporter.runtime.placement import placement_of
from exporter.signing import check_signature
from exporter.verdicts import Part, PartName, SampleResult, VerificationReport

_BESIDE_THE_MANIFEST: tuple[PartName, ...] = ("files", "programs", "variables", "samples")


@dataclass(frozen=True)
class _Subject:
    """What is judged, and how.

    Attributes:
      folder: the artifact.
      manifest: what it says.
      damage: what is wrong with its files, by their paths.
      device: where it is to run, as `load` takes it.
      custom_calls: the native functions that its programs may call.
      rtol: in place of the tolerance of a dtype, relative to the expected element.
      atol: the tolerance beside it.
      progress: is told how far the judging has come.
    """

    folder: Path
    manifest: Manifest
    damage: Mapping[str, str]
    device: jax.Device | str | None
    custom_calls: Sequence[str]
    rtol: float | None
    atol: float | None
    progress: Progress | None


def verify(
    path: str | os.PathLike[str],
    *,
    device: jax.Device | str | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    custom_calls: Sequence[str] = (),
    key: str | os.PathLike[str] | None = None,
    signature: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> VerificationReport:
    """Judge each part of an artifact: its files, its programs, its variables and its samples.

    The digest of every file is computed. Every program is read and compared with what the manifest
    says of it and with what this JAX and this machine can run. The variables are loaded. Samples
    run in the order in which they were taken, on variables as they were saved, and the results are
    compared with those of the original. Integers, flags and random keys must be equal; NaN equals
    NaN, and an infinity itself. Floats must agree in two thirds of the digits of their dtype
    (2.4e-5 for float32, 4e-2 for bfloat16), relative to the expected element or to the median
    magnitude of all. GPUs and TPUs multiply float32 matrices with fewer digits unless
    `jax_default_matmul_precision` is raised: pass `rtol=1e-2` there.

    Nothing is changed in the artifact or in another loaded model. What is wrong is in the report,
    as far as it can be told: if a program is damaged, no sample is run. If another artifact is
    saved at `path` meanwhile, that one is judged from the beginning.

    Args:
      path: an artifact. Without samples, saved with `samples=`, no result is compared.
      device: where to run: a device, or the name of a platform for its first one.
      rtol: the tolerance relative to the expected element, in place of the one of its dtype.
      atol: the tolerance beside it, in place of `rtol` times the median magnitude.
      custom_calls: as for `load`.
      key: the public key of whoever signed the artifact, as a PEM file. Where its signature does
        not fit, nothing else is judged and nothing is run.
      signature: the file with the signature, by default the path of the folder followed by `.sig`.
      progress: called with `files`, `programs` or `samples`, how many of them are done, and how
        many there are.

    Returns:
      A report. `report.ok` says whether all is well, and `report.raise_if_failed()` raises if not.

    Raises:
      ArtifactNotFoundError: if there is no artifact at `path`.
      ArtifactReplacedError: if others save there again and again faster than it can be judged.
      FormatVersionError: if it is of a format that this version does not read.
      PlacementError: if there is no such device.
      OptionError: if an option has a value that cannot be, `key` is no public key, or there is a
        `signature` without one.
      IncompatibleRuntimeError: if JAX cannot start here.
    """
    folder, vouched = as_path("path", path), choices.as_calls(custom_calls)
    choices.check_progress(progress)
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if tolerance is not None:
            choices.check_tolerance(name, tolerance)
    check_backend()
    place = _place(device)
    platform = jax.default_backend() if place is None else place.platform

    def judged() -> VerificationReport:
        signer = _signer(folder, key, signature)
        if signer and signer[0].state == "failed":
            reason = "not judged, for nobody knows who it is from"
            unjudged = tuple(
                Part(name, "none", reason) for name in ("manifest", *_BESIDE_THE_MANIFEST)
            )
            return VerificationReport(folder, platform, (*signer, *unjudged))
        try:
            manifest = read_manifest(folder)
        except (ArtifactNotFoundError, FormatVersionError):
            raise
        except ArtifactError as error:
            return VerificationReport(folder, platform, (*signer, *_without_manifest(error)))
        damage = _damage(folder, manifest, progress)
        subject = _Subject(folder, manifest, damage, device, vouched, rtol, atol, progress)
        programs = _programs(subject)
        model, variables = _variables(subject, programs)
        with jax.default_device(place) if place is not None else contextlib.nullcontext():
            samples, results = _samples(subject, model)
        parts = (
            *signer,
            Part("manifest", "ok", f"format {manifest.format_version}, as it was written"),
            _files(subject),
            programs,
            variables,
            samples,
        )
        extra = unrecorded_files(folder, manifest.files)
        return VerificationReport(folder, platform, parts, results, extra)

    return unmixed(folder, judged)


def _place(device: jax.Device | str | None) -> jax.Device | None:
    rest = placement_of((), device=device).rest
    return None if rest is None else next(iter(rest.device_set))


def _signer(
    folder: Path,
    key: str | os.PathLike[str] | None,
    signature: str | os.PathLike[str] | None,
) -> tuple[Part, ...]:
    """Whether the folder is what was signed, or no part if nobody asks."""
    if key is None:
        if signature is not None:
            raise OptionError("signature= needs key=, the public key of whoever signed.")
        return ()
    try:
        file = check_signature(folder, key, signature)
    except AuthenticityError as error:
        return (Part("signer", "failed", "the signature does not fit", (told(error),)),)
    return (Part("signer", "ok", f"{file} was signed with the key of {key}"),)


def _without_manifest(error: ArtifactError) -> tuple[Part, ...]:
    return (
        Part("manifest", "failed", f"{MANIFEST} cannot be used", (told(error),)),
        *(
            Part(name, "none", "not judged, only the manifest tells what should be there")
            for name in _BESIDE_THE_MANIFEST
        ),
    )


def _damage(folder: Path, manifest: Manifest, progress: Progress | None) -> dict[str, str]:
    found = {}
    for record in steps(manifest.files, "files", progress):
        try:
            verify_files(folder, [record])
        except ArtifactError as error:
            found[record.path] = told(error)
    return found


def _files(subject: _Subject) -> Part:
    files = subject.manifest.files
    if not files:
        return Part("files", "none", "there are none beside the manifest")
    size = sum(record.size for record in files)
    if subject.damage:
        detail = f"{len(subject.damage)} of {len(files)} damaged"
        return Part("files", "failed", detail, tuple(subject.damage.values()))
    return Part("files", "ok", f"{len(files)} of {size:,} bytes, each with its digest")


def _programs(subject: _Subject) -> Part:
    programs = subject.manifest.programs
    if not programs:
        return Part("programs", "none", "there are none")
    problems = (*_unsuited(subject), *_unreadable(subject))
    here = f"JAX {jax.__version__} on {jax.default_backend()}"
    if problems:
        return Part(
            "programs", "failed", f"not all of {len(programs)} can be used by {here}", problems
        )
    return Part("programs", "ok", f"{len(programs)} suit {here}")


def _unsuited(subject: _Subject) -> list[str]:
    """Why programs cannot run here: of the artifact as a whole, unless only some of them cannot."""
    found = {}
    for record in subject.manifest.programs:
        alone = replace(subject.manifest, programs=[record], platforms=record.platforms)
        try:
            check_runtime(alone, subject.folder / record.file)
        except IncompatibleRuntimeError as error:
            found[record.file] = told(error)
    if 0 < len(found) < len(subject.manifest.programs):
        return list(found.values())
    try:
        check_runtime(subject.manifest, subject.folder)
    except IncompatibleRuntimeError as error:
        return [told(error)]
    return []


def _unreadable(subject: _Subject) -> list[str]:
    """What is wrong with the programs themselves."""
    manifest, problems, reader = subject.manifest, [], ProgramReader()
    sizes = {file.path: file.size for file in manifest.files}
    for record in steps(manifest.programs, "programs", subject.progress):
        if record.file in subject.damage:
            problems.append(f"{record.file} is damaged")
            continue
        file = subject.folder / record.file
        try:
            bytecode = read_program(subject.folder, record.file, sizes)
            check_program(
                bytecode, file, record, manifest.variables, subject.custom_calls, reader=reader
            )
        except ArtifactError as error:
            problems.append(told(error))
    return problems


def _variables(subject: _Subject, programs: Part) -> tuple[LoadedModel | None, Part]:
    """The model with its variables, if it can be had, and the verdict on these."""
    records = subject.manifest.variables
    below = [path for path in subject.damage if path.startswith(f"{VARIABLES}/")]
    if below:
        problems = tuple(f"{path} is damaged" for path in below)
        return None, Part("variables", "failed", f"the files of {len(records)} differ", problems)
    model = None
    try:
        # The digests of all files are computed already, and a damaged asset keeps nothing from
        # being called.
        if programs.state == "failed":
            places = placement_of(records, device=subject.device).variables
            read_variables(subject.folder, records, places)
        else:
            model = load(
                subject.folder,
                device=subject.device,
                verify=False,
                custom_calls=subject.custom_calls,
            )
    except ArtifactError as error:
        return None, Part("variables", "failed", "cannot be loaded", (told(error),))
    if not records:
        return model, Part("variables", "none", "there are none")
    return model, Part("variables", "ok", f"{len(records)} loaded")


def _samples(subject: _Subject, model: LoadedModel | None) -> tuple[Part, tuple[SampleResult, ...]]:
    records = subject.manifest.samples
    if not records:
        return Part("samples", "none", "it was saved without samples="), ()
    if model is None:
        return Part("samples", "none", "not run, since something they need has failed"), ()
    origin: Origin = model.__dict__["__origin__"]
    results = []
    for number, record in enumerate(steps(records, "samples", subject.progress)):
        if record.file in subject.damage:
            problem = f"{record.file} is damaged"
            results.append(SampleResult(record.name, number, (), problem))
        else:
            results.append(replay(origin, record, number, rtol=subject.rtol, atol=subject.atol))
    wrong = [one for one in results if not one.ok]
    if wrong:
        problems = tuple(f"sample {one.number} of {one.name}" for one in wrong)
        return Part("samples", "failed", f"{len(wrong)} of {len(results)} wrong", problems), (
            *results,
        )
    return Part("samples", "ok", f"{len(results)} agree"), (*results,)
