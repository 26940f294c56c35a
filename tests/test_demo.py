"""The demonstration, run for real: it shows moving numbers and leaves nothing behind."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import User

FOLDER = re.compile(r"/tmp/pgstats-\w+")


def folder_of(line: str) -> Path:
    found = FOLDER.search(line)
    assert found, line
    return Path(found[0])


def processes_of(folder: Path) -> list[str]:
    """The command lines of all processes that have to do with a demonstration."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


def until(fact: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def read_to(stream: IO[str], words: str) -> list[str]:
    """Read lines up to one that holds those words."""
    lines = []
    for line in stream:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError("".join(lines))


def column(text: str, row: str, number: int) -> list[float]:
    """The numbers in one column of all rows that begin so, - for unknown ones left out."""
    cells = [line.split()[number] for line in text.splitlines() if line.strip().startswith(row)]
    return [float(cell) for cell in cells if cell != "?"]


def test_it_shows_moving_numbers_and_leaves_nothing(user: User) -> None:
    with user.start("-m", "pgstats", "demo", "--for", "16s") as demo:
        output, errors = demo.communicate(timeout=120)
    assert (demo.returncode, errors) == (0, "")
    assert max(column(output, "shop.web", 2)) > 0, "no client waited"
    assert max(column(output, "shop.web", 4)) > 0, "nobody waited for any time"
    dead = column(output, "shop.public.queue", 2)
    assert dead[-1] > dead[0]
    queries = column(output, "shop ", 1)
    assert queries[-1] > queries[0]
    assert column(output, "shop ", 2)[-1] > 0
    assert "pgstats why: shop." in output
    assert "shop-report (process" in output, "not followed through the pool to its client"
    assert "up: front 1, main 1" in output
    assert "0 packets lost" in output
    assert "\x1b" not in output
    assert max(map(len, output.split("databases = ")[1].splitlines())) <= 80
    folder = folder_of(output)
    assert not folder.exists()
    assert not processes_of(folder)


@pytest.mark.parametrize("words", ["Starting", "Running", "up: "])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_any_time(number: signal.Signals, words: str) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "pgstats", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    with demo:
        assert demo.stdout
        lines = read_to(demo.stdout, words)
        os.killpg(demo.pid, number)  # as Ctrl-C on a terminal does it
        _, errors = demo.communicate(timeout=60)
    assert (demo.returncode, errors) == (0, "")
    folder = folder_of(lines[0])
    assert not folder.exists()
    assert not processes_of(folder)


@pytest.mark.parametrize("words", ["Starting", "up: "])
def test_killed_it_still_leaves_nothing(user: User, words: str) -> None:
    with user.start("-m", "pgstats", "demo") as demo:
        assert demo.stdout
        folder = folder_of(read_to(demo.stdout, words)[0])
        until(lambda: len(processes_of(folder)) > 1)
        demo.kill()
        demo.communicate(timeout=60)
    until(lambda: not processes_of(folder))
    until(lambda: not folder.exists())


def test_a_closed_pipe_leaves_nothing() -> None:
    demo = f"{sys.executable} -m pgstats demo | head -n 1"
    done = subprocess.run(["sh", "-c", demo], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    folder = folder_of(done.stdout)
    until(lambda: not processes_of(folder))
    until(lambda: not folder.exists())


def test_on_a_terminal_it_draws_in_place() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "pgstats", "demo"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "50"},
    ) as demo:
        os.close(theirs)
        seen = ""
        while seen.count("up: front 1, main 1") < 3:
            seen += os.read(ours, 1 << 16).decode("utf-8", "replace")
        demo.terminate()
        while more := _read(ours):
            seen += more
        assert demo.wait(60) == 0
    os.close(ours)
    assert "\x1b[1A" in seen, "the cursor never moved up"
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l"), "the cursor stays hidden"
    assert not folder_of(seen).exists()


def _read(descriptor: int) -> str:
    """What a terminal still has to say; nothing once its other side is closed."""
    try:
        return os.read(descriptor, 1 << 16).decode("utf-8", "replace")
    except OSError:
        return ""


def test_it_fails_when_nothing_arrives() -> None:
    demo = [sys.executable, "-m", "pgstats", "demo", "--for", "1ms"]
    done = subprocess.run(demo, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "pgstats run did not do its work" in done.stderr


def test_it_says_how_to_get_what_is_missing() -> None:
    demo = [sys.executable, "-m", "pgstats", "demo"]
    environment = os.environ | {"PGSTATS_PG_BIN": "/nowhere"}
    done = subprocess.run(demo, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 69
    assert "PGSTATS_PG_BIN=/nowhere does not hold postgres" in done.stderr
    assert "Traceback" not in done.stderr
