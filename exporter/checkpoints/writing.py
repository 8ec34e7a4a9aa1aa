"""Steps on disk, as Orbax and its manager write and keep them."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from exporter.artifact import checkpoint
from exporter.artifact.layout import VARIABLES
from exporter.artifact.variables import tree_on_disk
from exporter.checkpoints.tracked import Tracked
from exporter.errors import CheckpointError
from exporter.staging.slots import own, undisturbed
from exporter.staging.state import check_values
from exporter.staging.tracing import LOCK


@dataclass(frozen=True)
class Snapshot:
    """The arrays as they are now, in the form in which Orbax takes them."""

    tree: dict[str, Any]
    document: dict[str, Any]

    @classmethod
    def of(cls, tracked: Tracked) -> "Snapshot":
        """The values of the tracked arrays.

        Raises:
          TrackingError: if one has no value that could be saved.
        """
        places = [variable.place for variable in tracked.variables.values()]
        with LOCK, undisturbed(places):
            check_values(tracked.variables.values())
            records = list(tracked.records().values())
            values = [own(place) for place in places]
            # Arrays of NumPy may be changed while Orbax writes.
            values = [np.array(v) if isinstance(v, np.ndarray) else v for v in values]
        document = checkpoint.to_json(records, values, tracked.aliases | tracked.equals)
        return cls(tree_on_disk(records, values), document)

    def arguments(self) -> Any:
        """What Orbax's `save` takes."""
        import orbax.checkpoint as ocp

        items = {checkpoint.ITEM: ocp.args.JsonSave(self.document)}
        if self.tree:  # Orbax refuses an empty one
            items[VARIABLES] = ocp.args.PyTreeSave(self.tree)
        return ocp.args.Composite(**items)


def _handlers() -> dict[str, Any]:
    import orbax.checkpoint as ocp

    return {
        VARIABLES: ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False),
        checkpoint.ITEM: ocp.JsonCheckpointHandler(checkpoint.FILE),
    }


@contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Names the folder in what Orbax and the disk have against a checkpoint."""
    try:
        yield
    except Exception as error:  # Orbax passes on whatever the disk and TensorStore raise
        raise CheckpointError(
            f"the checkpoint '{folder}' was not written: {error}. Save to a folder that this "
            "process may write to, on a disk with room for it."
        ) from error


def write_folder(folder: Path, snapshot: Snapshot) -> None:
    """Write one checkpoint, which appears whole or not at all.

    Raises:
      CheckpointError: if the disk does not take it.
    """
    import orbax.checkpoint as ocp

    with naming(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler(**_handlers())) as checkpointer:
            checkpointer.save(folder, args=snapshot.arguments())


@cache
def _unfinished() -> set["Keeper"]:
    """The managers that write in the background. A process that ends waits for them.

    It has to wait before Python closes its thread pools, which Orbax needs for the last steps and
    which happens before `atexit` runs. This place in the order has no public name.
    """
    found: set[Keeper] = set()

    def finish() -> None:
        for keeper in list(found):
            try:
                keeper.close()
            except CheckpointError as error:  # the others are to be finished too
                sys.excepthook(type(error), error, error.__traceback__)

    threading._register_atexit(finish)  # type: ignore[attr-defined]  # noqa: SLF001  # see above
    return found


class Keeper:
    """Orbax's manager of one directory, for one save."""

    def __init__(
        self, directory: Path, *, max_to_keep: int | None, interval: int, asynchronous: bool
    ) -> None:
        """A manager that knows what is in the directory now.

        Raises:
          CheckpointError: if the directory cannot be made or read.
        """
        import orbax.checkpoint as ocp

        self._directory = directory
        options = ocp.CheckpointManagerOptions(
            max_to_keep=max_to_keep,
            save_interval_steps=interval,
            enable_async_checkpointing=asynchronous,
        )
        with naming(directory):
            self._manager = ocp.CheckpointManager(
                directory, options=options, item_handlers=_handlers()
            )
        self._step: int | None = None
        if asynchronous:
            _unfinished().add(self)

    def passes_over(self, directory: Path, step: int | None) -> bool:
        """Whether it is known, without waiting for the last step, that a later one is not due."""
        if step is None or self._step is None or directory != self._directory:
            return False
        return step > self._step and not self.is_due(step)

    def is_due(self, step: int) -> bool:
        """Whether the interval asks for a checkpoint at this step."""
        return bool(self._manager.should_save(step))

    def save(self, step: int, snapshot: Snapshot) -> None:
        """Write the step, or begin to, and remove those that are too many."""
        self._step = step
        with naming(self._directory / str(step)):
            self._manager.save(step, args=snapshot.arguments(), force=True)

    def close(self) -> None:
        """Wait until everything is written.

        Raises:
          CheckpointError: if it could not be.
        """
        with naming(self._directory / str(self._step)):
            try:
                _unfinished().discard(self)
                self._manager.wait_until_finished()
            finally:
                self._manager.close()
