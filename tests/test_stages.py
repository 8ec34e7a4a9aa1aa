"""Stages: compared with the libraries themselves, refused where they do not fit, kept as data."""

import base64
import io
import json
import shutil
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax.numpy as jnp
import jsonschema
import numpy as np
import pytest
import tokenizers

import exporter
from exporter import ArtifactError, BindError, Dim, FormatVersionError, StageError, TensorSpec
from exporter.artifact import manifest as manifests
from exporter.artifact.layout import MANIFEST, record_files
from exporter.artifact.records import StageRecord, replace
from exporter.artifact.stages import record_of
from exporter.cli import main
from exporter.cli.benchmark import Call, measured
from exporter.errors import MissingExtraError, OptionError
from exporter.runtime.comparison import compare
from exporter.stages import Image, Labels, Tokenizer, Vocabulary
from exporter.stages.pipeline import HostStages, check, opened
from signatures.signature import Signature

pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed: stages are not checked")

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "sat", "##s", "on", "é", "mat", "\u2028")


def written_tokenizer(folder, **padding):
    """A small tokenizer.json of the kind that BERT has, written by the library itself."""
    ids = {word: position for position, word in enumerate(WORDS)}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(ids, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    if padding:
        made.enable_padding(**padding)
    path = folder / "tokenizer.json"
    made.save(str(path))
    return path


def tokens(axis, dtype="int32"):
    """The signature of a model that takes ids, a mask and types."""
    spec = TensorSpec(("batch", axis), dtype)
    mask = TensorSpec(("batch", axis), "float32")
    return Signature("f", {"ids": spec, "attention_mask": mask, "type_ids": spec}, {})


def at_work(stage, signature):
    """The stages of a signature, as a loaded model has them, and how often files were read."""
    prepared = stage.prepared(signature)
    check([prepared.options], signature)
    files = {f"assets/{name}": data for name, data in prepared.files}
    record = replace(record_of(prepared.options), files=list(files))
    reads = []

    def read(path):
        reads.append(path)
        return files[path]

    return HostStages([record], signature, read), reads


TEXTS = [
    ["a cat", "a cat sats on a mat", ""],
    ["control \x00\x07\x1b[31m\u202e characters", "é \u2028 \U0001f600", "\ufeff\r\n\t"],
    ["a"],
]


@pytest.mark.parametrize("texts", TEXTS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_become_what_the_library_makes_of_them(tmp_path, texts, side):
    path = written_tokenizer(tmp_path, direction=side, pad_id=9, pad_type_id=7)
    stages, _ = at_work(Tokenizer(path), tokens(Dim("n", max=512, multiple_of=4)))
    found = stages.arrays({"text": texts})
    library = tokenizers.Tokenizer.from_file(str(path))
    library.enable_padding(direction=side, pad_id=9, pad_type_id=7, pad_to_multiple_of=4)
    for part, array in found.items():
        expected = [getattr(one, part) for one in library.encode_batch(texts)]
        np.testing.assert_array_equal(array, expected)
    assert [one.dtype.name for one in found.values()] == ["int32", "float32", "int32"]


@pytest.mark.parametrize(
    ("axis", "max_length", "texts", "shape_and_cut"),
    [
        ("n", None, [], ((0, 1), None)),
        (Dim("n", min=4, max=8), None, ["a"], ((1, 4), None)),
        (6, None, ["a", "cat"], ((2, 6), None)),
        (
            Dim("n", max=7, multiple_of=3),
            None,
            ["a", "a a a a a a"],
            ((2, 6), "longer than 6 tokens"),
        ),
        (5, None, ["a a a a a a", "a a a a"], ((2, 5), r"text\[0\] and 1 more: longer than 5")),
        (None, 4, ["a a a a"], ((1, 4), r"text\[0\]: longer than 4 tokens")),
    ],
)
def test_rows_are_as_long_as_the_axis_allows_and_cuts_are_told(
    tmp_path, axis, max_length, texts, shape_and_cut
):
    shape, cut = shape_and_cut
    path = written_tokenizer(tmp_path)
    stages, _ = at_work(Tokenizer(path, max_length=max_length), tokens(axis))
    if cut is None:
        found = stages.arrays({"text": texts})
    else:
        with pytest.warns(UserWarning, match=cut):
            found = stages.arrays({"text": texts})
    assert {array.shape for array in found.values()} == {shape}
    library = tokenizers.Tokenizer.from_file(str(path))
    library.enable_truncation(shape[1])
    for row, text in zip(found["ids"], texts, strict=True):
        ids = library.encode(text).ids
        assert row.tolist() == [*ids, *[0] * (shape[1] - len(ids))]


@pytest.mark.parametrize(
    ("batch", "problem"),
    [
        (2, "text: expected 2 of them, got 3"),
        (Dim("b", max=2), "text: got 3 of them, and b is at most 2"),
    ],
)
def test_a_wrong_number_of_texts_is_told_in_the_callers_words(tmp_path, batch, problem):
    signature = Signature("f", {"ids": TensorSpec((batch, "n"), "int32")}, {})
    stages, _ = at_work(Tokenizer(written_tokenizer(tmp_path)), signature)
    assert stages.arrays({"text": ["a", "cat"]})["ids"].shape == (2, 3)
    with pytest.raises(BindError) as caught:
        stages.arrays({"text": ["a", "cat", "mat"]})
    assert caught.value.problems == (problem,)


def test_a_file_that_cuts_texts_itself_is_followed(tmp_path):
    path = written_tokenizer(tmp_path)
    library = tokenizers.Tokenizer.from_file(str(path))
    library.enable_truncation(4, direction="left")
    library.save(str(path))
    stages, _ = at_work(Tokenizer(path), tokens(Dim("n", max=512)))
    with pytest.warns(UserWarning, match="longer than 4"):
        found = stages.arrays({"text": "a cat on mat"})
    assert found["ids"].tolist() == [library.encode("a cat on mat").ids]


def test_threads_share_one_tokenizer_that_is_read_when_it_is_first_used(tmp_path):
    stages, reads = at_work(Tokenizer(written_tokenizer(tmp_path)), tokens("n"))
    assert reads == []
    texts = [["a cat"] * (1 + number % 3) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: stages.arrays({"text": one}), texts))
    assert reads == ["assets/tokenizer.json"]
    for one, given in zip(found, texts, strict=True):
        np.testing.assert_array_equal(one["ids"], [[2, 4, 5, 3]] * len(given))


def picture(mode="RGB", size=(11, 7)):
    rng = np.random.default_rng(0)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    return pillow.fromarray(rng.integers(0, 256, shape, np.uint8))


def encoded(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "own"),
    [
        (("b", 5, 6), "uint8", {}, "RGB"),
        (("b", 5, 6, 1), "float32", {"scale": 1 / 255, "mean": 0.5, "std": 0.25}, "L"),
        (("b", 5, 6, 3), "float32", {"scale": 1 / 255, "mean": (0.1, 0.2, 0.3)}, "RGBA"),
        (("b", 3, 5, 6), "float64", {"scale": 2, "std": (1, 2, 3), "resample": "bicubic"}, "RGB"),
        (("b", 3, "h", "w"), "float16", {"size": (5, 6), "resample": "lanczos"}, "L"),
        (("b", 1, 5, 6), "int16", {"resample": "nearest"}, "RGB"),
        ((4, 5, 6, 3), "bfloat16", {"mode": "RGB", "scale": 0.5}, "RGB"),
    ],
)
def test_pictures_become_what_pillow_and_numpy_make_of_them(tmp_path, shape, dtype, options, own):
    signature = Signature("f", {"pixels": TensorSpec(shape, dtype)}, {})
    stages, _ = at_work(Image(**options), signature)
    image = picture(own)
    (tmp_path / "x.png").write_bytes(encoded(image))
    text = base64.b64encode(encoded(image)).decode()
    given = [tmp_path / "x.png", encoded(image), {"b64": text}, bytearray(encoded(image, "PNG"))]
    found = stages.arrays({"image": given})["pixels"]

    mode = "RGB" if 3 in shape else "L"
    way = getattr(pillow.Resampling, options.get("resample", "bilinear").upper())
    pixels = np.asarray(image.convert(mode).resize((6, 5), way)).astype(np.float64)
    expected = pixels * options.get("scale", 1) - np.array(options.get("mean", 0.0))
    expected = expected / np.array(options.get("std", 1.0))
    if mode == "RGB" and shape[-1] != 3:
        expected = expected.transpose(2, 0, 1)
    expected = expected.reshape([5 if s == "h" else 6 if s == "w" else s for s in shape[1:]])
    assert found.dtype.name == dtype
    assert found.shape == (4, *expected.shape)
    # One rounding to the dtype, and for float32 three more on the way, of values up to 510.
    tolerance = {"bfloat16": 2**-8, "float32": 2**-21}.get(dtype, 1e-12)
    for one in found:
        np.testing.assert_allclose(one.astype(np.float64), expected, tolerance, tolerance)
    if own != "RGBA" and shape[0] == "b":
        again = stages.arrays({"image": np.asarray(image)})["pixels"]
        np.testing.assert_array_equal(again, found[:1])


