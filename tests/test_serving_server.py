"""`exporter serve` as its users have it: a process, folders that change, and plain HTTP."""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import exporter
from serving import (
    BFLOAT16,
    ROOT,
    Process,
    Scaled,
    binary_body,
    infer_body,
    save_models,
    served,
    until,
)

ONES = np.ones((2, 3), np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save_models(root)
    return root


@pytest.fixture(scope="module")
def server(models):
    with served(models, "--poll-seconds", "0.1", "--max-body-bytes", "100000") as process:
        yield process


@pytest.fixture
def client(server):
    client = server.client()
    yield client
    client.close()


def test_what_is_served_is_told(client):
    assert client.get("/v2/health/live").json == {"live": True}
    assert client.get("/v2/health/ready").json == {"ready": True}
    assert client.get("/v2").json["name"] == "jax-exporter"
    assert client.get("/v2/models").json == {"models": ["centred", "counter", "scaled", "words"]}
    found = client.get("/v2/models/scaled").json
    assert found["versions"] == ["1"]
    assert found["inputs"][0]["name"] == "x"
    assert found["inputs"][0]["datatype"] == "FP32"
    assert found["inputs"][0]["shape"] == [-1, 3]
    assert client.get("/v2/models/scaled/versions/1/ready").json["ready"] is True


def test_a_signature_is_called_by_name(client):
    assert client.infer("scaled", {"x": ONES}) == {"y": [2.0] * 6}
    half = {"signature_name": "half"}
    found = client.infer("scaled", {"x": np.array([1, 3], BFLOAT16)}, parameters=half)
    assert found == {"y": [0.5, 1.5]}


def test_tensors_go_as_bytes(client):
    body, length = binary_body({"x": ONES}, ["y"])
    headers = {"Inference-Header-Content-Length": str(length)}
    reply = client.post("/v2/models/scaled/infer", body, headers=headers)
    assert reply.status == 200
    end = int(reply.headers["Inference-Header-Content-Length"])
    head = json.loads(reply.body[:end])
    assert head["outputs"][0]["parameters"]["binary_data_size"] == 24
    assert np.frombuffer(reply.body[end:], np.float32).tolist() == [2.0] * 6


def test_rows_and_columns_as_tensorflow_serving_takes_them(client):
    path = "/v1/models/scaled:predict"
    assert client.post(path, {"instances": [[1, 2, 3]]}).json == {"predictions": [[2, 4, 6]]}
    assert client.post(path, {"instances": [{"x": [1, 2, 3]}]}).json == {"predictions": [[2, 4, 6]]}
    assert client.post(path, {"inputs": {"x": [[1, 2, 3]]}}).json == {"outputs": [[2, 4, 6]]}
    states = client.get("/v1/models/scaled").json["model_version_status"]
    assert states == [
        {
            "version": "1",
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }
    ]
    found = client.get("/v1/models/scaled/metadata").json["metadata"]["signature_def"]
    assert sorted(found["signature_def"]) == ["half", "serving_default"]


def test_words_come_in_and_labels_go_out(client):
    words = np.array([["a", "a"], ["b", "b"]], object)
    found = client.infer("words", {"words": words})
    assert found["label"] == ["left", "right"]
    rows = client.post("/v1/models/words:predict", {"instances": [["b", "b"]]}).json
    assert rows["predictions"][0]["label"] == "right"
    # What a stage makes may be given, and what one reads may be asked for.
    ids = np.array([[0, 0]], np.int32)
    raw = client.infer("words", {"ids": ids}, outputs=[{"name": "scores"}])
    assert raw == {"scores": [2.0, 0.0]}
    reply = client.post("/v2/models/words/infer", infer_body({"words": words[:, :1]}))
    assert reply.status == 400


def test_state_is_kept_and_calls_are_not_joined(client):
    before = client.infer("counter", {"by": np.array(0, np.int32)})["count"][0]
    for number in range(1, 4):
        found = client.infer("counter", {"by": np.array(1, np.int32)})
        assert found == {"count": [before + number]}


def test_rows_that_depend_on_each_other_are_not_joined(server):
    wrong = []

    def call(seed):
        client = server.client()
        x = np.random.RandomState(seed).randn(3, 2).astype(np.float32)
        for _ in range(20):
            found = np.reshape(client.infer("centred", {"x": x})["y"], (3, 2))
            if not np.allclose(found, x - x.mean(axis=0), atol=1e-6):
                wrong.append(seed)
        client.close()

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_joined_calls_answer_as_each_alone(server):
    wrong = []

    def call(seed):
        client = server.client()
        random = np.random.RandomState(seed)
        for _ in range(30):
            x = random.randn(random.randint(1, 50), 3).astype(np.float32)
            found = client.infer("scaled", {"x": x})["y"]
            if not np.array_equal(np.array(found, np.float32), (x * 2).reshape(-1)):
                wrong.append(seed)
        client.close()

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (("GET", "/v2/models/nothing", None), 404, "no model 'nothing'"),
        (("GET", "/v2/models/scaled/versions/7", None), 404, "no version 7"),
        (("GET", "/v2/models/scaled/versions/new", None), 400, "a version is a number"),
        (("GET", "/v2/models/scaled/labels/new", None), 404, "no label 'new'"),
        (("GET", "/elsewhere", None), 404, "nothing at '/elsewhere'"),
        (("GET", "/v2/models/scaled/infer", None), 405, "POST is for this address"),
        (("POST", "/v2/models/scaled/infer", b"{"), 400, "not JSON"),
        (("POST", "/v2/models/scaled/infer", b""), 400, "not JSON"),
        (("POST", "/v2/models/scaled/infer", {"inputs": []}), 400, "x: missing"),
        (("POST", "/v1/models/scaled:predict", {}), 400, "instances"),
        (("POST", "/v1/models/scaled:predict", {"instances": [[1, 2]]}), 400, "float32[batch, 3]"),
        (("POST", "/v1/models/scaled:classify", {}), 501, ":predict is"),
        (("POST", "/v2/repository/models/nothing/load", None), 404, "no model 'nothing'"),
    ],
)
def test_what_cannot_be_answered_is_refused(client, request_, status, words):
    reply = client(*request_)
    assert reply.status == status
    assert words in reply.error
    assert "Traceback" not in reply.error


