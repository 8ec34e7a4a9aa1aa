"""The programs of the README run as they stand there, each in a process of its own."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    text = README.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where every program of the README has run, in order."""
    folder = tmp_path_factory.mktemp("readme")
    for program in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{program}\n{done.stderr}"
    return folder


def test_the_two_commands_are_its_first_lines():
    first = README.read_text(encoding="utf-8").splitlines()[2:5]
    assert [line.split("  ")[0] for line in first] == ["```", "make demo", "make test"]


def test_its_programs_run_as_they_stand(folder: Path):
    assert (folder / "models/digits/1/saved_model.json").is_file()
    assert (folder / "models/adder/saved_model.json").is_file()


def test_its_commands_run_as_they_stand(folder: Path):
    np.save(folder / "images.npy", np.zeros((5, 64), np.float32))
    shutil.copytree(folder / "models/digits/1", folder / "models/digits/2")
    # tests/test_examples.py runs those for what `make demo` leaves.
    listed = [block for block in blocks("console") if "make demo" not in block]
    commands = re.findall(r"^\$ (.*)$", "".join(listed), re.MULTILINE)
    ours = [command for command in commands if command.startswith(("exporter ", "openssl "))]
    assert len(ours) >= 12
    for command in ours:
        # What follows is for those who read, or for when the command has something to say.
        program, *arguments = shlex.split(command.partition("||")[0], comments=True)
        start = [sys.executable, "-m", "exporter"] if program == "exporter" else [program]
        done = subprocess.run(
            [*start, *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        if program == "openssl":
            continue
        if "--html" in arguments:
            assert "logits" in (folder / arguments[-1]).read_text("utf-8")
            continue
        told = {
            "compile": "image: float32[32, 64]",
            "scan": "nothing found",
            "diff": "yes",
            "sign": "is signed in",
            "verify": "ok",
            "--benchmark": "calls/s",
            "--tree": "Linear",
            "--programs": "FLOP",
            "models/mood": "['sad']",
        }
        wanted = [text for word, text in told.items() if word in arguments] or ["logits"]
        assert wanted[0] in done.stdout


def test_the_error_it_shows_is_the_one_that_is_raised(folder: Path):
    import exporter

    model = exporter.load(folder / "models/digits/1")
    with pytest.raises(exporter.BindError) as caught:
        model.signatures["serving_default"](image=np.zeros((5, 32), np.float32))
    assert str(caught.value) in README.read_text(encoding="utf-8")


def test_every_file_it_names_exists():
    named = re.findall(r"`((?:examples|exporter)/[\w/.]+|[A-Z]+\.md)`", README.read_text())
    assert len(named) >= 4
    assert [name for name in named if not (README.parent / name).exists()] == []
