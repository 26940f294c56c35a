"""Runs pgstats as its users do: a process, its output, its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping

#: Where a run that names no state file keeps it: not in the system's own folder.
_STATE = tempfile.TemporaryDirectory(prefix="pgstats-state-")


def pgstats(
    *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. The environment holds no setting of pgstats or libpq."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "XDG_"))}
    clean["STATE_DIRECTORY"] = _STATE.name
    return subprocess.run(
        [sys.executable, "-m", "pgstats", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=clean | dict(env or {}),
    )


def gauges(output: str) -> dict[str, float]:
    """The lines of a dry run in the plain dialect, by name; the last value counts."""
    found = {}
    for line in output.splitlines():
        name, _, rest = line.partition(":")
        value, _, kind = rest.partition("|")
        assert kind == "g", line
        found[name] = float(value)
    return found
