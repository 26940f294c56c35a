"""Handing lines to a receiver, over real sockets that come, go, stall and start anew."""

from __future__ import annotations

import errno
import gc
import select
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgstats.catalogue.own import LOSSES
from pgstats.errors import ShipError
from pgstats.lookup import LookupFailed
from pgstats.ship import Paper, Wire, cure, cut, said, wire
from pgstats.ship.base import AT_ONCE, Lost, reason
from pgstats.ship.kernel import drops
from pgstats.ship.pace import BURST, FIRST_REST, LONGEST_REST, Pace, Rest
from pgstats.sink import Sink, series
from tests.namespace import with_own

LINES = "".join(f"pgstats.test.gauge_{n}:{n}|g\n" for n in range(1000))


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


@pytest.fixture
def urls(tmp_path: Path) -> dict[str, str]:
    return {
        "udp": "udp://127.0.0.1:0",
        "udp6": "udp://[::1]:0",
        "tcp": "tcp://127.0.0.1:0",
        "tcp6": "tcp://[::1]:0",
        "unix": f"unix://{tmp_path}/stream",
        "unixgram": f"unixgram://{tmp_path}/datagram",
    }


EVERY = ["udp", "udp6", "tcp", "tcp6", "unix", "unixgram"]
STREAMS = ["tcp", "tcp6", "unix"]


