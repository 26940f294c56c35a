"""Which numbers of a group hurt: what a person looks at first, and which rows."""

from __future__ import annotations

from collections.abc import Mapping

#: For each group that has several rows, the metrics that matter most, the worst first. Rows are
#: sorted by them, the largest above all others.
HURTS: Mapping[str, tuple[str, ...]] = {
    "pools": (
        *("maxwait_seconds", "cl_waiting", "waiting_for_seconds", "pool_utilization"),
        *("cl_active", "sv_active", "sv_idle"),
    ),
    "stats": (
        *("wait_ms", "query_ms", "server_ms", "queries_per_second"),
        *("total_wait_time_us", "total_query_count"),
    ),
    "databases": ("disabled", "paused", "current_connections", "pool_size"),
    "users": ("current_connections",),
    "clients": ("oldest_wait_seconds", "count"),
    "servers": ("count",),
    "mem": ("memtotal_bytes",),
    "peers": ("pool_size",),
    "peer_pools": ("cl_waiting_cancel_req",),
    "tables": (
        *("vacuum_trigger_ratio", "n_dead_tup", "n_live_tup"),
        *("last_autovacuum_age_seconds", "xid_age_xids", "freeze_ratio"),
    ),
    "database": (
        *("worst_vacuum_trigger_ratio", "tables_over_trigger", "n_dead_tup", "n_live_tup"),
        *("xid_age_xids", "numbackends"),
    ),
    "horizon": ("age_xids", "age_seconds"),
    "why": ("count",),
    "sessions": ("count",),
    "waits": ("count",),
    "backends": ("count",),
    "locks": ("waiting", "granted"),
    "vacuum_phases": ("count",),
    "vacuum_progress": ("vacuums", "heap_blks_total", "scanned_ratio"),
    "slots": ("invalid", "retained_bytes", "inactive_seconds", "xmin_age_xids"),
    "standbys": ("replay_lag_bytes", "replay_lag_seconds", "sent_lag_bytes"),
    "down": ("count",),
    "poll": ("failed_queries", "seconds"),
}
