"""What a server can do, whatever protocol asks."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass
from importlib.metadata import version as version_of
from typing import Literal

from exporter.serving.errors import ClosedError, NotOfferedError
from exporter.serving.messages import Answer, Request
from exporter.serving.method import Method
from exporter.serving.registry import Entry, Registry, State

IndexState = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]

_STATES: dict[State, IndexState] = {
    State.START: "LOADING",
    State.LOADING: "LOADING",
    State.AVAILABLE: "READY",
    State.UNLOADING: "UNLOADING",
    State.END: "UNAVAILABLE",
}


@dataclass(frozen=True)
class Indexed:
    """A version in the index of the repository.

    Attributes:
      name: its model.
      version: its number.
      state: what it is doing.
      reason: why it is not ready, or nothing.
    """

    name: str
    version: int
    state: IndexState
    reason: str


class Core:
    """A registry as the protocols see it.

    Attributes:
      name: of this server.
      version: of the package.
      registry: what is served.
    """

    name = "jax-exporter"

    def __init__(
        self,
        registry: Registry,
        *,
        has_model_control: bool = True,
        seconds: float | None = None,
    ) -> None:
        """The core over a registry.

        Args:
          registry: what is served.
          has_model_control: whether clients may load and unload models.
          seconds: the longest that a call may take, or `None`.
        """
        self.version = version_of("jax-exporter")
        self.registry = registry
        self._has_model_control = has_model_control
        self._seconds = seconds
        self._is_stopping = False

    def is_live(self) -> bool:
        """Whether the process answers at all."""
        return True

    def is_ready(self) -> bool:
        """Whether all that could be loaded is, and something is, and calls are taken."""
        settled = self.registry.is_settled.is_set()
        return settled and not self._is_stopping and bool(self.registry.served())

    def stop(self) -> None:
        """Say from now on that this server is not ready. Calls are still answered."""
        self._is_stopping = True

    def is_model_ready(
        self, model: str, version: int | None = None, label: str | None = None
    ) -> bool:
        """Whether a version can be called.

        Raises:
          UnknownModelError: if there is none.
          NotReadyError: if it is not ready, saying why.
        """
        self.registry.resolve(model, version, label)
        return not self._is_stopping

    def versions(self, model: str) -> list[int]:
        """The versions of a model that are ready, the lowest first. See `Registry.versions`."""
        return self.registry.versions(model)

    def method(
        self, model: str, version: int | None, label: str | None, signature: str | None
    ) -> Method:
        """A signature of what a call goes to.

        Raises:
          UnknownModelError: if there is no such version.
          NotReadyError: if it is not ready.
          UnknownSignatureError: if it has no such signature.
        """
        return self.registry.resolve(model, version, label).method(signature)

    async def infer(
        self,
        model: str,
        version: int | None,
        label: str | None,
        request: Request,
        client: Hashable,
    ) -> Answer:
        """The answer to a request.

        Args:
          model: the name of a model.
          version: its number, or `None`.
          label: what a version is called instead, or `None`.
          request: what is asked.
          client: who asks, so that one who asks much does not keep others waiting.

        Raises:
          ExporterError: if there is none: `code_of` gives its code.
        """
        if self._seconds is not None:
            asked = request.timeout
            request.timeout = self._seconds if asked is None else min(asked, self._seconds)
        while True:
            servable = self.registry.resolve(model, version, label)
            method = servable.method(request.signature)
            try:
                outputs = await method(request.inputs, request.outputs, client, request.timeout)
            except ClosedError:
                if self.registry.resolve(model, version, label) is servable:
                    raise
                continue  # it was replaced this very moment
            return Answer(model, servable.found.version, method.name, outputs)

    def index(self, *, ready_only: bool = False) -> list[Indexed]:
        """All versions that are known."""
        found = [_indexed(entry) for entry in self.registry.entries()]
        return [one for one in found if one.state == "READY" or not ready_only]

    async def load(self, model: str) -> None:
        """Load a model. See `Registry.load`.

        Raises:
          NotOfferedError: if clients may not.
        """
        self._check_control()
        await asyncio.to_thread(self.registry.load, model)

    async def unload(self, model: str) -> None:
        """Unload a model. See `Registry.unload`.

        Raises:
          NotOfferedError: if clients may not.
        """
        self._check_control()
        await asyncio.to_thread(self.registry.unload, model)

    def _check_control(self) -> None:
        if not self._has_model_control:
            raise NotOfferedError(
                "models are not loaded and unloaded by request here: change what is in the folder."
            )


def _indexed(entry: Entry) -> Indexed:
    state = _STATES[entry.state]
    return Indexed(entry.found.model, entry.found.version, state, entry.problem)
