"""How the calls of a signature are joined, as a manifest says it."""

from exporter.artifact.records import BatchingRecord, Manifest
from exporter.batching import Batching


def batching_record(batching: Batching) -> BatchingRecord:
    """It as a part of a manifest."""
    return BatchingRecord(
        max_batch_size=batching.max_batch_size,
        allowed_batch_sizes=list(batching.allowed_batch_sizes),
        batch_timeout_micros=batching.batch_timeout_micros,
        max_enqueued_batches=batching.max_enqueued_batches,
        enable_large_batch_splitting=batching.enable_large_batch_splitting,
        buckets={name: list(sizes) for name, sizes in batching.buckets.items()},
        pad_values={name: repr(float(value)) for name, value in batching.pad_values.items()},
    )


def batching_of(record: BatchingRecord) -> Batching:
    """The options of a part of a manifest.

    Raises:
      OptionError: if they cannot be.
    """
    return Batching(
        max_batch_size=record.max_batch_size,
        allowed_batch_sizes=tuple(record.allowed_batch_sizes),
        batch_timeout_micros=record.batch_timeout_micros,
        max_enqueued_batches=record.max_enqueued_batches,
        enable_large_batch_splitting=record.enable_large_batch_splitting,
        buckets={name: tuple(sizes) for name, sizes in record.buckets.items()},
        pad_values={name: float(value) for name, value in record.pad_values.items()},
    )


def check_batching(manifest: Manifest) -> None:
    """Refuse what names no signature, or options that cannot be.

    Raises:
      ValueError: saying where and why.
    """
    for name, record in manifest.batching.items():
        if name not in manifest.signatures:
            raise ValueError(f"batching has {name!r}, which is no signature.")
        batching_of(record)