def test_odd_pictures_are_read_as_people_see_them():
    stages, _ = at_work(Image(), Signature("f", {"x": TensorSpec(("b", 5, 6, 3), "uint8")}, {}))
    plain = picture("RGB", (6, 5))
    shown = np.asarray(plain)
    grey = np.asarray(picture("L", (6, 5)))

    turned = pillow.Exif()
    turned[0x0112] = 6  # the camera lay on its side
    on_its_side, file = plain.transpose(pillow.Transpose.ROTATE_90), io.BytesIO()
    on_its_side.save(file, "PNG", exif=turned)
    damaged = io.BytesIO()
    plain.save(damaged, "PNG", exif=b"Exif\x00\x00MM\x00*\xff\xff")
    moving = io.BytesIO()
    plain.save(
        moving, "WEBP", lossless=True, save_all=True, append_images=[pillow.new("RGB", (6, 5))]
    )
    clear = plain.copy()
    clear.putalpha(7)
    palette = plain.quantize(200)
    masked = io.BytesIO()
    palette.save(masked, "PNG", transparency=bytes(range(200)))
    deep = encoded(pillow.fromarray(grey.astype(np.uint16) * 256 + 255))
    threefold = np.repeat(grey[..., None], 3, axis=-1)
    for given, expected in (
        (file.getvalue(), shown),
        (damaged.getvalue(), shown),
        (moving.getvalue(), shown),
        (encoded(clear), shown),
        (masked.getvalue(), np.asarray(palette.convert("RGB"))),
        (deep, threefold),
        (plain, shown),
        (encoded(picture("L", (6, 5))), threefold),
    ):
        np.testing.assert_array_equal(stages.arrays({"image": given})["x"], [expected])


