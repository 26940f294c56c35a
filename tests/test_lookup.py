"""Looking host names up within a time limit."""

from __future__ import annotations

import _thread
import socket
import threading
from pathlib import Path

import pytest

from pgstats.lookup import LookupFailed, addresses, is_name
from pgstats.threads import BIRTH, Hand
from tests.namespace import with_own


@pytest.mark.parametrize("host", ["localhost", "db.example.com", "127.1", "a", "é.example", "a..b"])
def test_names(host: str) -> None:
    assert is_name(host)


@pytest.mark.parametrize(
    "host", ["", "127.0.0.1", "::1", "fe80::1%eth0", "/run/postgresql", "@abstract"]
)
def test_what_is_no_name(host: str) -> None:
    assert not is_name(host)


def test_localhost_has_addresses_each_once() -> None:
    found = addresses("localhost", 8125, socket.SOCK_DGRAM, 30)
    assert found
    assert set(found) <= {"127.0.0.1", "::1"}
    assert len(set(found)) == len(found)


def test_an_address_is_its_own() -> None:
    assert addresses("::1", 1, socket.SOCK_STREAM, 30) == ["::1"]


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 64 + ".example"])
def test_what_has_no_address_is_told(host: str) -> None:
    with pytest.raises(LookupFailed, match=host) as caught:
        addresses(host, 8125, socket.SOCK_DGRAM, 30)
    assert isinstance(caught.value, OSError)


SILENT = """
import os, socket, time
from pgstats.lookup import LookupFailed, addresses
start = time.monotonic()
for _ in range(5):
    try:
        addresses("db.example", 5432, socket.SOCK_STREAM, 0.2)
    except LookupFailed as error:
        told = error
print(told, time.monotonic() - start < 8, len(os.listdir("/proc/self/task")))
"""


def test_a_resolver_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    """By itself it would be asked for ten seconds and more; those who ask again wait together."""
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.53\nnameserver 127.0.0.53\n")
    try:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("127.0.0.53", 53))
    except OSError as error:
        server.close()
        pytest.skip(f"cannot stand in for a name server: {error}")
    with server:
        output, _ = with_own("/etc/resolv.conf", resolv, SILENT).communicate(timeout=60)
    assert output == "looking up db.example took too long True 2\n"


TWICE = """
import socket
from pgstats.lookup import addresses
print(addresses("db.example", 5432, socket.SOCK_STREAM, 30))
"""


def test_an_address_that_is_there_twice_is_one(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.2 db.example\n127.0.0.2 db.example\n")
    output, _ = with_own("/etc/hosts", hosts, TWICE).communicate(timeout=60)
    assert output == "['127.0.0.2']\n"


def test_a_thread_is_alive_while_it_works_and_while_it_may_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    goes_on = threading.Event()
    hand = Hand(goes_on.wait)  # type: ignore[arg-type]
    seen = [hand.wait(0.1), hand.alive]
    goes_on.set()
    assert [*seen, hand.wait(30), hand.alive] == [False, True, True, False]
    monkeypatch.setattr(_thread, "start_new_thread", lambda *_: None)  # as one that died at birth
    stillborn = Hand(lambda: None)
    states = [stillborn.alive]
    stillborn.since -= BIRTH
    assert [*states, stillborn.alive] == [True, False]
