"""Spells frames as statsd lines, in any dialect. Pure: frames in, text out.

Each frame is compiled into one row template: the constant parts of all its lines, with ``%s``
where the numbers and the row's labels go. A row is then one ``%``, which C makes of one row after
the other. Columns are spelled as a whole before that, so that those of plain whole numbers, which
most are, cost nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, repeat
from typing import Any

from pgstats.model import OTHER, SELF, Frame, Metric, Number, Query
from pgstats.noun import Noun

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

_BLOCK = 200  # rows
_WHOLE = {int, type(None)}

_Scope = tuple[str, str, str]
#: A text, and the columns that are to be put in where it has ``%s``.
_Side = tuple[str, Sequence[Sequence[Any]]]
#: What stands around a metric's name and value: the path, the tags in the name, those behind.
_Around = tuple[str, str, str]


class Dialect(Noun):
    """How a line is put together.

    ``tagged`` says whether labels are tags or components of the name. ``tags`` spells the tags
    that stand in the name, ``trailer`` those behind the value. ``longest`` are the characters of
    a name that its receivers keep, where that is known.
    """

    name: str
    help: str
    tagged: bool
    tags: Callable[[Iterable[tuple[str, str]]], str] = lambda _: ""
    trailer: Callable[[Iterable[tuple[str, str]]], str] = lambda _: ""
    longest: Mapping[str, int] = {}


def _joined(tags: Iterable[tuple[str, str]], start: str, between: str, equals: str) -> str:
    text = between.join(f"{key}{equals}{value}" for key, value in tags)
    return start + text if text else ""


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "plain",
            "labels are levels of the dotted name; every receiver",
            tagged=False,
            longest={"collectd": 127, "Datadog": 200},
        ),
        Dialect(
            "dogstatsd",
            "name:value|g|#key:value; Datadog, Telegraf with its extension, statsd_exporter",
            tagged=True,
            trailer=lambda tags: _joined(tags, "|#", ",", ":"),
            longest={"Datadog": 200},
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


class Counts:
    """What happened to values and names since the start."""

    def __init__(self) -> None:
        self.skipped_values = 0
        self.altered_names = 0


class _Names:
    """What the values of a label are called on the wire, remembered from poll to poll.

    No two are called the same. A clean name always keeps its name; of those that had to be
    altered, all that read like another one carry a hash of what they really are, but for one that
    had its name before: a series that goes by another name leaves its gauges behind. ``clash`` is
    the first that had to, ``altered`` are all that are not called what they are.
    """

    def __init__(self, *, tag: bool, altered: Mapping[Any, str]) -> None:
        self.clash: object = None
        self.altered: dict[object, str] = {}
        self._tag = tag
        self._names: dict[object, str] = {}
        self._holders: dict[str, object] = {}  # None: several wanted it, none has it
        self.of = self._names.__getitem__  # the name of what was learnt
        for raw, text in altered.items():
            self._give(raw, text)

    def learn(self, raws: Collection[object]) -> list[object]:
        """Name all values of a poll; says which are new."""
        fresh = [raw for raw in raws if raw not in self._names]
        missing: Collection[object] = dict.fromkeys(fresh)
        if fresh and len(self._names) > 2 * len(raws) + 1000:
            for memory in (self._names, self._holders, self.altered):
                memory.clear()  # names that came and went must not pile up
            missing = raws
        for raw in missing:
            self._add(raw, missing)
        return fresh

    def _add(self, raw: object, fresh: Collection[object]) -> None:
        text = self._fit(raw)
        fit, free, holder = _same(raw, text), text not in self._holders, self._holders.get(text)
        self._give(raw, text if fit or free else self._apart(raw))
        if holder is None or _same(holder, text) or not (fit or holder in fresh):
            return
        if not fit:
            self._holders[text] = None
        self._give(holder, self._apart(holder))

    def _give(self, raw: object, text: str) -> None:
        self._names[raw] = text
        self._holders[text] = raw
        if not _same(raw, text):
            self.altered[raw] = text

    def _fit(self, raw: object) -> str:
        """The cleaned text; what is really called like the folded rest is not clean."""
        text = clean(raw, tag=self._tag)
        return _distinct(raw, text, 6) if text == _REST and raw is not OTHER else text

    def _apart(self, raw: object) -> str:
        """A free name with a hash, of 6 digits or as many as it takes."""
        self.clash = raw if self.clash is None else self.clash
        texts = (_distinct(raw, clean(raw, tag=self._tag), digits) for digits in range(6, 65))
        return next(text for text in texts if text not in self._holders)


def _same(raw: object, text: str) -> bool:
    """Whether nothing had to be altered."""
    return raw is OTHER or raw == text


class Speller:
    """Spells frames in one dialect under one prefix, with the tags added to every line.

    ``notes`` is what somebody should know of the names, by what it is about: the first such case.
    ``known`` are the names that had to be altered before, by their labels, as `altered` gives them.
    """

    def __init__(
        self,
        dialect: Dialect,
        prefix: str,
        tags: Mapping[str, str] = {},
        counts: Counts | None = None,
        known: Mapping[str, Mapping[Any, str]] = {},
    ) -> None:
        self.dialect = dialect
        self.prefix = prefix
        self.tags = tags
        self.counts = counts or Counts()
        self.known = known
        self.notes: dict[str, str] = {}
        self._names: dict[_Scope, _Names] = {}
        self._known_around: dict[tuple[object, ...], _Around] = {}
        self._measured: set[tuple[str, str]] = set()  # questions without labels

    def spell(self, *frames: Frame) -> str:
        """All lines of the frames of a poll, each ended by a line feed.

        The frames of a poll belong into one call: names are kept apart among them. A negative
        gauge is two lines that must reach the receiver together: a zero, then the value, which
        receivers would otherwise take for a change.
        """
        return "".join(self.spelling(*frames))

    def spelling(self, *frames: Frame) -> Iterator[str]:
        """The same text in blocks of whole rows, each made when it is asked for."""
        frames = tuple(frame for frame in frames if frame.metrics)
        fresh = self._learn(frames)
        for frame in frames if self._limits() else ():
            if any(fresh.get(scope) for scope in _scopes(frame)) or self._unmeasured(frame):
                self._measure(frame)
        parts = (part for frame in frames for part in frame.parts)
        rows = chain.from_iterable(map(self._lines, parts))
        while block := list(islice(rows, _BLOCK)):
            yield "".join(block)

    def altered(self) -> dict[str, dict[object, str]]:
        """The names of what is not called what it is, by its label."""
        labels = {scope[2]: dict(names.altered) for scope, names in self._names.items()}
        return {label: altered for label, altered in labels.items() if altered}

    def _learn(self, frames: Iterable[Frame]) -> dict[_Scope, list[object]]:
        """Name the values of all labels; says which are new."""
        seen: dict[_Scope, dict[object, None]] = {}
        for frame in frames:
            for scope, column in zip(_scopes(frame), frame.labels, strict=True):
                seen.setdefault(scope, {}).update(dict.fromkeys(column))
        return {scope: self._named(scope, raws) for scope, raws in seen.items()}

    def _named(self, scope: _Scope, raws: Collection[object]) -> list[object]:
        if scope not in self._names:
            known = self.known.get(scope[2], {})
            self._names[scope] = _Names(tag=self.dialect.tagged, altered=known)
        names = self._names[scope]
        fresh = names.learn(raws)
        self.counts.altered_names += sum(not _same(raw, names.of(raw)) for raw in fresh)
        if names.clash is not None:
            text = (
                f"{scope[2]} {str(names.clash)!r} would read like another: such names end in a hash"
            )
            self.notes.setdefault("clash", text)
        return fresh

    def _limits(self) -> Mapping[str, int]:
        """How long names may be, for each receiver of which nothing was noted yet."""
        longest = self.dialect.longest.items()
        return {who: most for who, most in longest if who not in self.notes}

    def _unmeasured(self, frame: Frame) -> bool:
        """Whether it has no labels, and is met for the first time."""
        key = (frame.query.group, frame.metrics[0].name)
        if frame.query.labels or key in self._measured:
            return False
        self._measured.add(key)
        return True

    def _measure(self, frame: Frame) -> None:
        """Note the first name that is longer than a receiver keeps."""
        limits = self._limits()
        path = self._around(frame)[0]
        metric = max((metric.name for metric in frame.metrics), key=len)
        for labels in zip(*self._texts(frame), strict=True) if frame.query.labels else [()]:
            name = (path % labels if "%s" in path else path) + metric
            for who, most in limits.items():
                if len(name) > most:
                    text = f"{who} keeps {most} characters of a name; {name} has {len(name)}"
                    self.notes.setdefault(who, text)

    def _texts(self, frame: Frame) -> list[Sequence[str]]:
        """What the values of each label are called, column by column."""
        names = (self._names[scope].of for scope in _scopes(frame))
        return [list(map(of, column)) for of, column in zip(names, frame.labels, strict=True)]

    def _lines(self, frame: Frame) -> Iterator[str]:
        """The text of each row."""
        if frame.height == 1:
            return iter([self._line(frame)])
        sides = self._sides(frame)
        pieces = [
            self._piece(metric, numbers, sides)
            for metric, numbers in zip(frame.metrics, frame.numbers, strict=True)
        ]
        template = "".join(piece for piece, _ in pieces)
        columns = [column for _, several in pieces for column in several]
        return map(template.__mod__, zip(*columns, strict=True))

    def _line(self, frame: Frame) -> str:
        """The text of a single row: what all rows have in common need not be looked for."""
        labels = tuple(name for (name,) in self._texts(frame))
        path, inside, behind = (
            part % labels if "%s" in part else part for part in self._around(frame)
        )
        lines = []
        for metric, (number,) in zip(frame.metrics, frame.numbers, strict=True):
            text, kind = spell_number(number), _kind(metric)
            self.counts.skipped_values += text is None
            line = _signed if kind == "g" else _known
            lines.append(line(f"{path}{metric.name}{inside}:", text, f"|{kind}{behind}\n"))
        return "".join(lines)

    def _sides(self, frame: Frame) -> list[_Side]:
        """What stands around its metrics' names and values."""
        labels = self._texts(frame)
        return [
            ("%s", [list(map(part.__mod__, zip(*labels, strict=True)))])
            if "%s" in part
            else (part, [])
            for part in self._around(frame)
        ]

    def _piece(
        self, metric: Metric, numbers: Sequence[Number | None], sides: Sequence[_Side]
    ) -> _Side:
        """What a metric adds to a row: its line, or where not all rows have just one, any text."""
        (path, paths), (inside, insides), (behind, behinds) = sides
        start, end = f"{path}{metric.name}{inside}:", f"|{_kind(metric)}{behind}\n"
        texts = _spelled(numbers)
        unknown = texts.count(None)
        self.counts.skipped_values += unknown
        negative = _kind(metric) == "g" and texts is not numbers and _negative(texts)
        if not unknown and not negative:
            return f"{start}%s{end}", [*paths, *insides, texts, *behinds]
        if unknown == len(texts):
            return "", []
        line = _signed if negative else _known
        starts, ends = _filled(start, [*paths, *insides]), _filled(end, behinds)
        return "%s", [list(map(line, starts, texts, ends))]

    def _around(self, frame: Frame) -> _Around:
        """What stands around its metrics' names and values, ``%s`` for each label."""
        query = frame.query
        key = (query.family, query.group, *query.labels, frame.target, *frame.tags.items())
        if key not in self._known_around:
            tags = {**self.tags, **frame.tags}
            self._known_around[key] = _around(
                self.dialect,
                self.prefix,
                query,
                self._target(frame),
                ["%s"] * len(query.labels),
                sorted((name, clean(tag, tag=True)) for name, tag in tags.items()),
            )
        return self._known_around[key]

    def _target(self, frame: Frame) -> str:
        """Whom the frame is about; without tags, its own are part of the name: front-1."""
        if not frame.target:
            return ""
        own = () if self.dialect.tagged else frame.tags.values()
        return clean("-".join((frame.target, *own)), tag=self.dialect.tagged)