def test_no_pictures_are_an_empty_batch():
    signature = Signature("f", {"image": TensorSpec(("b", 3, 4, 5), "float32")}, {})
    stages, _ = at_work(Image(scale=0.5), signature)
    assert stages.arrays({"image": []})["image"].shape == (0, 3, 4, 5)


def bomb():
    """A small PNG that claims to have 2^30 pixels."""
    data = bytearray(encoded(picture("L")))
    data[16:24] = (2**15).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def large():
    """One of more pixels than are read, of which Pillow only warns."""
    file = io.BytesIO()
    pillow.new("1", (2**14, 6000)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (bomb(), "image[0]: claims to have more than 67,108,864 pixels"),
        (large(), "image[0]: claims to have more than 67,108,864 pixels"),
        (encoded(picture())[:80], "image[0]: "),
        ([b"\x89PNG", b""], "image[1]: is no PNG, JPEG or WebP; save it as one"),
        (encoded(picture(), "GIF"), "image[0]: is no PNG"),
        ("/etc/passwd", "image[0]: expected a picture, got text. Pass pathlib.Path"),
        (Path("nowhere.png"), "image[0] (nowhere.png): is not a file"),
        ({"b64": "***"}, "image[0]: is not base64"),
        (
            {"b64": "", "path": "x"},
            "image[0]: expected a path, bytes, an image of Pillow or an array of uint8, got dict",
        ),
        (np.zeros((4, 4)), "image[0]: expected uint8[height, width]"),
        (np.zeros((0, 4), np.uint8), "image[0]: has no pixels"),
        (pillow.new("F", (3, 3)), "image[0]: has pixels of mode F, expected 8 or 16 bits"),
        (3, "image[0]: expected a path, bytes, an image of Pillow or an array of uint8, got int"),
    ],
)
def test_what_is_no_picture_is_refused(value, problem):
    signature = Signature("f", {"x": TensorSpec(("b", 4, 4), "uint8")}, {})
    stages, _ = at_work(Image(), signature)
    with pytest.raises(BindError) as caught:
        stages.arrays({"image": value})
    assert problem in str(caught.value)
    assert "It takes image: pictures." in str(caught.value)


def test_files_that_are_damaged_at_random_are_refused_or_read(tmp_path):
    rng = np.random.default_rng(2)
    signature = Signature("f", {"x": TensorSpec(("b", 4, 4), "uint8")}, {})
    stages, _ = at_work(Image(), signature)
    refused = 0
    for kind in ("PNG", "JPEG", "WEBP"):
        data = np.frombuffer(encoded(picture(), kind), np.uint8)
        for _ in range(100):
            worse = data.copy()
            worse[rng.integers(0, len(data), 3)] = rng.integers(0, 256, 3)
            try:
                found = stages.arrays({"image": worse[: rng.integers(20, len(data))].tobytes()})
                assert found["x"].shape == (1, 4, 4)
            except BindError:
                refused += 1
    text = written_tokenizer(tmp_path).read_bytes()
    for _ in range(200):
        worse = bytearray(text)
        for position in rng.integers(0, len(text), 2):
            worse[position] = rng.integers(32, 127)
        (tmp_path / "worse.json").write_bytes(worse)
        try:
            at_work(Tokenizer(tmp_path / "worse.json"), tokens("n"))[0].arrays({"text": "a cat"})
        except StageError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "uint8"])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_labels_are_those_of_the_highest_scores(dtype, k):
    rng = np.random.default_rng(1)
    scores = jnp.asarray(rng.permuted(np.tile(np.arange(7), (2, 5, 1)), axis=-1), dtype)
    labels = [f"label {number}" for number in range(7)]
    signature = Signature("f", {}, {"scores": TensorSpec(("a", "b", 7), dtype)})
    stages, _ = at_work(Labels(np.array(labels), top_k=k, name="kind"), signature)
    found = stages.results({"scores": scores})
    plain = np.asarray(scores).astype(np.float64)
    order = np.argsort(-plain, axis=-1)[..., :k]
    expected = {
        "kind": np.array(labels)[order],
        "kind_score": np.take_along_axis(plain, order, axis=-1),
    }
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name][..., 0] if k == 1 else expected[name])
    assert found["kind_score"].dtype == dtype


def test_the_first_of_equal_scores_counts_and_nan_is_lowest():
    signature = Signature("f", {}, {"y": TensorSpec((4,), "float32"), "z": TensorSpec((), "int8")})
    stages, _ = at_work(Labels(list("abcd"), "y", top_k=4, with_scores=False), signature)
    found = stages.results({"y": np.float32([1, np.nan, 2, 2]), "z": 5})
    assert found["label"].tolist() == ["c", "d", "a", "b"]
    assert found == {"label": found["label"], "z": 5}


def test_an_open_last_axis_is_compared_with_the_labels_of_each_call():
    signature = Signature("f", {}, {"y": TensorSpec((None, None), "float32")})
    stages, _ = at_work(Labels(["a", "b"]), signature)
    with pytest.raises(BindError, match="y: has 3 scores in its last axis, and there are 2 labels"):
        stages.results({"y": np.zeros((1, 3), np.float32)})
    assert stages.results({"y": np.zeros((0, 2))})["label"].shape == (0,)


