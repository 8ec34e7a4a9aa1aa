"""What the command shows in a terminal and nowhere else, and the words that a shell completes."""

import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import exporter
from exporter import TensorSpec
from exporter.artifact.manifest import read as read_manifest
from exporter.cli import main
from exporter.cli.command import Exit
from exporter.cli.terminal import bad, dim, good, heading, progress, titled
from exporter.runtime.describe import describe

ROOT = Path(__file__).resolve().parent.parent
ESCAPE = "\x1b["

# Refuses packages that are not to be found, and says at the end which of them were imported.
WITHOUT = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused!r}:
            raise ImportError(f"{{name}} is not for this process")

sys.meta_path.insert(0, Refused())
from exporter.cli import main
from exporter.cli.command import Exit
sys.exit(main(sys.argv[1:]))
"""

THREE_STEPS = """
from exporter.cli.terminal import progress
for number in progress(range(3), "counting\\x1b[2J"):
    print("line", number)
"""


class Doubler:
    @exporter.function(input_signature=[TensorSpec((2,), "float32", name="x")])
    def double(self, x):
        return x * 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("terminal") / "m"
    exporter.save(Doubler(), folder, platforms=("cpu",), samples=[{"x": [1, 2]}])
    return folder


def in_a_terminal(words, *, both=True, **environment):
    """The exit code of a Python process, what it wrote to a terminal, and what to a pipe.

    Its stderr is a terminal, and its stdout too unless it is a pipe.
    """
    ours, its = pty.openpty()
    known = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=its if both else subprocess.PIPE,
        stderr=its,
        env={**known, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "90", **environment},
    )
    os.close(its)
    shown = []

    def read():
        try:
            while data := os.read(ours, 4096):
                shown.append(data)
        except OSError:  # how Linux says that the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    piped, _ = process.communicate(timeout=120)
    reader.join(timeout=120)
    os.close(ours)
    text = b"".join(shown).decode().replace("\r\n", "\n")
    return process.returncode, text, (piped or b"").decode()


def show(folder):
    return ["-m", "exporter", "show", folder]


def test_headings_are_bold_in_a_terminal(folder):
    code, shown, _ = in_a_terminal(show(folder))
    assert code == 0
    plain = f"{describe(read_manifest(folder))}\n"
    assert shown.replace(f"{ESCAPE}1m", "").replace(f"{ESCAPE}0m", "") == plain
    assert f"\n{ESCAPE}1mSignatures{ESCAPE}0m\n" in shown


@pytest.mark.parametrize(
    "environment", [{"NO_COLOR": "1"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, {"TERM": "dumb"}]
)
def test_there_are_no_colours_for_those_who_want_none(folder, environment):
    plain = f"{describe(read_manifest(folder))}\n"
    assert in_a_terminal(show(folder), **environment) == (0, plain, "")


def test_there_are_no_colours_in_a_pipe_unless_they_are_forced(folder):
    assert ESCAPE not in in_a_terminal(show(folder), both=False)[2]
    assert ESCAPE not in in_a_terminal(show(folder), both=False, FORCE_COLOR="0")[2]
    assert f"{ESCAPE}1mSignatures" in in_a_terminal(show(folder), both=False, FORCE_COLOR="1")[2]


def test_without_rich_there_is_plain_text(folder):
    words = ["-c", WITHOUT.format(refused={"rich"}), "show", folder]
    assert in_a_terminal(words) == (0, f"{describe(read_manifest(folder))}\n", "")


def test_the_error_is_red_in_a_terminal(folder):
    code, shown, piped = in_a_terminal(show("absent"), both=False)
    assert (code, piped) == (1, "")
    assert shown == f"{ESCAPE}31mexporter show: error:{ESCAPE}0m absent does not exist.\n"


def test_text_from_artifacts_is_harmless_with_colours_and_without(monkeypatch):
    text = "a\x1b[2J\nb"
    for paint in (heading, good, bad, dim):
        assert paint(text) == "a\\u001b[2J\\u000ab"
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert heading(text) == f"{ESCAPE}1ma\\u001b[2J\\u000ab{ESCAPE}0m"
    assert good("x") == f"{ESCAPE}32mx{ESCAPE}0m"
    assert bad("x") == f"{ESCAPE}31mx{ESCAPE}0m"
    assert dim("x") == f"{ESCAPE}2mx{ESCAPE}0m"
    assert titled("a\n  b\x1b\n\nc") == f"{heading('a')}\n  b\\u001b\n\n{heading('c')}"


def test_a_bar_counts_on_a_terminal_and_leaves_stdout_alone():
    code, shown, piped = in_a_terminal(["-c", THREE_STEPS], both=False)
    assert (code, piped) == (0, "line 0\nline 1\nline 2\n")
    assert "counting\\u001b[2J" in shown
    assert "3/3" in shown
    assert "line" not in shown
    code, shown, _ = in_a_terminal(["-c", THREE_STEPS])
    assert code == 0
    assert "3/3" in shown
    for number in range(3):
        assert f"line {number}\n" in shown
    for quiet in ({"TERM": "dumb"}, {"TERM": "unknown"}):
        assert in_a_terminal(["-c", THREE_STEPS], both=False, **quiet) == (0, "", piped)


def test_where_nobody_looks_there_is_no_bar_and_no_rich(capsys):
    assert list(progress([1, 2], "counting")) == [1, 2]
    assert capsys.readouterr() == ("", "")
    code = f"{THREE_STEPS}\nimport sys\nassert 'rich' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "line 0\nline 1\nline 2\n", "")


def test_verify_shows_how_far_it_is_beside_its_json(folder):
    words = ["-m", "exporter", "verify", folder, "--json"]
    code, shown, piped = in_a_terminal(words, both=False, JAX_PLATFORMS="cpu")
    assert code == 0
    assert json.loads(piped)["ok"] is True
    assert "files" in shown
    assert "1/1" in shown


def test_the_readme_and_the_help_list_every_exit_code(capsys):
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [f"| {code.value} | {code.meaning} |" for code in Exit] == [
        line for line in readme.splitlines() if line.startswith("| ") and line[2].isdigit()
    ]
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out.splitlines()
    assert [f"  {code.value:<4} {code.meaning}" for code in Exit] == [
        line for line in printed if line.strip()[:1].isdigit()
    ]


# Completion.


def completed(script, *words):
    """What bash would offer for the last of these words."""
    listed = " ".join(f"'{word}'" for word in words)
    lines = f"""
