"""What a server does with those who are slow, leave, ask too much or should not be understood."""

import contextlib
import datetime as dt
import http.client
import http.server
import ipaddress
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

import exporter
from exporter.serving import inference
from serving import ROOT, Client, Scaled, infer_body, served, until

X = np.ones((1, 3), np.float32)
SCALED = "/v2/models/scaled/infer"
INFER = f"/{inference.SERVICE}/ModelInfer"


class Slow:
    """It computes as long as it is asked to."""

    @exporter.function(
        input_signature=[exporter.TensorSpec((), "int32", name="steps")],
    )
    def work(self, steps):
        start = jnp.eye(200)
        end = jax.lax.fori_loop(0, steps, lambda _, x: jnp.tanh(x @ start), start)
        return {"sum": end.sum()}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    exporter.save(Slow(), root / "slow/1")
    exporter.save(Scaled(), root / "scaled/1")
    return root


@pytest.fixture(scope="module")
def server(models):
    words = ("--body-timeout", "1", "--max-enqueued-batches", "1", "--max-batch-size", "1")
    with served(models, *words) as process:
        yield process


@pytest.fixture(scope="module")
def second(server):
    """So many steps take about a second."""
    client = Client(server.http)
    client.infer("slow", {"steps": np.array(1, np.int32)})
    start = time.monotonic()
    client.infer("slow", {"steps": np.array(2000, np.int32)})
    client.close()
    return round(2000 / (time.monotonic() - start))


def slow_body(steps, **request):
    return infer_body({"steps": np.array(steps, np.int32)}, **request)


def computed(client, model):
    """How many calls of a model were computed."""
    families = text_string_to_metric_families(client.get("/metrics").body.decode())
    found = [
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "exporter_batch_calls_sum" and sample.labels["model"] == model
    ]
    return sum(found)


def answer_of(sock):
    """The status and the document of the answer that comes over a connection."""
    sock.settimeout(20)
    reply = http.client.HTTPResponse(sock)
    reply.begin()
    return reply.status, json.loads(reply.read())


def closed_after(sock):
    """The seconds until the other side closes a connection."""
    start = time.monotonic()
    sock.settimeout(20)
    with contextlib.suppress(ConnectionError):
        while sock.recv(1000):
            pass
    return time.monotonic() - start


@pytest.mark.parametrize("sent", [b"", b"POST /v2/models/scaled/infer HTTP/1.1\r\nhost: a\r\n"])
def test_whoever_does_not_say_what_he_wants_is_not_waited_for(server, sent):
    with socket.create_connection(("127.0.0.1", server.http)) as sock:
        sock.sendall(sent)
        assert 0.5 < closed_after(sock) < 10


def test_a_head_that_comes_byte_by_byte_has_no_more_time(server):
    with socket.create_connection(("127.0.0.1", server.http)) as sock:
        start = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for byte in b"GET /v2 HTTP/1.1\r\nx: " + b"y" * 1000:
                sock.send(bytes([byte]))
                time.sleep(0.05)
        assert time.monotonic() - start < 10


def test_a_connection_that_has_asked_may_rest(server, models):
    client = Client(server.http)
    client.get("/v2")
    before = client._connection.sock
    time.sleep(1.6)
    assert client.get("/v2").status == 200
    assert client._connection.sock is before
    client.close()


def test_a_body_that_does_not_come_is_told(server):
    with socket.create_connection(("127.0.0.1", server.http)) as sock:
        sock.sendall(
            b"POST /v2/models/scaled/infer HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{"
        )
        status, document = answer_of(sock)
    assert status == 400
    assert document["error"] == "the body did not come within 1 s; 1 bytes did."


def test_a_call_that_is_too_late_is_told_and_not_computed(server, second):
    client, other = Client(server.http), Client(server.http)
    before = computed(client, "slow")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(client.post, "/v2/models/slow/infer", slow_body(second))
        time.sleep(0.3)
        late = slow_body(1, parameters={"timeout": 100_000})  # microseconds
        reply = other.post("/v2/models/slow/infer", late)
        assert first.result().status == 200
    assert reply.status == 504
    assert reply.error == "the time for the call is over, and it was not computed."
    assert computed(client, "slow") == before + 1
    client.close()
    other.close()


