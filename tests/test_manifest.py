"""The manifest: what is written is read back, digests and the schema are what FORMAT.md says."""

import copy
import enum
import gzip
import json
import math
import random
import re
import subprocess
import sys
from pathlib import Path

import blake3
import jsonschema
import ml_dtypes
import msgspec
import numpy as np
import pytest
from golden.write import Golden
from hypothesis import given, settings
from hypothesis import strategies as st

import exporter
from exporter import ArtifactError, FormatVersionError
from exporter.artifact import manifest as manifest_file
from exporter.artifact import records
from exporter.artifact.encoding import (
    array_of,
    array_record,
    part_of,
    scalar_of,
    scalar_record,
    structure_of,
)
from exporter.artifact.manifest import MAX_MANIFEST_BYTES, decode, encode
from exporter.artifact.schema import PUBLISHED, schema, text
from exporter.artifact.variables import values_id
from signatures.tree import Keyed, Leaf, Sequential, Static

FOLDER = Path(manifest_file.__file__).parent
GOLDEN = sorted((Path(__file__).parent / "golden").glob("*/saved_model.json"))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manifest") / "golden"
    exporter.save(Golden(), folder)
    return folder


@pytest.fixture(scope="module")
def document(artifact):
    return json.loads((artifact / "saved_model.json").read_text())


def canonical(value: object) -> str:
    """Canonical JSON, written from the words of FORMAT.md alone."""
    if isinstance(value, dict):
        pairs = (f"{canonical(key)}:{canonical(value[key])}" for key in sorted(value))
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, str):
        short = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r"}
        short["\t"] = "\\t"
        escaped = (short.get(c) or (f"\\u{ord(c):04x}" if c < " " else c) for c in value)
        return '"' + "".join(escaped) + '"'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def digest(value: object) -> str:
    return blake3.blake3(canonical(value).encode("utf-8")).hexdigest()


def sealed(document: dict) -> bytes:
    """The file for a manifest, its digest made anew unless it is what was altered."""
    if not re.fullmatch("[0-9a-f]{64}", str(document.get("digest"))):
        return json.dumps(document).encode()
    rest = {key: value for key, value in document.items() if key != "digest"}
    return json.dumps({"digest": digest(rest), **rest}).encode()


# Written and read back.


def test_a_manifest_is_read_back_as_it_was(artifact):
    manifest = manifest_file.read(artifact)
    assert decode(encode(manifest), Path("again")) == manifest


class Color(enum.IntEnum):
    RED = 3


class Word(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "kind", "written"),
    [
        (None, "none", ""),
        (True, "bool", "True"),
        (False, "bool", "False"),
        (-12, "int", "-12"),
        (10**30, "int", "1" + "0" * 30),
        (Color.RED, "int", "3"),
        (0.1, "float", "0.1"),
        (1e-5, "float", "1e-05"),
        (-0.0, "float", "-0.0"),
        (math.inf, "float", "inf"),
        (math.nan, "float", "nan"),
        (np.float64(2.5), "float", "2.5"),
        (1 + 2j, "complex", "(1+2j)"),
        ("", "str", ""),
        ("a\n\N{SNOWMAN}\U0001f600", "str", "a\n\N{SNOWMAN}\U0001f600"),
        (Word("w"), "str", "w"),
        (b"\x00\xff", "bytes", "AP8="),
    ],
)
def test_a_python_value_is_text_that_says_its_type(value, kind, written):
    record = scalar_record(value)
    assert (record.type, record.text) == (kind, written)
    assert type(record.text) is str
    again = scalar_of(record)
    assert repr(again) == repr(scalar_of(scalar_record(again)))
    assert again == value or again != again  # noqa: PLR0124  # nan
    assert type(again) in (type(None), bool, int, float, complex, str, bytes)


def test_a_value_that_cannot_be_kept_is_what_it_looked_like():
    record = scalar_record("<Thing>", opaque=True)
    assert (record.type, scalar_of(record)) == ("opaque", "<Thing>")


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.binary(max_size=8)
)


@settings(max_examples=200, deadline=None)
@given(scalars)
def test_every_scalar_is_read_back(value):
    line = msgspec.json.encode(scalar_record(value))
    again = scalar_of(msgspec.json.decode(line, type=records.ScalarRecord))
    assert (type(again), repr(again)) == (type(value), repr(value))


