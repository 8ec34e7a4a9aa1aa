"""Signed artifacts: what fits the signature, what does not, and who else can read it."""

import json
import os
import shutil
import subprocess
import sys

import jax.numpy as jnp
import pytest

import exporter
from exporter import ArtifactError, AuthenticityError, OptionError, TensorSpec
from exporter.cli import main
from exporter.cli.command import Exit

model_signing = pytest.importorskip("model_signing", reason="no artifact was signed")


class Doubler:
    def __init__(self):
        self.two = jnp.full(3, 2.0)

    @exporter.function(input_signature=[TensorSpec((3,), "float32", name="x")])
    def double(self, x):
        return x * self.two


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """The private and the public key of two people, and a key of another kind."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    folder = tmp_path_factory.mktemp("keys")
    made = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("mine", "other")}
    made["rsa"] = rsa.generate_private_key(65537, 2048)
    locked = form.BestAvailableEncryption(b"secret")
    for name, key in made.items():
        for suffix, lock in (("", form.NoEncryption()), (".locked", locked)):
            private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, lock)
            (folder / f"{name}{suffix}").write_bytes(private)
        public = key.public_key().public_bytes(
            form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
        )
        (folder / f"{name}.pub").write_bytes(public)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory, keys):
    folder = tmp_path_factory.mktemp("signed") / "model"
    exporter.save(Doubler(), folder, platforms=("cpu",), samples=[{"x": [1.0, 2.0, 3.0]}])
    exporter.sign(folder, keys / "mine")
    return folder


@pytest.fixture
def signed(original, tmp_path):
    shutil.copytree(original.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "model"


def test_what_was_signed_is_known_by_the_public_key(signed, keys):
    assert exporter.check_signature(signed, keys / "mine.pub") == signed.with_name("model.sig")
    report = exporter.verify(signed, key=keys / "mine.pub")
    assert report.ok
    assert report.part("signer").state == "ok"
    assert exporter.load(signed).double(jnp.ones(3)).tolist() == [2, 2, 2]


def test_a_tool_that_is_not_ours_reads_the_signature(signed, keys):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "model_signing", "verify", "key", signed),
            *("--signature", f"{signed}.sig", "--public_key", keys / "mine.pub"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def changed(folder):
    file = next((folder / "programs").iterdir())
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    return f"programs/{file.name}: "


def added(folder):
    (folder / ".git").mkdir()
    (folder / ".git" / "hook").write_text("run me")
    return ".git/hook was added"


def removed(folder):
    next((folder / "samples").iterdir()).unlink()
    return "samples/0.bin: missing"


def replaced(folder):
    """Another artifact in the place of the first: all its digests fit."""
    exporter.save(Doubler(), folder, platforms=("cpu",), overwrite=True)
    return "saved_model.json is another one"


@pytest.mark.parametrize("tamper", [changed, added, removed, replaced])
def test_tampering_is_caught_and_nothing_is_run(signed, keys, tamper, capsys):
    found = tamper(signed)
    with pytest.raises(AuthenticityError) as caught:
        exporter.check_signature(signed, keys / "mine.pub")
    assert f"{signed} is not what the holder of" in str(caught.value)
    assert found in str(caught.value)
    assert main(["verify", str(signed), "--key", str(keys / "mine.pub"), "--json"]) == Exit.NO
    states = {part["name"]: part["state"] for part in json.loads(capsys.readouterr().out)["parts"]}
    assert states.pop("signer") == "failed"
    assert set(states.values()) == {"none"}


def test_a_signature_of_somebody_else_or_a_damaged_one_does_not_fit(signed, keys):
    with pytest.raises(AuthenticityError, match="is not what the holder of"):
        exporter.check_signature(signed, keys / "other.pub")
    file = signed.with_name("model.sig")
    whole = file.read_text()
    for text in (whole[:100], "{}", "[]", "", whole.replace("publicKey", "x509CertificateChain")):
        file.write_text(text)
        with pytest.raises(AuthenticityError):
            exporter.check_signature(signed, keys / "mine.pub")
    file.unlink()
    with pytest.raises(ArtifactError, match="has no signature at"):
        exporter.check_signature(signed, keys / "mine.pub")


@pytest.mark.parametrize("key", ["mine.pub", "rsa", "mine.locked", "absent", "."])
def test_a_key_that_cannot_sign_is_named(signed, keys, key):
    with pytest.raises(OptionError, match=f"{keys / key}.*PEM file"):
        exporter.sign(signed, keys / key, overwrite=True)
    with pytest.raises(OptionError, match=f"{keys / 'rsa.pub'}.*public key"):
        exporter.check_signature(signed, keys / "rsa.pub")


def test_the_command_signs_with_a_locked_key_and_never_overwrites(
    signed, keys, monkeypatch, capsys
):
    monkeypatch.setenv("EXPORTER_KEY_PASSWORD", "secret")
    words = ["sign", str(signed), "--key", str(keys / "other.locked")]
    assert main(words) == Exit.UNUSABLE
    assert "model.sig is there already" in capsys.readouterr().err
    exporter.check_signature(signed, keys / "mine.pub")
    assert main([*words, "--overwrite"]) == Exit.DONE
    exporter.check_signature(signed, keys / "other.pub")
    assert main([*words, "--signature", str(signed / "mine.sig")]) == Exit.UNUSABLE
    assert "Choose one outside" in capsys.readouterr().err
    assert not (signed / "mine.sig").exists()


def test_a_folder_that_cannot_be_listed_is_not_passed_over(signed, keys, monkeypatch, capsys):
    listed = os.scandir

    def refuse(path):
        if str(path).endswith("variables"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    expected = "variables cannot be listed: Permission denied"
    with pytest.raises(ArtifactError, match=expected):
        exporter.sign(signed, keys / "mine", overwrite=True)
    with pytest.raises(ArtifactError, match=expected):
        exporter.verify(signed, key=keys / "mine.pub")
    assert main(["scan", str(signed)]) == Exit.UNUSABLE
    assert expected in capsys.readouterr().err


def test_a_damaged_artifact_is_not_signed(signed, keys):
    next((signed / "programs").iterdir()).write_bytes(b"other")
    with pytest.raises(ArtifactError, match="programs"):
        exporter.sign(signed, keys / "mine", overwrite=True)


def test_keys_that_cannot_be_used_say_why(signed, keys):
    with pytest.raises(OptionError, match="it is a key of another kind"):
        exporter.sign(signed, keys / "rsa", overwrite=True)
    with pytest.raises(OptionError, match=r"\$EXPORTER_KEY_PASSWORD"):
        exporter.sign(signed, keys / "mine.locked", overwrite=True)
    with pytest.raises(exporter.ArtifactExistsError, match="is a folder"):
        exporter.sign(signed, keys / "mine", signed.parent, overwrite=True)
