"""`exporter serve`: models in a folder, called over the network."""

import argparse
from typing import Any

from exporter.cli.command import Command, given_path
from exporter.cli.terminal import bar
from exporter.errors import MissingExtraError, OptionError

# Options whose words are taken as they are, by the names of the settings.
_PLAIN: tuple[tuple[str, str, type, str], ...] = (
    ("model-name", "NAME", str, "what the only model is called (default: as its folder is)"),
    ("host", "ADDRESS", str, "the address to listen at (default: 127.0.0.1, this machine alone)"),
    ("http-port", "PORT", int, "for HTTP (default: 8000; 0 takes a free one)"),
    ("grpc-port", "PORT", int, "for gRPC (default: 8001; 0 takes a free one)"),
    (
        "version-policy",
        "POLICY",
        str,
        "which versions are served: latest, latest:N, all or specific:N,N (default: latest)",
    ),
    ("poll-seconds", "SECONDS", float, "how often DIR is looked at (default: 1; 0 is once)"),
    ("mesh", "AXIS=SIZE,...", str, "split models over devices, as in data=2,model=4"),
    ("max-body-bytes", "N", int, "the largest request (default: 128 MiB)"),
    ("body-timeout", "SECONDS", float, "for a client to send its head, and its body (default: 60)"),
    ("request-timeout", "SECONDS", float, "how long a call may take (default: any time)"),
    ("drain-seconds", "SECONDS", float, "tell so long that it is not ready before it stops"),
    ("grace-seconds", "SECONDS", float, "how long calls may take after that (default: 30)"),
    ("log-format", "FORMAT", str, "text or json (default: text)"),
    ("loop", "LOOP", str, "asyncio or uvloop (default: uvloop where it is installed)"),
    ("workers", "N", int, "so many processes, each with all models (default: 1)"),
)
_FILES = (
    ("token-file", "tokens, one in each line: requests need one of them"),
    ("certificate", "the chain of certificates (PEM), for TLS"),
    ("private-key", "the key of the certificate (PEM)"),
)
_BATCHING = (
    ("max-batch-size", "N", "the most rows of one call (default: 32; 1 joins none)"),
    ("batch-timeout-micros", "N", "how long a batch waits for company (default: 0)"),
    ("max-enqueued-batches", "N", "how many full batches may wait (default: 64)"),
)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        metavar="DIR",
        type=given_path,
        nargs="?",
        help="an artifact, a folder of versions, or a folder of models",
    )
    parser.add_argument(
        "--config", metavar="FILE", type=given_path, help="settings in YAML; words count more"
    )
    for name, metavar, kind, text in _PLAIN:
        parser.add_argument(f"--{name}", metavar=metavar, type=kind, help=text)
    parser.add_argument(
        "--no-grpc", action="store_const", const=True, help="do not listen for gRPC"
    )
    for name, text in _FILES:
        parser.add_argument(f"--{name}", metavar="FILE", type=given_path, help=text)
    for name, metavar, text in _BATCHING:
        parser.add_argument(f"--{name}", metavar=metavar, type=int, help=text)
    parser.add_argument(
        "--allowed-batch-sizes",
        metavar="N,N",
        type=_numbers,
        help="the sizes that are compiled (default: powers of two)",
    )
    parser.add_argument(
        "--bucket",
        metavar="AXIS=N,N",
        dest="buckets",
        action="append",
        help="fill a named axis up to these sizes",
    )
    parser.add_argument(
        "--cache", metavar="FOLDER", type=given_path, help="where compiled programs are kept"
    )
    parser.add_argument(
        "--cors-origin",
        metavar="ORIGIN",
        dest="cors_origins",
        action="append",
        help="let pages of that server call this one",
    )
    parser.add_argument(
        "--custom-call",
        metavar="NAME",
        dest="custom_calls",
        action="append",
        help="a native function that programs may call",
    )
    for name, setting, text in (
        ("no-model-control", "model_control", "clients cannot load and unload models"),
        ("no-samples", "try_samples", "serve versions without trying their samples"),
    ):
        parser.add_argument(f"--{name}", dest=setting, action="store_const", const=False, help=text)
    parser.add_argument("--access-log", action="store_const", const=True, help="log every request")
    parser.add_argument(
        "--traces",
        action="store_const",
        const=True,
        help="send spans to the collector of OTEL_EXPORTER_OTLP_ENDPOINT",
    )


