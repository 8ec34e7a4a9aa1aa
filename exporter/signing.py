"""Who an artifact is from: signed with a private key, and checked with the public one.

The signature is that of OpenSSF Model Signing: a Sigstore bundle with the digest of every file of
the folder, made by the `model-signing` package and readable by any tool that knows the format. It
lies beside the folder and not in it, so that the artifact stays as it is. Keys are PEM files of
elliptic curves (P-256, P-384, P-521), such as `openssl ecparam -name prime256v1 -genkey` makes.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from exporter.artifact.layout import MANIFEST, as_path, unrecorded_files, verify
from exporter.artifact.manifest import read as read_manifest
from exporter.errors import (
    ArtifactError,
    ArtifactExistsError,
    ArtifactNotFoundError,
    AuthenticityError,
    MissingExtraError,
    OptionError,
)

# What the package's own command expects. BLAKE3 is faster, but others would not look for it.
_DIGEST = "sha256"

# What comes of a file that is no key, of one that is locked, and of one of another kind.
_NO_KEY = (ValueError, TypeError, AttributeError)


def sign(
    path: str | os.PathLike[str],
    key: str | os.PathLike[str],
    signature: str | os.PathLike[str] | None = None,
    *,
    password: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Sign an artifact: every file in the folder, with a private key.

    Args:
      path: an artifact. It is not changed.
      key: a PEM file with the private key of an elliptic curve.
      signature: the file to write, by default the path of the folder followed by `.sig`.
      password: of the key, if it has one.
      overwrite: whether a file that is there already is replaced.

    Returns:
      The file with the signature.

    Raises:
      MissingExtraError: if `model-signing` is not installed.
      ArtifactError: if the artifact at `path` is damaged, or a folder in it cannot be listed.
      ArtifactExistsError: if the signature is there already.
      OptionError: if the key cannot be used, or the signature would lie in the folder.
    """
    package = _package()
    folder, private = as_path("path", path), as_path("key", key)
    verify(folder, read_manifest(folder).files)
    unrecorded_files(folder, ())  # everything can be listed
    file = _beside(folder, signature)
    if file.is_dir():
        raise ArtifactExistsError(f"{file} is a folder. Choose another file.", [str(file)])
    if os.path.lexists(file) and not overwrite:
        raise ArtifactExistsError(
            f"{file} is there already. Pass overwrite=True (--overwrite) to replace it, or choose "
            "another file.",
            [str(file)],
        )
    try:
        signer = package.signing.Config().use_elliptic_key_signer(
            private_key=_key_file(private), password=password and password.encode()
        )
    except _NO_KEY as error:
        raise _unusable(private, "private", error) from error
    signer.set_hashing_config(_digests(package))
    with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as scratch:
        whole = Path(scratch, file.name)
        try:
            signer.sign(folder, whole)
        except ValueError as error:  # a link in the folder
            raise AuthenticityError(f"{folder} cannot be signed: {error}") from error
        whole.replace(file)
    return file


def check_signature(
    path: str | os.PathLike[str],
    key: str | os.PathLike[str],
    signature: str | os.PathLike[str] | None = None,
) -> Path:
    """Check that every file of an artifact is what the holder of a key signed, and none came since.

    Nothing of the artifact is read but for its digest.

    Args:
      path: the artifact.
      key: a PEM file with the public key.
      signature: the file with the signature, by default the path of the folder followed by `.sig`.

    Returns:
      The file with the signature.

    Raises:
      MissingExtraError: if `model-signing` is not installed.
      ArtifactNotFoundError: if there is no artifact or no signature.
      OptionError: if the key cannot be used.
      AuthenticityError: if the signature is another key's, is damaged, or does not fit the folder:
        it names the files that differ.
    """
    package = _package()
    folder, public = as_path("path", path), as_path("key", key)
    if not (folder / MANIFEST).is_file():
        raise ArtifactNotFoundError(f"there is no artifact at {folder}: it has no {MANIFEST}.")
    file = _beside(folder, signature)
    if not file.is_file():
        raise ArtifactNotFoundError(
            f"{folder} has no signature at {file}. Ask whoever made it, or name the file."
        )
    try:
        verifier = package.verifying.Config().use_elliptic_key_verifier(
            public_key=_key_file(public)
        )
    except _NO_KEY as error:
        raise _unusable(public, "public", error) from error
    verifier.set_hashing_config(_digests(package))
    unrecorded_files(folder, ())  # everything can be listed
    try:
        verifier.verify(folder, file)
    except Exception as error:  # a damaged bundle fails in many ways
        text = " ".join(str(error).split()) or type(error).__name__
        is_read = text.startswith("Signature mismatch")
        reasons = _changes(folder) if is_read else [f"{file} is damaged, or another's: {text}"]
        lines = "".join(f"\n  {reason}" for reason in reasons)
        raise AuthenticityError(
            f"{folder} is not what the holder of {public} signed in {file}:{lines}", reasons
        ) from error
    return file


def _changes(folder: Path) -> list[str]:
    """What came to a folder after it was signed, as far as its own digests tell."""
    found: list[str] = []
    try:
        files = read_manifest(folder).files
    except ArtifactError as error:
        return [str(error)]
    try:
        verify(folder, files)
    except ArtifactError as error:
        found += error.problems or [str(error)]
    found += [f"{name} was added" for name in unrecorded_files(folder, files)]
    return found or [f"{MANIFEST} is another one. It may be that files were changed with it"]


def _package() -> Any:
    try:
        import model_signing
    except ImportError as error:
        raise MissingExtraError(
            "signatures of artifacts need the package model-signing, which is not installed: "
            "pip install 'jax-exporter[sign]'"
        ) from error
    return model_signing


def _digests(package: Any) -> Any:
    """Every file counts, those of Git as well: none may be added unseen."""
    config = package.hashing.Config().use_file_serialization(hashing_algorithm=_DIGEST)
    return config.set_ignored_paths(paths=(), ignore_git_paths=False)


def _beside(folder: Path, signature: str | os.PathLike[str] | None) -> Path:
    """The file of the signature, which must not be one of those that are signed."""
    whole = folder.absolute()
    file = (
        as_path("signature", signature)
        if signature is not None
        else whole.with_name(f"{whole.name}.sig")
    )
    if file.resolve().is_relative_to(folder.resolve()):
        raise OptionError(
            f"the signature {file} would be a file of {folder}, which it signs. Choose one outside."
        )
    return file


def _key_file(key: Path) -> Path:
    if not key.is_file():
        raise OptionError("it does not exist, or is no file")
    return key


def _unusable(key: Path, kind: str, error: Exception) -> OptionError:
    if isinstance(error, AttributeError):
        reason = "it is a key of another kind"
    elif isinstance(error, TypeError) and "assword" in str(error):
        reason = "it is locked. Give its password, in a shell as $EXPORTER_KEY_PASSWORD"
    else:
        reason = " ".join(str(error).split())
    return OptionError(
        f"{key} cannot be used as a {kind} key: {reason.rstrip('.')}. Expected a PEM "
        f"file with the {kind} key of an elliptic curve (P-256, P-384 or P-521)."
    )
