"""What two polls of the same tables tell: vacuums in vain, and how long rows have been too many."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pgstats.model import OTHER, Frame, Number, Row
from pgstats.why.cause import Case

Memory = dict[str, Any]

_VACUUMS = (
    *("vacuum_count", "autovacuum_count", "n_dead_tup"),
    *("last_vacuum_age_seconds", "last_autovacuum_age_seconds"),
)


def over_since(
    over: Mapping[str, Iterable[int]], before: Mapping[str, Any], now: float
) -> dict[str, Any]:
    """By database and oid: since when each table, or each partition, has been over its threshold.

    Of databases that were not answered for this time, what was known is kept.
    """
    found = dict(before)
    for database, oids in over.items():
        known = before.get(database, {})
        found[database] = {key: known.get(key, now) for key in map(str, oids)}
    return found


def vacuumed_in_vain(frames: Iterable[Frame], memory: Memory, case: Case) -> dict[str, int]:
    """By database: how many tables the last vacuum could not help, since somebody held their rows.

    A vacuum ended between two polls, the dead rows did not become fewer, and the horizon is older
    than that vacuum. ``memory`` holds what each table was like, and is brought up to date;
    databases that were never polled before are left out.
    """
    counts: dict[str, int] = {}
    for database, several in _by_database(frames).items():
        polled = database in memory
        found = _brought_up_to_date(several, memory.setdefault(database, {}), case, database)
        if polled:
            counts[database] = found
    return counts


def _by_database(frames: Iterable[Frame]) -> dict[str, list[Frame]]:
    """The frames of each database: where all tables are shown there is one a page."""
    found: dict[str, list[Frame]] = {}
    for frame in frames:
        found.setdefault(str(frame.scope[0]), []).append(frame)
    return found


def _brought_up_to_date(
    frames: Sequence[Frame], known: dict[str, Any], case: Case, database: str
) -> int:
    """How many tables were vacuumed in vain. What is known changes in place, for it may be much."""
    alike: dict[Row, Row] = {}  # most tables are like many others
    seen = in_vain = 0
    for frame in frames:
        for (schema, table), manual, auto, dead, *ages in zip(
            _tables(frame), *_columns(frame, *_VACUUMS), strict=True
        ):
            if table is OTHER:  # what is folded is no table
                continue
            tables = known.setdefault(schema, {})
            last, vacuums = tables.get(table), int((manual or 0) + (auto or 0))
            if last is None or vacuums != last[0]:
                vain = (
                    last is not None
                    and vacuums > last[0]
                    and (dead or 0) >= max(last[1], 1)
                    and _held(ages, case, database)
                )
                last = (vacuums, int(dead or 0), int(vain))
                tables[table] = alike.setdefault(last, last)
            seen += 1
            in_vain += last[2]
    if sum(map(len, known.values())) > seen:
        _forget_all_but({name for frame in frames for name in _tables(frame)}, known)
    return in_vain


def _forget_all_but(there: Container[Row], known: dict[str, Any]) -> None:
    """Forget the tables that are no more among those shown."""
    for schema, tables in known.items():
        for table in [name for name in tables if (schema, name) not in there]:
            del tables[table]
    for schema in [schema for schema, tables in known.items() if not tables]:
        del known[schema]


def _held(ages: Iterable[Number | None], case: Case, database: str) -> bool:
    """Whether somebody has held the rows of a database since before the last vacuum."""
    vacuumed = min((age for age in ages if age is not None), default=None)
    if vacuumed is None:
        return False
    return any(
        case.last.at - began > vacuumed
        for holder in case.every[-1]
        if holder.database in ("", database) and not holder.catalogs
        if (began := case.began(holder)) is not None
    )


def _tables(frame: Frame) -> Iterator[Row]:
    """The schema and the name of each table of a frame."""
    _, schemas, tables = frame.labels
    return zip(schemas, tables, strict=True)


def _columns(frame: Frame, *wanted: str) -> list[Sequence[Number | None]]:
    """Those metrics of a frame, unknown where there is none."""
    found = dict(zip((metric.name for metric in frame.metrics), frame.numbers, strict=True))
    return [found.get(name, [None] * frame.height) for name in wanted]