def _execute(arguments: argparse.Namespace) -> None:
    try:
        from exporter.serving.settings import read_settings, settings_of

        file = arguments.config
        found = read_settings(file) if file else {}
        settings = settings_of(found | _given(arguments), file.resolve().parent if file else None)
    except ImportError as error:
        raise _missing(error) from error
    for path in settings.repository().paths():
        if not path.is_dir():
            raise OptionError(f"{path} is not a folder with models.")
    if settings.workers > 1:
        from exporter.serving.workers import run_workers

        run_workers(settings)
        return
    try:
        from exporter.serving import logs
        from exporter.serving.server import Server
    except ImportError as error:
        raise _missing(error) from error
    logs.set_up(is_json=settings.log_format == "json")
    Server(settings).run(bar)


def _missing(error: ImportError) -> MissingExtraError:
    if isinstance(error, MissingExtraError):
        return error
    return MissingExtraError(
        f"serving needs {error.name}, which is not installed. Install it with "
        "pip install 'jax-exporter[serve]'."
    )


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was said in words, by the names of the settings."""
    words = {name: value for name, value in vars(arguments).items() if value is not None}
    said = [*(one[0] for one in _PLAIN), *(one[0] for one in (*_FILES, *_BATCHING))]
    names = [name.replace("-", "_") for name in said]
    names += ["path", "model_control", "try_samples", "access_log", "traces", "cache"]
    names += ["allowed_batch_sizes"]
    found = {name: words[name] for name in names if name in words}
    if words.get("no_grpc"):
        found["grpc_port"] = None
    for name in ("cors_origins", "custom_calls"):
        if name in words:
            found[name] = tuple(words[name])
    if "buckets" in words:
        found["buckets"] = dict(map(_bucket, words["buckets"]))
    return found


def _bucket(word: str) -> tuple[str, tuple[int, ...]]:
    name, _, text = word.partition("=")
    try:
        return name, _numbers(text)
    except ValueError:
        raise OptionError(f"expected --bucket AXIS=SIZE,SIZE, got {word!r}.") from None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


SERVE = Command(
    name="serve",
    usage="DIR [--config FILE] [--http-port PORT] [--grpc-port PORT | --no-grpc] [OPTION ...]",
    summary="serve the models of a folder over HTTP and gRPC",
    description="""\
Serve the signatures of models by name: the Open Inference Protocol V2 over HTTP
and gRPC (what Triton and KServe speak), and TensorFlow Serving's REST.

DIR is an artifact; or a folder with a folder for each version, named by its
number; or a folder of such models. It is watched: a new version is loaded,
compiled for the sizes of batches and tried with its samples before it takes
calls, then the old one finishes what it took. One that fails is told of, and
replaces nothing. What is removed is unloaded.

Calls that arrive at once are joined where a signature's rows do not depend on
each other, which is known from the artifact. A page at / lists the models.

All settings can be in a YAML file, with _ for - in their names, and `models` by
name with `path`, `version_policy`, `version_labels`, options of batching, and
`signatures` with such options.""",
    examples="""\
  exporter serve models/
  exporter serve digits/1 --model-name digits --http-port 9000 --no-grpc
  exporter serve models/ --config serving.yaml --host 0.0.0.0 --token-file tokens
  curl -s localhost:8000/v2/models/digits""",
    add_arguments=_add_arguments,
    execute=_execute,
)
