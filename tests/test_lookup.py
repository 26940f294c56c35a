"""Looking host names up within a time limit."""

from __future__ import annotations

import socket
import time

import pytest

from pgstats.lookup import LookupFailed, addresses, is_name


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


def test_it_ends_in_time() -> None:
    """Whoever has no time left does not even wait for a resolver that would answer."""
    start = time.monotonic()
    with pytest.raises(LookupFailed, match=r"too long|cannot look up"):
        addresses("no-such-host.invalid", 8125, socket.SOCK_DGRAM, -1)
    assert time.monotonic() - start < 5
