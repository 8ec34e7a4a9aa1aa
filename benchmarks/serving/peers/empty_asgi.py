"""The limit over HTTP: an application of uvicorn that reads a body and answers with a fixed one.

python empty_asgi.py PORT
"""

import sys

import uvicorn

ANSWER = bytes(200)  # about as long as ten scores and what is told of them
HEADERS = [(b"content-type", b"application/octet-stream"), (b"content-length", b"200")]


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


if __name__ == "__main__":
    uvicorn.run(
        app,
        port=int(sys.argv[1]),
        loop=sys.argv[2] if len(sys.argv) > 2 else "uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
