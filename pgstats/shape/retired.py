"""Series that are gone get one last value: statsd repeats a gauge for ever that nobody sets.

A row is gone when its group was answered without it: a pool was reaped, a table was dropped or
left the budget. A target that is down, and a query or a database that failed, answer nothing, so
that all their rows stay. A database that is no longer listed takes its rows with it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import compress, repeat
from typing import Any

from pgstats.catalogue import QUERIES
from pgstats.catalogue.postgres import DATABASE
from pgstats.model import OTHER, POSTGRES, Frame, Metric, Number, Query, Question, Row
from pgstats.noun import Noun

#: Rows of a target of which so much as their labels is not kept from poll to poll.
MANY = 50_000

Memory = dict[str, Any]
Names = tuple[str, ...]


class _Place(Noun):
    """Where rows are told apart by their labels alone."""

    family: str
    group: str
    target: str
    tags: tuple[tuple[str, str], ...]
    labels: Names


#: Rows by their labels, None for `OTHER`, and the metrics that were ever sent of each.
_Rows = dict[Row, Names]
_Places = dict[_Place, _Rows]
#: The same as it is remembered: those that send the same metrics together.
_Blocks = Sequence[tuple[Sequence[str], Sequence[Sequence[str | None]]]]


class _Answer(Noun):
    """What one or more questions answered of the same rows."""

    labels: Sequence[Sequence[Any]]  # columns
    height: int
    gauges: list[tuple[str, Sequence[Any]]]  # names, and columns

    @property
    def keys(self) -> list[Row]:
        """The labels of each row, None for `OTHER`."""
        if not self.labels:
            return [()] * self.height
        keys = list(zip(*self.labels, strict=True))
        if not any(OTHER in column for column in self.labels):
            return keys
        return [tuple(None if label is OTHER else label for label in row) for row in keys]


#: The groups that PostgreSQL fills by itself; any other belongs to a question of the user's own.
_GROUPS = {query.group for query in QUERIES if query.family == POSTGRES}


class Glance:
    """Sees quickly whether a target says of the same rows the same as the last time.

    Of `MANY` rows or more nothing is kept: that would take too much memory.
    """

    def __init__(self) -> None:
        self._seen: object = None
        self._known: object = self  # of rows; self for nothing

    def same(self, frames: Sequence[Frame], sent: Memory, *how: object) -> bool:
        """Whether all is as it was when `note` was called; if not, it is to be called again."""
        few = sum(frame.height for frame in frames) < MANY
        now = [how, list(map(_outline, frames))] if few else None
        if few and self._known is sent.get("rows") and self._seen == now:
            return True
        self._seen, self._known = now, self
        return False

    def note(self, sent: Memory) -> None:
        """Keep what is known of the rows seen."""
        self._known = sent["rows"]


def _outline(frame: Frame) -> tuple[object, ...]:
    """All of a frame but its numbers: of these, which are unknown."""
    query, metrics, columns, *others = frame
    width = len(query.labels)
    unknown = [
        column.count(None) and bytes(number is None for number in column)
        for column in columns[width:]
    ]
    return query, metrics, columns[:width], unknown, others


def retired(
    frames: Sequence[Frame],
    sent: Memory,
    last: Number | None,
    *,
    partial: bool = False,
    questions: Iterable[Question] = (),
    glance: Glance | None = None,
) -> list[Frame]:
    """The last values of the rows of a target that are gone, as one frame a group.

    ``frames`` is all that is shipped of the target now; where they are ``partial``, no row is gone
    because it is missing. ``questions`` are all that the target has: one that is put no more takes
    its rows with it. ``sent`` is what was shipped before, and is brought up to date. With no
    ``last`` value nothing is sent and nothing remembered.
    """
    if last is None:
        sent.pop("rows", None)
        return []
    own = {(one.query.group, tuple(one.query.labels)) for one in questions}
    if glance and glance.same(frames, sent, partial, own):
        return []
    answers, known = _Answers(frames), _recalled(sent)
    gone: _Places = {}
    there: dict[_Place, _Blocks] = {}
    for place in {**answers.places, **known}:
        blocks, lost = known.get(place, ()), _orphaned(place, own)
        if not lost and answers.in_order(place, blocks):
            there[place] = blocks  # as at most polls
            continue
        here = answers.rows(place)
        gone[place] = _rows(blocks) if lost else {}
        for labels, names in () if lost else _each(blocks):
            now = here.get(labels)
            if now is None and not partial and answers.rule_out(place, labels):
                gone[place][labels] = names
            elif now != names:
                here[labels] = answers.joined(now or (), names)
        there[place] = _blocks(here)
    _remember(there, sent)
    if glance:
        glance.note(sent)
    return _frames(gone, last)


def _orphaned(place: _Place, own: Container[tuple[str, Names]]) -> bool:
    """Whether these are rows of a question that nobody puts any more, or not with these labels."""
    asked = place.group in _GROUPS or (place.group, place.labels) in own
    return place.family == POSTGRES and not asked


def ended(sent: Memory, last: Number | None) -> list[Frame]:
    """The last values of all rows of a target, which is polled no more."""
    if last is None:
        return []
    return _frames({place: _rows(blocks) for place, blocks in _recalled(sent).items()}, last)


def restore(frames: Iterable[Frame], sent: Memory) -> None:
    """Count last values that could not be shipped among what was sent: they are due again."""
    places, answers = _recalled(sent), _Answers(frames)
    for place in answers.places:
        places[place] = _blocks(answers.rows(place) | _rows(places.get(place, ())))
    _remember(places, sent)


class _Answers:
    """What frames say: which rows there are, and of which others they know."""

    def __init__(self, frames: Iterable[Frame]) -> None:
        self.places: dict[_Place, list[_Answer]] = {}
        self._scopes: dict[_Place, set[Row]] = {}
        self._databases: set[object] | None = None
        self._unions: dict[tuple[Names, Names], Names] = {}
        for frame in frames:
            place = _place(frame)
            self._scopes.setdefault(place, set()).add(frame.scope)
            if frame.query is DATABASE:
                self._databases = set(frame.columns[0])
            _gather(frame, self.places.setdefault(place, []))

    def rows(self, place: _Place) -> _Rows:
        """The rows of a place."""
        rows: _Rows = {}
        for answer in self.places.get(place, ()):
            self._add(rows, answer)
        return rows

    def in_order(self, place: _Place, blocks: _Blocks) -> bool:
        """Whether its rows are those that are remembered, and come in the same order.

        That is seen without anything made of all of them at once: there may be 100,000.
        """
        known = {tuple(names): rows for names, rows in blocks}
        seen = dict.fromkeys(known, 0)
        for answer in self.places.get(place, ()):
            for names, keys in _alike(answer):
                start = seen.get(names, 0)
                if known.get(names, [])[start : start + len(keys)] != keys:
                    return False
                seen[names] = start + len(keys)
        return all(seen[names] == len(rows) for names, rows in known.items())

    def _add(self, rows: _Rows, answer: _Answer) -> None:
        names, unknown = _names(answer)
        named = zip(answer.keys, map(names.__getitem__, unknown), strict=True)
        if not rows:
            rows.update(named)
            return
        for key, more in named:
            rows[key] = self.joined(rows.get(key, ()), more)

    def joined(self, names: Names, more: Names) -> Names:
        """Both, each name once."""
        if (names, more) not in self._unions:
            self._unions[names, more] = tuple(dict.fromkeys((*names, *more)))
        return self._unions[names, more]

    def rule_out(self, place: _Place, labels: Row) -> bool:
        """Whether a row that is not here cannot be anywhere else."""
        scopes = self._scopes.get(place, ())
        if any(labels[: len(scope)] == scope for scope in scopes):
            return True
        return (
            place.labels[:1] == tuple(DATABASE.labels)
            and self._databases is not None
            and labels[0] not in self._databases
        )


def _place(frame: Frame) -> _Place:
    query = frame.query
    tags = tuple(frame.tags.items())
    return _Place(query.family, query.group, frame.target, tags, tuple(query.labels))


def _gather(frame: Frame, answers: list[_Answer]) -> None:
    """Add the gauges of a frame to those of the same rows, which may be of another question."""
    for part in frame.parts:
        metrics = zip(part.metrics, part.numbers, strict=True)
        gauges = [(m.name, column) for m, column in metrics if m.kind in ("gauge", "total")]
        labels, height = part.labels, part.height
        same = next((one for one in answers if one.height == height and one.labels == labels), None)
        if same is None:
            answers.append(_Answer(labels, height, gauges))
        else:
            same.gauges.extend(gauges)


def _alike(answer: _Answer) -> Iterator[tuple[Names, list[Row]]]:
    """The rows that send the same gauges, in their order."""
    names, unknown = _names(answer)
    keys = answer.keys
    for row, known in names.items():
        yield known, keys if len(names) == 1 else list(compress(keys, map(row.__eq__, unknown)))


def _names(answer: _Answer) -> tuple[dict[Row, Names], Sequence[Row]]:
    """The names of the gauges that rows send: unknown ones are not.

    They are told by which of the gauges are unknown that not all rows send; then these of each row.
    """
    gauges: dict[str, Sequence[Any] | None] = {}  # None where every row sends it
    for name, column in answer.gauges:
        missing = column.count(None)
        if missing < answer.height:
            gauges[name] = column if missing else None
    sparse = {name: column for name, column in gauges.items() if column is not None}
    if not sparse:
        return {(): tuple(gauges)}, [()] * answer.height
    columns = ([number is None for number in column] for column in sparse.values())
    unknown = list(zip(*columns, strict=True))
    names = {
        row: tuple(name for name in gauges if name not in set(compress(sparse, row)))
        for row in dict.fromkeys(unknown)
    }
    return names, unknown


def _frames(places: Mapping[_Place, _Rows], last: Number) -> list[Frame]:
    """One frame for each place and set of metrics, every number the last one."""
    return [
        Frame.of(
            Query(place.family, place.group, metrics, labels=dict.fromkeys(place.labels, "")),
            metrics,
            [
                (*(OTHER if label is None else label for label in row), *[last] * len(names))
                for row in rows
            ],
            place.target,
            dict(place.tags),
        )
        for place, known in places.items()
        for names, rows in _by_names(known.items()).items()
        if names
        for metrics in [tuple(Metric(name, "") for name in names)]
    ]


def _by_names(rows: Iterable[tuple[Row, Names]]) -> dict[Names, list[Row]]:
    """Rows that send the same metrics together: there are few such sets."""
    found: dict[Names, list[Row]] = {}
    for labels, names in rows:
        found.setdefault(names, []).append(labels)
    return found


def _blocks(rows: _Rows) -> _Blocks:
    return list(_by_names(rows.items()).items())


def _each(blocks: _Blocks) -> Iterator[tuple[Row, Names]]:
    """Every row, and the metrics that were sent of it."""
    for names, rows in blocks:
        yield from zip(map(tuple, rows), repeat(tuple(names)))


def _rows(blocks: _Blocks) -> _Rows:
    return dict(_each(blocks))


def _remember(places: Mapping[_Place, _Blocks], sent: Memory) -> None:
    """Note the rows as plain data: [place, [metrics, [labels of a row, ...]], ...]."""
    sent["rows"] = [[place, *blocks] for place, blocks in places.items() if blocks]


def _recalled(sent: Memory) -> dict[_Place, _Blocks]:
    """The rows that were noted, now or by another process."""
    return {
        _Place(family, group, target, tuple(map(tuple, tags)), tuple(labels)): blocks
        for (family, group, target, tags, labels), *blocks in sent.get("rows", ())
    }
