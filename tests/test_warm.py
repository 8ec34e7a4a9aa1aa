"""Compiling ahead: what `load(warm=)` and `exporter compile` leave for the processes after them."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import exporter
from exporter import Dim, OptionError, TensorSpec, Variable
from exporter.cli import main

# What a process that finds everything compiled gives; `lower` is not for it.
FOUND = """
import sys
import jax
import numpy as np
import exporter

jax.stages.Traced.lower = None
model = exporter.load(sys.argv[1], cache=sys.argv[2])
for size in (2, 8):
    print(model.embed(np.ones((size, 3), "float32")).tolist())
print(model.step(np.ones(4, "float32")).tolist(), model.step(np.ones(4, "float32")).tolist())
print(model.any_rank(np.ones((2, 3), "float32")).tolist())
"""


class Model:
    def __init__(self):
        self.kernel = jnp.arange(12.0).reshape(3, 4)
        self.total = Variable(jnp.zeros(4))

    @exporter.function(
        input_signature=[TensorSpec((Dim("batch", max=64, multiple_of=2), 3), "float32", name="x")]
    )
    def embed(self, x):
        return x @ self.kernel

    @exporter.function(input_signature=[TensorSpec(("batch", "2*n"), "float32", name="y")])
    def fold(self, y):
        return y[:, ::2] + y[:, 1::2]

    @exporter.function(input_signature=[TensorSpec((4,), "float32", name="x")])
    def step(self, x):
        self.total.value += x
        return jnp.sort(self.total.value)

    @exporter.function(input_signature=[TensorSpec(None, "float32", name="x")])
    def any_rank(self, x):
        return x + 1

    @exporter.function(input_signature=[TensorSpec((None,), "float32", name="x")])
    def unnamed(self, x):
        return x + 2


NAMES = ("embed", "fold", "step", "any_rank", "unnamed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("warm") / "model", Model()
    signatures = {name: getattr(model, name) for name in NAMES}
    samples = {"any_rank": [{"x": np.ones((2, 3), "float32")}]}
    exporter.save(model, folder, signatures=signatures, samples=samples, platforms=("cpu",))
    return folder


def files(cache):
    return {file.name for file in cache.iterdir()} if cache.exists() else set()


@pytest.mark.parametrize("skip_variables", [False, True])
def test_what_is_warm_is_what_calls_use(folder, tmp_path, skip_variables):
    with pytest.warns(
        UserWarning, match="signature 'unnamed' is not compiled ahead: axis 0 of x has"
    ):
        model = exporter.load(
            folder,
            cache=tmp_path,
            warm={"batch": (2, 8), "n": 3},
            skip_variables=skip_variables,
        )
    if skip_variables:
        model.variables = {"kernel": jnp.arange(12.0).reshape(3, 4), "total": jnp.zeros(4)}
    before = files(tmp_path)
    assert len(before) == 2 + 2 + 1 + 1
    assert model.embed(jnp.ones((8, 3)))[0].tolist() == [12, 15, 18, 21]
    model.embed(np.ones((2, 3), "float32"))
    model.fold(jnp.ones((2, 6)))
    model.step(jnp.ones(4))
    model.any_rank(jnp.ones((2, 3)))
    assert files(tmp_path) == before
    model.fold(jnp.ones((2, 8)))
    assert len(files(tmp_path)) == len(before) + 1


def test_the_command_fills_what_another_process_finds(folder, tmp_path, elsewhere, capsys):
    cache = str(tmp_path / "cache")
    words = ["compile", str(folder), "--size", "batch=2,8", "n=1", "--cache", cache]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "unnamed is left out: axis 0 of x has no name"
    cells = [line.split() for line in lines[1:-1]]
    assert [(row[0], " ".join(row[1:-3]), row[-1]) for row in cells] == [
        ("embed", "x: float32[2, 3]", "compiled"),
        ("embed", "x: float32[8, 3]", "compiled"),
        ("fold", "y: float32[2, 2]", "compiled"),
        ("fold", "y: float32[8, 2]", "compiled"),
        ("step", "x: float32[4]", "compiled"),
        ("any_rank", "x: float32[2, 3]", "compiled"),
    ]
    assert lines[-1] == f"6 compiled programs are in {cache}"
    model = exporter.load(folder, cache=False)
    calls = [model.embed(np.ones((size, 3), "float32")).tolist() for size in (2, 8)]
    calls += [
        "[1.0, 1.0, 1.0, 1.0] [2.0, 2.0, 2.0, 2.0]",
        model.any_rank(jnp.ones((2, 3))).tolist(),
    ]
    assert elsewhere(FOUND, folder, cache) == "".join(f"{one}\n" for one in calls)


def test_signatures_can_be_chosen_and_fixed_shapes_need_no_sizes(folder, tmp_path, capsys):
    cache = tmp_path / "cache"
    assert main(["compile", str(folder), "--signature", "step", "fold", "--cache", str(cache)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "fold is left out: no size is given for batch, n"
    assert [line.split()[0] for line in out[1:-1]] == ["step"]


ALL = """
The named axes of each signature are:
  embed: batch (max=64, multiple_of=2)
  fold: batch, n
  step: none
  any_rank: none
  unnamed: none"""


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"batch": (3, 66), "rows": 1},
            "the sizes to compile for do not fit:"
            "\n  rows: no axis has this name"
            "\n  batch: a multiple of 2 was expected, got 3, for 'embed'"
            "\n  batch: at most 64 was expected, got 66, for 'embed'"
            "\n  n: it has no size, for 'fold'" + ALL,
        ),
        (
            {"batch": 2, "n": [0, 2**31]},
            "the sizes to compile for do not fit:"
            "\n  n: at least 1 was expected, got 0, for 'fold'"
            "\n  n: at most 2147483647 was expected, got 2147483648, for 'fold'" + ALL,
        ),
        (
            {"batch": "many", "n": ()},
            "warm has a size, or a list of sizes, for each name of an axis, as in "
            "{'batch': (1, 8), 'seq': 128}; got 'batch': 'many', 'n': ().",
        ),
        (8, "warm is a dict by name; got 8."),
    ],
)
def test_sizes_that_do_not_fit_are_all_named_before_anything_is_compiled(
    folder, tmp_path, sizes, message
):
    with pytest.raises(OptionError) as caught:
        exporter.load(folder, warm=sizes, cache=tmp_path)
    assert str(caught.value) == message
    assert files(tmp_path) == set()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "batch"], "expected --size AXIS=SIZE,SIZE, got 'batch'."),
        (
            ["--signature", "unnamed"],
            "there is nothing to compile. Give sizes with --size AXIS=SIZE.",
        ),
        (
            ["--cache", "{folder}/saved_model.json/cache"],
            "cannot write '{folder}/saved_model.json/cache': '{folder}' is an artifact, and "
            "nothing else belongs inside it. Write beside it.",
        ),
    ],
)
def test_the_command_says_in_one_line_what_it_cannot_use(folder, capsys, words, message):
    assert main(["compile", str(folder), *(word.format(folder=folder) for word in words)]) == 1
    assert capsys.readouterr().err == f"exporter compile: error: {message.format(folder=folder)}\n"


def test_a_cache_is_a_folder_or_a_flag(folder):
    for wrong in ("", "a\0b", 5, None, b"cache"):
        with pytest.raises(OptionError) as refused:
            exporter.load(folder, cache=wrong)
        assert str(refused.value) == (
            "cache is True for the user's own cache folder, False for none, or the path of "
            f"another; got {wrong!r}."
        )
    with pytest.raises(SystemExit):
        main(["compile", str(folder), "--cache", ""])


def test_what_a_full_disk_did_not_take_is_not_told_to_be_there(
    folder, tmp_path, monkeypatch, capsys
):
    def full(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    words = ["compile", str(folder), "--signature", "step", "--cache", str(tmp_path)]
    assert main(words) == 1
    told = capsys.readouterr()
    first, last = told.out.splitlines()
    assert first.startswith("step")
    assert first.endswith("  compiled, not kept")
    assert last == f"0 compiled programs are in {tmp_path}"
    assert re.sub(r"[\d,]+ bytes", "N bytes", told.err) == (
        f"exporter compile: error: 1 of 1 compiled programs could not be kept in {tmp_path}, where "
        "N bytes are free. Those that call back into Python, and those larger than the cache, are "
        "kept nowhere.\n"
    )


def test_a_platform_that_is_not_there_is_told_before_anything_is_compiled(folder):
    done = subprocess.run(
        [sys.executable, "-m", "exporter", "run", str(folder), "--signature", "step", "--random"],
        env={**os.environ, "JAX_PLATFORMS": "nowhere"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("exporter run: error: JAX cannot start with JAX_PLATFORMS=nowhere: ")
    assert last.endswith(
        ". Choose a platform that is there, such as JAX_PLATFORMS=cpu, or unset it."
    )
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_a_cache_is_told_and_the_model_works(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match=r"cache= is of no use: .*/file cannot be made or read: "):
        loaded = exporter.load(folder, cache=tmp_path / "file")
    assert loaded.signatures
