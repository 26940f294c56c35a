"""The other Pythons that were found: what depends on the interpreter holds on each of them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.full

PYTHONS = sorted((ROOT / ".cache").glob("python3.*/bin/python"))

#: Tests of what servers do, whatever Python asks them.
LEFT_OUT = ["all_clear", "demo", "derived", "equals_psql", "operations", "trigger"]
LEFT_OUT += ["why_clients", "why_gauges", "why_horizon", "why_vacuum", "why_wraparound"]


@pytest.mark.skipif(not PYTHONS, reason="./dev test-full found no other Python")
@pytest.mark.parametrize("python", PYTHONS, ids=lambda python: python.parts[-3])
def test_the_tests_pass_on_another_python(python: Path) -> None:
    environ = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    options = ["-q", "-m", "not full", "--reruns", "1", "-p", "no:cacheprovider"]
    options += [f"--ignore=tests/test_{name}.py" for name in LEFT_OUT]
    done = subprocess.run(
        [python, "-m", "pytest", *options],
        cwd=ROOT,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr
