"""What two polls of the same tables tell: vacuums in vain, and how long rows have been too many."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import compress
from typing import Any

from pgstats.model import Frame, Number
from pgstats.why.cause import Case

Memory = dict[str, Any]
_Numbers = Mapping[str, Number | None]

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
    for database, rows in _databases(frames, _VACUUMS):
        before = memory.get(database)
        memory[database] = {
            table: _state(numbers, (before or {}).get(table), case, database)
            for table, numbers in rows.items()
        }
        if before is not None:
            counts[database] = sum(vain for _, _, vain in memory[database].values())
    return counts


def _state(numbers: _Numbers, last: list[int] | None, case: Case, database: str) -> list[int]:
    """A table's vacuums, dead rows, and whether its last vacuum was in vain."""
    vacuums = int((numbers.get("vacuum_count") or 0) + (numbers.get("autovacuum_count") or 0))
    dead = int(numbers.get("n_dead_tup") or 0)
    if last is None:
        return [vacuums, dead, 0]
    if vacuums == last[0]:
        return [vacuums, last[1], last[2]]
    vain = bool(dead) and vacuums > last[0] and dead >= last[1] and _held(numbers, case, database)
    return [vacuums, dead, int(vain)]


def _held(numbers: _Numbers, case: Case, database: str) -> bool:
    """Whether somebody has held the rows of a database since before the last vacuum."""
    ages = [numbers.get(f"last_{kind}_age_seconds") for kind in ("vacuum", "autovacuum")]
    vacuumed = min((age for age in ages if age is not None), default=None)
    if vacuumed is None:
        return False
    return any(
        case.last.at - began > vacuumed
        for holder in case.every[-1]
        if holder.database in ("", database) and not holder.catalogs
        if (began := case.began(holder)) is not None
    )


def _databases(
    frames: Iterable[Frame], wanted: Container[str]
) -> Iterator[tuple[str, dict[str, _Numbers]]]:
    """The tables of each frame, which is one database's, with the numbers that are ``wanted``.

    What is folded is no table.
    """
    for frame in frames:
        width = len(frame.query.labels)
        there = [metric.name in wanted for metric in frame.metrics]
        names = [metric.name for metric in compress(frame.metrics, there)]
        yield (
            str(frame.scope[0]),
            {
                f"{schema}.{table}": dict(zip(names, compress(row[width:], there), strict=True))
                for row in frame.rows
                for _, schema, table in [row[:width]]
                if isinstance(table, str)
            },
        )
