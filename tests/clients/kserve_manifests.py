"""What is applied to a cluster, against the schema that KServe publishes as classes.

    python tests/clients/kserve_manifests.py FILE...

Each field must be one of the schema, of its type, and none that is required may be missing. It ends
with an error if that is not so.
"""

import re
import sys
from pathlib import Path

FILES = sys.argv[1:]
del sys.argv[1:]  # kserve reads the words of whoever imports it

import kserve.models  # noqa: E402  # see above
import kubernetes.client.models  # noqa: E402
import yaml  # noqa: E402

KINDS = {
    "ClusterServingRuntime": "V1alpha1ClusterServingRuntime",
    "InferenceService": "V1beta1InferenceService",
}
PLAIN = {"str": str, "int": int, "bool": bool, "float": float, "object": object}


def checked(value, kind, where):
    """The value as an object of that kind of the schema, or an error that says where it is none."""
    if found := re.fullmatch(r"[lL]ist\[(.*)\]", kind):
        assert isinstance(value, list), f"{where} is no list"
        return [checked(one, found[1], f"{where}[{i}]") for i, one in enumerate(value)]
    if found := re.fullmatch(r"[dD]ict[(\[]str, (.*)[)\]]", kind):
        assert isinstance(value, dict), f"{where} is no object"
        return {key: checked(one, found[1], f"{where}.{key}") for key, one in value.items()}
    if kind in PLAIN:
        assert isinstance(value, PLAIN[kind]), f"{where} is {value!r}, and no {kind}"
        return value
    model = getattr(kserve.models, kind, None) or getattr(kubernetes.client.models, kind)
    names = {written: name for name, written in model.attribute_map.items()}
    assert isinstance(value, dict), f"{where} is no object"
    unknown = value.keys() - names.keys()
    assert not unknown, f"{where} has no fields {sorted(unknown)}"
    fields = {
        names[key]: checked(one, model.openapi_types[names[key]], f"{where}.{key}")
        for key, one in value.items()
    }
    return model(**fields)  # an error if one is missing that is required


def main():
    for file in FILES:
        document = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        checked(document, KINDS[document["kind"]], document["kind"])
        print(f"{file}: a {document['kind']} of {document['apiVersion']}")


if __name__ == "__main__":
    main()
