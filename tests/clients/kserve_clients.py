"""Calls of a server with KServe's own clients, in an environment of theirs.

    python tests/clients/kserve_clients.py HTTP_PORT GRPC_PORT

The server serves what `save_models` of `tests/serving.py` saves. It ends with an error if an answer
is not as it should be.
"""

import asyncio
import sys

import numpy as np

PORTS = sys.argv[1:3]
del sys.argv[1:]  # kserve reads the words of whoever imports it

from kserve import (  # noqa: E402  # see above
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
)

X = np.arange(12, dtype=np.float32).reshape(4, 3)


def request(*, is_binary):
    value = InferInput("x", list(X.shape), "FP32")
    value.set_data_from_numpy(X, binary_data=is_binary)
    return InferRequest("scaled", [value])


def check_answer(answer):
    assert answer.model_name == "scaled"
    found = answer.outputs[0].as_numpy().reshape(4, 3)
    assert np.array_equal(found, 2 * X), found


async def check_rest(address):
    for protocol in ("v2", "v1"):
        client = InferenceRESTClient(RESTConfig(protocol=protocol))
        assert await client.is_model_ready(address, "scaled")
        if protocol == "v1":
            found = await client.infer(address, {"instances": X.tolist()}, model_name="scaled")
            assert found == {"predictions": (2 * X).tolist()}
            continue
        assert await client.is_server_ready(address)
        assert await client.is_server_live(address)
        for is_binary in (False, True):
            answer = await client.infer(address, request(is_binary=is_binary), model_name="scaled")
            check_answer(answer)
        await client.close()


async def check_grpc(address):
    async with InferenceGRPCClient(address) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("scaled")
        for is_binary in (False, True):
            check_answer(await client.infer(request(is_binary=is_binary)))


async def main(http, grpc):
    await check_rest(f"http://127.0.0.1:{http}")
    await check_grpc(f"127.0.0.1:{grpc}")
    print("KServe's clients agree")


if __name__ == "__main__":
    asyncio.run(main(*PORTS))
