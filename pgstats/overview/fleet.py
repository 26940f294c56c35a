"""What is configured, as far as pictures, rules and mappings depend on it."""

from __future__ import annotations

from dataclasses import dataclass

from pgstats.catalogue import QUERIES
from pgstats.model import Query


@dataclass(frozen=True, slots=True)
class Fleet:
    """Names are as on the wire. ``interval`` is the longest between two polls, in seconds.

    ``questions`` are the user's own; ``under`` is what statsd puts before each gauge's name.
    """

    prefix: str = "pgstats"
    dialect: str = "plain"
    pgbouncer: tuple[str, ...] = ()
    postgres: tuple[str, ...] = ()
    interval: float = 10.0
    questions: tuple[Query, ...] = ()
    under: str = "stats.gauges"

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of all targets, each once."""
        return tuple(dict.fromkeys((*self.pgbouncer, *self.postgres)))

    @property
    def plain(self) -> bool:
        """Whether labels are levels of the name, not tags."""
        return self.dialect == "plain"

    def groups(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """The labels of every group that can be shipped, by family and group."""
        return {(q.family, q.group): tuple(q.labels) for q in (*QUERIES, *self.questions)}
