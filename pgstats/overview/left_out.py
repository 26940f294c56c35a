"""What is shipped and on no panel, and why: each metric is here or there, which a test holds to.

Names have globs where a whole group, or one kind of its metrics, is meant.
"""

from __future__ import annotations

#: Why, and which metrics as FAMILY.GROUP.METRIC.
REASONS: dict[str, tuple[str, ...]] = {
    "its rate or its mean is shown": (
        "pgbouncer.stats.total_*",
        "pgbouncer.totals.total_*",
    ),
    "a statsd counter, shipped only with counters = 'count'; the same as a gauge is shown": (
        "pgbouncer.stats.*_count",
        "pgbouncer.stats.*_us",
        "pgbouncer.stats.received_bytes",
        "pgbouncer.stats.sent_bytes",
    ),
    "a statsd counter or timing of the daemon, which every receiver keeps elsewhere": (
        "self.job.*",
    ),
    "asked only on demand (`collect`); the sum of pgbouncer.stats": ("pgbouncer.totals.*",),
    "asked only on demand (`collect`), for a closer look": (
        "pgbouncer.users.*",
        "pgbouncer.clients.*",
        "pgbouncer.servers.*",
        "pgbouncer.mem.*",
        "pgbouncer.peers.*",
        "pgbouncer.peer_pools.*",
        "pgbouncer.dns_*.*",
    ),
    "sent only by `once --sample`; the curve over time is shown": (
        "pgbouncer.pools.*_min",
        "pgbouncer.pools.*_mean",
        "pgbouncer.pools.*_max",
        "pgbouncer.pools.*_p95",
        "pgbouncer.pools.maxwait_*_seconds",
    ),
    "for the hunt after a cancellation, not for every day": (
        "pgbouncer.pools.cl_active_cancel_req",
        "pgbouncer.pools.cl_waiting_cancel_req",
        "pgbouncer.pools.sv_active_cancel",
        "pgbouncer.pools.sv_being_canceled",
    ),
    "the size of a list or cache of PgBouncer, which decides nothing": (
        "pgbouncer.lists.databases",
        "pgbouncer.lists.dns_*",
        "pgbouncer.lists.free_*",
        "pgbouncer.lists.peer_pools",
        "pgbouncer.lists.peers",
        "pgbouncer.lists.pools",
        "pgbouncer.lists.users",
    ),
    "state.code says the same in one number": (
        "pgbouncer.state.active",
        "pgbouncer.state.paused",
        "pgbouncer.state.suspended",
    ),
    "a setting: to be looked up, not watched": (
        "pgbouncer.config.*",
        "pgbouncer.databases.max_client_connections",
        "pgbouncer.databases.min_pool_size",
        "pgbouncer.databases.server_lifetime_seconds",
        "postgres.connections.reserved_connections",
        "postgres.connections.superuser_reserved_connections",
        "postgres.prepared.max_prepared_transactions",
        "postgres.replication.max_slot_wal_keep_size_bytes",
        "postgres.server.autovacuum",
        "postgres.server.max_connections",
        "postgres.server.track_counts",
        "postgres.settings.*",
    ),
    "what it is a part of, or the share, is shown": (
        "pgbouncer.databases.current_client_connections",
        "postgres.tables.toast_n_dead_tup",
        "postgres.vacuum.worker_utilization",
        "postgres.vacuum_progress.heap_blks_*",
        "postgres.vacuum_progress.indexes_*",
        "postgres.wraparound.mxid_age_mxids",
        "postgres.wraparound.xid_age_xids",
    ),
    "the worst of all databases is shown, under wraparound": (
        "postgres.database.mxid_age_mxids",
        "postgres.database.xid_age_xids",
        "postgres.tables.mxid_age_mxids",
        "postgres.tables.xid_age_xids",
    ),
    "a part of vacuum_trigger_ratio": (
        "postgres.tables.autovacuum_disabled",
        "postgres.tables.dead_ratio",
        "postgres.tables.freeze_ratio",
        "postgres.tables.insert_ratio",
        "postgres.tables.n_ins_since_vacuum",
        "postgres.tables.vacuum_threshold",
        "postgres.database.n_ins_since_vacuum",
    ),
    "the time since the last vacuum says nothing alone: a vacuum in vain renews it too": (
        "postgres.tables.last_*_age_seconds",
    ),
    "live and modified rows only matter against dead ones, or to analyze": (
        "postgres.database.n_live_tup",
        "postgres.database.n_mod_since_analyze",
        "postgres.tables.n_live_tup",
        "postgres.tables.n_mod_since_analyze",
    ),
    "how many there are decides nothing": (
        "postgres.backends.count",
        "postgres.database.parallel_workers_*",
        "postgres.database.tables",
        "postgres.database.tables_folded",
        "postgres.locks.granted",
        "postgres.locks.waiting",
        "postgres.standbys.count",
        "postgres.database.sizes_skipped",
        "self.poll.databases_polled",
        "self.poll.tables_folded",
    ),
    "near to what is shown beside it": (
        "postgres.checkpoints.num_done",
        "postgres.checkpoints.stats_age_seconds",
        "postgres.vacuum_progress.delay_time_ms",
        "self.poll.ok",
        "self.ship.bytes",
        "self.ship.dropped_*",
        "self.ship.seconds",
    ),
}

#: The reason by glob.
LEFT_OUT = {glob: reason for reason, globs in REASONS.items() for glob in globs}
