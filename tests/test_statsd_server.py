"""A whole poll through the real statsd of npm, in each dialect and over each of its transports."""

from __future__ import annotations

import re
import time
from contextlib import closing

import pytest

from pgstats.catalogue.own import UP
from pgstats.model import OTHER, PGBOUNCER, Frame, Metric, Query
from pgstats.ship import wire
from pgstats.spell import DIALECTS, Speller
from tests.node_statsd import NodeStatsd

TABLES = Query(
    "postgres",
    "tables",
    (
        Metric("n_dead_tup", "Dead"),
        Metric("age_seconds", "Age", unit="seconds"),
        Metric("drift", "Below zero as well"),
    ),
    labels={"database": "", "schema": "", "table": ""},
)
GROWTH = Query(
    "pgbouncer", "growth", (Metric("queries", "New", kind="count"),), labels={"database": ""}
)
HOSTILE = [
    "a:1|g\nadmin.x:9|c", "|@ 1", "__x", "x" * 300, "\N{PILE OF POO}", "", "..", "%s", "\0", "a.b",
    "a b", "a_b", "_other", "\u202etab",
]  # fmt: skip
ROWS = [
    *(("appdb", "public", f"table_{n}", n, n / 8, n - 150) for n in range(300)),
    *(("appdb", name, name, 7, 0.25, -0.5) for name in HOSTILE),
    ("appdb", OTHER, OTHER, 2**53, 1e-6, None),
]
FRAMES = [
    Frame.of(TABLES, TABLES.metrics, ROWS, "main"),
    Frame.of(UP[PGBOUNCER], UP[PGBOUNCER].metrics[:1], [(1,)], "front"),
    Frame.of(GROWTH, GROWTH.metrics, [("appdb", 42)], "front"),
]
LINE = re.compile(r"([^:]+):([^|]+)\|([gc])(?:\|#(.*))?")


def stored(text: str, kind: str) -> dict[str, float]:
    """What statsd holds after these lines, its tags of DogStatsD written as Graphite's."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        name, value, its_kind, tags = match.groups()
        name = name.replace(",", "")  # it knows nothing of Influx's tags
        if tags:
            name += "".join(f";{tag.replace(':', '=')}" for tag in tags.split(","))
        if its_kind == kind:
            found[name] = float(value)
    return found


@pytest.fixture(params=["udp", "tcp"])
def url(request: pytest.FixtureRequest, node_statsd: NodeStatsd) -> str:
    return node_statsd.udp if request.param == "udp" else node_statsd.tcp


def settled(statsd: NodeStatsd, count: int) -> dict[str, float]:
    """The gauges when so many have arrived."""
    until = time.monotonic() + 30
    while len(found := statsd.gauges()) < count and time.monotonic() < until:
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("dialect", DIALECTS)
def test_all_lines_of_a_poll_are_read_back(dialect: str, url: str, node_statsd: NodeStatsd) -> None:
    before = node_statsd.counters()
    prefix = f"pgstats.{url[:3]}"
    text = Speller(DIALECTS[dialect], prefix, {"env": "prod/1"}).spell(*FRAMES)
    expected = stored(text, "g")
    assert len(expected) == 3 * len(ROWS)  # an unknown value less, `up` more
    assert min(expected.values()) == -150
    with closing(wire(url)) as ours:
        assert ours.ship(text, 60)
        assert ours.counts["lines"] == text.count("\n")
    assert settled(node_statsd, len(expected)) == expected
    after = node_statsd.counters()
    assert after["statsd.bad_lines_seen"] == before.get("statsd.bad_lines_seen", 0)
    for name, value in stored(text, "c").items():
        assert after[name] == before.get(name, 0) + value
