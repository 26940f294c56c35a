"""A heap over all samples: a table, a materialized view, a partition, or the TOAST of one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pgstats.evidence import Record, dotted
from pgstats.why.words import identifier

#: When each kind of vacuum or analyze last ended.
_ENDED = ("last_vacuum", "last_autovacuum", "last_analyze", "last_autoanalyze")


class Heap:
    """One heap of a database; ``rows`` are what the samples say of it, the oldest first."""

    def __init__(self, database: str, rows: Sequence[Record]) -> None:
        self.database = database
        self.rows = rows

    def __getitem__(self, column: str) -> Any:
        return self.rows[-1].get(column)

    @property
    def name(self) -> str:
        """As one calls it within its database: schema.table."""
        return f"{self['schema']}.{self['name']}"

    @cached_property
    def title(self) -> str:
        """As one asks about it: database.schema.table, of the table that owns it."""
        schema, name = self["owner_schema"] or self["schema"], self["owner_name"] or self["name"]
        return dotted(self.database, schema, name)

    @property
    def sql(self) -> str:
        """The table that owns it, as SQL."""
        schema, name = self["owner_schema"] or self["schema"], self["owner_name"] or self["name"]
        return f"{identifier(schema)}.{identifier(name)}"

    @cached_property
    def dead(self) -> int:
        """Dead rows, estimated by the server."""
        return int(self["n_dead_tup"] or 0)

    @cached_property
    def over(self) -> bool:
        """Whether the dead rows are more than autovacuum's threshold."""
        threshold = self["threshold"]
        return threshold is not None and self.dead > threshold

    @property
    def vacuums(self) -> int:
        """How many vacuums ended between the samples; none where the counters were reset."""
        first, last = (
            sum(row.get(name) or 0 for name in ("vacuum_count", "autovacuum_count"))
            for row in (self.rows[0], self.rows[-1])
        )
        return max(0, last - first)

    @property
    def vacuumed(self) -> bool:
        """Whether a vacuum ended between the samples."""
        return self.vacuums > 0

    @property
    def lasting(self) -> bool:
        """Whether it was over its threshold whenever somebody looked, and no vacuum ended."""
        return not self.vacuumed and all(
            row["n_dead_tup"] > row["threshold"] for row in self.rows if row.get("threshold")
        )

    @property
    def reset(self) -> str:
        """The options of its own, or of its table, that a TOAST table lives by."""
        return "toast." if self["relkind"] == "t" and self["reloptions"] else ""

    def option(self, name: str) -> str | None:
        """An option as somebody typed it.

        For autovacuum a TOAST table with none of its own has its table's.
        """
        options = self["reloptions"] or self["owner_reloptions"] or ()
        if self["relkind"] == "t" and not name.startswith("autovacuum_"):
            options = self["reloptions"] or ()
        pairs = (one.partition("=") for one in options)
        return next((value for key, _, value in pairs if key == name), None)

    @property
    def last_vacuum(self) -> float | None:
        """When it was last vacuumed, by hand or not; None for never."""
        times = [self[name] for name in ("last_vacuum", "last_autovacuum") if self[name]]
        return max(times, default=None)

    @property
    def is_catalog(self) -> bool:
        """Whether slots of logical replication hold it as well: a catalog or what acts as one."""
        owner = self["owner_schema"] or self["schema"]
        return owner == "pg_catalog" or bool(self["user_catalog_table"])

    @property
    def signature(self) -> str:
        """What the samples show of vacuum and its success here, in a word."""
        counted = self.dead or self["n_live_tup"] or any(self[name] for name in _ENDED)
        if self["reltuples"] and not counted:
            return "no_statistics"
        if not self.dead:
            return "no_dead_rows"
        if not self.over:
            return "below_threshold"
        return "vacuumed_in_vain" if self.vacuumed else "not_vacuumed"
