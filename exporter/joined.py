"""How servers join calls of the signatures that are saved: as is said, or of a loaded model."""

from collections.abc import Mapping

from exporter.artifact.batching import batching_record
from exporter.artifact.encoding import signature_of_record
from exporter.artifact.records import BatchingRecord
from exporter.artifact.stored import StoredConcrete, StoredModel
from exporter.batching import Batching
from exporter.drafting import Draft
from exporter.errors import OptionError
from signatures.signature import Signature


def batching_of_signatures(
    batching: Mapping[str, Batching] | None,
    draft: Draft,
    signatures: Mapping[str, int],
    stored: StoredModel | None,
) -> dict[str, BatchingRecord]:
    """What is said of each signature.

    Args:
      batching: by the name of a signature. `None` takes what was said of a loaded model, for the
        signatures that call what they called there.
      draft: the functions.
      signatures: the number of the concrete function of each signature.
      stored: what was loaded, if it is saved again.

    Raises:
      OptionError: if it is not as it should be.
    """
    if batching is None:
        found = stored.batching if stored else ()
        return {
            name: one.record
            for name, number in signatures.items()
            for one in found
            if one.name == name and one.origin is _origin(draft, number)
        }
    if not isinstance(batching, Mapping):
        raise OptionError(
            "batching is a dict by the name of a signature, such as {'serving_default': "
            f"exporter.Batching(max_batch_size=64)}}; got {batching!r}."
        )
    for name, one in batching.items():
        if name not in signatures:
            known = ", ".join(map(repr, signatures)) or "none"
            raise OptionError(f"batching has {name!r}, and the signatures are {known}.")
        if not isinstance(one, Batching):
            raise OptionError(f"batching[{name!r}] is an exporter.Batching; got {one!r}.")
        _check(one, _signature(draft, signatures[name]), name)
    return {name: batching_record(one) for name, one in batching.items()}


def _check(batching: Batching, signature: Signature, name: str) -> None:
    """Refuse what no server could do."""
    dims = signature.dims
    unknown = [axis for axis in batching.buckets if axis not in dims]
    unknown_inputs = [one for one in batching.pad_values if one not in signature.inputs]
    if not dims:
        raise OptionError(
            f"batching[{name!r}]: the signature has no named axis to join calls along: {signature}."
        )
    if unknown or unknown_inputs:
        raise OptionError(
            f"batching[{name!r}] names {', '.join(map(repr, [*unknown, *unknown_inputs]))}; the "
            f"named axes are {', '.join(dims)}, and the inputs {', '.join(signature.inputs)}."
        )


def _origin(draft: Draft, number: int) -> object:
    source = draft.sources[number]
    return source.origin if isinstance(source, StoredConcrete) else None


def _signature(draft: Draft, number: int) -> Signature:
    source = draft.sources[number]
    if isinstance(source, StoredConcrete):
        return signature_of_record(source.record)
    return source.signature
