"""What an artifact holds, as text for people and as plain data for programs."""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import msgspec
import numpy as np
import pytest

import exporter
from exporter import Dim, TensorSpec, Variable
from exporter.artifact import records
from exporter.artifact.manifest import read as read_manifest
from exporter.artifact.records import Manifest, ScalarRecord, VariableRecord
from exporter.markup import printable
from exporter.runtime.describe import describe
from exporter.runtime.summary import json_values, summarise

PLATFORMS = ("cpu", "cuda")
WRITER = records.Producer("0.1.0", "0.10.2", "0.10.2", "0.12.8", "3.11.7")

VECTOR = TensorSpec((3,), "float32")


def manifest_of(model, folder, **options) -> Manifest:
    """The manifest of a saved model, without what differs between releases of JAX and days."""
    exporter.save(model, folder / "model", platforms=PLATFORMS, **options)
    manifest = read_manifest(folder / "model")
    files = [msgspec.structs.replace(p, stablehlo_version="0.9.0") for p in manifest.programs]
    return msgspec.structs.replace(
        manifest,
        created="2026-01-02T03:04:05+00:00",
        producer=WRITER,
        content=records.Content("1f" * 32, "2e" * 32),
        stablehlo_version="0.9.0",
        programs=files,
        files=[type(record)(record.path, 1000, record.blake3) for record in manifest.files],
    )


def section(manifest: Manifest, title: str, **options) -> str:
    """The lines below a title."""
    text = describe(manifest, **options)
    return text.partition(f"\n{title}\n")[2].partition("\n\n")[0]


class Pair(NamedTuple):
    left: jax.Array
    right: jax.Array


class Part:
    """A part of a model, which it has in several places."""

    def __init__(self):
        self.kernel = jnp.ones((3, 4))
        self.mean = Variable(jnp.zeros(4), trainable=False)

    @exporter.function(input_signature=[TensorSpec(("batch", 3), "float32")])
    def encode(self, x):
        """An embedding for each row.

        The rest of the text is for those who read the code.
        """
        return x @ self.kernel + self.mean.value

    again = encode


class Model:
    def __init__(self):
        self.encoder = Part()
        self.layers = [Part()]
        self.named = {"first one": Part(), 7: Part()}
        self.both = (Pair(jnp.ones(2), jnp.ones(2)),)
        self.me = self
        self.same = self.encoder
        self.key = jax.random.key(0)
        self.none = jnp.zeros((0, 3))
        self.small = jnp.zeros(3, jnp.int4)

    @exporter.function(
        input_signature=[
            TensorSpec((Dim("batch", max=8, multiple_of=2), 3), "float32", name="image"),
            TensorSpec((), "float32"),
        ],
        default=True,
    )
    def classify(self, image, scale=2.0):
        self.encoder.mean.value = self.encoder.mean.value + image.mean()
        return {"logits": self.encoder.encode(image) * scale, "total": image.sum()}

    @exporter.function(input_signature=[TensorSpec((None,), "bfloat16")] * 2)
    def add(self, x, y):
        return x + y

    @exporter.function(input_signature=[TensorSpec(None, "float32")])
    def sums(self, x):
        if x.ndim in (0, 3):
            raise ValueError("an even number of axes, please.\nOr one.")
        return x.sum(0)

    @exporter.function
    def repeat(self, x, times=3, *, deep=True):
        return {"a": [x * times, None], "b": (x, Pair(x, x))} if deep else x

    @exporter.function
    def later(self, x):
        return x


@pytest.fixture(scope="session")
def manifest(tmp_path_factory):
    model = Model()
    model.repeat(np.ones(3, np.float32))
    model.repeat(np.ones((2, 2), np.int32), 4, deep=False)
    with pytest.warns(UserWarning, match="later has no input_signature"):
        return manifest_of(model, tmp_path_factory.mktemp("described"))


