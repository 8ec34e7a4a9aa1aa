"""Does a server answer 32 clients rightly for ten minutes, while its model is swapped every 30 s?

python benchmarks/serving/soak.py [--seconds 600] [--every 30]

Each client asks for numbers of its own, over HTTP as JSON and as bytes, over TensorFlow Serving's
REST and over gRPC, and compares every answer with what the version that gave it should give. Ends
with 1 if a request failed, an answer was wrong, or the memory of the server grew.
"""

import argparse
import http.client
import json
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import grpc  # noqa: E402
import numpy as np  # noqa: E402
import servers  # noqa: E402

from exporter.serving import inference  # noqa: E402
from processes import in_new_process  # noqa: E402

CLIENTS = 32
ROWS, COLUMNS = 4, 16
INFER = "/v2/models/by/infer"
# The memory may grow by so much from the second quarter of the time to the last one.
MOST_GROWTH = 1.05
# In less time than this, the memory of a server that has just begun tells nothing.
SHORTEST_S = 60


def save(folder: str, factor: float) -> None:
    """A model that multiplies, so that every answer tells whose it is."""
    import exporter  # in a process of its own

    exporter.save(
        (lambda by, x: {"y": x * by}, np.float32(factor)),
        Path(folder),
        input_signature=[exporter.TensorSpec(("batch", COLUMNS), "float32", name="x")],
        samples=[{"x": np.ones((1, COLUMNS), np.float32)}],
    )


class Clients:
    """Threads that ask until they are told to end, and what they found.

    Attributes:
      answered: how many answers were right, by protocol.
      failures: what went wrong.
    """

    def __init__(self, http_port: int, grpc_port: int, count: int) -> None:
        self.answered: Counter[str] = Counter()
        self.failures: list[str] = []
        self._ports = http_port, grpc_port
        self._ends = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        random = np.random.default_rng(number)
        protocol = list(PROTOCOLS)[number % len(PROTOCOLS)]
        ask = PROTOCOLS[protocol](*self._ports)
        while not self._ends.is_set():
            x = random.integers(-1000, 1000, (random.integers(1, ROWS + 1), COLUMNS))
            x = x.astype(np.float32)
            try:
                version, y = ask(x)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is a failure
                self.failures.append(f"{protocol}: {type(error).__name__}: {error}")
                ask = PROTOCOLS[protocol](*self._ports)
                continue
            factor = version or y.flat[np.abs(x).argmax()] / x.flat[np.abs(x).argmax()]
            if factor == int(factor) and factor >= 1 and np.array_equal(y, x * np.float32(factor)):
                self.answered[protocol] += 1
            else:
                self.failures.append(f"{protocol}: version {version} gave {y} for {x}")


Ask = Callable[[np.ndarray], tuple[int | None, np.ndarray]]


