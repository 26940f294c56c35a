"""Real servers for the tests: a PostgreSQL, a PgBouncer and a statsd for each xdist worker."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from pgstats.errors import ScratchError
from pgstats.scratch import Bouncer, Cluster, Scratch, conninfo, find_binaries
from tests.node_statsd import NodeStatsd

ROOT = Path(__file__).parent.parent

# The same examples in every run, so that a failure is the change's; a busy machine is no failure.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# Who starts the tests in the background may have them ignore Ctrl-C, and with them all they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: Where daemons of the tests open their socket: not in the system's own folder.
_RUNTIME = tempfile.TemporaryDirectory(prefix="pgstats-run-")
os.environ["RUNTIME_DIRECTORY"] = _RUNTIME.name


def pytest_addoption(parser: pytest.Parser) -> None:
    """`./dev faults` wants a table."""
    parser.addoption("--fault-table", action="store_true", help="end with the table of faults")


def pytest_report_header() -> list[str]:
    """The versions of what is tested against."""
    try:
        binaries = find_binaries()
    except ScratchError as error:
        return str(error).splitlines()
    servers: list[list[str | Path]] = [
        [binaries.postgres / "postgres", "--version"],
        [binaries.pgbouncer, "--version"],
        ["node", "--version"],
    ]
    return [f"servers: {', '.join(_first_line(argv) for argv in servers)}"]


def _first_line(argv: Sequence[str | Path]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"{argv[0]} fails ({error})"
    return f"{Path(argv[0]).name} {done.stdout.splitlines()[0].split(' ', 1)[-1]}"


@pytest.fixture(scope="session")
def scratch() -> Iterator[Scratch]:
    """A temporary folder for servers that live as long as the test run."""
    with Scratch() as scratch:
        yield scratch


@pytest.fixture(scope="session")
def cluster(scratch: Scratch) -> Cluster:
    """A PostgreSQL cluster; whoever changes settings or roles puts them back."""
    return Cluster(scratch, {"max_prepared_transactions": 5, "max_connections": 50}).start()


@pytest.fixture(scope="session")
def bouncer(scratch: Scratch, cluster: Cluster) -> Bouncer:
    """A PgBouncer that asks no passwords: ``stats`` may look, ``pgadmin`` may do anything.

    ``named`` leads to the database postgres, every other name to the one of that name.
    """
    databases = {"named": f"{cluster.address} {conninfo(dbname='postgres')}", "*": cluster.address}
    return Bouncer(scratch, databases, admin_users=["pgadmin"], stats_users=["stats"]).start()


@pytest.fixture(scope="session")
def _node_statsd(scratch: Scratch) -> NodeStatsd:
    return NodeStatsd(scratch, ROOT / ".cache" / "node_modules" / "statsd" / "stats.js")


@pytest.fixture
def node_statsd(_node_statsd: NodeStatsd) -> NodeStatsd:
    """The statsd of npm, with no gauge set."""
    _node_statsd.forget()
    return _node_statsd


@dataclass(frozen=True)
class User:
    """Somebody who can run Python with pgstats: ourselves, or the user nobody."""

    python: str = sys.executable
    environment: dict[str, str] = field(default_factory=dict)
    identity: dict[str, Any] = field(default_factory=dict)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Run Python with those arguments, output and errors on pipes."""
        return subprocess.Popen(
            [self.python, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env=os.environ | {"PYTHONPATH": str(ROOT)} | self.environment,
            **self.identity,
        )


@pytest.fixture(scope="session")
def _nobody() -> Iterator[User]:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory(prefix="nobody-") as home:
        nobody = pwd.getpwnam("nobody")
        _copy_program(Path(home))
        identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        yield User(_reachable_python(), {"PYTHONPATH": home, "HOME": "/nonexistent"}, identity)


@pytest.fixture(params=["ourselves", "nobody"])
def user(request: pytest.FixtureRequest) -> User:
    """Whoever runs the tests, then an ordinary user."""
    if request.param == "ourselves":
        return User()
    nobody: User = request.getfixturevalue("_nobody")
    return nobody


def _copy_program(home: Path) -> None:
    """Put pgstats and what it needs where anybody may read it: the checkout may be private."""
    tools = ("mypy*", "ruff*", "pip*", "setuptools*", "hypothesis*", "__pycache__", "*.pth")
    unneeded = shutil.ignore_patterns(*tools)
    shutil.copytree(sysconfig.get_path("platlib"), home, ignore=unneeded, dirs_exist_ok=True)
    shutil.copytree(ROOT / "pgstats", home / "pgstats", ignore=unneeded, dirs_exist_ok=True)
    home.chmod(0o755)


def _reachable_python() -> str:
    """A Python of our version that anybody may run: ours may be in a private folder."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (Path(sys.executable).resolve(), Path("/usr/bin") / version):
        if python.exists() and all(folder.stat().st_mode & 1 for folder in python.parents):
            return str(python)
    pytest.skip(f"no {version} that the user nobody may run")
