"""Spells frames as statsd lines, in any dialect. Pure: frames in, text out.

Each frame is compiled into one row template: the constant parts of all its lines, with ``%s``
where the numbers go and marks where the row's labels go. A row is then one ``%`` and a replacement
for each mark. Columns are spelled as a whole before that, so that those of plain whole numbers,
which most are, cost nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pgstats.model import OTHER, SELF, Frame, Metric, Number, Query

#: The longest component of a name, in bytes: file systems end at 255, collectd cuts whole names
#: at 127.
LONGEST = 120
_REST = str(OTHER)
_UNFIT_PART = re.compile(r"[^A-Za-z0-9_-]")
_UNFIT_VALUE = re.compile(r"[^A-Za-z0-9_.-]")

# Receivers hold floats: what is larger would be infinite there.
_GREATEST = int(1.7976931348623157e308)

# What statsd calls a metric's kind, where it is no gauge. A total is a gauge that only grows.
_TYPES = {"count": "c", "timing": "ms"}

# Stand in a template for what differs from row to row: the path, the tags in the name, and those
# behind the value. No name, tag or number holds them.
_MARKS = ("\0", "\\1", "\\2")

_Key = tuple[object, ...]
_Texts = tuple[str, ...]


class Dialect(NamedTuple):
    """How a line is put together.

    ``tagged`` says whether labels are tags or components of the name. ``tags`` spells the tags
    that stand in the name, ``trailer`` those behind the value.
    """

    name: str
    help: str
    tagged: bool
    tags: Callable[[Iterable[tuple[str, str]]], str] = lambda _: ""
    trailer: Callable[[Iterable[tuple[str, str]]], str] = lambda _: ""


def _joined(tags: Iterable[tuple[str, str]], start: str, between: str, equals: str) -> str:
    text = between.join(f"{key}{equals}{value}" for key, value in tags)
    return start + text if text else ""


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("plain", "labels are levels of the dotted name; every receiver", tagged=False),
        Dialect(
            "dogstatsd",
            "name:value|g|#key:value; Datadog, Telegraf with its extension, statsd_exporter",
            tagged=True,
            trailer=lambda tags: _joined(tags, "|#", ",", ":"),
        ),
        Dialect(
            "influx",
            "name,key=value:value|g; Telegraf as shipped, statsd_exporter",
            tagged=True,
            tags=lambda tags: _joined(tags, ",", ",", "="),
        ),
        Dialect(
            "graphite",
            "name;key=value:value|g; statsd 0.9 or later in front of Graphite 1.1",
            tagged=True,
            tags=lambda tags: _joined(tags, ";", ";", "="),
        ),
    )
}


def clean(raw: object, *, tag: bool = False) -> str:
    """One component of a name, or one tag's value, that every receiver reads as meant."""
    text = (_UNFIT_VALUE if tag else _UNFIT_PART).sub("_", str(raw))[:LONGEST]
    return text or "none"


def _distinct(raw: object, text: str, digits: int) -> str:
    """The cleaned text of something that shares it with others, made its own."""
    import hashlib  # noqa: PLC0415 - hardly any name needs it

    digest = hashlib.sha256(str(raw).encode(errors="surrogatepass")).hexdigest()[:digits]
    return f"{text[: LONGEST - 1 - digits]}_{digest}"


@dataclass(slots=True)
class Counts:
    """What happened to values and names since the start."""

    skipped_values: int = 0
    altered_names: int = 0


