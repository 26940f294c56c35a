"""How receivers read lines, as tables: one `Receiver` each, told apart by what they do differently.

Measured on the running programs, or read in their sources where they cannot be run here. All that
a line may do to a receiver is in a `Receiver`: what is a number, which tags it understands, what
it makes of a name, whether a sign is a change, and which lines end it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

Tags = frozenset[tuple[str, str]]
Series = tuple[str, Tags]

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WORDS = re.compile(r"[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)
_HEX = re.compile(r"[+-]?0[xX][0-9a-fA-F]+", re.ASCII)


class Killed(Exception):
    """The receiver is dead, or refuses to serve anything, after that line."""


class Bad(ValueError):
    """The receiver drops the line and counts it as bad, or ought to."""


@dataclass(frozen=True)
class Receiver:
    """What is peculiar to one program with one configuration."""

    name: str
    number: Callable[[str], float]
    #: The dialects whose tags it takes for tags.
    tags: frozenset[str] = frozenset()
    #: A line with tags behind the value is dropped, not read without them.
    refuses_trailer: bool = False
    #: What it makes of a name, and of a tag's key and value.
    rename: Callable[[str], str] = str
    tag: Callable[[str, str], tuple[str, str]] = lambda key, value: (key, value)
    #: Whether a signed gauge is added to the one before; npm's only where that is there and not 0.
    delta: bool = True
    zero_is_unset: bool = False
    #: Bytes of a datagram; the rest is cut off.
    datagram: int = 65_535
    #: How different a value may be from what was meant, and how large.
    step: float = 0.0
    largest: float = math.inf
    #: Types that are no gauge and no counter are counted as a counter.
    any_type_counts: bool = False
    #: Raises `Killed` for what ends it.
    deadly: Callable[[str, Iterable[tuple[str, str]]], None] = lambda *_: None
    strips_cr: bool = False
    #: Characters of a name, the rest is cut off.
    longest: int = 1 << 30

    def tells_apart(self, dialect: str) -> bool:
        """Whether names stay apart: some make one of two that differ in case or dashes alone."""
        names = self.tag if dialect != "plain" else lambda _, name: (_, self.rename(name))
        return len({names("x", name) for name in ("A-b", "A_b", "a-b")}) == 3


@dataclass
class State:
    """What a receiver holds: the last value of each gauge, the sum of each counter."""

    receiver: Receiver
    gauges: dict[Series, float] = field(default_factory=dict)
    counters: dict[Series, float] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)
    heard: set[Series] = field(default_factory=set)  # for whoever reads; nothing here needs it

    def receive(self, packet: bytes) -> None:
        """Take one datagram, or so much of it as the receiver's buffer holds."""
        for raw in packet[: self.receiver.datagram].split(b"\n"):
            if raw:
                self._line(raw.decode("utf-8", "backslashreplace"))

    def _line(self, line: str) -> None:
        try:
            series, value, kind = read(line, self.receiver)
            number = self.receiver.number(value)
        except ValueError:
            self.bad.append(line)
            return
        self.heard.add(series)
        if kind == "g":
            self._gauge(series, value, number)
        else:
            self.counters[series] = self.counters.get(series, 0.0) + number

    def _gauge(self, series: Series, value: str, number: float) -> None:
        before = self.gauges.get(series, 0.0)
        signed = self.receiver.delta and value.strip()[:1] in ("+", "-")
        if signed and not (self.receiver.zero_is_unset and not before):
            number += before
        self.gauges[series] = number


def read(line: str, receiver: Receiver) -> tuple[Series, str, str]:
    """The series, the value and the type of a line; raises `Bad` and `Killed`."""
    if receiver.strips_cr:
        line = line.rstrip("\r")
    line, trailer = _trailer(line, receiver)
    head, colon, rest = line.partition(":")
    value, *fields = rest.split("|")
    if not (head and colon and fields) or ":" in rest or len(fields) > 1:
        raise Bad(line)  # a rate, another value or a field that pgstats never sends
    if fields[0] not in ("g", "c") and not receiver.any_type_counts:
        raise Bad(line)
    name, tags = _head(head, receiver)
    if tags and trailer:
        raise Bad(line)  # two styles in one line
    found = [receiver.tag(key, text) for key, text in [*tags, *trailer]]
    receiver.deadly(name, found)
    name = receiver.rename(name)
    if not name or len(dict(found)) < len(found):
        raise Bad(line)
    return (name, frozenset(found)), value, fields[0]


def _trailer(line: str, receiver: Receiver) -> tuple[str, list[tuple[str, str]]]:
    line, mark, text = line.partition("|#")
    if mark and receiver.refuses_trailer:
        raise Bad(line)
    return line, _pairs(text, ",", ":") if "dogstatsd" in receiver.tags else []


def _head(head: str, receiver: Receiver) -> tuple[str, list[tuple[str, str]]]:
    for dialect, between in (("influx", ","), ("graphite", ";")):
        name, mark, text = head.partition(between)
        if mark and dialect in receiver.tags:
            return name, _pairs(text, between, "=")
    return head, []


