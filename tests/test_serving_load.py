"""The scripts of load and faults, for a short time."""

import subprocess
import sys

import pytest

from serving import ROOT

SCRIPTS = ROOT / "benchmarks/serving"


@pytest.mark.parametrize(
    "words", [("soak.py", "--seconds", "6", "--every", "2"), ("faults.py", "--quick")]
)
def test_a_server_stays_right_under_load_and_faults(words):
    script, *options = words
    command = [sys.executable, SCRIPTS / script, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
