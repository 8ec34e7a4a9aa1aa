"""A save that is killed, or fails, leaves what was there before, or the whole new artifact.

`test_layout.py` has the moves of the folder under fire; here it is `exporter.save` itself, with
JAX, Orbax and all, and `exporter.load` says whether what it left is whole.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import ArtifactError, ArtifactExistsError, TensorSpec, Variable

ROOT = Path(__file__).resolve().parent.parent


class Versioned:
    """A model whose program, variables and names all say which version they are of."""

    def __init__(self, version: int, size: int = 50_000) -> None:
        self.version = Variable(jnp.int32(version), trainable=False)
        self.weights = jnp.full((size,), version, jnp.float32)
        self.baked = version
        setattr(self, f"version_{version}", jnp.zeros(1))

    @exporter.function(input_signature=[TensorSpec((), "int32")])
    def versions(self, x):
        return {"baked": x + self.baked, "variable": x + self.version.value, "w": self.weights[-1]}


# Imports what a save needs once, then forks a saver for each line it reads: a target and a number
# of its own. A saver saves version after version over the same target and says when each is there.
# Nothing of JAX runs before the fork but its import, so no thread is lost by it.
NURSERY = """
import os, sys, warnings
sys.path.insert(0, sys.argv[1])
import jax, orbax.checkpoint, exporter
from test_crash import Versioned
warnings.simplefilter("ignore")  # JAX warns of every fork
for line in sys.stdin:
    target, number = line.rsplit(" ", 1)
    saver = os.fork()
    if saver:
        print("saver", saver, flush=True)
        os.waitpid(saver, 0)
        print("gone", flush=True)
    else:
        for version in range(int(number) * 1000, (int(number) + 1) * 1000):
            exporter.save(Versioned(version), target, overwrite=True, platforms=["cpu"])
            print("saved", version, flush=True)
