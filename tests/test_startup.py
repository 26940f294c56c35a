"""What each command imports: start-up is a feature."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Set

import pytest

from pgstats.cli.main import COMMANDS
from pgstats.scratch import Bouncer, Cluster

HEAVY = {"psycopg2", "statsd", "schedule", "rich", "ssl", "logging", "asyncio", "tomllib", "json"}
HEAVY |= {"importlib.metadata", "pgstats.ask", "pgstats.catalogue", "pgstats.daemon"}


def imported(*arguments: str, among: Set[str] = HEAVY) -> set[str]:
    """Those of the modules that a command has imported in the end."""
    program = (
        "import os, sys\n"
        "from pgstats.cli import main\n"
        "real = os._exit\n"
        "def leave(code):\n"
        "    sys.stdout.flush()\n"
        f"    print('MODULES', *({set(among)!r} & set(sys.modules)), file=sys.stderr, flush=True)\n"
        "    real(code)\n"
        "os._exit = leave\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode in (0, 1, 69), done.stderr
    return set(done.stderr.splitlines()[-1].removeprefix("MODULES").split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]], ids=" ".join)
def test_help_needs_nothing(arguments: list[str]) -> None:
    assert imported(*arguments) == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_needs_nothing(command: str) -> None:
    assert imported(command, "--help") == set()


def test_the_list_of_commands_imports_none_of_them() -> None:
    found = imported("--help", among={f"pgstats.cli.{name}" for name in COMMANDS})
    assert found == set()


DRIVER = {"psycopg2", "json", "pgstats.ask", "pgstats.catalogue"}  # json: psycopg2's
#: What each command needs of these. Those that go on until they are ended are left out, as are
#: those that ask no server: they have their own tests.
NEEDS: dict[str, tuple[list[str], set[str]]] = {
    "once": (["--no-state", "--dry-run"], DRIVER | {"statsd"}),
    "why": (["--no-state"], DRIVER | {"logging"}),  # that of concurrent.futures
    "check": (["--offline"], DRIVER),
    "show": (["database"], DRIVER | {"statsd", "rich"}),
    "metrics": ([], {"json", "pgstats.catalogue"}),
    "completion": (["bash"], set()),
}


@pytest.mark.parametrize("command", NEEDS)
def test_a_command_imports_what_it_needs(command: str, cluster: Cluster, bouncer: Bouncer) -> None:
    arguments, needed = NEEDS[command]
    if "pgstats.ask" in needed:
        arguments = [*arguments, "--postgres", cluster.dsn()]
    if command == "once":
        arguments += ["--pgbouncer", bouncer.dsn("pgbouncer", "stats")]
    found = imported(command, *arguments)
    assert found <= needed


def test_tls_works_with_ssl_kept_out_of_psycopg2(cluster: Cluster) -> None:
    """psycopg2 imports ssl for OpenSSL 1.0 only; libpq does TLS by itself."""
    program = (
        "import sys\n"
        "from pgstats.ask.connection import psycopg2\n"
        "assert 'ssl' not in sys.modules\n"
        "try:\n"
        "    psycopg2.connect(sys.argv[1] + ' sslmode=require')\n"
        "except psycopg2.OperationalError as error:\n"
        "    assert 'does not support SSL' in str(error), error\n"
        "import ssl\n"
        "ssl.create_default_context()\n"
    )
    dsn = f"host=127.0.0.1 port={cluster.port} user=postgres"
    done = subprocess.run([sys.executable, "-c", program, dsn], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