def test_words_become_their_lines_and_others_the_unknown_one(tmp_path):
    (tmp_path / "v.txt").write_bytes("a\r\né\u2028b\n\x0b\n<unk>".encode())
    signature = Signature("f", {"ids": TensorSpec(("n", "m"), "uint8")}, {})
    stages, _ = at_work(Vocabulary(tmp_path / "v.txt", unknown="<unk>"), signature)
    words = [["a", "\x0b"], ["é\u2028b", "z"]]
    assert stages.arrays({"words": words})["ids"].tolist() == [[0, 2], [1, 3]]
    assert stages.arrays({"words": np.array(["a", "b"])})["ids"].tolist() == [[0, 3]]
    assert stages.arrays({"words": []})["ids"].shape == (0, 0)
    for value, problem in (
        ([["a"], ["a", "a"]], "words: expected words in 2 axes, got lists of different lengths"),
        ([["a", 3]], "words: expected words, got int"),
    ):
        with pytest.raises(BindError) as caught:
            stages.arrays({"words": value})
        assert problem in str(caught.value)
    closed, _ = at_work(Vocabulary(["a", "b"]), signature)
    with pytest.raises(BindError, match=r"words\[0\]\[1\]: 'c' is not in the vocabulary"):
        closed.arrays({"words": ["a", "c"]})
    assert closed.arrays({"words": "b"})["ids"].tolist() == [[1]]  # a batch of one
    with pytest.raises(BindError) as caught:
        closed.arrays({"words": [[f"w{number % 50}" for number in range(1000)]]})
    assert len(caught.value.problems) == 11
    assert caught.value.problems[-1] == "words: 40 more words are not"


class Model:
    """Takes arrays; its stages are those of the tests."""

    def __init__(self):
        self.table = jnp.arange(36.0).reshape(12, 3)
        self.other = jnp.zeros(2)

    @exporter.function(
        input_signature=[TensorSpec(("batch", Dim("n", max=16)), "int32", name="ids")]
    )
    def embed(self, ids):
        return {"scores": self.table[ids].sum(1), "count": ids.sum()}


def saved(folder, stages, **options):
    exporter.save(Model(), folder, stages=stages, platforms=("cpu",), **options)
    return folder


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    stages = [Tokenizer(written_tokenizer(folder)), Labels(["x", "y", "z"], "scores")]
    return saved(folder / "m", {"serving_default": stages})


def damaged(tmp_path):
    (tmp_path / "bad.json").write_text('{"version": "1.0", "model": {"type": "WordPiece"}}')
    return Tokenizer(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("stage", "problem"),
    [
        (damaged, "Tokenizer: bad.json is no tokenizer.json that tokenizers "),
        (lambda p: Tokenizer(p / "none.json"), "none.json is not there"),
        (
            lambda p: Tokenizer(written_tokenizer(p), outputs={"ids": "tokens"}),
            "there is no input 'tokens', the inputs are 'ids'",
        ),
        (lambda p: Tokenizer(written_tokenizer(p), outputs={"x": "ids"}), "outputs has 'x'"),
        (
            lambda p: Tokenizer(written_tokenizer(p), max_length=17),
            "max_length is 17, and 'ids' has 16 tokens at most",
        ),
        (lambda p: Tokenizer(written_tokenizer(p), max_length=2), "2 tokens of each are special"),
        (lambda p: Tokenizer(written_tokenizer(p), max_length="9"), "max_length"),
        (lambda p: Tokenizer(written_tokenizer(p, pad_id=2**31)), "cannot hold the ids of"),
        (lambda p: Labels(["a", "b"], "scores"), "there are 2 labels"),
        (lambda p: Labels(["a", "b", "c"], "scores", top_k=4), "top_k is 4"),
        (
            lambda p: Labels(["a", "b", "c"], "scores", top_k=0),
            "Labels: top_k is a whole number of at least 1",
        ),
        (lambda p: Labels("a,b,c", "scores"), "labels: a,b,c is not there; labels themselves are"),
        (lambda p: Labels("a" * 5000, "scores"), "labels themselves are given as a list"),
        (lambda p: Labels(["a", "b", "c"], "count"), "'count' has to be scores"),
        (
            lambda p: Labels(["a", "b", "c"]),
            "output= is not given, and there are 'scores', 'count'",
        ),
        (lambda p: Labels(["a", "b", "c" * 1001], "scores"), "one of more than 1,000 characters"),
        (lambda p: Labels(["a\nb"], "scores"), "labels[0] is 'a\\nb', and not text of one line"),
        (
            lambda p: Labels(["a", "b", "c"], "scores", name="count"),
            "two outputs are called 'count'",
        ),
        (lambda p: Vocabulary(["a", "a"]), "the vocabulary has 'a' twice"),
        (lambda p: Vocabulary(["a"], unknown="b"), "unknown is 'b'"),
        (lambda p: Vocabulary([]), "words is the path of a text file or a list of texts"),
        (lambda p: Image(), "'ids' is int32[batch, n], and pictures of mode L are"),
    ],
)
def test_a_stage_that_does_not_fit_is_refused_when_it_is_saved(tmp_path, stage, problem):
    with pytest.raises(StageError) as caught:
        saved(tmp_path / "m", {"serving_default": [stage(tmp_path)]})
    assert problem in str(caught.value)
    assert "signature 'serving_default'" in str(caught.value)
    assert not (tmp_path / "m").exists()


