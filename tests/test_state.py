"""The state file: locked, replaced whole, and never a reason to fail."""

from __future__ import annotations

import itertools
import os
import random
import resource
import socket
import stat
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgstats.errors import StateError, StateLocked
from pgstats.model import PGBOUNCER, POSTGRES, Target
from pgstats.state import State, glanced, held
from tests.conftest import User
from tests.program import pgstats

MAIN = Target(POSTGRES, "main", "")
FRONT = Target(PGBOUNCER, "front", "", tags={"team": "db"})
LISTED = "/etc/pgstats/pgstats.toml"


def keep(path: Path, target: Target = MAIN, **memory: object) -> None:
    """Remember something in the file."""
    with held(str(path)) as state:
        state.of(target).update(memory)
        state.save()


def told(path: Path) -> str:
    """Why the file cannot be used."""
    return glanced(str(path)).fault


# What is remembered, and of whom


def test_what_was_saved_is_there_for_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "not" / "yet" / "state"
    with held(str(path)) as state:
        assert (state.of(MAIN), state.sent(MAIN), state.fault) == ({}, {}, "")
        state.of(MAIN, "one")["total"] = [["a", None, 1.5, -(2**70)]]
        state.sent(MAIN)["rows"] = [["\ud800 é\n", "🐘"]]
        state.of(FRONT)["x"] = 1
        assert state.save()
    with held(str(path)) as state:
        assert state.of(MAIN, "one") == {"total": [["a", None, 1.5, -(2**70)]]}
        assert state.sent(MAIN) == {"rows": [["\ud800 é\n", "🐘"]]}
        assert state.of(FRONT) == {"x": 1}


def test_without_a_path_it_lives_in_memory() -> None:
    with held("") as one, held("") as other:
        one.of(MAIN)["x"] = 1
        assert one.of(MAIN) == {"x": 1}
        assert other.of(MAIN) == {}
        assert not one.save()


def test_another_server_starts_clean_and_one_that_is_down_does_not(tmp_path: Path) -> None:
    path = str(tmp_path / "state")
    for identity, seen in (("", {}), ("one", {"x": 1}), ("", {"x": 1}), ("one", {"x": 1})):
        with held(path) as state:
            assert state.of(MAIN, identity) == seen, identity
            state.of(MAIN)["x"] = 1
            state.sent(MAIN)["rows"] = []
            state.save()
    with held(path) as state:
        assert state.of(MAIN, "two") == {}
        assert state.sent(MAIN) == {"rows": []}, "statsd does not know who answers"
        assert state.of(MAIN, "one") == {}


def test_a_pgbouncer_is_no_postgres_of_the_same_name() -> None:
    state = State()
    state.of(MAIN)["x"] = 1
    assert state.of(Target(PGBOUNCER, "main", "")) == {}
    assert state.of(Target(POSTGRES, "main", "host=elsewhere")) == {"x": 1}


def test_targets_are_lost_when_the_file_that_listed_them_lists_them_no_more(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "state")
    with held(path) as state:
        state.expect([MAIN, FRONT], LISTED)
        state.sent(MAIN)
        state.sent(FRONT)["rows"] = [1]
        assert state.lost() == []
        state.save()
    with held(path) as state:
        state.expect([MAIN], "")  # given by options: nobody says that the others are gone
        assert state.lost() == []
        state.expect([MAIN], "/other/file.toml")
        assert state.lost() == []
        state.expect([MAIN], LISTED)
        ((target, sent),) = state.lost()
        assert (target.family, target.name, target.tags) == (PGBOUNCER, "front", {"team": "db"})
        assert sent == {"rows": [1]}
        assert state.lost() == []


# The lock


def test_a_target_whose_last_poll_ends_after_it_has_left_the_file_is_lost_then() -> None:
    state = State()
    state.expect([MAIN, FRONT], LISTED)
    state.sent(FRONT)["rows"] = [1]
    state.expect([MAIN], LISTED)
    assert [target.name for target, _ in state.lost()] == [FRONT.name]
    assert state.lost() == []
    state.sent(FRONT)["rows"] = [2]
    assert [sent for _, sent in state.lost()] == [{"rows": [2]}]
    assert state.memories(FRONT) == []


