"""Models split over meshes of 1 to 8 devices, written on some and read on others."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import on_eight_devices as program
import pytest

import exporter
from exporter import TensorSpec


class Single:
    def __init__(self) -> None:
        self.w = exporter.Variable(program.W1)
        self.b = exporter.Variable(np.float32(2))

    @exporter.function(input_signature=[TensorSpec(("batch", 8), "float32", name="x")])
    def f(self, x):
        return x @ self.w.value + self.b.value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("meshes")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    """What `on_eight_devices.py` saw."""
    exporter.save(Single(), folder / "single", platforms=("cpu",))
    done = subprocess.run(
        [sys.executable, program.__file__, str(folder), str(folder / "single")],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "PYTHONWARNINGS": "error",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


SHARDS = {
    "tensor": {1: [8, 16], 2: [8, 16], 4: [8, 8], 8: [8, 4]},
    "data": {1: [8, 16], 2: [8, 16], 4: [8, 16], 8: [8, 16]},
    "full": {1: [8, 16], 2: [4, 16], 4: [2, 16], 8: [1, 16]},
}


@pytest.mark.parametrize("layout", SHARDS)
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_a_model_gives_the_same_on_any_number_of_devices(found, layout, devices):
    assert found["layouts"][f"{layout} {devices}"] == {
        # For NumPy, for an uncommitted array, one that is split alike, one on another device, and
        # for a batch that the devices cannot share equally.
        "equal": [True] * 5,
        "step": True,
        "devices": devices,
        "shard": SHARDS[layout][devices],
    }


@pytest.mark.parametrize("layout", SHARDS)
def test_what_eight_devices_wrote_is_read_on_one(found, folder, layout):
    assert len(jax.devices()) == 1
    loaded = exporter.load(folder / layout)
    want = np.maximum(program.X @ program.W1, 0) @ program.W2
    np.testing.assert_allclose(loaded(program.X), want, rtol=1e-5, atol=1e-5)


def test_state_stays_where_it_is_and_its_buffer_is_donated(found):
    state = found["state"]
    both = ["('data', 'model')"]
    assert (state["same"], state["calls"], state["was donated"]) == (True, 10, True)
    assert state["specs"] == {
        "w1": both,
        "w2": both,
        "cache": both,
        "keys": both,
        "small": both,
        "empty": both,
        "calls": [],
    }


def test_what_is_assigned_from_outside_is_split_as_what_was_there(found):
    assert found["state"]["assigned"] == [["('data', 'model')"], ["('data', 'model')"]]


def test_a_loaded_model_is_saved_again_with_its_specs(found):
    both = [["data", "model"]]
    again = found["state"]["again"]
    assert again.pop("calls") is None
    assert list(again.values()) == [both] * 6


def test_the_content_id_does_not_depend_on_how_arrays_are_split(found):
    assert len(set(found["state"]["id"])) == 1


def test_constraints_hold_where_the_mesh_has_their_axes_and_are_nothing_elsewhere(found):
    seen = found["constraints"]
    # On the writer's mesh, on one with another axis, one with more axes, one of three devices that
    # do not divide the array, and on one device.
    assert seen["split"] == [["data"], [], ["data"], [], ["one device"]]
    assert seen["split equal"] == [True] * 5
    # To be whole on each device names no axis, so every mesh has those of this constraint. Its
    # input is split over the first axis.
    assert seen["whole"] == [[], [], [], [], ["one device"]]
    assert seen["whole equal"] == [True] * 5
    assert seen["text"] == 2  # one in the body of the loop
    assert (seen["text neutral"], seen["text plain"]) == (0, 0)


def test_a_function_that_computes_shard_by_shard_runs_on_its_mesh(found):
    seen = found["constraints"]
    assert seen["shards"] == ["None", "model"]
    assert seen["shards equal"]
    assert seen["programs"] == {
        "programs/split.mlirbc.gz": [["data"], []],
        "programs/whole.mlirbc.gz": [[], []],
        "programs/shards.mlirbc.gz": [[], [["data", 4], ["model", 2]]],
    }


def test_and_on_no_other_where_the_error_names_both(found):
    start = (
        "IncompatibleRuntimeError: shards uses jax.shard_map, and so runs on a mesh of "
        "the same axes and sizes as when it was saved: (data=4, model=2). The model was loaded "
        "with "
    )
    end = (
        ". Load it with mesh=jax.make_mesh((4, 2), ('data', 'model')); its other functions run "
        "here."
    )
    assert found["constraints"]["shards elsewhere"] == [
        f"{start}no mesh{end}",
        f"{start}a mesh (data=2, model=2, more=2){end}",
    ]


def test_models_of_explicit_meshes_are_traced_without_their_types(found):
    assert found["explicit"] == {
        "inside": [True, True],
        "reshards": [["data"], True],
        "plain": [["None", "model"], True],
        "asserts": [["data"], True],
        "one device": [True, True],
    }


@pytest.mark.parametrize(
    ("choice", "places"),
    [
        ("tree", [["shard"], [], True]),
        ("rule", [["shard"], [], True]),
        ("device", [["one device"], ["one device"], True]),
        ("default device", True),
        ("mesh", [[], []]),
    ],
)
def test_the_reader_may_choose_where_variables_go(found, choice, places):
    assert found["choices"][choice] == places


_ADVICE = (
    "Give a jax.sharding.NamedSharding or SingleDeviceSharding for all, a tree of them in the "
    "shape of the model's variables, or a function (path, shape, dtype) of them."
)
_PLACED = "PlacementError: the variables cannot be placed as sharding= says:"


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (
            "two",
            "PlacementError: load was given mesh= and device=, which each say where the variables "
            "go. Give one of them.",
        ),
        (
            "no mesh",
            "PlacementError: mesh= is 'data' (str). Expected a jax.sharding.Mesh, such as "
            "jax.make_mesh((4, 2), ('data', 'model')) gives.",
        ),
        (
            "no sharding",
            "PlacementError: sharding= is 3 (int). Expected a jax.sharding.Sharding, a tree of "
            "them in the shape of the model's variables, or a function that gives one.",
        ),
        (
            "rank",
            f"{_PLACED}\n  b: float32[] has fewer axes than P('shard',)\n{_ADVICE}",
        ),
        (
            "unknown",
            "PlacementError: sharding= has places for:\n  v: not a variable\n"
            "The variables are: w, b.",
        ),
        (
            "spec",
            f"{_PLACED}\n  w: expected a sharding, got P('shard',)\n{_ADVICE}",
        ),
        (
            "apart",
            f"{_PLACED}\n  they lie on other devices than each other, and a program runs on one set"
            f"\n{_ADVICE}",
        ),
        ("empty", f"{_PLACED}\n  there is none in it\n{_ADVICE}"),
    ],
)
def test_what_cannot_be_placed_is_refused(found, attempt, message):
    assert found["choices"][attempt] == message


def test_a_mesh_without_the_axes_is_refused_naming_every_variable(found):
    text = found["choices"]["lacks"]
    assert text.startswith(
        "PlacementError: the variables cannot be split over the mesh (shard=8) as they were when "
        "they were saved:\n"
        "  w1: axis 0 was split over 'data', 'model', which the mesh does not have\n"
        "  w2: axis 0 was split over 'data', 'model', which the mesh does not have\n"
        "  cache: "
    )
    assert text.endswith(
        "\nLoad with a mesh that has these axes in sizes that divide, or say with sharding= where "
        "each variable goes."
    )
    assert (
        "  w1: axis 0 has size 8, which 'data' and 'model' cannot split in 3 equal parts\n"
        in found["choices"]["divides"]
    )


def test_an_input_on_more_devices_than_the_model_is_named(found):
    text = found["choices"]["input"]
    assert text.startswith(
        "PlacementError: f has inputs on other devices than the variables, which are on "
    )
    assert "\n  x: NamedSharding(" in text
    assert text.endswith(
        "\nLoad the model with mesh= to run it on the devices of that mesh, or give arrays of "
        "NumPy."
    )


@pytest.mark.parametrize("when", ["before", "after"])
def test_variables_that_were_moved_take_calls_along_and_are_named_when_apart(found, when):
    assert found["moved"][when] == [True, True]
    assert re.sub(r"Sharding\([^)]*id=(\d)\)[^)]*\)", r"\1", found["moved"][f"apart {when}"]) == (
        "PlacementError: f uses variables that lie on other devices than each other:\n"
        "  w: SingleDevice4\n"
        "  b: SingleDevice0\n"
        "Move all of them, as in model.variables = jax.device_put(model.variables, device)."
    )


def test_what_no_reader_could_run_is_refused_when_saving(found):
    texts = {name: re.sub(r"/\S+:\d+", "PLACE", text) for name, text in found["refused"].items()}
    assert texts == {
        "two meshes": "LoweringError: twice cannot be a portable program: it computes shard by "
        "shard on more than one mesh: data=4, model=2 and other=8.",
        "pmap": "LoweringError: doubled uses jax.pmap at PLACE, which runs on the devices of the "
        "process that traces it. Use jax.vmap, and split the arrays over a mesh; or jax.shard_map "
        "over a mesh with names.",
    }


def test_what_is_split_is_shown(found, folder):
    from exporter.artifact.manifest import read
    from exporter.runtime.describe import describe

    shown = describe(read(folder / "constrained"))
    assert "  runs on a mesh of data=4 and model=2 only" in shown
    shown = describe(read(folder / "full"), variables=True)
    assert re.search(r"\n  w1 +float32\[8, 16\].* split \(data\+model\)\n", shown), shown
    assert re.search(r"\n  calls +int32.* Variable\n?$", shown, re.MULTILINE), shown


def test_compiled_programs_are_kept_for_the_devices_that_they_run_on(found):
    placed = [True, True, True]
    assert found["executables"] == {
        "mesh": placed,
        "reversed": placed,
        "fifth": placed,
        "other key": True,
    }
