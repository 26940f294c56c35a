"""Alert rules: what is wrong, from when on, why that matters, and what to ask pgstats then.

Each has a smallest size below which it says nothing, and a time that it must last. None looks at
the time since the last vacuum alone: a vacuum in vain renews it, and a table that nobody changes
needs none. What statistics tell is not believed for an hour after they were lost, nor on a standby.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pgstats.overview.series import Series

MINUTE = 60
HOUR = 60 * MINUTE


@dataclass(frozen=True, slots=True)
class Condition:
    """A series, and on which side of a limit its values are meant: ">=" or "<"."""

    series: Series
    sign: str
    limit: float

    def negated(self) -> Condition:
        """The same on the other side."""
        return replace(self, sign="<" if self.sign == ">=" else ">=")


@dataclass(frozen=True, slots=True)
class Level:
    """From which value on, after how many seconds; and what else must be so."""

    limit: float
    seconds: int
    also: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that may be wrong.

    The value of ``series`` is bad on the side ``sign`` of a level's limit, where ``size`` holds
    and nothing in ``muted`` does. ``reason`` is why these limits; ``ask`` what to run, and ``cure``
    what to do then. ``{target}`` in a text stands for the target's name.
    """

    id: str
    title: str
    series: Series
    sign: str
    warning: Level | None
    critical: Level | None
    size: Condition
    reason: str
    ask: str
    cure: str
    muted: tuple[Condition, ...] = ()

    def levels(self) -> dict[str, Level]:
        """The levels that it has, by severity."""
        both = {"warning": self.warning, "critical": self.critical}
        return {severity: level for severity, level in both.items() if level}


def _at_least(metric: str, limit: float) -> Condition:
    return Condition(Series(metric), ">=", limit)


#: The rows of a database or a cluster mean nothing yet, or never will.
_NO_STATISTICS = (
    _at_least("postgres.server.in_recovery", 1),
    Condition(Series("postgres.server.stats_age_seconds"), "<", HOUR),
)
_BACKLOG = Series("postgres.database.tables_over_trigger", by=(), how="sum")
_HORIZON = Series(
    "postgres.horizon.age_xids",
    where={"holder": "oldest"},
    per=("postgres.settings.autovacuum_freeze_max_age_xids",),
    by=(),
)

_WHY = "pgstats why"
_CHECK = "pgstats check"