def test_a_second_run_is_told_who_holds_it(tmp_path: Path) -> None:
    path = str(tmp_path / "state")
    with held(path), pytest.raises(StateLocked, match=rf"\(pid {os.getpid()}\)"), held(path):
        pass
    with held(path) as state:
        assert state.fault == ""


def test_who_comes_second_asks_nobody_and_ends_with_75(tmp_path: Path) -> None:
    """Whether a daemon or a one-shot run, and whoever was first."""
    words = [sys.executable, "-m", "pgstats", "run", "--postgres", "host=/nowhere user=me"]
    options = ("--state", str(tmp_path / "state"), "--statsd", "udp://127.0.0.1:9")
    first = subprocess.Popen([*words, *options], stderr=subprocess.PIPE, text=True)
    assert first.stderr
    try:
        assert "polling 1 targets" in first.stderr.readline()
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            deaf.setblocking(False)
            dsn = f"host=127.0.0.1 port={deaf.getsockname()[1]} user=me"
            for command in ("once", "run"):
                done = pgstats(command, "--postgres", dsn, *options)
                assert done.returncode == 75
                (line,) = done.stderr.splitlines()
                assert f"another run (pid {first.pid}) holds the state file {options[1]}" in line
            with pytest.raises(BlockingIOError):
                deaf.accept()
            beside = pgstats("once", "--postgres", dsn, *options, "--json")
            assert beside.returncode == 69, "it takes no lock"
    finally:
        first.terminate()
        first.communicate(timeout=30)
    assert once(tmp_path / "state")[0] == 69, "the lock went with its holder"


SAVING = """
import sys
from pgstats.model import Target
from pgstats.state import held
with held(sys.argv[1]) as state:
    for number in range(10**9):
        for name in "ab":
            state.of(Target("postgres", name, ""))["seen"] = [number] * 20_000
        state.save()
        if number == 0:
            print("saved", flush=True)
"""


def test_a_hard_kill_at_any_moment_leaves_a_whole_file_and_no_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "state")
    chance = random.Random(1)
    for _ in range(8):
        saver = subprocess.Popen(
            [sys.executable, "-c", SAVING, path], stdout=subprocess.PIPE, text=True
        )
        assert saver.stdout
        assert saver.stdout.readline() == "saved\n"
        for _ in range(5):  # whoever looks while it is written sees a whole one too
            seen = glanced(path)
            assert seen.fault == ""
            time.sleep(chance.random() / 50)
        with pytest.raises(StateLocked, match=f"pid {saver.pid}"), held(path):
            pass
        saver.kill()
        saver.wait()
        saver.stdout.close()
        with held(path) as state:
            assert state.fault == ""
            first, second = (state.of(Target(POSTGRES, name, ""))["seen"] for name in "ab")
            assert first == second
            assert len(set(first)) == 1


