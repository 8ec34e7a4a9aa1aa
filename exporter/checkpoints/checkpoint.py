"""Training checkpoints: saved every some steps, kept or removed, restored into living objects."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

from exporter.artifact import checkpoint
from exporter.artifact.layout import is_artifact
from exporter.checkpoints import stored
from exporter.checkpoints.folders import found_at, local_path, steps_in, strangers_in
from exporter.checkpoints.restoring import Plan, RestoreStatus, planned
from exporter.checkpoints.tracked import follow
from exporter.checkpoints.writing import Keeper, Snapshot, write_folder
from exporter.display import cut, quiet
from exporter.errors import CheckpointError, CheckpointExistsError, RestoreError
from exporter.staging.tracing import LOCK, refuse_trace

Folder = str | os.PathLike[str]


class _Subject:
    """What is saved and restored, and what became of the last restore."""

    def __init__(self, root: object | None, objects: SimpleNamespace) -> None:
        self.root = root
        self.objects = objects
        self.plan: Plan | None = None

    def snapshot(self) -> Snapshot:
        """The arrays now. Not those of an object that should have been restored and was not."""
        if self.plan is not None and not self.plan.is_settled:
            raise RestoreError(
                f"the object was not restored, so it is not saved: {self.plan.error()}",
                self.plan.missing,
                self.plan.extra,
            )
        with LOCK:
            return Snapshot.of(follow(self.root, self.objects))

    def restore(self, path: Folder | None, *, partial: bool) -> RestoreStatus:
        """See `Checkpoint.restore`."""
        refuse_trace("restore")
        if path is None:
            return RestoreStatus(None)
        found = _stored_at(found_at(local_path(path)))
        with LOCK:
            self.plan = planned(follow(self.root, self.objects), found)
            complete = not self.plan.missing and not self.plan.extra
        if complete or partial:
            self.plan.apply()
        return RestoreStatus(self.plan)


def _stored_at(folder: Path) -> stored.Stored:
    if is_artifact(folder):
        return stored.of_artifact(folder)
    if checkpoint.is_checkpoint(folder):
        return stored.of_checkpoint(folder)
    return stored.of_orbax(folder)


class TrackableSaver:
    """Saves the arrays of one object to a folder, and restores them."""

    def __init__(self, obj: object) -> None:
        """A saver.

        Args:
          obj: an object that `exporter.save` takes. Its functions are not saved.
        """
        self._subject = _Subject(obj, SimpleNamespace())

    def save(self, file_prefix: Folder, checkpoint_number: int | None = None) -> str:
        """Write the arrays to `file_prefix-checkpoint_number`, or without a number `file_prefix`.

        Returns:
          The path of the folder, which `restore` takes.

        Raises:
          CheckpointExistsError: if there is something already.
          CheckpointError: if the disk does not take it.
          TrackingError: if the state of the object cannot be followed.
          TracingError: if JAX is tracing.
        """
        refuse_trace("TrackableSaver.save")
        prefix = local_path(file_prefix)
        number = "" if checkpoint_number is None else f"-{_step(checkpoint_number)}"
        folder = prefix.with_name(f"{prefix.name}{number}")
        if os.path.lexists(folder):
            raise CheckpointExistsError(
                f"cannot save to '{folder}': it exists. Pass another checkpoint_number, or remove "
                "it first."
            )
        write_folder(folder, self._subject.snapshot())
        return str(folder)

    def restore(self, path: Folder | None, *, partial: bool = False) -> RestoreStatus:
        """As `Checkpoint.restore`."""
        return self._subject.restore(path, partial=partial)


class Checkpoint:
    """The arrays of objects, saved step by step into a directory and restored from it.

    The objects are attributes of the checkpoint and can be assigned anew: an optimiser's state
    that is replaced at every step is assigned before saving, and read after restoring.

    Examples:
      >>> from exporter import Variable
      >>> checkpoint = Checkpoint(step=Variable(0), opt_state=())
      >>> checkpoint.step.value += 1
      >>> checkpoint.step
      Variable(Array(1, dtype=int32, weak_type=True))
    """

    def __init__(
        self,
        root: object | None = None,
        *,
        max_to_keep: int | None = None,
        save_interval_steps: int = 1,
        asynchronous: bool = False,
        **objects: object,
    ) -> None:
        """A checkpoint of objects that `exporter.save` could track. Functions are not saved.

        Python numbers and texts in the objects are not saved either: hold what changes in arrays.

        Args:
          root: an object whose arrays are saved under their own paths, as `exporter.save` does.
          max_to_keep: how many steps stay in the directory, the newest; `None` keeps all.
          save_interval_steps: only steps that this divides are saved, and the first one.
          asynchronous: whether `save` returns before everything is written. See `wait`.
          objects: further objects, saved below these names. Each holds arrays or is one.

        Raises:
          CheckpointError: if a number is not positive, or a name is one of a method.
          TrackingError: if an object holds nothing that could be saved.
        """
        for name, number in (
            ("max_to_keep", max_to_keep),
            ("save_interval_steps", save_interval_steps),
        ):
            whole = isinstance(number, int) and not isinstance(number, bool)
            if number is not None and not (whole and number > 0):
                raise CheckpointError(f"expected a positive integer for {name}, got {number!r}.")
        self._subject = _Subject(root, SimpleNamespace())
        self._max_to_keep = max_to_keep
        self._interval = save_interval_steps
        self._asynchronous = asynchronous
        self._keeper: Keeper | None = None
        for name, value in objects.items():
            setattr(self, name, value)
        follow(root, self._subject.objects)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in vars(self._subject.objects):
            return getattr(self._subject.objects, name)
        raise AttributeError(f"this Checkpoint has no object {name!r}.")

    @quiet
    def __repr__(self) -> str:
        root = self._subject.root
        held = [type(root).__name__] if root is not None else []
        held += vars(self._subject.objects)
        return f"<Checkpoint of {cut(', '.join(held))}>"

    def __setattr__(self, name: str, value: object) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        elif hasattr(type(self), name):
            raise CheckpointError(f"Checkpoint.{name} is a method. Give the object another name.")
        else:
            setattr(self._subject.objects, name, value)

    def save(
        self, directory: Folder, step: int | None = None, *, asynchronous: bool | None = None
    ) -> str | None:
        """Write the arrays to the folder `directory/step`, which appears whole or not at all.

        What changes after the call is not in it, also where writing goes on in the background.

        Args:
          directory: where the steps are. It is made if it is not there.
          step: the number, greater than those in the directory. `None` takes the next one; the
            first is 1.
          asynchronous: as the constructor's, for this call.

        Returns:
          The path of the folder, which `restore` takes, or `None` if the step is not due.

        Raises:
          CheckpointExistsError: if the directory has this step or a later one, or something
            else that is named as a step is, such as artifacts by version.
          CheckpointError: if the disk does not take this step or, in the background, the last one.
          RestoreError: if a restore before was incomplete, and nobody said that this is expected.
          TrackingError: if the state of an object cannot be followed.
          TracingError: if JAX is tracing.
        """
        refuse_trace("Checkpoint.save")
        folder = local_path(directory)
        if self._keeper is not None and self._keeper.passes_over(folder, step):
            return None
        self.wait()
        number = self._number(folder, step)
        in_background = self._asynchronous if asynchronous is None else asynchronous
        snapshot = self._subject.snapshot()
        keeper = Keeper(
            folder,
            max_to_keep=self._max_to_keep,
            interval=self._interval,
            asynchronous=in_background,
        )
        self._keeper = keeper
        due = keeper.is_due(number)
        try:
            if due:
                keeper.save(number, snapshot)
        finally:
            if not (due and in_background):
                self.wait()
        return str(folder / str(number)) if due else None

    def _number(self, folder: Path, step: int | None) -> int:
        if is_artifact(folder):
            raise CheckpointExistsError(
                f"cannot save to '{folder}': it is an artifact, and nothing else belongs inside "
                "it. Save beside it."
            )
        strangers = strangers_in(folder)
        if strangers:
            raise CheckpointExistsError(
                f"cannot save to '{folder}': it holds {', '.join(map(repr, strangers[:3]))}, which "
                "no checkpoint is and which would be taken for a step. Save to another directory."
            )
        steps = steps_in(folder)
        newest = max(steps, default=0)
        if step is not None:
            if steps and _step(step) <= newest:
                raise CheckpointExistsError(
                    f"cannot save step {step} to '{folder}': its newest step is {newest}. Pass a "
                    "greater number or none, save to another directory, or remove the later steps."
                )
            return _step(step)
        if self._interval > 1:
            raise CheckpointError(
                "step= must be passed if save_interval_steps is not 1, or no step would ever be "
                "due. Pass the number of the training step."
            )
        return newest + 1

    def wait(self) -> None:
        """Wait until what is written in the background is on disk, as the process does at its end.

        Raises:
          CheckpointError: if it could not be written.
        """
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def restore(self, path: Folder | None, *, partial: bool = False) -> RestoreStatus:
        """Give the objects the arrays of a checkpoint, all or none.

        Arrays of another shape or dtype are an error at once. Where the objects and the checkpoint
        do not hold the same arrays, nothing is changed until the status is asked:
        `restore(path).expect_partial()` restores what both have, `restore(path).assert_consumed()`
        raises. A status that is dropped without having been asked warns, and `save` refuses to go
        on. Each array keeps the devices and the sharding of the one that it replaces.

        Args:
          path: a step; a directory of steps, for its newest one; an artifact, also spelled
            `artifact/variables` or `artifact/variables/variables`; or a checkpoint that Orbax wrote
            alone, of nested dicts and lists of arrays. `None`, as `latest` gives where there is no
            step yet, restores nothing, and the status says so.
          partial: whether it is expected that only some arrays match.

        Raises:
          CheckpointNotFoundError: if there is none, naming those that are near.
          RestoreError: if an array has another shape or dtype, or nothing matches.
          CheckpointError: if it is damaged.
          ArtifactError: if the artifact is.
          TracingError: if JAX is tracing.
        """
        self.wait()
        return self._subject.restore(path, partial=partial)

    @staticmethod
    def latest(directory: Folder) -> str | None:
        """The path of the newest step in a directory that is complete, or `None`."""
        steps = steps_in(local_path(directory))
        return str(steps[max(steps)]) if steps else None


def _step(number: object) -> int:
    if isinstance(number, int) and not isinstance(number, bool) and number >= 0:
        return number
    raise CheckpointError(f"expected a step that is a whole number from 0 on, got {number!r}.")
