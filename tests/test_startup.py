"""What each command imports: start-up is a feature."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pgstats.scratch import Bouncer, Cluster

HEAVY = {"psycopg2", "statsd", "schedule", "rich", "ssl", "logging", "asyncio", "tomllib", "json"}
HEAVY |= {"importlib.metadata", "pgstats.ask", "pgstats.catalogue", "pgstats.daemon"}


def imported(*arguments: str) -> set[str]:
    """Those of the heavy modules that a command has imported in the end."""
    program = (
        "import os, sys\n"
        "from pgstats.cli import main\n"
        "real = os._exit\n"
        "def leave(code):\n"
        "    sys.stdout.flush()\n"
        f"    print('MODULES', *({HEAVY!r} & set(sys.modules)), file=sys.stderr, flush=True)\n"
        "    real(code)\n"
        "os._exit = leave\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode in (0, 69), done.stderr
    return set(done.stderr.splitlines()[-1].removeprefix("MODULES").split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *(
            [name, "--help"]
            for name in (
                "once",
                "run",
                "check",
                "show",
                "top",
                "nagios",
                "init",
                "completion",
                "demo",
            )
        ),
    ],
    ids=" ".join,
)
def test_help_needs_nothing(arguments: list[str]) -> None:
    assert imported(*arguments) == set()


def test_metrics_needs_no_driver() -> None:
    assert imported("metrics") <= {"json", "pgstats.catalogue"}


def test_once_needs_no_schedule_no_tables_no_ssl(cluster: Cluster, bouncer: Bouncer) -> None:
    targets = ("--postgres", cluster.dsn(), "--pgbouncer", bouncer.dsn("pgbouncer", "stats"))
    needed = {"psycopg2", "json", "statsd", "pgstats.ask", "pgstats.catalogue"}  # json: psycopg2's
    assert imported("once", "--no-state", "--dry-run", *targets) == needed


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