_VACUUM = (
    Rule(
        "vacuum-behind",
        "A table needs vacuum and does not get it",
        Series("postgres.tables.vacuum_trigger_ratio", where={"table": "!_other"}),
        ">=",
        Level(2, 30 * MINUTE),
        Level(5, HOUR),
        Condition(Series("postgres.tables.n_dead_tup", where={"table": "!_other"}), ">=", 10_000),
        reason="Above 1 a table waits for the next free worker, which is by design; that it still "
        "waits at twice the threshold half an hour later is not.",
        ask=f"{_WHY} DATABASE.SCHEMA.TABLE",
        cure="Do what its causes say: end the holder of the horizon, give autovacuum more workers "
        "or a higher cost limit, switch autovacuum on for the table.",
        muted=_NO_STATISTICS,
    ),
    Rule(
        "vacuum-backlog",
        "More tables wait for vacuum than there are workers",
        Series(_BACKLOG.metric, by=(), how="sum", per=("postgres.vacuum.autovacuum_max_workers",)),
        ">=",
        Level(1.01, 30 * MINUTE),
        Level(5, 30 * MINUTE),
        Condition(_BACKLOG, ">=", 4),
        reason="What all workers together cannot begin within half an hour, they will not catch up "
        "with: the backlog grows.",
        ask=_WHY,
        cure="Raise autovacuum_max_workers, and autovacuum_vacuum_cost_limit with it, for the "
        "workers share that.",
        muted=_NO_STATISTICS,
    ),
    Rule(
        "workers-saturated",
        "All autovacuum workers are busy, and tables wait",
        Series("postgres.vacuum.worker_utilization"),
        ">=",
        Level(1, 30 * MINUTE),
        Level(1, 3 * HOUR),
        Condition(_BACKLOG, ">=", 1),
        reason="Busy workers are healthy; busy for half an hour while tables wait, they are too "
        "few or throttled.",
        ask=_WHY,
        cure="Look which tables are vacuumed for how long; raise autovacuum_vacuum_cost_limit "
        "before autovacuum_max_workers.",
        muted=_NO_STATISTICS,
    ),
    Rule(
        "vacuum-in-vain",
        "Vacuums run and remove nothing",
        Series("postgres.database.tables_vacuumed_in_vain"),
        ">=",
        Level(1, 5 * MINUTE),
        Level(1, 5 * MINUTE, also=(Condition(_HORIZON, ">=", 0.5),)),
        _at_least("postgres.database.n_dead_tup", 10_000),
        reason="Somebody holds the horizon: the times of the last vacuum look well, and the dead "
        "rows stay.",
        ask=_WHY,
        cure="End or drop what it names: a transaction, a prepared transaction, a slot, the "
        "feedback of a standby.",
        muted=_NO_STATISTICS,
    ),
    Rule(
        "dead-rows",
        "A large share of the rows of a database is dead",
        Series(
            "postgres.database.n_dead_tup",
            per=("postgres.database.n_dead_tup", "postgres.database.n_live_tup"),
        ),
        ">=",
        Level(0.30, HOUR),
        Level(0.50, HOUR),
        _at_least("postgres.database.n_dead_tup", 100_000),
        reason="With the scale factor of 0.2 a healthy table peaks at 16.7 %; a limit of 10 % "
        "would always fire.",
        ask=_WHY,
        cure="Do what its causes say; VACUUM the tables with most dead rows afterwards.",
        muted=_NO_STATISTICS,
    ),
    Rule(
        "vacuum-disabled",
        "Autovacuum is off for a table that is full of dead rows",
        Series("postgres.tables.dead_ratio", where={"table": "!_other"}),
        ">=",
        Level(1, 30 * MINUTE, also=(_at_least("postgres.tables.autovacuum_disabled", 1),)),
        None,
        Condition(Series("postgres.tables.n_dead_tup", where={"table": "!_other"}), ">=", 10_000),
        reason="Somebody switched it off for a bulk load and forgot: nothing but wraparound will "
        "vacuum the table.",
        ask=f"{_WHY} DATABASE.SCHEMA.TABLE",
        cure="ALTER TABLE ... RESET (autovacuum_enabled), for its TOAST too.",
        muted=_NO_STATISTICS,
    ),
    Rule(
        "autovacuum-off",
        "Autovacuum is switched off",
        Series("postgres.server.autovacuum"),
        "<",
        None,
        Level(1, 10 * MINUTE),
        _at_least("postgres.server.uptime_seconds", 10 * MINUTE),
        reason="Dead rows are removed no more, and wraparound comes nearer, everywhere.",
        ask=_WHY,
        cure="ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf();",
    ),
    Rule(
        "counts-off",
        "Changed rows are not counted",
        Series("postgres.server.track_counts"),
        "<",
        None,
        Level(1, 10 * MINUTE),
        _at_least("postgres.server.uptime_seconds", 10 * MINUTE),
        reason="Without track_counts autovacuum is blind: rows become dead unseen.",
        ask=_WHY,
        cure="Set track_counts on, in the configuration and wherever a database or role has it "
        "off.",
    ),
)

