"""The dashboards and rules on real servers: PostgreSQL and PgBouncer under load, polled by the
daemon, shipped to statsd; drawn by graphite-web, asked by Prometheus, InfluxDB and netdata.

With PGSTATS_PICTURES set to a folder, all panels are drawn into it.
"""

from __future__ import annotations

import functools
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from pgstats.demo import CLIENTS, POOL_SIZE, SCHEMA
from pgstats.overview import PANELS, ROWS, RULES, Fleet, Rule, Series
from pgstats.render import render
from pgstats.render.language.graphite import Graphite
from pgstats.render.language.promql import PromQL
from pgstats.render.mapping import telegraf
from pgstats.scratch import Bouncer, Cluster, Scratch
from pgstats.ship import wire
from tests import mappings
from tests.conftest import ROOT
from tests.receivers.graphite import HOME, Carbon, GraphiteStatsd, GraphiteWeb
from tests.receivers.influxdb import InfluxDB
from tests.receivers.netdata import Netdata
from tests.receivers.prometheus import Exporter, Prometheus, exposition
from tests.test_alerts import FIRES, HEALTHY, MUTES, Numbers
from tests.versions import scratch_of

pytestmark = pytest.mark.full

FLEET = Fleet("pgstats", "plain", ("front",), ("main",), 1.0)

#: Makes everything move that a panel shows, beside the load of the demonstration.
PREPARED = """
CREATE TABLE big AS SELECT n, repeat('x', 200) AS filler FROM generate_series(1, 60000) AS n;
ALTER TABLE big SET (autovacuum_enabled = off);
DELETE FROM big WHERE n % 3 = 0;
CREATE TABLE locked (n int);
CREATE ROLE unseen;
ALTER ROLE unseen SET track_counts = off;
SELECT pg_create_physical_replication_slot('standby', true);
SELECT pg_create_physical_replication_slot('forgotten', true);
"""
SESSIONS = {
    "vacuum": "SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1; VACUUM big;",
    "prepare": "BEGIN; INSERT INTO locked VALUES (1); PREPARE TRANSACTION 'forgotten';",
    "lock": "BEGIN; LOCK TABLE locked IN SHARE MODE; SELECT pg_sleep(900);",
    "wait": "LOCK TABLE locked IN ACCESS EXCLUSIVE MODE;",
    "insert": "INSERT INTO big SELECT 1, 'x' FROM generate_series(1, 50) \\watch 0.5",
}


@dataclass
class Site:
    """Servers under load, and the receivers that pgstats fills."""

    scratch: Scratch
    cluster: Cluster
    bouncer: Bouncer
    statsd: GraphiteStatsd
    web: GraphiteWeb

    def gauges(self) -> dict[str, float]:
        return self.statsd.gauges()


def schemas() -> str:
    """Ours, with steps of a second, for some minutes."""
    text = render("mapping", "graphite-schemas", FLEET)
    return re.sub(r"retentions = .*", "retentions = 1s:10m", text)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if not HOME.exists():
        pytest.skip("graphite-web installs on Python 3.11 alone: ./dev test-full has not done so")
    with scratch_of("18") as scratch:
        settings = {
            "max_prepared_transactions": 5,
            "autovacuum_naptime": "2s",
            "track_io_timing": "on",
            "track_cost_delay_timing": "on",
            "max_slot_wal_keep_size": "1GB",
        }
        cluster = Cluster(scratch, settings).start()
        cluster.psql("CREATE DATABASE shop")
        cluster.psql(SCHEMA, "shop")
        cluster.psql(PREPARED, "shop")
        bouncer = Bouncer(
            scratch,
            {"shop": cluster.address},
            users=dict.fromkeys(("web", "worker", "report", "pgstats"), ""),
            stats_users=["pgstats"],
            settings={"default_pool_size": POOL_SIZE},
        ).start()
        site = Site(scratch, cluster, bouncer, *graphite(scratch))
        load(scratch, cluster, bouncer)
        idle = psycopg2.connect(cluster.dsn("shop"))
        idle.cursor().execute("SELECT txid_current()")  # and nothing more
        with closing(idle), daemon(site, tmp_path_factory.mktemp("site")):
            eventually(lambda: polls(site, FLEET) >= 30, site)
            yield site