DESCRIPTION = """\
Model, saved 2026-01-02 03:04:05 UTC
  platforms   cpu, cuda
  needs       StableHLO 0.9.0 or newer
  written by  jax-exporter 0.1.0 in format 2
              with jax 0.10.2, jaxlib 0.10.2, orbax-checkpoint 0.12.8, Python 3.11.7
  programs    11 files, 10.7 KiB
              content id 1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f
  variables   13 arrays, 72 elements, 283 bytes, 7 trainable
              content id 2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e

Signatures
  serving_default calls classify
    inputs   image   float32[batch, 3]
             scale   float32[]          default 2.0
    outputs  logits  float32[batch, 4]
             total   float32[]
    where batch is at most 8 and a multiple of 2
    changes encoder.mean

Functions
  classify(image, scale=2.0)
    image  float32[batch, 3]
    scale  float32[]
    ->     {'logits': float32[batch, 4], 'total': float32[]}
  add(x, y)
    x   bfloat16[batch]
    y   bfloat16[batch]
    ->  bfloat16[batch]
    note: the leading axes given as None are one dimension, 'batch': the function cannot be traced
      with sizes independent of each other.
  sums(x)
    x   float32[...]
    ->  float32[...]
    where x has 1, 2 or 4 axes
    no program for 0 or 3 axes: ValueError: an even number of axes, please.
  repeat(x, times=3, *, deep=True)
    option 1
      x      float32[3]
      times  3 (fixed)
      deep   True (fixed)
      ->     {'a': [float32[3], None], 'b': (float32[3], Pair(left=float32[3], right=float32[3]))}
    option 2
      x      int32[2, 2]
      times  4 (fixed)
      deep   False (fixed)
      ->     int32[2, 2]
  later(x)
    cannot be called: it had no input_signature, and was not called before saving
  encoder.encode(x)
    An embedding for each row.
    also encoder.again
    x   float32[batch, 3]
    ->  float32[batch, 4]
  layers[0].encode(x)
    An embedding for each row.
    also layers[0].again
    x   float32[batch, 3]
    ->  float32[batch, 4]
  named['first one'].encode(x)
    An embedding for each row.
    also named['first one'].again
    x   float32[batch, 3]
    ->  float32[batch, 4]
  named[7].encode(x)
    An embedding for each row.
    also named[7].again
    x   float32[batch, 3]
    ->  float32[batch, 4]

Variables
  path                       type           trainable  collection
  encoder.kernel             float32[3, 4]  yes        array
  encoder.mean               float32[4]     no         Variable
  layers[0].kernel           float32[3, 4]  yes        array
  layers[0].mean             float32[4]     no         Variable
  named['first one'].kernel  float32[3, 4]  yes        array
  named['first one'].mean    float32[4]     no         Variable
  named[7].kernel            float32[3, 4]  yes        array
  named[7].mean              float32[4]     no         Variable
  both[0].left               float32[2]     yes        array
  both[0].right              float32[2]     yes        array
  key                        key<fry>[]     no         array
  none                       float32[0, 3]  yes        array
  small                      int4[3]        no         array"""


def test_a_manifest_is_described_for_people(manifest):
    assert describe(manifest, variables=True) == DESCRIPTION


def test_variables_are_listed_only_when_asked_for(manifest):
    assert describe(manifest) == DESCRIPTION.partition("\n\nVariables")[0]


# What may be said of an artifact.


def with_variables(manifest: Manifest, *variables: tuple[str, list[int], bool]) -> Manifest:
    """A model of variables alone: each a dtype, a shape, and whether it is trainable."""
    made = [
        VariableRecord(
            [ScalarRecord("str", f"v{i}")], [f"v{i}"], dtype, shape, trainable, "array", "array"
        )
        for i, (dtype, shape, trainable) in enumerate(variables)
    ]
    root = records.NodeRecord(
        "object",
        "Model",
        keys=[variable.path[0] for variable in made],
        children=list(range(1, len(made) + 1)),
    )
    leaves = [records.NodeRecord("variable", index=i) for i in range(len(made))]
    return msgspec.structs.replace(
        manifest,
        signatures={},
        functions=[],
        concrete_functions=[],
        programs=[],
        variables=made,
        nodes=[root, *leaves],
    )


