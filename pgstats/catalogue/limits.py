"""What numbers may grow to: shares and what is left follow from it."""

from __future__ import annotations

from collections.abc import Mapping

Place = tuple[str, str]  # a group, and one of its metrics

#: The limit of a metric, in the row of its group with the same labels; 0 there is no limit.
LIMITS: Mapping[Place, Place] = {
    ("lists", "used_clients"): ("config", "max_client_conn"),
    ("pools", "sv_active"): ("databases", "pool_size"),
    ("databases", "current_connections"): ("databases", "max_connections"),
    ("databases", "current_client_connections"): ("databases", "max_client_connections"),
    ("users", "current_connections"): ("users", "max_user_connections"),
    ("users", "current_client_connections"): ("users", "max_user_client_connections"),
    ("connections", "used"): ("connections", "usable"),
    ("overcommit", "pool_size"): ("connections", "usable"),
    ("prepared", "count"): ("prepared", "max_prepared_transactions"),
    ("vacuum", "autovacuum_workers"): ("vacuum", "autovacuum_max_workers"),
    ("slots", "retained_bytes"): ("replication", "max_slot_wal_keep_size_bytes"),
    ("tables", "n_dead_tup"): ("tables", "vacuum_threshold"),
}