def test_a_call_whose_client_left_is_not_computed(server, second):
    client, other = Client(server.http), Client(server.http)
    before = computed(client, "slow")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(client.post, "/v2/models/slow/infer", slow_body(second))
        time.sleep(0.3)
        body = json.dumps(slow_body(1)).encode()
        head = (
            f"POST /v2/models/slow/infer HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", server.http)) as sock:
            sock.sendall(head.encode() + body)
            time.sleep(0.2)
        assert first.result().status == 200
    assert other.post("/v2/models/slow/infer", slow_body(1)).status == 200
    assert computed(client, "slow") == before + 2
    client.close()
    other.close()


class SlowRows:
    """Rows that take a while."""

    @exporter.function(input_signature=[exporter.TensorSpec(("batch", 200), "float32", name="x")])
    def work(self, x):
        start = jnp.eye(200)
        return {"y": jax.lax.fori_loop(0, 3000, lambda _, y: jnp.tanh(y @ start), x)}


def test_more_calls_than_may_wait_are_sent_away_for_a_moment(tmp_path):
    batching = exporter.Batching(max_batch_size=2, max_enqueued_batches=1)
    exporter.save(SlowRows(), tmp_path / "rows/1", batching={"serving_default": batching})
    x = np.ones((1, 200), np.float32)

    def call(_):
        client = Client(one.http)
        reply = client.post("/v2/models/rows/infer", infer_body({"x": x}))
        client.close()
        return reply

    with served(tmp_path, "--no-grpc") as one, ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(call, range(16)))
    refused = [reply for reply in replies if reply.status == 429]
    assert {reply.status for reply in replies} == {200, 429}
    assert {reply.headers["retry-after"] for reply in refused} == {"1"}
    assert all("wait for signature 'serving_default'" in reply.error for reply in refused)


def test_a_body_that_comes_while_a_version_is_swapped_is_answered_by_the_new_one(tmp_path):
    exporter.save(Scaled(2.0), tmp_path / "scaled/1")
    with served(tmp_path, "--poll-seconds", "0.1", "--no-grpc") as one:
        client = one.client()
        body = json.dumps(infer_body({"x": X})).encode()
        head = f"POST {SCALED} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", one.http)) as sock:
            sock.sendall(head.encode() + body[:20])
            exporter.save(Scaled(3.0), tmp_path / "scaled/2")
            until(lambda: client.infer("scaled", {"x": X})["y"] == [3.0, 3.0, 3.0])
            sock.sendall(body[20:])
            status, document = answer_of(sock)
        assert status == 200
        assert document["outputs"][0]["data"] == [3.0, 3.0, 3.0]


def test_a_version_with_other_weights_needs_no_code_of_its_own(tmp_path):
    exporter.save(Scaled(2.0), tmp_path / "scaled/1")
    words = ("--poll-seconds", "0.1", "--no-grpc", "--cache", tmp_path / "cache")
    with served(tmp_path, *words) as one:
        client = one.client()
        exporter.save(Scaled(3.0), tmp_path / "scaled/2")
        until(lambda: client.infer("scaled", {"x": X})["y"] == [3.0, 3.0, 3.0])
        families = text_string_to_metric_families(client.get("/metrics").body.decode())
        found = {
            sample.labels["found"]: sample.value
            for family in families
            for sample in family.samples
            if sample.name == "exporter_compiled_programs_total" and sample.labels["version"] == "2"
        }
    assert found["compiled"] == 0
    assert found["cached"] > 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for this machine that nobody has signed but itself, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    here = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(here), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "chain.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder


def test_both_protocols_are_encrypted_where_there_is_a_certificate(models, certificate):
    chain, key = certificate / "chain.pem", certificate / "key.pem"
    with served(models, "--certificate", chain, "--private-key", key) as one:
        trusting = ssl.create_default_context(cafile=str(chain))
        url = f"https://localhost:{one.http}/v2/models/scaled/infer"
        body = json.dumps(infer_body({"x": X})).encode()
        with urllib.request.urlopen(url, body, context=trusting, timeout=30) as reply:
            assert json.load(reply)["outputs"][0]["data"] == [2.0, 2.0, 2.0]
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib.request.urlopen(url, body, timeout=30)
        with pytest.raises((ConnectionError, OSError)):
            Client(one.http).get("/v2")
        message = inference.ModelInferRequest(model_name="scaled", raw_input_contents=[X.tobytes()])
        message.inputs.add(name="x", datatype="FP32", shape=X.shape)
        credentials = grpc.ssl_channel_credentials(chain.read_bytes())
        with grpc.secure_channel(f"localhost:{one.grpc}", credentials) as channel:
            answer = channel.unary_unary(INFER)(message.SerializeToString(), timeout=30)
        found = inference.ModelInferResponse.FromString(answer)
        assert np.array_equal(np.frombuffer(found.raw_output_contents[0], np.float32), [2, 2, 2])
        with grpc.insecure_channel(f"localhost:{one.grpc}") as channel:
            call = channel.unary_unary(INFER)
            with pytest.raises(grpc.RpcError):
                call(message.SerializeToString(), timeout=5)