@pytest.mark.parametrize(
    ("variables", "totals"),
    [
        ([], "none"),
        ([("float32", [], True)], "1 array, 1 element, 4 bytes, all trainable"),
        ([("bool", [1], False)], "1 array, 1 element, 1 byte, none trainable"),
        ([("float32", [0, 5], True)], "1 array, 0 elements, 0 bytes, all trainable"),
        ([("key<fry>", [2], False)], "1 array, 2 elements, 16 bytes, none trainable"),
        ([("key<rbg>", [], False)], "1 array, 1 element, 16 bytes, none trainable"),
        ([("uint4", [3], False)], "1 array, 3 elements, 3 bytes, none trainable"),
        ([("uint8", [1023], True)], "1 array, 1,023 elements, 1,023 bytes, all trainable"),
        ([("uint8", [1024], True)], "1 array, 1,024 elements, 1.0 KiB, all trainable"),
        ([("uint8", [2**20 - 1], True)], "1 array, 1,048,575 elements, 1.0 MiB, all trainable"),
        ([("bfloat16", [2**30], True)], "1 array, 1,073,741,824 elements, 2.0 GiB, all trainable"),
        (
            [("float64", [2**47], True), ("int8", [], False)],
            "2 arrays, 140,737,488,355,329 elements, 1,024.0 TiB, 1 trainable",
        ),
    ],
)
def test_the_size_of_the_variables_is_told_in_units_that_fit(manifest, variables, totals):
    text = describe(with_variables(manifest, *variables))
    assert f"\n  variables   {totals}\n" in text


def test_a_model_without_anything_says_so(manifest):
    text = describe(with_variables(manifest), variables=True)
    assert text.partition("\n\n")[2] == "Signatures\n  none\n\nVariables\n  none"


@pytest.mark.parametrize(
    ("note", "lines"),
    [
        (None, "  none"),
        (
            "several methods could be the default signature: a, b. Mark one with "
            "@exporter.function(default=True), or pass signatures={'a': model.a} to save.",
            "  none: several methods could be the default signature: a, b. Mark one with\n"
            "  @exporter.function(default=True), or pass signatures={'a': model.a} to save.",
        ),
        (
            "no method could be the default signature.\n  f: it has no input_signature.\n  g: no.",
            "  none: no method could be the default signature.\n"
            "    f: it has no input_signature.\n"
            "    g: no.",
        ),
    ],
)
def test_a_missing_default_signature_comes_with_the_note_of_the_save(manifest, note, lines):
    bare = msgspec.structs.replace(manifest, signatures={}, signature_note=note)
    assert section(bare, "Signatures") == lines


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"x64": True}, "  needs       StableHLO 0.9.0 or newer, 64-bit arrays (JAX_ENABLE_X64=1)"),
        ({"platforms": []}, "  platforms   none"),
        ({"created": "long ago"}, "Model, saved long ago"),
    ],
)
def test_what_an_artifact_needs_stands_at_the_top(manifest, change, line):
    assert line in describe(msgspec.structs.replace(manifest, **change)).splitlines()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe, 大きさ, 📏", "größe, 大きさ, 📏"),
        ("a\x1b[31mred", "a\\u001b[31mred"),
        ("two\nlines", "two\\u000alines"),
        ("\u202eback", "\\u202eback"),
        ("half \ud800", "half \\ud800"),
        ("\x00\x7f\x9b\u2028\u2069", "\\u0000\\u007f\\u009b\\u2028\\u2069"),
    ],
)
def test_what_would_change_a_terminal_is_escaped(manifest, text, shown):
    assert printable(text) == shown
    nodes = [msgspec.structs.replace(manifest.nodes[0], name=text), *manifest.nodes[1:]]
    described = describe(msgspec.structs.replace(manifest, nodes=nodes))
    assert described.startswith(f"{shown}, saved ")


# Functions: parameters, arguments, places.


def test_parameters_are_shown_as_they_were_written(tmp_path):
    class Odd:
        @exporter.function
        def f(self, a, /, b, *rest, c=(1, None), d="x" * 100, **more):
            return {"a": a, "rest": list(rest), "more": more, "b": b}

    odd = Odd()
    one = np.float32(1)
    odd.f(np.ones(1, np.float32), one, np.ones(2, np.int32), e=np.ones(3, np.float32))
    with pytest.warns(UserWarning, match="saved without a signature"):
        manifest = manifest_of(odd, tmp_path)
    text = "x" * 56
    assert section(manifest, "Functions") == (
        f"  f(a, /, b, *rest, c=(1, None), d='{text}..., **more)\n"
        "    a     float32[1]\n"
        "    b     float32[]\n"
        "    rest  (int32[2],)\n"
        "    c     (1, None)\n"
        f"    d     '{text}... (fixed)\n"
        "    more  {'e': float32[3]}\n"
        "    ->    {'a': float32[1], 'rest': [int32[2]], 'more': {'e': float32[3]}, 'b': float32[]}"
    )


