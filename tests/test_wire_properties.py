"""What receivers read is what was meant: any names, any values, cut anywhere, in any dialect.

The receivers are those of `tests.receivers.parsers`, which are held against the real statsd of npm
and against what was measured on the others.
"""

from __future__ import annotations

import math
import re
import socket
import time
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgstats.instrumenting.public import _Settings, _Shipper
from pgstats.model import OTHER, POSTGRES, Frame, Metric, Number, Query
from pgstats.ship import cut
from pgstats.spell import DIALECTS, LONGEST, Speller
from tests.node_statsd import NodeStatsd
from tests.receivers.parsers import READERS, RECEIVERS, Killed, Receiver, Series, State, Tags

PREFIX = "pgstats"
HOSTILE = [
    "a:1|g\nadmin.x:9|c", "|@ 1", "__x", "__proto__", "x" * 300, "\N{PILE OF POO}", "", "..", ".",
    "%s", "%(a)s", "\0", "\\1", "\\2", "a.b", "a b", "a_b", "a-b", "A-B", "_other", "none",
    "\u202etab", "\ud800", "x|#a:b", "x,a=b", "x;a=b", "x[a=b]", "x#a", "~x", "=", "\r\n", "\n",
    "|", ":", "go_x", "-1", "1e5", "0x10", "{}", "a\tb", "\u00e9", "e\u0301", "x" * LONGEST,
]  # fmt: skip

#: The first number of a row tells the row; its others are what is to be read.
TABLES = Query(
    POSTGRES,
    "tables",
    (
        Metric("row", "Which row this is"),
        Metric("level", "Any number"),
        Metric("level_seconds", "Another, whose name starts alike", unit="seconds"),
        Metric("grown", "What a total grew by", kind="count"),
    ),
    labels={"database": "", "schema": "", "table": ""},
)

names = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(codec=None), max_size=8),
    st.text("ab.:|#@,;=_- \n%\0\\1", max_size=5),
    st.from_regex(r"[A-Za-z0-9_-]{1,9}", fullmatch=True),
)
labels = st.tuples(names, names, st.one_of(names, st.just(OTHER)))
numbers = st.one_of(
    st.none(),
    st.integers(-9, 9),
    st.integers(-(2**70), 2**70),
    st.sampled_from([10**400, -(10**400), 2**53 + 1, 2**63 - 1, 2**64 - 1, True, False]),
    st.floats(),
    st.floats(-10, 10),
)
growths = st.one_of(st.none(), st.integers(0, 2**62))
poll = st.dictionaries(labels, st.tuples(numbers, numbers, growths), max_size=8)
tags = st.dictionaries(st.sampled_from(["env", "team", "a_b"]), names, max_size=3)
sizes = st.integers(64, 4096)
Poll = dict[tuple[object, ...], tuple[Number | None, ...]]


def frame(rows: Poll) -> Frame:
    lines = [(*key, at, *values) for at, (key, values) in enumerate(rows.items(), 1)]
    return Frame.of(TABLES, TABLES.metrics, lines, "main")


def meant(number: Number | None) -> float | None:
    """What a receiver ought to hold: six decimals at most, None for what is not sent."""
    try:
        return None if number is None or not math.isfinite(number) else round(float(number), 6)
    except OverflowError:
        return None


def same(found: float, wanted: float, receiver: Receiver) -> bool:
    if abs(wanted) > receiver.largest:
        return True  # it cannot hold it, whatever is sent
    # A negative number is zero and a change: rounded twice where thousandths are kept.
    return math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-6 + 2 * receiver.step)


def parts(series: Series) -> tuple[tuple[str, Tags], str]:
    """What stands for the row in a series, and its metric."""
    name, tags = series
    for metric in sorted((m.name for m in TABLES.metrics), key=len, reverse=True):
        if name.endswith((f".{metric}", f"_{metric}")):
            return (name[: -len(metric) - 1], tags), metric
    pytest.fail(f"a series of nobody: {series}")


def by_row(state: State) -> dict[int, dict[str, float]]:
    """What was heard since this was last asked, by the number of the row."""
    rows: dict[tuple[str, Tags], dict[str, float]] = {}
    for series in state.heard:
        row, metric = parts(series)
        rows.setdefault(row, {})[metric] = {**state.gauges, **state.counters}[series]
    state.heard.clear()
    state.counters.clear()
    found = {int(values.pop("row")): values for values in rows.values()}
    assert len(found) == len(rows), "two rows share a name"
    return found


def shipped(speller: Speller, rows: Poll, size: int, order: st.DataObject) -> Sequence[bytes]:
    """The packets of a poll in any order: nothing on the way keeps them apart."""
    packets = list(cut(speller.spell(frame(rows)).encode(errors="replace"), size))
    permuted: Sequence[bytes] = order.draw(st.permutations(packets))
    return permuted


CASES = [(dialect, name) for dialect, names in READERS.items() for name in names]