def _filled(text: str, columns: Sequence[Sequence[str]]) -> Iterable[str]:
    """The same text for every row, with those of the columns put in."""
    return map(text.__mod__, zip(*columns, strict=True)) if columns else repeat(text)


def _known(start: str, number: object, end: str) -> str:
    return "" if number is None else f"{start}{number}{end}"


def _signed(start: str, number: str | None, end: str) -> str:
    """The same, of a gauge that may be negative."""
    zero = f"{start}0{end}" if number and number.startswith("-") else ""
    return zero + _known(start, number, end)


def _negative(texts: Iterable[str | None]) -> bool:
    """Whether one of them has a sign, which stands nowhere else in a number."""
    return "-" in "".join(filter(None, texts))


def _spelled(numbers: Sequence[Number | None]) -> Sequence[Any]:
    """A column as its numbers are spelled; None for what is not sent.

    One of whole numbers from 0 on, which most are, is returned as it is.
    """
    kinds = set(map(type, numbers))
    if kinds <= _WHOLE:
        known = [number for number in numbers if number is not None]
        if not known or (min(known) >= 0 and max(known) <= _GREATEST):
            return numbers
    # Many rows have the same number: 0, most of all.
    texts = {number: spell_number(number) for number in set(numbers)}
    return list(map(texts.__getitem__, numbers))


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
) -> _Around:
    """What stands around a metric's name and value.

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


def _scopes(frame: Frame) -> list[_Scope]:
    """Where the values of each of its labels must not be confused with each other.

    Not in the group alone: who reads of a database here and there reads of the same one.
    """
    return [(frame.query.family, frame.target, label) for label in frame.query.labels]