def test_names_shapes_and_datatypes_are_checked(client):
    path = "/v2/models/scaled/infer"
    wrong_name = client.post(path, infer_body({"z": ONES}))
    assert wrong_name.status == 400
    assert "z: not an input" in wrong_name.error
    wrong_shape = client.post(path, infer_body({"x": ONES[:, :2]}))
    assert wrong_shape.status == 400
    assert "expected float32[batch, 3]" in wrong_shape.error
    wrong_output = client.post(path, infer_body({"x": ONES}, outputs=[{"name": "u"}]))
    assert wrong_output.status == 400
    assert "no output 'u'" in wrong_output.error
    wrong_signature = client.post(path, infer_body({"x": ONES}, parameters={"signature_name": "u"}))
    assert wrong_signature.status == 400
    assert "no signature 'u'" in wrong_signature.error


def test_large_bodies_are_refused_with_and_without_a_length(server):
    client = server.client()
    reply = client.post("/v2/models/scaled/infer", b" " * 200_000)
    assert reply.status == 413
    assert "100,000" in reply.error
    client.close()
    connection = http.client.HTTPConnection("127.0.0.1", server.http, timeout=30)
    connection.putrequest("POST", "/v2/models/scaled/infer")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    for _ in range(20):
        connection.send(b"2710\r\n" + b" " * 10_000 + b"\r\n")
    connection.send(b"0\r\n\r\n")
    assert connection.getresponse().status == 413
    connection.close()


def test_compressed_bodies_are_read_and_bombs_are_refused(client):
    import gzip

    body = gzip.compress(json.dumps(infer_body({"x": ONES})).encode())
    headers = {"Content-Encoding": "gzip"}
    reply = client.post("/v2/models/scaled/infer", body, headers=headers)
    assert reply.status == 200
    bomb = gzip.compress(b" " * 10_000_000)
    assert client.post("/v2/models/scaled/infer", bomb, headers=headers).status == 413
    client.close()
    assert client.post("/v2/models/scaled/infer", b"none", headers=headers).status == 400
    odd = {"Content-Encoding": "br"}
    assert client.post("/v2/models/scaled/infer", b"none", headers=odd).status == 400


def test_clients_that_leave_or_send_half_a_body_harm_nobody(server):
    for text in (
        b"POST /v2/models/scaled/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
        b"POST /v2/models/scaled/infer HTTP/1.1\r\nHost: x\r\nContent-Le",
        b"\x00\x01\x02 nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", server.http)) as connection:
            connection.sendall(text)
    client = server.client()
    assert client.infer("scaled", {"x": ONES}) == {"y": [2.0] * 6}
    client.close()


def test_metrics_count_requests_batches_and_programs(client):
    client.infer("scaled", {"x": ONES})
    text = client.get("/metrics").body.decode()
    assert client.get("/monitoring/prometheus/metrics").status == 200
    samples = {
        (one.name, *sorted(one.labels.items())): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }
    names = {key[0] for key in samples}
    assert {
        "exporter_requests_total",
        "exporter_request_seconds_count",
        "exporter_batch_rows_count",
        "exporter_queue_rows",
        "exporter_compiled_programs_total",
        "process_resident_memory_bytes",
    } <= names
    state = [("model", "scaled"), ("state", "AVAILABLE"), ("version", "1")]
    assert samples["exporter_model_state", *state] == 1
    assert any("nothing" in str(key) for key in samples) is False


