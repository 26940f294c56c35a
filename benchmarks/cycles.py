"""One cycle of a daemon after the other: pgstats, floors by hand, and exporters take turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from benchmarks import meter
from benchmarks.case import Goal, Result
from benchmarks.driven import Driven, Scraped
from benchmarks.lab import ROOT, Lab
from benchmarks.meter import Cost
from pgstats.catalogue.postgres.tables import NEED, TABLES
from pgstats.scratch import free_port

_GAUGES = [metric.name for query in (TABLES, NEED) for metric in query.on(150000)]
_TWO = "SELECT schemaname, relname, n_live_tup, n_dead_tup FROM pg_catalog.pg_stat_user_tables"
_TWO_LEAN = (
    "SELECT n.nspname AS schema, c.relname AS table, pg_stat_get_live_tuples(c.oid) AS n_live_tup,"
    " pg_stat_get_dead_tuples(c.oid) AS n_dead_tup FROM pg_class c JOIN pg_namespace n"
    " ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm')"
    " AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
)
_EXPORTED = f"""pg_two:
  query: "{_TWO}"
  metrics:
    - schemaname: {{usage: LABEL, description: schema}}
    - relname: {{usage: LABEL, description: table}}
    - n_live_tup: {{usage: GAUGE, description: live}}
    - n_dead_tup: {{usage: GAUGE, description: dead}}
"""
_QUESTION = f"""
[[query]]
name = "two"
sql = "{_TWO_LEAN}"
labels = ["schema", "table"]
metrics = ["n_live_tup", "n_dead_tup"]
rows = 10000
"""
_COLLECTD = """FQDNLookup false
Hostname "bench"
Interval 1
BaseDir "{folder}"
PIDFile "{folder}/pid"
TypesDB "/usr/share/collectd/types.db"
LoadPlugin postgresql
<Plugin postgresql>
  <Query two>
    Statement "{sql}"
    <Result>
      Type gauge
      InstancePrefix live
      InstancesFrom schemaname relname
      ValuesFrom n_live_tup
    </Result>
    <Result>
      Type gauge
      InstancePrefix dead
      InstancesFrom schemaname relname
      ValuesFrom n_dead_tup
    </Result>
  </Query>
  <Database {database}>
    Host "{host}"
    Port "{port}"
    User "postgres"
    Query two
  </Database>
