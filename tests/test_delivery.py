"""Delivery to real receivers: complete, and whatever is done to them, no poll pays for it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import pytest

from pgstats.scratch import Bouncer, Cluster, Scratch, free_port
from pgstats.ship import wire
from tests.conftest import ROOT
from tests.node_statsd import NodeStatsd
from tests.program import pgstats
from tests.receivers.collectd import Collectd
from tests.receivers.netdata import Netdata
from tests.receivers.sink import SinkProcess

LINES = 20_000
TRANSPORTS = ["udp", "tcp", "unix", "unixgram"]

Values = dict[str, float]


class Receiver(Protocol):
    """A real receiver as the tests use it."""

    def gauges(self) -> Values: ...


def gauges(lines: int) -> Values:
    """So many gauges as a large site has them, some of them negative or no whole numbers."""
    return {
        f"pgstats.postgres.main.tables.appdb.public.table_{n:05}.n_dead_tup": value
        for n in range(lines)
        for value in [(n, -n, n / 8)[n % 3]]
    }


def spelled(values: Values) -> str:
    return "".join(
        f"{name}:0|g\n{name}:{value}|g\n" if value < 0 else f"{name}:{value}|g\n"
        for name, value in values.items()
    )


def settled(receiver: Receiver, wanted: Values, seconds: float = 60) -> Values:
    """The gauges when all have arrived, or those that have by then."""
    until = time.monotonic() + seconds
    while True:
        found = {name: v for name, v in receiver.gauges().items() if name.startswith("pgstats.")}
        if found == wanted or time.monotonic() > until:
            return found
        time.sleep(0.2)


def delivers(url: str, receiver: Receiver) -> None:
    """Everything is there, with the settings that a user begins with."""
    wanted = gauges(LINES)
    with closing(wire(url)) as ours:
        assert ours.ship(spelled(wanted), 60), ours.fault
        found = settled(receiver, wanted)
        assert ours.lost() in (None, 0)
    assert len(found) == len(wanted)
    assert found == pytest.approx(wanted, abs=0.001)


@pytest.mark.parametrize("transport", ["udp", "tcp", "unix"])
def test_a_large_poll_arrives_whole_in_statsd(transport: str, node_statsd: NodeStatsd) -> None:
    before = node_statsd.counters()["statsd.bad_lines_seen"]
    delivers(getattr(node_statsd, transport), node_statsd)
    assert node_statsd.counters()["statsd.bad_lines_seen"] == before


@pytest.mark.full
@pytest.mark.parametrize("kind", [Netdata, Collectd])
def test_a_large_poll_arrives_whole_in_others(
    kind: type[Netdata | Collectd], scratch: Scratch
) -> None:
    with kind(scratch, "large") as receiver:
        delivers(receiver.udp, receiver)


@pytest.mark.full
@pytest.mark.parametrize("kind", [Netdata, Collectd])
def test_the_next_poll_replaces_every_value(
    kind: type[Netdata | Collectd], scratch: Scratch
) -> None:
    """Negative after positive: no receiver may take it for a change."""
    with kind(scratch, "signs") as receiver, closing(wire(receiver.udp)) as ours:
        for sign in (1, -1, 1):
            wanted = {f"pgstats.sign_{n}": float(sign * n) for n in range(1, 50)}
            assert ours.ship(spelled(wanted))
            assert settled(receiver, wanted) == wanted


# ---- a daemon, while things happen to its receiver


class Site:
    """A receiver of its own and a daemon that ships to it."""

    def __init__(self, transport: str, scratch: Scratch, folder: Path) -> None:
        name = f"{transport}{time.monotonic_ns()}"
        self.receiver: NodeStatsd | SinkProcess
        if transport == "unixgram":
            self.receiver = SinkProcess(scratch, name).start()
            self.url = self.receiver.url
        else:
            program = ROOT / ".cache" / "node_modules" / "statsd" / "stats.js"
            self.receiver = NodeStatsd(scratch, program, name)
            self.url = getattr(self.receiver, transport)
        self.folder = folder

    @contextmanager
    def daemon(self, dsn: str, more: str = "", others: int = 0) -> Iterator[None]:
        """It polls a PgBouncer each second, and as often under other names."""
        self.targets = 1 + others
        file = self.folder / "pgstats.toml"
        file.write_text(
            f'interval = "1s"\nstate = "{self.folder}/state"\n'
            f'[statsd]\nurl = "{self.url}"\n{more}\n'
            + "".join(
                f'[[pgbouncer]]\nname = "{name}"\ndsn = {json.dumps(dsn)}\n'
                for name in ("front", *(f"front{n}" for n in range(others)))
            )
        )
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "pgstats", "run", "--verbose", "--config", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            try:
                yield
                assert process.poll() is None, self.log()
            finally:
                process.kill()
                process.wait()

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def polls(self) -> int:
        """How many polls have been shipped, or tried to."""
        return self.log().count(" shipped ")

    def wait(self, fact: Callable[[], object], seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while not fact():
            assert time.monotonic() < until, self.log()
            time.sleep(0.05)

    def goes_on(self, polls: int) -> None:
        """So many more polls are made."""
        start = self.polls()
        self.wait(lambda: self.polls() >= start + polls)

    def arrives(self) -> Values:
        """What a poll that starts from now on brings, and the account of it."""
        self.receiver.forget()
        self.goes_on(2 * self.targets)  # the first of each may have begun before
        lines = int(re.findall(r" shipped (\d+) lines", self.log())[-1])
        account = "pgstats.self.ship.lines"
        self.wait(lambda: self.receiver.gauges().get(account, 0) >= lines)
        return self.receiver.gauges()


@pytest.fixture(params=TRANSPORTS)
def site(request: pytest.FixtureRequest, scratch: Scratch, tmp_path: Path) -> Iterator[Site]:
    site = Site(request.param, scratch, tmp_path)
    yield site
    site.receiver.stop()


def kept_its_grid(site: Site, found: Values) -> None:
    """No run was left out, and none came late: each fits into its own second."""
    assert found["pgstats.self.poll.front.skipped_runs"] == 0, site.log()
    assert found["pgstats.pgbouncer.front.up"] == 1
    assert "Traceback" not in site.log()


def told_once(log: str) -> None:
    """Each fault when it began, then its end."""
    lines = [line for line in log.splitlines() if " statsd at " in line and "polling" not in line]
    gists = [re.sub(r"\d+", "", line.partition(" statsd at ")[2]) for line in lines]
    assert lines, log
    assert all(before != after for before, after in pairwise(gists)), log
    assert "well again" in lines[-1]


def test_a_receiver_that_is_killed_and_started_anew(site: Site, bouncer: Bouncer) -> None:
    with site.daemon(bouncer.dsn("pgbouncer", "stats")):
        site.arrives()
        site.receiver.kill()
        site.wait(lambda: "lines dropped so far" in site.log())
        site.goes_on(2)
        site.receiver.start()
        found = site.arrives()
    kept_its_grid(site, found)
    assert found["pgstats.self.ship.dropped"] > 0
    reasons = {name for name in found if re.search(r"ship\.dropped_", name) and found[name]}
    assert "pgstats.self.ship.dropped_refused" in reasons
    assert reasons <= {f"pgstats.self.ship.dropped_{why}" for why in ("refused", "closed")}
    told_once(site.log())


def test_a_receiver_that_is_started_anew_at_once(site: Site, bouncer: Bouncer) -> None:
    with site.daemon(bouncer.dsn("pgbouncer", "stats")):
        for _ in range(3):
            site.arrives()
            site.receiver.kill()
            site.receiver.start()
        found = site.arrives()
    kept_its_grid(site, found)


def test_a_receiver_that_is_stopped_and_goes_on(site: Site, bouncer: Bouncer) -> None:
    """The kernel keeps what goes over the network; on this machine, senders have to wait."""
    waits = site.url.startswith("unix")
    with site.daemon(bouncer.dsn("pgbouncer", "stats"), "max_packet = 64"):
        site.arrives()
        site.receiver.signal(signal.SIGSTOP)
        site.goes_on(3)
        site.wait(lambda: "stalled" in site.log() or not waits)
        assert "Traceback" not in site.log()
        site.receiver.signal(signal.SIGCONT)
        found = site.arrives()
    kept_its_grid(site, found)
    stalled, late = (found[f"pgstats.self.ship.dropped_{why}"] for why in ("stalled", "timeout"))
    assert found["pgstats.self.ship.dropped"] == stalled + late, "who waits for another's shipment"
    assert (stalled > 0) == waits


@pytest.mark.full
def test_many_targets_do_not_wait_for_a_stopped_receiver_in_turn(
    scratch: Scratch, bouncer: Bouncer, tmp_path: Path
) -> None:
    site = Site("unixgram", scratch, tmp_path)
    assert isinstance(site.receiver, SinkProcess)
    with site.daemon(bouncer.dsn("pgbouncer", "stats"), others=15):
        site.arrives()
        site.receiver.signal(signal.SIGSTOP)
        site.goes_on(6 * 16)
        site.receiver.signal(signal.SIGCONT)
        site.arrives()
        site.goes_on(2 * 16)
        found = site.receiver.gauges()
    skipped = {name: n for name, n in found.items() if name.endswith(".skipped_runs")}
    assert len(skipped) == 16
    assert set(skipped.values()) == {0}, site.log()
    assert found["pgstats.self.ship.dropped_stalled"] > 0
    told_once(site.log())
    site.receiver.stop()


@pytest.mark.full
def test_a_receiver_that_is_stopped_and_then_killed(site: Site, bouncer: Bouncer) -> None:
    with site.daemon(bouncer.dsn("pgbouncer", "stats")):
        site.arrives()
        site.receiver.signal(signal.SIGSTOP)
        site.goes_on(2)
        site.receiver.kill()
        site.goes_on(2)
        site.receiver.start()
        found = site.arrives()
    kept_its_grid(site, found)


def test_a_daemon_that_starts_before_its_receiver(site: Site, bouncer: Bouncer) -> None:
    site.receiver.kill()
    with site.daemon(bouncer.dsn("pgbouncer", "stats")):
        site.goes_on(2)
        site.receiver.start()
        found = site.arrives()
    kept_its_grid(site, found)
    assert found["pgstats.self.ship.dropped_refused"] > 0
    told_once(site.log())


def test_a_daemon_that_starts_without_dns(bouncer: Bouncer, tmp_path: Path) -> None:
    site = Site.__new__(Site)
    site.folder, site.url = tmp_path, "udp://no-such-host.invalid:8125"
    with site.daemon(bouncer.dsn("pgbouncer", "stats")):
        site.goes_on(4)
    log = site.log()
    assert log.count("cannot look up no-such-host.invalid") == 1, "once, not at each poll"
    assert re.search(r"lines dropped \(\d+ dns\)", log)


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_a_stream_that_stalls_goes_on_where_it_was(
    transport: str, scratch: Scratch, tmp_path: Path
) -> None:
    """The real statsd reads no half line, however full its buffers were, and nothing twice."""
    site = Site(transport, scratch, tmp_path)
    assert isinstance(site.receiver, NodeStatsd)
    wanted = gauges(1000)
    with closing(wire(site.url)) as ours:
        site.receiver.signal(signal.SIGSTOP)
        while ours.ship(spelled(wanted), 1):
            pass
        assert ours.drops["stalled"] == ours.counts["dropped"] > 0
        site.receiver.signal(signal.SIGCONT)
        site.wait(lambda: ours.ship(spelled(wanted)))
        receiver, received = site.receiver, "statsd.metrics_received"
        # The gauges are the same in every shipment: they do not tell that the last one is there.
        site.wait(lambda: receiver.counters()[received] >= ours.counts["lines"])
        assert settled(receiver, wanted) == wanted
        counters = receiver.counters()
        assert counters["statsd.bad_lines_seen"] == 0
        assert counters[received] == ours.counts["lines"]
    site.receiver.stop()


# ---- the receiver that is not there


@pytest.fixture
def deserted(tmp_path: Path) -> dict[str, str]:
    """Addresses where nobody listens."""
    port = free_port()
    for name, kind in (("stream", socket.SOCK_STREAM), ("datagram", socket.SOCK_DGRAM)):
        with socket.socket(socket.AF_UNIX, kind) as sock:
            sock.bind(str(tmp_path / name))
    return {
        "udp": f"udp://127.0.0.1:{port}",
        "udp6": f"udp://[::1]:{port}",
        "tcp": f"tcp://127.0.0.1:{port}",
        "unix": f"unix://{tmp_path}/stream",
        "unixgram": f"unixgram://{tmp_path}/datagram",
    }


@pytest.mark.parametrize("transport", ["udp", "udp6", "tcp", "unix", "unixgram"])
def test_check_finds_that_nobody_listens(
    transport: str, deserted: dict[str, str], cluster: Cluster
) -> None:
    url = deserted[transport]
    done = pgstats("check", "--postgres", cluster.dsn(), "--statsd", url, "--json")
    assert done.returncode == 1
    (finding,) = (f for f in json.loads(done.stdout) if f["target"] == "statsd")
    assert finding["status"] == "failed"
    assert finding["message"] == f"{url}: Connection refused"
    assert "start the receiver" in finding["remedy"]


def test_once_tells_what_became_of_every_line(cluster: Cluster, node_statsd: NodeStatsd) -> None:
    arguments = ("once", "--no-state", "--verbose", "--postgres", cluster.dsn(), "--statsd")
    told = pgstats(*arguments, node_statsd.udp).stderr
    found = re.search(
        r"shipped (\d+) lines in (\d+) packets, (\d+) bytes, in \d+ ms, 0 lost there; "
        r"0 packets and 0 lines dropped; (\d+) values skipped, (\d+) names altered",
        told,
    )
    assert found, told
    assert node_statsd.gauges()["pgstats.self.ship.seconds"] > 0
    lost = pgstats(*arguments, f"udp://127.0.0.1:{free_port()}").stderr
    assert re.search(
        r"shipped 0 lines .*; \d+ packets and (\d+) lines dropped \(\1 refused\)", lost
    )
