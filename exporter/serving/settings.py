"""How a server is set up: what the command line and a YAML file can say."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from exporter.batching import Batching
from exporter.errors import MissingExtraError, OptionError
from exporter.serving.repository import Policy, Repository

_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_Count = Annotated[int, msgspec.Meta(ge=1)]
_Seconds = Annotated[float, msgspec.Meta(ge=0)]


class _Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fields of `Batching`, those that somebody has said something about."""

    max_batch_size: int | UnsetType = UNSET
    allowed_batch_sizes: tuple[int, ...] | UnsetType = UNSET
    batch_timeout_micros: int | UnsetType = UNSET
    max_enqueued_batches: int | UnsetType = UNSET
    enable_large_batch_splitting: bool | UnsetType = UNSET
    buckets: dict[str, tuple[int, ...]] | UnsetType = UNSET
    pad_values: dict[str, float] | UnsetType = UNSET

    @property
    def batching(self) -> dict[str, Any]:
        """What was said, by name."""
        found = {name: getattr(self, name) for name in _Said.__struct_fields__}
        return {name: value for name, value in found.items() if value is not UNSET}


class ModelSettings(_Said, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is said of one model, beside the fields of `Batching` for all its signatures.

    Attributes:
      path: its folder, if it is not in that of the others.
      version_policy: which versions are served, if not as of the others.
      version_labels: the number of a version for each label.
      signatures: fields of `Batching` for a signature.
    """

    path: Path | None = None
    version_policy: str | None = None
    version_labels: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = {}
    signatures: dict[str, _Said] = {}


class Settings(_Said, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a server does. The names are those of the command line and of the YAML file.

    The fields of `Batching` are for all signatures whose rows do not depend on each other.

    Attributes:
      path: the folder with the models, unless each model has one of its own.
      model_name: what its only model is called, by default as its folder is.
      models: what is said of single models, by name.
      host: the address to listen at.
      http_port: for HTTP; 0 takes a free one.
      grpc_port: for gRPC; 0 takes a free one, `None` listens at none.
      version_policy: which versions are served: `latest`, `latest:N`, `all` or `specific:N,N`.
      poll_seconds: how often the folder is looked at; 0 is once.
      mesh: the axes of a mesh of devices and their sizes, as `data=2,model=4`.
      cache: the folder of compiled programs, by default the user's own.
      custom_calls: as for `exporter.load`.
      try_samples: whether the samples of a version must agree before it is served.
      model_control: whether clients may load and unload models.
      max_body_bytes: the largest request.
      body_timeout: how long a client may take to send its head, and then its body, in seconds.
      request_timeout: how long a call may take, in seconds, or `None`.
      token_file: a file with a token in each line; requests need one of them.
      certificate: a PEM file with the chain of certificates, for TLS.
      private_key: a PEM file with its key.
      cors_origins: the pages of other servers that may call this one.
      drain_seconds: how long the server says that it is not ready before it stops to listen.
      grace_seconds: how long calls may take that it took before.
      log_format: `text` or `json`.
      access_log: whether every request is logged.
      traces: whether requests are spans for OpenTelemetry, as the variables `OTEL_...` say.
      loop: the event loop; `auto` is uvloop where it is installed.
      workers: how many processes serve.
    """

    path: Path | None = None
    model_name: str | None = None
    models: dict[str, ModelSettings] = {}
    host: str = "127.0.0.1"
    http_port: _Port = 8000
    grpc_port: _Port | None = 8001
    version_policy: str = "latest"
    poll_seconds: _Seconds = 1.0
    mesh: str | None = None
    cache: Path | None = None
    custom_calls: tuple[str, ...] = ()
    try_samples: bool = True
    model_control: bool = True
    max_body_bytes: _Count = 128 * 2**20
    body_timeout: _Seconds = 60.0
    request_timeout: _Seconds | None = None
    token_file: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    cors_origins: tuple[str, ...] = ()
    drain_seconds: _Seconds = 0.0
    grace_seconds: _Seconds = 30.0
    log_format: Literal["text", "json"] = "text"
    access_log: bool = False
    traces: bool = False
    loop: Literal["auto", "asyncio", "uvloop"] = "auto"
    workers: _Count = 1

    def repository(self) -> Repository:
        """The folders, and what is wanted of them.

        Raises:
          OptionError: if there is no folder, or a policy is none.
        """
        roots = [] if self.path is None else [(self.path, self.model_name)]
        roots += [(one.path, name) for name, one in self.models.items() if one.path is not None]
        if not roots:
            raise OptionError("there is no folder with models: give one, or one for each model.")
        special = {name: one.version_policy for name, one in self.models.items()}
        return Repository(
            tuple(roots),
            Policy.parse(self.version_policy),
            {name: Policy.parse(text) for name, text in special.items() if text is not None},
            {name: one.version_labels for name, one in self.models.items()},
        )

    def batchings(self) -> dict[tuple[str, str], dict[str, Any]]:
        """What is said of batching, by the names of a model and of a signature, see `Options`.

        Raises:
          OptionError: if something of it cannot be.
        """
        said = {("", ""): self.batching}
        for name, one in self.models.items():
            said[name, ""] = one.batching
            said |= {(name, key): special.batching for key, special in one.signatures.items()}
        for batching in said.values():
            Batching(**batching)
        return {place: batching for place, batching in said.items() if batching or place[1]}


def settings_of(given: Mapping[str, Any], folder: Path | None = None) -> Settings:
    """The settings in a mapping as YAML gives it.

    Args:
      given: by the names of `Settings`.
      folder: where paths in text are from.

    Raises:
      OptionError: naming what cannot be.
    """
    try:
        found = msgspec.convert(dict(given), Settings, dec_hook=partial(_path, folder or Path()))
    except msgspec.ValidationError as error:
        raise OptionError(f"the settings cannot be: {_told(error)}.") from error
    if (found.certificate is None) != (found.private_key is None):
        raise OptionError("certificate and private_key are given together, for TLS.")
    found.repository()
    found.batchings()
    return found


def read_settings(file: Path) -> dict[str, Any]:
    """What a YAML file says.

    Raises:
      OptionError: if it is no such file.
      MissingExtraError: if there is no library that reads YAML.
    """
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError(
            "a file of settings needs PyYAML. Install it with pip install 'jax-exporter[serve]'."
        ) from error
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise OptionError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict | None):
        raise OptionError(f"{file} has settings by name; got {type(found).__name__}.")
    return found or {}


def _path(folder: Path, kind: type, value: object) -> object:
    """Paths in text are from the folder of the file."""
    if kind is Path and isinstance(value, Path):
        return value
    if kind is Path and isinstance(value, str) and value:
        return folder / value
    raise msgspec.ValidationError(f"Expected a path, got {value!r}")


def _told(error: Exception) -> str:
    """An error of msgspec with the place first."""
    text, _, place = str(error).rstrip("`").partition(" - at `$")
    text = text.replace("`", "")
    return f"{place.lstrip('.')}: {text[0].lower()}{text[1:]}" if place else text
