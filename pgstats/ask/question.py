"""Puts the questions of the configuration: somebody's own SELECTs, under the guards of pgstats.

Each runs as one statement in a short read-only transaction that is undone, for no longer than its
share of the time, and gives at most so many rows: whatever it is, it costs no more than itself.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, timedelta
from datetime import time as time_of_day
from decimal import Decimal

from pgstats.ask.answer import Columns, Labels, Rows, framed, turned
from pgstats.ask.failure import failure, sqlstate
from pgstats.ask.globs import chosen
from pgstats.ask.session import Session
from pgstats.errors import AskError
from pgstats.model import Failure, Frame, Poll, Question, Row, Target
from pgstats.noun import Noun

#: Share of the time left that questions may take altogether: the rest is for what comes after.
SHARE = 0.5
#: The least time a question gets: milliseconds are what the server counts in.
LEAST = 0.001

#: What psycopg2 makes of numbers and NULL.
_NUMBERS = {int, float, Decimal, type(None)}

_CURES = {
    "42P01": "write the schema too, as in public.orders: pgstats works with an empty search_path",
    "42883": "write a function's schema too, as in public.backlog(): pgstats works with an empty "
    "search_path; a type may need a cast",
    "25006": "pgstats only reads: leave out what changes something, or locks rows",
    "42501": "GRANT the role of pgstats what the question reads",
    "57014": "make it faster, or raise the timeout of the target",
    "55P03": "somebody holds a lock on what it reads; pgstats does not wait",
}
_CURE = "try it in psql as the role of pgstats, after SET search_path = ''"


class _Key(Noun):
    """One question in one database, "" for the DSN's own."""

    name: str
    database: str


class _Outcome(Noun):
    """What became of a question: when it was put, why it failed, whether rows were left out.

    ``labels`` are the columns of those that it had, which tell its rows apart.
    """

    at: float
    failure: Failure | None = None
    cut: bool = False
    labels: Labels = ()


class Questions:
    """All questions that are put to one cluster, and what became of each the last time.

    One that is not due keeps its failure: it has not been answered since.
    """

    def __init__(self, target: Target, asked: Iterable[tuple[str, str, float]] = ()) -> None:
        self._target = target
        self._outcomes = {_Key(name, database): _Outcome(at) for name, database, at in asked}

    @property
    def asked(self) -> list[tuple[str, str, float]]:
        """When each was put in which database, on the monotonic clock: what is worth keeping.

        Those that are put at every poll have nothing to wait for.
        """
        waiting = {one.query.group for one in self._target.questions if one.interval}
        return [(*key, one.at) for key, one in self._outcomes.items() if key.name in waiting]

    @property
    def roam(self) -> bool:
        """Whether some are asked in other databases than the DSN's own."""
        return any(question.databases for question in self._target.questions)

    def put(self, session: Session, poll: Poll, database: str = "", places: int = 1) -> None:
        """Put those that are due in the session's database, the first of so many ``places``.

        ``database`` is "" before the walk, where those without ``databases`` have their turn.
        """
        due = [one for one in self._target.questions if self._due(one, database)]
        share = SHARE / places
        left = max(0.0, session.until - time.monotonic()) * share
        end = time.monotonic() + left
        for rest, question in zip(range(len(due), 0, -1), due, strict=True):
            seconds = max(LEAST, (end - time.monotonic()) / rest)
            self._put(session, poll, question, database, seconds)
            if session.closed:  # what took the connection along has been told
                break

    def conclude(self, poll: Poll, databases: Collection[str]) -> None:
        """Tell the poll what is wrong with which questions, asked this time or before."""
        there = {"", *databases}
        self._outcomes = {key: one for key, one in self._outcomes.items() if key.database in there}
        for question in self._target.questions:
            found = [(k, o) for k, o in self._outcomes.items() if k.name == question.query.group]
            poll.failures += _folded((k.database, o.failure) for k, o in found if o.failure)
            if any(outcome.cut for _, outcome in found):
                poll.counts["cut_queries"] += 1
                poll.notes.append(_cut(question))
            if question.databases and not any(chosen(d, question.databases) for d in databases):
                globs = ", ".join(question.databases)
                poll.notes.append(
                    f"query {question.query.group}: no database that is polled is meant by "
                    f"databases = {globs}"
                )

    def _due(self, question: Question, database: str) -> bool:
        """Whether it is to be asked here and now; half a poll too early is closer than too late."""
        if database and not chosen(database, question.databases):
            return False
        if bool(database) != bool(question.databases):
            return False
        last, now = self._outcomes.get(_Key(question.query.group, database)), time.monotonic()
        pause = question.interval - self._target.interval / 2
        return last is None or last.at > now or now - last.at >= pause

    def _put(
        self, session: Session, poll: Poll, question: Question, database: str, seconds: float
    ) -> None:
        started = time.monotonic()
        shared = (database,) if database else ()
        key = _Key(question.query.group, database)
        last = self._outcomes.get(key)
        before = last.labels if last else ()
        try:
            found, cut = ask(session, question, seconds, poll.target.name, shared, before)
        except AskError as error:
            outcome = _Outcome(started, failure(error))
        else:
            outcome = _Outcome(started, cut=cut, labels=found.labels)
            poll.frames.append(found)
        self._outcomes[key] = outcome


