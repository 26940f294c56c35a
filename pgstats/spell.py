"""Spells frames as statsd lines, in any dialect. Pure: frames in, text out.

Each (query, dialect) is one row template: the constant parts of all its lines with ``%s`` where
the numbers go, filled by one ``%`` a row and completed with the row's sanitised labels, which are
remembered. What is not a plain whole number by then is mended in the text: unknown values are
taken out and counted, fractions shortened, negative gauges preceded by a zero.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pgstats.model import OTHER, SELF, Frame, Metric, Query

#: The longest component of a name, in bytes: file systems end at 255, collectd cuts whole names
#: at 127.
LONGEST = 120
_REST = str(OTHER)
_UNFIT_PART = re.compile(r"[^A-Za-z0-9_-]")
_UNFIT_VALUE = re.compile(r"[^A-Za-z0-9_.-]")

# What statsd calls a metric's kind, where it is no gauge. A total is a gauge that only grows.
_TYPES = {"count": "c"}

# Stand in a template for what differs from row to row; no sanitised text holds them.
_PATH, _TAGS = "\0", "\1"


@dataclass(frozen=True, slots=True)
class Dialect:
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


def _distinct(raw: object, text: str) -> str:
    """The cleaned name of something whose name others share after cleaning."""
    digest = hashlib.sha256(str(raw).encode(errors="surrogatepass")).hexdigest()[:6]
    return f"{text[: LONGEST - 7]}_{digest}"


@dataclass(slots=True)
class Counts:
    """What happened to values and names since the start."""

    skipped_values: int = 0
    altered_names: int = 0


class _Labels:
    """The sanitised labels of a query's rows, remembered from poll to poll."""

    def __init__(self, *, tag: bool) -> None:
        self._tag = tag
        self._known: dict[tuple[object, ...], tuple[str, ...]] = {}

    def of(
        self, rows: Sequence[tuple[object, ...]], width: int, counts: Counts
    ) -> list[tuple[str, ...]]:
        """The labels of each row; two rows never share theirs."""
        keys = [row[:width] for row in rows]
        if not self._known.keys() >= set(keys):
            if len(self._known) > 2 * len(keys) + 1000:
                self._known.clear()  # names that came and went must not pile up
            self._learn(dict.fromkeys([*self._known, *keys]), counts)
        return [self._known[key] for key in keys]

    def _learn(self, keys: Iterable[tuple[object, ...]], counts: Counts) -> None:
        spelled: dict[tuple[str, ...], list[tuple[object, ...]]] = {}
        for key in keys:
            texts = tuple(clean(raw, tag=self._tag) for raw in key)
            spelled.setdefault(texts, []).append(key)
        for texts, sharing in spelled.items():
            for key in sharing:
                final = self._final(key, texts, alone=len(sharing) == 1)
                if key not in self._known and final != tuple(map(str, key)):
                    counts.altered_names += 1
                self._known[key] = final

    def _final(
        self, key: tuple[object, ...], texts: tuple[str, ...], *, alone: bool
    ) -> tuple[str, ...]:
        """The texts, with a hash where a name had to be altered and another one reads the same.

        A clean name always keeps its name; one that is really called like the folded rest does
        not count as clean.
        """
        return tuple(
            _distinct(raw, text)
            if (text == _REST and raw is not OTHER) or (not alone and str(raw) != text)
            else text
            for raw, text in zip(key, texts, strict=True)
        )


@dataclass(slots=True)
class Speller:
    """Spells frames in one dialect under one prefix, with the tags added to every line."""

    dialect: Dialect
    prefix: str
    tags: Mapping[str, str] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    _labels: dict[tuple[str, str, str], _Labels] = field(default_factory=dict)

    def spell(self, frame: Frame) -> str:
        """All lines of a frame, each ended by a line feed.

        A negative value is two lines that must reach the receiver together: a zero, then the
        value, which receivers would otherwise take for a change.
        """
        query = frame.query
        if not frame.rows or not frame.metrics:
            return ""
        memory = self._labels.setdefault(
            (query.family, query.group, frame.target), _Labels(tag=self.dialect.tagged)
        )
        width = len(query.labels)
        template = self._template(frame)
        place = self._place(frame)
        text = "".join(
            place(template % row[width:], texts)
            for row, texts in zip(
                frame.rows, memory.of(frame.rows, width, self.counts), strict=True
            )
        )
        return _ODD.sub(self._mended, text)

    def _template(self, frame: Frame) -> str:
        tags = _TAGS if self.dialect.tagged else ""
        return "".join(
            f"{_PATH}{metric.name}{tags}:%s|{_TYPES.get(metric.kind, 'g')}{tags}\n"
            for metric in frame.metrics
        )

    def _place(self, frame: Frame) -> Callable[[str, Sequence[str]], str]:
        """Puts the names and tags of one row into its lines."""
        query = frame.query
        if not self.dialect.tagged:
            target = clean(frame.target) if frame.target else ""
            start = tuple(filter(None, (self.prefix, query.family, target, query.group)))
            return lambda lines, labels: lines.replace(_PATH, ".".join((*start, *labels, "")))
        path = ".".join(filter(None, (self.prefix, query.family, query.group))) + "."
        target_tag = [("target", clean(frame.target, tag=True))] if frame.target else []
        common = [
            (key, clean(value, tag=True)) for key, value in {**frame.tags, **self.tags}.items()
        ]
        keys = tuple(query.labels)

        def tagged(lines: str, labels: Sequence[str]) -> str:
            tags = [*target_tag, *zip(keys, labels, strict=True), *common]
            inside, behind = self.dialect.tags(tags), self.dialect.trailer(tags)
            lines = lines.replace(f"{_TAGS}:", f"{inside}:").replace(_TAGS, behind)
            return lines.replace(_PATH, path)

        return tagged

    def _mended(self, line: re.Match[str]) -> str:
        name, value, rest = line.groups()
        number = spell_number(value)
        if number is None:
            self.counts.skipped_values += 1
            return ""
        if number.startswith("-"):
            return f"{name}:0{rest}\n{name}:{number}{rest}\n"
        return f"{name}:{number}{rest}\n"


# A line whose value is not a plain whole number. Names hold no colon.
_ODD = re.compile(r"^([^:\n]*):(?!\d+\|)([^|\n]*)(\|.*)\n", re.MULTILINE)


def spell_number(text: str) -> str | None:
    """A number as every receiver reads it: at most 6 decimals, no exponent, no negative zero.

    Not a number, infinite or unknown is None: nothing is sent.
    """
    if text in ("True", "False"):
        return "1" if text == "True" else "0"
    try:
        number = float(text)
    except ValueError:
        return None
    if number != number or number in (float("inf"), float("-inf")):  # noqa: PLR0124
        return None
    if "." not in text and "e" not in text:
        return text
    fixed = f"{number:.6f}".rstrip("0").rstrip(".")
    return "0" if fixed == "-0" else fixed


def shape(query: Query, metric: Metric, dialect: Dialect, prefix: str) -> str:
    """A metric's line with its variable parts in angle brackets, for people."""
    if not dialect.tagged:
        target = "" if query.family == SELF else "<target>"
        labels = [f"<{label}>" for label in query.labels]
        levels = [prefix, query.family, target, query.group, *labels, metric.name]
        return ".".join(filter(None, levels)) + ":<value>|g"
    keys = list(query.labels) if query.family == SELF else ["target", *query.labels]
    tags = [(key, f"<{key}>") for key in keys]
    path = ".".join(filter(None, (prefix, query.family, query.group, metric.name)))
    return f"{path}{dialect.tags(tags)}:<value>|g{dialect.trailer(tags)}"