def test_an_array_that_is_part_of_a_function_is_shown_as_its_values(tmp_path):
    class Shifted:
        @exporter.function(input_signature=[VECTOR])
        def f(self, x, by=np.arange(3, dtype=np.float32)):  # noqa: B008
            return x + by

    assert section(manifest_of(Shifted(), tmp_path), "Functions") == (
        "  f(x, by=[0.0, 1.0, 2.0])\n"
        "    x   float32[3]\n"
        "    by  array([0.0, 1.0, 2.0], float32) (fixed)\n"
        "    ->  float32[3]"
    )


def test_a_long_default_is_cut(tmp_path):
    class Shifted:
        @exporter.function(input_signature=[VECTOR, TensorSpec((50,), "float32")])
        def f(self, x, by=np.arange(50, dtype=np.float32)):  # noqa: B008
            return x + by.sum()

    manifest = manifest_of(Shifted(), tmp_path)
    assert section(manifest, "Signatures").splitlines()[2] == (
        "             by        float32[50]  default [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7..."
    )


def test_several_inputs_of_any_rank_are_told_by_pairs(tmp_path):
    class Pairs:
        @exporter.function(
            input_signature=[TensorSpec(None, "float32", max_rank=1)] * 2,
        )
        def f(self, x, y):
            if x.ndim < y.ndim:
                raise TypeError("x is too small")
            return x[..., None].sum() + y.sum()

    assert section(manifest_of(Pairs(), tmp_path), "Signatures") == (
        "  serving_default calls f\n"
        "    inputs   x         float32[...]\n"
        "             y         float32[...]\n"
        "    outputs  output_0  float32[]\n"
        "    where (x, y) has (0, 0), (1, 0) or (1, 1) axes\n"
        "    no program for (0, 1) axes: TypeError: x is too small"
    )


def test_one_axis_is_told_in_the_singular(tmp_path):
    class One:
        @exporter.function(input_signature=[TensorSpec(None, "float32", max_rank=1)])
        def f(self, x):
            return x[0]

    lines = section(manifest_of(One(), tmp_path), "Functions").splitlines()
    assert not any(line.startswith("    where") for line in lines)  # the signature says it
    found = section(manifest_of(One(), tmp_path, overwrite=True), "Signatures")
    assert "    where x has 1 axis\n    no program for 0 axes: IndexError: " in found


@pytest.mark.parametrize(("count", "hidden"), [(6, 0), (7, 0), (8, 2)])
def test_many_changed_variables_are_counted(tmp_path, count, hidden):
    class Counters:
        def __init__(self):
            self.counts = [Variable(jnp.zeros(())) for _ in range(count)]

        @exporter.function(input_signature=[VECTOR])
        def f(self, x):
            for variable in self.counts:
                variable.value = variable.value + 1
            return x

    names = [f"counts[{index}]" for index in range(count - hidden)]
    names += [f"{hidden} more"] if hidden else []
    line = f"    changes {', '.join(names[:-1])} and {names[-1]}"
    assert section(manifest_of(Counters(), tmp_path), "Signatures").splitlines()[-1] == line


def test_a_signature_of_a_function_that_is_not_attached_stands_alone(tmp_path):
    class Plain:
        def __init__(self):
            self.bias = jnp.ones(3)

    @exporter.function(input_signature=[])
    def constant():
        return {"three": jnp.full(3, 3.0)}

    manifest = manifest_of(Plain(), tmp_path, signatures={"three": constant})
    assert "Functions" not in describe(manifest)
    assert section(manifest, "Signatures") == (
        "  three\n    inputs   none\n    outputs  three  float32[3]"
    )


def test_the_shortest_path_is_taken_where_there_are_several(tmp_path):
    class Child:
        def __init__(self, parent):
            self.parent = parent
            self.w = jnp.ones(3)

        @exporter.function(input_signature=[VECTOR])
        def f(self, x):
            return x * self.w

    class Parent:
        def __init__(self):
            self.a = {"deep": [Child(self)]}
            self.z = self.a["deep"][0]

        @exporter.function(input_signature=[VECTOR])
        def g(self, x):
            return self.z.f(x)

        # Two names of one function are one function.
        h = g

    summary = summarise(manifest_of(Parent(), tmp_path))
    assert [function["paths"] for function in summary["functions"]] == [["g", "h"], ["z.f"]]
    assert [variable["path"] for variable in summary["variables"]] == ["z.w"]


# The same as plain data.