@pytest.mark.parametrize(("dialect", "name"), CASES)
@given(polls=st.lists(poll, min_size=1, max_size=3), size=sizes, tags=tags, order=st.data())
@settings(max_examples=60)
def test_each_row_is_read_as_meant(
    dialect: str,
    name: str,
    polls: list[Poll],
    size: int,
    tags: dict[str, str],
    order: st.DataObject,
) -> None:
    receiver = RECEIVERS[name]
    speller = Speller(DIALECTS[dialect], PREFIX, tags)
    state = State(receiver)
    for poll in polls:
        for packet in shipped(speller, poll, size, order):
            state.receive(packet)
        assert state.bad == []
        if any(len(name) >= receiver.longest for name, _ in state.heard):
            return  # it cuts names: pgstats warns of those
        if not receiver.tells_apart(dialect):
            continue
        wanted = {at: known(values) for at, values in enumerate(poll.values(), 1)}
        found = by_row(state)
        assert {at: set(v) for at, v in found.items()} == {at: set(v) for at, v in wanted.items()}
        for at, values in wanted.items():
            for metric, number in values.items():
                assert same(found[at][metric], number, receiver), (metric, number)


def known(numbers: tuple[Number | None, ...]) -> dict[str, float]:
    """What is to be heard of a row, besides its number."""
    pairs = zip(TABLES.metrics[1:], map(meant, numbers), strict=True)
    return {metric.name: value for metric, value in pairs if value is not None}


@pytest.mark.parametrize("dialect", DIALECTS)
@given(poll=poll, size=sizes, tags=tags, order=st.data())
@settings(max_examples=60)
def test_no_receiver_is_killed_nor_made_to_hold_what_is_not_ours(
    dialect: str, poll: Poll, size: int, tags: dict[str, str], order: st.DataObject
) -> None:
    """Also of a dialect that it does not understand."""
    packets = shipped(Speller(DIALECTS[dialect], PREFIX, tags), poll, size, order)
    for receiver in RECEIVERS.values():
        state = State(receiver)
        for packet in packets:
            state.receive(packet)
        held = {**state.gauges, **state.counters}
        assert all(name.startswith(PREFIX) for name, _ in held)
        assert len(held) + len(state.bad) <= sum(packet.count(b"\n") + 1 for packet in packets)


@pytest.mark.parametrize(("dialect", "name"), CASES)
@given(text=st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True))
@settings(max_examples=20)
def test_a_fit_name_is_read_as_it_is(dialect: str, name: str, text: str) -> None:
    receiver = RECEIVERS[name]
    state = State(receiver)
    rows: Poll = {("db", "public", text): (5, None, None)}
    state.receive(Speller(DIALECTS[dialect], PREFIX).spell(frame(rows)).encode())
    (level,) = (series for series in state.gauges if parts(series)[1] == "level")
    if dialect == "plain":
        wanted = f"{PREFIX}.{POSTGRES}.main.tables.db.public.{text}.level"
        assert level == (receiver.rename(wanted), frozenset())
    else:
        pairs = {"target": "main", "database": "db", "schema": "public", "table": text}
        wanted = f"{PREFIX}.{POSTGRES}.tables.level"
        assert level == (
            receiver.rename(wanted),
            frozenset(receiver.tag(key, value) for key, value in pairs.items()),
        )


@pytest.mark.parametrize(("dialect", "name"), CASES)
@given(job=names, prefix=names)
@settings(max_examples=20)
def test_each_job_is_read_as_meant(dialect: str, name: str, job: str, prefix: str) -> None:
    receiver = RECEIVERS[name]
    state = State(receiver)
    given = _Settings(job, "", f"p.{prefix}", dialect, {"env": "a b"})
    lines = _Shipper(given, lambda: "job")._lines[:3]
    state.receive("".join(lines).encode())
    assert state.bad == []
    events = sorted(re.split("[._]", series)[-1] for series, _ in state.heard)
    if max(len(series) for series, _ in state.heard) < receiver.longest:
        assert events == ["failed", "started", "succeeded"]
        assert set(state.counters.values()) == {1}


# ---- the receivers of the tables themselves

GAUGE = ("x", Tags())


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        *((name, "1e5", 1e5) for name in ("npm", "statsd_exporter", "telegraf", "collectd")),
        ("netdata", "1.5E-07", 0.0),
        ("npm", "nan", None),
        ("statsd_exporter", "nan", math.nan),
        ("collectd", "nan", math.nan),
        ("npm", "Infinity", math.inf),
        ("npm", "inf", None),
        ("statsd_exporter", "inf", math.inf),
        ("npm", "9007199254740993", 9007199254740992.0),
        ("netdata", "9223372036854775807", -9223372036854775.808),
        ("npm", "0x10", 16.0),
        ("collectd", "0x10", 16.0),
        ("statsd_exporter", "0x10", None),
        ("netdata", "0x10", 0.0),
        ("netdata", "True", 0.0),
        ("npm", "None", None),
        ("telegraf", "None", None),
        ("netdata", "", 0.0),
        ("npm", "", None),
        ("npm", " 5 ", 5.0),
        ("statsd_exporter", " 5 ", None),
        ("netdata", " 5 ", 5.0),
    ],
)
def test_numbers_are_read_as_was_measured(name: str, text: str, value: float | None) -> None:
    state = State(RECEIVERS[name])
    state.receive(f"x:{text}|g".encode())
    if value is None:
        assert (state.gauges, len(state.bad)) == ({}, 1)
    else:
        assert state.gauges == {GAUGE: pytest.approx(value, nan_ok=True)}


