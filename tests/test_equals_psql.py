"""Every gauge equals what psql shows for the same column: a walk over the whole catalogue."""

from __future__ import annotations

import csv
import io
import statistics
import subprocess
from collections.abc import Callable

import pytest

from pgstats import catalogue
from pgstats.model import PGBOUNCER, POSTGRES, Metric, Query
from pgstats.scratch import Bouncer, Cluster
from pgstats.spell import clean
from tests.program import gauges, pgstats
from tests.test_replay import number_of

Values = dict[str, float]
DATABASES = ("postgres", "shop", "we.ird|name")


@pytest.fixture(scope="module")
def filled(cluster: Cluster) -> Cluster:
    fill(cluster)
    return cluster


def fill(cluster: Cluster) -> None:
    """Make tables that were updated, vacuumed, analyzed, or never touched."""
    for name in DATABASES[1:]:
        cluster.psql(f'CREATE DATABASE "{name}" TEMPLATE template0')
    for name in DATABASES:
        for sql in (
            "CREATE TABLE busy WITH (autovacuum_enabled = off) AS SELECT generate_series(1, 500) i",
            "DELETE FROM busy WHERE i <= 200",
            "CREATE TABLE calm AS SELECT 1 AS i",
            "VACUUM calm",
            "ANALYZE calm",
            'CREATE SCHEMA "od:d"; CREATE TABLE "od:d"."t.b l" AS SELECT 1 AS i',
            "CREATE TABLE parted (i int) PARTITION BY LIST (i)",
            "CREATE TABLE leaf PARTITION OF parted FOR VALUES IN (1)",
            "INSERT INTO parted VALUES (1)",
        ):
            cluster.psql(sql, name)


def rows(dsn: str, sql: str) -> list[dict[str, str]]:
    """What psql shows."""
    done = subprocess.run(
        ["psql", "--no-psqlrc", "--csv", "-c", sql, dsn], capture_output=True, text=True, check=True
    )
    return list(csv.DictReader(io.StringIO(done.stdout)))


def read(metric: Metric, row: dict[str, str]) -> float | None:
    """A metric's value out of a row of psql."""
    if metric.column == "*":
        return 1
    names = (metric.origin(), *metric.formerly)
    text = next((row[name] for name in names if name in row), None)
    if text is None or not (text or metric.words):
        return None
    if metric.words:
        return metric.words.get(text, metric.words.get("*"))
    return float(text) + sum(float(row[c]) * factor for c, factor in metric.plus.items())


FOLDS: dict[str, Callable[[list[float]], float]] = {
    "sum": sum,
    "max": max,
    "mean": statistics.fmean,
    "": max,
}


def shown_by_console(query: Query, bouncer: Bouncer) -> Values:
    version = number_of(bouncer.console("SHOW VERSION").removeprefix("PgBouncer "))
    if query.since > version:
        return {}
    found = rows(bouncer.dsn("pgbouncer", "stats"), query.sql)
    if query.pairs:
        found = [{row[query.pairs[0]]: row[query.pairs[1]] for row in found}]
    values: dict[tuple[str, int], list[float]] = {}
    for row in found:
        labels = [row[column] for column in query.labels.values()]
        if row.get(query.labels.get("database", "")) != "pgbouncer":
            for at, metric in enumerate(query.metrics):
                if metric.right(version) and (value := read(metric, row)) is not None:
                    name = ".".join([query.group, *map(clean, labels), metric.name])
                    values.setdefault((f"pgstats.pgbouncer.front.{name}", at), []).append(value)
    counted = {name: FOLDS[query.metrics[at].fold](v) for (name, at), v in values.items()}
    if query.budget == 1:
        counted[f"pgstats.pgbouncer.front.{query.group}.count"] = len(found)
    return counted


def shown_by_server(query: Query, cluster: Cluster) -> Values:
    values = {}
    shared = "" in query.labels.values()
    metrics = query.on(int(cluster.psql("SHOW server_version_num")))
    if not metrics:
        return {}
    for database in DATABASES if shared else DATABASES[:1]:
        own = [column for column in query.labels.values() if column]
        what = [f"{c} AS label{n}" for n, c in enumerate(own)]
        what += [f"{metric.origin()} AS {metric.name}" for metric in metrics]
        sql = f"SELECT {', '.join(what)} FROM {query.source}"
        for row in rows(cluster.dsn(database), sql):
            labels = [database] * shared + [row[f"label{n}"] for n in range(len(own))]
            if query.group == "database" and labels[0] not in DATABASES:
                continue  # templates have statistics too
            if query.group == "tables" and row["label1"] == "parted":
                continue  # holds no rows itself: those of its only leaf go out under its name
            labels = ["parted" if label == "leaf" else label for label in labels]
            for metric in metrics:
                if text := row[metric.name]:
                    name = ".".join([query.group, *map(clean, labels), metric.name])
                    value = metric.words[text] if metric.words else float(text)
                    values[f"pgstats.postgres.main.{name}"] = value
    return values


def everything(bouncer: Bouncer | None, cluster: Cluster) -> Values:
    """All that psql shows for the queries of the catalogue that have a source."""
    values: Values = {}
    for query in catalogue.QUERIES:
        if bouncer and query.source and query.family == PGBOUNCER:
            values |= shown_by_console(query, bouncer)
        elif query.source and query.family == POSTGRES:
            values |= shown_by_server(query, cluster)
    return values


def test_every_gauge_equals_what_psql_shows(filled: Cluster, bouncer: Bouncer) -> None:
    bouncer.psql("SELECT 1", "shop")
    own = compared(filled, bouncer)
    assert own["pgstats.pgbouncer.front.up"] == own["pgstats.postgres.main.up"] == 1


def compared(cluster: Cluster, bouncer: Bouncer | None = None) -> Values:
    """Poll, and hold every gauge against psql; returns what has no counterpart there."""
    config = f"""
        [[postgres]]
        name = "main"
        dsn = "{cluster.dsn()}"
        databases = ["postgres", "shop", "we.ird|name"]
        """
    if bouncer:
        config += f"""
        [[pgbouncer]]
        name = "front"
        dsn = "{bouncer.dsn("pgbouncer", "stats")}"
        collect = {list(catalogue.COLLECT)}
        """
    path = cluster.scratch.folder("equals") / "pgstats.toml"
    path.write_text(config)
    before = everything(bouncer, cluster)
    done = pgstats("once", "--dry-run", "--config", str(path))
    after = everything(bouncer, cluster)

    unexpected = [line for line in done.stderr.splitlines() if "has nothing to ship" not in line]
    assert (done.returncode, unexpected) == (0, [])
    shipped = gauges(done.stdout)
    own = {name: value for name, value in shipped.items() if is_own(name)}
    asked = {name: value for name, value in shipped.items() if name not in own}
    # What pgstats and psql do themselves is counted by the servers: a value lies in between.
    wrong = {
        name: (before[name], value, after[name])
        for name, value in asked.items()
        if name in before
        and not min(before[name], after[name]) - 1e-6
        <= value
        <= max(before[name], after[name]) + 1e-6
    }
    assert not wrong
    assert set(asked) == set(before)
    return own


OWN = {(q.family, q.group, m.name) for q in catalogue.QUERIES if not q.source for m in q.metrics}


def is_own(name: str) -> bool:
    """Whether pgstats says it of itself, or it is the row that others are folded into."""
    _, family, *path, metric = name.split(".")
    group = path[0] if family == "self" else "".join(path[1:2])
    return (family, group, metric) in OWN or "_other" in path