class _Names:
    """What the labels of a group's rows are called on the wire, remembered from poll to poll.

    No two rows are called the same. A clean name always keeps its name; of those that had to be
    altered, all that read like another one carry a hash of what they really are.
    """

    def __init__(self, *, tag: bool) -> None:
        self._tag = tag
        self._names: dict[_Key, _Texts] = {}
        self._holders: dict[_Texts, _Key | None] = {}  # None: several wanted it, none has it

    def learn(self, keys: Sequence[_Key]) -> int:
        """Name all rows of a poll; says how many of the new ones had to be altered."""
        fresh = {key for key in keys if key not in self._names}
        if fresh and len(self._names) > 2 * len(keys) + 1000:
            self._names.clear()  # names that came and went must not pile up
            self._holders.clear()
        for key in keys if fresh else ():
            if key not in self._names:
                self._add(key)
        return sum(not _same(key, self._names[key]) for key in fresh)

    def of(self, key: _Key) -> _Texts:
        """The name of a row that was learnt."""
        return self._names[key]

    def _add(self, key: _Key) -> None:
        texts = tuple(map(self._fit, key))
        fit = _same(key, texts)
        holder = self._holders.get(texts)
        free = texts not in self._holders
        self._give(key, texts if fit or free else self._hashed(key))
        if holder and not _same(holder, texts):
            if not fit:
                self._holders[texts] = None
            self._give(holder, self._hashed(holder))

    def _give(self, key: _Key, texts: _Texts) -> None:
        self._names[key] = texts
        self._holders[texts] = key

    def _fit(self, raw: object) -> str:
        """The cleaned text; what is really called like the folded rest is not clean."""
        text = clean(raw, tag=self._tag)
        return _distinct(raw, text, 6) if text == _REST and raw is not OTHER else text

    def _hashed(self, key: _Key) -> _Texts:
        """A free name with a hash, of 6 digits or as many as it takes, in each altered part."""
        for digits in range(6, 65):
            texts = tuple(
                text
                if _same((raw,), (text,))
                else _distinct(raw, clean(raw, tag=self._tag), digits)
                for raw, text in zip(key, map(self._fit, key), strict=True)
            )
            if texts not in self._holders:
                break
        return texts


def _same(key: _Key, texts: _Texts) -> bool:
    """Whether nothing had to be altered."""
    return all(raw is OTHER or raw == text for raw, text in zip(key, texts, strict=True))


@dataclass(slots=True)
class Speller:
    """Spells frames in one dialect under one prefix, with the tags added to every line."""

    dialect: Dialect
    prefix: str
    tags: Mapping[str, str] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    _names: dict[tuple[str, str, str], _Names] = field(default_factory=dict)

    def spell(self, *frames: Frame) -> str:
        """All lines of the frames of a poll, each ended by a line feed.

        The frames of a poll belong into one call: names are kept apart among them. A negative
        gauge is two lines that must reach the receiver together: a zero, then the value, which
        receivers would otherwise take for a change.
        """
        frames = tuple(frame for frame in frames if frame.metrics)
        keys: dict[tuple[str, str, str], list[_Key]] = {}
        for frame in frames:
            width = len(frame.query.labels)
            keys.setdefault(_group(frame), []).extend(row[:width] for row in frame.rows)
        for group, rows in keys.items():
            names = self._names.setdefault(group, _Names(tag=self.dialect.tagged))
            self.counts.altered_names += names.learn(rows)
        return "".join(line for frame in frames for line in self._lines(frame))

    def _lines(self, frame: Frame) -> Iterable[str]:
        """The text of each row."""
        width = len(frame.query.labels)
        lines, varying = self._compiled(frame)
        template = "".join(lines)
        names = self._names[_group(frame)]
        for row, numbers in zip(frame.rows, self._numbers(frame, lines), strict=True):
            if None in numbers:
                text = "".join(
                    line % number
                    for line, number in zip(lines, numbers, strict=True)
                    if number is not None
                )
            else:
                text = template % numbers
            labels = names.of(row[:width])
            for mark, part in varying:
                text = text.replace(mark, part % labels)
            yield text

    def _compiled(self, frame: Frame) -> tuple[list[str], list[tuple[str, str]]]:
        """A template for each metric's line, and what to put in place of each mark in them."""
        tags = {**self.tags, **frame.tags}
        around = _around(
            self.dialect,
            self.prefix,
            frame.query,
            self._target(frame),
            ["%s"] * len(frame.query.labels),
            sorted((key, clean(tag, tag=True)) for key, tag in tags.items()),
        )
        parts = list(zip(_MARKS, around, strict=True))
        path, inside, behind = (mark if "%s" in part else part for mark, part in parts)
        lines = [
            f"{path}{metric.name}{inside}:%s|{_kind(metric)}{behind}\n" for metric in frame.metrics
        ]
        return lines, [(mark, part) for mark, part in parts if "%s" in part]

    def _target(self, frame: Frame) -> str:
        """Whom the frame is about; without tags, its own are part of the name: front-1."""
        if not frame.target:
            return ""
        own = () if self.dialect.tagged else frame.tags.values()
        return clean("-".join((frame.target, *own)), tag=self.dialect.tagged)

    def _numbers(self, frame: Frame, lines: Sequence[str]) -> Iterable[tuple[object, ...]]:
        """Each row's numbers, spelled where ``%s`` would not do; None for what is not sent."""
        columns = list(zip(*frame.rows, strict=True))[len(frame.query.labels) :]
        return zip(*map(self._column, columns, frame.metrics, lines), strict=True)

    def _column(
        self, numbers: Sequence[Number | None], metric: Metric, line: str
    ) -> Sequence[object]:
        if _plain(numbers):
            return numbers
        texts = [spell_number(number) for number in numbers]
        self.counts.skipped_values += texts.count(None)
        if _kind(metric) != "g":
            return texts
        start, end = line.split("%s")
        pair = f"0{end}{start}"
        return [pair + text if text and text.startswith("-") else text for text in texts]


