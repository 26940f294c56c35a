"""Spells frames as statsd lines, in any dialect. Pure: frames in, text out.

Each frame is compiled into one row template: the constant parts of all its lines, with ``%s``
where the numbers and the row's labels go. That is remembered, so that a poll of one row is one
``%``; many rows are a block, the template repeated, and one ``%`` as well. Columns are spelled as
a whole before that, so that those of plain whole numbers, which most are, cost nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat, starmap
from typing import Any, TypeVar

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

_BLOCK = 2000  # lines that are spelled at once
_WORTH = 50_000  # characters that are worth a shipment
_FORMS = 2000  # that are remembered of a target

_T = TypeVar("_T")

_Scope = tuple[str, str, str]
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

    def __init__(self, label: str, *, tag: bool, altered: Mapping[Any, str]) -> None:
        self.label = label
        self.clash: object = None
        self.altered: dict[object, str] = {}
        self._tag = tag
        self._names: dict[object, str] = {}
        self._holders: dict[str, object] = {}  # None: several wanted it, none has it
        self._last: Sequence[Sequence[object]] = ()  # columns of which all is learnt
        self.of = self._names.__getitem__  # the name of what was learnt
        for raw, text in altered.items():
            self._give(raw, text)

    def learn(self, columns: Sequence[Sequence[object]]) -> list[object]:
        """Name all values of a poll; says which are new."""
        if columns == self._last:
            return []  # as at most polls
        fresh = self._learn(columns)
        self._last = columns
        return fresh

    def _learn(self, columns: Sequence[Sequence[object]]) -> list[object]:
        if all(all(map(self._names.__contains__, column)) for column in columns):
            return []
        raws = dict.fromkeys(chain.from_iterable(columns))
        fresh = [raw for raw in raws if raw not in self._names]
        missing: Collection[object] = dict.fromkeys(fresh)
        if len(self._names) > 2 * len(raws) + 1000:
            for memory in (self._names, self._holders, self.altered):
                memory.clear()  # names that came and went must not pile up
            missing = raws
        for raw in missing:
            self._add(raw, missing)
        return fresh

    def texts(self, column: Sequence[object]) -> Sequence[object]:
        """The names of a column of what was learnt; `OTHER` reads like its name."""
        return list(map(self.of, column)) if self.altered else column

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


class _Form:
    """What the frames of one question have in common from poll to poll.

    ``template`` are the lines of a row, with ``%s`` for labels and numbers.
    """

    def __init__(self, frame: Frame, template: str, names: list[_Names]) -> None:
        # Of what is kept nothing else has the same id.
        self.query, self.metrics = frame.query, frame.metrics
        self.template, self.names = template, names
        self.measured = False


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
        known: Mapping[str, Mapping[Any, str]] = {},
    ) -> None:
        self.dialect = dialect
        self.prefix = prefix
        self.tags = tags
        self.counts = Counts()
        self.known = known
        self.notes: dict[str, str] = {}
        self._names: dict[_Scope, _Names] = {}
        self._forms: dict[tuple[object, ...], _Form] = {}
        self._number_first = bool(dialect.trailer([("label", "text")]))

    def spell(self, *frames: Frame) -> str:
        """All lines of the frames of a poll, each ended by a line feed.

        The frames of a poll belong into one call: names are kept apart among them. A negative
        gauge is two lines that must reach the receiver together: a zero, then the value, which
        receivers would otherwise take for a change.
        """
        return "".join(self.spelling(*frames))

    def spelling(self, *frames: Frame) -> Iterator[str]:
        """The same text in blocks of whole rows, each made when it is asked for."""
        forms = [(self._form(frame), frame) for frame in frames if frame.metrics]
        fresh = self._learn(forms)
        for form, frame in forms if self._limits() else ():
            if not (form.measured and fresh.isdisjoint(form.names)):
                self._measure(form, frame)
        parts = ((form, part) for form, frame in forms if frame.height for part in frame.parts)
        yield from _gathered(chain.from_iterable(starmap(self._text, parts)))

    def altered(self) -> dict[str, dict[object, str]]:
        """The names of what is not called what it is, by its label."""
        labels = {names.label: dict(names.altered) for names in self._names.values()}
        return {label: altered for label, altered in labels.items() if altered}

    def _learn(self, forms: Iterable[tuple[_Form, Frame]]) -> set[_Names]:
        """Name the values of all labels; says where there are new ones."""
        seen: dict[_Names, list[Sequence[object]]] = {}
        for form, frame in forms:
            for names, column in zip(form.names, frame.columns, strict=False):
                seen.setdefault(names, []).append(column)
        return {names for names, columns in seen.items() if self._named(names, columns)}

    def _named(self, names: _Names, columns: Sequence[Sequence[object]]) -> bool:
        """Name the values of a label; says whether there are new ones."""
        fresh = names.learn(columns)
        self.counts.altered_names += sum(not _same(raw, names.of(raw)) for raw in fresh)
        if names.clash is not None:
            raw = f"{names.label} {str(names.clash)!r}"
            text = f"{raw} would read like another: such names end in a hash"
            self.notes.setdefault("clash", text)
        return bool(fresh)

    def _limits(self) -> Mapping[str, int]:
        """How long names may be, for each receiver of which nothing was noted yet."""
        longest = self.dialect.longest.items()
        return {who: most for who, most in longest if who not in self.notes}

    def _measure(self, form: _Form, frame: Frame) -> None:
        """Note the first name that is longer than a receiver keeps."""
        form.measured = True
        limits = self._limits()
        path = self._around(frame)[0]
        metric = max((metric.name for metric in frame.metrics), key=len)
        for labels in zip(*_texts(form, frame), strict=True) if form.names else [()]:
            name = (path % labels if "%s" in path else path) + metric
            for who, most in limits.items():
                if len(name) > most:
                    text = f"{who} keeps {most} characters of a name; {name} has {len(name)}"
                    self.notes.setdefault(who, text)

    def _text(self, form: _Form, frame: Frame) -> Iterable[str]:
        """The text of a frame, in blocks of rows."""
        return [self._row(form, frame)] if frame.height == 1 else self._blocks(form, frame)

    def _row(self, form: _Form, frame: Frame) -> str:
        """The text of a single row: of what is spelled as it is, at once."""
        template, width = form.template, len(form.names)
        values: list[Any] = [value for (value,) in frame.columns]
        labels = [names.of(raw) for names, raw in zip(form.names, values, strict=False)]
        numbers = values[width:]
        if not _plain(numbers):
            numbers = list(map(spell_number, numbers))
            if None in numbers or _negative(numbers):
                template, numbers = self._picked(form, numbers)
        if not labels:
            return template % tuple(numbers)
        columns = self._in_order([repeat(label) for label in labels], numbers)
        return template % tuple(chain.from_iterable(zip(*columns, strict=False)))

    def _picked(self, form: _Form, numbers: Iterable[str | None]) -> tuple[str, list[str]]:
        """Of a row the lines that are sent, and their numbers."""
        lines, texts = [], []
        for metric, line, text in zip(form.metrics, _split(form.template), numbers, strict=True):
            if text is None:
                self.counts.skipped_values += 1
                continue
            several = ["0", text] if text.startswith("-") and _kind(metric) == "g" else [text]
            lines += [line] * len(several)
            texts += several
        return "".join(lines), texts

    def _blocks(self, form: _Form, frame: Frame) -> Iterator[str]:
        """The text of many rows, so many at a time."""
        lines, labels = self._settled(form, frame)
        rows = _BLOCK // len(lines) + 1
        for start in range(0, frame.height, rows):
            cut = slice(start, start + rows)
            own = [column[cut] for column in labels]
            numbers = zip(frame.metrics, lines, frame.numbers, strict=True)
            yield self._block(own, [(_kind(m) == "g", line, c[cut]) for m, line, c in numbers])

    def _block(
        self, labels: Sequence[Sequence[object]], metrics: Iterable[tuple[bool, str, Sequence[Any]]]
    ) -> str:
        """The text of some rows: of each metric whether it is a gauge, its line and its numbers."""
        pieces: list[str] = []
        columns: list[Sequence[object]] = []
        for gauge, line, numbers in metrics:
            texts, unknown = _spelled(numbers)
            self.counts.skipped_values += unknown
            negative = gauge and texts is not numbers and _negative(texts)
            if not unknown and not negative:
                pieces.append(line)
                columns += self._in_order(labels, texts)
            elif unknown < len(texts):
                pieces.append("%s")
                columns.append(self._singly(line, labels, texts, negative=negative))
        return _filled("".join(pieces), columns)

    def _singly(
        self,
        line: str,
        labels: Sequence[Sequence[object]],
        texts: Sequence[Any],
        *,
        negative: bool,
    ) -> list[str]:
        """What each row says of a metric: nothing where it is unknown, two lines of a negative."""

        def lines(numbers: Iterable[object]) -> Iterator[str]:
            return map(line.__mod__, zip(*self._in_order(labels, numbers), strict=False))

        if not negative:
            return [
                "" if text is None else one for text, one in zip(texts, lines(texts), strict=True)
            ]
        return [
            "" if text is None else zero + one if text.startswith("-") else one
            for text, zero, one in zip(texts, lines(repeat("0")), lines(texts), strict=False)
        ]

    def _settled(self, form: _Form, frame: Frame) -> tuple[list[str], list[Sequence[object]]]:
        """The lines of a row, and the labels of all: those that all share are put in."""
        template, columns = form.template, _texts(form, frame)
        shared = [column.count(column[0]) == len(column) for column in columns]
        if any(shared):
            labels = [c[0] if same else "%s" for same, c in zip(shared, columns, strict=True)]
            template %= tuple(self._in_order(labels, "%s") * len(form.metrics))
        return _split(template), [c for same, c in zip(shared, columns, strict=True) if not same]

    def _in_order(self, labels: Sequence[_T], number: _T) -> list[_T]:
        """Labels and a number as they follow each other in a line."""
        return [number, *labels] if self._number_first else [*labels, number]

    def _form(self, frame: Frame) -> _Form:
        """What a frame has in common with that of the last poll; remembered."""
        key = (id(frame.query), id(frame.metrics), frame.target, *frame.tags.items())
        form = self._forms.get(key)
        if form is None:
            if len(self._forms) == _FORMS:
                self._forms.clear()
            form = self._forms[key] = self._formed(frame)
        return form

    def _formed(self, frame: Frame) -> _Form:
        path, inside, behind = self._around(frame)
        lines = (
            f"{path}{metric.name}{inside}:%s|{_kind(metric)}{behind}\n" for metric in frame.metrics
        )
        return _Form(
            frame, "".join(lines), [self._names_of(frame, name) for name in frame.query.labels]
        )

    def _names_of(self, frame: Frame, label: str) -> _Names:
        """Where the values of a label must not be confused with each other.

        Not in the group alone: who reads of a database here and there reads of the same one.
        """
        scope = frame.query.family, frame.target, label
        if scope not in self._names:
            known = self.known.get(label, {})
            self._names[scope] = _Names(label, tag=self.dialect.tagged, altered=known)
        return self._names[scope]

    def _around(self, frame: Frame) -> _Around:
        """What stands around its metrics' names and values, ``%s`` for each label."""
        tags = {**self.tags, **frame.tags}
        return _around(
            self.dialect,
            self.prefix,
            frame.query,
            self._target(frame),
            ["%s"] * len(frame.query.labels),
            sorted((name, clean(tag, tag=True)) for name, tag in tags.items()),
        )

    def _target(self, frame: Frame) -> str:
        """Whom the frame is about; without tags, its own are part of the name: front-1."""
        if not frame.target:
            return ""
        own = () if self.dialect.tagged else frame.tags.values()
        return clean("-".join((frame.target, *own)), tag=self.dialect.tagged)


