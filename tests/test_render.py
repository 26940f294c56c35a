"""What is printed for receivers can be read by them, and means what the names on the wire mean."""

from __future__ import annotations

import json
import re
import tomllib
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pgstats.catalogue import QUERIES
from pgstats.cli.main import CONFIG
from pgstats.errors import ConfigError
from pgstats.model import SELF, Frame
from pgstats.overview import METRICS, PANELS, RULES, Fleet
from pgstats.render import KINDS, render
from pgstats.render.yaml import yaml as written
from pgstats.spell import DIALECTS, Speller
from tests import mappings
from tests.program import pgstats

FLEET = Fleet("site.one", "plain", ("front", "back"), ("main",), 30.0)
EVERY = [(thing, kind) for thing, kinds in KINDS.items() for kind in kinds]
GRAFANA = [kind for kind in KINDS["dashboard"] if kind.startswith("grafana")]


def of(dialect: str) -> Fleet:
    return Fleet("site.one", dialect, FLEET.pgbouncer, FLEET.postgres, FLEET.interval)


# ---- the names: whatever is spelled plainly becomes what tags would have said


def lines(dialect: str) -> list[str]:
    """A line of every metric, each label with a value of its own."""
    frames = [
        Frame.of(
            query,
            query.metrics,
            [(*(f"a-{label}" for label in query.labels), *(1 for _ in query.metrics))],
            "" if query.family == SELF else "front",
        )
        for query in QUERIES
    ]
    return [
        line.rpartition(":")[0] if dialect == "plain" else line.partition("|#")[0].split(":")[0]
        + "|#" + line.partition("|#")[2]
        for frame in frames
        for line in Speller(DIALECTS[dialect], FLEET.prefix).spell(frame).splitlines()
    ]  # fmt: skip


def tagged() -> list[mappings.Named]:
    """The names and tags of all of them in the dialect dogstatsd."""
    found = []
    for line in lines("dogstatsd"):
        name, _, tags = line.partition("|#")
        pairs = (tag.split(":") for tag in tags.split(",") if tag)
        found.append((name, frozenset((key, value) for key, value in pairs)))
    return found


def test_statsd_exporter_makes_of_plain_names_what_it_makes_of_tags() -> None:
    mapped = mappings.statsd_exporter(render("mapping", "statsd-exporter", FLEET))
    found = [mapped(name) for name in lines("plain")]
    assert found == [(re.sub(r"[^\w]", "_", name), tags) for name, tags in tagged()]


def test_the_agent_makes_of_plain_names_what_it_makes_of_tags() -> None:
    mapped = mappings.datadog_agent(render("mapping", "datadog-agent", FLEET))
    assert [mapped(name) for name in lines("plain")] == tagged()


def test_telegraf_makes_the_same_of_every_dialect() -> None:
    plain, tags = (render("mapping", "telegraf", of(name)) for name in ("plain", "influx"))
    for name, (bare, pairs) in zip(lines("plain"), tagged(), strict=True):
        by_level = mappings.telegraf(plain, name)
        by_tag = mappings.telegraf(tags, bare)
        assert by_level
        assert by_tag
        assert by_level == (*by_tag[:2], pairs)


def test_own_questions_are_mapped_too(tmp_path: Path) -> None:
    config = tmp_path / "pgstats.toml"
    config.write_text(
        '[[postgres]]\nname = "main"\ndsn = "host=/x"\n[[query]]\nname = "queue"\n'
        'sql = "SELECT shard, depth FROM app.queue"\nlabels = ["shard"]\nmetrics = ["depth"]\n'
    )
    text = pgstats("mapping", "statsd-exporter", "--config", str(config)).stdout
    found = mappings.statsd_exporter(text)("pgstats.postgres.main.queue.s1.depth")
    assert found == (
        "pgstats_postgres_queue_depth",
        frozenset({("target", "main"), ("shard", "s1")}),
    )


# ---- the files


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("thing", "kind"), EVERY)
def test_every_kind_is_of_its_kind(thing: str, kind: str, dialect: str) -> None:
    """It is well-formed for each dialect, or says why there is none for that."""
    refused = {
        "grafana-graphite": ("influx",),
        "graphite": ("influx",),
        "netdata": ("dogstatsd", "influx", "graphite"),
        "datadog-agent": ("dogstatsd", "influx", "graphite"),
    }
    if dialect in refused.get(kind, ()):
        with pytest.raises(ConfigError, match=f"{dialect}|plain"):
            render(thing, kind, of(dialect))
        return
    assert parsed(thing, kind, render(thing, kind, of(dialect)))


def test_no_mapping_says_why_there_is_none() -> None:
    text = render("mapping", "statsd-exporter", of("dogstatsd"))
    assert parsed("mapping", "statsd-exporter", text)["mappings"] == []
    assert "# No mappings: the dialect dogstatsd has tags already.\n" in text
    assert "# No mappings" not in render("mapping", "statsd-exporter", of("plain"))


