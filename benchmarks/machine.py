"""The machine and the versions that figures were measured with. Nothing in it tells whose it is."""

import os
import platform
import re
import subprocess
import sys
from functools import cache
from importlib import metadata, util
from pathlib import Path

# The packages whose versions matter to a figure, where they are installed.
PACKAGES = (
    "jax-exporter",
    "jax",
    "jaxlib",
    "numpy",
    "orbax-checkpoint",
    "tensorstore",
    "flax",
    "tensorflow-cpu",
    "tensorflow",
    "torch",
    "torchvision",
    "onnxruntime",
    "onnx",
    "keras",
    "transformers",
)


def described() -> dict[str, str | float]:
    """The processor, its cores and memory, and the kind of device that JAX runs on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.system(),
        "device": _device(),
    }


def versions() -> dict[str, str]:
    """Python's and those of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def card() -> str:
    """The kind of device as a part of a file's name, as in `nvidia_h100_80gb_hbm3`, or `cpu`."""
    return re.sub("[^a-z0-9]+", "_", _device().lower()).strip("_")


def missing(*modules: str) -> list[str]:
    """Those of `modules` that cannot be imported here. None is imported to find out."""
    return [name for name in modules if util.find_spec(name) is None]


def _processor() -> str:
    """The processor's model, as Linux knows it; the architecture elsewhere."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


@cache
def _device() -> str:
    """What JAX computes on, asked in a process of its own: a device may be held by one alone."""
    code = "import jax; print(jax.devices()[0].device_kind)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[-2]
