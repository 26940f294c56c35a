"""However a command ends, it is polite about it: Ctrl-C, a closed pipe, a full disk."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_run import config

PROGRAM = [sys.executable, "-m", "pgstats"]


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A server that takes connections and says nothing, and the file that names it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        dsn = f"host=127.0.0.1 port={server.getsockname()[1]} user=x"
        yield (
            server,
            config(tmp_path, "udp://127.0.0.1:9", ("postgres", "main", dsn), interval="1h"),
        )


@pytest.mark.parametrize(
    "command", ["once --no-state", "show up", "check", "nagios up", "why --watch 0"]
)
def test_ctrl_c_ends_it_without_a_word(command: str, silent: tuple[socket.socket, str]) -> None:
    server, file = silent
    with subprocess.Popen(
        [*PROGRAM, *command.split(), "--config", file],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        server.settimeout(60)
        connection, _ = server.accept()  # it has begun
        with connection:
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors.strip()) == (130, "", "")  # a line break behind ^C


TALKING = [
    *("show", "show up -H /nowhere", "metrics", "init -", "completion bash", "--help"),
    *("once --dry-run --postgres host=/nowhere", "nagios up -H /nowhere", "dashboard"),
    *("once --json --postgres host=/nowhere", "check --postgres host=/nowhere"),
    *("check --show-config --postgres host=/nowhere", "why --watch 0 --postgres host=/nowhere"),
]


@pytest.mark.parametrize("command", TALKING)
def test_a_full_disk_is_told_in_one_line(command: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, *command.split()], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if "No space left on device" in line]
    assert len(told) == 1
    assert told[0].startswith("pgstats: cannot write ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", TALKING)
def test_nobody_hears_of_a_closed_pipe(command: str) -> None:
    with subprocess.Popen(
        [*PROGRAM, *command.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        errors = process.stderr.read()
    assert "roken pipe" not in errors
    assert "Traceback" not in errors
    assert "Exception" not in errors
