"""The protocol over gRPC: its messages, what its methods answer, and how calls end."""

import asyncio
import contextlib
import gzip
import importlib
import os
import pickle
import subprocess
import sys
from types import SimpleNamespace

import grpc
import ml_dtypes
import numpy as np
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from exporter.errors import OptionError
from exporter.serving import health, inference, reflection
from exporter.serving.errors import (
    DeadlineError,
    NotOfferedError,
    NotReadyError,
    OverloadedError,
    RequestError,
    ServingError,
    UnknownModelError,
)
from exporter.serving.messages import Answer, Request
from exporter.serving.rpc import SERVICES, add_port, make_server
from exporter.serving.rpc_codec import read_request, write_answer
from exporter.serving.rpc_methods import version_of
from signatures.errors import BindError, UnknownSignatureError
from signatures.spec import TensorSpec

MIB = 2**20


class FakeCore:
    """It answers with twice the inputs, and keeps what it was asked."""

    name = "fake"
    version = "1.2"

    def __init__(self):
        self.requests = []
        self.clients = []
        self.loaded = []
        self.ready = True
        self.began = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.fails = None
        self.hangs = False

    def is_live(self):
        return True

    def is_ready(self):
        return self.ready

    def is_model_ready(self, model, version=None, label=None):
        self._check(model, version)
        if model == "slow":
            raise NotReadyError("model 'slow' is being loaded.")
        return self.ready

    def versions(self, model):
        return [1, 3]

    def method(self, model, version, label, signature):
        self._check(model, version)
        inputs = {
            "x": TensorSpec(("n", 4, None), "float32"),
            "any": TensorSpec(None, "bfloat16"),
            "text": "text",
        }
        return SimpleNamespace(
            name="f", inputs=inputs, outputs={"y": TensorSpec((), "int8"), "label": "label"}
        )

    async def infer(self, model, version, label, request, client):
        self._check(model, version)
        self.requests.append((model, version, label, request))
        self.clients.append(client)
        if self.fails is not None:
            raise self.fails
        if self.hangs:
            self.began.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        outputs = {f"{name} twice": array + array for name, array in request.inputs.items()}
        return Answer(model, version or 3, "f", outputs)

    def index(self, *, ready_only=False):
        ready = SimpleNamespace(name="m", version=3, state="READY", reason="")
        slow = SimpleNamespace(name="slow", version=1, state="LOADING", reason="it takes long")
        return [ready] if ready_only else [ready, slow]

    async def load(self, model):
        if model == "fixed":
            raise NotOfferedError("models are not loaded by request here.")
        self.loaded.append(("load", model))

    async def unload(self, model):
        self.loaded.append(("unload", model))

    def _check(self, model, version):
        if model not in ("m", "slow") or version == 9:
            raise UnknownModelError(f"there is no model {model!r}.")


class Client:
    """The methods of the protocol, over a channel."""

    def __init__(self, channel):
        self.channel = channel

    def raw(self, method, body, service=inference.SERVICE, **options):
        return self.channel.unary_unary(f"/{service}/{method}")(body, **options)

    async def __call__(self, method, request=None, **options):
        kind = getattr(inference, f"{method}Request")
        answer = getattr(inference, f"{method}Response")
        body = (kind() if request is None else request).SerializeToString()
        return answer.FromString(await self.raw(method, body, **options))

    async def check(self, service, **options):
        request = health.HealthCheckRequest(service=service).SerializeToString()
        body = await self.raw("Check", request, health.SERVICE, **options)
        found = health.HealthCheckResponse.FromString(body).status
        return health.HealthCheckResponse.ServingStatus.Name(found)

    async def reflect(self, service=reflection.SERVICES[0], **asked):
        request = reflection.ServerReflectionRequest(**asked).SerializeToString()
        call = self.channel.stream_stream(f"/{service}/ServerReflectionInfo")(iter([request]))
        (body,) = [one async for one in call]
        return reflection.ServerReflectionResponse.FromString(body)


@contextlib.asynccontextmanager
async def serving(core, *, compression=None, max_message_bytes=MIB, **options):
    server = make_server(core, max_message_bytes=max_message_bytes, interval=0.01, **options)
    port = add_port(server, "127.0.0.1", 0)
    await server.start()
    try:
        address = f"127.0.0.1:{port}"
        async with grpc.aio.insecure_channel(address, compression=compression) as channel:
            yield Client(channel)
    finally:
        await server.stop(None)


