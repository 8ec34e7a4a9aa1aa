"""What do `import exporter` and a load cost a new process, against `import jax`?

python benchmarks/imports.py
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import models
import processes
from measuring import Row, Side, arguments, by_turns, report

METHOD = """Each script runs in a new process, timed from its start to its end, by turns, and has
run once before. A load reads an artifact with four small variables and calls nothing."""

SCRIPTS = {
    "exporter": "import exporter",
    "load": "import sys, exporter; exporter.load(sys.argv[1])",
    "jax": "import jax",
    "array": "import jax.numpy; jax.numpy.zeros(3).block_until_ready()",
    "python": "",
}


def starts(folder: Path) -> dict[str, Callable[[], object]]:
    env = processes.apart(folder / "cache")
    return {
        name: partial(processes.run, code, folder / "1", env=env, cwd=folder)
        for name, code in SCRIPTS.items()
    }


def main() -> None:
    run = arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        models.total(4).save(Path(folder, "1"))
        found = by_turns(starts(Path(folder)), rounds=run.pick(11, 3), budget_s=30)
    jax = Side("`import jax`", "s", found["jax"])
    loading = Side("`exporter.load`", "s", found["load"])
    rows = [
        Row("import", Side("`import exporter`", "s", found["exporter"]), jax),
        Row("import and load", loading, jax),
        Row("import and load, against an array", loading, Side("an array", "s", found["array"])),
        Row("a process that does nothing", Side("`python`", "s", found["python"])),
    ]
    report("imports", __doc__.splitlines()[0], METHOD, rows, run)


if __name__ == "__main__":
    main()