_XIDS = (
    Rule(
        "horizon",
        "Somebody keeps dead rows from being removed",
        _HORIZON,
        ">=",
        Level(0.10, 15 * MINUTE),
        Level(0.50, 15 * MINUTE),
        Condition(Series(_HORIZON.metric, where=_HORIZON.where, by=()), ">=", 1_000_000),
        reason="As a share of autovacuum_freeze_max_age, so that it fits every site: at 1 the "
        "vacuums that are forced begin to fail.",
        ask=_WHY,
        cure="End or drop what it names: a transaction, a prepared transaction, a slot, the "
        "feedback of a standby.",
        muted=(_at_least("postgres.server.in_recovery", 1),),
    ),
    Rule(
        "freeze-behind",
        "The vacuum that is forced does not finish",
        Series("postgres.wraparound.xid_freeze_ratio"),
        ">=",
        Level(1.10, 30 * MINUTE),
        Level(1.25, 30 * MINUTE),
        _at_least("postgres.wraparound.xid_age_xids", 10_000_000),
        reason="1 is routine: that is when a vacuum is forced. Above, it does not come through.",
        ask=_WHY,
        cure="Find what holds the horizon, or cancels or starves that vacuum; run VACUUM (FREEZE) "
        "on the oldest tables by hand.",
        muted=(_at_least("postgres.server.in_recovery", 1),),
    ),
    Rule(
        "freeze-behind-multixacts",
        "The vacuum that is forced for multixacts does not finish",
        Series("postgres.wraparound.mxid_freeze_ratio"),
        ">=",
        Level(1.10, 30 * MINUTE),
        Level(1.25, 30 * MINUTE),
        _at_least("postgres.wraparound.mxid_age_mxids", 1_000_000),
        reason="1 is routine: that is when a vacuum is forced. Above, it does not come through.",
        ask=_WHY,
        cure="As for transactions; and look who locks rows that many others share.",
        muted=(_at_least("postgres.server.in_recovery", 1),),
    ),
    Rule(
        "wraparound",
        "Transaction numbers run out",
        Series("postgres.wraparound.xid_limit_ratio"),
        ">=",
        Level(0.50, 10 * MINUTE),
        Level(0.65, 10 * MINUTE),
        _at_least("postgres.wraparound.xid_age_xids", 100_000_000),
        reason="At 1 the server refuses to write. 0.65 is 1.4 billion, before the failsafe at 1.6 "
        "billion makes vacuums skip the indexes.",
        ask=_WHY,
        cure="Remove what holds the horizon, then VACUUM the oldest tables of the oldest database "
        "by hand, without FULL.",
    ),
    Rule(
        "wraparound-multixacts",
        "Multixact numbers run out",
        Series("postgres.wraparound.mxid_limit_ratio"),
        ">=",
        Level(0.50, 10 * MINUTE),
        Level(0.65, 10 * MINUTE),
        _at_least("postgres.wraparound.mxid_age_mxids", 100_000_000),
        reason="At 1 the server refuses to write, as with transactions.",
        ask=_WHY,
        cure="Remove what holds the horizon, then VACUUM the oldest tables by hand.",
    ),
    Rule(
        "long-transaction",
        "A transaction is open for long",
        Series("postgres.activity.oldest_transaction_seconds"),
        ">=",
        Level(30 * MINUTE, MINUTE),
        Level(2 * HOUR, MINUTE),
        _at_least("postgres.connections.used", 1),
        reason="While it is open no row that died since is removed, in no table of the database.",
        ask=_WHY,
        cure="Let a report run on a standby, or in steps; end a forgotten one with "
        "pg_terminate_backend.",
        muted=(_at_least("postgres.server.in_recovery", 1),),
    ),
    Rule(
        "idle-in-transaction",
        "A session is idle in a transaction",
        Series("postgres.activity.oldest_idle_in_transaction_seconds"),
        ">=",
        Level(5 * MINUTE, MINUTE),
        Level(15 * MINUTE, MINUTE),
        _at_least("postgres.connections.used", 1),
        reason="It holds its locks, its server of the pool, and often the horizon, and does "
        "nothing.",
        ask=_WHY,
        cure="Find the application, through PgBouncer too; set "
        "idle_in_transaction_session_timeout.",
    ),
    Rule(
        "prepared-transaction",
        "A prepared transaction is forgotten",
        Series("postgres.prepared.oldest_age_seconds"),
        ">=",
        Level(5 * MINUTE, MINUTE),
        Level(HOUR, MINUTE),
        _at_least("postgres.prepared.count", 1),
        reason="It survives restarts and holds locks and the horizon until somebody ends it. Users "
        "of two-phase commit are given five minutes.",
        ask=_WHY,
        cure="Ask the transaction manager, then COMMIT PREPARED or ROLLBACK PREPARED.",
    ),
)

_REPLICATION = (
    Rule(
        "slot-status",
        "A replication slot keeps more WAL than it should",
        Series("postgres.slots.wal_status"),
        ">=",
        Level(2, 15 * MINUTE),
        Level(4, MINUTE),
        _at_least("postgres.slots.retained_bytes", 1),
        reason="2 is extended: more than max_wal_size is kept. 4 is lost: who used it must begin "
        "anew.",
        ask=_WHY,
        cure="Let the consumer catch up, or drop the slot if nobody does.",
    ),
    Rule(
        "slot-lost",
        "A replication slot is of no more use",
        Series("postgres.replication.invalid_slots"),
        ">=",
        None,
        Level(1, 5 * MINUTE),
        _at_least("postgres.replication.slots", 1),
        reason="What it kept is gone; the standby or subscriber behind it will not go on.",
        ask=_WHY,
        cure="Drop the slot and set the consumer up anew.",
    ),
    Rule(
        "slot-inactive",
        "Nobody uses a replication slot",
        Series("postgres.replication.inactive_slots"),
        ">=",
        Level(1, 10 * MINUTE),
        Level(
            1,
            HOUR,
            also=(
                Condition(
                    Series("postgres.horizon.age_xids", where={"holder": "slot_xmin"}, by=()),
                    ">=",
                    1,
                ),
            ),
        ),
        _at_least("postgres.replication.slots", 1),
        reason="It keeps WAL until the disk is full; with an xmin it keeps dead rows as well, "
        "which makes it critical.",
        ask=_WHY,
        cure="Start the consumer, or drop the slot.",
    ),
    Rule(
        "slot-remaining",
        "A replication slot will be lost soon",
        Series(
            "postgres.slots.retained_bytes",
            per=("postgres.replication.max_slot_wal_keep_size_bytes",),
        ),
        ">=",
        Level(0.80, 5 * MINUTE),
        Level(0.95, MINUTE),
        _at_least("postgres.slots.retained_bytes", 16 << 20),
        reason="As a share of max_slot_wal_keep_size; above 1 the next checkpoint invalidates it. "
        "What is left is safe_wal_size.",
        ask=_WHY,
        cure="Let the consumer catch up, or raise max_slot_wal_keep_size while there is disk.",
    ),
)

