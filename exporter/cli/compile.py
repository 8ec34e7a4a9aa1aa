"""`exporter compile`: fill the cache of compiled programs before anybody waits for them."""

import argparse
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from exporter.artifact.layout import check_outside
from exporter.artifact.manifest import read as read_manifest
from exporter.cli.command import Command, given_path
from exporter.cli.terminal import progress
from exporter.errors import OptionError
from exporter.markup import printable
from exporter.runtime.warming import Case, planned

if TYPE_CHECKING:
    from exporter.runtime.executables import ExecutableCache

_OUTCOMES = {"found": "found", "kept": "compiled", "not kept": "compiled, not kept"}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=given_path, help="an artifact")
    parser.add_argument(
        "--size",
        metavar="AXIS=SIZE[,SIZE...]",
        dest="sizes",
        nargs="+",
        action="extend",
        default=[],
        help="the sizes of a named axis: each combination with those of the others is compiled",
    )
    parser.add_argument(
        "--signature",
        metavar="NAME",
        dest="names",
        nargs="+",
        action="extend",
        help="the signatures to compile (default: all)",
    )
    parser.add_argument(
        "--cache",
        metavar="FOLDER",
        type=given_path,
        help="where the programs are kept, for exporter.load(DIR, cache=FOLDER) (default: the "
        "user's own cache, where exporter.load looks)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print what was compiled as JSON, when all is done"
    )


def _execute(arguments: argparse.Namespace) -> None:
    manifest = read_manifest(arguments.folder)
    plan = planned(manifest, _sizes(arguments.sizes), arguments.names)
    if not arguments.json:
        for name, reason in plan.left_out.items():
            print(printable(f"{name} is left out: {reason}"))
    if not plan.cases:
        raise OptionError("there is nothing to compile. Give sizes with --size AXIS=SIZE.")
    if manifest.x64:  # set before JAX is imported
        os.environ.setdefault("JAX_ENABLE_X64", "1")
    from exporter.runtime.compat import check_backend
    from exporter.runtime.executables import cache_of

    check_backend()
    if arguments.cache:
        check_outside(arguments.cache)
    cache = cache_of(arguments.cache or True)
    problem = "this user has no home to keep them in" if cache is None else cache.problem()
    if cache is None or problem:
        raise OptionError(f"compiled programs cannot be kept: {problem}. Choose another --cache.")
    done = list(_compiled(arguments.folder, plan.cases, cache, is_silent=arguments.json))
    lost = sum(one["outcome"] == "not kept" for one in done)
    if arguments.json:
        found = {"cache": str(cache.folder), "compiled": done, "left_out": plan.left_out}
        print(json.dumps(found, indent=2))
    else:
        print(printable(f"{len(done) - lost} compiled programs are in {cache.folder}"))
    if lost:
        free = shutil.disk_usage(cache.folder).free
        raise OptionError(
            f"{lost} of {len(done)} compiled programs could not be kept in {cache.folder}, where "
            f"{free:,} bytes are free. Those that call back into Python, and those larger than the "
            "cache, are kept nowhere."
        )


class _Compiled(TypedDict):
    """What became of one case, for JSON."""

    signature: str
    inputs: str
    seconds: float
    outcome: str


def _compiled(
    folder: Path, cases: Sequence[Case], cache: "ExecutableCache", *, is_silent: bool
) -> Iterator[_Compiled]:
    """What became of each, printed as a line of a table unless it is to be silent."""
    from exporter.loading import concrete_of, load

    model = load(folder, cache=cache.folder)
    widths = [max(len(one.name) for one in cases), max(len(one.inputs) for one in cases)]
    for case in progress(cases, "compiling"):
        start = time.perf_counter()
        outcome = concrete_of(model, case.concrete).prepare(case.shapes)
        seconds = time.perf_counter() - start
        line = f"{case.name:{widths[0]}}  {case.inputs:{widths[1]}}  {seconds:7.2f} s"
        if not is_silent:
            print(printable(f"{line}  {_OUTCOMES[outcome]}"), flush=True)
        yield _Compiled(
            signature=case.name, inputs=case.inputs, seconds=round(seconds, 3), outcome=outcome
        )


def _sizes(given: Sequence[str]) -> dict[str, list[int]] | None:
    """The sizes in words like `batch=1,8,32`, or `None` if there are none.

    Raises:
      OptionError: naming every word that is no such thing.
    """
    found: dict[str, list[int]] = {}
    problems = []
    for word in given:
        name, _, text = word.partition("=")
        try:
            found.setdefault(name, []).extend(dict.fromkeys(map(int, text.split(","))))
        except ValueError:
            problems.append(repr(word))
    if problems:
        raise OptionError(f"expected --size AXIS=SIZE,SIZE, got {', '.join(problems)}.")
    return found or None


COMPILE = Command(
    name="compile",
    usage=(
        "DIR [--size AXIS=SIZE[,SIZE...] ...] [--signature NAME ...]\n"
        "                        [--cache FOLDER] [--json]"
    ),
    summary="compile ahead for this machine, so that the next process need not",
    description="""\
Compile the signatures of an artifact for this machine, and keep the programs
for the processes that load it here. Those whose shapes are all fixed need no
sizes. Of the others each named axis needs one or several; without any --size,
what was saved with samples is compiled for the shapes of these.

A compiled program fits one release of JAX, one kind and number of devices, one
processor and one set of compiler flags. Elsewhere it is not found, and is
compiled anew. It is native code: choose a folder that nobody else can write to,
and none inside DIR, where it would keep the next save from replacing DIR.
The artifact stays as it is.""",
    examples="""\
  exporter compile digits/1
  exporter compile digits/1 --size batch=1,8,32
  exporter compile encoder/3 --signature embed --size batch=8 tokens=32,64 --cache compiled""",
    add_arguments=_add_arguments,
    execute=_execute,
)