@pytest.mark.parametrize(
    ("name", "held"),
    [("npm", -7), ("statsd_exporter", -12), ("netdata", -12), ("collectd", -12), ("datadog", -7)],
)
def test_signs_are_read_as_was_measured(name: str, held: float) -> None:
    state = State(RECEIVERS[name])
    state.receive(b"x:-5|g")
    state.receive(b"x:0|g\n" if name == "npm" else b"")
    state.receive(b"x:-7|g")
    assert state.gauges == {GAUGE: held}
    state.receive(b"x:0|g\nx:-7|g")
    assert state.gauges == {GAUGE: -7}


@pytest.mark.parametrize(
    ("name", "line", "series"),
    [
        ("npm", "a:5|g|#k:v", ("a", {("k", "v")})),
        ("npm", "a,k=v:5|g", ("ak=v", set())),
        ("npm", "a;k=v:5|g", ("a", {("k", "v")})),
        ("npm", "a@b/c d\u00e9:5|g", ("ab-c_d", set())),
        ("statsd_exporter", "a.b-c:5|g|#k:v", ("a_b_c", {("k", "v")})),
        ("statsd_exporter", "a,k=v:5|g", ("a", {("k", "v")})),
        ("statsd_exporter", "a;k=v:5|g", ("a_k_v", set())),
        ("statsd_exporter", "9a:5|g", ("_9a", set())),
        ("telegraf", "a.b,k=v:5|g", ("a_b", {("k", "v")})),
        ("telegraf", "a;k=v:5|g", ("a;k=v", set())),
        ("telegraf_datadog", "a:5|g|#k:v", ("a", {("k", "v")})),
        ("netdata", "A:5|g|#k:v", ("a", set())),
        ("collectd", f"{'x' * 200}:5|g", ("x" * 127, set())),
        ("datadog", "A:5|g|#K:V W", ("A", {("k", "v_w")})),
    ],
)
def test_names_and_tags_are_read_as_was_measured(
    name: str, line: str, series: tuple[str, set[tuple[str, str]]]
) -> None:
    state = State(RECEIVERS[name])
    state.receive(line.encode())
    assert state.gauges == {(series[0], frozenset(series[1])): 5}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("collectd", "x:5|g|#k:v"),
        ("npm", "x:5|g|#addr:10.0.0.1:5432"),
        ("statsd_exporter", "x:5|g|#k:"),
        ("telegraf", "x,k=a:b:5|g"),
        ("statsd_exporter", "x,k=v:5|g|#k:v"),
        ("statsd_exporter", "x:5|g\r"),
        ("collectd", "x:5|g\r"),
        ("graphite", "x;k=~v:5|g"),
        ("graphite", "x;k=:5|g"),
        ("datadog", "x:5|g|#1k:v"),
    ],
)
def test_what_is_not_read_as_meant_is_found(name: str, line: str) -> None:
    state = State(RECEIVERS[name])
    state.receive(line.encode())
    assert (state.gauges, len(state.bad)) == ({}, 1)


@pytest.mark.parametrize("line", ["x:1|g|#__k:v", "go_goroutines:1|g", "statsd_exporter_x:1|g"])
def test_what_ends_a_receiver_is_found(line: str) -> None:
    with pytest.raises(Killed):
        State(RECEIVERS["statsd_exporter"]).receive(line.encode())


def test_a_datagram_that_is_too_large_loses_its_end() -> None:
    state = State(RECEIVERS["collectd"])
    state.receive(b"\n".join(b"x.%d:1|g" % n for n in range(1000)))
    assert 0 < len(state.gauges) < 1000


@given(
    lines=st.lists(
        st.builds(
            "{}:{}|{}{}".format,
            st.text("abXY./ @,_-\u00e9\t", min_size=1, max_size=9).map("p{}".format),
            st.sampled_from(["1", "-5", "+3", "0", "1e5", "0x10", " 7 ", "nan", "", "x", "-0.0"]),
            st.sampled_from(["g", "g", "c", "d", ""]),
            st.sampled_from(["", "|#k:v", "|#a:b,c:d"]),
        ),
        min_size=1,
        max_size=20,
    )
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_table_of_npm_s_statsd_reads_what_the_real_one_reads(
    lines: list[str], node_statsd: NodeStatsd
) -> None:
    node_statsd.forget()
    before = node_statsd.counters()["statsd.packets_received"]
    packet = "\n".join(lines).encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(packet, ("127.0.0.1", node_statsd.port))
    until = time.monotonic() + 30
    while node_statsd.counters()["statsd.packets_received"] == before:
        assert time.monotonic() < until
    state = State(RECEIVERS["npm"])
    state.receive(packet)
    held = {
        name + "".join(f";{key}={value}" for key, value in sorted(tags)): value_
        for (name, tags), value_ in state.gauges.items()
    }
    assert node_statsd.gauges() == held