def asked(body, **options):
    """Do something with a client of a fake core, and give the core."""

    async def run():
        core = FakeCore()
        async with serving(core, **options) as client:
            await body(core, client)
        return core

    return asyncio.run(asyncio.wait_for(run(), 60))


def infer_request(inputs, *, is_raw=True, **fields):
    message = inference.ModelInferRequest(**{"model_name": "m", **fields})
    for name, array in inputs.items():
        datatype = DATATYPES[array.dtype.name]
        tensor = message.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if is_raw:
            body = joined(array) if array.dtype == object else array.tobytes()
            message.raw_input_contents.append(body)
        else:
            getattr(tensor.contents, FIELDS[datatype]).extend(array.ravel().tolist())
    return message


def joined(array):
    return b"".join(len(one).to_bytes(4, "little") + one for one in array.ravel())


DATATYPES = {
    "bool": "BOOL",
    **{f"{sign}int{n}": f"{sign}INT{n}".upper() for sign in ("", "u") for n in (8, 16, 32, 64)},
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "bfloat16": "BF16",
    "object": "BYTES",
}
FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def array_of(name, shape):
    if name == "object":
        texts = [b"", b"\xff\x00", "zäh".encode()]
        flat = np.empty(int(np.prod(shape)), object)
        flat[:] = [texts[i % 3] for i in range(flat.size)]
        return flat.reshape(shape)
    return (np.arange(np.prod(shape)) % 2).reshape(shape).astype(getattr(ml_dtypes, name, name))


# Messages.


def test_messages_are_in_no_pool_that_others_share():
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("grpc.health.v1.HealthCheckRequest")


def test_messages_can_be_pickled():
    request = infer_request({"x": np.ones((2, 3), np.float32)}, id="a")
    request.parameters["signature_name"].string_param = "f"
    assert pickle.loads(pickle.dumps(request)) == request
    kinds = [value for name, value in vars(inference).items() if name.endswith(("quest", "sponse"))]
    assert len(kinds) == 18
    for kind in kinds:
        assert pickle.loads(pickle.dumps(kind)) is kind
        assert type(pickle.loads(pickle.dumps(kind()))) is kind


def test_a_map_is_written_as_every_map_is():
    message = inference.ModelInferRequest()
    message.parameters["k"].int64_param = 5
    assert message.SerializeToString() == b"\x22\x07\x0a\x01k\x12\x02\x10\x05"


@pytest.mark.parametrize("module", ["health", "inference", "reflection"])
def test_messages_are_the_same_with_protobuf_in_plain_python(module):
    program = (
        f"from exporter.serving import {module} as one; from exporter.serving.descriptors import "
        "POOL; from google.protobuf.internal import api_implementation as api; "
        "from google.protobuf.descriptor_pb2 import FileDescriptorProto as File; file = File(); "
        "kinds = [kind for kind in vars(one).values() if hasattr(kind, 'DESCRIPTOR')]; "
        "[kind.FromString(kind().SerializeToString()) for kind in kinds]; "
        "kinds[0].DESCRIPTOR.file.CopyToProto(file); "
        "print(api.Type(), file.SerializeToString().hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
        capture_output=True,
        text=True,
        check=True,
    )
    kind, found = done.stdout.split()
    assert kind == "python"
    file = FileDescriptorProto()
    messages = vars(importlib.import_module(f"exporter.serving.{module}")).values()
    next(one for one in messages if hasattr(one, "DESCRIPTOR")).DESCRIPTOR.file.CopyToProto(file)
    there = FileDescriptorProto.FromString(bytes.fromhex(found))
    assert [one.name for one in there.message_type] == [one.name for one in file.message_type]
    numbers = [[field.number for field in one.field] for one in file.message_type]
    assert [[field.number for field in one.field] for one in there.message_type] == numbers


