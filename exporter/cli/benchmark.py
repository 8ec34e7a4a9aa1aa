"""How long calls of a signature take, as percentiles."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from exporter.markup import printable


class Latencies(TypedDict):
    """In milliseconds."""

    p50: float
    p90: float
    p99: float
    min: float
    max: float
    mean: float


@dataclass(frozen=True)
class Call:
    """A call in its parts, so that the work of stages is told from that of the signature.

    Attributes:
      compute: gives arrays of JAX by name.
      before: gives what `compute` is called with, by name; it has all else itself.
      after: makes what a caller gets of what `compute` gave.
    """

    compute: Callable[..., Mapping[str, Any]]
    before: Callable[[], Mapping[str, Any]] | None = None
    after: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Benchmark:
    """What calls took, each until its outputs were there.

    Attributes:
      calls: how many were measured.
      warmup: how many were made before.
      device: where the outputs were.
      latency_ms: of a call, in milliseconds.
      calls_per_second: one after the other.
      stages_ms: what of it the stages took, if there are any.
    """

    calls: int
    warmup: int
    device: str
    latency_ms: Latencies
    calls_per_second: float
    stages_ms: Latencies | None = None


def measured(call: Call, calls: int, warmup: int) -> Benchmark:
    """Make calls, some of them before the measurement begins.

    Args:
      call: what to do.
      calls: how many to measure.
      warmup: how many to make before; the first compiles.
    """
    device = "unknown, there are no outputs"
    before, after = call.before or dict, call.after or dict
    times = np.empty((warmup + calls, 4))
    for row in times:
        row[0] = time.perf_counter()
        given = before()
        row[1] = time.perf_counter()
        outputs = _finished(call.compute(**given))
        row[2] = time.perf_counter()
        after(outputs)
        row[3] = time.perf_counter()
        device = _device(outputs, device)
    start, called, returned, end = times[warmup:].T
    seconds = end - start
    has_stages = call.before is not None or call.after is not None
    return Benchmark(
        calls,
        warmup,
        device,
        _latencies(seconds * 1e3),
        calls / float(seconds.sum()),
        _latencies((called - start + end - returned) * 1e3) if has_stages else None,
    )


def print_benchmark(found: Benchmark, about: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what a benchmark found, below what it is about: `signature` and `inputs` by name."""
    if as_json:
        figures = dataclasses.asdict(found)
        if found.stages_ms is None:
            del figures["stages_ms"]
        print(json.dumps({**about, **figures}))
        return
    rows = {
        "signature": about["signature"],
        "inputs": ", ".join(f"{name} {kind}" for name, kind in about["inputs"].items()) or "none",
        "device": found.device,
        "calls": f"{found.calls:,} after {found.warmup:,} to warm up",
        **{name: f"{value:.3f} ms" for name, value in found.latency_ms.items()},
        "rate": f"{found.calls_per_second:,.1f} calls/s",
    }
    if found.stages_ms is not None:
        p50, p99 = found.stages_ms["p50"], found.stages_ms["p99"]
        rows["stages"] = f"p50 {p50:.3f} ms, p99 {p99:.3f} ms; they are part of the calls"
    for name, text in rows.items():
        print(printable(f"{name:9}  {text}"))


def _latencies(milliseconds: np.ndarray) -> Latencies:
    p50, p90, p99 = (float(np.percentile(milliseconds, at)) for at in (50, 90, 99))
    return {
        "p50": round(p50, 6),
        "p90": round(p90, 6),
        "p99": round(p99, 6),
        "min": round(float(milliseconds.min()), 6),
        "max": round(float(milliseconds.max()), 6),
        "mean": round(float(milliseconds.mean()), 6),
    }


def _finished(outputs: Mapping[str, Any]) -> Mapping[str, Any]:
    for output in outputs.values():
        output.block_until_ready()
    return outputs


def _device(outputs: Mapping[str, Any], default: str) -> str:
    devices = {device for output in outputs.values() for device in output.devices()}
    names = sorted({f"{device.platform} ({device.device_kind})" for device in devices})
    return ", ".join(names) or default