def _plain(numbers: Sequence[Any]) -> bool:
    """Whether ``%s`` spells all of them right."""
    return set(map(type, numbers)) == {int} and min(numbers) >= 0 and max(numbers) <= _GREATEST


def spell_number(number: Number | None) -> str | None:
    """A number as every receiver reads it: at most 6 decimals, no exponent, no negative zero.

    Not a number, infinite or unknown is None: nothing is sent.
    """
    if number is None or not -_GREATEST <= number <= _GREATEST:  # so is what is not a number
        return None
    if isinstance(number, int):
        return str(int(number))  # True is 1
    fixed = f"{number:.6f}".rstrip("0").rstrip(".")
    return "0" if fixed == "-0" else fixed


def template(name: str, kind: str, dialect: Dialect, tags: Mapping[str, str]) -> str:
    """The line of a single name, with ``%s`` for its number. ``kind`` is as in `Metric`."""
    pairs = [(key, clean(tag, tag=True)) for key, tag in sorted(tags.items())]
    return f"{name}{dialect.tags(pairs)}:%s|{_TYPES.get(kind, 'g')}{dialect.trailer(pairs)}\n"


def shape(query: Query, metric: Metric, dialect: Dialect, prefix: str) -> str:
    """A metric's line with its variable parts in angle brackets, for people."""
    target = "" if query.family == SELF else "<target>"
    labels = [f"<{label}>" for label in query.labels]
    path, inside, behind = _around(dialect, prefix, query, target, labels)
    return f"{path}{metric.name}{inside}:<value>|{_kind(metric)}{behind}"


def _around(
    dialect: Dialect,
    prefix: str,
    query: Query,
    target: str,
    labels: Sequence[str],
    more: Iterable[tuple[str, str]] = (),
) -> tuple[str, str, str]:
    """What stands around a metric's name and value: the path, the tags in the name, those behind.

    Tags come in a fixed order: the target, the labels, then ``more``.
    """
    if not dialect.tagged:
        levels = (prefix, query.family, target, query.group, *labels)
        return ".".join(filter(None, levels)) + ".", "", ""
    tags = [("target", target)] if target else []
    tags += [*zip(query.labels, labels, strict=True), *more]
    path = ".".join(filter(None, (prefix, query.family, query.group))) + "."
    return path, dialect.tags(tags), dialect.trailer(tags)


def _kind(metric: Metric) -> str:
    return _TYPES.get(metric.kind, "g")


def _group(frame: Frame) -> tuple[str, str, str]:
    """Whose rows must not be confused with each other."""
    return frame.query.family, frame.query.group, frame.target
