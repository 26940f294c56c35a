"""What pgstats says about its targets and about itself."""

from __future__ import annotations

from pgstats.model import PGBOUNCER, POSTGRES, SELF, Metric, Query

#: Why lines can be dropped instead of shipped: each reason has a metric of its own in `SHIP`.
LOSSES = {
    "refused": "nobody listens there",
    "closed": "whoever listened hung up",
    "stalled": "whoever listens reads nothing",
    "timeout": "there was no more time",
    "dns": "the receiver's name was not found",
    "unreachable": "there is no way to the receiver",
    "too_long": "no datagram holds the line",
    "other": "of something else",
}


def _up(family: str, whom: str, *more: Metric) -> Query:
    up = Metric("up", f"1 if {whom} let pgstats in and answered, else 0")
    return Query(family, "", (up, *more))


def _down(family: str) -> Query:
    metric = Metric("count", "1 while the target is down for that reason, else 0")
    return Query(family, "down", (metric,), labels={"reason": ""})


UP = {
    PGBOUNCER: _up(
        PGBOUNCER,
        "the console",
        Metric("version", "Version of PgBouncer as a number, 11800 for 1.18.0", across="max"),
    ),
    POSTGRES: _up(POSTGRES, "the server"),
}
DOWN = {PGBOUNCER: _down(PGBOUNCER), POSTGRES: _down(POSTGRES)}

POLL = Query(
    SELF,
    "poll",
    labels={"target": ""},
    metrics=(
        Metric("seconds", "Duration of the poll", unit="seconds"),
        Metric("ok", "1 if every question was answered, else 0"),
        Metric(
            "last_success_timestamp_seconds",
            "Unix time of the last poll that the target answered; the age of that tells a dead "
            "poller, of which statsd repeats every other gauge for ever",
            unit="timestamp_seconds",
        ),
        Metric("failed_queries", "Questions that failed in this poll"),
        Metric(
            "skipped_runs",
            "Runs left out since the start because the one before was still at work",
            kind="total",
        ),
        Metric("unknown_columns", "Columns of the answers that this version does not know"),
        Metric(
            "unavailable_queries",
            "Questions of `collect` that the PgBouncer's version has no number for",
        ),
        Metric(
            "counter_resets",
            "Rows whose totals fell since the last poll: nothing was derived from them",
        ),
        Metric("databases_polled", "Databases asked"),
        Metric("databases_refused", "Databases left out because they do not let the role in"),
        Metric("tables_folded", "Tables folded into _other"),
        Metric("cut_queries", "Questions of `[[query]]` that had more rows than they may send"),
    ),
)

JOB = Query(
    SELF,
    "job",
    labels={"target": ""},
    metrics=(
        Metric("started", "Runs of `pgstats run` that began", kind="count"),
        Metric("succeeded", "Runs in which every question was answered", kind="count"),
        Metric("failed", "Runs in which something failed", kind="count"),
        Metric("duration", "Time from asking to the end of shipping", kind="timing", unit="ms"),
    ),
)

SHIP = Query(
    SELF,
    "ship",
    metrics=(
        Metric("lines", "Lines handed to the wire since the start", kind="total"),
        Metric("packets", "Packets handed to the wire since the start", kind="total"),
        Metric("bytes", "Bytes handed to the wire since the start", kind="total", unit="bytes"),
        Metric("errors", "Packets the wire did not take since the start", kind="total"),
        Metric("dropped", "Lines the wire did not take since the start", kind="total"),
        *(
            Metric(f"dropped_{reason}", f"Those dropped because {why}", kind="total")
            for reason, why in LOSSES.items()
        ),
        Metric(
            "receiver_drops",
            "Packets that did not fit into the receiver's buffer since it opened: known of UDP on "
            "a loopback address alone",
            kind="total",
        ),
        Metric(
            "seconds",
            "Time spent on spelling lines and shipping them since the start",
            kind="total",
            unit="seconds",
        ),
        Metric("skipped_values", "Unknown values not sent since the start", kind="total"),
        Metric("altered_names", "Names altered to fit the wire since the start", kind="total"),
        Metric(
            "retired_series",
            "Series that were gone and got their last value since the start",
            kind="total",
        ),
    ),
)

QUERIES = (*UP.values(), *DOWN.values(), POLL, JOB, SHIP)