@pytest.fixture
def wires() -> Iterator[Callable[..., Wire]]:
    """Makes wires and closes them."""
    made: list[Wire] = []

    def make(url: str, **options: Any) -> Wire:
        made.append(wire(url, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


Wires = Callable[..., Wire]


def counted(wire: Wire) -> dict[str, float]:
    """What a wire has counted, less the time."""
    return {name: count for name, count in wire.counts.items() if name != "seconds"}


def again(wire: Wire, text: str) -> None:
    """Ship once the receiver is tried again."""
    until = time.monotonic() + 60
    while not wire.ship(text, 30):
        assert time.monotonic() < until, wire.fault
        time.sleep(0.01)


def received(sink: Sink, lines: int, pause: float = 0.0) -> list[str]:
    """Receive until that many lines came, resting in between."""
    until = time.monotonic() + 60
    found: list[str] = []
    while len(found) < lines:
        assert time.monotonic() < until, f"only {len(found)} came"
        found += sink.receive(1)
        time.sleep(pause)
    return found


# ---- cutting


def lines_of(numbers: list[tuple[str, int]]) -> list[str]:
    """Units that must stay whole: a line, or a zero and its negative."""
    return [f"{n}:{v}|g" if v >= 0 else f"{n}:0|g\n{n}:{v}|g" for n, v in numbers]


NAMES = st.text("abc.", min_size=1, max_size=12)


@given(st.lists(st.tuples(NAMES, st.integers(-20, 20)), max_size=30), st.integers(1, 80))
def test_packets_are_whole_lines_and_pairs(numbers: list[tuple[str, int]], size: int) -> None:
    units = lines_of(numbers)
    packets = [packet.decode() for packet in cut("\n".join(units).encode(), size)]
    assert "\n".join(packets) == "\n".join(units)
    left = list(units)
    for packet in packets:
        taken = [left.pop(0)]
        while "\n".join(taken) != packet:
            taken.append(left.pop(0))  # fails when a packet ends inside a unit
        assert len(packet) <= size or len(taken) == 1
        assert not left or len(packet) + 1 + len(left[0]) > size or "\n" in left[0]


@given(st.text("ab:-0|g\n", max_size=60), st.integers(1, 20))
def test_any_text_is_cut_at_line_ends(text: str, size: int) -> None:
    packets = [packet.decode() for packet in cut(text.encode(), size)]
    assert all(packets)
    wanted = [line for line in text.split("\n") if line]
    assert [line for packet in packets for line in packet.split("\n") if line] == wanted


def test_changes_are_not_taken_for_pairs() -> None:
    """`gauge(delta=True)` of the statsd package: any number of them may follow each other."""
    data = b"\n".join([b"x:-1|g"] * 100)
    assert max(map(len, cut(data, 64))) <= 64
    assert max(map(len, cut(b"x:0|g\n" + data, 64))) <= 64
    assert list(cut(b"y:0|g\nx:-1|g", 6)) == [b"y:0|g", b"x:-1|g"]


# ---- pacing


class Clock:
    """A clock that only sleeping moves on."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_a_burst_then_the_rate() -> None:
    clock = Clock()
    pace = Pace(1000, clock, clock.sleep)
    assert all(pace.take(1) for _ in range(BURST))
    assert clock.slept == []
    assert all(pace.take(1) for _ in range(500))
    assert sum(clock.slept) == pytest.approx(0.5)


def taken(pace: Pace, packets: int) -> list[int]:
    """So many packets as a shipment takes them."""
    steps: list[int] = []
    while (left := packets - sum(steps)) > 0:
        steps.append(pace.take(60, min(left, AT_ONCE)))
    return steps


@pytest.mark.parametrize(
    ("rate", "step"), [(1, 1), (99, 1), (100, 1), (250, 2), (1000, 10), (50_000, 10)]
)
def test_the_packets_of_a_moment_are_waited_for_together(rate: int, step: int) -> None:
    """At the default rate a hundred wake-ups a second, and not a thousand."""
    clock = Clock()
    pace = Pace(rate, clock, clock.sleep)
    assert taken(pace, BURST) == [BURST]
    assert clock.slept == []
    steps = taken(pace, 500)
    assert max(steps) == step
    assert len(clock.slept) == 500 / step
    assert sum(clock.slept) == pytest.approx(500 / rate)


def test_no_more_are_waited_for_than_time_is_left() -> None:
    clock = Clock()
    pace = Pace(1000, clock, clock.sleep)
    assert taken(pace, BURST) == [BURST]
    assert pace.take(0.0035, AT_ONCE) == 3
    assert clock.slept == [pytest.approx(0.003)]
    assert pace.take(0.0005, AT_ONCE) == pace.take(-1, AT_ONCE) == 0
    assert len(clock.slept) == 1


def test_what_is_given_back_may_go_at_once() -> None:
    clock = Clock()
    pace = Pace(1, clock, clock.sleep)
    assert pace.take(60, AT_ONCE) == BURST
    pace.give_back(3)
    assert pace.take(0, AT_ONCE) == 3
    pace.give_back(BURST + 1)
    assert pace.take(0, AT_ONCE) == BURST, "and no more"


def test_trouble_takes_no_time_from_those_behind_it(wires: Wires) -> None:
    """Twenty may go at once, then one a second: one meets trouble, the others still go."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        ours = wires(f"udp://127.0.0.1:{receiver.getsockname()[1]}", max_packet=64)
        ours._pace = Pace(1)
        assert ours.ship("x:1|g")
        wrong = ours._socket.dup()

        def texts() -> Iterator[str]:
            yield "".join(f"{'x' * 50}{n}:1|g\n" for n in range(2))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.bind(("127.0.0.1", 0))
                nobody = other.getsockname()
            wrong.connect(nobody)
            wrong.send(b"lost")  # behind the wire's back: the refusal stays in the socket
            wrong.connect(receiver.getsockname())
            yield "".join(f"{'x' * 50}{n}:1|g\n" for n in range(10))

        assert ours.hand_over(texts(), 0.5) == "Connection refused"
        wrong.close()
    assert (ours.counts["packets"], ours.counts["errors"]) == (12, 1)


@given(
    rate=st.integers(1, 100_000),
    steps=st.lists(st.tuples(st.floats(-1, 1), st.integers(1, AT_ONCE), st.floats(0, 0.1))),
)
def test_no_more_go_than_the_rate_and_a_burst(
    rate: int, steps: list[tuple[float, int, float]]
) -> None:
    clock = Clock()
    pace = Pace(rate, clock, clock.sleep)
    start = clock.now
    gone = 0
    for seconds, most, busy in steps:
        before = clock.now
        found = pace.take(seconds, most)
        assert 0 <= found <= min(most, BURST)
        assert clock.now - before <= max(0, seconds) + 1e-6
        gone += found
        assert gone <= BURST + rate * (clock.now - start) * 1.000001 + 0.001
        clock.now += busy


def test_rest_gives_the_burst_back_but_no_more() -> None:
    clock = Clock()
    pace = Pace(10, clock, clock.sleep)
    assert all(pace.take(1) for _ in range(BURST))
    clock.now += 3600
    assert all(pace.take(1) for _ in range(BURST))
    assert clock.slept == []
    assert pace.take(1)
    assert clock.slept == [pytest.approx(0.1)]


def test_it_does_not_wait_in_vain() -> None:
    clock = Clock()
    pace = Pace(1, clock, clock.sleep)
    assert all(pace.take(0.5) for _ in range(BURST))
    assert not pace.take(0.5)
    assert clock.slept == []


def test_no_rate_is_no_limit() -> None:
    clock = Clock()
    pace = Pace(0, clock, clock.sleep)
    assert all(pace.take(0) for _ in range(10_000))
    assert clock.slept == []


# ---- resting


def test_each_rest_is_longer_up_to_a_limit() -> None:
    clock = Clock()
    rest = Rest(clock, chance=lambda: 1.0)
    fault = OSError("gone")
    for span in (0.25, 0.5, 1, 2, 4, 8, LONGEST_REST, LONGEST_REST):
        assert rest.fault() is None
        rest.begin(fault)
        clock.now += 0.99 * span
        assert rest.fault() is fault
        clock.now += 0.02 * span
    rest.end()
    rest.begin(fault)
    clock.now += FIRST_REST
    assert rest.fault() is None


def test_no_two_rest_alike() -> None:
    clock = Clock()
    ends = set()
    for chance in (0.0, 0.5, 0.9):
        rest = Rest(clock, chance=lambda: chance)  # noqa: B023
        rest.begin(OSError())
        start = clock.now
        while rest.fault():
            clock.now += 0.001
        ends.add(round(clock.now - start, 2))
    assert len(ends) == 3
    assert min(ends) >= FIRST_REST / 2


# ---- every transport


@pytest.mark.parametrize("kind", EVERY)
def test_all_lines_arrive(kind: str, urls: dict[str, str], wires: Wires) -> None:
    with Sink(urls[kind]).start() as sink:
        ours = wires(sink.url)
        assert ours.ship(LINES, 30)
        assert ours.ship("x:0|g\nx:-7|g\n", 30)
        assert sink.wait(lambda: series("x") in sink.values, 30)
        assert sink.lines == 1002
        assert sink.values[series("pgstats.test.gauge_999")] == 999
        assert sink.values[series("x")] == -7
        assert (sink.bad_lines, ours.fault) == (0, "")
        packets, size = ours.counts["packets"], ours.counts["bytes"]
    assert counted(ours) == {
        "lines": 1002, "packets": packets, "bytes": size, "errors": 0, "dropped": 0
    }  # fmt: skip
    assert ours.counts["seconds"] > 0
    assert set(ours.drops.values()) == {0}
    assert size + packets == len(LINES) + len("x:0|g\nx:-7|g\n")


@pytest.mark.parametrize("size", [64, 512, 1400, 8192])
def test_no_datagram_is_larger_than_asked(size: int, wires: Wires) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(30)
        ours = wires(f"udp://127.0.0.1:{receiver.getsockname()[1]}", max_packet=size)
        text = LINES[:3000].rpartition("\n")[0]
        assert ours.ship(text, 30)
        packets = [receiver.recv(65536) for _ in range(int(ours.counts["packets"]))]
    assert max(map(len, packets)) <= size
    assert b"\n".join(packets).decode() == text


def test_any_path_is_taken_as_it_is(tmp_path: Path, wires: Wires) -> None:
    path = tmp_path / "a b#c?d%20e"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        assert wires(f"unixgram://{path}").ship("x:1|g")
        assert receiver.recv(100) == b"x:1|g"


def test_a_fast_wire_is_paced(wires: Wires) -> None:
    with Sink().start() as sink:
        ours = wires(sink.url, rate=100, max_packet=64)
        start = time.monotonic()
        assert ours.ship("".join(f"{'x' * 40}{n}:1|g\n" for n in range(BURST + 50)), 30)
        assert time.monotonic() - start >= 0.45
        assert ours.counts["packets"] == BURST + 50


def test_a_dry_run_keeps_the_packets() -> None:
    paper = Paper(64)
    assert paper.ship("a:1|g\n" * 20)
    assert [len(packet) for packet in paper.packets] == [59, 59]
    assert counted(paper) == {"lines": 20, "packets": 2, "bytes": 118, "errors": 0, "dropped": 0}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1", "must start with udp://"),
        ("127.0.0.1:8125", "must start with udp://"),
        ("udp://127.0.0.1:x", "x"),
        ("udp://127.0.0.1:99999", "65535"),
        ("udp://127.0.0.1:0", "65535"),
        ("tcp://:8125", "a host"),
        ("udp://[::1", "udp://"),
        ("unix://relative", "whole path"),
        ("unixgram://", "whole path"),
    ],
)
def test_bad_urls_are_told(url: str, words: str) -> None:
    with pytest.raises(ShipError, match=words):
        wire(url)


