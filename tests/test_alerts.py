"""Every alert rule fires when it should and is still on a busy, healthy system: promtool says so.

`HEALTHY` is such a system, on the near side of every limit. Each entry of `FIRES` changes a few of
its numbers, and one alert is the answer.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import yaml

from pgstats.overview import METRICS, RULES, Fleet, Rule
from pgstats.render import render

FLEET = Fleet("pgstats", "plain", ("front",), ("main",))
RULES_FILE = render("alerts", "prometheus", FLEET)

_FRONT = 'target="front"'
_MAIN = 'target="main"'
_WEB = f'{_FRONT},database="shop",user="web"'
_SHOP = f'{_MAIN},database="shop"'
_ORDERS = f'{_SHOP},schema="public",table="orders"'
_SMALL = f'{_SHOP},schema="public",table="settings"'
_OTHER = f'{_SHOP},schema="_other",table="_other"'
_SLOT = f'{_MAIN},slot="standby"'

Numbers = Mapping[tuple[str, str], float | str]

HEALTHY: Numbers = {
    # Tables: one at its worst before a worker comes, a tiny one that is mostly dead, the rest.
    ("postgres.tables.vacuum_trigger_ratio", _ORDERS): 1.9,
    ("postgres.tables.dead_ratio", _ORDERS): 1.9,
    ("postgres.tables.n_dead_tup", _ORDERS): 900_000,
    ("postgres.tables.autovacuum_disabled", _ORDERS): 0,
    ("postgres.tables.vacuum_trigger_ratio", _SMALL): 40,
    ("postgres.tables.dead_ratio", _SMALL): 40,
    ("postgres.tables.n_dead_tup", _SMALL): 2_000,
    ("postgres.tables.autovacuum_disabled", _SMALL): 1,
    ("postgres.tables.vacuum_trigger_ratio", _OTHER): 9,
    ("postgres.tables.dead_ratio", _OTHER): 9,
    ("postgres.tables.n_dead_tup", _OTHER): 300_000,
    ("postgres.tables.autovacuum_disabled", _OTHER): 2,
    ("postgres.tables.last_autovacuum_age_seconds", _ORDERS): 40 * 24 * 3600,
    ("postgres.database.n_dead_tup", _SHOP): 1_700_000,
    ("postgres.database.n_live_tup", _SHOP): 8_300_000,
    ("postgres.database.tables_over_trigger", _SHOP): 3,
    ("postgres.database.tables_vacuumed_in_vain", _SHOP): 0,
    ("postgres.database.xact_commit", _SHOP): "0+90000x",
    ("postgres.database.deadlocks", _SHOP): "0+2x",
    ("postgres.database.checksum_failures", _SHOP): 0,
    ("postgres.vacuum.autovacuum_max_workers", _MAIN): 3,
    ("postgres.vacuum.worker_utilization", _MAIN): 0.67,
    ("postgres.server.autovacuum", _MAIN): 1,
    ("postgres.server.track_counts", _MAIN): 1,
    ("postgres.server.rights_ok", _MAIN): 1,
    ("postgres.server.in_recovery", _MAIN): 0,
    ("postgres.server.stats_age_seconds", _MAIN): 4_000,
    ("postgres.server.uptime_seconds", _MAIN): 4_000,
    # Who holds the horizon, and for how long: a report of 25 minutes.
    ("postgres.horizon.age_xids", f'{_MAIN},holder="oldest"'): 15_000_000,
    ("postgres.horizon.age_xids", f'{_MAIN},holder="backend"'): 15_000_000,
    ("postgres.horizon.age_xids", f'{_MAIN},holder="slot_xmin"'): 30_000,
    ("postgres.settings.autovacuum_freeze_max_age_xids", _MAIN): 200_000_000,
    ("postgres.wraparound.xid_freeze_ratio", _MAIN): 1.02,
    ("postgres.wraparound.mxid_freeze_ratio", _MAIN): 1.02,
    ("postgres.wraparound.xid_age_xids", _MAIN): 204_000_000,
    ("postgres.wraparound.mxid_age_mxids", _MAIN): 408_000_000,
    ("postgres.wraparound.xid_limit_ratio", _MAIN): 0.1,
    ("postgres.wraparound.mxid_limit_ratio", _MAIN): 0.19,
    ("postgres.activity.oldest_transaction_seconds", _MAIN): 1_500,
    ("postgres.activity.oldest_idle_in_transaction_seconds", _MAIN): 40,
    ("postgres.prepared.count", _MAIN): 1,
    ("postgres.prepared.oldest_age_seconds", _MAIN): 20,
    # Replication that keeps up.
    ("postgres.slots.wal_status", _SLOT): 1,
    ("postgres.slots.retained_bytes", _SLOT): 6e9,
    ("postgres.replication.max_slot_wal_keep_size_bytes", _MAIN): 10e9,
    ("postgres.replication.slots", _MAIN): 1,
    ("postgres.replication.inactive_slots", _MAIN): 0,
    ("postgres.replication.invalid_slots", _MAIN): 0,
    # Connections: busy, and somebody always waits for a moment.
    ("postgres.connections.utilization", _MAIN): 0.75,
    ("postgres.connections.used", _MAIN): 72,
    ("postgres.overcommit.ratio", _MAIN): 0.95,
    ("postgres.overcommit.pools", _MAIN): 4,
    ("postgres.lock_waits.waiting", _MAIN): 4,
    ("postgres.lock_waits.waiting_long", _MAIN): 0,
    ("pgbouncer.pools.cl_waiting", _WEB): 12,
    ("pgbouncer.pools.maxwait_seconds", _WEB): 0.8,
    ("pgbouncer.pools.waiting_for_seconds", _WEB): 5_000,
    ("pgbouncer.pools.sv_active", _WEB): 20,
    ("pgbouncer.lists.client_utilization", _FRONT): 0.7,
    ("pgbouncer.lists.used_clients", _FRONT): 700,
    ("pgbouncer.state.code", _FRONT): 1,
    ("pgbouncer.up", _FRONT): 1,
    ("postgres.up", _MAIN): 1,
    # One that has left the configuration: its last values are 0.
    ("postgres.up", 'target="gone"'): 0,
    ("postgres.down.count", 'target="gone",reason="refused"'): 0,
    ("self.poll.last_success_timestamp_seconds", 'target="gone"'): 0,
    ("postgres.down.count", f'{_MAIN},reason="refused"'): 0,
    ("pgbouncer.down.count", f'{_FRONT},reason="refused"'): 0,
    ("self.poll.last_success_timestamp_seconds", _MAIN): "0+60x",
    ("self.poll.failed_queries", _MAIN): 0,
    ("self.poll.seconds", _MAIN): 0.4,
    ("self.poll.skipped_runs", _MAIN): 3,
    ("self.ship.lines", ""): "0+60000x",
    ("self.ship.dropped", ""): 0,
}

BOTH = {"warning", "critical"}

#: What makes each rule fire, at which levels.
FIRES: dict[str, tuple[Numbers, set[str]]] = {
    "vacuum-behind": ({("postgres.tables.vacuum_trigger_ratio", _ORDERS): 6}, BOTH),
    "vacuum-backlog": ({("postgres.database.tables_over_trigger", _SHOP): 16}, BOTH),
    "workers-saturated": ({("postgres.vacuum.worker_utilization", _MAIN): 1}, BOTH),
    "vacuum-in-vain": (
        {
            ("postgres.database.tables_vacuumed_in_vain", _SHOP): 1,
            ("postgres.horizon.age_xids", f'{_MAIN},holder="oldest"'): 120_000_000,
        },
        BOTH,
    ),
    "dead-rows": ({("postgres.database.n_live_tup", _SHOP): 1_500_000}, BOTH),
    "vacuum-disabled": (
        {("postgres.tables.autovacuum_disabled", _ORDERS): 1},
        {"warning"},
    ),
    "autovacuum-off": ({("postgres.server.autovacuum", _MAIN): 0}, {"critical"}),
    "counts-off": ({("postgres.server.track_counts", _MAIN): 0}, {"critical"}),
    "horizon": (
        {("postgres.horizon.age_xids", f'{_MAIN},holder="oldest"'): 100_000_001},
        BOTH,
    ),
    "freeze-behind": ({("postgres.wraparound.xid_freeze_ratio", _MAIN): 1.3}, BOTH),
    "freeze-behind-multixacts": ({("postgres.wraparound.mxid_freeze_ratio", _MAIN): 1.3}, BOTH),
    "wraparound": ({("postgres.wraparound.xid_limit_ratio", _MAIN): 0.66}, BOTH),
    "wraparound-multixacts": ({("postgres.wraparound.mxid_limit_ratio", _MAIN): 0.66}, BOTH),
    "long-transaction": (
        {("postgres.activity.oldest_transaction_seconds", _MAIN): 7_300},
        BOTH,
    ),
    "idle-in-transaction": (
        {("postgres.activity.oldest_idle_in_transaction_seconds", _MAIN): 901},
        BOTH,
    ),
    "prepared-transaction": ({("postgres.prepared.oldest_age_seconds", _MAIN): 4_000}, BOTH),
    "slot-status": ({("postgres.slots.wal_status", _SLOT): 4}, BOTH),
    "slot-lost": ({("postgres.replication.invalid_slots", _MAIN): 1}, {"critical"}),
    "slot-inactive": ({("postgres.replication.inactive_slots", _MAIN): 1}, BOTH),
    "slot-remaining": ({("postgres.slots.retained_bytes", _SLOT): 9.9e9}, BOTH),
    "connections": ({("postgres.connections.utilization", _MAIN): 0.93}, BOTH),
    "overcommit": ({("postgres.overcommit.ratio", _MAIN): 1.6}, BOTH),
    "lock-waits": ({("postgres.lock_waits.waiting_long", _MAIN): 6}, BOTH),
    "deadlocks": ({("postgres.database.deadlocks", _SHOP): "0+8x"}, {"warning"}),
    "checksums": ({("postgres.database.checksum_failures", _SHOP): 1}, {"critical"}),
    "pool-wait": ({("pgbouncer.pools.maxwait_seconds", _WEB): 25}, BOTH),
    "pool-stuck": (
        {
            ("pgbouncer.pools.sv_active", _WEB): 0,
            ("pgbouncer.pools.maxwait_seconds", _WEB): 0,
        },
        BOTH,
    ),
    "clients": ({("pgbouncer.lists.client_utilization", _FRONT): 0.97}, BOTH),
    "pgbouncer-state": ({("pgbouncer.state.code", _FRONT): 2}, {"warning"}),
    "pgbouncer-down": (
        {
            ("pgbouncer.up", _FRONT): 0,
            ("pgbouncer.down.count", f'{_FRONT},reason="refused"'): 1,
        },
        {"critical"},
    ),
    "postgres-down": (
        {
            ("postgres.up", _MAIN): 0,
            ("postgres.down.count", f'{_MAIN},reason="refused"'): 1,
        },
        {"critical"},
    ),
    "poller-silent": (
        {("self.poll.last_success_timestamp_seconds", _MAIN): "60+0x"},
        {"critical"},
    ),
    "poll-failing": ({("self.poll.failed_queries", _MAIN): 1}, BOTH),
    "poll-skipped": ({("self.poll.skipped_runs", _MAIN): "0+1x"}, {"warning"}),
    "rights": ({("postgres.server.rights_ok", _MAIN): 0}, {"warning"}),
    "shipping": ({("self.ship.dropped", ""): "0+600x"}, {"warning"}),
}

#: What silences a rule that counts rows.
MUTES: dict[str, Numbers] = {
    "standby": {("postgres.server.in_recovery", _MAIN): 1},
    "statistics lost": {("postgres.server.stats_age_seconds", _MAIN): 3_000},
}


def minutes(rule: Rule) -> int:
    """So long a system is looked at, a look each minute."""
    return 10 + max(level.seconds for level in rule.levels().values()) // 60


def series(numbers: Numbers, looks: int) -> list[dict[str, str]]:
    """Numbers as promtool reads them: one that stays, or "start+step" a minute."""
    found = []
    for (metric, labels), number in numbers.items():
        assert metric in METRICS
        name = f"pgstats_{metric.replace('.', '_')}"
        steps = f"{number}{looks}" if isinstance(number, str) else f"{number:.12g}+0x{looks}"
        found.append({"series": f"{name}{{{labels}}}", "values": steps})
    return found


def case(name: str, rule: Rule, numbers: Numbers, fires: Iterable[str]) -> dict[str, object]:
    """One test of promtool: the levels of one alert that are firing in the end."""
    selected = f'ALERTS{{alertname="{alert(rule)}",alertstate="firing"}}'
    return {
        "name": name,
        "interval": "1m",
        "input_series": series({**HEALTHY, **numbers}, minutes(rule)),
        "promql_expr_test": [
            {
                "expr": f"count by (severity) ({selected})",
                "eval_time": f"{minutes(rule)}m",
                "exp_samples": [
                    {"labels": f'{{severity="{severity}"}}', "value": 1}
                    for severity in sorted(fires)
                ],
            }
        ],
    }


def alert(rule: Rule) -> str:
    return "Pgstats" + rule.id.title().replace("-", "")


def judged(tmp_path: Path, rule: Rule, *cases: Mapping[str, object]) -> None:
    """Have promtool run the cases on the rules of one alert: all of them would take minutes."""
    (group,) = yaml.safe_load(RULES_FILE)["groups"]
    rules = [one for one in group["rules"] if one["alert"] == alert(rule)]
    assert rules
    text = yaml.safe_dump({"groups": [{**group, "rules": rules}]})
    (tmp_path / "rules.yml").write_text(text)
    (tmp_path / "tests.yml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": cases})
    )
    done = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "tests.yml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_it_fires_and_is_still_on_a_busy_healthy_system(rule: Rule, tmp_path: Path) -> None:
    numbers, levels = FIRES[rule.id]
    cases = [case("healthy", rule, {}, ()), case("fires", rule, numbers, levels)]
    if any(one.series.metric == "postgres.server.stats_age_seconds" for one in rule.muted):
        cases += [case(name, rule, {**numbers, **mute}, ()) for name, mute in MUTES.items()]
    judged(tmp_path, rule, *cases)
    assert levels == set(rule.levels())


def test_the_rules_are_rules(tmp_path: Path) -> None:
    path = tmp_path / "rules.yml"
    path.write_text(RULES_FILE)
    subprocess.run(["promtool", "check", "rules", path], check=True, capture_output=True)


def test_a_test_that_does_not_hold_is_told(tmp_path: Path) -> None:
    rule = next(rule for rule in RULES if rule.id == "connections")
    with pytest.raises(AssertionError, match="FAILED"):
        judged(tmp_path, rule, case("wrong", rule, {}, {"warning"}))
