"""What a person who waits is told, on a real terminal."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.program import pgstats
from tests.test_run import config
from tests.tmux import Tmux, line


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[str]:
    """The file of a server that takes connections and says nothing for some seconds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        dsn = f"host=127.0.0.1 port={server.getsockname()[1]} user=x"
        yield config(tmp_path, "udp://127.0.0.1:9", ("postgres", "main", dsn), interval="4s")


FULL = pytest.mark.full


@pytest.mark.parametrize(
    "command",
    ["show up", pytest.param("once --dry-run", marks=FULL), pytest.param("check", marks=FULL)],
)
def test_who_waits_is_told_and_the_line_goes_away(command: str, silent: str) -> None:
    words = [sys.executable, "-m", "pgstats", *command.split(), "--config", silent]
    with Tmux(120, 24, {}) as terminal:
        terminal.until("$")
        terminal.type(f"clear; {line(words)}; echo ended with $?")
        terminal.until(" s\n", "asking")
        screen = terminal.when(lambda screen: "\nended with" in screen, "the end")
        assert "asking" not in screen


def test_nobody_else_is(silent: str) -> None:
    done = pgstats("show", "up", "--config", silent)
    assert "asking" not in done.stderr
    assert "\x1b" not in done.stderr