def _pairs(text: str, between: str, equals: str) -> list[tuple[str, str]]:
    pairs = [tag.partition(equals) for tag in text.split(between)] if text else []
    if not all(key and value and equals not in value for key, _, value in pairs):
        raise Bad(text)  # dropped, refused, cut or made "true": never what was meant
    return [(key, value) for key, _, value in pairs]


# ---- numbers


def javascript(text: str) -> float:
    """Number() of a text that is not empty; what is not a number is a bad line."""
    text = text.strip()
    if text in ("Infinity", "+Infinity", "-Infinity"):
        return float(text)
    if re.fullmatch(r"0[xX][0-9a-fA-F]+", text):
        return float(int(text, 16))
    return _decimal(text)


def golang(text: str) -> float:
    """strconv.ParseFloat: NaN and infinities are numbers, white space is none."""
    return float(text) if _WORDS.fullmatch(text) else _decimal(text)


def strtod(text: str) -> float:
    """C's strtod, all of the text: hexadecimal numbers too."""
    if _HEX.fullmatch(text):
        return float(int(text, 16))
    return golang(text.lstrip(" \t"))


def thousandths(text: str) -> float:
    """netdata's own: a whole number of thousandths in 64 bits, whatever stands there is one."""
    found = _DECIMAL.match(text.lstrip())
    number = float(found[0]) if found else 0.0
    if abs(number) * 1000 >= 2**63:
        return -(2**63) / 1000
    return math.trunc(number * 1000) / 1000 + 0.0


def _decimal(text: str) -> float:
    if not _DECIMAL.fullmatch(text):
        raise Bad(text)
    return float(text)


# ---- names


def _npm(name: str) -> str:
    name = re.sub(r"\s+", "_", name).replace("/", "-")
    return re.sub(r"[^a-zA-Z0-9_\-.;=]", "", name)


def _prometheus(name: str) -> str:
    name = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    return f"_{name}" if name[:1].isdigit() else name


def _netdata(name: str) -> str:
    return re.sub(rb"[^a-z0-9_.-]", b"_", name.lower().encode()).decode()


def _collectd(name: str) -> str:
    return name.replace("/", "_").encode()[:127].decode(errors="replace")


def _telegraf(name: str) -> str:
    return (name.split() or [""])[0].replace(".", "_")


def _kept_by_npm(key: str, value: str) -> tuple[str, str]:
    return _npm(key), _npm(value)


def _datadog(key: str, value: str) -> tuple[str, str]:
    if not key[0].isalpha() or len(f"{key}:{value}") > 200:
        raise Bad(key)
    return tuple(re.sub(r"[^\w:./-]", "_", text.lower(), flags=re.ASCII) for text in (key, value))  # type: ignore[return-value]


def _carbon(key: str, value: str) -> tuple[str, str]:
    if re.search(r"[;!^=]", key) or ";" in value or value.startswith("~") or key == "name":
        raise Bad(key)
    return key, value


def _exporter_dies(name: str, tags: Iterable[tuple[str, str]]) -> None:
    if any(key.startswith("__") for key, _ in tags):
        raise Killed("every metric is refused from now on")
    if re.match(r"go_|process_|promhttp_|statsd_", _prometheus(name)):
        raise Killed("its own metrics clash")


_T = frozenset

RECEIVERS = {
    receiver.name: receiver
    for receiver in (
        Receiver(
            "npm",
            javascript,
            tags=_T({"dogstatsd", "graphite"}),
            rename=_npm,
            tag=_kept_by_npm,
            zero_is_unset=True,
            datagram=65_507,
            any_type_counts=True,
        ),
        Receiver(
            "statsd_exporter",
            golang,
            tags=_T({"dogstatsd", "influx"}),
            rename=_prometheus,
            tag=lambda key, value: (_prometheus(key), value),
            deadly=_exporter_dies,
        ),
        Receiver("telegraf", golang, tags=_T({"influx"}), rename=_telegraf, strips_cr=True),
        Receiver(
            "telegraf_datadog",
            golang,
            tags=_T({"dogstatsd", "influx"}),
            rename=_telegraf,
            strips_cr=True,
        ),
        Receiver(
            "netdata", thousandths, rename=_netdata, datagram=8_999, step=0.001, largest=9.22e15,
            strips_cr=True,
        ),
        Receiver(
            "collectd",
            strtod,
            refuses_trailer=True,
            rename=_collectd,
            datagram=4_096,
            longest=127,
        ),
        Receiver(
            "datadog",
            golang,
            tags=_T({"dogstatsd"}),
            tag=_datadog,
            delta=False,
            datagram=8_192,
        ),
        Receiver("graphite", _decimal, tags=_T({"graphite"}), tag=_carbon),
    )
}  # fmt: skip

#: Which of them each dialect is for: there, every series is told from every other.
READERS = {
    "plain": tuple(RECEIVERS),
    "dogstatsd": ("npm", "statsd_exporter", "telegraf_datadog", "datadog"),
    "influx": ("telegraf", "telegraf_datadog", "statsd_exporter"),
    "graphite": ("npm", "graphite"),
}
