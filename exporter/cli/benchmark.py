"""How long calls of a signature take, as percentiles."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np


class Latencies(TypedDict):
    """In milliseconds."""

    p50: float
    p90: float
    p99: float
    min: float
    max: float
    mean: float


@dataclass(frozen=True)
class Benchmark:
    """What calls took, each until its outputs were there.

    Attributes:
      calls: how many were measured.
      warmup: how many were made before.
      device: where the outputs were.
      latency_ms: of a call, in milliseconds.
      calls_per_second: one after the other.
    """

    calls: int
    warmup: int
    device: str
    latency_ms: Latencies
    calls_per_second: float


def measured(call: Callable[[], Mapping[str, Any]], calls: int, warmup: int) -> Benchmark:
    """Make calls, some of them before the measurement begins.

    Args:
      call: gives arrays of JAX by name.
      calls: how many to measure.
      warmup: how many to make before; the first compiles.
    """
    device = "unknown, there are no outputs"
    for _ in range(warmup):
        _finished(call())
    seconds = np.empty(calls)
    for position in range(calls):
        start = time.perf_counter()
        outputs = _finished(call())
        seconds[position] = time.perf_counter() - start
        device = _device(outputs, device)
    return Benchmark(calls, warmup, device, _latencies(seconds * 1e3), calls / float(seconds.sum()))


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