def graphite(scratch: Scratch, *, tags: bool = False) -> tuple[GraphiteStatsd, GraphiteWeb]:
    """statsd, and the graphite-web that shows what it was sent."""
    carbon = Carbon(scratch, schemas(), render("mapping", "graphite-aggregation", FLEET))
    web = GraphiteWeb(scratch, carbon)
    carbon.tags_at = web.port if tags else 0
    statsd = GraphiteStatsd(
        scratch,
        ROOT / ".cache" / "node_modules" / "statsd" / "stats.js",
        carbon.start().port,
    )
    return statsd, web.start()


def load(scratch: Scratch, cluster: Cluster, bouncer: Bouncer) -> None:
    binaries = scratch.binaries.postgres
    quiet = Path(os.devnull)
    for name, script in SESSIONS.items():
        path = scratch.write(f"{name}.sql", script)
        dsn = cluster.dsn("shop")
        scratch.launch([binaries / "psql", "-Xq", "-d", dsn, "-f", path], output=quiet)
    for client in CLIENTS:
        path = scratch.write(f"{client.user}.sql", client.script)
        for _ in range(client.sessions):
            dsn = bouncer.dsn("shop", client.user)
            scratch.launch([binaries / "psql", "-Xq", "-d", dsn, "-f", path], output=quiet)
    folder = scratch.folder("received")
    receive: list[str | Path] = [binaries / "pg_receivewal", "-D", folder, "--slot=standby", "-d"]
    scratch.launch([*receive, cluster.dsn("postgres")], output=scratch.path / "receive.log")


