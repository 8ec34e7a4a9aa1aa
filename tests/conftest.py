"""Fixtures of many tests: a model saved and loaded here, or in a process without its code."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

import exporter
from exporter import LoadedModel

# Keras reads it when it is imported, whichever test imports it first.
os.environ.setdefault("KERAS_BACKEND", "jax")

# What is compiled here is run once or twice. Both sides of a comparison are compiled so.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")

# Loaded models keep compiled programs in the user's cache. Tests have one of their own, which also
# the processes that they start inherit, and which ends with this process.
_CACHE = tempfile.TemporaryDirectory(prefix="exporter-tests-cache-")
os.environ["XDG_CACHE_HOME"] = _CACHE.name

# Whether a command prints colours is for its own tests to say.
for name in ("FORCE_COLOR", "NO_COLOR"):
    os.environ.pop(name, None)

ROOT = Path(__file__).parents[1]

# What a model's own code and its framework are, a process that loads it must not need.
WITHOUT_ITS_CODE = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        refused = ("flax", "haiku", "equinox", "keras", "penzai", "optax", "conftest")
        if name.partition(".")[0] in refused or name.startswith("test_"):
            raise ImportError(f"{name} is not for this process")

sys.meta_path.insert(0, Refused())
"""


@pytest.fixture(scope="session")
def reload(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LoadedModel]:
    """Save an object to a folder of its own, for the CPU unless told otherwise, and load it."""

    def reload(obj: object, *signatures: object, **options: object) -> LoadedModel:
        folder = tmp_path_factory.mktemp("artifact") / "model"
        exporter.save(obj, folder, *signatures, **{"platforms": ("cpu",)} | options)
        return exporter.load(folder)

    return reload


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Run a program in a process that can import no framework and no test; give what it prints.

    It costs some four seconds, most of them the import of JAX.
    """

    def elsewhere(program: str, *arguments: object) -> str:
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_ITS_CODE + program, *map(str, arguments)],
            cwd=tmp_path_factory.mktemp("elsewhere"),
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONWARNINGS": "error",
                "JAX_PLATFORMS": "cpu",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return elsewhere


def pytest_make_parametrize_id(config, val, argname):
    """Texts with an address in them name the same test in every process that runs some of them."""
    if isinstance(val, str) and " at 0x" in val:
        return re.sub(r" at 0x[0-9a-f]+", "", val)
    return None
