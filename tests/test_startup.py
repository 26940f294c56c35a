"""What each command imports: start-up is a feature."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Set

import pytest

from pgstats.cli.main import COMMANDS
from pgstats.scratch import Bouncer, Cluster

HEAVY = {"psycopg2", "statsd", "schedule", "rich", "ssl", "logging", "asyncio", "tomllib", "json"}
HEAVY |= {"gettext", "inspect", "platform", "random", "selectors"}  # see pgstats/late.py
HEAVY |= {"importlib.metadata", "pgstats.ask", "pgstats.catalogue", "pgstats.daemon"}
#: Each costs a start that polls one to four parts in a hundred.
LIGHT = {"dataclasses", "ipaddress", "pathlib", "shlex", "string", "urllib.parse"}


def imported(*arguments: str, among: Set[str] = HEAVY) -> set[str]:
    """Those of the modules that a command has imported in the end."""
    program = (
        "import os, sys\n"
        "from pgstats.__main__ import main\n"
        "real = os._exit\n"
        "def leave(code):\n"
        "    sys.stdout.flush()\n"
        "    loaded = {n for n, m in sys.modules.items() if type(m).__name__ != '_Late'}\n"
        f"    print('MODULES', *({set(among)!r} & loaded), file=sys.stderr, flush=True)\n"
        "    real(code)\n"
        "os._exit = leave\n"
        "main()\n"
    )
    done = subprocess.run(  # without site, whose editable install imports some of them itself
        [sys.executable, "-S", "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert done.returncode in (0, 1, 69), done.stderr
    return set(done.stderr.splitlines()[-1].removeprefix("MODULES").split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]], ids=" ".join)
def test_help_needs_nothing(arguments: list[str]) -> None:
    assert imported(*arguments) == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_needs_nothing(command: str) -> None:
    assert imported(command, "--help") <= {"inspect"}  # which cleans texts of several lines


def test_the_list_of_commands_imports_none_of_them() -> None:
    found = imported("--help", among={f"pgstats.cli.{name}" for name in COMMANDS})
    assert found == set()


DRIVER = {"psycopg2", "json", "pgstats.ask", "pgstats.catalogue"}  # json: psycopg2's
#: What each command needs of these. Those that go on until they are ended are left out, as are
#: those that ask no server: they have their own tests.
NEEDS: dict[str, tuple[list[str], set[str]]] = {
    "once": (["--no-state", "--dry-run"], DRIVER | {"statsd"}),
    "why": (["--no-state"], DRIVER | {"logging", "string", "ipaddress"}),
    "check": (["--offline"], DRIVER),
    "show": (["database"], DRIVER | {"statsd", "rich", "dataclasses", "inspect", "random"}),
    "metrics": ([], {"json", "pgstats.catalogue"}),
    "completion": (["bash"], {"selectors"}),  # of subprocess, with which click looks for the shell
}


@pytest.mark.parametrize("command", NEEDS)
def test_a_command_imports_what_it_needs(command: str, cluster: Cluster, bouncer: Bouncer) -> None:
    arguments, needed = NEEDS[command]
    if "pgstats.ask" in needed:
        arguments = [*arguments, "--postgres", cluster.dsn()]
    if command == "once":
        arguments += ["--pgbouncer", bouncer.dsn("pgbouncer", "stats")]
    found = imported(command, *arguments, among=HEAVY | LIGHT)
    assert found <= needed


#: What a one-shot run of a PostgreSQL with nothing special about it does without.
SELDOM = {
    *("pgstats.ask.burst", "pgstats.ask.pgbouncer", "pgstats.ask.proof", "pgstats.ask.question"),
    *("pgstats.ask.sizes", "pgstats.ask.command"),
    *("pgstats.config.questions", "pgstats.config.statement", "pgstats.config.showing"),
    *("pgstats.config.template", "pgstats.shape.joined", "pgstats.why.filling"),
    *("pgstats.why.report", "pgstats.why.verdict", "pgstats.daemon", "pgstats.instrumenting"),
}


def test_a_plain_run_imports_nothing_that_is_seldom_needed(cluster: Cluster) -> None:
    arguments = ["once", "--no-state", "--dry-run", "--postgres", cluster.dsn()]
    assert imported(*arguments, among=SELDOM) == set()
    assert imported("check", "--offline", "--show-config", *arguments[3:], among=SELDOM) == {
        "pgstats.config.showing"
    }


#: Of each module that comes late: what is answered without it, then something that takes it.
LATE = {
    "inspect": (
        *(
            "cleandoc(' a\tb ')",
            "isfunction(print)",
            "isfunction(lambda: 0)",
            "cleandoc('a\\n  b')",
        ),
        *("iscoroutinefunction(print)", "signature(lambda a, /: 0)"),
    ),
    "gettext": ("gettext('a')", "ngettext('a', 'b', 1)", "ngettext('a', 'b', 2)", "find('a')"),
    "platform": ("system()", "machine()"),
    "random": ("Random(1).random()",),
    "selectors": ("PollSelector",),
}


@pytest.mark.parametrize("module", LATE)
def test_a_module_that_comes_late_is_like_any_other(module: str) -> None:
    program = (
        "import sys\n"
        "from pgstats.late import keep_out\n"
        "if sys.argv[2:]:\n"
        "    keep_out()\n"
        "module = __import__(sys.argv[1])\n"
        f"print(*(eval('module.' + text) for text in {LATE[module]!r}))\n"
        "assert type(sys.modules[sys.argv[1]]) is type(sys)\n"
    )
    plain, late = (
        subprocess.run(
            [sys.executable, "-S", "-c", program, module, *more],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
        ).stdout
        for more in ([], ["late"])
    )
    assert plain == late != ""


def test_annotations_that_are_texts_are_compiled_when_they_are_evaluated() -> None:
    """Click has some 30 of them; the first one costs a twentieth of a plain run."""
    program = (
        "import sys, typing\n"
        "compiled = []\n"
        "def hook(event, arguments):\n"
        "    if event == 'compile' and arguments[1] == '<string>':\n"
        "        compiled.append(bytes(arguments[0]))\n"
        "sys.addaudithook(hook)\n"
        "from pgstats.__main__ import main\n"
        "import pgstats.cli.once, pgstats.cli.cycle, pgstats.ask.postgres, pgstats.ask.pgbouncer\n"
        "texts = [text for text in compiled if not text.startswith(b'lambda ')]\n"
        "assert not texts, texts\n"
        "class Kind(typing.NamedTuple):\n"
        "    one: 'typing.List[Kind]'\n"
        "    two: 'int | None' = None\n"
        "hints = typing.get_type_hints(Kind)\n"
        "assert hints == {'one': typing.List[Kind], 'two': typing.Optional[int]}, hints\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


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