_CONNECTIONS = (
    Rule(
        "connections",
        "PostgreSQL's connections run out",
        Series("postgres.connections.utilization"),
        ">=",
        Level(0.80, 10 * MINUTE),
        Level(0.90, 2 * MINUTE),
        _at_least("postgres.connections.used", 5),
        reason="Of those that ordinary roles may have, both reserves taken off. At 1 clients are "
        "refused.",
        ask=_CHECK,
        cure="Look at sessions by state; lower the pools before raising max_connections.",
    ),
    Rule(
        "overcommit",
        "The pools may open more connections than PostgreSQL has",
        Series("postgres.overcommit.ratio"),
        ">=",
        Level(1.01, 10 * MINUTE),
        Level(1.5, 10 * MINUTE),
        _at_least("postgres.overcommit.pools", 1),
        reason="The failure is configured already, and comes with the next peak.",
        ask=_CHECK,
        cure="Lower pool_size, reserve_pool_size or max_db_connections, or raise max_connections.",
    ),
    Rule(
        "lock-waits",
        "Sessions wait for a lock",
        Series("postgres.lock_waits.waiting_long"),
        ">=",
        Level(1, MINUTE),
        Level(5, MINUTE),
        _at_least("postgres.lock_waits.waiting", 1),
        reason="Only those that have waited for more than 30 seconds are counted: shorter waits "
        "are normal.",
        ask=_WHY,
        cure="Find the blocker with pg_blocking_pids; set lock_timeout for schema changes.",
    ),
    Rule(
        "deadlocks",
        "Deadlocks are frequent",
        Series("postgres.database.deadlocks"),
        ">=",
        Level(5 / 60, 5 * MINUTE),
        None,
        Condition(Series("postgres.database.xact_commit"), ">=", 0.1),
        reason="One now and then is normal; more than five a minute is a fault of the application.",
        ask="pgstats once --dry-run",
        cure="Read the server's log, which names both statements; lock in one order.",
    ),
    Rule(
        "checksums",
        "Data is corrupt",
        Series("postgres.database.checksum_failures", raw=True),
        ">=",
        None,
        Level(1, MINUTE),
        Condition(Series("postgres.database.checksum_failures", raw=True), ">=", 1),
        reason="A block that was read did not have the checksum it was written with. One is too "
        "many.",
        ask=_CHECK,
        cure="Save what there is before anything else; look at the disks; restore from a backup.",
    ),
)