# Requests and answers as bytes.


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,), (2, 0)])
@pytest.mark.parametrize(
    ("name", "is_raw"),
    [
        *((name, True) for name in DATATYPES),
        *((name, False) for name, datatype in DATATYPES.items() if datatype in FIELDS),
    ],
)
def test_arrays_come_as_they_were_sent(name, shape, is_raw):
    array = array_of(name, shape)
    body = infer_request({"x": array}, is_raw=is_raw, id="7").SerializeToString()
    model, version, request = read_request(body)
    assert (model, version, request.id, request.binary) == ("m", "", "7", is_raw)
    found = request.inputs["x"]
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)
    answer = inference.ModelInferResponse.FromString(
        write_answer(Answer("m", 3, "f", {"y": array}), request)
    )
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "3", "7")
    (tensor,) = answer.outputs
    assert (tensor.datatype, tuple(tensor.shape)) == (DATATYPES[name], shape)
    if is_raw:
        (raw,) = answer.raw_output_contents
        assert raw == (joined(array) if name == "object" else array.tobytes())
        assert not tensor.HasField("contents")
    else:
        assert not answer.raw_output_contents
        values = getattr(tensor.contents, FIELDS[tensor.datatype])
        assert list(values) == array.ravel().tolist()


def test_raw_inputs_are_not_copied():
    array = np.ones(784, np.float32)
    _, _, request = read_request(infer_request({"x": array}).SerializeToString())
    assert not request.inputs["x"].flags.owndata
    assert not request.inputs["x"].flags.writeable


@given(
    nps.arrays(
        nps.integer_dtypes(endianness="<") | nps.unsigned_integer_dtypes(endianness="<"),
        nps.array_shapes(min_dims=0, min_side=0),
    ),
    st.booleans(),
)
def test_any_integers_come_as_they_were_sent(array, is_raw):
    body = infer_request({"x": array}, is_raw=is_raw).SerializeToString()
    np.testing.assert_array_equal(read_request(body)[2].inputs["x"], array)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.0, 1e-45])
@pytest.mark.parametrize("is_raw", [True, False])
def test_every_float_comes_as_it_was_sent(value, is_raw):
    array = np.array([value], np.float32)
    body = infer_request({"x": array}, is_raw=is_raw).SerializeToString()
    found = read_request(body)[2].inputs["x"]
    assert found.tobytes() == array.tobytes()


def test_an_answer_is_raw_if_one_of_its_outputs_has_no_other_form():
    outputs = {"a": np.ones(2, np.float32), "b": np.ones(2, ml_dtypes.bfloat16)}
    body = write_answer(Answer("m", 1, "f", outputs), Request({}, binary=False))
    answer = inference.ModelInferResponse.FromString(body)
    assert list(answer.raw_output_contents) == [one.tobytes() for one in outputs.values()]


def test_the_answer_to_a_request_without_inputs_is_raw():
    _, _, request = read_request(inference.ModelInferRequest(model_name="m").SerializeToString())
    assert request.binary is True


@pytest.mark.parametrize("is_raw", [True, False])
@pytest.mark.parametrize("dtype", [object, str])
def test_texts_are_sent_as_utf8(is_raw, dtype):
    outputs = {"label": np.array([["hund"], ["kühe"]], dtype)}
    body = write_answer(Answer("m", 1, "f", outputs), Request({}, binary=is_raw))
    answer = inference.ModelInferResponse.FromString(body)
    (tensor,) = answer.outputs
    assert (tensor.datatype, list(tensor.shape)) == ("BYTES", [2, 1])
    texts = [b"hund", "kühe".encode()]
    if is_raw:
        assert list(answer.raw_output_contents) == [joined(np.array(texts, object))]
    else:
        assert list(tensor.contents.bytes_contents) == texts


def test_an_output_without_datatype_is_named():
    answer = Answer("m", 1, "f", {"y": np.ones(2, "m8[s]")})
    with pytest.raises(NotOfferedError, match="output 'y' is timedelta64"):
        write_answer(answer, Request({}))


def test_parameters_choose_the_signature_and_the_timeout():
    message = infer_request({"x": np.ones(2)}, model_version="4")
    message.parameters["signature_name"].string_param = "g"
    message.parameters["timeout"].int64_param = 2_500_000
    message.parameters["priority"].uint64_param = 3
    message.outputs.add(name="a")
    message.outputs.add(name="b")
    _, version, request = read_request(message.SerializeToString())
    assert version == "4"
    assert (request.signature, request.timeout) == ("g", 2.5)
    assert request.outputs == ["a", "b"]


