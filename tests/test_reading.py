"""Whoever reads while others save at the path gets one artifact whole, or one error that says so.

The replacement happens as a file of the artifact is opened: each of them in turn.
"""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import ArtifactError, ArtifactReplacedError, TensorSpec, Variable
from exporter.artifact import scratch
from exporter.artifact.reading import unmixed
from exporter.cli import main

_watching: list[Callable[[str], None]] = []


def _audit(event: str, arguments: tuple) -> None:
    if _watching and event == "open" and isinstance(arguments[0], str):
        _watching[0](arguments[0])


@pytest.fixture(scope="module", autouse=True)
def auditor():
    """It cannot be taken away again, and is silent unless something is watched."""
    sys.addaudithook(_audit)


class Versioned:
    """A model whose program, small and large variables all say which version they are of."""

    def __init__(self, version: int) -> None:
        self.small = Variable(jnp.int32(version), trainable=False)
        self.large = jnp.full((5000,), version, jnp.float32)
        self.baked = version

    @exporter.function(input_signature=[TensorSpec((), "int32", name="x")])
    def versions(self, x):
        return {"baked": x + self.baked, "small": x + self.small.value, "large": self.large[-1]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> list[Path]:
    """Two artifacts, which differ in every part and in no size."""
    folder = tmp_path_factory.mktemp("versions")
    for version in (1, 2):
        exporter.save(
            Versioned(version),
            folder / str(version),
            platforms=["cpu"],
            samples={"serving_default": [{"x": np.int32(0)}]},
        )
    return [folder / "1", folder / "2"]


def versions(model: exporter.LoadedModel) -> list[int]:
    found = model.versions(0)
    return [int(found[name]) for name in ("baked", "small", "large")]


class Replaced:
    """An artifact at `path` that is replaced by another when files of it are opened."""

    def __init__(self, folder: Path, saved: list[Path]) -> None:
        self.path, self._saved, self.opened, self.count = folder / "m", saved, 0, 0
        shutil.copytree(saved[0], self.path)

    def replace(self) -> None:
        """As a save does it, with what was there gone."""
        self.count += 1
        other = self.path.with_name("other")
        shutil.copytree(self._saved[self.count % 2], other)
        scratch.exchange(other, self.path)
        shutil.rmtree(other)

    def when_opened(self, is_time: Callable[[int], bool]) -> None:
        """From now on replace it as a file is opened whose number is the right one."""
        self.opened = 0

        def look(name: str) -> None:
            if name.startswith(f"{self.path}/") or name == str(self.path):
                self.opened += 1
                if is_time(self.opened):
                    watching = _watching.pop()
                    self.replace()
                    _watching.append(watching)

        _watching[:] = [look]


@pytest.fixture
def replaced(tmp_path, saved) -> Iterator[Replaced]:
    yield Replaced(tmp_path, saved)
    _watching.clear()


def test_a_load_gives_the_old_artifact_or_the_new_at_whichever_file_it_is_replaced(replaced):
    replaced.when_opened(lambda _: False)
    assert versions(exporter.load(replaced.path, cache=False)) == [1, 1, 1]
    for number in range(1, replaced.opened + 1):
        replaced.when_opened(lambda opened, number=number: opened == number)
        found = versions(exporter.load(replaced.path, cache=False))
        assert found == [1 + replaced.count % 2] * 3, number
    assert replaced.count > 15


def test_a_verification_judges_one_artifact_at_whichever_file_it_is_replaced(replaced):
    replaced.when_opened(lambda _: False)
    assert exporter.verify(replaced.path).ok
    for number in range(1, replaced.opened + 1, 4):
        replaced.when_opened(lambda opened, number=number: opened == number)
        assert exporter.verify(replaced.path).ok, number
    assert replaced.count > 5


def test_a_link_to_another_artifact_leads_to_that(tmp_path, saved):
    link = tmp_path / "current"
    link.symlink_to(saved[0])
    seen = []

    def read() -> str:
        seen.append(link.resolve().name)
        if len(seen) == 1:
            link.unlink()
            link.symlink_to(saved[1])
        return seen[-1]

    assert unmixed(link, read) == "2"


def test_an_artifact_that_is_replaced_again_and_again_is_said_to_be(replaced):
    replaced.when_opened(lambda opened: opened % 5 == 0)
    with pytest.raises(ArtifactReplacedError) as caught:
        exporter.load(replaced.path, cache=False)
    assert str(caught.value) == (
        f"'{replaced.path}' was replaced each of 10 times while it was read. Read it again when "
        "nobody saves there, or save to a new path each time."
    )


def test_damage_is_told_where_nobody_replaces_anything(tmp_path, saved):
    folder = shutil.copytree(saved[0], tmp_path / "m")
    next(folder.rglob("d/*")).unlink()
    with pytest.raises(ArtifactError, match="missing") as caught:
        exporter.load(folder)
    assert type(caught.value) is ArtifactError


def test_a_model_needs_its_folder_no_more_to_call_what_was_never_called(replaced):
    old = exporter.load(replaced.path, cache=False)
    replaced.replace()
    assert versions(old) == [1, 1, 1]
    shutil.rmtree(replaced.path)
    assert versions(exporter.load(replaced._saved[1])) == [2, 2, 2]
    assert versions(old) == [1, 1, 1]


@pytest.mark.parametrize(
    ("words", "is_damaged"),
    [
        (["show", "DIR", "--programs"], False),
        (["show", "DIR", "--programs"], True),
        (["scan", "DIR"], False),
    ],
)
def test_a_command_says_in_a_line_that_what_it_read_was_replaced(
    replaced, capsys, words, is_damaged
):
    if is_damaged:
        next((replaced.path / "programs").iterdir()).write_bytes(b"")
    replaced.when_opened(lambda opened: opened == 3)
    assert main([word.replace("DIR", str(replaced.path)) for word in words]) == 1
    assert capsys.readouterr().err == (
        f"exporter {words[0]}: error: '{replaced.path}' was replaced while it was read. "
        "Run the command again.\n"
    )
