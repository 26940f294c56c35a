"""The log on real descriptors: pipes, a socket in the place of the journal's, a full pipe."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import count

import pytest

from pgstats.log import LONGEST, Log, duration, printable
from tests.program import pgstats


class Pipe:
    """Both ends of a pipe."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def lines(self) -> list[str]:
        """All that was written, which ends the writing."""
        os.close(self.writer)
        with open(self.reader, encoding="utf-8") as stream:  # noqa: PTH123 - a descriptor
            return stream.read().splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for end in (pipe.reader, pipe.writer):
        try:
            os.close(end)
        except OSError:
            continue


def tell(log: Log, text: str, times: int) -> None:
    for _ in range(times):
        log.tell(3, text)


@pytest.mark.parametrize(
    ("verbosity", "shown"),
    [
        ("quiet", "error"),
        ("normal", "error warning notice info"),
        ("verbose", "error warning notice info debug"),
    ],
)
def test_the_verbosity_chooses(pipe: Pipe, verbosity: str, shown: str) -> None:
    log = Log(verbosity, {}, descriptor=pipe.writer)
    for level, text in enumerate(("error", "warning", "notice", "info", "debug"), start=3):
        log.tell(level, text)
    assert pipe.lines() == shown.split()


def test_a_daemon_stamps_its_lines_in_utc(pipe: Pipe) -> None:
    Log("normal", {}, daemon=True, descriptor=pipe.writer, wall=lambda: 1763930000.9).tell(3, "x")
    assert pipe.lines() == ["2025-11-23T20:33:20Z x"]


@pytest.mark.parametrize("daemon", [True, False])
def test_the_journal_gets_priorities_and_no_time(daemon: bool) -> None:
    ours, journal = socket.socketpair()
    with ours, journal:
        status = os.fstat(ours.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        Log("normal", environ, daemon=daemon, descriptor=ours.fileno()).tell(4, "hm")
        assert journal.recv(100) == b"<4>hm\n"


@pytest.mark.parametrize("stream", ["1:2", "nonsense", ""])
def test_a_redirected_standard_error_is_not_the_journal(pipe: Pipe, stream: str) -> None:
    Log("normal", {"JOURNAL_STREAM": stream}, descriptor=pipe.writer).tell(4, "hm")
    assert pipe.lines() == ["hm"]


def test_a_state_is_told_when_it_changes_and_when_it_ends(pipe: Pipe) -> None:
    seconds = count()
    log = Log("normal", {}, descriptor=pipe.writer, monotonic=lambda: float(next(seconds)))
    for fault in ("", "refused", "refused", "late by 8.01 s", "late by 8.02 s", "5", "", ""):
        log.state("front", fault)
    log.state("front", "refused")
    assert pipe.lines() == [
        "front: refused",
        "front: late by 8.01 s",
        "front: 5",
        "front: well again after 5 s",
        "front: refused",
    ]


def test_keys_do_not_disturb_each_other(pipe: Pipe) -> None:
    log = Log("normal", {}, descriptor=pipe.writer)
    for key, fault in (("a", "down"), ("b", ""), ("b", "down"), ("a", "down")):
        log.state(key, fault)
    assert pipe.lines() == ["a: down", "b: down"]


def test_lines_from_many_threads_stay_whole(pipe: Pipe) -> None:
    log = Log("normal", {}, descriptor=pipe.writer)
    texts = [letter * 50 for letter in "abcdefgh"]
    threads = [threading.Thread(target=tell, args=(log, text, 100)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(pipe.lines()) == sorted(texts * 100)


def test_a_daemon_outlives_a_log_that_nobody_reads(pipe: Pipe) -> None:
    log = Log("normal", {}, daemon=True, descriptor=pipe.writer)
    writer = threading.Thread(target=tell, args=(log, "x" * 900, 2000), daemon=True)
    writer.start()
    writer.join(timeout=20)
    assert not writer.is_alive()
    assert 0 < len(os.read(pipe.reader, 1 << 20)) <= 1 << 16
    log.tell(3, "read again")
    assert os.read(pipe.reader, 100).endswith(b"read again\n")


def test_a_log_that_is_gone_is_no_error(pipe: Pipe) -> None:
    os.close(pipe.reader)
    for daemon in (True, False):
        Log("normal", {}, daemon=daemon, descriptor=pipe.writer).tell(3, "nobody")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain ünïcödé", "plain ünïcödé"),
        ("Is the server running\n\tlocally?\r\n", "Is the server running locally?"),
        ("\x1b[2Jgone\x07", r"\x1b[2Jgone\x07"),
        ("left \u202eright\u009b", r"left \u202eright\x9b"),
        ("lone \udce9", r"lone \udce9"),
        ("q" * 60_000, "q" * LONGEST + " [...]"),
    ],
)
def test_whatever_is_told_is_one_harmless_line(text: str, line: str) -> None:
    assert printable(text) == line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (11520, "3 h 12 min"),
        (86400, "1 d"),
        (187200.5, "2 d 4 h"),
    ],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_json_is_an_object_a_line(pipe: Pipe) -> None:
    log = Log("normal", {}, daemon=True, form="json", descriptor=pipe.writer, wall=lambda: 0.0)
    log.tell(3, 'what "it"\nsays \x1b[2J')
    log.tell(4, "hm")
    assert [json.loads(line) for line in pipe.lines()] == [
        {
            "time": "1970-01-01T00:00:00Z",
            "level": "error",
            "message": 'what "it" says \\x1b[2J',
        },
        {"time": "1970-01-01T00:00:00Z", "level": "warning", "message": "hm"},
    ]


def test_json_in_the_journal_keeps_its_priority() -> None:
    ours, journal = socket.socketpair()
    with ours, journal:
        status = os.fstat(ours.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        Log("normal", environ, form="json", descriptor=ours.fileno()).tell(4, "hm")
        assert journal.recv(100).startswith(b'<4>{"time": ')


@pytest.mark.parametrize("how", [["--log-format", "json"], ["--log-format=json"], []])
def test_whatever_a_command_tells_is_json(how: list[str]) -> None:
    env = {} if how else {"PGSTATS_LOG_FORMAT": "json"}
    down = pgstats("once", "--dry-run", "--postgres", "host=/nowhere", *how, env=env)
    wrong = pgstats("once", "--config", "/nowhere", *how, env=env)
    for done, start in ((down, "nowhere: connect: "), (wrong, "pgstats: /nowhere: cannot be read")):
        (event,) = [json.loads(line) for line in done.stderr.splitlines()]
        assert event["level"] == "error"
        assert event["message"].startswith(start)


def test_what_ends_a_command_has_its_priority_in_the_journal() -> None:
    ours, journal = socket.socketpair()
    with ours, journal:
        status = os.fstat(ours.fileno())
        environ = os.environ | {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        argv = [sys.executable, "-m", "pgstats", "once", "--config", "/nowhere"]
        assert subprocess.run(argv, stderr=ours.fileno(), env=environ).returncode == 78
        assert journal.recv(1000).startswith(b"<3>pgstats: /nowhere: cannot be read")