def test_the_port_of_statsd_is_the_default() -> None:
    assert wire("udp://127.0.0.1")._port == 8125


# ---- receivers that are not there


@pytest.fixture
def nobody(tmp_path: Path) -> dict[str, str]:
    """Addresses where nobody listens."""
    port = closed_port()
    for name, kind in (("stream", socket.SOCK_STREAM), ("datagram", socket.SOCK_DGRAM)):
        with socket.socket(socket.AF_UNIX, kind) as sock:
            sock.bind(str(tmp_path / name))
    return {
        "udp": f"udp://127.0.0.1:{port}",
        "udp6": f"udp://[::1]:{port}",
        "tcp": f"tcp://127.0.0.1:{port}",
        "tcp6": f"tcp://[::1]:{port}",
        "both": f"udp://localhost:{port}",
        "unix": f"unix://{tmp_path}/stream",
        "unixgram": f"unixgram://{tmp_path}/datagram",
    }


@pytest.mark.parametrize("kind", [*EVERY, "both"])
def test_each_refused_packet_is_counted(kind: str, nobody: dict[str, str], wires: Wires) -> None:
    ours = wires(nobody[kind])
    for shipment in range(1, 6):
        assert not ours.ship("x:1|g\ny:2|g\n", 30)
        assert ours.fault == "Connection refused"
        assert counted(ours) == {
            "lines": 0, "packets": 0, "bytes": 0, "errors": shipment, "dropped": 2 * shipment
        }  # fmt: skip
        assert ours.drops["refused"] == sum(ours.drops.values()) == 2 * shipment


@pytest.mark.parametrize("kind", EVERY)
def test_after_some_refusals_the_rest_is_dropped_and_counted(
    kind: str, nobody: dict[str, str], wires: Wires
) -> None:
    ours = wires(nobody[kind], max_packet=64, rate=1)
    start = time.monotonic()
    assert not ours.ship(LINES * 3, 60)
    assert time.monotonic() - start < 30  # at one a second the tokens would last for an hour
    assert ours.counts["errors"] == len(list(cut((LINES * 3).encode(), 64))) > BURST
    assert ours.counts["packets"] == 0
    assert ours.fault == "Connection refused"


def test_a_path_that_is_not_there(tmp_path: Path, wires: Wires) -> None:
    for scheme in ("unix", "unixgram"):
        ours = wires(f"{scheme}://{tmp_path}/nothing")
        assert not ours.ship("x:1|g")
        assert ours.fault == probed(ours) == "No such file or directory"


def test_a_name_without_address(wires: Wires) -> None:
    """Start without DNS: no error at once, and the rest is not waited for."""
    ours = wires("udp://no-such-host.invalid:8125")
    assert not ours.ship(LINES, 30)
    assert "no-such-host.invalid" in ours.fault
    assert ours.drops["dns"] == ours.counts["dropped"] == 1000
    assert ours.counts["errors"] == len(list(cut(LINES.encode(), 1400)))


def probed(ours: Wire) -> str:
    fault = ours.probe()
    return said(fault) if fault else ""


@pytest.mark.parametrize("kind", EVERY)
def test_the_probe_finds_who_is_not_there(
    kind: str, urls: dict[str, str], nobody: dict[str, str], wires: Wires
) -> None:
    assert probed(wires(nobody[kind])) == "Connection refused"
    Path(nobody[kind].partition("://")[2]).unlink(missing_ok=True)
    with Sink(urls[kind]).start() as sink:
        ours = wires(sink.url)
        assert probed(ours) == ""
        assert ours.counts["errors"] == ours.counts["lines"] == sink.bad_lines == 0