def test_no_timeout_is_the_timeout_zero():
    message = infer_request({})
    message.parameters["timeout"].int64_param = 0
    assert read_request(message.SerializeToString())[2].timeout is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (None, None)),
        ("12", (12, None)),
        ("stable", (None, "stable")),
        ("-1", (None, "-1")),
        ("²", (None, "²")),
        ("9" * 5000, (None, "9" * 5000)),
    ],
)
def test_a_version_is_a_number_or_a_label(text, expected):
    assert version_of(text) == expected


def _tensor(datatype="FP32", shape=(2,), raw=None, **fields):
    message = inference.ModelInferRequest(model_name="m")
    tensor = message.inputs.add(name="x", datatype=datatype, shape=shape)
    for field, values in fields.items():
        getattr(tensor.contents, field).extend(values)
    if raw is not None:
        message.raw_input_contents.append(raw)
    return message


def _with(message, change):
    change(message)
    return message


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (_tensor(raw=b"\0" * 7), "input 'x' is FP32 of shape [2], which takes 8 bytes, and has 7."),
        (_tensor("FP33"), "input 'x' has datatype 'FP33'"),
        (_tensor(""), "input 'x' has datatype ''"),
        (_tensor(shape=(-1,)), "input 'x' has shape [-1]; sizes are not negative"),
        (_tensor(shape=(1,) * 99), "and there are at most 64"),
        (_tensor(shape=(2**62, 2**62, 0)), "input 'x' has shape"),
        (_tensor(shape=(2**62, 2**62, 0), raw=b""), "input 'x' has shape"),
        (_tensor(shape=(2**62, 2**62)), "input 'x' has 0 elements, and"),
        (_tensor(fp32_contents=[1]), "input 'x' has 1 elements, and 2 by its shape."),
        (
            _tensor(fp64_contents=[1, 2]),
            "input 'x' is FP32, whose elements stand in fp32_contents, not in fp64_contents.",
        ),
        (_tensor("BF16"), "input 'x' is BF16, which only raw_input_contents can hold."),
        (
            _tensor(fp32_contents=[1, 2], raw=b"\0" * 8),
            "input 'x' has contents, and raw_input_contents as well.",
        ),
        (
            _with(_tensor(raw=b"\0" * 8), lambda m: m.raw_input_contents.append(b"")),
            "there are 1 inputs and 2 raw_input_contents",
        ),
        (
            _with(_tensor(fp32_contents=[1, 2]), lambda m: m.inputs.append(m.inputs[0])),
            "input 'x' is given twice.",
        ),
        (
            _tensor("INT8", int_contents=[1, 200]),
            "input 'x' is INT8, and has elements beyond that.",
        ),
        (
            _tensor("BOOL", raw=b"\1\2"),
            "input 'x' is BOOL, and has bytes that are no such elements.",
        ),
        (_tensor("BYTES", raw=b"\1\0\0\0"), "input 'x' has 4 bytes, too few for 2 elements"),
        (_tensor("BYTES", raw=b"\1\0\0\0aa\0\0"), "input 'x' has 1 elements, and 2 by its shape."),
        (_tensor("BYTES", raw=b"\0\0\0\0\1\0\0\0"), "input 'x' ends within element 1,"),
        (_tensor("BYTES", raw=b"\0" * 9), "input 'x' has 1 bytes after the 2 elements"),
        (_tensor("BYTES", raw=b"\0\0\0\0\xff\xff\xff\xff"), "input 'x' ends within element 1,"),
        (
            _tensor("BYTES", shape=(2**40,), raw=b""),
            "input 'x' has 0 bytes, too few for 1099511627776",
        ),
        (
            _with(_tensor(raw=b"\0" * 8), lambda m: [m.outputs.add(name="y") for _ in "ab"]),
            "outputs are asked for twice: 'y'.",
        ),
        (
            _with(infer_request({}), lambda m: m.parameters["signature_name"].SetInParent()),
            "parameter 'signature_name' must be a string_param.",
        ),
        (
            _with(
                infer_request({}), lambda m: setattr(m.parameters["timeout"], "string_param", "5")
            ),
            "parameter 'timeout' must be an int64_param",
        ),
        (
            _with(infer_request({}), lambda m: setattr(m.parameters["timeout"], "int64_param", -5)),
            "parameter 'timeout' must be an int64_param",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(message, expected):
    with pytest.raises(RequestError) as caught:
        read_request(message.SerializeToString())
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda m: setattr(m.inputs[0].parameters["shared_memory_region"], "string_param", "a"),
            "input 'x' has parameter 'shared_memory_region': this server offers no shared memory.",
        ),
        (
            lambda m: setattr(m.parameters["sequence_id"], "int64_param", 3),
            "the request has parameter 'sequence_id': this server offers no sequences.",
        ),
        (
            lambda m: m.outputs.add(name="y").parameters["classification"].SetInParent(),
            "output 'y' has parameter 'classification'",
        ),
    ],
)
def test_extensions_that_change_what_a_request_means_are_refused(change, expected):
    with pytest.raises(NotOfferedError) as caught:
        read_request(_with(_tensor(raw=b"\0" * 8), change).SerializeToString())
    assert expected in str(caught.value)


