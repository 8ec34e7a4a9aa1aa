"""Calls of a server with Triton's own clients, in an environment of theirs.

    python tests/clients/triton.py HTTP_PORT GRPC_PORT

The server serves what `save_models` of `tests/serving.py` saves. It ends with an error if an answer
is not as it should be.
"""

import asyncio
import sys

import ml_dtypes
import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio

X = np.arange(12, dtype=np.float32).reshape(4, 3)


def values(module, array, datatype, *, name="x", **options):
    value = module.InferInput(name, list(array.shape), datatype)
    value.set_data_from_numpy(array, **options)
    return [value]


def forms(module):
    """A call in each form that the protocol has: inputs, outputs, and further arguments."""
    if module is triton_http:
        for binary in (True, False):
            inputs = values(module, X, "FP32", binary_data=binary)
            yield inputs, [module.InferRequestedOutput("y", binary_data=binary)]
            yield inputs, None
    else:
        yield values(module, X, "FP32"), [module.InferRequestedOutput("y")]
        yield values(module, X, "FP32"), None


def refused(call, words, kind):
    try:
        call()
    except kind as error:
        text = str(error)
    else:
        text = "nothing was refused"
    assert words in text, text


def check(module, client, kind):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("scaled")
    assert client.is_model_ready("scaled", "1")
    metadata = client.get_model_metadata("scaled")
    found = metadata if isinstance(metadata, dict) else None
    name = found["inputs"][0]["name"] if found else metadata.inputs[0].name
    assert name == "x"
    client.get_server_metadata()
    for inputs, outputs in forms(module):
        answer = client.infer("scaled", inputs, outputs=outputs, request_id="seven")
        assert np.array_equal(answer.as_numpy("y"), 2 * X)
        response = answer.get_response()
        assert (response["id"] if isinstance(response, dict) else response.id) == "seven"
        versioned = client.infer("scaled", inputs, model_version="1", outputs=outputs)
        assert np.array_equal(versioned.as_numpy("y"), 2 * X)
    half = np.array([1, 3, 5], ml_dtypes.bfloat16)
    answer = client.infer(
        "scaled", values(module, half, "BF16"), parameters={"signature_name": "half"}
    )
    found = answer.as_numpy("y")
    assert np.array_equal(found.astype(np.float32), [0.5, 1.5, 2.5]), found
    words = np.array([[b"a", b"a"], [b"b", b"b"]], object)
    answer = client.infer("words", values(module, words, "BYTES", name="words"))
    assert answer.as_numpy("label").tolist() == [b"left", b"right"]
    refused(lambda: client.infer("nothing", values(module, X, "FP32")), "no model", kind)
    refused(
        lambda: client.infer("scaled", values(module, X, "FP32"), model_version="9"),
        "no version 9",
        kind,
    )
    refused(lambda: client.infer("scaled", values(module, X[:, :2], "FP32")), "float32", kind)
    refused(lambda: client.infer("scaled", values(module, X, "FP32", name="z")), "z", kind)
    client.unload_model("centred")
    assert not client.is_model_ready("centred")
    client.load_model("centred")
    assert client.is_model_ready("centred")
    index = client.get_model_repository_index()
    names = [one["name"] for one in index] if isinstance(index, list) else index.models
    assert len(names) >= 4


def check_http(address):
    client = triton_http.InferenceServerClient(address, concurrency=4)
    check(triton_http, client, triton_http.InferenceServerException)
    inputs = values(triton_http, X, "FP32")
    waiting = [client.async_infer("scaled", inputs) for _ in range(16)]
    for one in waiting:
        assert np.array_equal(one.get_result().as_numpy("y"), 2 * X)
    for algorithm in ("gzip", "deflate"):
        answer = client.infer("scaled", inputs, request_compression_algorithm=algorithm)
        assert np.array_equal(answer.as_numpy("y"), 2 * X)
    client.close()


def check_grpc(address):
    client = triton_grpc.InferenceServerClient(address)
    check(triton_grpc, client, triton_grpc.InferenceServerException)
    done = []
    inputs = values(triton_grpc, X, "FP32")
    for _ in range(16):
        client.async_infer("scaled", inputs, lambda result, error: done.append((result, error)))
    while len(done) < 16:
        pass
    for result, error in done:
        assert error is None, error
        assert np.array_equal(result.as_numpy("y"), 2 * X)
    client.close()


async def check_aio(module, client):
    assert await client.is_server_ready()
    inputs = values(triton_http if module is triton_http_aio else triton_grpc, X, "FP32")
    answers = await asyncio.gather(*(client.infer("scaled", inputs) for _ in range(16)))
    for answer in answers:
        assert np.array_equal(answer.as_numpy("y"), 2 * X)
    await client.close()


async def check_all_aio(http, grpc):
    await check_aio(triton_http_aio, triton_http_aio.InferenceServerClient(http))
    await check_aio(triton_grpc_aio, triton_grpc_aio.InferenceServerClient(grpc))


def main():
    http, grpc = (f"127.0.0.1:{port}" for port in sys.argv[1:3])
    check_http(http)
    check_grpc(grpc)
    asyncio.run(check_all_aio(http, grpc))
    print("Triton's clients agree")


if __name__ == "__main__":
    main()