def test_the_openapi_document_has_a_call_for_each_model_that_works(client):
    found = client.get("/openapi.json").json
    assert found["openapi"] == "3.1.0"
    text = json.dumps(found)
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#/')[1:]}:
        place = found
        for part in reference.split("/"):
            place = place[part]
    for model in ("scaled", "centred", "counter"):
        path = f"/v2/models/{model}/infer"
        content = found["paths"][path]["post"]["requestBody"]["content"]
        reply = client.post(path, content["application/json"]["example"])
        assert reply.status == 200, reply.body


def test_models_come_change_and_go_while_calls_go_on(models, server):
    failed, versions, stop = [], set(), threading.Event()

    def call():
        client = server.client()
        while not stop.is_set():
            reply = client.post("/v2/models/scaled/infer", infer_body({"x": ONES}))
            if reply.status != 200:
                failed.append(reply.body)
                continue
            found = reply.json
            version, y = found["model_version"], found["outputs"][0]["data"]
            versions.add(version)
            if y != [{"1": 2.0, "2": 5.0, "3": 7.0}[version]] * 6:
                failed.append(found)
        client.close()

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    client = server.client()

    def serves(number):
        return client.get("/v2/models/scaled").json.get("versions") == [str(number)]

    for number, factor in ((2, 5.0), (3, 7.0)):
        scaled = Scaled(factor)
        exporter.save(
            scaled,
            models / f"scaled/{number}",
            signatures={"serving_default": scaled.scale, "half": scaled.half},
        )
        until(lambda number=number: serves(number))
    # One that cannot be loaded replaces nothing, and says so.
    shutil.copytree(models / "scaled/3", models / "scaled/4")
    for file in (models / "scaled/4/programs").iterdir():
        file.write_bytes(b"damaged")
    broken = until(
        lambda: [
            one
            for one in client.get("/v1/models/scaled").json["model_version_status"]
            if one["version"] == "4" and one["status"]["error_message"]
        ]
    )
    assert broken[0]["state"] == "END"
    assert serves(3)
    assert client.get("/v2/models/scaled/versions/4/ready").status == 503
    shutil.rmtree(models / "scaled/4")
    shutil.rmtree(models / "scaled/3")
    until(lambda: serves(2))
    shutil.rmtree(models / "scaled/2")
    until(lambda: serves(1))
    stop.set()
    for thread in threads:
        thread.join()
    client.close()
    assert failed == []
    assert versions == {"1", "2", "3"}


def test_models_are_unloaded_and_loaded_by_request(client):
    assert client.post("/v2/repository/models/centred/unload").status == 200
    assert client.get("/v2/models/centred/ready").status == 503
    index = client.post("/v2/repository/index").json
    state = {one["name"]: one["state"] for one in index}["centred"]
    assert state in {"UNLOADING", "UNAVAILABLE"}
    ready = client.post("/v2/repository/index", {"ready": True}).json
    assert "centred" not in {one["name"] for one in ready}
    assert client.post("/v2/repository/models/centred/load").status == 200
    assert client.get("/v2/models/centred/ready").status == 200


def test_it_ends_when_it_is_told_to_and_finishes_what_it_took(models):
    with served(models, "--no-grpc") as process:
        answers = []

        def call():
            client = process.client()
            while True:
                try:
                    answers.append(client.post("/v2/models/scaled/infer", infer_body({"x": ONES})))
                except (ConnectionError, http.client.HTTPException):
                    return

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: len(answers) > 50)
        assert process.end(signal.SIGTERM) == 0, process.text
        for thread in threads:
            thread.join()
    assert {one.status for one in answers} == {200}
    assert "stopped" in process.text


def test_an_address_in_use_and_a_folder_that_is_not_there_are_told(models, tmp_path, server):
    taken = Process(models, "--http-port", server.http, wait=False)
    taken.process.wait(60)
    assert taken.end() == 1
    assert "cannot listen at 127.0.0.1" in taken.text
    missing = Process(tmp_path / "none", wait=False)
    missing.process.wait(60)
    assert missing.end() == 1
    assert "is not a folder with models" in missing.text


def test_a_token_is_asked_for_and_never_for_health(models, tmp_path):
    (tmp_path / "tokens").write_text("secret\nother\n")
    with served(models / "scaled", "--token-file", tmp_path / "tokens", "--no-grpc") as process:
        assert process.client().get("/v2/health/ready").status == 200
        refused = process.client().get("/v2/models/scaled")
        assert refused.status == 401
        assert "Bearer" in refused.headers["WWW-Authenticate"]
        wrong = process.client(headers={"Authorization": "Bearer secre"})
        assert wrong.get("/metrics").status == 401
        right = process.client(headers={"Authorization": "Bearer other"})
        assert right.infer("scaled", {"x": ONES}) == {"y": [2.0] * 6}
        # They can be replaced while it runs.
        time.sleep(0.01)
        (tmp_path / "tokens").write_text("fresh\n")
        assert right.get("/v2").status == 401


