"""The catalogue and `pgstats metrics`, its listing."""

from __future__ import annotations

import json
import re

import pytest

from pgstats import catalogue
from pgstats.model import Metric
from pgstats.spell import DIALECTS
from tests.program import pgstats

EVERY = [(query, metric) for query in catalogue.QUERIES for metric in query.metrics]


@pytest.mark.parametrize("metric", [metric for _, metric in EVERY], ids=lambda m: m.name)
def test_each_metric_is_named_as_promised(metric: Metric) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)
    assert metric.help[0].isupper() or metric.help[0].isdigit()
    assert not metric.help.endswith(".")
    assert metric.kind in ("gauge", "total", "count", "timing")
    if metric.kind == "timing":
        assert metric.unit == "ms"  # of any timing of statsd
    elif metric.unit and not metric.name.endswith("utilization"):  # a ratio by its own name
        assert metric.name == metric.unit or metric.name.endswith(f"_{metric.unit}")


def test_names_are_unique() -> None:
    """Numbers that moved keep their name: no server has both."""
    ever: dict[tuple[str, str, str], list[Metric]] = {}
    for query, metric in EVERY:
        ever.setdefault((query.family, query.group, metric.name), []).append(metric)
    for name, metrics in ever.items():
        *earlier, _ = sorted(metrics, key=lambda m: m.since)
        for metric, later in zip(earlier, sorted(metrics, key=lambda m: m.since)[1:], strict=True):
            assert 0 < metric.until <= later.since, name


def test_the_listing_has_everything() -> None:
    done = pgstats("metrics", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    listed = json.loads(done.stdout)
    assert [entry["name"].rsplit(".", 1)[-1] for entry in listed] == [m.name for _, m in EVERY]
    for entry, (query, metric) in zip(listed, EVERY, strict=True):
        assert set(entry) == {
            *("name", "line", "unit", "kind", "labels", "source", "since", "until", "help")
        }
        assert bool(entry["source"]) == bool(query.source or metric.of or metric.column)


def test_versions_are_people_s_versions() -> None:
    listed = {e["name"]: e for e in json.loads(pgstats("metrics", "--json").stdout)}
    assert listed["pgbouncer.pools.cl_active_cancel_req"]["since"] == "1.18"
    assert listed["postgres.tables.n_ins_since_vacuum"]["since"] == "13"
    assert listed["pgbouncer.state.paused"]["since"] == "1.19"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_text_shows_each_line_in_the_dialect(dialect: str) -> None:
    pattern = "pgbouncer.pools.cl_active"
    done = pgstats("metrics", "--dialect", dialect, "--prefix", "ours", pattern)
    line, text = done.stdout.splitlines()
    assert line.startswith("ours.pgbouncer.")
    for part in ("<target>", "<database>", "<user>", "cl_active", ":<value>|g"):
        assert part in line
    assert "SHOW POOLS" in text


def test_a_pattern_that_matches_nothing_is_a_usage_error() -> None:
    done = pgstats("metrics", "pools")
    assert done.returncode == 2
    assert "'*pools*'" in done.stderr


def test_an_unknown_dialect_is_a_usage_error() -> None:
    done = pgstats("metrics", "--dialect", "klingon")
    assert done.returncode == 2
    assert "dogstatsd" in done.stderr
