"""Servers as processes: ours, those of others with the same network, and ones that answer nothing.

Only one is to run while it is measured: the others are stopped (SIGSTOP) until it is their turn.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
ROOT = HERE.parent.parent
sys.path.insert(0, str(PEERS))

import network  # noqa: E402  # it is what the servers of others import
from load import Request  # noqa: E402

READY_S = 180.0
# How servers that are not ready say so: no such model yet, or not now.
STARTING = (404, 503)


class Server:
    """A process that listens at a port, and all that it has started."""

    def __init__(self, command: Sequence[object], port: int, **env: str) -> None:
        self.port = port
        self._output = TemporaryFile("w+")  # noqa: SIM115  # closed in end
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdout=self._output,
            stderr=subprocess.STDOUT,
            cwd=PEERS,
            start_new_session=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **env},
        )

    def wait(self, is_ready: Callable[[], bool]) -> None:
        """Until it answers as it should, or an error with what it printed."""
        end = time.monotonic() + READY_S
        while self.process.poll() is None and time.monotonic() < end:
            try:
                if is_ready():
                    return
            except urllib.error.HTTPError as error:
                if error.code not in STARTING:
                    raise self._error(f"answers {error.code}") from error
            except OSError:
                pass  # nobody listens yet
            time.sleep(0.1)
        raise self._error("does not answer")

    def _error(self, text: str) -> RuntimeError:
        return RuntimeError(f"{self.process.args} {text}:\n{self.printed()[-4000:]}")

    def printed(self) -> str:
        self._output.seek(0)
        return self._output.read()

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def memory_bytes(self) -> int:
        """What the process holds now."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("this system tells no memory")

    def stop(self) -> None:
        """It runs no more, until it is its turn."""
        self.signal(signal.SIGSTOP)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """It runs inside the block, and is stopped after it."""
        self.signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.stop()

    def end(self) -> None:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        self.process.wait()
        self._output.close()


@dataclass(frozen=True)
class Peer:
    """A server of others: the environment it is installed in, how it is started, what it is asked.

    Attributes:
      name: as it is called in the results.
      environment: its folder below `.venv-servers`.
      command: the words after its `bin` folder; `PORT` stands for the port.
      request: what it is asked for the scores of `network.example()`.
      files: what it needs in its working folder, by name; `PORT` as above.
    """

    name: str
    environment: str
    command: Sequence[str]
    request: Request
    files: Mapping[str, object] = field(default_factory=dict)


def binary_v2(inputs: Mapping[str, np.ndarray], path: str = "/v2/models/mlp/infer") -> Request:
    """A request of the Open Inference Protocol whose tensors follow its JSON, both ways."""
    listed = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": {"float32": "FP32", "int32": "INT32"}[array.dtype.name],
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in inputs.items()
    ]
    document = {"id": "1", "inputs": listed, "parameters": {"binary_data_output": True}}
    head = json.dumps(document).encode()
    headers = {
        "content-type": "application/octet-stream",
        "inference-header-content-length": str(len(head)),
    }
    return Request(path, head + b"".join(map(np.ndarray.tobytes, inputs.values())), headers)


def _listed(path: str) -> Request:
    body = json.dumps({"x": network.example().tolist()}).encode()
    return Request(path, body, JSON)


def _listed_v2() -> Request:
    x = network.example()
    tensor = {"name": "x", "shape": x.shape, "datatype": "FP32", "data": x.reshape(-1).tolist()}
    return Request("/v2/models/mlp/infer", json.dumps({"inputs": [tensor]}).encode(), JSON)


JSON = {"content-type": "application/json"}
MLP = binary_v2({"x": network.example()})
_MLSERVER = {"host": "127.0.0.1", "http_port": "PORT", "parallel_workers": 0, "debug": False}
PEERS_OF_OURS = (
    Peer("KServe", "kserve", ["python", "kserve_server.py", "PORT"], MLP),
    Peer(
        "MLServer",
        "mlserver",
        ["mlserver", "start", "FOLDER"],
        _listed_v2(),  # its server of HTTP takes no binary tensors
        {
            "settings.json": _MLSERVER | {"grpc_port": 0, "metrics_port": 0},
            "model-settings.json": {"name": "mlp", "implementation": "mlserver_model.Network"},
        },
    ),
    Peer("LitServe", "litserve", ["python", "litserve_server.py", "PORT"], _listed("/predict")),
    Peer(
        "BentoML",
        "bentoml",
        ["bentoml", "serve", "bentoml_server:Network", "--port", "PORT"],
        _listed("/predict"),
    ),
    Peer(
        "mosec",
        "mosec",
        ["python", "mosec_server.py", "--address", "127.0.0.1", "--port", "PORT"],
        Request("/inference", network.example().tobytes()),
    ),
)


