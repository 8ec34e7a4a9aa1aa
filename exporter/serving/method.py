"""One signature of a version that is served: values in, named arrays out, whoever asks."""

import asyncio
import logging
import time
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from exporter.keys import from_words, to_words
from exporter.runtime.functions import LoadedSignature
from exporter.serving.batcher import Batcher, Lane
from exporter.serving.errors import DeadlineError, ModelFailedError, RequestError
from exporter.serving.joining import Part, whole
from exporter.stages.pipeline import HostStages
from exporter.stages.stage import Kind
from signatures.binding import bind_values
from signatures.dtypes import KeyType
from signatures.errors import BindError, ExporterError
from signatures.signature import Signature
from signatures.spec import TensorSpec

_log = logging.getLogger("exporter.serving")


class Computation:
    """The call of a loaded signature with plain arrays in order, on the thread that computes.

    Attributes:
      shapes: the shapes of inputs that it has been called with, the latest last.
    """

    def __init__(self, function: LoadedSignature) -> None:
        """The call of that signature."""
        self._function = function
        self._names = list(function.signature.inputs)
        specs = function.signature.inputs.values()
        self._keys = [
            (name, spec.dtype)
            for name, spec in zip(self._names, specs, strict=True)
            if isinstance(spec.dtype, KeyType)
        ]
        self.shapes: dict[tuple[tuple[int, ...], ...], None] = {}

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs.

        Raises:
          BindError: if there is no program for arrays of these shapes.
          ModelFailedError: if it fails while it is computed.
        """
        values: dict[str, Any] = dict(zip(self._names, arrays, strict=True))
        for name, dtype in self._keys:
            values[name] = from_words(values[name], dtype)
        try:
            outputs = self._function(**values)
            found = [np.asarray(to_words(output)) for output in outputs.values()]
        except ExporterError:
            raise
        except Exception as error:
            _log.exception("signature %r failed", self._function.name)
            raise ModelFailedError(
                f"signature {self._function.name!r} failed with {type(error).__name__} while it "
                "was computed; the log of the server has the rest."
            ) from error
        self._remember(tuple(value.shape for value in values.values()))
        return found

    def _remember(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        if shapes not in self.shapes:
            self.shapes[shapes] = None
            if len(self.shapes) > 64:
                del self.shapes[next(iter(self.shapes))]


class Method:
    """A signature, with its stages if it has any.

    Attributes:
      signature: its inputs and outputs, random keys as words.
      inputs: what it takes by name. What stages make may be given as arrays instead.
      outputs: what it gives by name. What stages read may be asked for too.
      lane: where its calls wait.
    """

    def __init__(
        self,
        signature: Signature,
        batcher: Batcher,
        lane: Lane,
        stages: HostStages | None = None,
    ) -> None:
        """A signature that is computed by a batcher, in one of its lanes.

        Args:
          signature: with random keys as words.
          batcher: computes it.
          lane: of the batcher.
          stages: what is done before and after.
        """
        self.signature = signature
        self.lane = lane
        around = stages or signature
        self.inputs = {name: _plain(one) for name, one in around.inputs.items()}
        self.outputs = {name: _plain(one) for name, one in around.outputs.items()}
        self._batcher = batcher
        self._stages = stages
        self._is_read = any(not isinstance(one, TensorSpec) for one in self.inputs.values())
        self._made = signature.inputs.keys() - self.inputs.keys()

    @property
    def name(self) -> str:
        """The name of the signature."""
        return self.signature.name

    def __str__(self) -> str:
        """It as signatures are written."""
        inputs = ", ".join(f"{name}: {one}" for name, one in self.inputs.items())
        outputs = ", ".join(f"{name}: {one}" for name, one in self.outputs.items())
        return f"{self.name}({inputs}) -> ({outputs})"

    async def __call__(
        self,
        inputs: Mapping[str, Any],
        wanted: Sequence[str] | None,
        client: Hashable,
        seconds: float | None,
    ) -> dict[str, np.ndarray]:
        """The outputs by name.

        Args:
          inputs: by name.
          wanted: the names of outputs, or `None` for all.
          client: who asks.
          seconds: how long whoever asks waits.

        Raises:
          BindError: naming every input that is missing, unknown or does not fit.
          RequestError: if there is no such output, or more rows than may be.
          ServingError: of other kinds, if it cannot be computed now.
        """
        if wanted:
            self._check(wanted)
        until = None if seconds is None else time.monotonic() + seconds
        stages = self._stages
        if stages is not None and self._is_read and self._made.isdisjoint(inputs):
            values = {name: _as_stages_take(name, one, self.inputs) for name, one in inputs.items()}
            inputs = await asyncio.to_thread(stages.arrays, values)
        found = await self._waited(self._parts(self._values(inputs)), client, until)
        rows = found[0] if len(found) == 1 else whole(found)
        outputs = dict(zip(self.signature.outputs, rows, strict=True))
        if stages is not None and not (wanted and all(name in outputs for name in wanted)):
            results = await asyncio.to_thread(stages.results, outputs)
            read = {name: np.asarray(value) for name, value in results.items()}
            outputs = {**outputs, **read} if wanted else read
        return {name: outputs[name] for name in wanted} if wanted else outputs

    def _values(self, inputs: Mapping[str, Any]) -> list[object]:
        """The inputs in order, if they have the right names."""
        signature = self.signature
        if len(inputs) == len(signature.inputs):
            try:
                return [inputs[name] for name in signature.inputs]
            except KeyError:
                pass
        values = {**signature.defaults, **inputs}
        problems = [f"{name}: missing" for name in signature.inputs if name not in values]
        known = ", ".join(signature.inputs) or "none"
        problems += [
            f"{name}: not an input, the inputs are {known}"
            for name in inputs
            if name not in signature.inputs
        ]
        if problems:
            lines = "".join(f"\n  {problem}" for problem in problems)
            raise BindError(
                f"arguments do not fit signature {self.name!r}:{lines}\n"
                f"The signature is {signature}.",
                problems,
            )
        return [values[name] for name in signature.inputs]

    def _parts(self, values: Sequence[object]) -> list[Part]:
        """A call as it is computed: in one part, or in several if it has too many rows."""
        joining = self.lane.joining
        if joining is None:
            bound = bind_values(self.signature, values)
            return [Part(None, 1, [np.asarray(value) for value in bound.values], {})]
        part = joining.part(values)
        if part.rows <= joining.max_rows:
            return [part]
        if not joining.splits:
            raise RequestError(
                f"signature {self.name!r} takes at most {joining.max_rows} rows at once "
                f"here, got {part.rows}. Send them in several requests."
            )
        return joining.slices(part)

    async def _waited(
        self, parts: Sequence[Part], client: Hashable, until: float | None
    ) -> list[Sequence[np.ndarray]]:
        """The outputs of each part. What is cancelled or too late is not computed."""
        timer = None
        if until is not None:
            left = until - time.monotonic()
            if left <= 0:
                raise DeadlineError(_LATE)
        futures = self._batcher.submit(self.name, parts, client)
        if until is not None:
            timer = asyncio.get_running_loop().call_later(left, _expire, futures)
        try:
            return [await future for future in futures]
        finally:
            if timer is not None:
                timer.cancel()
            for future in futures:
                if not future.done():
                    future.cancel()
                elif not future.cancelled():
                    future.exception()  # it is seen, whichever of several was raised

    def _check(self, wanted: Sequence[str]) -> None:
        known = {**self.signature.outputs, **self.outputs}
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise RequestError(
                f"signature {self.name!r} has no output {', '.join(map(repr, unknown))}; the "
                f"outputs are {', '.join(known)}."
            )


_LATE = "the time for the call is over, and it was not computed."


def _expire(futures: Sequence["asyncio.Future[Any]"]) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(DeadlineError(_LATE))


def _as_stages_take(name: str, value: object, inputs: Mapping[str, Kind | TensorSpec]) -> object:
    """Texts and pictures in lists. Protocols send texts as bytes."""
    kind = inputs.get(name)
    if kind is None or isinstance(kind, TensorSpec):
        return value
    listed = value.tolist() if isinstance(value, np.ndarray) else value
    return listed if kind == "image" else _decoded(name, listed)


def _decoded(name: str, value: object) -> object:
    if isinstance(value, list):
        return [_decoded(name, one) for one in value]
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"{name}: a text is not UTF-8: {error}.") from None


def _plain(one: Kind | TensorSpec) -> Kind | TensorSpec:
    return one.plain if isinstance(one, TensorSpec) else one