@contextmanager
def daemon(site: Site, folder: Path, dialect: str = "plain") -> Iterator[None]:
    """`pgstats run` on the site, each second."""
    config = folder / "pgstats.toml"
    config.write_text(
        f'interval = "1s"\nstate = "{folder}/state"\n'
        f'[statsd]\nurl = "{site.statsd.udp}"\ndialect = "{dialect}"\n'
        f'[[pgbouncer]]\nname = "front"\ndsn = "{site.bouncer.address} user=pgstats"\n'
        f'[[postgres]]\nname = "main"\ndsn = "{site.cluster.address} user=pgstats dbname=shop"\n'
        'sizes = "5s"\n'
    )
    command = [sys.executable, "-m", "pgstats", "run", "--config", str(config)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def polls(site: Site, fleet: Fleet) -> int:
    """How often the time of the last success has been another one."""
    series = Series("self.poll.last_success_timestamp_seconds", raw=True)
    (query,) = Graphite(fleet).curves(series)
    times = site.web.numbers(query).values()
    return min((len(set(values)) for values in times), default=0)


def eventually(fact: Callable[[], object], site: Site, seconds: float = 180) -> None:
    until = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < until, site.gauges()
        time.sleep(0.5)


# ---- Graphite


def filled(target: str) -> str:
    """What Grafana makes of an expression at first, when everything is chosen."""
    return target.replace("$target", "*").replace("$database", "*")


def grafana(kind: str) -> list[dict[str, Any]]:
    panels = json.loads(render("dashboard", kind, FLEET))["panels"]
    return [panel for panel in panels if panel["type"] != "row"]


#: What PgBouncer 1.18 and pg_receivewal do not tell, and what is only sent where it is not 0.
NOT_HERE = {"code", "replay_lag_bytes", "unavailable_queries", "cut_queries"}


def test_every_panel_of_grafana_over_graphite_has_data(site: Site) -> None:
    for panel in grafana("grafana-graphite"):
        found = {
            target["target"]: site.web.numbers(filled(target["target"]))
            for target in panel["targets"]
        }
        assert any(found.values()), panel["title"]
        empty = [query for query, curves in found.items() if not curves]
        assert {q for q in empty if not any(f".{name}" in q for name in NOT_HERE)} == set()


def test_the_age_of_a_success_is_seconds(site: Site) -> None:
    (panel,) = [p for p in grafana("grafana-graphite") if p["title"].startswith("Age of the last")]
    for target in panel["targets"]:
        for values in site.web.numbers(target["target"], "-30s").values():
            assert -5 < values[-1] < 60


def test_a_rate_of_rare_polls_is_their_mean(site: Site) -> None:
    language = Graphite(replace(FLEET, interval=30.0))
    (query,) = language.curves(Series("postgres.database.xact_commit", by=()))
    (values,) = site.web.numbers(query, "-10s").values()
    assert min(values) > 0
    assert max(values) < 2 * min(values)


def test_graphite_web_keeps_its_dashboard_and_every_graph_has_data(site: Site) -> None:
    state = json.loads(render("dashboard", "graphite", FLEET))
    site.web.save("pgstats", state)
    assert site.web.load("pgstats") == state
    titles = []
    for targets, parameters, _ in state["graphs"]:
        titles.append(parameters["title"])
        assert any(site.web.numbers(t) for t in targets if "constantLine" not in t), titles[-1]
    assert titles == [panel.title for panel in PANELS]


def test_every_graph_is_drawn(site: Site, tmp_path: Path) -> None:
    """The picture of each panel, and one sheet for each row of the dashboard."""
    state = json.loads(render("dashboard", "graphite", FLEET))
    pictures: dict[str, Path] = {}
    for targets, parameters, _ in state["graphs"]:
        known = [
            target for target in targets if "constantLine" in target or site.web.numbers(target)
        ]
        size = {"width": "420", "height": "260", "from": "-1min"}
        more = {"title": parameters["title"], "yMin": "0", "lineMode": "connected"}
        drawn = site.web.render(known, **size, **more, fontSize="8")
        assert drawn.startswith(b"\x89PNG"), parameters["title"]
        path = tmp_path / f"{len(pictures)}.png"
        path.write_bytes(drawn)
        pictures[parameters["title"]] = path
    where = Path(os.environ.get("PGSTATS_PICTURES") or tmp_path)
    for number, row in enumerate(ROWS, 1):
        sheet = where / f"dashboard-{number}.png"
        joined([pictures[panel.title] for panel in row.panels], sheet)
        assert sheet.stat().st_size > 10_000


def joined(pictures: list[Path], sheet: Path) -> None:
    """Pictures of one size on one sheet, three beside each other, by the cairo of graphite-web."""
    program = """
import sys
from cairocffi import Context, ImageSurface
*names, out = sys.argv[1:]
drawn = [ImageSurface.create_from_png(name) for name in names]
width, height = drawn[0].get_width(), drawn[0].get_height()
sheet = ImageSurface(0, 3 * width, -(-len(drawn) // 3) * height)
context = Context(sheet)
for number, one in enumerate(drawn):
    context.set_source_surface(one, number % 3 * width, number // 3 * height)
    context.paint()
sheet.write_to_png(out)
"""
    command: list[str | Path] = [HOME / "bin" / "python", "-c", program, *pictures, sheet]
    subprocess.run(command, check=True)


def test_with_tags_every_panel_has_data_too(site: Site, tmp_path: Path) -> None:
    """The dialect graphite, through a statsd and a carbon that know tags."""
    fleet = replace(FLEET, dialect="graphite")
    statsd, web = graphite(site.scratch, tags=True)
    tagged = replace(site, statsd=statsd, web=web)
    with daemon(tagged, tmp_path, "graphite"):
        eventually(lambda: polls(tagged, fleet) >= 15, tagged)
        for panel in json.loads(render("dashboard", "grafana-graphite", fleet))["panels"]:
            targets = [target["target"] for target in panel.get("targets", ())]
            asked = [re.sub(r"\$\{\w+:regex\}", ".*", target) for target in targets]
            # carbon tells the tags of new series by and by.
            eventually(lambda: not asked or any(map(tagged.web.numbers, asked)), tagged)  # noqa: B023
        language = Graphite(fleet)
        for rule in RULES:
            for level in rule.levels().values():
                tagged.web.numbers(language.firing(rule, level))
    # The poller is dead. All looks well, but for one thing.
    ages = Series("self.poll.last_success_timestamp_seconds")

    def oldest() -> float:
        found = [tagged.web.numbers(query, "-30s") for query in language.curves(ages)]
        return min(values[-1] for curves in found for values in curves.values())

    eventually(lambda: oldest() > 20, tagged)
    (up,) = language.curves(Series("postgres.up"))
    assert [values[-1] for values in tagged.web.numbers(up, "-5s").values()] == [1]


# ---- the rules, by the numbers that promtool judges them by


def path(prefix: str, metric: str, labels: str) -> str:
    """The name of a case's number in Graphite."""
    values = dict(re.findall(r'(\w+)="([^"]*)"', labels))
    family, *group, name = metric.split(".")
    target = [values.pop("target")] if "target" in values else []
    where = [*group, *target] if family == "self" else [*target, *group]
    return ".".join(["stats.gauges.pgstats", prefix, family, *where, *values.values(), name])


def at(metric: str, number: float | str, now: int, second: int) -> float:
    """A number of promtool's at a second before now; its times begin at 0, and ours do not."""
    if not isinstance(number, str):
        return number
    start, step = (float(part) for part in number.rstrip("x").split("+"))
    if metric.endswith("timestamp_seconds"):
        return now - second if step else start
    return start + step / 60 * (1000 - second)


def test_each_rule_is_in_graphite_what_it_is_in_prometheus(site: Site) -> None:
    cases: dict[str, tuple[Numbers, Rule | None, set[str]]] = {"healthy": ({}, None, set())}
    for rule in RULES:
        numbers, levels = FIRES[rule.id]
        cases[f"fires-{rule.id}"] = (numbers, rule, levels)
        if any(one.series.metric == "postgres.server.stats_age_seconds" for one in rule.muted):
            for word, mute in MUTES.items():
                name = f"{word.split()[0]}-{rule.id}"
                cases[name] = ({**numbers, **mute}, rule, set())
    now = int(time.time())
    lines = [
        f"{path(prefix, metric, labels)} {at(metric, number, now, second)!r} {now - second}\n"
        for prefix, (changed, _, _) in cases.items()
        for (metric, labels), number in {**HEALTHY, **changed}.items()
        for second in range(30)
    ]
    with socket.create_connection(("127.0.0.1", site.web.carbon.port)) as connection:
        connection.sendall("".join(lines).encode())
    # Carbon makes files in an order of its own, and only those that are there are found.
    made = site.web.carbon.folder / "whisper" / "stats" / "gauges" / "pgstats"
    eventually(
        lambda: (
            sum(len(list((made / prefix).rglob("*.wsp"))) for prefix in cases) * 30 == len(lines)
        ),
        site,
    )
    wrong = []
    for prefix, (_, meant, levels) in cases.items():
        language = Graphite(replace(FLEET, prefix=f"pgstats.{prefix}"))
        for one in (meant,) if meant else RULES:
            for severity, level in one.levels().items():
                curves = site.web.numbers(language.firing(one, level), "-2min").values()
                if any(values[-1] < 0 for values in curves) != (severity in levels):
                    wrong.append((prefix, one.id, severity, [values[-1] for values in curves]))
    assert wrong == [], wrong


# ---- Prometheus


def named(site: Site) -> dict[str, float]:
    """The gauges of pgstats that statsd holds."""
    return {name: v for name, v in site.gauges().items() if name.startswith("pgstats.")}


@pytest.fixture(scope="module")
def prometheus(site: Site) -> Iterator[Prometheus]:
    """It scrapes what statsd_exporter would make of the same poll, by our mapping."""
    text = render("mapping", "statsd-exporter", FLEET)
    mapping = functools.cache(mappings.statsd_exporter(text))
    exporter = Exporter(lambda: exposition(named(site), mapping))
    rules = render("alerts", "prometheus", FLEET)
    with Prometheus(site.scratch, exporter.port, rules) as server:
        name = "count_over_time(pgstats_self_poll_ok{target='main'}[1m]) > 10"
        eventually(lambda: server.query(name), site)
        yield server
    exporter.close()


def test_every_panel_of_grafana_over_prometheus_has_data(prometheus: Prometheus) -> None:
    for panel in grafana("grafana-prometheus"):
        found = {
            target["expr"]: prometheus.query(re.sub(r"\$(target|database)", ".*", target["expr"]))
            for target in panel["targets"]
        }
        assert any(found.values()), panel["title"]
        empty = [query for query, curves in found.items() if not curves]
        assert {q for q in empty if not any(f"_{name}" in q for name in NOT_HERE)} == set()


def test_graphite_and_prometheus_agree_on_what_is_wrong(site: Site, prometheus: Prometheus) -> None:
    """Each rule, at each level, apart from how long it must last.

    Rates are left out: the one takes them over a minute, the other from one value to the next.
    """
    language = Graphite(FLEET)
    here, there = set(), set()
    for rule in (rule for rule in RULES if not rule.series.rate):
        for severity, level in rule.levels().items():
            name = f"{rule.id} {severity}"
            values = site.web.numbers(language.firing(rule, level), "-20s").values()
            here |= {name} if any(curve[-1] < 0 for curve in values) else set()
            there |= {name} if prometheus.query(PromQL(FLEET).firing(rule, level)) else set()
    assert here == there
    # What the load does, and nothing else: a forgotten slot, pools and connections that are full.
    assert "slot-inactive warning" in here
    assert (
        not {"postgres-down critical", "pgbouncer-down critical", "autovacuum-off critical"} & here
    )


def test_nothing_is_woken_by_a_site_that_just_began(prometheus: Prometheus) -> None:
    assert prometheus.query('ALERTS{alertstate="firing"}') == []


# ---- InfluxDB


def test_every_panel_of_grafana_over_influxdb_has_data(site: Site) -> None:
    templates = telegraf.templates(FLEET)
    with InfluxDB(site.scratch, templates) as influx:
        until = time.monotonic() + 6
        while time.monotonic() < until:
            influx.take(named(site))
            time.sleep(0.5)
        (measured,) = influx.query("SHOW MEASUREMENTS")
        assert ["pgstats_pgbouncer_pools"] in measured["values"]
        for panel in grafana("grafana-influx"):
            found = {
                target["query"]: influx.query(asked(target["query"])) for target in panel["targets"]
            }
            assert any(found.values()), panel["title"]
            empty = [query for query, curves in found.items() if not curves]
            assert {q for q in empty if not any(f'"{name}"' in q for name in NOT_HERE)} == set()


def asked(query: str) -> str:
    """What Grafana makes of a query at first."""
    query = query.replace("$timeFilter", "time > now() - 1m").replace("$__interval", "1s")
    return re.sub(r"/\^\$\w+\$/", "/^.*$/", query)


# ---- netdata


def test_netdata_draws_the_charts(site: Site) -> None:
    text = render("dashboard", "netdata", FLEET)
    with Netdata(site.scratch, "charts", text) as netdata, closing(wire(netdata.udp)) as ours:
        until = time.monotonic() + 60
        wanted = set(re.findall(r"^\[(\w+)\]$", text, re.MULTILINE)) - {"app"}
        drawn: dict[str, list[str]] = {}
        while time.monotonic() < until and not wanted <= set(drawn):
            lines = "".join(f"{name}:{value:f}|g\n" for name, value in named(site).items())
            assert ours.ship(lines, 30)
            time.sleep(1)
            drawn = {
                name.removeprefix("pgstats."): [one["name"] for one in chart["dimensions"].values()]
                for name, chart in netdata.charts().items()
                if name.startswith("pgstats.")
            }
        assert wanted - set(drawn) == set()
        assert "cl_waiting.shop.web" in drawn["waiting_clients_pgbouncer_front"]
