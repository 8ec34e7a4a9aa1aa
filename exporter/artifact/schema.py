"""The published JSON Schema of the manifest, made from the classes that read it.

    python -m exporter.artifact.schema > exporter/artifact/manifest.schema.json

It says what fields there are and of what types. `soundness.py` has the rules that a schema cannot
express: what refers to what, and what must agree.
"""

import inspect
import json
import sys
from typing import Any

import msgspec

from exporter.artifact.records import (
    FORMAT,
    FORMAT_VERSION,
    OLDEST_FORMAT_VERSION,
    Digest,
    Manifest,
)
from exporter.artifact.stages import KINDS

PUBLISHED = "manifest.schema.json"


def schema() -> dict[str, Any]:
    """The JSON Schema of a manifest's file."""
    options = {key: kind for key, (kind, _) in KINDS.items()}
    types = (Manifest, Digest, *options.values())
    (_, digest, *_), parts = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    for part in parts.values():
        part["description"] = inspect.cleandoc(part["description"]).split("\n\n")[0]
        part["additionalProperties"] = False
    parts["StageRecord"]["allOf"] = [
        {
            "if": {"properties": {"kind": {"const": kind}, "version": {"const": version}}},
            "then": {"properties": {"options": {"$ref": f"#/$defs/{own.__name__}"}}},
        }
        for (kind, version), own in options.items()
    ]
    top = parts.pop("Manifest")
    described = {**digest, "description": "The BLAKE3 digest of everything else in the manifest."}
    top["title"] = f"The manifest of a {FORMAT} artifact, format {FORMAT_VERSION}"
    top["properties"] = {"digest": described, **top["properties"]}
    top["properties"]["format"] = {"const": FORMAT}
    versions = list(range(OLDEST_FORMAT_VERSION, FORMAT_VERSION + 1))
    top["properties"]["format_version"] = {"enum": versions}
    top["required"] = ["digest", *top["required"]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **top, "$defs": parts}


def text() -> str:
    """The content of the published file."""
    return json.dumps(schema(), indent=1, sort_keys=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