_INPUTS = {name: array_of(name, (2, 2)) for name in ("float32", "object", "bool", "int8")}
_WHOLE = [
    infer_request(_INPUTS, is_raw=is_raw, id="a", model_version="1").SerializeToString()
    for is_raw in (True, False)
]


@settings(max_examples=500)
@given(
    st.sampled_from(_WHOLE),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    st.integers(0, 400),
)
def test_damaged_bytes_are_a_request_or_are_refused(whole, changes, end):
    body = bytearray(whole)
    for position, value in changes:
        body[position % len(body)] = value
    for data in (body, body[:end]):
        with contextlib.suppress(ServingError):
            model, version, request = read_request(bytes(data))
            assert isinstance(request, Request)
            assert isinstance(version_of(version), tuple)
            write_answer(Answer(model, 1, "f", request.inputs), request)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_are_refused(body):
    with contextlib.suppress(ServingError):
        read_request(body)


# Over the network.


def test_the_server_answers_for_itself():
    async def body(core, client):
        assert (await client("ServerLive")).live
        assert (await client("ServerReady")).ready
        core.ready = False
        assert not (await client("ServerReady")).ready
        assert (await client("ServerLive")).live
        found = await client("ServerMetadata")
        assert (found.name, found.version) == ("fake", "1.2")
        assert list(found.extensions) == ["model_repository", "parameters"]

    asked(body)


def test_a_model_says_whether_it_is_ready():
    async def body(core, client):
        request = inference.ModelReadyRequest(name="m", version="3")
        assert (await client("ModelReady", request)).ready
        slow = inference.ModelReadyRequest(name="slow")
        assert not (await client("ModelReady", slow)).ready

    asked(body)


def test_a_model_says_what_it_takes_and_gives():
    async def body(core, client):
        found = await client("ModelMetadata", inference.ModelMetadataRequest(name="m"))
        assert (found.name, list(found.versions), found.platform) == (
            "m",
            ["1", "3"],
            "jax_exporter",
        )
        inputs = [(one.name, one.datatype, list(one.shape)) for one in found.inputs]
        assert inputs == [
            ("x", "FP32", [-1, 4, -1]),
            ("any", "BF16", [-1]),
            ("text", "BYTES", [-1]),
        ]
        outputs = [(one.name, one.datatype, list(one.shape)) for one in found.outputs]
        assert outputs == [("y", "INT8", []), ("label", "BYTES", [-1])]

    asked(body)


def test_a_request_is_answered():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)

    async def body(core, client):
        for is_raw in (True, False):
            request = infer_request({"x": array}, is_raw=is_raw, model_version="3", id="5")
            answer = await client("ModelInfer", request)
            assert (answer.model_name, answer.model_version, answer.id) == ("m", "3", "5")
            (tensor,) = answer.outputs
            assert (tensor.name, list(tensor.shape)) == ("x twice", [2, 3])
            found = (
                np.frombuffer(answer.raw_output_contents[0], np.float32)
                if is_raw
                else np.array(tensor.contents.fp32_contents)
            )
            np.testing.assert_array_equal(found, 2 * array.ravel())
        await client("ModelInfer", infer_request({"x": array}, model_version="canary"))

    core = asked(body)
    assert [one[:3] for one in core.requests] == [("m", 3, None)] * 2 + [("m", None, "canary")]
    assert all(one[3].timeout is None for one in core.requests)
    assert len(set(core.clients)) == 1
    assert "127.0.0.1" in core.clients[0]


