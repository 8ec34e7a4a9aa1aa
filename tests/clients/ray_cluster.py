"""Ray Serve with two replicas on this machine: a replica that dies, and versions that are swapped.

    python tests/clients/ray_cluster.py ENVIRONMENTS

In an environment with the extra `ray`. Calls go on all the while, through HTTP and gRPC; then the
clients that others wrote, of the environments that `make clients` makes, call as well.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

os.environ |= {"RAY_AUTH_MODE": "disabled", "JAX_PLATFORMS": "cpu", "RAY_USAGE_STATS_ENABLED": "0"}

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import grpc  # noqa: E402  # after the environment of Ray
import ray  # noqa: E402
from ray import serve  # noqa: E402
from ray.serve.config import HTTPOptions, gRPCOptions  # noqa: E402

import exporter  # noqa: E402
from exporter.serving import inference  # noqa: E402
from exporter.serving.ray import build  # noqa: E402
from serving import Scaled, save_models  # noqa: E402  # it stands beside the tests

HTTP, GRPC = 8321, 9321
SERVICER = "exporter.serving.ray.add_to_server"
BODY = json.dumps(
    {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
).encode()
ANSWERS = {"1": [2.0, 4.0, 6.0], "2": [5.0, 10.0, 15.0]}


class Load:
    """Calls over HTTP, one after the other on each of some threads, until it is told to end."""

    def __init__(self, threads=4):
        self.versions, self.failed, self.wrong = {}, [], []
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _call(self):
        url = f"http://127.0.0.1:{HTTP}/v2/models/scaled/infer"
        while not self._ends.is_set():
            try:
                with urllib.request.urlopen(url, BODY, timeout=30) as reply:
                    found = json.loads(reply.read())
            except Exception as error:  # whatever it is, it is counted
                self.failed.append(repr(error))
                continue
            version = found["model_version"]
            self.versions[version] = self.versions.get(version, 0) + 1
            if found["outputs"][0]["data"] != ANSWERS[version]:
                self.wrong.append(found)

    def end(self):
        self._ends.set()
        for thread in self._threads:
            thread.join()


def replicas():
    """The processes of the replicas."""
    found = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    rows = [line.split(maxsplit=1) for line in found.stdout.splitlines()]
    return sorted(int(pid) for pid, words in rows if words.startswith("ray::ServeReplica:models"))


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def by_grpc():
    """A call through the gRPC proxy of Ray."""
    with grpc.insecure_channel(f"127.0.0.1:{GRPC}") as channel:
        call = channel.unary_unary(
            f"/{inference.SERVICE}/ModelInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=inference.ModelInferResponse.FromString,
        )
        request = inference.ModelInferRequest(model_name="scaled")
        tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
        tensor.contents.fp32_contents.extend([1, 2, 3])
        answer = call(request, metadata=(("application", "models"),))
        assert list(answer.outputs[0].contents.fp32_contents) == ANSWERS[answer.model_version]
        request.model_name = "nothing"
        try:
            call(request, metadata=(("application", "models"),))
        except grpc.RpcError as error:
            code = error.code()
        else:
            code = grpc.StatusCode.OK
        assert code is grpc.StatusCode.NOT_FOUND, code


def run(folder, **more):
    options = {"num_replicas": 2, "ray_actor_options": {"num_cpus": 0.5}}
    application = build({"path": str(folder), **options, **more})
    serve.run(application, name="models", route_prefix="/")


def main(folder):
    save_models(folder)
    ray.init(num_cpus=4, include_dashboard=False, logging_level="error", log_to_driver=False)
    serve.start(
        http_options=HTTPOptions(port=HTTP),
        grpc_options=gRPCOptions(port=GRPC, grpc_servicer_functions=[SERVICER]),
    )
    try:
        run(folder)
        by_grpc()
        load = Load()
        time.sleep(3)
        steady = dict(load.versions)
        before = replicas()
        assert len(before) == 2, before
        os.kill(before[0], signal.SIGKILL)
        until(lambda: len(replicas()) == 2 and before[0] not in replicas())
        time.sleep(3)
        killed = len(load.failed)
        scaled = Scaled(5.0)
        both = {"serving_default": scaled.scale, "half": scaled.half}
        exporter.save(scaled, folder / "scaled/2", signatures=both)
        run(folder, user_config={"revision": 1})
        until(lambda: "2" in load.versions)
        time.sleep(3)
        swapped = len(load.failed) - killed
        load.end()
        by_grpc()
        assert load.wrong == [], load.wrong[:3]
        assert swapped == 0, load.failed[-3:]
        # Only what the replica that died had in hand may be lost.
        assert killed <= 4, load.failed
        refused = urllib.request.Request(
            f"http://127.0.0.1:{HTTP}/v2/repository/models/scaled/unload", b"", method="POST"
        )
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(refused)
            raise AssertionError("a model was unloaded in one replica alone")
        print(
            f"two replicas: {steady} calls in 3 s, {load.versions} in all, {killed} lost with the "
            f"replica that was killed, {swapped} lost in the swap, none wrong"
        )
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
