"""The limit over gRPC: a method of grpc.aio that answers with fixed bytes.

python empty_grpc.py PORT
"""

import asyncio
import sys

import grpc

METHOD = ("inference.GRPCInferenceService", "ModelInfer")
ANSWER = bytes(120)


async def answer(body, context):
    return ANSWER


async def main(port):
    service, method = METHOD
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, {method: handler})]
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
