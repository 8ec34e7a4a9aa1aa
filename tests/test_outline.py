"""The saved object as a tree: every thing by its names, once, whatever an author put in it."""

import json
from pathlib import Path

import jax.numpy as jnp
import pytest
from hostile.damage import copy_to, read_manifest, seal

import exporter
from exporter import TensorSpec, Variable
from exporter.artifact.manifest import read
from exporter.runtime.outline import draw, outline, places

GOLDEN = sorted(path.parent for path in Path(__file__).parent.glob("golden/*/saved_model.json"))


class Layer:
    def __init__(self, width):
        self.kernel = jnp.ones((2, width))


class Model:
    def __init__(self):
        self.layers = [Layer(3) for _ in range(5)] + [Layer(4)]
        self.named = {f"layer_{i}": jnp.ones(2) for i in range(15)}
        self.few = {"a": jnp.ones(2), "b": jnp.ones(2), "c": jnp.ones(2), "d": jnp.ones(2)}
        self.steps = Variable(jnp.zeros((), jnp.int32), trainable=False)
        self.last = self.layers[-1]
        self.nothing = ()
        self.myself = self

    @exporter.function(input_signature=[TensorSpec((2,), name="x")])
    def apply(self, x, factor=2.0):
        return x @ self.layers[0].kernel * factor


TREE = """\
Model  308 bytes
├── layers  list of 6  152 bytes
│   ├── [0]  Layer  24 bytes
│   │   └── kernel  float32[2, 3]  24 bytes
│   ├── … 4 more like [0], to [4]
│   └── [5]  Layer  32 bytes
│       └── kernel  float32[2, 4]  32 bytes
├── named  dict of 15  120 bytes
│   ├── ['layer_0']  float32[2]  8 bytes
│   └── … 14 more like ['layer_0'], to ['layer_14']
├── few  dict of 4  32 bytes
│   ├── ['a']  float32[2]  8 bytes
│   ├── ['b']  float32[2]  8 bytes
│   ├── ['c']  float32[2]  8 bytes
│   └── ['d']  float32[2]  8 bytes
├── steps  int32[], not trainable  4 bytes
├── last  the same as layers[5]
├── nothing  empty tuple
├── myself  the same as the root
└── apply(x, factor=2.0)"""


def test_an_object_is_drawn_with_what_it_holds(tmp_path):
    exporter.save(Model(), tmp_path / "m", platforms=("cpu",))
    branches = outline(read(tmp_path / "m"))
    assert draw(branches) == TREE
    # Nothing is folded in the JSON.
    listed = json.loads(json.dumps(places(branches)))
    kernels = [one for one in listed if one["step"] == ".kernel"]
    assert [one["bytes"] for one in kernels] == [24] * 5 + [32]
    assert listed[0]["parent"] is None
    by_step = {one["step"]: one for one in listed}
    assert by_step[".myself"]["same_as"] == 0
    assert listed[by_step[".last"]["same_as"]]["step"] == "[5]"


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda path: path.name)
def test_the_committed_artifacts_are_drawn(folder):
    manifest = read(folder)
    branches = outline(manifest)
    assert len(branches) == 1 + sum(len(node.children) for node in manifest.nodes)
    lines = draw(branches).splitlines()
    assert len(lines) == len(branches)
    assert "├── alias  the same as layers[0]" in lines
    for parent in branches:
        assert parent.depth == (branches[parent.parent].depth + 1 if parent.parent >= 0 else 0)


def test_a_deep_tree_with_bad_names_is_drawn_as_far_as_it_can_be_read(tmp_path):
    folder = copy_to(tmp_path / "m")
    document = read_manifest(folder)
    key = {"type": "str", "text": "\x1b[2J\n"}
    start = len(document["nodes"])
    document["nodes"][0]["keys"].append(key)
    document["nodes"][0]["children"].append(start)
    document["nodes"] += [
        {"kind": "dict", "keys": [key], "children": [start + n + 1]} for n in range(5000)
    ]
    document["nodes"].append({"kind": "dict"})
    seal(folder, document)
    text = draw(outline(read(folder)))
    assert text.replace("\n", "").isprintable()
    assert "… deeper than is drawn; --json has all of it" in text
    assert len(text) < 20_000