# The file


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("no_umask")
def test_it_is_its_owner_s_alone(tmp_path: Path) -> None:
    left_behind = tmp_path / "state.new"
    left_behind.touch(0o666)
    keep(tmp_path / "state", x=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state", "state.lock"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_a_link_in_the_way_is_not_written_through(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "state.new").symlink_to(precious)
    with pytest.raises(StateError):
        keep(tmp_path / "state", x=1)
    keep(tmp_path / "state", x=1)  # the link was in the way once
    (tmp_path / "state.lock").unlink()
    (tmp_path / "state.lock").symlink_to(precious)
    with pytest.raises(StateError):
        keep(tmp_path / "state", x=1)
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("kind", ["folder", "fifo", "device"])
def test_what_is_no_file_is_left_alone(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "state"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(StateError, match="not a regular file"), held(str(path)):
        pass
    assert "starting without" in told(path), "and nobody waits for its end"


def test_it_can_be_saved_at_most_every_so_often(tmp_path: Path) -> None:
    with held(str(tmp_path / "state")) as state:
        assert [state.save(3600), state.save(3600), state.save()] == [True, False, True]


# Damage


def written(text: bytes) -> bytes:
    """A file whose checksum is right."""
    return b"pgstats state 1 %08x\n" % zlib.crc32(text) + text


def survives(data: bytes) -> str:
    """The fault told of a file with that content, which is written anew without a word."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        path.write_bytes(data)
        with held(str(path)) as state:
            assert state.of(MAIN, "x") == {}
            state.of(MAIN)["y"] = 1
            state.save()
            fault = state.fault
        with held(str(path)) as again:
            assert (again.of(MAIN), again.fault) == ({"y": 1}, "")
    return fault


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The content of a state file."""
    path = tmp_path_factory.mktemp("state") / "state"
    keep(path, x=["a", {"b": 1}])
    return path.read_bytes()


@given(st.binary(max_size=200))
def test_random_bytes_are_told_and_replaced(data: bytes) -> None:
    assert "starting without what was remembered" in survives(data)


@given(data=st.data())
def test_damage_anywhere_is_told_and_replaced(data: st.DataObject, whole: bytes) -> None:
    at = data.draw(st.integers(0, len(whole) - 1))
    damage = data.draw(
        st.one_of(
            st.just(whole[:at]),
            st.just(whole[:at] + whole[at + 1 :]),
            st.just(whole[:at] + whole[:at] + whole[at:]) if at else st.just(b""),
            st.integers(1, 255).map(
                lambda bits: whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :]
            ),
        )
    )
    assert "starting without what was remembered" in survives(damage)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a state file"),
        (b"[]", "not a state file"),
        (b'{"version": 1, "targets": 5}', "not a state file"),
        (written(b"[]").replace(b"state 1", b"state 2"), "another version of pgstats (format 2)"),
        (written(b"[]")[:-1], "damaged"),
        (written(b"[" * 10), "starting without"),
        (written(b"7"), "another version of pgstats"),
        (written(b'[{"family": "postgres", "name": "x", "news": 1}]'), "another version of"),
        (written(b'[{"family": "postgres"}]'), "another version of pgstats"),
    ],
)
def test_what_is_told_of_a_file_that_cannot_be_used(data: bytes, said: str) -> None:
    assert said in survives(data)


def test_a_file_that_is_much_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert "not a state file" in told(path)


# No room, no rights


def test_targets_polled_last_have_room_first(tmp_path: Path) -> None:
    path = str(tmp_path / "state")
    names = ["old", "huge", "new"]
    state = State(path, largest=3000)
    for name in names:
        state.of(Target(POSTGRES, name, ""))["x"] = "." * (5000 if name == "huge" else 1200)
    with pytest.raises(StateError, match=r"nothing is remembered of huge \("):
        state.save()
    state.of(Target(POSTGRES, "newest", ""))["x"] = "." * 1200
    with pytest.raises(StateError, match="of huge, old"):
        state.save()
    kept = glanced(path)
    assert (tmp_path / "state").stat().st_size < 3100
    found = [n for n in (*names, "newest") if kept.of(Target(POSTGRES, n, "")).get("x")]
    assert (found, kept.fault) == (["new", "newest"], "")


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_keeps_the_old_state(full: Path) -> None:
    path = full / "state"
    keep(path, x=1)
    with pytest.raises(StateError, match=r"cannot write .*: No space left on device; "):
        keep(path, y="." * 100_000)
    assert sorted(p.name for p in full.iterdir()) == ["state", "state.lock"]
    with held(str(path)) as state:
        assert state.of(MAIN) == {"x": 1}


def test_a_disk_that_may_only_be_read(full: Path) -> None:
    keep(full / "state", x=1)
    subprocess.run(["mount", "-o", "remount,ro", str(full)], check=True)
    code, lines = once(full / "state")
    assert code == 69
    (line,) = lines
    assert "Read-only file system" in line


