"""Small named damages to a good artifact, some by accident, some by an author who means harm.

A harmful author computes every digest anew, so that nothing but the content itself can give the
damage away. No damaged folder is kept: each is made from a golden artifact when it is needed.
"""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tensorstore as ts
from jax import export
from jax._src.interpreters import mlir
from jaxlib.mlir import ir

from exporter.artifact.layout import MANIFEST, record_files
from exporter.artifact.manifest import digest_of

GOOD = Path(__file__).parents[1] / "golden" / "format_1_jax_0_10"

Document = dict[str, Any]


def copy_to(folder: Path) -> Path:
    """A copy of the good artifact."""
    return Path(shutil.copytree(GOOD, folder))


def read_manifest(folder: Path) -> Document:
    """The manifest as JSON has it."""
    return json.loads((folder / MANIFEST).read_text())


def seal(folder: Path, document: Document | None = None, *, files: bool = True) -> None:
    """Write the manifest with every digest made anew, those of files too unless told otherwise."""
    document = read_manifest(folder) if document is None else document
    document.pop("digest", None)
    if files:
        document["files"] = [vars(record) for record in record_files(folder)]
    (folder / MANIFEST).write_text(json.dumps({"digest": digest_of(document), **document}))


def change(folder: Path, edit: Callable[[Document], object]) -> None:
    """Edit the manifest as JSON and make its digest anew. Files and what it says of them stay."""
    document = read_manifest(folder)
    edit(document)
    seal(folder, document, files=False)


def replace_program(folder: Path, name: str, bytecode: bytes) -> None:
    """Put other bytes in the place of a program, with all digests right."""
    (folder / "programs" / f"{name}.mlirbc").write_bytes(bytecode)
    seal(folder)


def unknown_custom_call() -> bytes:
    """A program from float32[2] that JAX itself exported, with its safety check off."""

    def call(x: jax.Array) -> jax.Array:
        return jax.ffi.ffi_call("run_anything", jax.ShapeDtypeStruct((2,), jnp.float32))(x)

    check = export.DisabledSafetyCheck.custom_call("run_anything")
    exported = export.export(jax.jit(call), platforms=["cpu"], disabled_checks=[check])(
        jax.ShapeDtypeStruct((2,), jnp.float32)
    )
    return bytes(exported.mlir_module_serialized)


def bytecode_of(text: str) -> bytes:
    """Bytecode that is no portable artifact, of operations of any dialect that JAX knows."""
    with mlir.make_ir_context():
        file = io.BytesIO()
        ir.Module.parse(text).operation.write_bytecode(file)
        return file.getvalue()


def main_function(body: str) -> bytes:
    """Bytecode of a main function from float32[2] to float32[2]."""
    return bytecode_of(
        "module { func.func public @main(%arg0: tensor<2xf32>) -> tensor<2xf32> {"
        f" {body} return %0 : tensor<2xf32> }} }}"
    )


def rewrite_array(folder: Path, key: str, **metadata: object) -> None:
    """Change what the checkpoint says of an array, and nothing of its content."""
    database = {"driver": "ocdbt", "base": f"file://{folder}/variables/"}
    store = ts.KvStore.open(database).result()
    described = json.loads(store.read(f"{key}/.zarray").result().value)
    store.write(f"{key}/.zarray", json.dumps(described | metadata).encode()).result()
    seal(folder)


def write_in_checkpoint(folder: Path, key: str, value: bytes | None) -> None:
    """Put other bytes under a key of the checkpoint, or remove it."""
    database = {"driver": "ocdbt", "base": f"file://{folder}/variables/"}
    ts.KvStore.open(database).result().write(key, value).result()
    seal(folder)
