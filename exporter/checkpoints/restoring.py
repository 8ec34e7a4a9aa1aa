"""What of a checkpoint belongs where in an object, and putting it there, all of it or nothing.

Restoring is strict: arrays that only one side has are an error, unless somebody says that they are
expected. TensorFlow's users say so after the fact, `restore(path).expect_partial()`, when it is too
late to raise. So a restore that is not complete changes nothing until its status is asked: the
status then raises or puts the arrays there. One that is dropped without having been asked warns,
and the object is not saved over the checkpoints before the matter is settled.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from exporter.artifact.checkpoint import Key
from exporter.artifact.records import VariableRecord, replace
from exporter.checkpoints.aliases import other_names
from exporter.checkpoints.stored import Stored
from exporter.checkpoints.tracked import Tracked
from exporter.errors import RestoreError
from exporter.jax_internals import weakly_typed
from exporter.keys import from_words, to_words
from exporter.staging.graph import TrackedVariable
from exporter.staging.slots import write_all
from exporter.staging.tracing import LOCK
from signatures.dtypes import as_dtype

_MAX_LINES = 10

_HOW = "To restore what both have all the same, call restore(...).expect_partial()."


@dataclass
class Plan:
    """Which array of a checkpoint goes where.

    Attributes:
      stored: the checkpoint.
      sources: for each array of the object its record, and the key it has in the checkpoint.
      variables: where these arrays live.
      missing: the arrays of the object that the checkpoint lacks, by path.
      extra: the arrays of the checkpoint that the object has no place for.
      is_applied: whether the arrays are in place.
      is_settled: whether they are, or somebody was told that they are not.
    """

    stored: Stored
    sources: Mapping[Key, tuple[VariableRecord, Key]]
    variables: Mapping[Key, TrackedVariable]
    missing: Sequence[str]
    extra: Sequence[str]
    is_applied: bool = False
    is_settled: bool = False

    def apply(self) -> None:
        """Put the arrays in place. If one cannot be read, none is.

        Raises:
          CheckpointError: if the checkpoint is damaged or has gone.
        """
        if self.is_applied:
            return
        self.is_settled = True  # also if it fails, which is told
        variables = [self.variables[key] for key in self.sources]
        present = [variable.read() for variable in variables]
        records = [replace(record, key=list(key)) for record, key in self.sources.values()]
        read = self.stored.read(records, [_sharding_of(value) for value in present])
        values = [_like(old, new) for old, new in zip(present, read, strict=True)]
        with LOCK:
            write_all([variable.place for variable in variables], values)
        self.is_applied = True

    def error(self) -> RestoreError:
        """What is not restored, and how to go on."""
        lines = [f"the checkpoint '{self.stored.folder}' does not hold what the object does:"]
        lines += _lines("only in the object", self.missing)
        lines += _lines("only in the checkpoint", self.extra)
        return RestoreError("\n".join([*lines, _HOW]), self.missing, self.extra)


def _lines(where: str, names: Sequence[str]) -> list[str]:
    lines = [f"  {name}: {where}" for name in names[:_MAX_LINES]]
    hidden = len(names) - len(lines)
    return [*lines, f"  and {hidden} more {where}"] if hidden else lines


def planned(tracked: Tracked, stored: Stored) -> Plan:
    """Which array goes where. Nothing is read or changed.

    Raises:
      RestoreError: if an array has another shape or dtype than its place, or none has a place.
    """
    records = tracked.records()
    sources = _sources(tracked, records, stored)
    misfits = {
        "/".join(key): f"the object has {_type(record)}, the checkpoint {stored.arrays[source]}"
        for key, (record, source) in sources.items()
        if not stored.fits(source, record)
    }
    if misfits:
        lines = [f"the checkpoint '{stored.folder}' does not fit the object:"]
        lines += [f"  {name}: {text}" for name, text in list(misfits.items())[:_MAX_LINES]]
        hidden = len(misfits) - _MAX_LINES
        lines += [f"  and {hidden} more"] if hidden > 0 else []
        lines += ["Nothing was restored. Make the object as it was when it was saved."]
        raise RestoreError("\n".join(lines), misfits=misfits)
    used = {source for _, source in sources.values()}
    extra = [
        "/".join(key)
        for key in stored.arrays
        if key not in used and used.isdisjoint(other_names(key, stored.aliases))
    ]
    missing = ["/".join(key) for key in records if key not in sources]
    plan = Plan(stored, sources, tracked.variables, missing, extra)
    if not sources and (missing or extra):
        error = plan.error()
        raise RestoreError(
            f"nothing matches: {error} Objects are named as when the checkpoint was saved: what "
            "was saved as Checkpoint(model) or as an artifact is not restored by "
            "Checkpoint(model=model).",
            missing,
            extra,
        )
    return plan


def _sources(
    tracked: Tracked, records: Mapping[Key, VariableRecord], stored: Stored
) -> dict[Key, tuple[VariableRecord, Key]]:
    """Where each array of the object is in the checkpoint: by its name there or another one."""
    by_other_name: dict[Key, Key] = {}
    for key in stored.arrays:
        for name in other_names(key, tracked.aliases):
            by_other_name.setdefault(name, key)
    sources = {}
    for key, record in records.items():
        names = [key, *other_names(key, stored.aliases)]
        source = next((name for name in names if name in stored.arrays), by_other_name.get(key))
        if source is not None:
            sources[key] = (record, source)
    return sources


def _type(record: VariableRecord) -> str:
    return f"{record.dtype}[{', '.join(map(str, record.shape))}]"


def _sharding_of(value: jax.Array | np.ndarray) -> jax.sharding.Sharding:
    if isinstance(value, jax.Array):
        return value.sharding
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])


def _like(old: jax.Array | np.ndarray, new: jax.Array) -> jax.Array | np.ndarray:
    """The new array in the form of the one that it replaces.

    One that was bound to no device must not be bound afterwards, or it could no longer be used
    together with arrays on other devices.
    """
    if isinstance(old, np.ndarray):
        return np.array(new).astype(old.dtype)
    if not old.committed:
        words = jnp.asarray(np.asarray(to_words(new)))
        new = from_words(words, as_dtype(old.dtype))
    return weakly_typed(new) if getattr(old, "weak_type", False) else new


class RestoreStatus:
    """How a restore went. If it was complete, the object has the arrays.

    If it was not, the object is as it was until the status is asked by one of its methods, which
    raises or gives the object all arrays that both sides have. Each returns the status itself.

    Attributes:
      path: the folder that was restored from, or `None` if there was nothing to restore.
    """

    def __init__(self, plan: Plan | None) -> None:
        """The status of a plan. `None` stands for `restore(None)`."""
        self._plan = plan
        self.path = None if plan is None else str(plan.stored.folder)

    @property
    def missing(self) -> tuple[str, ...]:
        """The arrays of the object that the checkpoint lacks, by path."""
        return tuple(self._plan.missing) if self._plan else ()

    @property
    def extra(self) -> tuple[str, ...]:
        """The arrays of the checkpoint that the object has no place for, by path."""
        return tuple(self._plan.extra) if self._plan else ()

    def expect_partial(self) -> "RestoreStatus":
        """Restore what both sides have, and accept the rest as it is."""
        if self._plan is not None:
            self._plan.apply()
        return self

    def assert_consumed(self) -> "RestoreStatus":
        """Nothing is left on either side.

        Raises:
          RestoreError: naming what is, or that there was nothing to restore.
        """
        return self._without(*self.missing, *self.extra)

    def assert_existing_objects_matched(self) -> "RestoreStatus":
        """Every array of the object is restored; the checkpoint may hold more.

        Raises:
          RestoreError: naming those that are not, or that there was nothing to restore.
        """
        return self._without(*self.missing)

    def assert_nontrivial_match(self) -> "RestoreStatus":
        """At least one array is restored. `restore` itself raises if none can be.

        Raises:
          RestoreError: if there was nothing to restore.
        """
        return self._without()

    def _without(self, *unwanted: str) -> "RestoreStatus":
        if self._plan is None:
            raise RestoreError(
                "nothing was restored: restore(None) was called, as when there is no checkpoint "
                "yet. Look at Checkpoint.latest(directory) first."
            )
        if unwanted:
            self._plan.is_settled = True  # whoever asked knows now
            raise self._plan.error()
        self._plan.apply()
        return self

    def __repr__(self) -> str:
        state = "restored" if self._plan and self._plan.is_applied else "nothing restored"
        return f"<RestoreStatus of {self.path}: {state}, {_counts(self.missing, self.extra)}>"

    def __del__(self) -> None:
        plan = getattr(self, "_plan", None)
        if plan is not None and not plan.is_settled:
            warnings.warn(f"nothing was restored: {plan.error()}", stacklevel=2)


def _counts(missing: Iterable[str], extra: Iterable[str]) -> str:
    return f"{len(list(missing))} missing, {len(list(extra))} extra"
