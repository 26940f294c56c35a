"""All that is measured: one entry each, in the order of the report."""

from __future__ import annotations

from benchmarks import cycles, daemons, queries, starts
from benchmarks.case import Case

CASES = (
    Case("commands", "Commands that poll nothing", starts.commands),
    Case("once", "A one-shot run, one table", starts.once_small),
    Case("once-10000", "A one-shot run, 10,000 tables all shipped", starts.once_large),
    Case("cycle-1000", "A daemon's cycle, 1,000 tables", cycles.postgres(1000)),
    Case("cycle-10000", "A daemon's cycle, 10,000 tables", cycles.postgres(10000), quick=False),
    Case("whole-10000", "A whole cycle, 10,000 tables all shipped", cycles.whole(10000)),
    Case(
        "whole-100000",
        "The same, 100,000 tables",
        cycles.whole(100000),
        quick=False,
    ),
    Case("pools-100", "A PgBouncer with 100 pools", cycles.pgbouncer(100)),
    Case("pools-1000", "A PgBouncer with 1,000 pools", cycles.pgbouncer(1000), quick=False),
    Case("pools-5000", "A PgBouncer with 5,000 pools", cycles.pgbouncer(5000), quick=False),
    Case("query-10000", "The question about 10,000 tables", queries.tables(10000)),
    Case("query-100000", "The question about 100,000 tables", queries.tables(100000), quick=False),
    Case("memory", "Memory of the daemon", daemons.memory),
    Case("idle", "The daemon between two cycles", daemons.idle),
    Case("delivery", "Delivery", daemons.delivery),
    Case("many", "Many targets", daemons.many),
    Case("cadence", "Cadence", daemons.cadence),
)