def _texts(form: _Form, frame: Frame) -> list[Sequence[object]]:
    """What the values of each label are called, column by column."""
    return [names.texts(column) for names, column in zip(form.names, frame.columns, strict=False)]


def _gathered(texts: Iterable[str]) -> Iterator[str]:
    """The same text in pieces that are worth a shipment."""
    held: list[str] = []
    length = 0
    for text in texts:
        held.append(text)
        length += len(text)
        if length > _WORTH:
            yield "".join(held)
            held.clear()
            length = 0
    if held:
        yield "".join(held)


def _split(template: str) -> list[str]:
    """The lines of a row one by one."""
    return template.splitlines(keepends=True)


def _filled(row: str, columns: Sequence[Sequence[object]]) -> str:
    """One row after the other, with the values of the columns put in."""
    width = len(columns)
    height = len(columns[0]) if columns else 0
    values: list[object] = [None] * (width * height)
    for at, column in enumerate(columns):
        values[at::width] = column
    return row * height % tuple(values)


def _negative(texts: Iterable[str | None]) -> bool:
    """Whether one of them has a sign, which stands nowhere else in a number."""
    return "-" in "".join(filter(None, texts))


def _spelled(numbers: Sequence[Number | None]) -> tuple[Sequence[Any], int]:
    """A column as its numbers are spelled, None for what is not sent; how often that is.

    One of whole numbers from 0 on, which most are, is returned as it is.
    """
    if _plain(numbers):
        return numbers, 0
    unknown = numbers.count(None)
    if unknown:
        known = [number for number in numbers if number is not None]
        if not known or _plain(known):
            return numbers, unknown
    # Many rows have the same number: 0, most of all.
    texts = {number: spell_number(number) for number in set(numbers)}
    spelled = list(map(texts.__getitem__, numbers))
    return spelled, spelled.count(None)


def _plain(numbers: Sequence[Any]) -> bool:
    """Whether all are whole numbers from 0 on, which are spelled as Python has them."""
    whole = set(map(type, numbers)) == {int}
    return whole and min(numbers) >= 0 and max(numbers) <= _GREATEST


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