@pytest.mark.parametrize("kind", ["udp", "udp6", "unix", "unixgram"])
def test_the_probe_finds_who_reads_nothing(kind: str, urls: dict[str, str], wires: Wires) -> None:
    with Sink(urls[kind]) as deaf:  # not started
        fault = wires(deaf.url).probe()
        assert fault
        assert said(fault) == "stalled: it reads nothing"
        assert "see whether it was stopped" in cure(fault)


def test_what_to_do_is_said_of_a_socket_of_the_other_kind(
    urls: dict[str, str], wires: Wires
) -> None:
    for kind, other in (("unix", "unixgram"), ("unixgram", "unix")):
        with Sink(urls[kind]).start() as sink:
            fault = wires(sink.url.replace(f"{kind}://", f"{other}://")).probe()
            assert fault
            assert "of the other kind" in cure(fault)


@pytest.mark.parametrize("kind", EVERY)
def test_a_receiver_that_comes_back_is_used_again(
    kind: str, urls: dict[str, str], wires: Wires
) -> None:
    with Sink(urls[kind]).start() as first:
        url = first.url
        ours = wires(url)
        assert ours.ship("x:1|g\n", 30)
        assert first.wait(lambda: first.lines == 1, 30)
    assert not ours.ship("x:2|g\n", 30)
    assert ours.counts["errors"] == 1
    with Sink(url).start() as second:
        again(ours, "x:3|g\n")
        assert second.wait(lambda: second.lines == 1, 30)
        assert second.values[series("x")] == 3
    assert ours.fault == ""
    assert ours.counts["lines"] == 2
    assert ours.drops["refused"] == ours.counts["dropped"] == ours.counts["errors"] >= 1