_SAVE_SPLIT = """
import jax, jax.numpy as jnp, exporter, sys
from jax.sharding import NamedSharding, PartitionSpec as P
mesh = jax.make_mesh((2, 2), ("data", "model"))
weights = jax.device_put(jnp.arange(12.0).reshape(3, 4), NamedSharding(mesh, P(None, "model")))
exporter.save(
    (lambda w, x: {"y": x @ w}, weights),
    sys.argv[1],
    input_signature=[exporter.TensorSpec(("batch", 3), "float32", name="x")],
)
"""


def test_a_split_model_is_served_on_a_mesh(tmp_path):
    env = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    subprocess.run(
        [sys.executable, "-c", _SAVE_SPLIT, tmp_path / "split"],
        check=True,
        env={**os.environ, **env, "PYTHONPATH": str(ROOT)},
    )
    with served(tmp_path / "split", "--mesh", "data=2,model=2", env=env) as one:
        client = one.client()
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        found = client.infer("split", {"x": x})["y"]
        assert np.array_equal(np.reshape(found, (2, 4)), x @ np.arange(12.0).reshape(3, 4))


class _Collector(http.server.BaseHTTPRequestHandler):
    """Keeps the spans that are sent to it."""

    spans: list = []  # of the only collector

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        for of in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in of.scope_spans:
                self.spans.extend(scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass


def test_requests_are_spans_of_the_trace_of_their_client(models):
    collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    port = collector.server_address[1]
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    trace = "0af7651916cd43dd8448eb211c80319c"
    parent = f"00-{trace}-b7ad6b7169203331-01"
    message = inference.ModelInferRequest(model_name="scaled", raw_input_contents=[X.tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=X.shape)
    with served(models, "--traces", env=env) as one:
        client = one.client()
        body = infer_body({"x": X})
        reply = client.post("/v2/models/scaled/infer", body, headers={"traceparent": parent})
        assert reply.status == 200
        client.get("/v2/health/ready")
        with grpc.insecure_channel(f"127.0.0.1:{one.grpc}") as channel:
            call = channel.unary_unary(INFER)
            call(message.SerializeToString(), metadata=[("traceparent", parent)], timeout=30)
        until(lambda: len(_Collector.spans) >= 2)
    collector.shutdown()
    collector.server_close()
    assert {span.trace_id.hex() for span in _Collector.spans} == {trace}
    names = sorted(span.name for span in _Collector.spans)
    assert names == [INFER, f"POST {SCALED}"]


def test_the_runtime_for_kserve_starts_a_server_that_its_probes_find_ready(models):
    document = yaml.safe_load((ROOT / "examples/kserve/runtime.yaml").read_text())
    (container,) = document["spec"]["containers"]
    given = {"/mnt/models": models / "scaled", "{{.Name}}": "digits"}
    words = []
    for word in container["args"]:
        name, _, value = word.partition("=")
        value = {"--http-port": "0", "--grpc-port": "0", "--drain-seconds": "0"}.get(name, value)
        words += [given.get(name, name), *([given.get(value, value)] if value else [])]
    with served(*words) as one:
        client = one.client()
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert client.get(container[probe]["httpGet"]["path"]).status == 200
        assert client.infer("digits", {"x": X})["y"] == [2.0, 2.0, 2.0]


class Cube:
    """It needs more memory than a process can have, for large inputs."""

    @exporter.function(input_signature=[exporter.TensorSpec(("n",), "float32", name="x")])
    def cube(self, x):
        return {"y": jnp.sort(x[:, None, None] * x[None, :, None] * x, axis=0)[0, 0]}


def test_a_model_that_fails_is_told_without_its_inside_and_fails_alone(tmp_path):
    exporter.save(Cube(), tmp_path / "cube/1")
    with served(tmp_path, "--no-grpc") as one:
        client = one.client()
        reply = client.post("/v2/models/cube/infer", infer_body({"x": np.ones(10**5, np.float32)}))
        assert reply.status == 500
        assert "failed with" in reply.error
        assert "the log of the server has the rest" in reply.error
        assert "Traceback" not in reply.error
        assert client.infer("cube", {"x": np.full(2, 2.0, np.float32)})["y"] == [8.0, 8.0]
        until(lambda: "RESOURCE_EXHAUSTED" in one.text)