DTYPES = (
    *("bool", "int8", "uint8", "int16", "int32", "int64", "uint64", "float16", "float32"),
    *("float64", "complex64", "complex128", "bfloat16", "int4", "uint4", "int2", "uint2"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3", "float6_e2m3fn", "float4_e2m1fn"),
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3)])
def test_every_array_is_read_back(dtype, shape):
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    array = (np.arange(math.prod(shape)) % 2).reshape(shape).astype(kind)
    again = array_of(array_record(array))
    assert (again.dtype, again.shape) == (kind, shape)
    np.testing.assert_array_equal(again.astype(complex), array.astype(complex))


def test_an_array_is_little_endian_in_c_order_whatever_it_was():
    array = np.asfortranarray(np.array([[1, 2], [3, 4]], ">i2"))
    record = array_record(array)
    assert (record.dtype, record.shape, record.data) == ("int16", [2, 2], "AQACAAMABAA=")
    assert array_of(record).tolist() == array.tolist()
    assert array_of(array_record(np.float32(3)[None][0])).shape == ()


names = st.text(st.characters(codec="ascii", categories=["Ll"]), min_size=1, max_size=4)
structures = st.recursive(
    st.builds(Leaf, st.integers(0, 9)) | st.builds(Static, scalars.filter(lambda v: v == v)),  # noqa: PLR0124  # not nan
    lambda inner: (
        st.builds(Sequential, st.sampled_from(["list", "tuple"]), st.lists(inner).map(tuple))
        | st.lists(st.tuples(names, inner), unique_by=lambda pair: pair[0], min_size=1).map(
            lambda pairs: Sequential(
                "Record", tuple(item for _, item in pairs), tuple(f"f{name}" for name, _ in pairs)
            )
        )
        | st.dictionaries(names, inner).map(
            lambda found: Keyed(tuple(found), tuple(found.values()))
        )
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(structures)
def test_every_structure_is_read_back(structure):
    line = msgspec.json.encode(part_of(structure))
    assert structure_of(msgspec.json.decode(line, type=records.Part)) == structure


# Digests.


def test_the_digest_is_that_of_the_canonical_rest(document):
    rest = {key: value for key, value in document.items() if key != "digest"}
    assert document["digest"] == digest(rest)
    assert next(iter(document)) == "digest"


def test_layout_and_the_order_of_fields_do_not_matter_to_the_digest(artifact, document):
    shuffled = list(document.items())
    random.Random(0).shuffle(shuffled)
    data = json.dumps(dict(shuffled), indent=4, ensure_ascii=False).encode()
    assert decode(data, Path("shuffled")) == manifest_file.read(artifact)


def test_names_outside_of_ascii_have_the_digest_that_the_format_says(tmp_path):
    class Model:
        @exporter.function(input_signature=[exporter.TensorSpec((2,), name='größe\t"\\\x01')])
        def f(self, x, style="\N{SNOWMAN}\U0001f600\x7f\u2028"):
            """Doc\nof two lines."""
            return {"\ue000": x, "\U00010000": x + 1}

    exporter.save(Model(), tmp_path / "model")
    document = json.loads((tmp_path / "model" / "saved_model.json").read_text())
    assert document["digest"] == digest({k: v for k, v in document.items() if k != "digest"})
    assert list(exporter.load(tmp_path / "model").f(np.ones(2, "f4"))) == ["\ue000", "\U00010000"]


def test_the_id_of_the_programs_is_what_the_format_says(artifact, document):
    parts = [document[k] for k in ("signatures", "functions", "concrete_functions", "programs")]
    files = [
        gzip.decompress((artifact / program["file"]).read_bytes())
        for program in document["programs"]
    ]
    parts += [document["nodes"], [blake3.blake3(data).hexdigest() for data in files]]
    assert document["content"]["programs"] == digest([digest(part) for part in parts])


def stored_arrays(artifact: Path, document: dict) -> list[np.ndarray | None]:
    """The variables as FORMAT.md says that they are stored, read by TensorStore alone."""
    import tensorstore as ts

    arrays = []
    for variable in document["variables"]:
        where = {"driver": "ocdbt", "base": f"file://{artifact}/variables/"}
        where["path"] = ".".join(variable["key"]) + "/"
        stored = variable["storage"] != "empty"
        spec = {"driver": "zarr", "kvstore": where}
        arrays.append(ts.open(spec, open=True).result().read().result() if stored else None)
    return arrays


def test_the_id_of_the_variables_is_what_the_format_says(artifact, document):
    hasher = blake3.blake3()
    for variable, array in zip(
        document["variables"], stored_arrays(artifact, document), strict=True
    ):
        hasher.update(digest([variable["key"], variable["dtype"], variable["shape"]]).encode())
        hasher.update(b"" if array is None else array.tobytes("C"))
    assert document["content"]["variables"] == hasher.hexdigest()


def test_the_ids_are_the_same_when_the_same_is_saved_again(artifact, document, tmp_path):
    exporter.save(Golden(), tmp_path / "again")
    again = json.loads((tmp_path / "again" / "saved_model.json").read_text())
    assert again["content"] == document["content"]
    assert again["files"] != document["files"]  # the checkpoint holds times


def test_another_value_changes_the_id_of_the_variables_alone(document, tmp_path):
    model = Golden()
    model.count.value += 1
    exporter.save(model, tmp_path / "other")
    other = json.loads((tmp_path / "other" / "saved_model.json").read_text())["content"]
    assert other["programs"] == document["content"]["programs"]
    assert other["variables"] != document["content"]["variables"]


def test_the_id_of_variables_is_of_what_is_stored_not_of_what_numpy_had(tmp_path):
    class Wide:
        def __init__(self):
            self.w = np.arange(3.0)

        @exporter.function(input_signature=[exporter.TensorSpec((3,))])
        def f(self, x):
            return x + self.w

    exporter.save(Wide(), tmp_path / "wide")
    loaded = exporter.load(tmp_path / "wide")
    narrow = [np.arange(3, dtype=np.float32)]
    assert loaded.manifest.content.variables == values_id(loaded.manifest.variables, narrow)


def test_storage_is_what_the_format_says(artifact, document):
    found = {
        ".".join(variable["key"]): (variable["storage"], None if array is None else array.dtype)
        for variable, array in zip(
            document["variables"], stored_arrays(artifact, document), strict=True
        )
    }
    assert found == {
        "layers.0.kernel": ("array", np.float32),
        "layers.0.bias": ("array", np.float32),
        "layers.1.dotted%2Ekey": ("array", ml_dtypes.bfloat16),
        "layers.1.7.0": ("array", np.float32),
        "count": ("array", np.int32),
        "key": ("array", np.uint32),
        "pair.low": ("empty", None),
        "pair.high": ("bytes", np.uint8),
    }


# What cannot be written.


def test_half_of_a_surrogate_pair_is_refused_when_it_is_saved(tmp_path):
    class Model:
        @exporter.function(input_signature=[exporter.TensorSpec((2,))])
        def f(self, x, style="before \ud800"):
            return x

    with pytest.raises(ArtifactError) as caught:
        exporter.save(Model(), tmp_path / "model")
    assert str(caught.value) == (
        "a manifest cannot hold the text 'before \\ud800', which has half of a surrogate pair. It "
        "is the name, the key or the default value of something that is saved, or its docstring."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_that_no_reader_would_take_is_refused_when_it_is_saved(artifact):
    manifest = manifest_file.read(artifact)
    huge = msgspec.structs.replace(manifest, signature_note="x" * MAX_MANIFEST_BYTES)
    size = len(encode(manifest)) - len("null") + MAX_MANIFEST_BYTES + 2
    with pytest.raises(ArtifactError) as caught:
        encode(huge)
    assert str(caught.value) == (
        f"the manifest would have {size:,} bytes, and readers take 16,777,216 at most. Stack "
        "arrays that are used alike, or save parts of the object by themselves."
    )


# The schema.


def test_the_published_schema_is_the_one_that_the_classes_give():
    assert (FOLDER / PUBLISHED).read_text() == text(), (
        "run: python -m exporter.artifact.schema > exporter/artifact/manifest.schema.json"
    )


def test_the_command_that_writes_the_schema_does():
    command = [sys.executable, "-W", "error", "-m", "exporter.artifact.schema"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == text()


@pytest.fixture(scope="module")
def validator():
    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(json.loads((FOLDER / PUBLISHED).read_text()))


def test_manifests_fit_the_schema(validator, document):
    validator.validate(document)
    assert len(GOLDEN) >= 2
    for path in GOLDEN:
        validator.validate(json.loads(path.read_text()))


def fields_of(value: object, path: tuple = ()) -> list[tuple]:
    """The paths of all fields and items in a document."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [
            one for key, item in pairs for one in [(*path, key), *fields_of(item, (*path, key))]
        ]
    return []


def at(document: object, path: tuple) -> object:
    for key in path:
        document = document[key]
    return document


def without(document: dict, path: tuple) -> dict:
    altered = copy.deepcopy(document)
    del at(altered, path[:-1])[path[-1]]
    return altered


def having(document: dict, path: tuple, value: object) -> dict:
    altered = copy.deepcopy(document)
    at(altered, path[:-1])[path[-1]] = value
    return altered


ALTERATIONS = [
    ("format",),
    ("digest",),
    ("producer", "jax"),
    ("files", 0, "blake3"),
    ("files", 0, "size"),
    ("programs", 0, "platforms"),
    ("programs", 0, "inputs", 0, "dtype"),
    ("variables", 0, "storage"),
    ("variables", 0, "path", 0, "text"),
    ("functions", 0, "concrete"),
    ("concrete_functions", 0, "result", "kind"),
    ("nodes", 0, "kind"),
]


@pytest.mark.parametrize("path", ALTERATIONS, ids=lambda path: "/".join(map(str, path)))
def test_altered_manifests_do_not_fit_the_schema(validator, document, path):
    for altered in (
        without(document, path),
        having(document, path, {"a": 1}),
        having(document, (*path[:-1], "unknown"), 1),
    ):
        assert not validator.is_valid(altered)
        with pytest.raises(ArtifactError):
            decode(sealed(altered), Path("altered"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), "other"),
        (("format_version",), 3),
        (("format_version",), True),
        (("stablehlo_version",), "1.0"),
        (("digest",), "0" * 63),
        (("content", "programs"), "G" * 64),
        (("signatures", "serving_default"), -1),
        (("variables", 0, "shape", 0), -1),
        (("variables", 0, "shape", 0), 2**63),
        (("variables", 0, "storage"), "pickle"),
        (("programs", 0, "kept_inputs"), [0.5]),
        (("functions", 0, "parameters", 0, "kind"), "positional"),
        (("nodes", 0, "children", 0), None),
    ],
)
def test_values_out_of_range_do_not_fit_the_schema(validator, document, path, value):
    altered = having(document, path, value)
    assert not validator.is_valid(altered)
    with pytest.raises(ArtifactError):
        decode(sealed(altered), Path("altered"))


def test_the_schema_takes_nothing_that_reading_refuses_for_its_types(validator, document):
    """Random documents of the wrong form: the schema and the parser agree on each."""
    chance = random.Random(0)
    odd = [None, 0, -1, 2**63, 0.5, "", "x", [], {}, True, ["x"], {"kind": "array"}]
    for _ in range(100):
        altered = having(document, chance.choice(fields_of(document)), chance.choice(odd))
        try:
            msgspec.json.decode(json.dumps(altered).encode(), type=manifest_file._Stored)
        except msgspec.ValidationError:
            assert not validator.is_valid(altered)
        else:
            constants = {"format": "jax-exporter", "format_version": records.FORMAT_VERSION}
            assert validator.is_valid(altered | constants)


# The page.


def record_classes() -> list[type]:
    known = [records.Record]
    for one in known:
        known += one.__subclasses__()
    return [one for one in known if not one.__name__.startswith("_") and one is not records.Record]


@pytest.mark.parametrize("kind", record_classes(), ids=lambda kind: kind.__name__)
def test_the_page_names_every_field(kind):
    page = (FOLDER / "FORMAT.md").read_text()
    named = set(re.findall(r"`([a-z0-9_]+)`", page)) | set(re.findall(r"`content\.(\w+)`", page))
    missing = [field for field in kind.__struct_fields__ if field not in named]
    assert missing == []


def test_the_page_has_the_numbers_of_the_code():
    from exporter.artifact import soundness

    page = (FOLDER / "FORMAT.md").read_text()
    assert f"# The artifact, format {records.FORMAT_VERSION}\n" in page
    assert f"at most {MAX_MANIFEST_BYTES // 2**20} MiB of JSON" in page
    assert f"less than {soundness._MAX_DEPTH} deep" in page
    assert f"{soundness._MAX_COMPRESSION:,} times" in page
    listed = page.partition("| `bytes` | the dtype is ")[2].partition(", which TensorStore")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == records.AS_BYTES


# The axes, by the grammar of the page.

TOKEN = re.compile(r" [+-] |, |\d+|[A-Za-z_][A-Za-z0-9_]*|[-*^(),]")
FUNCTIONS = {
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "max": max,
    "min": min,
}


def evaluated(axis: str, sizes: dict[str, int]) -> int:
    """A size by the grammar in FORMAT.md, which allows less than users may write."""
    tokens = TOKEN.findall(axis)
    assert "".join(tokens) == axis, axis

    def expression() -> int:
        sign = -1 if tokens[0] == "-" and tokens.pop(0) else 1
        value = sign * term()
        while tokens and tokens[0] in (" + ", " - "):
            value += {" + ": 1, " - ": -1}[tokens.pop(0)] * term()
        return value

    def term() -> int:
        value = factor()
        while tokens and tokens[0] == "*":
            tokens.pop(0)
            value *= factor()
        return value

    def factor() -> int:
        value = atom()
        if tokens and tokens[0] == "^":
            tokens.pop(0)
            power = int(tokens.pop(0))
            assert 2 <= power <= 64
            value **= power
        return value

    def atom() -> int:
        token = tokens.pop(0)
        if token.isdigit():
            return int(token)
        if tokens and tokens[0] == "(":
            assert tokens.pop(0) == "("
            left = expression()
            assert tokens.pop(0) == ", "
            right = expression()
            assert tokens.pop(0) == ")"
            return FUNCTIONS[token](left, right)
        return sizes[token]

    value = expression()
    assert tokens == []
    return value


def axis_texts(document: dict) -> set[str]:
    tensors = [
        tensor
        for owner in (*document["concrete_functions"], *document["programs"])
        for tensor in (*owner["inputs"], *owner["outputs"])
    ]
    return {axis for t in tensors for axis in t["shape"] or () if isinstance(axis, str)}


def test_axes_are_written_by_the_grammar_of_the_page(tmp_path, document):
    import jax
    import jax.numpy as jnp

    class Model:
        @exporter.function(
            input_signature=[exporter.TensorSpec(("a", "2 * (b + 1)")), exporter.TensorSpec(("b",))]
        )
        def f(self, x, y):
            square = x.reshape(x.shape[0] * x.shape[1])
            longest = jax.core.max_dim(x.shape[0], y.shape[0] ** 3)
            return square, jnp.zeros((longest, x.shape[0] // 3)), x[1::2], y[:, None] * y, x[::-2]

    exporter.save(Model(), tmp_path / "model", {})
    model = exporter.load(tmp_path / "model")
    written = json.loads((tmp_path / "model" / "saved_model.json").read_text())
    sizes = {"a": 7, "b": 2}
    results = model.f(np.zeros((7, 6), "f4"), np.zeros(2, "f4"))
    shapes = [output["shape"] for output in written["concrete_functions"][0]["outputs"]]
    for shape, result in zip(shapes, results, strict=True):
        found = tuple(evaluated(a, sizes) if isinstance(a, str) else a for a in shape)
        assert found == result.shape
    assert {"floordiv", "max", "^"} <= set(
        re.findall(r"[a-z]{2,}|\^", " ".join(axis_texts(written)))
    )
    for axis in axis_texts(document):
        assert evaluated(axis, dict.fromkeys(("batch", "n", "_1", "_2", "_3"), 6)) >= 0


# Versions.


def test_a_newer_format_is_refused_with_both_numbers(document):
    newer = having(having(document, ("format_version",), 3), ("unheard",), {"of": []})
    newer["producer"]["jax_exporter"] = "3.1"
    with pytest.raises(FormatVersionError) as caught:
        decode(sealed(newer), Path("models/x/saved_model.json"))
    assert str(caught.value) == (
        "models/x/saved_model.json is written in format 3; this version of jax-exporter reads 1 to "
        "2. It was written by jax-exporter 3.1: install that or a newer one."
    )


def test_a_newer_format_is_refused_whatever_else_is_in_it():
    data = b'{"format":"jax-exporter","format_version":9,"producer":{"jax_exporter":"9.0","x":[]}}'
    with pytest.raises(FormatVersionError, match=r"written in format 9; .* jax-exporter 9\.0"):
        decode(data, Path("x"))
    with pytest.raises(FormatVersionError, match=r"written in format 0; .* jax-exporter \?"):
        decode(b'{"format":"jax-exporter"}', Path("x"))
