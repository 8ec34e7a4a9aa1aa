"""A process that was forked from one that has loaded gets an error, not an abort or a hang."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GOOD = ROOT / "tests/golden/format_2_jax_0_10"

FORKED = """
import os, sys
import exporter

print(exporter.load(sys.argv[1]).add(3), os.getpid(), flush=True)
child = os.fork()
if child == 0:
    try:
        exporter.load(sys.argv[1])
    except exporter.IncompatibleRuntimeError as error:
        print(error, flush=True)
        os._exit(7)
    os._exit(0)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), exporter.load(sys.argv[1]).add(4), flush=True)
"""


def test_a_forked_process_is_told_to_be_spawned_and_its_parent_goes_on():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, GOOD],  # JAX warns of every fork
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        timeout=120,
    )
    first, told, last = done.stdout.splitlines()
    parent = first.split()[1]
    assert told == (
        f"this process was forked from process {parent}, which had loaded a model: the threads "
        "that JAX runs on are not in it, and calls could wait for ever. Start processes with "
        "multiprocessing.get_context('spawn'), or fork before anything is loaded."
    )
    assert last.split() == ["7", "4"]