_POOLS = (
    Rule(
        "pool-wait",
        "Clients wait long for a server of the pool",
        Series("pgbouncer.pools.maxwait_seconds"),
        ">=",
        Level(2, 2 * MINUTE),
        Level(20, MINUTE),
        _at_least("pgbouncer.pools.cl_waiting", 1),
        reason="Short waits are what a pool is for; two seconds at every look are felt by users.",
        ask=_CHECK,
        cure="Compare wait_ms with server_ms: more servers only help while server_ms is low. Look "
        "for sessions idle in transaction.",
    ),
    Rule(
        "pool-stuck",
        "Clients wait, and no server works for them",
        Series("pgbouncer.pools.waiting_for_seconds"),
        ">=",
        Level(60, MINUTE, also=(Condition(Series("pgbouncer.pools.sv_active"), "<", 1),)),
        Level(300, MINUTE, also=(Condition(Series("pgbouncer.pools.sv_active"), "<", 1),)),
        _at_least("pgbouncer.pools.cl_waiting", 1),
        reason="PostgreSQL is down or lets nobody in, a PAUSE was forgotten, or auth_query fails: "
        "maxwait is 0 for clients queued at login.",
        ask=_CHECK,
        cure="Look at SHOW SERVERS and the log of PgBouncer; RESUME; let PostgreSQL take "
        "connections.",
    ),
    Rule(
        "clients",
        "max_client_conn is nearly reached",
        Series("pgbouncer.lists.client_utilization"),
        ">=",
        Level(0.80, 10 * MINUTE),
        Level(0.95, 2 * MINUTE),
        _at_least("pgbouncer.lists.used_clients", 10),
        reason="At 1 new clients are refused, the console too.",
        ask=_CHECK,
        cure="Raise max_client_conn and the limit of open files; find who opens so many.",
    ),
    Rule(
        "pgbouncer-state",
        "PgBouncer is paused, or takes no clients",
        Series("pgbouncer.state.code"),
        ">=",
        Level(2, 10 * MINUTE),
        None,
        _at_least("pgbouncer.state.code", 2),
        reason="A PAUSE for ten minutes is forgotten; 4 and above take no clients at all.",
        ask=_CHECK,
        cure="RESUME on the console, or start PgBouncer again.",
    ),
)


def _down(family: str, whom: str) -> Rule:
    return Rule(
        f"{family}-down",
        f"{whom} does not answer",
        Series(f"{family}.up"),
        "<",
        None,
        Level(1, MINUTE),
        # A target that has left the configuration reads 0 too, and has no reason.
        Condition(Series(f"{family}.down.count", by=(), how="sum"), ">=", 1),
        reason="The panel Down says why: refused, timeout, auth, too_many_connections, ...",
        ask=_CHECK,
        cure="Do what it says for that target.",
    )


_POLLER = (
    _down("pgbouncer", "A PgBouncer"),
    _down("postgres", "A PostgreSQL"),
    Rule(
        "poller-silent",
        "pgstats is silent",
        Series("self.poll.last_success_timestamp_seconds"),
        ">=",
        None,
        Level(300, MINUTE),
        # One whose target has left the configuration reads 0.
        Condition(Series("self.poll.last_success_timestamp_seconds", raw=True), ">=", 1),
        reason="statsd repeats the last value of every gauge for ever: all else looks well while "
        "nobody looks any more.",
        ask="pgstats status",
        cure="systemctl status pgstats; read its journal; run `pgstats once` by hand.",
    ),
    Rule(
        "poll-failing",
        "Parts of the numbers are missing",
        Series("self.poll.failed_queries"),
        ">=",
        Level(1, 5 * MINUTE),
        Level(1, 30 * MINUTE),
        Condition(Series("self.poll.seconds"), ">=", 0),
        reason="Questions fail at every poll: what they would answer keeps its last value.",
        ask=_CHECK,
        cure="Do what it says: most often a GRANT, or a timeout too short.",
    ),
    Rule(
        "poll-skipped",
        "Polls take longer than their interval",
        Series("self.poll.skipped_runs"),
        ">=",
        Level(0.01, 10 * MINUTE),
        None,
        Condition(Series("self.poll.seconds"), ">=", 0.1),
        reason="A poll that is due while the last one is at work is left out: more than one in a "
        "hundred seconds, and curves have holes.",
        ask="pgstats status",
        cure="Raise the interval of the target, or lower `tables`; look which server is slow.",
    ),
    Rule(
        "rights",
        "The role of pgstats may not see other sessions",
        Series("postgres.server.rights_ok"),
        "<",
        Level(1, HOUR),
        None,
        _at_least("postgres.server.uptime_seconds", HOUR),
        reason="Sessions, waits, transactions and the horizon are missing, and every alert on "
        "them is blind.",
        ask=_CHECK,
        cure="GRANT pg_monitor TO the role.",
    ),
    Rule(
        "shipping",
        "Lines are dropped on the way to statsd",
        Series("self.ship.dropped"),
        ">=",
        Level(1, 10 * MINUTE),
        None,
        _at_least("self.ship.lines", 0.1),
        reason="The receiver is slow, or gone at times: what is on the dashboard has holes or is "
        "old.",
        ask=_CHECK,
        cure="Look at self.ship.dropped_*, which say why; use tcp:// or another receiver.",
    ),
)

RULES = (*_VACUUM, *_XIDS, *_REPLICATION, *_CONNECTIONS, *_POOLS, *_POLLER)
