"""What was set out to be reached, before it was measured. Every goal is answered, lost ones too."""

from typing import Literal

from measuring import Goal

ORIGINAL = "`jax.jit` of the original"
TENSORFLOW = "TensorFlow's loaded signature of the same network"
BY_HAND = "a hand-written script with `jax.export` and Orbax"


def _at_most(key: str, what: str, against: str, ratio: float) -> Goal:
    bound: Literal["at most"] = "at most"
    return Goal(key, what, against, bound, ratio)


def _at_least(key: str, what: str, against: str, ratio: float) -> Goal:
    bound: Literal["at least"] = "at least"
    return Goal(key, what, against, bound, ratio)


_ALL = (
    _at_most("call/4", "a call of a loaded signature, 4 variables", ORIGINAL, 1.0),
    _at_most("call/200", "a call of a loaded signature, 200 variables", ORIGINAL, 0.5),
    _at_most("call/1000", "a call of a loaded signature, 1,000 variables", ORIGINAL, 0.5),
    _at_most("call/tensorflow", "a call of a loaded signature", TENSORFLOW, 0.1),
    _at_most(
        "first/by_hand", "first prediction in a process, second start, with imports", BY_HAND, 0.7
    ),
    _at_most(
        "first/tensorflow",
        "first prediction in a process, second start, with imports",
        "TensorFlow's `saved_model.load`",
        0.3,
    ),
    _at_most(
        "reload",
        "load and first call in a warm process, second time",
        "`jit(exported.call)` by hand",
        0.15,
    ),
    _at_most(
        "save/time",
        "save",
        "one `jax.export` for the same platforms and one Orbax save of the same tree",
        1.15,
    ),
    _at_most("save/programs", "programs on disk", "`Exported.serialize()`", 0.4),
    _at_most("save/platforms", "export of one model for 4 platforms", "for 1 platform", 1.3),
    _at_most(
        "save/signatures",
        "variables written for 8 signatures of one model",
        "for 1 signature",
        1.01,  # the list of what was written differs by a few bytes each time
    ),
    _at_least(
        "variables/load",
        "speed of loading 1 GB of variables",
        "reading the same bytes from the page cache",
        0.7,
    ),
    _at_most(
        "variables/save_peak", "peak memory of saving 1 GB", "the size of the variables", 1.25
    ),
    _at_most(
        "variables/load_peak", "peak memory of loading 1 GB", "the size of the variables", 1.5
    ),
    _at_most("growth/layers", "cost of each of 48 layers", "each of 24", 1.3),
    _at_most("growth/variables", "cost of each of 10,000 variables", "each of 1,000", 1.3),
    _at_most("growth/signatures", "cost of each of 100 signatures", "each of 10", 1.3),
    _at_least(
        "serving/servers",
        "requests/s, binary V2, 32 clients, 784-256-10",
        "the best of KServe's, MLServer's, LitServe's and BentoML's servers",
        5.0,
    ),
    _at_least("serving/mosec", "the same", "mosec, whose front is written in Rust", 0.5),
    _at_least("serving/empty", "the same", "an empty reply of uvicorn", 0.35),
    _at_least(
        "serving/grpc", "requests/s over gRPC, 32 clients", "an empty reply of grpc.aio", 0.7
    ),
    _at_most(
        "serving/p50", "half of the answers to 1 client", "the jitted call and an empty reply", 3
    ),
    _at_least(
        "serving/minilm",
        "examples/s of MiniLM, 32 clients",
        "calls of the loaded function at the best batch size, by hand",
        0.85,
    ),
    _at_most("serving/swap", "99 of 100 answers while a version is swapped", "before", 2),
)

GOALS = {goal.key: goal for goal in _ALL}