@pytest.mark.parametrize("kind", EVERY)
def test_only_who_connects_anew_rests(
    kind: str, nobody: dict[str, str], wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A datagram that is refused costs nothing; a connection may cost its time-out."""
    monkeypatch.setattr("pgstats.ship.pace.FIRST_REST", 3600.0)
    ours = wires(nobody[kind])
    assert not ours.ship("x:1|g")
    Path(nobody[kind].partition("://")[2]).unlink(missing_ok=True)
    with Sink(nobody[kind]).start():
        assert ours.ship("x:2|g") == (kind not in STREAMS)
        assert ours.fault == ("Connection refused" if kind in STREAMS else "")
        assert (ours._socket is None) == (kind in STREAMS), "it was not even tried"


@pytest.mark.parametrize("kind", EVERY)
def test_a_restart_between_two_shipments_costs_nothing(
    kind: str, urls: dict[str, str], wires: Wires
) -> None:
    with Sink(urls[kind]).start() as first:
        url = first.url
        ours = wires(url)
        assert ours.ship("x:1|g\n", 30)
        assert first.wait(lambda: first.lines == 1, 30)
    with Sink(url).start() as second:
        assert ours.ship(LINES, 30)
        assert second.wait(lambda: second.lines == 1000, 30)
    assert ours.counts["errors"] == 0


def test_a_late_refusal_is_counted_and_the_next_packet_goes_out(wires: Wires) -> None:
    """As from another host: the answer comes when send() is long over."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        port = receiver.getsockname()[1]
        ours = wires(f"udp://127.0.0.1:{port}")
        assert ours.ship("x:1|g")
    raw = ours._socket
    raw.send(b"lost")  # behind the wire's back: the refusal stays in the socket
    with Sink(f"udp://127.0.0.1:{port}").start() as sink:
        assert not ours.ship("x:2|g")
        assert ours.fault == "Connection refused"
        assert ours.ship("x:3|g")
        assert sink.wait(lambda: sink.lines == 1, 30)
    assert (ours.counts["packets"], ours.counts["errors"]) == (2, 1)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("packets", [3, 200])
def test_one_that_is_gone_amid_a_shipment_has_all_that_counts_as_sent(
    packets: int, host: str, wires: Wires
) -> None:
    """Whichever of the packets that go out together is the first to be refused."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    url = f"udp://[{host}]" if ":" in host else f"udp://{host}"
    text = "".join(f"{'x' * 50}_{n}:1|g\n" for n in range(packets))
    for _ in range(20):
        with socket.socket(family, socket.SOCK_DGRAM) as receiver:
            receiver.bind((host, 0))
            ours = wires(f"{url}:{receiver.getsockname()[1]}", rate=0, max_packet=64)
            gone = threading.Thread(target=hears_no_others_from_now_on, args=(receiver,))
            gone.start()
            assert ours.ship("first:1|g\n", 30)
            while ours.ship(text, 30):
                pass
            gone.join()
            lost = ours.lost()
            receiver.setblocking(False)
            arrived = 1
            with suppress(BlockingIOError):
                while receiver.recv(100):
                    arrived += 1
        assert ours.fault == "Connection refused"
        assert ours.counts["packets"] == arrived + (lost or 0)
        assert (ours.counts["packets"] + ours.counts["errors"]) % packets == 1
        assert ours.drops["refused"] == ours.counts["errors"] > 0


@pytest.mark.parametrize("packets", [1, 2, 9])
def test_a_refusal_is_told_by_the_next_packet_or_in_the_end(packets: int, wires: Wires) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        ours = wires(f"udp://127.0.0.1:{receiver.getsockname()[1]}")
        assert ours.ship("first:1|g")
    with pytest.raises(Lost) as told:
        ours._send_more(ours._socket, [b"more:1|g"] * packets)
    assert told.value.out == 1, "the first, which was there before"


def hears_no_others_from_now_on(receiver: socket.socket) -> None:
    """Once one has come, refuse what is sent by anybody but itself; what has come stays."""
    receiver.recv(100)
    receiver.connect(receiver.getsockname())


# ---- receivers that stall

Stalled = dict[str, tuple[str, socket.socket]]


@pytest.fixture
def stalled(tmp_path: Path) -> Iterator[Stalled]:
    """Addresses where somebody listens and reads nothing."""
    tcp = socket.create_server(("127.0.0.1", 0))
    unix, unixgram = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with tcp, unix, unixgram:
        unix.bind(str(tmp_path / "stream"))
        unix.listen()
        unixgram.bind(str(tmp_path / "datagram"))
        yield {
            "tcp": (f"tcp://127.0.0.1:{tcp.getsockname()[1]}", tcp),
            "unix": (f"unix://{tmp_path}/stream", unix),
            "unixgram": (f"unixgram://{tmp_path}/datagram", unixgram),
        }


@pytest.mark.parametrize("kind", ["tcp", "unix", "unixgram"])
def test_a_stalled_receiver_costs_a_bounded_time(kind: str, stalled: Stalled, wires: Wires) -> None:
    ours = wires(stalled[kind][0], rate=0, max_packet=8192)
    text = LINES * 400  # more than socket buffers hold
    start = time.monotonic()
    assert not ours.ship(text, 60)
    assert time.monotonic() - start < 20
    assert ours.fault == "stalled: it reads nothing"
    assert ours.counts["packets"] + ours.counts["errors"] == len(list(cut(text.encode(), 8192)))
    assert ours.counts["errors"] > 0


class Texts(list[str]):
    """Texts whose end can be seen."""


@pytest.mark.parametrize("trouble", ["refused", "tcp", "unix", "unixgram", "late", "dns"])
def test_what_could_not_be_shipped_is_let_go_of(
    trouble: str, stalled: Stalled, wires: Wires
) -> None:
    """And not when Python next looks for garbage: it may be the rows of 100,000 tables."""
    with socket.socket(type=socket.SOCK_DGRAM) as reader:
        reader.bind(("127.0.0.1", 0))
        urls = {kind: url for kind, (url, _) in stalled.items()} | {
            "refused": f"udp://127.0.0.1:{closed_port()}",
            "late": f"udp://127.0.0.1:{reader.getsockname()[1]}",
            "dns": "udp://no-such-host.invalid:8125",
        }
        ours = wires(urls[trouble], rate=1 if trouble == "late" else 0)
        texts = Texts([LINES] * 400)
        seen = weakref.ref(texts)
        gc.collect()
        gc.disable()
        try:
            assert ours.hand_over(texts, 1)
            del texts
            assert seen() is None
        finally:
            gc.enable()


@pytest.mark.parametrize("kind", ["tcp", "unix", "unixgram"])
def test_one_that_reads_again_gets_whole_lines_on_the_same_socket(
    kind: str, stalled: Stalled, wires: Wires
) -> None:
    """What it was sent before it stalled is not followed by half a line, nor overtaken."""
    ours = wires(stalled[kind][0], rate=0)
    assert not ours.ship(LINES * 400, 1)
    assert ours.drops["stalled"] == ours.counts["dropped"] > 0
    held, sent = ours._socket, ours.counts["lines"]
    assert held is not None
    assert not ours.ship("not now:1|g\n")
    assert not ours.ship("not now:1|g\n"), "and at no cost: it rests"
    listening = stalled[kind][1]
    with listening if kind == "unixgram" else listening.accept()[0] as receiver:
        receiver.settimeout(30)
        lines: list[bytes] = []
        reader = threading.Thread(target=read_lines, args=(receiver, lines))
        reader.start()
        again(ours, "last:1|g\n")
        assert ours._socket is held
        reader.join(30)
    assert lines[-1] == b"last:1|g"
    assert len(lines) == sent + 1
    assert {line.partition(b":")[0].rstrip(b"0123456789") for line in lines[:-1]} == {
        b"pgstats.test.gauge_"
    }
    assert all(line.endswith(b"|g") for line in lines)


@pytest.mark.parametrize("buffer", [1 << 13, 1 << 14, 1 << 16])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_packets_that_go_out_together_fit_into_the_kernel_s_buffer(
    kind: str, buffer: int, stalled: Stalled, wires: Wires
) -> None:
    """However small it is: one that stalls never holds half a line."""
    ours = wires(stalled[kind][0])
    assert ours.ship("x:1|g\n")
    ours._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    with stalled[kind][1].accept()[0] as receiver:
        assert not ours.ship(LINES * 400, 1)
        assert ours._socket, "no line was left unfinished"
        sent = ours.counts["lines"]
        ours.close()
        with receiver.makefile("rb") as file:
            lines = file.read().splitlines(keepends=True)
    assert len(lines) == sent > 100
    assert all(line.endswith(b"|g\n") for line in lines)


def read_lines(sock: socket.socket, into: list[bytes]) -> None:
    """Read until the last line."""
    data = b""
    while not data.endswith((b"last:1|g", b"last:1|g\n")):
        more = sock.recv(1 << 16)
        assert more, "the end came too early"
        data += more if sock.type == socket.SOCK_STREAM else more + b"\n"
    into += data.rstrip(b"\n").split(b"\n")


def test_a_receiver_that_is_busy_with_others_is_waited_for(stalled: Stalled, wires: Wires) -> None:
    """Whoever else sends to the same socket may take the room that was waited for."""
    url, receiver = stalled["unixgram"]
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            if select.select([receiver], [], [], 0.1)[0]:
                receiver.recv(1 << 16)

    def crowd() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(url.partition("://")[2])
            sock.settimeout(0.1)
            while not over.is_set():
                with suppress(TimeoutError):
                    sock.send(b"theirs")

    threads = [threading.Thread(target=what) for what in (read, crowd, crowd, crowd)]
    for thread in threads:
        thread.start()
    ours = wires(url, rate=0, max_packet=64)
    try:
        assert all(ours.ship(LINES, 60) for _ in range(5)), ours.fault
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert ours.counts["lines"] == 5000
    assert ours.counts["dropped"] == 0


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_one_that_reads_nothing_for_long_is_connected_to_anew(
    kind: str, stalled: Stalled, wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be dead without having said so, and another be there in its place."""
    monkeypatch.setattr("pgstats.ship.transports.DEAD_AFTER", 0.5)
    ours = wires(stalled[kind][0], rate=0)
    assert not ours.ship(LINES * 400, 0.3)
    assert ours._socket
    until = time.monotonic() + 30
    while ours._socket:
        assert time.monotonic() < until
        ours.ship(LINES * 400, 0.1)
    again(ours, "x:1|g")


def test_the_time_given_is_kept_when_the_receiver_stalls(stalled: Stalled, wires: Wires) -> None:
    ours = wires(stalled["unixgram"][0], rate=0)
    start = time.monotonic()
    assert not ours.ship(LINES, 0.2)
    assert time.monotonic() - start < 1.5  # less than the patience with one packet


def test_half_a_line_is_never_followed_by_other_text(wires: Wires) -> None:
    """A receiver stalls in the middle of a line, then reads on: more text is on a new stream."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        ours = wires(f"tcp://127.0.0.1:{server.getsockname()[1]}", max_packet=1 << 24)
        assert not ours.ship("first:1|g\n" * 1_000_000, 30)
        again(ours, "second:2|g\n")
        ours.close()
        texts = []
        for _ in range(2):
            stream, _ = server.accept()
            with stream, stream.makefile("rb") as file:
                texts.append(file.read())
    assert texts[0].startswith(b"first:1|g\n")
    assert b"second" not in texts[0]
    assert texts[1] == b"second:2|g\n"


def test_an_exception_out_of_a_signal_leaves_no_half_line(wires: Wires) -> None:
    """As Celery's soft time limit does it."""
    import signal  # noqa: PLC0415

    class Limit(Exception):
        pass

    def ring(*_: object) -> None:
        raise Limit

    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = wires(f"tcp://127.0.0.1:{server.getsockname()[1]}", max_packet=1 << 24)
        before = signal.signal(signal.SIGALRM, ring)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(Limit):
                ours.ship("first:1|g\n" * 1_000_000, 30)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert ours._socket is None
        assert ours.ship("second:2|g\n", 30)


@pytest.mark.parametrize("kind", STREAMS)
def test_what_is_written_in_parts_arrives_whole(
    kind: str, urls: dict[str, str], wires: Wires
) -> None:
    """A slow reader with a small buffer: each write is taken in many pieces."""
    with Sink(urls[kind]) as sink:
        ours = wires(sink.url, max_packet=1 << 20)
        text = LINES * 50
        shipping = threading.Thread(target=ours.ship, args=(text, 60))
        shipping.start()
        received(sink, 50_000, pause=0.001)
        shipping.join()
        assert (sink.bad_lines, sink.lines, ours.counts["errors"]) == (0, 50_000, 0)


def test_a_stream_that_was_reset_is_opened_again(wires: Wires) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        ours = wires(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        assert ours.ship("first:1|g\n")
        stream, _ = server.accept()
        stream.close()  # with unread data: a reset, not an end
        assert ours.ship("second:2|g\n")
        stream, _ = server.accept()
        with stream:
            assert stream.recv(100) == b"second:2|g\n"
    assert ours.counts["errors"] == 0


def test_a_receiver_that_talks_and_then_hangs_up_is_noticed(wires: Wires) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        ours = wires(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        assert ours.ship("first:1|g\n")
        stream, _ = server.accept()
        assert stream.recv(100) == b"first:1|g\n"
        stream.sendall(b"welcome\n")
        assert ours.ship("more:1|g\n")
        assert stream.recv(100) == b"more:1|g\n"
        stream.close()
        assert ours.ship("second:2|g\n")
        stream, _ = server.accept()
        with stream:
            assert stream.recv(100) == b"second:2|g\n"


# ---- what is known of loss


@pytest.mark.parametrize(
    ("url", "bound"),
    [
        ("udp://127.0.0.1", "127.0.0.1"),
        ("udp://127.0.0.1", "0.0.0.0"),
        ("udp://127.0.0.1", "::"),
        ("udp://localhost", "127.0.0.1"),
        ("udp://[::1]", "::1"),
        ("udp://[::1]", "::"),
    ],
)
def test_what_the_receiver_s_kernel_threw_away(url: str, bound: str, wires: Wires) -> None:
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        receiver.bind((bound, 0))
        ours = wires(f"{url}:{receiver.getsockname()[1]}", rate=0, max_packet=64)
        assert ours.lost() == (None if "localhost" in url else 0), "a name may be of any address"
        assert ours.ship("first:1|g")
        assert ours.lost() == 0
        assert ours.ship(LINES)
        receiver.setblocking(False)
        arrived = 0
        with suppress(BlockingIOError):
            while receiver.recv(1000):
                arrived += 1
        assert ours.lost() == ours.counts["packets"] - arrived > 0
    assert ours.lost() is None, "it is gone"


@pytest.mark.parametrize("kind", ["tcp", "unix", "unixgram"])
def test_where_nothing_is_thrown_away_nothing_is_known(
    kind: str, urls: dict[str, str], wires: Wires
) -> None:
    with Sink(urls[kind]).start() as sink:
        ours = wires(sink.url)
        assert ours.ship("x:1|g")
        assert ours.lost() is None
    assert Paper().lost() is None


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "fe80::1%lo"])
def test_nothing_is_known_of_another_machine(address: str) -> None:
    assert drops(address, 8125) is None


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (OSError(errno.ECONNREFUSED, ""), "refused"),
        (OSError(errno.ENOENT, ""), "refused"),
        (OSError(errno.EPIPE, ""), "closed"),
        (OSError(errno.ECONNRESET, ""), "closed"),
        (OSError(errno.EHOSTUNREACH, ""), "unreachable"),
        (OSError(errno.EMSGSIZE, ""), "too_long"),
        (OSError(errno.ETIMEDOUT, ""), "timeout"),
        (OSError(errno.EPERM, ""), "other"),
        (OSError("odd"), "other"),
        (TimeoutError("took too long"), "timeout"),
        (LookupFailed("no"), "dns"),
    ],
)
def test_every_loss_has_its_reason(fault: OSError, name: str) -> None:
    assert reason(fault) == name
    assert name in LOSSES


