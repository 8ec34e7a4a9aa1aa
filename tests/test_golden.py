"""What earlier releases wrote is still read, and computes what it computed then.

`golden/write.py` says how these artifacts were made. None is ever written again.
"""

import json
from collections import namedtuple
from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import jax
import jsonschema
import ml_dtypes  # NumPy learns the names of small floats
import numpy as np
import pytest

import exporter
from exporter.artifact.records import FORMAT_VERSION
from exporter.artifact.schema import PUBLISHED

GOLDEN = Path(__file__).parent / "golden"
ARTIFACTS = sorted(path.parent for path in GOLDEN.glob("*/saved_model.json"))
SCHEMA = Path(exporter.__file__).parent / "artifact" / PUBLISHED

# All results were equal to the bit when these were written. Other processors may fuse products and
# sums: outputs go up to 25, where neighbouring float32 are 1.9e-6 apart, and this is four steps.
# Other types must agree to the bit: integers, and bfloat16, of which each output is one sum.
ATOL = 8e-6

each_since_format_2 = pytest.mark.parametrize(
    "path", [path for path in ARTIFACTS if "format_1_" not in path.name], ids=lambda path: path.name
)
each_artifact = pytest.mark.parametrize("path", ARTIFACTS, ids=lambda path: path.name)


def array(described: dict) -> np.ndarray:
    elements = np.array(described["elements"], np.float64)
    return elements.astype(described["dtype"]).reshape(described["shape"])


def leaves(value: object) -> Iterator[object]:
    """The arrays in a value, those of a dict in its own order."""
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    elif value is not None:
        yield value


def part(model: object, path: str) -> object:
    """`layers.0.apply` of a model."""
    return reduce(
        lambda owner, key: owner[int(key)] if key.isdigit() else getattr(owner, key),
        path.split("."),
        model,
    )


def test_there_is_an_artifact_of_every_format_and_both_releases_of_jax():
    names = {path.name for path in ARTIFACTS}
    expected = {f"format_{version}_jax_0_10" for version in range(1, FORMAT_VERSION + 1)}
    assert names >= expected | {"format_1_jax_0_12", "format_2_jax_0_12"}


@each_artifact
def test_an_earlier_artifact_computes_what_it_did(path):
    model = exporter.load(path)
    for call in json.loads(path.with_suffix(".json").read_text()):
        found = part(model, call["function"])(*map(array, call["inputs"]))
        results = [np.asarray(leaf) for leaf in leaves(found)]
        expected = [array(output) for output in call["outputs"]]
        assert [(a.dtype, a.shape) for a in results] == [(a.dtype, a.shape) for a in expected]
        for one, other in zip(results, expected, strict=True):
            atol = ATOL if one.dtype == np.float32 else 0
            np.testing.assert_allclose(
                one.astype(np.float64), other.astype(np.float64), 0, atol, err_msg=call["function"]
            )


@each_artifact
def test_an_earlier_artifact_has_the_variables_places_and_names_it_had(path):
    model = exporter.load(path)
    layer, mixed = model.layers
    assert model.myself is model
    assert model.alias is layer
    assert layer.bias.name == "bias"
    np.testing.assert_array_equal(layer.kernel, np.arange(12).reshape(3, 4) / 8)
    np.testing.assert_array_equal(layer.bias, [1, -1, 0.5, 2])
    shift = np.asarray(mixed["dotted.key"])
    np.testing.assert_array_equal(shift, np.array([0.5, -2, 3], ml_dtypes.bfloat16))
    assert shift.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(mixed[7][0], [1, 1])
    assert mixed[7][1] is None
    assert model.pair._fields == ("low", "high")
    assert model.pair.low.shape == (0, 3)
    assert model.pair.high.dtype == ml_dtypes.uint4
    np.testing.assert_array_equal(np.asarray(model.pair.high).astype(int), range(5))
    assert model.count.trainable is False
    assert jax.random.key_data(model.key.value).tolist() == [0, 5]
    assert sorted(model.variables) == ["count", "key", "layers", "pair"]
    assert str(model.signatures["serving_default"].signature) == (
        "serving_default(x: float32[2, 3], scale: float32[] = default) -> "
        "(y: float32[2, 4], total: float32[])"
    )
    assert str(model.halves.signature) == (
        "halves(x: int32[n]) -> (output_0: int32[floordiv(n, 2)], output_1: int32[n + 1])"
    )


@each_artifact
def test_an_earlier_artifact_returns_its_containers(path):
    result = exporter.load(path).nested(np.ones(2, np.float32))
    assert list(result) == ["a", 3]
    assert result["a"][1][0] is None
    assert type(result["a"][1]) is tuple
    assert type(result[3]).__name__ == "Pair"
    assert result[3]._fields == ("low", "high")
    assert list(result[3].high) == ["deep"]


@each_artifact
@pytest.mark.parametrize(
    ("size", "problem"),
    [
        (0, "n is at least 2"),
        (3, "n is a multiple of 2"),
        (66, "n is at most 64"),
    ],
)
def test_an_earlier_artifact_keeps_its_bounds(path, size, problem):
    with pytest.raises(exporter.BindError, match=problem):
        exporter.load(path).halves(np.zeros(size, np.int32))


@each_artifact
def test_an_earlier_artifact_can_be_saved_again_and_is_the_same(path, tmp_path):
    model = exporter.load(path)
    exporter.save(model, tmp_path / "again")
    again = exporter.load(tmp_path / "again")
    one, other = model.manifest, again.manifest
    assert other.content.variables == one.content.variables
    assert other.variables == one.variables
    assert other.functions == one.functions
    assert other.concrete_functions == one.concrete_functions
    assert other.signatures == one.signatures
    names = [[program.file.removesuffix(".gz") for program in m.programs] for m in (one, other)]
    assert names[0] == names[1]


@each_artifact
def test_the_manifest_of_an_earlier_artifact_fits_the_published_schema(path):
    document = json.loads((path / "saved_model.json").read_text())
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(document)


@each_since_format_2
def test_its_derivatives_are_those_of_jax(path):
    model = exporter.load(path)
    x = np.array([[1, 2, 3], [-1, 0.5, 4]], np.float32)
    found = jax.grad(lambda given: model.fixed(given)["y"].sum())(x)
    expected = np.broadcast_to(np.asarray(model.layers[0].kernel).sum(1) / 2, (2, 3))
    np.testing.assert_allclose(found, expected, 0, ATOL)


@each_since_format_2
def test_its_samples_file_labels_and_aliases_are_there(path):
    assert exporter.verify(path).ok
    model = exporter.load(path, tags="golden")
    assert Path(model.words).read_text() == "golden\n"
    assert model.metadata == {"labels": ["a", None, 1]}
    assert model.function_aliases["apply"] is model.layers[0].apply


@each_since_format_2
def test_its_objects_come_back_by_their_fields(path):
    Given = namedtuple("Given", "x label")  # noqa: PYI024  # as a process without the class has it
    result = exporter.load(path).moved(Given(np.zeros(2, np.float32), "in"))
    assert result._fields == ("x", "label")
    assert result.label == "out"
    np.testing.assert_array_equal(result.x, [1, 1])


@each_since_format_2
def test_its_constraints_hold_on_a_mesh_and_nowhere_else(path):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x = np.ones((4, 2), np.float32)
    for model in (exporter.load(path), exporter.load(path, mesh=mesh)):
        np.testing.assert_array_equal(model.split(x), 3 * x)