"""


@pytest.fixture(scope="module")
def nursery():
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY, ROOT / "tests"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    ) as process:
        yield process
        process.stdin.close()


def saved_by_one_that_is_killed(nursery, target: Path, number: int, after: int, delay: float):
    """The versions that a saver said it had saved, killed some time after one of them."""
    nursery.stdin.write(f"{target} {number}\n")
    nursery.stdin.flush()
    process = int(nursery.stdout.readline().split()[1])
    lines = [nursery.stdout.readline() for _ in range(after)]
    assert "gone\n" not in lines, "the saver has failed"
    time.sleep(delay)
    os.kill(process, signal.SIGKILL)
    while (line := nursery.stdout.readline()) != "gone\n":
        lines.append(line)
    return [int(line.split()[1]) for line in lines]


def whole_version(target: Path) -> int:
    """The version at the target, after checking that all of it is of that version."""
    model = exporter.load(target)
    version = int(model.version)
    results = model.signatures["serving_default"](x=np.int32(0))
    assert {name: int(value) for name, value in results.items()} == {
        "baked": version,
        "variable": version,
        "w": version,
    }
    assert np.unique(np.asarray(model.weights)).tolist() == [version]
    assert hasattr(model, f"version_{version}")
    listed = {file.path for file in model.manifest.files}
    found = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert found == listed | {"saved_model.json"}
    return version


def test_a_save_killed_at_any_moment_leaves_the_old_artifact_or_the_new(nursery, tmp_path):
    target, chance, interrupted = tmp_path / "model", random.Random(0), 0
    exporter.save(Versioned(0), target, platforms=["cpu"])
    before = 0
    for kill in range(1, 17):
        # Every fourth is killed while it traces and compiles for the first time.
        after = 0 if kill % 4 == 0 else 1
        delay = chance.uniform(0, 0.5 if after == 0 else 0.15)
        said = saved_by_one_that_is_killed(nursery, target, kill, after, delay)
        found = whole_version(target)
        # A save may have moved into place before it was said.
        expected = {said[-1], said[-1] + 1} if said else {before, kill * 1000}
        assert found in expected
        before = found
        interrupted += len(list(tmp_path.iterdir())) > 1
    assert interrupted >= 3, "few kills hit a save under way: this test has checked too little"
    exporter.save(Versioned(7), target, overwrite=True, platforms=["cpu"])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert whole_version(target) == 7


def test_a_first_save_killed_at_any_moment_leaves_nothing_or_the_whole(nursery, tmp_path):
    chance, whole = random.Random(1), 0
    for kill in range(8):
        target = tmp_path / str(kill) / "model"
        # However slow the machine is, every fourth has saved once before it is killed.
        after = 1 if kill % 4 == 3 else 0
        delay = chance.uniform(0, 0.15) if after else chance.uniform(0.1, 1.2)
        said = saved_by_one_that_is_killed(nursery, target, kill, after, delay)
        if exporter.is_artifact(target):
            version = whole_version(target)
            assert version in ({said[-1], said[-1] + 1} if said else {kill * 1000})
            whole += 1
        else:
            assert not said
            assert not target.exists()
    assert whole > 0, "every saver was killed too early: this test has checked too little"


@pytest.fixture
def old(tmp_path):
    target = tmp_path / "model"
    exporter.save(Versioned(1, 20_000), target, platforms=["cpu"])
    return target


def test_an_artifact_is_replaced_only_when_asked(old):
    with pytest.raises(ArtifactExistsError) as caught:
        exporter.save(Versioned(2), old, platforms=["cpu"])
    assert str(caught.value) == (
        f"cannot save to '{old}': there is an artifact already. Pass overwrite=True, or save to "
        "another path."
    )
    assert whole_version(old) == 1
    exporter.save(Versioned(2), old, overwrite=True, platforms=["cpu"])
    assert whole_version(old) == 2
    assert [path.name for path in old.parent.iterdir()] == ["model"]


class Failing(Versioned):
    """Traces one function and fails in the next."""

    @exporter.function(input_signature=[TensorSpec((2,))])
    def worse(self, x):
        raise ZeroDivisionError("on purpose")


def test_a_function_that_fails_leaves_the_old_artifact(old):
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        exporter.save(Failing(2), old, overwrite=True, platforms=["cpu"])
    assert whole_version(old) == 1
    assert [path.name for path in old.parent.iterdir()] == ["model"]


def test_a_function_that_fails_leaves_nothing_where_nothing_was(tmp_path):
    with pytest.raises(ZeroDivisionError):
        exporter.save(Failing(2), tmp_path / "new" / "model", platforms=["cpu"])
    assert list(tmp_path.iterdir()) == []


@contextmanager
def files_of_at_most(size: int):
    """Within the block the disk refuses longer files, as a full one does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# In a process of its own: what Orbax leaves behind when a write fails, its event loops and threads
# complain of at any later time.
REFUSED = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, exporter
from test_crash import Versioned, files_of_at_most
model = Versioned(2, 20_000)
# Random numbers cannot be compressed below the limits.
model.weights = np.random.default_rng(0).random(20_000, np.float32)
for size in (100, 2_000, 30_000):
    try:
        with files_of_at_most(size):
            exporter.save(model, sys.argv[2], overwrite=True, platforms=["cpu"])
    except exporter.ArtifactError as error:
        message = str(error)
    print(message)
"""


def test_a_disk_that_refuses_the_variables_leaves_the_old_artifact(old):
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, ROOT / "tests", old],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    messages = done.stdout.splitlines()
    assert len(messages) == 3
    for message in messages:
        assert message.startswith("the variables cannot be written: ")
        assert message.endswith("File too large. Save to a disk with room for them.")
    assert whole_version(old) == 1
    assert [path.name for path in old.parent.iterdir()] == ["model"]


def test_a_program_that_the_disk_refuses_leaves_the_old_artifact(old):
    class Large:
        @exporter.function(input_signature=[TensorSpec((50_000,))])
        def add(self, x):
            return x + np.random.default_rng(0).random(50_000, np.float32)

    with pytest.raises(ArtifactError) as caught, files_of_at_most(100_000):
        exporter.save(Large(), old, overwrite=True, platforms=["cpu"])
    assert str(caught.value) == (
        f"cannot save to '{old}': [Errno 27] File too large. Save to a folder that this process "
        "may write to, on a disk with room for it."
    )
    assert isinstance(caught.value.__cause__, OSError)
    assert whole_version(old) == 1
    assert [path.name for path in old.parent.iterdir()] == ["model"]