</Plugin>
"""


def config(lab: Lab, name: str, tables: str, more: str = "") -> Path:
    """A configuration that polls one database."""
    return lab.write(
        f"{name}-{tables.strip(chr(34))}{'-two' if more else ''}.toml",
        f'[statsd]\nurl = "{lab.sink.url}"\nrate = 0\n[[postgres]]\nname = "main"\n'
        f'dsn = """{lab.cluster.dsn(name)}"""\ndatabases = ["{name}"]\ntables = {tables}\n'
        f'timeout = "60s"\n{more}',
    )


def postgres(count: int) -> Callable[[Lab], Result]:
    """The same two gauges a table as postgres_exporter has."""

    def work(lab: Lab) -> Result:
        dsn, name = lab.tables(count), f"t{count}"
        server = partial(meter.tree, lab.cluster.pid)
        queries = lab.write("exporter.yaml", _EXPORTED)
        with ExitStack() as stack:
            ports = [free_port(), free_port()]
            quiet = ["--disable-default-metrics", "--disable-settings-metrics"]
            exporters = [
                Scraped(
                    lab.scratch,
                    server,
                    [
                        "prometheus-postgres-exporter",
                        f"--web.listen-address=127.0.0.1:{port}",
                        *more,
                    ],
                    port,
                    DATA_SOURCE_NAME=f"{dsn} sslmode='disable'",
                )
                for port, more in zip(
                    ports, ([*quiet, f"--extend.query-path={queries}"], []), strict=True
                )
            ]
            programs: dict[str, Driven | Scraped] = {
                "lean, by hand": Driven(server, "lean", dsn, str(lab.sink.port)),
                "pgstats, everything and the two": Driven(
                    server, "pgstats_cycle", config(lab, name, "0", _QUESTION)
                ),
                "pgstats, everything without them": Driven(
                    server, "pgstats_cycle", config(lab, name, "0")
                ),
                "postgres_exporter, only the two": exporters[0],
                "postgres_exporter, its defaults": exporters[1],
            }
            for one in programs.values():
                stack.enter_context(closing(one))
            found = meter.alternately(
                {who: one.cycle for who, one in programs.items()}, 3 if lab.quick else 15
            )
        costs = {who: meter.median(several) for who, several in found.items()}
        costs["collectd postgresql, the two"] = _collectd(lab, name, count)
        ours, rest = (
            found["pgstats, everything and the two"],
            found["pgstats, everything without them"],
        )
        theirs = found["postgres_exporter, only the two"]
        alone = [a._replace(client=a.client - b.client) for a, b in zip(ours, rest, strict=True)]
        goals = (
            Goal(
                f"cycle, two gauges a table, {count:,} tables: all of pgstats's CPU against"
                " postgres_exporter's for the two alone",
                meter.ratio(ours, theirs, lambda cost: cost.client),
                0.2,
            ),
            Goal(
                f"the same, {count:,} tables, less what pgstats's other questions take",
                meter.ratio(alone, theirs, lambda cost: cost.client),
                0.2,
            ),
        )
        return Result(costs, goals)

    return work


def _collectd(lab: Lab, name: str, count: int) -> Cost:
    """A few beats of collectd, which nobody can tell when to poll."""
    folder = lab.scratch.folder(f"collectd{count}")
    text = _COLLECTD.format(
        folder=folder, sql=_TWO, database=name, host=lab.cluster.host, port=lab.cluster.port
    )
    beats = 4
    file = lab.write(f"collectd{count}.conf", text)
    with (lab.scratch.path / "collectd.log").open("ab") as log:
        process = lab.scratch.launch(
            ["/usr/sbin/collectd", "-f", "-C", file], output=Path(log.name), ours=True
        )
    time.sleep(2)
    before, asked = meter.cpu(process.pid), meter.tree(lab.cluster.pid)
    time.sleep(beats)
    cost = Cost(
        (meter.cpu(process.pid) - before) / beats,
        (meter.tree(lab.cluster.pid) - asked) / beats,
        peak=meter.status(process.pid, "VmHWM"),
        gauges=2 * count,
    )
    process.kill()
    process.wait()
    return cost


def whole(count: int) -> Callable[[Lab], Result]:
    """A whole cycle, all tables shipped, against the mere fetch of the same rows."""

    def work(lab: Lab) -> Result:
        dsn, name = lab.tables(count), f"t{count}"
        text = lab.write("whole.sql", lab.every_table())
        server = partial(meter.tree, lab.cluster.pid)
        with ExitStack() as stack:
            programs: dict[str, Driven | Scraped] = {
                "fetch of the same rows": Driven(server, "fetch", dsn, text),
                "lean, by hand": Driven(
                    server, "lean_whole", dsn, str(lab.sink.port), text, *_GAUGES
                ),
                "pgstats, all tables": Driven(server, "pgstats_cycle", config(lab, name, '"all"')),
            }
            for one in programs.values():
                stack.enter_context(closing(one))
            found = meter.alternately(
                {who: one.cycle for who, one in programs.items()},
                3 if lab.quick else 9 if count <= 10000 else 3,
            )
        ratio, lean = (
            meter.ratio(found[who], found["fetch of the same rows"], lambda cost: cost.client)
            for who in ("pgstats, all tables", "lean, by hand")
        )
        costs = {who: meter.median(several) for who, several in found.items()}
        goals = [
            Goal(
                f"whole cycle, {count:,} tables: CPU against execute and fetchall"
                f" (by hand: {lean:.1f} x)",
                ratio,
                3.5,
            )
        ]
        if count == 100000:
            peak = costs["pgstats, all tables"].peak
            goals.append(Goal("memory, 100,000 tables all shipped", peak, 90, "MiB"))
        return Result(costs, tuple(goals))

    return work


def pgbouncer(count: int) -> Callable[[Lab], Result]:
    """A PgBouncer with so many pools, and what its one thread pays."""

    def work(lab: Lab) -> Result:
        front = lab.pools(count)
        dsn = front.dsn("pgbouncer", "stats")
        server = partial(meter.cpu, front.pid)
        port = free_port()
        file = lab.write(
            f"pools{count}.toml",
            f'[statsd]\nurl = "{lab.sink.url}"\nrate = 0\n[[pgbouncer]]\nname = "front"\n'
            f'dsn = """{dsn}"""\n',
        )
        peer = lab.write(
            f"exporter{count}.yml",
            f"exporter_host: 127.0.0.1\nexporter_port: {port}\npgbouncers:\n"
            f"  - dsn: postgresql://stats@127.0.0.1:{front.port}/pgbouncer\n",
        )
        exporter = ROOT / ".cache" / "pgbouncer-exporter" / "bin" / "pgbouncer-exporter"
        shows = lab.write(
            f"shows{count}.sql",
            "".join(
                f"SHOW {what};\n"
                for what in ("STATS", "POOLS", "LISTS", "DATABASES", "STATE", "CONFIG")
            ),
        )
        with ExitStack() as stack:
            programs: dict[str, Driven | Scraped] = {
                "lean, by hand": Driven(server, "bouncer", dsn, str(lab.sink.port)),
                "pgstats": Driven(server, "pgstats_cycle", file),
                "PyPI exporter": Scraped(lab.scratch, server, [exporter, "--config", peer], port),
            }
            for one in programs.values():
                stack.enter_context(closing(one))
            turns = {who: one.cycle for who, one in programs.items()}
            turns["psql, the same SHOW commands"] = partial(_psql, server, dsn, shows)
            # It looks through its pools three times a second, while we shape and ship, too.
            rate = meter.resting(server)
            found = {
                who: [meter.asked_for(cost, rate) for cost in costs]
                for who, costs in meter.alternately(turns, 3 if lab.quick else 11).items()
            }
        per_series = meter.ratio(
            found["pgstats"], found["PyPI exporter"], lambda cost: cost.client / cost.gauges
        )
        stall = meter.ratio(
            found["pgstats"], found["psql, the same SHOW commands"], lambda cost: cost.server
        )
        costs = {who: meter.median(several) for who, several in found.items()}
        goals = [
            Goal(
                f"PgBouncer, {count:,} pools: CPU per series against the exporter", per_series, 0.2
            ),
            Goal(f"PgBouncer, {count:,} pools: its CPU per poll against psql's", stall, 1.1),
        ]
        if count == 5000:
            goals.append(Goal("memory, 5,000 pools", costs["pgstats"].peak, 60, "MiB"))
        return Result(costs, tuple(goals))

    return work


def _psql(server: Callable[[], float], dsn: str, file: Path) -> Cost:
    asked = server()
    cost = meter.run(["psql", "-XAtq", "-f", file, dsn])
    return cost._replace(server=server() - asked)
