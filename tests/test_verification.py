"""The verdict on each part of an artifact, whatever is wrong with the others."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hostile.damage import change, seal

import exporter
from exporter import Asset, TensorSpec, function
from exporter.artifact.layout import unrecorded_files
from exporter.cli import main

X = np.arange(4, dtype=np.float32)
PARTS = ("manifest", "files", "programs", "variables", "samples")


class Model:
    def __init__(self, words):
        self.words = Asset(words)
        self.w = jnp.arange(4, dtype=jnp.float32)

    @function(input_signature=[TensorSpec((4,), "float32", name="x")])
    def scale(self, x):
        return x * self.w

    @function(input_signature=[TensorSpec((4,), "float32", name="x")])
    def double(self, x):
        return 2 * x


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verified")
    (folder / "words.txt").write_text("one two")
    model = Model(folder / "words.txt")
    both = {"scale": model.scale, "double": model.double}
    samples = {name: [{"x": X}] for name in both}
    exporter.save(model, folder / "m", both, platforms=("cpu",), samples=samples)
    return folder / "m"


@pytest.fixture
def copy(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(saved, "m"))


def first(folder: Path, below: str) -> Path:
    return min(path for path in (folder / below).rglob("*") if path.is_file())


def cut(below):
    """The first file of a part loses its last byte."""

    def damage(folder):
        file = first(folder, below)
        file.write_bytes(file.read_bytes()[:-1])
        return file.relative_to(folder).as_posix()

    return damage


def edited(edit, name):
    def damage(folder):
        change(folder, edit)
        return name

    return damage


def older(manifest):
    manifest["programs"][0]["calling_convention_version"] = 99


def newer(manifest):
    manifest["stablehlo_version"] = "9.0.0"


def on_another(manifest):
    manifest["platforms"] = ["tpu"]
    for program in manifest["programs"]:
        program["platforms"] = ["tpu"]


def altered_manifest(folder):
    file = folder / "saved_model.json"
    file.write_text(file.read_text().replace('"double"', '"treble"'))
    return "saved_model.json"


@pytest.mark.parametrize(
    ("damage", "states"),
    [
        (cut("programs"), "ok failed failed ok none"),
        (cut("variables"), "ok failed ok failed none"),
        (cut("samples"), "ok failed ok ok failed"),
        (cut("assets"), "ok failed ok ok ok"),
        (altered_manifest, "failed none none none none"),
        (edited(older, "m/programs/scale.mlirbc.gz calls its programs by"), "ok ok failed ok none"),
        (edited(on_another, "m runs on tpu, and JAX uses cpu here"), "ok ok failed ok none"),
        (edited(newer, "m needs StableHLO 9.0.0"), "ok ok failed ok none"),
    ],
)  # fmt: skip
def test_damage_is_named_and_what_can_still_be_judged_is_judged(copy, capsys, damage, states):
    name = damage(copy)
    report = exporter.verify("m")
    assert {part.name: part.state for part in report.parts} == dict(
        zip(PARTS, states.split(), strict=True)
    )
    for part in report.parts:
        assert (part.state == "failed") == bool(part.problems)
    assert report.failed == tuple(
        part for part, state in zip(PARTS, states.split(), strict=True) if state == "failed"
    )
    assert any(name in problem for part in report.parts for problem in part.problems)
    with pytest.raises(exporter.VerificationError) as raised:
        report.raise_if_failed()
    assert name in str(raised.value)
    assert main(["verify", "m"]) == 3
    assert capsys.readouterr() == (f"{report}\n", "")
    assert main(["verify", "m", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_one_damaged_sample_keeps_no_other_from_being_run(copy):
    (copy / "samples/1.bin").unlink()
    one, other = exporter.verify("m").samples
    assert one.ok
    assert not other.ok
    assert other.problem == "samples/1.bin is damaged"


def test_what_no_digest_covers_is_told_and_is_no_failure(copy, capsys):
    (copy / "notes\x1b[2J.txt").write_text("")
    (copy / "assets/inner").mkdir()
    (copy / "assets/inner/more").write_text("")
    (copy / "elsewhere").symlink_to("..")
    report = exporter.verify("m")
    assert report.ok
    assert report.extra_files == ("assets/inner/more", "elsewhere", "notes\x1b[2J.txt")
    assert main(["verify", "m"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "note: no digest covers notes\\u001b[2J.txt"


def test_a_folder_that_is_a_link_to_recorded_files_is_not_extra(copy):
    (copy / "assets").rename("assets-elsewhere")
    (copy / "assets").symlink_to(Path("assets-elsewhere").resolve())
    report = exporter.verify("m")
    assert report.ok
    assert report.extra_files == ()
    assert unrecorded_files(copy, []) == tuple(
        sorted(
            path.relative_to(copy).as_posix()
            for path in copy.rglob("*")
            if path.is_symlink() or (path.is_file() and path.name != "saved_model.json")
        )
    )


def test_what_is_no_artifact_is_refused(copy, capsys):
    Path("empty").mkdir()
    for name in ("empty", "absent", "m/saved_model.json"):
        assert main(["verify", name]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
    change(copy, lambda manifest: manifest.update(format_version=99))
    assert main(["verify", "m"]) == 1
    assert "is written in format 99" in capsys.readouterr().err


def test_a_sample_that_cannot_be_run_says_why(copy, monkeypatch):
    def fail(*_):
        raise RuntimeError("no room\nfor this")

    monkeypatch.setattr("exporter.replay._call", fail)
    report = exporter.verify("m")
    assert [one.problem for one in report.samples] == ["RuntimeError: no room for this"] * 2
    assert report.failed == ("samples",)


def test_the_json_of_a_report_holds_what_json_lacks_as_text(copy):
    file = copy / "samples/0.bin"
    data = bytearray(file.read_bytes())
    data[16:20] = np.float32("nan").tobytes()  # the first element of what was returned
    file.write_bytes(data)
    seal(copy)
    document = json.loads(exporter.verify("m").to_json(), parse_constant=pytest.fail)
    (compared,) = document["samples"][0]["comparisons"]
    assert (compared["ok"], compared["wrong"]) == (False, 1)
    assert (compared["first"], compared["expected"], compared["found"]) == ([0], "NaN", 0)
    assert compared["largest"] == "Infinity"


def test_progress_is_told(saved):
    told = []
    exporter.verify(saved, progress=lambda *words: told.append(words))
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages == ["files", "programs", "samples"]
    for stage in stages:
        counts = [(done, count) for name, done, count in told if name == stage]
        assert counts == [(done, counts[0][1]) for done in range(counts[0][1] + 1)]