def test_a_line_that_no_datagram_holds_is_lost_alone(wires: Wires) -> None:
    with Sink().start() as sink:
        ours = wires(sink.url)
        assert not ours.ship(f"a:1|g\n{'x' * 70_000}:1|g\nb:2|g\n")
        assert ours.fault == "Message too long"
        assert ours.drops["too_long"] == ours.counts["dropped"] == 1
        assert sink.wait(lambda: sink.lines == 2, 30)


# ---- time


def test_what_does_not_fit_into_the_time_is_dropped_and_counted(wires: Wires) -> None:
    with Sink().start() as sink:
        ours = wires(sink.url, max_packet=64)
        text = "".join(f"{'x' * 50}_{n}:1|g\n" for n in range(40_000))
        start = time.monotonic()
        assert not ours.ship(text, 0.5)
        assert time.monotonic() - start < 5
        assert ours.fault == "took too long"
        assert ours.counts["packets"] + ours.counts["errors"] == 40_000
        assert ours.drops["timeout"] == ours.counts["dropped"] == ours.counts["errors"]
        assert BURST < ours.counts["packets"] <= BURST + 600
        sent = ours.counts["lines"]
        assert sink.wait(lambda: sink.lines == sent, 30)
        assert ours.ship("last:1|g\n", 5)