def versions(environments: Path) -> dict[str, str]:
    """The version of each peer that is installed, by its name."""
    code = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
    found = {}
    for peer in PEERS_OF_OURS:
        python = environments / peer.environment / "bin/python"
        if python.exists():
            command = [str(python), "-c", code, peer.environment]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[peer.name] = done.stdout.strip()
    return found


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def start_peer(peer: Peer, environments: Path, folder: Path) -> Server:
    """Start the server of a peer in a folder of its own."""
    port = free_port()
    folder.mkdir()

    def filled(value: object) -> object:
        return {"PORT": port, "FOLDER": str(folder)}.get(str(value), value)

    for name, document in peer.files.items():
        written = {key: filled(value) for key, value in document.items()}
        if name == "settings.json":
            written |= {key: free_port() for key in ("grpc_port", "metrics_port")}
        (folder / name).write_text(json.dumps(written))
    program, *words = peer.command
    command = [environments / peer.environment / "bin" / program, *map(filled, words)]
    bins = f"{environments / peer.environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return Server(command, port, PATH=bins, PYTHONPATH=str(PEERS))


def start_ours(
    models: Path, *words: object, port: int | None = None, grpc_port: int | None = None
) -> Server:
    """`exporter serve`, as anybody starts it."""
    port = port or free_port()
    ports = ["--http-port", port, *(["--grpc-port", grpc_port] if grpc_port else ["--no-grpc"])]
    command = [sys.executable, "-m", "exporter", "serve", models, *ports, *words]
    return Server(command, port)


def start_empty(kind: str) -> Server:
    """The limit: `asgi` or `grpc`."""
    port = free_port()
    return Server([sys.executable, f"empty_{kind}.py", port], port)


def asked(port: int, request: Request) -> tuple[bytes, Mapping[str, str]]:
    """The body and headers of one answer over HTTP."""
    url = f"http://127.0.0.1:{port}{request.path}"
    sent = urllib.request.Request(url, request.body, dict(request.headers))
    with urllib.request.urlopen(sent, timeout=30) as reply:
        return reply.read(), {name.lower(): value for name, value in reply.headers.items()}


def tensor(request: Request, body: bytes, headers: Mapping[str, str]) -> np.ndarray:
    """The first output, whichever of these servers gave it."""
    if length := headers.get("inference-header-content-length"):
        return np.frombuffer(body[int(length) :], np.float32)
    if not request.headers:
        return np.frombuffer(body, np.float32)
    document = json.loads(body)
    if "outputs" in document:
        document = document["outputs"][0]["data"]
    elif isinstance(document, dict):
        document = document["scores"]
    return np.asarray(document, np.float32).reshape(-1)


def answers_rightly(port: int, request: Request) -> bool:
    """Whether it answers; an error if with other scores than those of NumPy."""
    check_scores(tensor(request, *asked(port, request)))
    return True


def check_scores(found: np.ndarray) -> None:
    """An error unless these are the scores of the example, as NumPy computes them."""
    (first, before), (second, after) = network.parameters()
    hidden = np.maximum(network.example() @ first + before, 0)
    np.testing.assert_allclose(found, (hidden @ second + after)[0], rtol=1e-4, atol=1e-4)


def swap(server: Server, model: Path, made: Path, version: int) -> float:
    """Put a version into the folder of a model, and give the time when it was served."""
    (made / str(version)).rename(model / str(version))
    url = f"http://127.0.0.1:{server.port}/v1/models/{model.name}/versions/{version}"
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=30) as reply:
            if json.load(reply)["model_version_status"][0]["state"] == "AVAILABLE":
                return time.time()
        time.sleep(0.05)
