"""Models to serve, servers as processes, and a client of the standard library, for tests."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np

import exporter

ROOT = Path(__file__).resolve().parent.parent


class Scaled:
    """Rows that do not depend on each other, twice: as floats and as halves of another kind."""

    def __init__(self, factor=2.0):
        self.factor = exporter.Variable(jnp.float32(factor))

    @exporter.function(
        default=True,
        input_signature=[exporter.TensorSpec(("batch", 3), "float32", name="x")],
    )
    def scale(self, x):
        return {"y": x * self.factor.value}

    @exporter.function(input_signature=[exporter.TensorSpec(("batch",), "bfloat16", name="x")])
    def half(self, x):
        return {"y": x / 2}


class Centred:
    """Each row depends on all the others."""

    @exporter.function(input_signature=[exporter.TensorSpec(("batch", 2), "float32", name="x")])
    def centre(self, x):
        return {"y": x - x.mean(axis=0)}


class Counter:
    """State."""

    def __init__(self):
        self.count = exporter.Variable(jnp.int32(0), trainable=False)

    @exporter.function(input_signature=[exporter.TensorSpec((), "int32", name="by")])
    def add(self, by):
        self.count.value = self.count.value + by
        return {"count": self.count.value}


class Scores:
    """Words in, labels out."""

    def __init__(self):
        self.table = exporter.Variable(jnp.eye(4, 2))

    @exporter.function(input_signature=[exporter.TensorSpec(("batch", 2), "int32", name="ids")])
    def score(self, ids):
        return {"scores": self.table.value[ids].sum(axis=1)}


def save_models(root):
    """A repository: `scaled` in two versions, `centred`, `counter` and `words`."""
    samples = {"serving_default": [{"x": np.ones((2, 3), np.float32)}]}
    scaled = Scaled()
    exporter.save(
        scaled,
        root / "scaled/1",
        signatures={"serving_default": scaled.scale, "half": scaled.half},
        samples=samples,
    )
    exporter.save(Centred(), root / "centred/1")
    exporter.save(Counter(), root / "counter/1")
    words = exporter.stages.Vocabulary(["a", "b", "c", "d"])
    labels = exporter.stages.Labels(["left", "right"])
    exporter.save(Scores(), root / "words/1", stages={"serving_default": [words, labels]})


class Reply:
    """What a server answered."""

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]


class Client:
    """One connection at a time, kept open."""

    def __init__(self, port, headers=None):
        self.port = port
        self.headers = headers or {}
        self._connection = None

    def __call__(self, method, path, body=None, headers=None):
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = json.dumps(body).encode() if isinstance(body, dict | list) else body
        try:
            self._connection.request(method, path, data, {**self.headers, **(headers or {})})
            reply = self._connection.getresponse()
            return Reply(reply.status, reply.headers, reply.read())
        except BaseException:
            self.close()
            raise

    def get(self, path, **options):
        return self("GET", path, **options)

    def post(self, path, body=None, **options):
        return self("POST", path, body, **options)

    def close(self):
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def infer(self, model, inputs, **request):
        """The outputs of a call with arrays, through JSON."""
        reply = self.post(f"/v2/models/{model}/infer", infer_body(inputs, **request))
        assert reply.status == 200, reply.body
        return {one["name"]: one["data"] for one in reply.json["outputs"]}


_DATATYPES = {"float32": "FP32", "int32": "INT32", "bfloat16": "BF16", "object": "BYTES"}


def infer_body(inputs, **request):
    listed = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": _DATATYPES[array.dtype.name],
            "data": array.reshape(-1).tolist(),
        }
        for name, array in inputs.items()
    ]
    return {"inputs": listed, **request}


def binary_body(inputs, outputs=()):
    """The body of a binary request, and how long its JSON is."""
    listed = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": _DATATYPES[array.dtype.name],
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in inputs.items()
    ]
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    head = json.dumps({"inputs": listed, "outputs": wanted}).encode()
    return head + b"".join(array.tobytes() for array in inputs.values()), len(head)


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


_LISTENING = re.compile(r"listening at https?://[^ ]*:(\d+)(?: and grpc at \S+:(\d+))?")


class Process:
    """`exporter serve` in a process of its own, with ports of its own choice.

    Attributes:
      http: the port of HTTP.
      grpc: that of gRPC, or `None`.
      log: the lines it has written.
    """

    def __init__(self, *words, wait=True, env=None):
        self.log = []
        self._clients = []
        self.http = self.grpc = None
        self._ready = threading.Event()
        self._listening = threading.Event()
        command = [sys.executable, "-m", "exporter", "serve", *map(str, words)]
        if "--http-port" not in words:
            command += ["--http-port", "0"]
        if "--no-grpc" not in words and "--grpc-port" not in words:
            command += ["--grpc-port", "0"]
        self.process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu", **(env or {})},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if wait:
            assert self._ready.wait(60), self.text
            assert self.http, self.text

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line.rstrip())
            if found := re.search(
                r"listening at https?://[^ ]*:(\d+)(?: and grpc at \S+:(\d+))?", line
            ):
                self.http = int(found[1])
                self.grpc = int(found[2]) if found[2] else None
                self._listening.set()
            if "ready:" in line:
                self._ready.set()
        self._ready.set()
        self._listening.set()

    @property
    def text(self):
        return "\n".join(self.log)

    def wait_listening(self):
        assert self._listening.wait(60), self.text
        return self

    def client(self, **options):
        client = Client(self.http, **options)
        self._clients.append(client)
        return client

    def close(self):
        for client in self._clients:
            client.close()

    def end(self, number=signal.SIGTERM, timeout=30):
        """Stop it, and give its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout)
        self._reader.join(timeout)
        self.process.stderr.close()
        return code


@contextlib.contextmanager
def served(*words, **options):
    """A server while the block runs."""
    process = Process(*words, **options)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.process.kill()
        process.end()
        process.close()


def until(condition, seconds=30):
    """Wait for a condition, and give what it gave."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")