def test_the_time_that_a_client_waits_is_the_smaller_of_what_it_says():
    async def body(core, client):
        message = infer_request({})
        await client("ModelInfer", message, timeout=20)
        message.parameters["timeout"].int64_param = 3_000_000
        await client("ModelInfer", message, timeout=20)
        await client("ModelInfer", message)
        message.parameters["timeout"].int64_param = 40_000_000
        await client("ModelInfer", message, timeout=20)

    first, second, third, fourth = [one[3].timeout for one in asked(body).requests]
    assert 10 < first < 21
    assert second == third == 3
    assert 10 < fourth < 21


@pytest.mark.parametrize(
    ("error", "code", "details"),
    [
        (OverloadedError("too many wait."), "RESOURCE_EXHAUSTED", "too many wait."),
        (NotReadyError("loading"), "UNAVAILABLE", "loading"),
        (DeadlineError("late"), "DEADLINE_EXCEEDED", "late"),
        (BindError("x:\n  größer", ["x"]), "INVALID_ARGUMENT", "x:\n  größer"),
        (UnknownSignatureError("none", "f", ["g"]), "INVALID_ARGUMENT", "none"),
        (RequestError("a\0b\x7f\ud800"), "INVALID_ARGUMENT", "a\0b\x7f?"),
        (RequestError("ü" * 9000), "INVALID_ARGUMENT", "ü" * 1024 + " ..."),
        (
            ZeroDivisionError("a secret"),
            "INTERNAL",
            "the server failed with ZeroDivisionError; its log has the rest",
        ),
    ],
)
def test_errors_have_their_codes_and_words(error, code, details, caplog):
    seen = []

    async def body(core, client):
        core.fails = error
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client("ModelInfer", infer_request({}))
        assert caught.value.code().name == code
        assert caught.value.details() == details

    asked(body, observe=lambda *args: seen.append(args[:4]))
    assert seen == [("grpc", "ModelInfer", "m", code)]
    logged = [one for one in caplog.records if one.name == "exporter.serving"]
    assert len(logged) == (code == "INTERNAL")
    assert all(one.exc_info for one in logged)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("ModelInfer", infer_request({}, model_name="none")),
        ("ModelInfer", infer_request({}, model_version="9")),
        ("ModelMetadata", inference.ModelMetadataRequest(name="none")),
        ("ModelReady", inference.ModelReadyRequest(name="none")),
    ],
)
def test_a_model_that_is_not_there_is_not_counted_by_name(method, message):
    seen = []

    async def body(core, client):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client(method, message)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    asked(body, observe=lambda *args: seen.append(args[:4]))
    assert seen == [("grpc", method, "", "NOT_FOUND")]


