"""`exporter diff`: what differs between two artifacts, and whether one can replace the other."""

import argparse
import dataclasses
import json
import math
import os
from collections.abc import Sequence

from exporter.artifact.manifest import read as read_manifest
from exporter.artifact.records import Manifest
from exporter.cli.command import Command, Exit, given_path
from exporter.markup import printable
from exporter.runtime.comparison import Comparison, added_calls, alike, compare
from exporter.runtime.values import ValueDifference, value_differences


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="A", type=given_path, help="the artifact that has callers")
    parser.add_argument("new", metavar="B", type=given_path, help="the one that is to replace it")
    parser.add_argument(
        "--no-values", action="store_true", help="do not read variables to compare their values"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object for programs")


def _execute(arguments: argparse.Namespace) -> Exit:
    old, new = read_manifest(arguments.old), read_manifest(arguments.new)
    if old.x64 or new.x64:  # set before JAX is imported, if it ever is
        os.environ.setdefault("JAX_ENABLE_X64", "1")
    found = compare(old, new, promised=_promised(old, new))
    values = None if arguments.no_values else _values(arguments, old, new)
    if arguments.json:
        listed = None if values is None else list(map(_as_json, values))
        print(json.dumps({**found.as_json(), "values": listed}, indent=2))
    else:
        _print(found, values)
    return Exit.answer(is_yes=found.can_replace)


def _promised(old: Manifest, new: Manifest) -> frozenset[str]:
    """Those of the native functions that only the second calls which need no vouching."""
    calls = added_calls(old, new)
    if not calls:
        return frozenset()
    from exporter.runtime.compat import promised

    return promised(calls)


def _values(
    arguments: argparse.Namespace, old: Manifest, new: Manifest
) -> Sequence[ValueDifference]:
    """The variables whose values differ, in the order of the first artifact."""
    pairs = alike(old, new)
    found = value_differences((arguments.old, old), (arguments.new, new), pairs)
    by_name = {one.name: one for one in found if one.unequal}
    return [by_name[name] for name, _, _ in pairs if name in by_name]


def _as_json(value: ValueDifference) -> dict[str, object]:
    """As a dict for JSON, which has no infinity."""
    return {
        name: "Infinity" if isinstance(field, float) and math.isinf(field) else field
        for name, field in dataclasses.asdict(value).items()
    }


def _print(found: Comparison, values: Sequence[ValueDifference] | None) -> None:
    lines = [f"can B replace A for its callers? {'yes' if found.can_replace else 'no'}"]
    lines += [f"  {one}" for one in found.reasons]
    others = [one for one in found.differences if not one.breaks]
    if others:
        lines += ["", "Differences that callers can do with", *(f"  {one}" for one in others)]
    if values:
        lines += ["", "Values", *map(_value_line, values)]
    if not found.differences and not values:
        lines.append("  no differences" if values is not None else "  values were not compared")
    for line in lines:
        print(printable(line))


def _value_line(value: ValueDifference) -> str:
    return (
        f"  {value.name}: {value.unequal:,} of {value.elements:,} differ, by at most "
        f"{value.largest:.3g}; L2 norm {value.l2:.3g}, relative {value.relative:.3g}"
    )


DIFF = Command(
    name="diff",
    usage="A B [--no-values] [--json]",
    summary="compare two artifacts: can one replace the other for its callers?",
    description="""\
Compare two artifacts, and say whether B can replace A for its callers: B must
load wherever A does, take whatever A takes, and return what A returns, under the
same names. Wider bounds, more inputs with defaults, an axis of any size in place
of a fixed one and more outputs are fine. Fewer platforms, names or tags, another
dtype, and a newer StableHLO or format are not.

Of variables that are alike the values are compared too, which does not bear on
the answer. The exit status is 0 if B can replace A, 3 if it cannot, and 1 if an
artifact cannot be read.""",
    examples="""\
  exporter diff digits/1 digits/2
  exporter diff digits/1 digits/2 --no-values --json | jq .reasons""",
    add_arguments=_add_arguments,
    execute=_execute,
    only_reads=True,
)