def test_arrays_too_small_for_a_vocabulary_or_pixels_are_refused(tmp_path):
    small = TensorSpec(("b", "n"), "uint4")
    for stage, spec, problem in (
        (Vocabulary([str(number) for number in range(17)]), small, "ids of 17 words"),
        (Tokenizer(written_tokenizer(tmp_path)), TensorSpec(("b", "n"), "int4"), "of 12 tokens"),
        (Image(), TensorSpec(("b", 2, 2), "int8"), "integers that hold 255"),
        (Image(scale=0.5), TensorSpec(("b", 2, 2), "uint8"), "floats, since values are scaled"),
        (Image(std=0), TensorSpec(("b", 2, 2), "float32"), "std is not 0"),
        (Image(size=(3, 2)), TensorSpec(("b", 2, 2), "float32"), "[batch, 3, 2] of L, and takes"),
        (Image(), TensorSpec(("b", "h", 2), "float32"), "size= is (height, width)"),
        (
            Tokenizer(tmp_path / "tokenizer.json"),
            TensorSpec(("b", "n"), "int32"),
            "no input is called ids, attention_mask, type_ids, they are 'x'",
        ),
    ):
        signature = Signature("f", {"x" if "called" in problem else "ids": spec}, {})
        with pytest.raises(StageError) as caught:
            prepared = stage.prepared(signature)
            check([prepared.options], signature)
            opened(prepared.options, [data for _, data in prepared.files], signature)
        assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("stages", "problem"),
    [
        ([], "stages is a dict with a list of stages"),
        ({"predict": []}, "stages has 'predict', and the signatures are 'serving_default'"),
        ({"serving_default": ["labels.txt"]}, "expected a list of stages of exporter.stages"),
        ({"serving_default": [Labels]}, "expected a list of stages of exporter.stages"),
        ({"serving_default": Labels(["a"])}, "expected a list of stages of exporter.stages"),
    ],
)
def test_stages_are_lists_by_the_name_of_a_signature(tmp_path, stages, problem):
    with pytest.raises(OptionError) as caught:
        saved(tmp_path / "m", stages)
    assert problem in str(caught.value)


def test_a_loaded_model_takes_texts_and_gives_labels(artifact):
    model = exporter.load(artifact)
    pipeline = model.pipelines["serving_default"]
    shown = "serving_default(text: text) -> (label: label, label_score: float32[batch], count: "
    assert f"\n  with stages {shown}" in repr(model)
    assert f"\n  {shown}" in repr(model.pipelines)
    assert pipeline.inputs == {"text": "text"}
    shown = {name: str(kind) for name, kind in pipeline.outputs.items()}
    assert shown == {"label": "label", "label_score": "float32[batch]", "count": "int32[]"}
    found = pipeline(text=["a cat", "on a mat sats"])
    library = tokenizers.Tokenizer.from_file(str(artifact / "assets" / "tokenizer.json"))
    library.enable_padding()
    ids = np.array([one.ids for one in library.encode_batch(["a cat", "on a mat sats"])], np.int32)
    outputs = model.signatures["serving_default"](ids=ids)
    assert found["label"].tolist() == ["z", "z"]
    np.testing.assert_array_equal(found["label_score"], np.max(outputs["scores"], axis=-1))
    assert found["count"] == outputs["count"] == ids.sum()
    assert model.with_variables({}).pipelines["serving_default"](text="a")["label"] == ["z"]


def test_values_that_do_not_fit_a_pipeline_are_told_together(artifact):
    pipelines = exporter.load(artifact).pipelines
    for values, problems in (
        ({}, ["text: missing"]),
        ({"text": ["a", 3, "\ud800"], "ids": 1}, ["ids: not", "text[1]: ", "text[2]: has half"]),
        ({"text": None}, ["text[0]: expected text, got NoneType"]),
        ({"text": b"a"}, ["text[0]: expected text, got bytes"]),
    ):
        with pytest.raises(BindError) as caught:
            pipelines["serving_default"](**values)
        assert len(caught.value.problems) == len(problems)
        assert all(problem in str(caught.value) for problem in problems)
    with pytest.raises(KeyError, match="no signature 'other' has stages"):
        pipelines["other"]


def test_stages_go_along_when_a_model_is_saved_again_or_in_part(artifact, tmp_path):
    model = exporter.load(artifact)
    signature = model.signatures["serving_default"]
    for number, options in enumerate(({}, {"signatures": {"again": signature}})):
        exporter.save(model, tmp_path / str(number), **options)
        again = exporter.load(tmp_path / str(number))
        (pipeline,) = again.pipelines.values()
        assert pipeline(text="a cat")["label"] == ["z"]
        assert list(again.manifest.stages.values()) == list(model.manifest.stages.values())
    assert exporter.load(tmp_path / "0").manifest.content == model.manifest.content
    exporter.save(model, tmp_path / "none", stages={})
    assert not exporter.load(tmp_path / "none").pipelines
    assert not (tmp_path / "none" / "assets").exists()
    part = exporter.load(artifact, only="embed")
    assert part.pipelines["serving_default"](text="a cat")["label"] == ["z"]
    part = exporter.load(artifact, only="other")
    assert not part.pipelines
    assert not [file.path for file in part.manifest.files if file.path.startswith("assets")]


def test_the_published_schema_knows_the_options_of_each_kind(artifact):
    schema = json.loads(Path(manifests.__file__).with_name("manifest.schema.json").read_text())
    whole = json.loads((artifact / MANIFEST).read_text())
    jsonschema.validate(whole, schema)
    stages = whole["stages"]["serving_default"]
    stages[1]["options"]["run"] = "x"
    with pytest.raises(jsonschema.ValidationError, match="'run' was unexpected"):
        jsonschema.validate(whole, schema)
    stages[1]["version"] = 2
    jsonschema.validate(whole, schema)