@pytest.mark.parametrize("method", [name for name in dir(inference) if name.endswith("Request")])
def test_no_method_takes_bytes_that_are_no_message(method):
    method = method.removesuffix("Request")

    async def body(core, client):
        for garbage in (b"\xff", b"\x0a\x05a", b"\x07\x07"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.raw(method, garbage)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert f"the message is not a {method}Request" in caught.value.details()
        assert (await client("ServerLive")).live

    asked(body)


def test_the_methods_are_those_of_the_protocol():
    async def body(core, client):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.raw("ModelStreamInfer", b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    asked(body)


def test_calls_are_counted():
    seen = []

    async def body(core, client):
        await client("ModelInfer", infer_request({}))
        await client("ServerLive")

    asked(body, observe=lambda *args: seen.append(args))
    assert [one[:4] for one in seen] == [
        ("grpc", "ModelInfer", "m", "OK"),
        ("grpc", "ServerLive", "", "OK"),
    ]
    assert all(0 < one[4] < 60 for one in seen)


def test_the_repository_is_listed():
    async def body(core, client):
        found = await client("RepositoryIndex")
        assert [(one.name, one.version, one.state, one.reason) for one in found.models] == [
            ("m", "3", "READY", ""),
            ("slow", "1", "LOADING", "it takes long"),
        ]
        request = inference.RepositoryIndexRequest(ready=True)
        found = await client("RepositoryIndex", request)
        assert [one.name for one in found.models] == ["m"]

    asked(body)


def test_models_are_loaded_by_the_words_of_triton_and_of_kserve():
    async def body(core, client):
        for field in ("model_name", "repository_name"):
            for what in ("Load", "Unload"):
                method = f"RepositoryModel{what}"
                request = getattr(inference, f"{method}Request")(**{field: "m"})
                found = await client(method, request)
                assert found.model_name == "m"
                assert found.isLoaded if what == "Load" else found.isUnloaded

    assert asked(body).loaded == [("load", "m"), ("unload", "m")] * 2


@pytest.mark.parametrize(
    ("fields", "code", "details"),
    [
        ({}, "INVALID_ARGUMENT", "the request names no model."),
        ({"model_name": "fixed"}, "UNIMPLEMENTED", "models are not loaded by request here."),
        (
            {
                "model_name": "m",
                "parameters": {"config": inference.ModelRepositoryParameter(string_param="{}")},
            },
            "UNIMPLEMENTED",
            "a model is loaded as it lies in its folder; parameters are not taken: 'config'.",
        ),
    ],
)
def test_a_model_that_cannot_be_loaded_is_said_to_be_so(fields, code, details):
    async def body(core, client):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client("RepositoryModelLoad", inference.RepositoryModelLoadRequest(**fields))
        assert (caught.value.code().name, caught.value.details()) == (code, details)

    assert asked(body).loaded == []


# How calls end.


def test_a_call_that_is_taken_back_is_cancelled_in_the_core():
    seen = []

    async def body(core, client):
        core.hangs = True
        call = client.raw("ModelInfer", infer_request({}).SerializeToString())
        await core.began.wait()
        call.cancel()
        await core.cancelled.wait()

    asked(body, observe=lambda *args: seen.append(args[:4]))
    assert seen == [("grpc", "ModelInfer", "m", "CANCELLED")]


def test_a_call_whose_time_is_over_is_cancelled_in_the_core():
    async def body(core, client):
        core.hangs = True
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client("ModelInfer", infer_request({}), timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await core.cancelled.wait()

    asked(body)


def test_a_call_ends_with_its_connection():
    async def body(core, client):
        core.hangs = True
        call = client.raw("ModelInfer", infer_request({}).SerializeToString())
        await core.began.wait()
        await client.channel.close()
        await core.cancelled.wait()
        del call

    asked(body)


def test_a_message_that_is_too_large_is_refused():
    async def body(core, client):
        await client("ModelInfer", infer_request({"x": np.zeros(MIB - 200, np.int8)}))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client("ModelInfer", infer_request({"x": np.zeros(MIB, np.int8)}))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    assert len(asked(body).requests) == 1


def test_a_message_that_becomes_too_large_when_it_is_unpacked_is_refused():
    message = infer_request({"x": np.zeros(50 * MIB, np.int8)})
    assert len(gzip.compress(message.SerializeToString())) < MIB

    async def body(core, client):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client("ModelInfer", message)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    assert asked(body, compression=grpc.Compression.Gzip).requests == []


def test_an_answer_may_be_larger_than_a_request():
    array = np.zeros(MIB // 2 - 200, np.int8)

    async def body(core, client):
        large = [f"{i}" for i in range(2)]
        answer = await client("ModelInfer", infer_request(dict.fromkeys(large, array[: MIB // 4])))
        assert sum(map(len, answer.raw_output_contents)) == MIB // 2

    asked(body)


def test_a_port_that_another_server_has_is_an_error():
    async def body():
        first = make_server(FakeCore(), max_message_bytes=MIB)
        port = add_port(first, "127.0.0.1", 0)
        await first.start()
        second = make_server(FakeCore(), max_message_bytes=MIB)
        with pytest.raises(OptionError, match=f"cannot listen at 127.0.0.1:{port}"):
            add_port(second, "127.0.0.1", port)
        await first.stop(None)
        await second.stop(None)

    asyncio.run(body())


# Tokens.


def allowed(value):
    return value == "Bearer right"


@pytest.mark.parametrize("value", [None, "Bearer wrong", "right", ""])
def test_without_the_token_only_the_state_of_the_server_is_told(value):
    seen = []
    metadata = () if value is None else (("authorization", value),)

    async def refused(call):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "authorization" in caught.value.details() or "token" in caught.value.details()

    async def body(core, client):
        assert (await client("ServerLive", metadata=metadata)).live
        assert (await client("ServerReady", metadata=metadata)).ready
        assert await client.check("", metadata=metadata) == "SERVING"
        await refused(client("ModelInfer", infer_request({}), metadata=metadata))
        await refused(client("ServerMetadata", metadata=metadata))
        await refused(client("RepositoryIndex", metadata=metadata))
        await refused(client.check("m", metadata=metadata))
        await refused(client.reflect(list_services=""))

    core = asked(body, is_allowed=allowed, observe=lambda *args: seen.append(args[1:4]))
    assert core.requests == []
    assert ("ModelInfer", "", "UNAUTHENTICATED") in seen


def test_with_the_token_all_is_told():
    metadata = (("authorization", "Bearer right"),)

    async def body(core, client):
        await client("ModelInfer", infer_request({}), metadata=metadata)
        assert await client.check("m", metadata=metadata) == "SERVING"

    assert len(asked(body, is_allowed=allowed).requests) == 1


# Health and reflection.


def test_the_health_of_the_server_and_of_its_models_is_told():
    async def body(core, client):
        for service in ("", inference.SERVICE, "m"):
            assert await client.check(service) == "SERVING"
        assert await client.check("slow") == "NOT_SERVING"
        core.ready = False
        for service in ("", inference.SERVICE, "m"):
            assert await client.check(service) == "NOT_SERVING"
        for name, code in (("none", "NOT_FOUND"), (None, "INVALID_ARGUMENT")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await (client.check(name) if name else client.raw("Check", b"\xff", health.SERVICE))
            assert caught.value.code().name == code

    asked(body)


def test_who_watches_health_learns_of_changes():
    async def body(core, client):
        def watched(service):
            request = health.HealthCheckRequest(service=service).SerializeToString()
            return client.channel.unary_stream(f"/{health.SERVICE}/Watch")(request)

        async def status(call):
            found = health.HealthCheckResponse.FromString(await call.read()).status
            return health.HealthCheckResponse.ServingStatus.Name(found)

        calls = [watched(service) for service in ("", "m", "none", "slow")]
        found = [await status(call) for call in calls]
        assert found == ["SERVING", "SERVING", "SERVICE_UNKNOWN", "NOT_SERVING"]
        core.ready = False
        assert [await status(call) for call in calls[:2]] == ["NOT_SERVING"] * 2
        core.ready = True
        assert [await status(call) for call in calls[:2]] == ["SERVING"] * 2
        for call in calls:
            call.cancel()

    asked(body)


def test_who_watches_health_does_not_keep_the_server_from_stopping():
    async def body():
        server = make_server(FakeCore(), max_message_bytes=MIB)
        port = add_port(server, "127.0.0.1", 0)
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            watched = channel.unary_stream(f"/{health.SERVICE}/Watch")(b"")
            asking = channel.stream_stream(f"/{reflection.SERVICES[0]}/ServerReflectionInfo")()
            await watched.read()
            await asking.write(b"\x3a\x00")
            await asking.read()
            await asyncio.wait_for(server.stop(1000), 10)
            for call in (watched, asking):
                assert await call.code() is grpc.StatusCode.UNAVAILABLE
                assert await call.details() == "the server stops."

    asyncio.run(body())


@pytest.mark.parametrize("service", reflection.SERVICES)
def test_reflection_tells_every_service_and_message(service):
    async def body(core, client):
        found = await client.reflect(service, list_services="")
        names = [one.name for one in found.list_services_response.service]
        assert names == list(SERVICES)
        pool = descriptor_pool.DescriptorPool()
        for name in names:
            found = await client.reflect(service, file_containing_symbol=name)
            (file,) = found.file_descriptor_response.file_descriptor_proto
            assert found.original_request.file_containing_symbol == name
            pool.AddSerializedFile(file)
            proto = FileDescriptorProto.FromString(file)
            assert await client.reflect(service, file_by_filename=proto.name)
        methods = pool.FindServiceByName(inference.SERVICE).methods
        assert [one.name for one in methods][:2] == ["ServerLive", "ServerReady"]
        assert pool.FindMethodByName(f"{health.SERVICE}.Watch").server_streaming
        found = await client.reflect(
            service, all_extension_numbers_of_type="inference.InferParameter"
        )
        assert found.all_extension_numbers_response.base_type_name == "inference.InferParameter"

    asked(body)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"file_by_filename": "none"}, 5),
        ({"file_containing_symbol": "inference.None"}, 5),
        ({"all_extension_numbers_of_type": "none"}, 5),
        ({"file_containing_extension": {"containing_type": "inference.InferParameter"}}, 5),
        ({}, 3),
    ],
)
def test_reflection_says_what_there_is_not(request_, code):
    async def body(core, client):
        found = await client.reflect(**request_)
        assert found.error_response.error_code == code

    asked(body)