def test_waiting_for_another_s_shipment_is_bounded_too(wires: Wires) -> None:
    with Sink().start() as sink:
        ours = wires(sink.url, rate=20, max_packet=64)
        text = "".join(f"{'x' * 50}_{n}:1|g\n" for n in range(BURST + 60))
        slow = threading.Thread(target=ours.ship, args=(text, 60))
        slow.start()
        assert sink.wait(lambda: sink.lines >= BURST, 30)
        start = time.monotonic()
        assert not ours.ship("mine:1|g\n", 0.2)
        assert time.monotonic() - start < 2
        slow.join()
        assert ours.counts["errors"] == 1
        assert ours.counts["packets"] == BURST + 60


def test_who_gives_up_waiting_knows_no_better_than_who_tried(
    nobody: dict[str, str], wires: Wires
) -> None:
    """Or else the log would tell of both faults in turn, for as long as it lasts."""
    ours = wires(nobody["tcp"])
    assert not ours.ship("x:1|g")
    with ours._sending:
        assert not ours.ship("x:2|g", 0.01)
    assert ours.fault == "Connection refused"
    assert (ours.drops["refused"], ours.drops["timeout"]) == (1, 1)
    late = wires(nobody["udp"])
    assert late.hand_over(["x:1|g"], -1) == "took too long"
    assert late.hand_over(["x:1|g"], 30) == "Connection refused"
    assert late.hand_over(["x:1|g"], -1) == "Connection refused"
    assert (late.drops["refused"], late.drops["timeout"]) == (1, 2)


def test_who_gives_up_waiting_leaves_the_other_s_stream_alone(wires: Wires) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = wires(f"tcp://127.0.0.1:{server.getsockname()[1]}", max_packet=1 << 25)
        text = "".join(f"first.{n}:1|g\n" for n in range(1_000_000))
        slow = threading.Thread(target=ours.ship, args=(text, 60))
        slow.start()
        stream, _ = server.accept()
        with stream:
            data = bytearray(stream.recv(1000))
            assert not ours.ship("mine:1|g\n", 0.3)
            while len(data) < len(text) and (more := stream.recv(1 << 20)):
                data += more
        slow.join()
    assert bytes(data) == text.encode()
    assert counted(ours) == {
        "lines": 1_000_000, "packets": 1, "bytes": len(text) - 1, "errors": 1, "dropped": 1
    }  # fmt: skip
    assert ours.drops["timeout"] == 1


# ---- threads


@pytest.mark.parametrize("kind", ["tcp", "unixgram"])
def test_two_threads_do_not_interleave(kind: str, urls: dict[str, str], wires: Wires) -> None:
    texts = ["".join(f"{name}.{n}:{n}|g\n" for n in range(2000)) for name in "ab"]
    with Sink(urls[kind]) as sink:
        ours = wires(sink.url, rate=0)
        threads = [threading.Thread(target=ours.ship, args=(text, 60)) for text in texts]
        for thread in threads:
            thread.start()
        arrived = received(sink, 4000)
        for thread in threads:
            thread.join()
    whole = "".join(f"{line}\n" for line in arrived)
    assert whole in {texts[0] + texts[1], texts[1] + texts[0]}
    assert ours.counts["lines"] == 4000


# ---- the statsd package's own interface