def test_a_full_disk_is_locked_all_the_same(full: Path) -> None:
    (full / "filler").write_bytes(b"." * (64 << 10))
    path = str(full / "state")
    with held(path), pytest.raises(StateLocked, match="pid unknown"), held(path):
        pass


def test_a_limit_on_files_is_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "state"
    keep(path, x=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StateError, match="File too large"):
            keep(path, y="." * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert glanced(str(path)).of(MAIN) == {"x": 1}


def once(path: Path, *options: str) -> tuple[int, list[str]]:
    """What `pgstats once` ends with for a target that is down, and what it tells of the state."""
    dsn = "host=/nowhere/at/all user=me"
    done = pgstats("once", "--postgres", dsn, "--state", str(path), *options)
    assert "Traceback" not in done.stderr
    return done.returncode, [line for line in done.stderr.splitlines() if str(path) in line]


def test_the_command_goes_on_without_a_state(tmp_path: Path, full: Path) -> None:
    code, lines = once(tmp_path / "state")
    assert lines == []
    (tmp_path / "state").write_text("nonsense")
    assert once(tmp_path / "state", "--dry-run") == (code, []), "it is no business of a look"
    again, lines = once(tmp_path / "state")
    assert (again, len(lines)) == (code, 1)
    assert once(tmp_path / "state") == (code, [])
    (full / "filler").write_bytes(b"." * (64 << 10))
    again, lines = once(full / "state")
    assert (again, len(lines)) == (code, 1)
    assert "No space left on device" in lines[0]


def test_a_folder_that_may_only_be_read(user: User) -> None:
    if not user.identity and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        words = ["-m", "pgstats", "once", "--postgres", "host=/nowhere user=me", "--state"]
        process = user.start(*words, f"{folder}/state")
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 69
    assert f"cannot write {folder}/state: Permission denied" in errors
    assert "Traceback" not in errors


def test_a_run_in_the_dark_neither_reads_nor_writes(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("nonsense")
    for option in ("--dry-run", "--json", "--no-state"):
        assert once(path, option)[1] == []
        assert [found.name for found in tmp_path.iterdir()] == ["state"]
        assert path.read_text() == "nonsense"


# Many threads, many series


def test_saving_while_others_remember(tmp_path: Path) -> None:
    """What was changed under the lock is saved together or not at all."""
    path = str(tmp_path / "state")
    pair = [Target(POSTGRES, name, "") for name in ("one", "other")]
    with held(path) as state:
        ends = time.monotonic() + 1

        def work(name: str) -> None:
            for number in itertools.count():
                with state.lock:
                    for target in pair:
                        state.of(target)[name] = number
                        time.sleep(0.002)
                    state.of(Target(POSTGRES, f"{name}{number % 9}", ""))
                state.save(0.001)
                if time.monotonic() > ends:
                    return

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcdef"]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            state.save()
            seen = glanced(path)
            assert seen.fault == ""
            assert seen.of(pair[0]) == seen.of(pair[1])
        state.save()
    assert sorted(glanced(path).of(pair[0])) == list("abcdef")


def test_fifty_thousand_series_are_no_burden(tmp_path: Path) -> None:
    rows = [["appdb", f"schema_{n % 50}", f"a_table_with_a_name_{n}"] for n in range(50_000)]
    with held(str(tmp_path / "state")) as state:
        state.sent(MAIN)["rows"] = rows
        started = time.process_time()
        state.save()
        saved = time.process_time()
    assert glanced(str(tmp_path / "state")).sent(MAIN) == {"rows": rows}
    read = time.process_time()
    assert saved - started < 0.5
    assert read - saved < 0.5


def test_a_killed_run_is_no_obstacle(tmp_path: Path) -> None:
    """The name in the lock's file may be of a process that is gone; the lock goes with it."""
    keep(tmp_path / "state", x=1)
    (tmp_path / "state.lock").write_text("1\n")
    code, lines = once(tmp_path / "state")
    assert (code, lines) == (69, [])