def test_a_dialect_without_such_a_kind_is_a_configuration_error() -> None:
    done = pgstats("dashboard", "netdata", "--dialect", "influx", "--postgres", "host=/x")
    assert (done.returncode, done.stdout) == (CONFIG, "")
    assert "plain" in done.stderr


def parsed(thing: str, kind: str, text: str) -> Any:
    if (thing == "dashboard" and kind != "netdata") or (thing, kind) == ("alerts", "datadog"):
        return json.loads(text)
    if kind in ("statsd-exporter", "datadog-agent", "prometheus", "grafana-graphite"):
        return yaml.safe_load(text)
    return tomllib.loads(text) if kind == "telegraf" else text


@pytest.mark.parametrize("thing", KINDS)
def test_without_a_kind_the_kinds_are_told(thing: str) -> None:
    for arguments in ([], ["--list"]):
        done = pgstats(thing, *arguments)
        assert done.returncode == 0
        assert [line.split()[0] for line in done.stdout.splitlines()] == list(KINDS[thing])


def test_the_shell_completes_a_kind() -> None:
    env = {
        "_PGSTATS_COMPLETE": "bash_complete",
        "COMP_WORDS": "pgstats mapping te",
        "COMP_CWORD": "2",
    }
    assert pgstats(env=env).stdout == "plain,telegraf\n"


def test_an_unknown_kind_is_a_usage_error() -> None:
    done = pgstats("dashboard", "abacus", "--postgres", "host=/x")
    assert done.returncode == 2
    assert "grafana-graphite" in done.stderr


def test_it_is_of_what_is_configured() -> None:
    known = ["--prefix", "acme.db", "--postgres", "host=/x dbname=y"]
    text = pgstats("dashboard", "graphite", *known, "--under", "gauges").stdout
    assert "gauges.acme.db.postgres." in text
    assert "stats.gauges" not in text
    assert "acme_db_postgres_up" in pgstats("alerts", "prometheus", *known).stdout


@pytest.mark.parametrize("kind", GRAFANA)
@pytest.mark.parametrize("dialect", ["plain", "graphite"])
def test_a_grafana_dashboard_can_be_imported(kind: str, dialect: str) -> None:
    document = json.loads(render("dashboard", kind, of(dialect)))
    assert "uid" not in document
    assert "id" not in document
    panels = document["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    drawn = [panel for panel in panels if panel["type"] != "row"]
    assert [panel["title"] for panel in drawn] == [panel.title for panel in PANELS]
    for panel in drawn:
        references = [target["refId"] for target in panel["targets"]]
        assert references
        assert len(set(references)) == len(references)
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
    boxes = [panel["gridPos"] for panel in panels]
    assert all(box["x"] + box["w"] <= 24 for box in boxes)
    assert not [pair for pair in combinations(boxes, 2) if overlap(*pair)]
    names = [variable["name"] for variable in document["templating"]["list"]]
    assert names == ["datasource", "target", "database"]


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[at] < other[at] + other[size] and other[at] < one[at] + one[size]
        for at, size in (("x", "w"), ("y", "h"))
    )


def test_whole_numbers_of_a_gone_series_are_last_of_all() -> None:
    """Every metric has one method of aggregation; those that must not be averaged are not."""
    text = render("mapping", "graphite-aggregation", FLEET)
    entries = re.findall(r"pattern = (.*)\n.*\naggregationMethod = (.*)", text)
    for name, (_, metric) in METRICS.items():
        path = f"stats.gauges.site.one.{name}"
        method = next(method for pattern, method in entries if re.search(pattern, path))
        if metric.kind == "total":
            assert method == "last" or metric.name == "seconds", name
        if metric.name == "up":
            assert method == "min"
    (pattern,) = re.findall(r"pattern = (.*)", render("mapping", "graphite-schemas", FLEET))
    assert re.search(pattern, "stats.gauges.site.one.postgres.main.up")
    assert not re.search(pattern, "stats.gauges.site.one2.postgres.main.up")


def test_datadog_has_a_monitor_for_each_level() -> None:
    monitors = json.loads(render("alerts", "datadog", FLEET))
    assert len(monitors) == sum(len(rule.levels()) for rule in RULES)
    for monitor in monitors:
        assert re.match(r"(min|max)\(last_\d+[mh]\):", monitor["query"])
        assert monitor["query"].count("(") == monitor["query"].count(")")


# ---- YAML

texts = st.text(st.characters(max_codepoint=0xFFFD, exclude_categories=["Cs"]), max_size=20)
ODD = ["yes", "null", "a: b", "- x", "1", "a\nb"]
values = st.recursive(
    st.integers(-(10**9), 10**9) | st.sampled_from(ODD) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(texts, values, min_size=1, max_size=4))
def test_our_yaml_is_yaml(document: dict[str, Any]) -> None:
    assert yaml.safe_load(written(document)) == document
