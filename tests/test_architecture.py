"""The map of CONTRIBUTING.md as tests: who may import whom, and which packages have a fence."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

_BASE = (
    "signatures",
    "exporter.errors",
    "exporter.notices",
    "exporter.markup",
    "exporter.distribution",
    "exporter.display",  # whatever is public shows itself
)

# Shared by staging and the runtime: files and the mutable array box, which models hold before
# saving and again after loading, and what touches JAX: the nodes of registered classes, which both
# sides are called with, and its private parts, with which one side lowers and the other rebuilds.
_SHARED = (
    "exporter.asset",
    "exporter.variable",
    "exporter.keys",
    "exporter.pytrees",
    "exporter.jax_internals",
)

# The steps of a save, each of which saving puts together.
_SAVING = (
    "exporter.choices",
    "exporter.progress",
    "exporter.drafting",
    "exporter.labels",
    "exporter.samples",
    "exporter.pipelines",
    "exporter.joined",
    "exporter.batching",
    "exporter.resolution",
)

# Each room and the rooms that it may import. A room is a module or a package; the longest name that
# fits a module is its room. To add an arrow, change this table and say why in the change.
ARROWS: dict[str, tuple[str, ...]] = {
    "signatures": (),
    "exporter": (),  # its names are found on first use; its stub lists them for type checkers
    "exporter.__main__": ("exporter.cli", "exporter.markup"),
    "exporter.errors": ("signatures",),
    "exporter.notices": (),
    "exporter.markup": (),
    "exporter.distribution": ("exporter.markup",),
    "exporter.display": ("signatures", "exporter.markup", "exporter.distribution"),
    "exporter.asset": _BASE,
    "exporter.variable": (*_BASE, "exporter.keys"),  # a variable without a value may be of keys
    "exporter.keys": _BASE,
    "exporter.pytrees": _BASE,
    "exporter.jax_internals": _BASE,
    "exporter.jax_dispatch": (),
    "exporter.operations": (),
    # MLIR in, plain values out.
    "exporter.jax_programs": ("exporter.jax_internals", "exporter.operations"),
    "exporter.dataflow": (),
    "exporter.jax_dataflow": ("exporter.dataflow", "exporter.jax_static", "exporter.operations"),
    "exporter.processes": _BASE,
    "exporter.staging": (*_BASE, *_SHARED),
    # Keys are words on disk too, and what a manifest says of batching are these options.
    "exporter.artifact": (*_BASE, "exporter.keys", "exporter.batching"),
    # It is shared by saving, which opens stages to check them, and by the runtime and commands.
    "exporter.stages": (*_BASE, "exporter.artifact"),
    "exporter.runtime": (
        *_BASE,
        *_SHARED,
        "exporter.jax_dispatch",
        "exporter.jax_programs",
        "exporter.operations",
        "exporter.artifact",
        "exporter.stages",  # a loaded model has pipelines
    ),
    # Inputs that nobody gave: the commands and the checks of conversions call with them.
    "exporter.made": (*_BASE, "exporter.artifact"),
    # MLIR in, MLIR out, for other compilers than XLA.
    "exporter.jax_static": (
        "exporter.jax_internals",
        "exporter.jax_programs",
        "exporter.operations",
    ),
    # What it makes is run beside the loaded model.
    "exporter.conversion": (
        *_BASE,
        "exporter.keys",
        "exporter.jax_internals",
        "exporter.jax_static",
        "exporter.jax_dataflow",
        "exporter.dataflow",
        "exporter.operations",
        "exporter.artifact",
        "exporter.runtime",
        "exporter.loading",
        "exporter.comparison",
        "exporter.made",
    ),
    # One sample run again, for a report or before a version is served.
    "exporter.replay": (
        *_BASE,
        "exporter.keys",
        "exporter.artifact",
        "exporter.runtime",
        "exporter.comparison",
        "exporter.verdicts",
    ),
    "exporter.batching": _BASE,
    "exporter.serving": (
        *_BASE,
        "exporter.keys",
        "exporter.batching",
        "exporter.progress",
        "exporter.artifact",
        "exporter.stages",
        "exporter.runtime",
        "exporter.loading",
        "exporter.replay",
    ),
    "exporter.choices": _BASE,
    "exporter.progress": _BASE,
    "exporter.drafting": (
        *_BASE,
        *_SHARED,
        "exporter.processes",
        "exporter.staging",
        "exporter.artifact",
        "exporter.choices",
        "exporter.progress",
    ),
    "exporter.resolution": (
        *_BASE,
        "exporter.staging",
        "exporter.artifact",
        "exporter.drafting",
    ),
    "exporter.labels": (
        *_BASE,
        "exporter.staging",
        "exporter.artifact",
        "exporter.choices",
        "exporter.drafting",
    ),
    "exporter.samples": (
        *_BASE,
        *_SHARED,
        "exporter.staging",
        "exporter.artifact",
        "exporter.progress",
        "exporter.drafting",
    ),
    "exporter.pipelines": (
        *_BASE,
        "exporter.staging",
        "exporter.artifact",
        "exporter.drafting",
        "exporter.stages",  # what is attached is opened once, to see that it fits
    ),
    "exporter.joined": (
        *_BASE,
        "exporter.artifact",
        "exporter.batching",
        "exporter.drafting",
    ),
    "exporter.writing": (
        *_BASE,
        *_SHARED,
        "exporter.staging",
        "exporter.artifact",
        "exporter.processes",
        *_SAVING,
    ),
    "exporter.saving": (
        *_BASE,
        *_SHARED,
        "exporter.staging",
        "exporter.artifact",
        "exporter.processes",
        *_SAVING,
        "exporter.writing",
    ),
    # It reads keys and weakly typed arrays as those who load do.
    "exporter.checkpoints": (
        *_BASE,
        "exporter.keys",
        "exporter.jax_internals",
        "exporter.staging",
        "exporter.artifact",
    ),
    # It takes the steps of saving up to the first that writes, so that both say the same.
    "exporter.diagnosis": (
        *_BASE,
        "exporter.batching",
        "exporter.pipelines",
        "exporter.staging",
        "exporter.drafting",
        "exporter.resolution",
        "exporter.writing",
        "exporter.saving",
    ),
    "exporter.loading": (
        *_BASE,
        *_SHARED,
        "exporter.jax_dispatch",  # what is compiled ahead is not compiled inside a trace
        "exporter.choices",
        "exporter.artifact",
        "exporter.runtime",
    ),
    "exporter.comparison": (*_BASE, "exporter.artifact"),
    "exporter.signing": (*_BASE, "exporter.artifact"),
    "exporter.verdicts": (*_BASE, "exporter.runtime", "exporter.comparison"),
    "exporter.verification": (
        *_BASE,
        *_SHARED,
        "exporter.choices",
        "exporter.progress",
        "exporter.artifact",
        "exporter.runtime",
        "exporter.loading",
        "exporter.replay",
        "exporter.verdicts",
        "exporter.signing",
    ),
    "exporter.cli": (
        "exporter.keys",
        *_BASE,
        "exporter.artifact",
        "exporter.stages",  # what they make of words is refused before JAX is imported
        "exporter.runtime",
        "exporter.conversion",
        "exporter.made",
        "exporter.serving",
        "exporter.saving",
        "exporter.checkpoints",
        "exporter.loading",
        "exporter.verification",
        "exporter.signing",
        "exporter.progress",  # a bar in a terminal is one that is told how far something has come
        "exporter.diagnosis",
    ),
}

# Each foreign package and the rooms or modules that may import it, by whatever means. A package
# that is not here may be imported by nobody.
FENCES: dict[str, tuple[str, ...]] = {
    "numpy": ("signatures", "exporter"),
    "ml_dtypes": ("signatures", "exporter"),
    "msgspec": ("exporter.artifact", "exporter.serving.settings", "exporter.serving.workers"),
    "blake3": ("exporter.artifact",),
    "zstandard": ("exporter.artifact.index",),
    "tensorstore": (
        "exporter.artifact.variables",
        "exporter.artifact.glimpses",
    ),
    "jax": (
        "exporter.variable",
        "exporter.keys",
        "exporter.pytrees",
        "exporter.jax_internals",
        "exporter.jax_dispatch",
        "exporter.jax_programs",
        "exporter.jax_static",
        "exporter.jax_dataflow",
        "exporter.processes",
        "exporter.staging",
        "exporter.artifact.variables",
        "exporter.runtime",
        "exporter.conversion",
        "exporter.serving",
        "exporter.samples",
        "exporter.saving",
        "exporter.checkpoints",
        "exporter.loading",
        "exporter.comparison",
        "exporter.replay",
        "exporter.verification",
    ),
    "jax._src": (
        "exporter.jax_internals",
        "exporter.jax_dispatch",
        "exporter.jax_programs",
        "exporter.jax_static",
    ),
    "jaxlib": (
        "exporter.jax_internals",
        "exporter.jax_dispatch",
        "exporter.jax_programs",
        "exporter.jax_static",
        "exporter.jax_dataflow",
    ),
    "PIL": ("exporter.cli.arrays.images", "exporter.stages.image"),
    "tokenizers": ("exporter.stages.tokenizer",),
    "orbax": ("exporter.artifact.variables", "exporter.checkpoints"),
    "rich": ("exporter.cli.terminal",),
    "model_signing": ("exporter.signing",),
    "iree": ("exporter.conversion.iree",),
    "litert_converter": ("exporter.conversion.litert", "exporter.conversion.litert_loops"),
    "ai_edge_litert": ("exporter.conversion.litert",),
    "coremltools": ("exporter.conversion.coreml",),
    "stablehlo_coreml": ("exporter.conversion.coreml",),
    "onnx": ("exporter.conversion.onnx",),
    "onnxruntime": ("exporter.conversion.onnx.file",),
    "google": (  # protocol buffers
        "exporter.conversion.onnx.file",
        "exporter.serving.descriptors",
        "exporter.serving.reflection",
    ),
    "tensorflow": ("exporter.conversion.tensorflow",),
    "starlette": ("exporter.serving.rest",),
    "uvicorn": ("exporter.serving.server", "exporter.serving.heads"),
    "opentelemetry": ("exporter.serving.traces",),
    "uvloop": ("exporter.serving.server",),
    "grpc": ("exporter.serving",),
    "ray": ("exporter.serving.ray",),
    "orjson": ("exporter.serving",),
    "prometheus_client": ("exporter.serving.metrics",),
    "yaml": ("exporter.serving.settings",),
    "shtab": ("exporter.cli.completion",),
    "equinox": ("exporter.staging.frameworks.equinox",),
    "flax": ("exporter.staging.frameworks.flax_nnx", "exporter.staging.frameworks.flax_linen"),
    "haiku": ("exporter.staging.frameworks.haiku",),
    "keras": (
        "exporter.staging.frameworks.keras",
        "exporter.staging.frameworks.keras_forward",
    ),
}

# Modules inside a room above that must do without the package all the same.
OUTSIDE: dict[str, tuple[str, ...]] = {
    "jax": (
        "exporter.runtime.describe",
        "exporter.runtime.page",
        "exporter.conversion.formats",
        "exporter.conversion.choosing",
        "exporter.conversion.converted",
        "exporter.conversion.target",
        "exporter.conversion.onnx",
        "exporter.conversion.program",
    ),
    "numpy": ("exporter.artifact.layout",),  # it handles files as bytes
    "ml_dtypes": ("exporter.artifact.layout",),
}

# What a process must not pay for, or cannot have: none of these may reach JAX when it is imported,
# not even through a module of ours that it imports.
WITHOUT_JAX = (
    "signatures",
    "exporter.__init__",
    "exporter.errors",
    "exporter.artifact.manifest",
    "exporter.artifact.layout",
    "exporter.artifact.glimpses",
    "exporter.runtime.describe",
    "exporter.stages",
    "exporter.runtime.page",
    "exporter.runtime.comparison",
    "exporter.runtime.values",
    "exporter.conversion.converting",  # what cannot be converted is said before JAX is imported
    "exporter.cli",
)


@dataclass(frozen=True)
class Import:
    """One imported name: `from a import b` gives `a.b`, whether `b` is a module or not."""

    module: str
    target: str
    line: int
    runs_on_import: bool

    def __str__(self) -> str:
        return f"{self.module}, line {self.line}: {self.target}"


def _module_name(path: Path) -> str:
    """`exporter.cli.show` for its file; the facade of a package is `exporter.__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    facade = len(parts) == 2 and parts[1] == "__init__"
    return ".".join(parts if parts[-1] != "__init__" or facade else parts[:-1])


@cache
def _sources() -> dict[str, Path]:
    paths = [
        path for package in ("exporter", "signatures") for path in ROOT.glob(f"{package}/**/*.py")
    ]
    return {_module_name(path): path for path in sorted(paths)}


def _imported_names(node: ast.AST) -> list[str]:
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom(level=0, module=str(module)):
            return [f"{module}.{alias.name}" for alias in node.names]
        case ast.ImportFrom():
            return [f"a relative import of {alias.name}" for alias in node.names]
        case ast.Attribute(attr="_src", value=ast.Name(id="jax")):
            return ["jax._src"]
        case _:
            return []


def _walk(node: ast.AST, *, runs: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Each node below `node`, and whether it runs when the module is imported."""
    for child in ast.iter_child_nodes(node):
        deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        child_runs = runs and not deferred and not for_types
        yield child, child_runs
        yield from _walk(child, runs=child_runs)


def _imports_in(module: str, text: str) -> tuple[Import, ...]:
    return tuple(
        Import(module, target, getattr(node, "lineno", 0), runs)
        for node, runs in _walk(ast.parse(text), runs=True)
        for target in _imported_names(node)
    )


@cache
def _imports(module: str) -> tuple[Import, ...]:
    return _imports_in(module, _sources()[module].read_text(encoding="utf-8"))


def _all_imports() -> list[Import]:
    return [found for module in _sources() for found in _imports(module)]


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _room(name: str) -> str | None:
    """The room of a module or of a name inside one; None where the map has none."""
    fitting = [room for room in ARROWS if _within(name, room)]
    return max(fitting, key=len, default=None)


def _is_ours(target: str) -> bool:
    return target.split(".", maxsplit=1)[0] in {"exporter", "signatures"}


def _is_foreign(target: str) -> bool:
    return not _is_ours(target) and target.split(".", maxsplit=1)[0] not in sys.stdlib_module_names


def _breaks_an_arrow(found: Import) -> bool:
    source, target = _room(found.module), _room(found.target)
    if source == target and source != "exporter":
        return False
    return source is None or target is None or target not in ARROWS[source]


def _breaks_a_fence(found: Import) -> bool:
    fences = [name for name in FENCES if _within(found.target, name)]
    if not fences:
        return True
    package = max(fences, key=len)
    inside = any(_within(found.module, room) for room in FENCES[package])
    return not inside or any(_within(found.module, room) for room in OUTSIDE.get(package, ()))


def _reached_when_imported(module: str) -> set[str]:
    """`module`, every module of ours that importing it runs, and the foreign packages of all."""
    pending, reached = [module], set[str]()
    while pending:
        name = pending.pop()
        if name in reached:
            continue
        reached.add(name)
        if name not in _sources():
            continue
        # Importing a.b.c runs a and a.b first.
        parents = [name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1)]
        pending += [f"{parent}.__init__" if "." not in parent else parent for parent in parents]
        for found in _imports(name):
            if found.runs_on_import:
                pending.append(
                    found.target if found.target in _sources() else _longest(found.target)
                )
    return reached


def _longest(target: str) -> str:
    """The module of ours that `target` is a name of, or the top of a foreign package."""
    if not _is_ours(target):
        return target.split(".", maxsplit=1)[0]
    parent = target.rsplit(".", 1)[0]
    return f"{parent}.__init__" if "." not in parent else parent


def test_every_module_has_a_room_on_the_map():
    known = {room for room in ARROWS if room != "exporter"} | {
        "exporter.__init__",
        "exporter.__main__",
    }
    assert [
        module for module in _sources() if not any(_within(module, room) for room in known)
    ] == []


def test_the_map_names_every_file():
    named = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    files = {f"`{path.name}`" for path in _sources().values() if "__" not in path.name}
    exempt = {f"`{path.name}`" for path in (ROOT / "exporter/cli").glob("*.py")} | {
        f"`{path.name}`" for path in (ROOT / "exporter/staging/frameworks").glob("*.py")
    }
    assert sorted(file for file in files - exempt if file not in named) == []


def test_our_imports_follow_the_arrows():
    ours = [found for found in _all_imports() if _is_ours(found.target)]
    assert [str(found) for found in ours if _breaks_an_arrow(found)] == []


def test_foreign_packages_stay_behind_their_fences():
    foreign = [found for found in _all_imports() if _is_foreign(found.target)]
    assert [str(found) for found in foreign if _breaks_a_fence(found)] == []


def test_light_modules_do_not_reach_jax_through_others():
    heavy = {"jax", "jaxlib", "orbax", "flax"}
    light = [name for name in _sources() if any(_within(name, module) for module in WITHOUT_JAX)]
    reached = {name: _reached_when_imported(name) & heavy for name in light}
    assert {name: packages for name, packages in reached.items() if packages} == {}
    assert _reached_when_imported("exporter.artifact.variables") >= {"jax", "tensorstore"}


def test_the_facade_of_signatures_holds_names_and_no_other_code():
    docstring, *body = ast.parse(_sources()["signatures.__init__"].read_text("utf-8")).body
    assert isinstance(docstring, ast.Expr)
    assert [ast.unparse(n) for n in body if not isinstance(n, ast.Import | ast.ImportFrom)] == []


def test_the_facade_of_exporter_and_its_stub_list_the_same_names_at_the_same_homes():
    import exporter

    stub = Path(exporter.__file__).with_suffix(".pyi").read_text("utf-8")
    listed = {
        name.asname: getattr(importlib.import_module(str(node.module)), name.name)
        for node in ast.parse(stub).body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert listed == {name: getattr(exporter, name) for name in exporter.__all__}


def test_no_module_is_a_drawer_for_odds_and_ends():
    vague = {"utils", "util", "helpers", "misc", "common"}
    assert [name for name in _sources() if name.rsplit(".", 1)[-1] in vague] == []


@pytest.mark.parametrize(
    ("module", "text", "broken"),
    [
        ("exporter.loading", "from exporter.staging import tracing", True),
        ("exporter.loading", "def f():\n    import exporter.staging.tracing", True),
        ("exporter.loading", "from exporter.runtime.model import LoadedModel", False),
        ("exporter.loading", "from exporter import load", True),
        ("exporter.loading", "from . import runtime", False),  # foreign by name, see the next test
        ("exporter.staging.tracing", "from exporter.artifact import layout", True),
        ("exporter.staging.tracing", "from exporter.staging.tracking import track", False),
        ("signatures.spec", "from exporter.errors import ExporterError", True),
        ("signatures.spec", "from signatures.errors import SpecError", False),
        ("exporter.cli.show", "from exporter.staging import diagnosis", True),
    ],
)
def test_an_arrow_that_is_not_in_the_table_is_found(module, text, broken):
    found = [each for each in _imports_in(module, text) if _is_ours(each.target)]
    assert any(map(_breaks_an_arrow, found)) is broken


@pytest.mark.parametrize(
    ("module", "text", "broken"),
    [
        ("signatures.spec", "import jax", True),
        ("signatures.spec", "def f():\n    import jax.numpy as jnp", True),
        ("signatures.spec", "import numpy as np", False),
        ("exporter.artifact.layout", "import jax", True),
        ("exporter.artifact.layout", "import numpy as np", True),
        ("exporter.runtime.describe", "def f():\n    import jax", True),
        ("exporter.runtime.model", "import jax", False),
        ("exporter.artifact.manifest", "from jax import numpy", True),
        ("exporter.artifact.variables", "import orbax.checkpoint as ocp", False),
        ("exporter.runtime.programs", "import orbax.checkpoint as ocp", True),
        ("exporter.runtime.programs", "from jax._src import core", True),
        ("exporter.runtime.programs", "from jax import _src", True),
        ("exporter.runtime.programs", "import jax\n\njax._src.core", True),
        ("exporter.runtime.programs", "from jaxlib import xla_client", True),
        ("exporter.jax_internals", "from jax._src import core", False),
        ("exporter.staging.tracking", "from flax import nnx", True),
        ("exporter.staging.frameworks.flax_nnx", "from flax import nnx", False),
        ("exporter.loading", "import requests", True),
        ("exporter.loading", "from . import runtime", True),
    ],
)
def test_a_package_outside_its_fence_is_found(module, text, broken):
    found = [each for each in _imports_in(module, text) if _is_foreign(each.target)]
    assert any(map(_breaks_a_fence, found)) is broken


def _run_without_jax(code: str, *arguments: str) -> str:
    """What a new interpreter prints for `code`, which must leave JAX unimported."""
    check = "import sys\nloaded = {'jax', 'jaxlib', 'orbax', 'flax'} & set(sys.modules)\n"
    check += "assert not loaded, f'imported {sorted(loaded)}'\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{check}", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_exporter_and_signatures_does_not_import_jax():
    _run_without_jax("import exporter, signatures")


def test_help_does_not_import_jax():
    code = "from exporter.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as done:\n"
    assert "usage" in _run_without_jax(f"{code}    assert not done.code").lower()


def test_show_does_not_import_jax(tmp_path):
    import exporter

    class Doubler:
        @exporter.function(input_signature=[exporter.TensorSpec((2,), "float32", name="number")])
        def double(self, number):
            return number * 2

    exporter.save(Doubler(), tmp_path / "doubler")
    code = (
        "import sys\nfrom exporter.cli import main\nassert main(['show', sys.argv[1]]) in (0, None)"
    )
    assert "number" in _run_without_jax(code, str(tmp_path / "doubler"))
