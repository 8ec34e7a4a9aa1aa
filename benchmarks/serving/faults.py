"""What does a server do with clients that are broken, hostile or slow, and when it is killed?

python benchmarks/serving/faults.py [--quick]

Good clients ask all the while and compare every answer. Prints each fault with what was answered;
ends with 1 if an answer was not as it should be, a good client was not served, or memory grew.
"""

import argparse
import json
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import grpc  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import servers  # noqa: E402
import soak  # noqa: E402

from exporter.serving import inference  # noqa: E402
from processes import in_new_process  # noqa: E402

MOST_BYTES = 2**20
BODY_SECONDS = 1
# So many clients ask rightly, one for each protocol.
GOOD = 4
X = np.ones((1, soak.COLUMNS), np.float32)


def save_failing(folder: str) -> None:
    """A model that needs more memory than a process can have, for large inputs."""
    import exporter  # in a process of its own

    def cube(_: object, x: jnp.ndarray) -> dict[str, object]:
        return {"y": jnp.sort(x[:, None, None] * x[None, :, None] * x, axis=0)[0, 0]}

    spec = exporter.TensorSpec(("n",), "float32", name="x")
    exporter.save((cube, {}), Path(folder), input_signature=[spec])


class Faults:
    """Each method is a fault, and gives the kinds of answers that it found."""

    def __init__(self, port: int, grpc_port: int, count: int) -> None:
        self.port = port
        self.grpc_port = grpc_port
        self.count = count

    def sent(self, data: bytes, *, ends: bool = True) -> bytes:
        """What comes back for some bytes: the first line of it, or nothing."""
        address = ("127.0.0.1", self.port)
        with socket.create_connection(address, timeout=60) as sock, suppress(ConnectionError):
            sock.sendall(data)
            if ends:
                sock.shutdown(socket.SHUT_WR)
            return sock.recv(10_000).partition(b"\r\n")[0]
        return b""

    def posted(self, body: bytes, path: str = soak.INFER, *headers: str) -> str:
        lines = "".join(f"{one}\r\n" for one in headers)
        head = f"POST {path} HTTP/1.1\r\nhost: a\r\n{lines}content-length: {len(body)}\r\n\r\n"
        return self.sent(head.encode() + body, ends=False).decode()

    def leaving(self) -> Iterator[str]:
        """Clients that ask and leave at once."""
        body = json.dumps({"inputs": []}).encode()
        for _ in range(self.count):
            with socket.create_connection(("127.0.0.1", self.port)) as sock:
                head = (
                    f"POST {soak.INFER} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n"
                )
                sock.sendall(head.encode() + body)
            yield ""

    def half_bodies(self) -> Iterator[str]:
        """Clients that send half a body and leave."""
        for _ in range(self.count):
            with socket.create_connection(("127.0.0.1", self.port)) as sock:
                head = f"POST {soak.INFER} HTTP/1.1\r\nhost: a\r\ncontent-length: 99\r\n\r\n"
                sock.sendall(head.encode() + b"{")
            yield ""

    def large_bodies(self) -> Iterator[str]:
        """A gigabyte, with its length and without."""
        head = f"POST {soak.INFER} HTTP/1.1\r\nhost: a\r\n"
        yield self.sent(f"{head}content-length: {2**30}\r\n\r\n".encode(), ends=False).decode()
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as sock:
            with suppress(ConnectionError):
                sock.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
                for _ in range(2**10):
                    sock.sendall(b"100000\r\n" + bytes(2**20) + b"\r\n")
            with suppress(ConnectionError):
                yield sock.recv(1000).partition(b"\r\n")[0].decode()

    def large_messages(self) -> Iterator[str]:
        """100 MB over gRPC."""
        yield self._called(bytes(10**8))

    def malformed_json(self) -> Iterator[str]:
        """JSON with some bytes changed."""
        tensor = {"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [1.0] * 16}
        good = json.dumps({"inputs": [tensor]}).encode()
        yield from (self.posted(one) for one in _changed(good, self.count))

    def malformed_bytes(self) -> Iterator[str]:
        """Binary requests with some bytes changed."""
        request = servers.binary_v2({"x": X}, soak.INFER)
        length = request.headers["inference-header-content-length"]
        for one in _changed(request.body, self.count):
            yield self.posted(one, soak.INFER, f"inference-header-content-length: {length}")

    def malformed_messages(self) -> Iterator[str]:
        """Messages of gRPC with some bytes changed."""
        message = inference.ModelInferRequest(model_name="by", raw_input_contents=[X.tobytes()])
        message.inputs.add(name="x", datatype="FP32", shape=X.shape)
        yield from map(self._called, _changed(message.SerializeToString(), self.count))

    def malformed_http(self) -> Iterator[str]:
        """Bytes that are no HTTP."""
        good = b"GET /v2 HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"
        for one in _changed(good, self.count):
            yield self.sent(one).decode("latin-1")

    def misfits(self) -> Iterator[str]:
        """Wrong shapes, types, names, models and signatures."""
        good = {"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [1.0] * 16}
        wrong = [
            {"shape": [1, 15], "data": [1.0] * 15},
            {"shape": [16]},
            {"shape": [-1, 16]},
            {"datatype": "INT64", "data": [1] * 16},
            {"name": "z"},
            {"data": [1.0] * 15},
            {"data": ["a"] * 16},
        ]
        for change in wrong:
            yield self.posted(json.dumps({"inputs": [good | change]}).encode())
        body = json.dumps({"inputs": [good]}).encode()
        yield self.posted(body, "/v2/models/nobody/infer")
        yield self.posted(body, "/v2/models/by/versions/77/infer")

    def slow_writers(self) -> Iterator[str]:
        """Clients that send a byte now and then, of a head and of a body."""
        head = f"POST {soak.INFER} HTTP/1.1\r\nhost: a\r\n".encode()
        for start in (head, head + b"content-length: 1000\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", self.port), timeout=60) as sock:
                sock.sendall(start)
                begin = time.monotonic()
                with suppress(ConnectionError):
                    while time.monotonic() - begin < 10 * BODY_SECONDS:
                        sock.sendall(b"y")
                        sock.settimeout(0.2)
                        with suppress(TimeoutError):
                            answer = sock.recv(1000)
                            break
                    else:
                        yield "still open"
                        continue
                yield answer.partition(b"\r\n")[0].decode() or "closed"

    def failing(self) -> Iterator[str]:
        """A model that fails while it computes."""
        request = servers.binary_v2({"x": np.ones(10**5, np.float32)}, "/v2/models/failing/infer")
        headers = [f"{name}: {value}" for name, value in request.headers.items()]
        yield self.posted(request.body, request.path, *headers)

    def _called(self, body: bytes) -> str:
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            try:
                channel.unary_unary(f"/{inference.SERVICE}/ModelInfer")(body, timeout=60)
            except grpc.RpcError as error:
                return str(error.code().name)
        return "OK"


# What may be answered. Changed bytes may still be a request, and a connection may end unanswered.
_REFUSED = {"HTTP/1.1 400 Bad Request"}
_CHANGED = {"HTTP/1.1 200 OK", "HTTP/1.1 404 Not Found", "HTTP/1.1 501 Not Implemented", *_REFUSED}
_HTTP = {"", "HTTP/1.1 405 Method Not Allowed", "HTTP/1.1 505 HTTP Version Not Supported"}
ALLOWED = {
    "leaving": {""},
    "half_bodies": {""},
    "large_bodies": {"HTTP/1.1 413 Request Entity Too Large", "HTTP/1.1 413 Content Too Large"},
    "large_messages": {"RESOURCE_EXHAUSTED"},
    "malformed_json": _CHANGED,
    "malformed_bytes": _CHANGED,
    "malformed_messages": {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"},
    "malformed_http": _CHANGED | _HTTP,
    "misfits": _REFUSED | {"HTTP/1.1 404 Not Found"},
    "slow_writers": _REFUSED | {"closed"},
    "failing": {"HTTP/1.1 500 Internal Server Error"},
}


def _changed(good: bytes, count: int) -> Iterator[bytes]:
    """The same bytes with a few changed, taken out or put in."""
    chance = random.Random(0)
    for _ in range(count):
        body = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(body))
            match chance.randrange(3):
                case 0:
                    body[place] = chance.randrange(256)
                case 1:
                    del body[place]
                case 2:
                    body.insert(place, chance.randrange(256))
        yield bytes(body)


@contextmanager
def good_clients(port: int, grpc_port: int) -> Iterator[soak.Clients]:
    """Clients that ask all the while."""
    clients = soak.Clients(port, grpc_port, GOOD)
    clients.start()
    try:
        yield clients
    finally:
        clients.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer of each")
    count = 20 if parser.parse_args().quick else 500
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        models = Path(place, "models")
        in_new_process(soak.save, folder=str(models / "by/1"), factor=1.0)
        in_new_process(save_failing, folder=str(models / "failing/1"))
        port, grpc_port = servers.free_port(), servers.free_port()
        words = ("--max-body-bytes", MOST_BYTES, "--body-timeout", BODY_SECONDS)

        def start() -> servers.Server:
            server = servers.start_ours(models, *words, port=port, grpc_port=grpc_port)
            request = servers.binary_v2({"x": X}, soak.INFER)
            server.wait(lambda: bool(servers.asked(port, request)))
            return server

        server = start()
        try:
            problems += _faults(server, Faults(port, grpc_port, count))
            problems += _killed(server, start, port, grpc_port)
        finally:
            server.end()
    print(*problems, sep="\n")
    return int(bool(problems))


def _faults(server: servers.Server, faults: Faults) -> Iterator[str]:
    """Every fault beside good clients; gives what was not as it should be."""
    before = 0
    for name, allowed in ALLOWED.items():
        start = time.monotonic()
        with good_clients(faults.port, faults.grpc_port) as good:
            found = Counter(getattr(faults, name)())
            time.sleep(0.2)
        told = ", ".join(f"{number} x {answer or 'nothing'}" for answer, number in found.items())
        served = good.answered.total()
        memory = server.memory_bytes()
        before = before or memory
        print(
            f"{name}: {told}; {time.monotonic() - start:.1f} s, {served} good answers beside, "
            f"{len(good.failures)} not; {memory / 1e6:.0f} MB",
            flush=True,
        )
        yield from (f"{name}: {answer!r}" for answer in found.keys() - allowed)
        yield from (f"{name}, beside it: {one}" for one in good.failures[:3])
        if not served:
            yield f"{name}: nobody else was served"
    if memory > before * 1.25:
        yield f"memory: {before / 1e6:.0f} MB after the first fault, {memory / 1e6:.0f} MB now"


def _killed(
    server: servers.Server, start: Callable[[], servers.Server], port: int, grpc_port: int
) -> Iterator[str]:
    """The process is killed under load and started again."""
    with good_clients(port, grpc_port) as good:
        time.sleep(1)
        server.signal(signal.SIGKILL)
        server.process.wait()
        begin = time.monotonic()
        again = start()
        seconds = time.monotonic() - begin
        failed = len(good.failures)
        answered = good.answered.total()
        time.sleep(1)
        later = good.answered.total() - answered
    again.end()
    wrong = [one for one in good.failures if "gave" in one]
    print(
        f"killed: {failed} calls failed, served again after {seconds:.1f} s, then {later} answers"
    )
    yield from wrong
    if not later:
        yield "killed: nobody was served afterwards"


if __name__ == "__main__":
    sys.exit(main())
