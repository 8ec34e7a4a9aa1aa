"""Two processes of one `jax.distributed` run that save and load one artifact together."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import on_two_processes as program
import pytest

import exporter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("distributed") / "artifacts"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    """What each of the two processes of `on_two_processes.py` saw."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PYTHONWARNINGS": "error",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    running = [
        subprocess.Popen(
            [sys.executable, program.__file__, str(process), str(port), str(folder)],
            cwd=folder.parent,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    try:
        printed = [process.communicate(timeout=240)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], "\n".join(printed)
    return [json.loads(folder.with_suffix(f".{n}.json").read_text()) for n in range(2)]


@pytest.fixture(scope="module")
def original() -> program.Network:
    return program.Network(None)


def test_both_get_what_one_process_computes(found, original):
    want = [np.asarray(original.f(program.X)) for _ in range(3)]
    for one in found:
        np.testing.assert_allclose(one["outputs"], want, rtol=1e-5)


def test_state_stays_spread_over_the_processes(found):
    assert [one["calls"] for one in found] == [["P('data',)", False]] * 2


def test_each_reads_only_the_parts_that_its_devices_hold(found):
    assert [one["parts"] for one in found] == [[[4, 2], [4, 2]]] * 2


def test_the_artifact_is_read_by_one_process_on_one_device(found, folder):
    loaded = exporter.load(folder / "model")
    np.testing.assert_allclose(loaded.f(program.X), found[0]["outputs"][0], rtol=1e-5)
    specs = {record.key[0]: record.partition_spec for record in loaded.manifest.variables}
    assert specs["w"] == ["data", "model"]
    assert (specs["b"], specs["own"], specs["calls"]) == (None, None, ["data"])


def test_the_content_ids_are_those_of_a_single_process(found, folder, tmp_path):
    exporter.save(program.Network(None), tmp_path / "alone", platforms=("cpu",))
    alone = exporter.load(tmp_path / "alone").manifest.content
    assert exporter.load(folder / "model").manifest.content == alone


def test_values_assigned_in_both_are_used_and_saved_again(found):
    ones = np.asarray(found[0]["outputs"][2])
    want = ones + 1 - 6 + 4  # b is one more, the three twos are gone, there was one more call
    np.testing.assert_allclose(found[0]["assigned"], want, rtol=1e-5)
    for one in found:
        np.testing.assert_allclose(one["alone"], want + 4, rtol=1e-5)


def test_an_error_in_one_process_ends_the_other_too_and_leaves_nothing(found):
    assert [one["fails"] for one in found] == [
        "ArtifactError: process 1 of 2 failed while tracing its functions, so nothing is saved. "
        "Its own error says why.",
        "RuntimeError: this process cannot",
    ]
    assert [one["left"] for one in found] == [[], []]


def test_what_is_there_already_is_refused_in_both(found, folder):
    message = (
        f"ArtifactExistsError: cannot save to '{folder / 'model'}': there is an artifact already. "
        "Pass overwrite=True, or save to another path."
    )
    assert [one["exists"] for one in found] == [message] * 2
