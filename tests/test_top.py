"""`pgstats show --watch` and `pgstats top` in a real terminal, with names that want to break it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from pgstats.scratch import Bouncer, Cluster
from tests.program import pgstats
from tests.test_run import config
from tests.test_show import HOSTILE, front, shop
from tests.tmux import Tmux, line, wide

__all__ = ["front", "shop"]

ENDED = "ended with"
SIZES = [(80, 24), (200, 50)]
LONG = "long_" * 12 + "end"


@pytest.fixture
def file(front: Bouncer, shop: Cluster, tmp_path: Path) -> str:
    shop.psql(f"CREATE TABLE IF NOT EXISTS {LONG} AS SELECT 1 AS i", HOSTILE)
    console = front.dsn("pgbouncer", "stats")
    return config(
        tmp_path,
        "udp://127.0.0.1:9",
        ("pgbouncer", "front", console),
        ("postgres", "main", shop.dsn()),
    )


@pytest.fixture(params=SIZES, ids=lambda size: "x".join(map(str, size)))
def terminal(request: pytest.FixtureRequest) -> Iterator[Tmux]:
    columns, lines = request.param
    with Tmux(columns, lines, {"PGSTATS_COLOR": "auto"}) as terminal:
        terminal.until("$")
        yield terminal


@pytest.fixture
def small() -> Iterator[Tmux]:
    with Tmux(80, 24, {}) as terminal:
        terminal.until("$")
        yield terminal


def top(terminal: Tmux, file: str, *options: str) -> None:
    """Start it in the shell; what it leaves behind is told when it has ended."""
    words = line([sys.executable, "-m", "pgstats", "top", "--config", file, *options])
    terminal.type(f"stty -a >{file}.before; clear; echo before; {words}; echo {ENDED} $?")


def judge_left(terminal: Tmux, file: str, code: int = 0) -> None:
    """The terminal is as it was."""
    screen = terminal.until(f"{ENDED} {code}\n")
    assert screen.splitlines()[:2] == ["before", f"{ENDED} {code}"]
    assert terminal.fact("alternate_on") == "0"
    assert terminal.fact("cursor_flag") == "1"
    terminal.type(f"stty -a >{file}.after; echo done-it")
    terminal.until("\ndone-it")
    before, after = (Path(f"{file}.{when}").read_text() for when in ("before", "after"))
    assert before.partition("\n")[2] == after.partition("\n")[2]  # but for the size


def judge_page(screen: str, columns: int, lines: int) -> None:
    """All there, nothing steered, numbers right below their headings."""
    told = screen.split("\n")[:-1]
    assert told[0].startswith("pgstats top at ")
    assert told[0].endswith("front up, main up")
    assert told[lines - 1] == "q quits"
    assert len(told) == lines
    assert max(map(wide, told)) <= columns
    for title in ("pools by maxwait_seconds", "tables by vacuum_trigger_ratio", "horizon by age"):
        assert title in screen
    assert "\\x1b[2J" in screen
    assert "漢字" in screen or columns == 80
    start = told.index("tables by vacuum_trigger_ratio")
    head = next(at for at in range(start, lines) if told[at].startswith("database"))
    rows = [row for row in told[head + 1 : told.index("", head)] if not row.startswith("not shown")]
    ends = {wide(row.rstrip("↑↓")) for row in rows}
    assert len(ends) == 1, rows


FULL = pytest.mark.full


@pytest.mark.parametrize("colour", ["auto", pytest.param("never", marks=FULL)])
def test_top_in_a_terminal(colour: str, terminal: Tmux, file: str) -> None:
    columns, lines = (int(terminal.fact(f"pane_{name}")) for name in ("width", "height"))
    title = terminal.fact("pane_title")
    top(terminal, file, "--color", colour)
    judge_page(terminal.until("front up, main up", "horizon"), columns, lines)
    assert terminal.fact("alternate_on") == "1"
    assert terminal.fact("cursor_flag") == "0"
    assert ("\x1b[1m" in terminal.coloured()) == (colour == "auto")
    assert ("\x1b[" in terminal.coloured()) == (colour == "auto")
    assert terminal.fact("pane_title") == title
    terminal.press("x", "Up", "q")
    judge_left(terminal, file)


def test_it_follows_the_size_of_the_terminal(small: Tmux, file: str) -> None:
    top(small, file, "--watch", "1h")
    small.until("front up, main up")
    for columns, lines in ((200, 50), (50, 10), (10, 3), (80, 24)):
        small.resize(columns, lines)
        screen = small.when(lambda screen, at=lines: screen.split("\n")[at - 1] == "q quits")  # type: ignore[misc]
        assert len(screen.split("\n")) == lines + 1
    judge_page(small.screen(), 80, 24)
    small.resize(120, 30)
    small.when(lambda screen: screen.split("\n")[29] == "q quits")
    small.press("q")
    judge_left(small, file)


def of(terminal: Tmux) -> int:
    """The process of pgstats in the terminal."""
    shell = terminal.fact("pane_pid")
    found = subprocess.run(["pgrep", "-P", shell], capture_output=True, text=True).stdout.split()
    return int(found[-1])


@pytest.mark.parametrize("end", ["C-c", "TERM", pytest.param("HUP", marks=FULL)])
def test_whatever_ends_it_leaves_the_terminal_as_it_was(end: str, small: Tmux, file: str) -> None:
    top(small, file)
    small.until("front up, main up")
    if end == "C-c":
        small.press("C-c")
    else:
        os.kill(of(small), getattr(signal, f"SIG{end}"))
    judge_left(small, file)


def test_it_ends_at_once_while_a_server_does_not_answer(small: Tmux, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dsn = f"host=127.0.0.1 port={silent.getsockname()[1]} user=x"
        file = config(tmp_path, "udp://127.0.0.1:9", ("postgres", "main", dsn), interval="1h")
        top(small, file)
        small.until("asking ...")
        small.press("q")
        judge_left(small, file)


def test_a_bug_leaves_the_terminal_as_it_was(small: Tmux, file: str) -> None:
    plant = (
        "import sys; from pgstats.cli import viewing\n"
        "def broken(*_): raise KeyError('s3cr3t')\n"
        "viewing.View.tables = broken\n"
        f"sys.argv = ['pgstats', 'top', '--config', {file!r}]\n"
        "from pgstats.cli import main; main()\n"
    )
    script = Path(f"{file}.py")
    script.write_text(plant)
    words = line([sys.executable, script])
    program = f"{words} 2>{file}.err; echo {ENDED} $?"
    small.type(f"stty -a >{file}.before; clear; echo before; {program}")
    judge_left(small, file, 70)
    assert "a bug in pgstats" in Path(f"{file}.err").read_text()


def test_it_rests_in_the_background(small: Tmux, file: str) -> None:
    top(small, file, "--watch", "1h")
    small.until("front up, main up")
    small.press("C-z")
    screen = small.until("before", "$")
    assert "front up" not in screen
    assert small.fact("alternate_on") == "0"
    small.type("fg")
    small.until("front up, main up")
    small.press("q")
    small.when(lambda screen: screen.rstrip().endswith("\n$"), "the shell")
    assert small.fact("alternate_on") == "0"
    assert small.fact("cursor_flag") == "1"


def test_a_fault_is_on_the_page(small: Tmux, tmp_path: Path) -> None:
    file = config(tmp_path, "udp://127.0.0.1:9", ("pgbouncer", "front", "host=/nowhere user=x"))
    top(small, file)
    screen = small.until("front DOWN", "front: connect: /nowhere port 5432")
    assert len(screen.split("\n")) == 25
    small.press("q")
    judge_left(small, file)


def test_without_a_terminal_it_says_what_to_do() -> None:
    done = pgstats("top", "-H", "/nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert "top needs a terminal; pgstats show GROUP --watch 2s does without" in done.stderr


def test_a_dumb_terminal_is_none(small: Tmux, file: str) -> None:
    words = line([sys.executable, "-m", "pgstats", "top", "--config", file])
    small.type(f"TERM=dumb {words}")
    small.until("top needs a terminal")


@pytest.mark.full
@pytest.mark.parametrize("colour", ["always", "never"])
def test_watching_in_a_terminal(colour: str, terminal: Tmux, front: Bouncer) -> None:
    words = ["show", "pools", "-H", front.host, "-p", str(front.port), "-U", "stats"]
    argv = [sys.executable, "-m", "pgstats", *words, "--watch", "300ms", "--color", colour]
    terminal.type(f"clear; echo before; {line(argv)}; echo {ENDED} $?")
    terminal.until("maxwait_", "\\x1b[2J")
    with closing(psycopg2.connect(front.dsn(HOSTILE, "postgres"))) as client:
        client.cursor().execute("SELECT 1")
        screen = terminal.when(lambda screen: "0.05↑" in screen, "a change")
    assert screen.count("database") == 1, "drawn in place"
    assert ("\x1b[1m" in terminal.coloured()) == (colour == "always")
    terminal.press("C-c")
    screen = terminal.until(f"{ENDED} 0\n")
    assert screen.startswith("before\n")
    assert terminal.fact("cursor_flag") == "1"