@pytest.mark.parametrize("kind", EVERY)
def test_it_is_a_statsd_client(kind: str, urls: dict[str, str], wires: Wires) -> None:
    with Sink(urls[kind]) as sink:
        ours = wires(sink.url)
        ours.incr("count")
        ours.decr("count", 3)
        ours.timing("took", 12.5)
        ours.gauge("level", 5)
        ours.gauge("level", -2, delta=True)
        ours.gauge("below", -7)
        ours.set("who", "me")
        with ours.timer("block"):
            pass
        with ours.pipeline() as pipe:
            pipe.incr("piped", 2)
            pipe.gauge("deep", -9)
            pipe.timing("later", 1)
        lines = received(sink, 13)
    block = next(line for line in lines if line.startswith("block:"))
    assert lines == [
        "count:1|c", "count:-3|c", "took:12.500000|ms", "level:5|g", "level:-2|g",
        "below:0|g", "below:-7|g", "who:me|s", block,
        "piped:2|c", "deep:0|g", "deep:-9|g", "later:1.000000|ms",
    ]  # fmt: skip
    assert ours.counts["lines"] == 13
    assert ours.counts["packets"] == 9  # pairs and pipelines travel together


def test_a_name_that_cannot_be_encoded_raises_nothing() -> None:
    paper = Paper()
    paper.incr("\udc80\N{SNOWMAN}")
    assert paper.packets == ["?\N{SNOWMAN}:1|c".encode()]


# ---- names that move

START = """
import sys, time
from pathlib import Path
from pgstats import ship
import pgstats.ship.transports
hosts = Path("/etc/hosts")
"""
BOTH = """
hosts.write_text("127.0.0.2 receiver\\n::1 receiver\\n")
for url in sys.argv[1:]:
    ours = ship.wire(url, rate=0)
    print(ours.ship("x:1|g\\n" * 1000, 20), ours.counts["errors"])
"""
LATE = """
ours = ship.wire(sys.argv[1])
print(ours.ship("x:1|g", 20), "dns" if ours.drops["dns"] else ours.drops, flush=True)
hosts.write_text("127.0.0.2 receiver\\n")
while not ours.ship("x:2|g", 20):
    time.sleep(0.05)
print(ours.fault or "well")
"""
MOVING = """
url, every = sys.argv[1:]
ship.transports.RESOLVE_EVERY = float(every)
hosts.write_text("127.0.0.2 receiver\\n")
ours = ship.wire(url)
print(ours.ship("x:1|g", 20))
held = ours._socket
print(ours.ship("x:2|g", 20), ours._socket is held, flush=True)
hosts.write_text("127.0.0.3 receiver\\n")
sys.stdin.readline()
print(ours.ship("x:3|g", 20))
time.sleep(ship.base.PATIENCE if ours.fault else 0)
print(ours.ship("x:4|g", 20))
"""


def with_own_hosts(tmp_path: Path, script: str, *arguments: str) -> subprocess.Popen[str]:
    """A process with an /etc/hosts of its own."""
    hosts = tmp_path / "hosts"
    hosts.write_text("")
    return with_own("/etc/hosts", hosts, START + script, *arguments)


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_a_name_is_whichever_of_its_addresses_takes_it(scheme: str, tmp_path: Path) -> None:
    with (
        Sink(f"{scheme}://127.0.0.2:0").start() as four,
        Sink(f"{scheme}://[::1]:0").start() as six,
    ):
        ports = [sink.url.rpartition(":")[2] for sink in (four, six)]
        urls = [f"{scheme}://receiver:{port}" for port in ports]
        output, _ = with_own_hosts(tmp_path, BOTH, *urls).communicate(timeout=60)
        assert output.splitlines() == ["True 0", "True 0"]
        for sink in (four, six):
            assert sink.wait(lambda sink=sink: sink.lines == 1000, 30)  # type: ignore[misc]


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_a_name_that_is_known_late_is_found(scheme: str, tmp_path: Path) -> None:
    with Sink(f"{scheme}://127.0.0.2:0").start() as sink:
        url = f"{scheme}://receiver:{sink.url.rpartition(':')[2]}"
        output, _ = with_own_hosts(tmp_path, LATE, url).communicate(timeout=60)
        assert output.split() == ["False", "dns", "well"]
        assert sink.wait(lambda: sink.lines == 1, 30)


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_a_name_is_looked_up_again(scheme: str, tmp_path: Path) -> None:
    with Sink(f"{scheme}://127.0.0.2:0").start() as first:
        port = first.url.rpartition(":")[2]
        with Sink(f"{scheme}://127.0.0.3:{port}").start() as second:
            url = f"{scheme}://receiver:{port}"
            process = with_own_hosts(tmp_path, MOVING, url, "0")
            output, _ = process.communicate("\n", timeout=60)
            assert output.split() == ["True"] * 5
            assert first.wait(lambda: first.lines == 2, 30)
            assert second.wait(lambda: second.lines == 2, 30)


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_a_name_is_looked_up_again_after_errors(scheme: str, tmp_path: Path) -> None:
    with Sink(f"{scheme}://127.0.0.3:0").start() as second:
        port = second.url.rpartition(":")[2]
        with Sink(f"{scheme}://127.0.0.2:{port}").start() as first:
            url = f"{scheme}://receiver:{port}"
            process = with_own_hosts(tmp_path, MOVING, url, "3600")
            assert first.wait(lambda: first.lines == 2, 30)
        output, _ = process.communicate("\n", timeout=60)
        assert output.split() == ["True", "True", "True", "False", "True"]
        assert second.wait(lambda: second.lines == 1, 30)


def test_closing_is_harmless(wires: Wires) -> None:
    with Sink().start() as sink, closing(wires(sink.url)) as ours:
        ours.close()
        assert ours.ship("x:1|g")
        ours.close()
        assert ours.ship("x:2|g")
        assert sink.wait(lambda: sink.lines == 2, 30)
