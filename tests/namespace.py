"""Python processes that see a file of the system as we want it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def with_own(path: str, file: Path, script: str, *arguments: str) -> subprocess.Popen[str]:
    """Run a script, with pipes, for which that path is our file; skips where that takes root."""
    alone = ["unshare", "--mount", "sh", "-c"]
    mount = f"mount --bind '{file}' {path}"
    if subprocess.run([*alone, mount], capture_output=True).returncode:
        pytest.skip(f"only root may give a process its own {path}")
    return subprocess.Popen(
        [*alone, f'{mount} && exec "$@"', "sh", sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