def _posting(port: int) -> Callable[[str, bytes, Mapping[str, str]], tuple[bytes, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(path: str, body: bytes, headers: Mapping[str, str]) -> tuple[bytes, object]:
        connection.request("POST", path, body, dict(headers))
        reply = connection.getresponse()
        data = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"{reply.status}: {data[:200]!r}")
        return data, reply.headers

    return post


def as_json(http_port: int, _: int) -> Ask:
    post = _posting(http_port)

    def ask(x: np.ndarray) -> tuple[int, np.ndarray]:
        tensor = {"name": "x", "shape": x.shape, "datatype": "FP32", "data": x.ravel().tolist()}
        data, _ = post(INFER, json.dumps({"inputs": [tensor]}).encode(), {})
        document = json.loads(data)
        y = np.array(document["outputs"][0]["data"], np.float32).reshape(x.shape)
        return int(document["model_version"]), y

    return ask


def as_bytes(http_port: int, _: int) -> Ask:
    post = _posting(http_port)

    def ask(x: np.ndarray) -> tuple[int, np.ndarray]:
        request = servers.binary_v2({"x": x}, INFER)
        data, headers = post(request.path, request.body, request.headers)
        length = int(headers["inference-header-content-length"])  # type: ignore[index]  # of HTTP
        y = np.frombuffer(data[length:], np.float32).reshape(x.shape)
        return int(json.loads(data[:length])["model_version"]), y

    return ask


def as_rows(http_port: int, _: int) -> Ask:
    post = _posting(http_port)

    def ask(x: np.ndarray) -> tuple[None, np.ndarray]:
        body = json.dumps({"instances": x.tolist()}).encode()
        data, _ = post("/v1/models/by:predict", body, {})
        return None, np.array(json.loads(data)["predictions"], np.float32)

    return ask


def over_grpc(_: int, grpc_port: int) -> Ask:
    channel = grpc.insecure_channel(
        f"127.0.0.1:{grpc_port}", options=[("grpc.use_local_subchannel_pool", 1)]
    )
    call = channel.unary_unary(f"/{inference.SERVICE}/ModelInfer")

    def ask(x: np.ndarray) -> tuple[int, np.ndarray]:
        message = inference.ModelInferRequest(model_name="by", raw_input_contents=[x.tobytes()])
        message.inputs.add(name="x", datatype="FP32", shape=x.shape)
        answer = inference.ModelInferResponse.FromString(
            call(message.SerializeToString(), timeout=60)
        )
        y = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(x.shape)
        return int(answer.model_version), y

    return ask


PROTOCOLS = {"V2, JSON": as_json, "V2, bytes": as_bytes, "V1": as_rows, "gRPC": over_grpc}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--every", type=float, default=30, help="seconds from one swap to the next")
    given = parser.parse_args()
    swaps = int(given.seconds / given.every) - 1
    with tempfile.TemporaryDirectory() as place:
        folder, grpc_port = Path(place), servers.free_port()
        in_new_process(save, folder=str(folder / "models/by/1"), factor=1.0)
        for version in range(2, 2 + swaps):
            in_new_process(save, folder=str(folder / f"made/{version}"), factor=float(version))
        server = servers.start_ours(folder / "models", grpc_port=grpc_port)
        try:
            request = servers.binary_v2({"x": np.ones((1, COLUMNS), np.float32)}, INFER)
            server.wait(lambda: bool(servers.asked(server.port, request)))
            clients = Clients(server.port, grpc_port, CLIENTS)
            memory = soaked(server, clients, folder, swaps, given.every)
        finally:
            server.end()
    return told(clients, memory, swaps)


def soaked(
    server: servers.Server, clients: Clients, folder: Path, swaps: int, every: float
) -> list[int]:
    """Let the clients ask while versions are swapped, and give the server's memory each second."""
    memory, start = [], time.monotonic()
    clients.start()
    try:
        for version in range(2, 3 + swaps):
            while (left := start + every * (version - 1) - time.monotonic()) > 0:
                memory.append(server.memory_bytes())
                time.sleep(min(left, 1.0))
            if version < 2 + swaps:
                servers.swap(server, folder / "models/by", folder / "made", version)
                shutil.rmtree(folder / f"models/by/{version - 1}")
    finally:
        clients.end()
    return memory


def told(clients: Clients, memory: Sequence[int], swaps: int) -> int:
    """Print what was found, and give 1 if that is not as it should be."""
    quarter = max(1, len(memory) // 4)
    early, late = np.median(memory[quarter : 2 * quarter]), np.median(memory[-quarter:])
    print(f"{clients.answered.total():,} answers were right: {dict(clients.answered)}")
    print(f"{len(clients.failures)} failed or were wrong", *clients.failures[:10], sep="\n  ")
    print(f"{swaps} swaps in {len(memory)} s")
    print(f"memory: {early / 1e6:.0f} MB in the second quarter, {late / 1e6:.0f} MB in the last")
    is_growing = len(memory) >= SHORTEST_S and late > MOST_GROWTH * early
    return int(bool(clients.failures) or is_growing)


if __name__ == "__main__":
    sys.exit(main())