def ask(
    session: Session,
    question: Question,
    seconds: float,
    target: str,
    shared: Row = (),
    before: Labels = (),
) -> tuple[Frame, bool]:
    """The frame of one question, and whether it had more rows than it may.

    Labels that are those of ``before`` are not looked at again.
    """
    query = question.query
    stage = f"query {query.group}"
    # On lines of its own: the question may end with a comment.
    sql = f"SELECT * FROM (\n{query.sql}\n) AS own LIMIT {question.rows + 1}"  # noqa: S608 - one SELECT
    try:
        columns, rows = session.ask_apart(sql, seconds, stage)
    except AskError as error:
        if state := sqlstate(error):
            error.remedy = _CURES.get(state, _CURE)
        raise
    except (ValueError, ArithmeticError) as error:
        text = "the answer holds a value that Python has no room for, such as a date before Christ"
        raise AskError(stage, "other", text, "cast it in the SQL: column::text") from error
    kept = rows[: question.rows]
    if fault := _missing(question, columns, kept):
        raise AskError(stage, "other", *fault)
    by_name = turned(columns, kept)
    (found,) = framed([query], session.version, by_name, len(kept), target, shared, before)
    if fault := _wrong(found, by_name):
        raise AskError(stage, "other", *fault)
    if not (before and found.labels == before) and not _distinct(found):
        raise AskError(stage, "other", *_indistinct(question))
    return found, len(rows) > len(kept)


def _missing(question: Question, columns: Columns, rows: Rows) -> tuple[str, str] | None:
    """What is wrong with the columns of an answer, and what to do about it."""
    if rows and len(rows[0]) != len(columns):
        return "two columns of the answer have the same name", "name them apart with AS"
    metrics = [metric.name for metric in question.query.metrics]
    own = [column for column in question.query.labels.values() if column]
    missing = [name for name in (*own, *metrics) if name not in columns]
    if missing:
        there = ", ".join(columns)
        return (
            f"the answer has no column {missing[0]}; it has {there}",
            "name a column with AS, and the same in labels or metrics",
        )
    return None


def _wrong(frame: Frame, by_name: Mapping[str, Sequence[object]]) -> tuple[str, str] | None:
    """Which of the values of the metrics are no numbers, and what to do about it.

    A column that went into the frame as it came has no others.
    """
    for metric, numbers in zip(frame.metrics, frame.numbers, strict=True):
        values = by_name[metric.name]
        fit = numbers is values or set(map(type, values)) <= _NUMBERS
        for value in () if fit else values:
            if cure := _cast(metric.name, value):
                return f"column {metric.name} holds something that is no number", cure
    return None


def _distinct(frame: Frame) -> bool:
    """Whether the labels tell all rows apart; where a single one does, that is seen quickly."""
    height = frame.height
    alone = (len(set(column)) == height for column in reversed(frame.labels))
    return any(alone) or len(set(frame.keys)) == height


def _cast(name: str, value: object) -> str:
    """How to make a number of a column's value, "" where it is one or is unknown."""
    if value is None or isinstance(value, int | float | Decimal):
        return ""
    if isinstance(value, date):
        return f"for its age write extract(epoch FROM now() - {name}) AS {name}_age_seconds"
    if isinstance(value, timedelta | time_of_day):
        return f"write extract(epoch FROM {name}) AS {name}_seconds"
    try:
        float(str(value))
    except ValueError:
        return f"make a number of it: {name}::numeric, or a CASE; among labels it may be any text"
    return ""


def _indistinct(question: Question) -> tuple[str, str]:
    labels = [column for column in question.query.labels.values() if column]
    if not labels:
        text = "the answer has several rows, and no labels tell them apart"
        return text, 'name columns in labels = ["..."], or have one row'
    text = f"several rows of the answer have the same {', '.join(labels)}"
    return text, "GROUP BY these columns, or name more of them in labels"


def _folded(failures: Iterable[tuple[str, Failure | None]]) -> list[Failure]:
    """The failures of one question: where many databases fail alike, that is one."""
    alike: dict[tuple[str, str], list[tuple[str, Failure]]] = {}
    for database, one in failures:
        if one:
            alike.setdefault((one.reason, one.message), []).append((database, one))
    found = []
    for several in alike.values():
        database, first = several[0]
        where = f" in database {database}" if database else ""
        more = f" and {len(several) - 1} more" if len(several) > 1 else ""
        found.append(first._replace(stage=f"{first.stage}{where}{more}"))
    return found


def _cut(question: Question) -> str:
    return (
        f"query {question.query.group}: more than {question.rows} rows; the rest is not sent "
        "(ORDER BY says which come first; aggregate in the SQL, or raise rows)"
    )