def test_an_artifact_alone_and_settings_in_a_file(models, tmp_path):
    (tmp_path / "serve.yaml").write_text(
        f"""
http_port: 0
grpc_port: null
max_batch_size: 4
models:
  plain:
    path: {models / "scaled/1"}
    version_labels: {{stable: 1}}
    max_batch_size: 2
    signatures:
      half: {{max_batch_size: 8, batch_timeout_micros: 1000}}
  centred:
    path: {models / "centred"}
"""
    )
    with served("--config", tmp_path / "serve.yaml", "--http-port", "0", "--no-grpc") as process:
        client = process.client()
        assert client.get("/v2/models").json == {"models": ["centred", "plain"]}
        labelled = client.post("/v1/models/plain/labels/stable:predict", {"instances": [[1, 2, 3]]})
        assert labelled.json == {"predictions": [[2, 4, 6]]}
        x = np.arange(21, dtype=np.float32).reshape(7, 3)  # more rows than a batch
        assert client.infer("plain", {"x": x}) == {"y": (2 * x).reshape(-1).tolist()}
        client.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http_port: many", "http_port: expected"),
        ("nonsense: 1", "nonsense"),
        ("models: {a: {max_batch_size: 0}}", "max_batch_size is a whole number"),
        ("models: {a: {version_policy: newest}}", "a version policy is latest"),
        ("certificate: a.pem", "certificate and private_key are given together"),
        ("[1, 2]", "settings by name"),
        ("a: [", "is not YAML"),
    ],
)
def test_settings_that_cannot_be_are_told(models, tmp_path, capsys, text, words):
    from exporter.cli import main

    (tmp_path / "serve.yaml").write_text(text)
    assert main(["serve", str(models), "--config", str(tmp_path / "serve.yaml")]) == 1
    assert words in capsys.readouterr().err


def test_workers_share_an_address_and_are_replaced(models):
    with served(models / "scaled", "--workers", "2", "--no-grpc", "--model-name", "s") as process:
        until(lambda: process.text.count("ready: s") == 2, 60)
        pids = {int(line.rsplit(" ", 1)[1]) for line in process.log if "is process" in line}
        import os

        os.kill(min(pids), signal.SIGKILL)
        until(lambda: process.text.count("ready: s") == 3, 60)
        for _ in range(20):
            client = process.client()
            assert client.infer("s", {"x": ONES}) == {"y": [2.0] * 6}
            client.close()
        text = process.client().get("/metrics").body.decode()
        assert 'exporter_requests_total{code="200",method="infer"' in text
        assert process.end() == 0


def test_workers_share_the_port_of_grpc_too(models):
    import grpc

    from exporter.serving import inference

    with served(models / "scaled", "--workers", "2") as process:
        until(lambda: process.text.count("ready: scaled") == 2, 60)
        assert "cannot listen" not in process.text
        for _ in range(4):
            with grpc.insecure_channel(f"127.0.0.1:{process.grpc}") as channel:
                call = channel.unary_unary(f"/{inference.SERVICE}/ServerReady")
                assert inference.ServerReadyResponse.FromString(call(b"", timeout=10)).ready
        assert process.end() == 0


def test_the_page_is_used_in_a_browser(server):
    pytest.importorskip("playwright", reason="no playwright: the page was not used in a browser")
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(names)}: the page was not used in a browser")
    url = f"http://127.0.0.1:{server.http}/"
    script = ROOT / "tests/run_serving_page.py"
    done = subprocess.run(
        [sys.executable, script, browser, url],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert [one for one in seen["errors"] if "400 (Bad Request)" not in one] == []
    assert all(one.startswith(url) for one in seen["requests"])
    assert all(wide <= int(key.split()[0]) for key, wide in seen["widths"].items())
    assert seen["answer"].split("\t")[2] == "[2,4,6,8,10,12]"
    assert seen["said"].startswith("version 1, ")
    assert seen["curl"].startswith(f"curl -s {url}v2/models/scaled/infer -d '")
    assert "expected float32[batch, 3] with batch=1, got float32[1, 2]" in seen["refused"]
    assert '["left"]' in seen["label"]
    assert "BF16 [1]" in seen["half"]


def test_the_page_of_no_models_says_how_to_add_one(tmp_path):
    with served(tmp_path, "--no-grpc") as process:
        client = process.client()
        assert b"There is none yet" in client.get("/").body
        assert client.get("/v2/health/ready").status == 503
        assert client.get("/v2/health/live").status == 200