source {script}
COMP_WORDS=({listed})
COMP_CWORD={len(words) - 1}
COMP_LINE="{" ".join(words)}"
COMP_POINT=${{#COMP_LINE}}
COMPREPLY=()
$(complete -p exporter | sed 's/.*-F \\([^ ]*\\) .*/\\1/') exporter '{words[-1]}' '{words[-2]}'
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", lines],
        capture_output=True,
        text=True,
        check=False,
        cwd=script.parent,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_bash_completes_commands_options_and_folders(tmp_path, capsys):
    pytest.importorskip("shtab", reason="completion was not tried: it needs shtab")
    with pytest.raises(SystemExit) as done:
        main(["--print-completion", "bash"])
    assert not done.value.code
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    (tmp_path / "models").mkdir()
    (tmp_path / "model.txt").write_text("")
    assert completed(script, "exporter", "v") == {"verify"}
    assert completed(script, "exporter", "--pr") == {"--print-completion"}
    known = {"--help", "--rtol", "--atol", "--key", "--signature", "--json"}
    assert completed(script, "exporter", "verify", "--") == known
    assert completed(script, "exporter", "check", "--platform", "c") == {"cpu", "cuda"}
    assert {one.rstrip("/") for one in completed(script, "exporter", "show", "mo")} == {"models"}


def test_other_shells_have_completions_too(capsys):
    pytest.importorskip("shtab", reason="completion was not tried: it needs shtab")
    for shell, start in (("zsh", "#compdef exporter\n"), ("tcsh", "# AUTOMATICALLY")):
        with pytest.raises(SystemExit):
            main(["--print-completion", shell])
        out = capsys.readouterr().out
        assert out.startswith(start)
        assert "verify" in out
        assert ("show:'print the signatures, functions" in out) == (shell == "zsh")


def test_without_shtab_the_error_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "bash"]) == 1
    assert capsys.readouterr() == (
        "",
        "exporter: error: completions are made by shtab, which is not installed. Install it with: "
        "pip install 'jax-exporter[cli]'\n",
    )