def test_a_summary_is_json_and_says_what_the_text_says(manifest):
    summary = summarise(manifest)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["written_by"] == {
        "jax-exporter": "0.1.0",
        "jax": "0.10.2",
        "jaxlib": "0.10.2",
        "orbax-checkpoint": "0.12.8",
        "Python": "3.11.7",
    }
    assert summary["programs"] == {"count": 11, "bytes": 11_000}
    for function in summary["functions"]:
        assert f"  {function['paths'][0]}{function['parameters']}\n" in DESCRIPTION
    for variable in summary["variables"]:
        assert f"  {variable['path']} " in DESCRIPTION


def test_a_summary_of_a_signature_has_everything_that_a_caller_must_know(manifest):
    assert summarise(manifest)["signatures"] == {
        "serving_default": {
            "function": "classify",
            "inputs": {
                "image": {"dtype": "float32", "shape": ["batch", 3]},
                "scale": {"dtype": "float32", "shape": [], "default": 2.0},
            },
            "outputs": {
                "logits": {"dtype": "float32", "shape": ["batch", 4]},
                "total": {"dtype": "float32", "shape": []},
            },
            "bounds": {"batch": {"min": None, "max": 8, "multiple_of": 2}},
            "ranks": [],
            "untraced": [],
            "changes": ["encoder.mean"],
            "notes": [],
            "derivatives": 0,
            "no_derivative": None,
            "row_wise": None,
        }
    }


def test_a_summary_of_a_function_has_its_options(manifest):
    functions = {function["paths"][0]: function for function in summarise(manifest)["functions"]}
    first, second = functions["repeat"]["options"]
    assert (first["arguments"], first["fixed"]) == (
        {"x": "float32[3]", "times": "3", "deep": "True"},
        ["times", "deep"],
    )
    assert first["signature_problem"] == (
        "its output 'a' is a list. A signature returns an array, or a flat list, tuple or dict of "
        "arrays."
    )
    assert (second["returns"], second["signature_problem"]) == ("int32[2, 2]", None)
    assert functions["classify"]["options"][0]["signatures"] == ["serving_default"]
    (sums,) = functions["sums"]["options"]
    assert sums["inputs"]["x"] == {"dtype": "float32", "shape": None, "max_rank": 4}
    assert sums["ranks"] == [[1], [2], [4]]
    reason = "ValueError: an even number of axes, please."
    assert sums["untraced"] == [
        {"ranks": [0], "reason": reason},
        {"ranks": [3], "reason": reason},
    ]
    assert functions["later"]["options"] == []


def test_paths_lead_to_the_functions_and_variables_of_the_loaded_model(manifest, tmp_path):
    model = Model()
    model.repeat(np.ones(3, np.float32))
    model.later(np.ones(3, np.float32))
    exporter.save(model, tmp_path / "model")
    loaded = exporter.load(tmp_path / "model")
    summary = summarise(loaded.manifest)
    for function in summary["functions"]:
        for path in function["paths"]:
            found = eval(f"loaded.{path}", {"loaded": loaded})  # a path is Python
            assert isinstance(found, exporter.LoadedFunction)
    for variable in summary["variables"]:
        found = eval(f"loaded.{variable['path']}", {"loaded": loaded})
        assert list(found.shape) == variable["shape"]


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (np.float32(0.1), 0.1),
        (np.float16(0.1), 0.1),
        (np.float64(0.1), 0.1),
        (np.array(0.5, ml_dtypes.bfloat16), 0.5),
        (np.array([1, -2], ml_dtypes.int4), [1, -2]),
        (np.array([True, False]), [True, False]),
        (np.array([2**63], np.uint64), [2**63]),
        (np.zeros((2, 0), np.float32), [[], []]),
        (
            np.array([np.nan, np.inf, -np.inf, 1e-45], np.float32),
            ["NaN", "Infinity", "-Infinity", 1e-45],
        ),
        (np.array([np.nan], ml_dtypes.float8_e4m3fn), ["NaN"]),
        (np.array([1 + 2j, complex(0, np.nan)], np.complex64), [[1.0, 2.0], [0.0, "NaN"]]),
    ],
)
def test_the_values_of_an_array_become_json(array, values):
    found = json_values(np.asarray(array))
    assert found == values
    assert json.loads(json.dumps(found, allow_nan=False)) == values


def test_json_values_give_back_every_half_and_many_floats_exactly():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    for array in (halves, bits.view(np.float32)):
        finite = array[np.isfinite(array)]
        again = np.array(json.loads(json.dumps(json_values(finite))), array.dtype)
        np.testing.assert_array_equal(again, finite)