def test_the_content_id_covers_stages_and_their_files(tmp_path):
    ids = [
        exporter.load(saved(tmp_path / str(number), stages)).manifest.content
        for number, stages in enumerate(
            (
                None,
                {"serving_default": [Labels(["x", "y", "z"], "scores")]},
                {"serving_default": [Labels(["x", "y", "w"], "scores")]},
                {"serving_default": [Labels(["x", "y", "z"], "scores", top_k=2)]},
            )
        )
    ]
    assert len({content.programs for content in ids}) == 4
    assert len({content.variables for content in ids}) == 1


def rewritten(artifact, folder, *stages):
    """The artifact with other stages, its digest as it should be."""
    shutil.copytree(artifact, folder)
    whole = manifests.read(artifact)
    changed = replace(whole, stages={"serving_default": list(stages)})
    (folder / MANIFEST).write_bytes(manifests.encode(changed))
    return folder


def test_a_stage_that_we_do_not_know_is_refused_only_when_it_is_used(artifact, tmp_path, capsys):
    label = exporter.load(artifact).manifest.stages["serving_default"][1]
    sound = StageRecord("sound\x1b[31m", 3, "9.4.0", {"rate": 16000, "deep": [{}]}, label.files)
    folder = rewritten(artifact, tmp_path / "m", sound, label)
    model = exporter.load(folder)
    assert model.signatures["serving_default"](ids=[[1, 2]])["count"] == 3
    with pytest.raises(FormatVersionError, match=r"'sound.*version 3.*Install 9\.4\.0 or a newer"):
        model.pipelines["serving_default"]
    exporter.save(model, tmp_path / "again")
    assert exporter.load(tmp_path / "again").manifest.stages["serving_default"][0] == sound
    assert main(["show", str(folder)]) == 0
    assert "stage sound\\u001b[31m: rate 16000" in capsys.readouterr().out
    assert main(["run", str(folder), "--inputs", "sound=x"]) == 1
    assert "Install 9.4.0 or a newer one" in capsys.readouterr().err
    words = ["run", str(folder), "--json", "--inputs", "ids=[[1, 2]]"]
    assert main(words) == 1
    assert capsys.readouterr().err.endswith("For this command, that is --no-stages.\n")
    assert main([*words, "--no-stages"]) == 0
    assert json.loads(capsys.readouterr().out) == {"scores": [[9, 11, 13]], "count": 3}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"files": ["assets/other.txt"]}, "which files does not list in assets/"),
        ({"files": ["saved_model.json"]}, "which files does not list in assets/"),
        ({"files": []}, "has 0 files"),
        ({"options": {"output": "scores"}}, "missing required field `name`"),
        ({"options": {"output": "scores", "name": "l", "run": "x"}}, "unknown field `run`"),
        ({"options": {"output": "other", "name": "l"}}, "there is no output 'other'"),
        ({"options": {"output": "scores", "name": "count"}}, "two outputs are called 'count'"),
    ],
)
def test_a_manifest_with_stages_that_cannot_be_is_refused(artifact, tmp_path, changes, problem):
    label = exporter.load(artifact).manifest.stages["serving_default"][1]
    with pytest.raises(ArtifactError) as caught:
        exporter.load(rewritten(artifact, tmp_path / "m", replace(label, **changes)))
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "case",
    [
        ((0, {"files": ["assets/../../x"]}), {}, "has the file 'assets/../../x'", False),
        ((0, {"kind": "sound"}), {}, "kind 'sound' in version 1, which this release", True),
        ((0, {"version": 2}), {}, "kind 'tokenizer' in version 2, which this release", True),
        ((0, {}), {"pipeline.MAX_FILE_BYTES": 9}, "bytes, and no more than 9 are read", True),
        ((1, {}), {"stage.MAX_LINES": 2}, "the labels has more than 2 lines, which", True),
        (
            (1, {"options": {"output": "scores", "name": "l", "top_k": 10**9}}),
            {},
            "top_k is 1000000000, and 'scores' is float32[batch, 3]",
            False,
        ),
    ],
    ids=["outside", "kind", "version", "huge tokenizer", "billions of labels", "top_k"],
)
def test_a_hostile_stage_is_one_clear_error(artifact, tmp_path, capsys, monkeypatch, case):
    (number, changes), limits, problem, is_shown = case
    for name, limit in limits.items():
        monkeypatch.setattr(f"exporter.stages.{name}", limit)
    stages = list(exporter.load(artifact).manifest.stages["serving_default"])
    stages[number] = replace(stages[number], **changes)
    folder = str(rewritten(artifact, tmp_path / "m", *stages))
    assert main(["run", folder, "--inputs", "text=a cat"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line
    assert main(["show", folder]) == (0 if is_shown else 1)
    printed = capsys.readouterr()
    assert "stage labels" in printed.out if is_shown else problem in printed.err
    assert main(["run", folder, "--no-stages", "--inputs", "ids=[[1]]"]) == (0 if is_shown else 1)


def test_files_that_changed_or_do_not_fit_are_refused_when_they_are_used(artifact, tmp_path):
    folder = shutil.copytree(artifact, tmp_path / "m")
    model = exporter.load(folder)
    (folder / "assets" / "labels.txt").write_text("x\ny\n")
    with pytest.raises(ArtifactError, match="labels.txt is not what it was"):
        model.pipelines["serving_default"](text="a")
    shutil.copytree(artifact, tmp_path / "wrong")
    (tmp_path / "wrong" / "assets" / "labels.txt").write_text("x\ny\n")
    whole = manifests.read(artifact)
    files = list(record_files(tmp_path / "wrong"))
    data = manifests.encode(replace(whole, files=files))
    (tmp_path / "wrong" / MANIFEST).write_bytes(data)
    with pytest.raises(StageError, match=r"assets/labels\.txt cannot be used.*there are 2 labels"):
        exporter.load(tmp_path / "wrong").pipelines["serving_default"](text="a")


def test_without_its_library_a_stage_says_what_installs_it(artifact, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    model = exporter.load(artifact)
    assert model.signatures["serving_default"](ids=[[1]])["count"] == 1
    with pytest.raises(MissingExtraError, match=r"pip install 'jax-exporter\[stages\]'"):
        model.pipelines["serving_default"](text="a")
    signature = Signature("f", {"x": TensorSpec(("b", 4, 4), "uint8")}, {})
    stages, _ = at_work(Image(), signature)
    with pytest.raises(MissingExtraError, match="a picture needs Pillow"):
        stages.arrays({"image": b""})


def test_callers_of_a_pipeline_are_told_whether_another_can_replace_it(tmp_path):
    labels, other = Labels(["x", "y", "z"], "scores"), Labels(["x", "y", "w"], "scores")
    words = Vocabulary(["a", "b"])
    folders = {
        name: manifests.read(saved(tmp_path / name, {"serving_default": stages}))
        for name, stages in (
            ("none", []),
            ("labels", [labels]),
            ("other", [other]),
            ("words", [words, labels]),
        )
    }
    for before, after, reasons in (
        ("labels", "labels", []),
        ("labels", "other", []),
        ("none", "labels", []),
        ("labels", "none", ["are gone: it takes arrays only"]),
        (
            "labels",
            "words",
            ["ids as nothing, which was array", "words as words, which was nothing"],
        ),
    ):
        found = compare(folders[before], folders[after])
        assert len(found.reasons) == len(reasons)
        for one, reason in zip(found.reasons, reasons, strict=True):
            assert str(one).startswith("stages of serving_default ")
            assert str(one).endswith(reason)
        assert bool(found.differences) == (before != after)


class Reader:
    @exporter.function(input_signature=[TensorSpec(("batch", 2, 2), "float32", name="image")])
    def read(self, image):
        return {"scores": image.reshape(-1, 4)}


def test_commands_show_stages_and_run_by_them_when_their_inputs_are_given(
    artifact, tmp_path, capsys
):
    assert main(["show", str(artifact), "--json"]) == 0
    (first, second) = json.loads(capsys.readouterr().out)["signatures"]["serving_default"]["stages"]
    assert (first["kind"], first["version"]) == ("tokenizer", 1)
    assert first["files"] == ["assets/tokenizer.json"]
    assert (second["known"], second["options"]) == (True, {"output": "scores", "name": "label"})
    for text in ('text=["a cat"]', "text=a cat"):
        assert main(["run", str(artifact), "--json", "--inputs", text]) == 0
        assert json.loads(capsys.readouterr().out)["label"] == ["z"]

    folder, file = tmp_path / "reader", tmp_path / "one.png"
    stages = [Image(scale=1 / 255), Labels(["a", "b\x1b[31m", "c", "d"])]
    exporter.save(Reader(), folder, stages={"serving_default": stages}, platforms=("cpu",))
    pillow.fromarray(np.uint8([[0, 255], [7, 8]])).save(file)
    np.save(tmp_path / "x.npy", np.float32([[[0, 1], [2, 3]]]))
    assert main(["run", str(folder), "--inputs", f"image={file},{tmp_path}/o*.png"]) == 0
    assert "float32[2]" in capsys.readouterr().out
    assert main(["run", str(folder), "--inputs", f"image={file}"]) == 0
    assert "['b\\x1b[31m']" in capsys.readouterr().out  # as NumPy prints it
    out = tmp_path / "out"
    assert main(["run", str(folder), "--inputs", f"image={file}", "--out", str(out)]) == 0
    assert np.load(out / "label_score.npy") == 1
    capsys.readouterr()
    for word, plain, label in (
        (f"image={tmp_path / 'x.npy'}", [[0, 1, 2, 3]], "d"),
        (f"image={file}[scale=1]", [[0, 255, 7, 8]], "b\x1b[31m"),
        ("image=[[[3, 2], [1, 0]]]", [[3, 2, 1, 0]], "a"),
    ):
        words = ["run", str(folder), "--json", "--inputs", word]
        assert main(words) == 0
        assert json.loads(capsys.readouterr().out) == {
            "label": [label],
            "label_score": [max(plain[0])],
        }
        assert main([*words, "--no-stages"]) == 0
        assert json.loads(capsys.readouterr().out) == {"scores": plain}
    assert main(["run", str(folder), "--random", "--size", "batch=3"]) == 0
    assert capsys.readouterr().out.startswith("label  text[3]\n")


def test_run_takes_texts_and_pictures_from_standard_input(artifact, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "reader"
    stages = [Image(scale=1 / 255), Labels(list("abcd"))]
    exporter.save(Reader(), folder, stages={"serving_default": stages}, platforms=("cpu",))
    grey = encoded(pillow.fromarray(np.uint8([[0, 255], [7, 8]])))
    array = io.BytesIO()
    np.save(array, np.float32([[[0, 1], [2, 3]]]))
    text = base64.b64encode(grey).decode()
    for model, word, data, label in (
        (artifact, "text=-", b"a cat\r\n", ["z"]),
        (artifact, "text=-", b'["a", "cat"]', ["z", "z"]),
        (artifact, "-", b'{"text": ["a", "cat"]}', ["z", "z"]),
        (artifact, "-", b'{"ids": [[1, 2]]}', ["z"]),
        (folder, "image=-", grey, ["b"]),
        (folder, "image=-", array.getvalue(), ["d"]),
        (folder, "-", json.dumps({"image": {"b64": text}}).encode(), ["b"]),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert main(["run", str(model), "--json", "--inputs", word]) == 0
        assert json.loads(capsys.readouterr().out)["label"] == label


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["text=[hello]"], "'[hello]' is not JSON: a shell takes quotes away"),
        (["txet=a"], "txet: not an input; there are text, ids"),
        (["text=a", "text=b"], "text: given twice"),
        (["text=a", "ids=[[1]]"], "ids: not an input"),
        ([], "text: missing. It takes text: texts."),
        (["text=[1]"], "text[0]: expected text, got int"),
    ],
)
def test_words_that_are_nothing_for_a_stage_are_refused(artifact, capsys, words, problem):
    given = ["--inputs", *words] if words else []
    assert main(["run", str(artifact), *given]) == 1
    assert problem in capsys.readouterr().err


def test_a_benchmark_tells_what_stages_take_of_a_call(artifact, capsys):
    words = ["run", str(artifact), "--benchmark", "3", "--inputs", "text=a cat"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["inputs"] == {"ids": "int32[1, 4]"}
    assert found["inputs_from"] == "made of text by stages"
    for name, whole in found["latency_ms"].items():
        assert 0 < found["stages_ms"][name] < whole
    assert main(words) == 0
    assert "\nstages     p50 " in capsys.readouterr().out
    assert main([*words, "--json", "--no-stages"]) == 1
    assert "text: " in capsys.readouterr().err


def test_each_part_of_a_measured_call_is_passed_on():
    class Output(np.ndarray):
        def block_until_ready(self):
            pass

        def devices(self):
            return set()

    given = []
    measured(
        Call(
            lambda x: {"y": (x + 1).view(Output)},
            before=lambda: {"x": np.arange(2)},
            after=lambda outputs: given.append(outputs["y"].tolist()),
        ),
        2,
        1,
    )
    assert given == [[1, 2]] * 3


def test_check_tells_of_stages_that_do_not_fit():
    around = {"serving_default": [Labels(["x"], "scores")]}
    report = exporter.check(Model(), stages=around)
    assert not report
    assert "labels" in str(report)
    assert exporter.check(Model(), stages={"serving_default": [Vocabulary(["a"])]})


def test_a_pipeline_takes_its_only_input_by_position(tmp_path):
    words = Vocabulary(["a", "b", "c"])
    exporter.save(Model(), tmp_path / "model", stages={"serving_default": [words]})
    pipeline = exporter.load(tmp_path / "model").pipelines["serving_default"]
    found = pipeline([["a", "b", "c", "a"]])
    assert set(found) == set(pipeline.outputs)
    with pytest.raises(BindError, match="by keyword, got 2 positional"):
        pipeline(["a"], ["b"])


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (Image(resample="best"), "resample is one of nearest, bilinear, bicubic, lanczos"),
        (Labels(["a"], top_k=0), "top_k is a whole number of at least 1; got 0"),
    ],
)
def test_options_of_stages_that_cannot_be_are_told_with_those_that_can(stage, words):
    spec = TensorSpec(("batch", 4, 4), "float32")
    signature = Signature("f", {"x": spec}, {"y": TensorSpec(("batch", 1), "float32")})
    with pytest.raises(StageError) as caught:
        stage.prepared(signature)
    assert words in str(caught.value)


def test_run_says_what_it_makes_of_a_word_that_could_be_something_else(
    artifact, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("cat")
    assert main(["run", str(artifact), "--inputs", "text=a.txt"]) == 0
    assert "'a.txt' is taken as a text" in capsys.readouterr().err
    assert main(["run", str(artifact), "--inputs", 'text=["cat"']) == 0
    assert "is not JSON" in capsys.readouterr().err


def test_run_reads_pictures_by_their_content_and_says_when_the_stage_is_left_out(
    tmp_path, monkeypatch, capsys
):
    class Mean:
        @exporter.function(input_signature=[TensorSpec(("n", 2, 2), "float32", name="image")])
        def mean(self, image):
            return {"mean": image.mean(axis=(1, 2))}

    monkeypatch.chdir(tmp_path)
    exporter.save(Mean(), "mean", stages={"serving_default": [Image(scale=1 / 255)]})
    pillow.new("L", (2, 2), 255).save("white.png")
    shutil.copy("white.png", "white")
    for name in ("white.png", "white"):
        assert main(["run", "mean", "--inputs", f"image={name}", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"mean": [1.0]}
    assert main(["run", "mean", "--inputs", "image=white.png[mode=L]", "--json"]) == 0
    done = capsys.readouterr()
    assert json.loads(done.out) == {"mean": [255.0]}
    assert "without the stage for pictures" in done.err
    Path("a.gif").write_bytes(b"GIF89a")
    assert main(["run", "mean", "--inputs", "image=a.gif"]) == 1
    assert "PNG, JPEG or WebP" in capsys.readouterr().err
