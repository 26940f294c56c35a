"""What is read of a cluster to find out who keeps dead rows: one `View` each.

Each is read once and joined in Python: the same joins in SQL would be quadratic in the number of
sessions. None takes a lock on a table. Rows come as jsonb, so that a column that a version does not
have is simply not there.
"""

from __future__ import annotations

from pgstats.catalogue.postgres.heaps import heaps
from pgstats.evidence import View

#: Settings that decide whether, when and how fast dead rows are removed.
SETTINGS = (
    "autovacuum",
    "autovacuum_freeze_max_age",
    "autovacuum_max_workers",
    "autovacuum_multixact_freeze_max_age",
    "autovacuum_naptime",
    "autovacuum_vacuum_cost_delay",
    "autovacuum_vacuum_cost_limit",
    "autovacuum_vacuum_insert_scale_factor",
    "autovacuum_vacuum_insert_threshold",
    "autovacuum_vacuum_max_threshold",
    "autovacuum_vacuum_scale_factor",
    "autovacuum_vacuum_threshold",
    "autovacuum_work_mem",
    "autovacuum_worker_slots",
    "block_size",
    "hot_standby_feedback",
    "idle_in_transaction_session_timeout",
    "maintenance_work_mem",
    "max_slot_wal_keep_size",
    "old_snapshot_threshold",
    "statement_timeout",
    "track_counts",
    "transaction_timeout",
    "vacuum_cost_delay",
    "vacuum_cost_limit",
    "vacuum_defer_cleanup_age",
    "vacuum_failsafe_age",
    "vacuum_multixact_failsafe_age",
)

_LISTED = ", ".join(f"'{name}'" for name in SETTINGS)


def _epoch(*columns: str) -> str:
    return ", ".join(f"'{name}', extract(epoch FROM v.{name})::float8" for name in columns)


def _xid(*columns: str) -> str:
    """Transaction ids as numbers, and how old they are: only the server can tell that."""
    return ", ".join(
        f"'{name}', v.{name}::text::bigint, '{name}_age', age(v.{name})" for name in columns
    )


def _number(*columns: str) -> str:
    return ", ".join(f"'{name}', v.{name}::bigint" for name in columns)


def _all_but(columns: str, *instead: str) -> str:
    """A row as jsonb, some columns left out or put differently."""
    rest = f"to_jsonb(v) - '{{{columns}}}'::text[]"
    return f"SELECT {rest} || jsonb_build_object({', '.join(instead)})"


def _times(*names: str) -> str:
    """When each kind of vacuum or analyze last ended, and how often it did."""
    return ", ".join(
        f"'last_{name}', extract(epoch FROM pg_stat_get_last_{name}_time(h.oid))::float8, "
        f"'{name}_count', pg_stat_get_{name}_count(h.oid)"
        for name in names
    )


#: Heaps of `why` at most per database: who has more in need of vacuum has one cause for all.
MOST = 200

#: Which heaps there is something to say of where nobody asks for one: those with too many dead
#: rows, and those that were filled once and have lost their statistics. Catalogs begin without any.
_SUSPECT = """h.n_dead_tup > h.threshold OR h.freeze_ratio > 1 OR (h.reltuples > 0
       AND h.owner_schema NOT IN ('pg_catalog', 'information_schema')
       AND h.n_live_tup = 0 AND h.n_dead_tup = 0
       AND num_nulls(pg_stat_get_last_vacuum_time(h.oid), pg_stat_get_last_autovacuum_time(h.oid),
           pg_stat_get_last_analyze_time(h.oid), pg_stat_get_last_autoanalyze_time(h.oid)) = 4)"""


def heap_view(version: int, *, asked: bool) -> View:
    """The heaps of one database: those ``asked`` for, with their TOAST, or all in need of a look.

    Rows have the columns of `heaps`, and what else of pg_class and the statistics tells why a
    vacuum did not come or did not help. Its parameters are the settings of autovacuum, and
    ``owners``, the oids of tables. Before 16 the number in the name of a temporary schema leads to
    no process.
    """
    owners = "%(owners)s" if asked else ""
    return View(
        "heaps",
        f"""WITH RECURSIVE {heaps(version, owners)}
SELECT to_jsonb(h) - '{{options,catalog,relispartition}}'::text[] || jsonb_build_object(
       'oid', h.oid::bigint, 'owner', h.owner::bigint, 'root', h.root::bigint,
       'user_catalog_table', EXISTS (SELECT FROM pg_options_to_table(t.reloptions)
           WHERE option_name = 'user_catalog_table' AND option_value::bool),
       {_times("vacuum", "autovacuum", "analyze", "autoanalyze")},
       'reloptions', c.reloptions, 'owner_reloptions', t.reloptions,
       'shared', c.relisshared, 'row_bytes', (
           SELECT 28 + sum(CASE WHEN a.attlen > 0 THEN a.attlen ELSE 64 END) FROM pg_attribute a
            WHERE a.attrelid = h.oid AND a.attnum > 0 AND NOT a.attisdropped),
       'owner_pid', CASE WHEN h.persistent = 't' AND {version} >= 160000 THEN
           pg_stat_get_backend_pid(substring(h.owner_schema FROM '^pg_temp_(.*)$')::int) END,
       'bytes', c.relpages::bigint * current_setting('block_size')::int,
       'index_bytes', (SELECT sum(x.relpages::bigint) * current_setting('block_size')::int
                         FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
                        WHERE i.indrelid = h.oid),
       'indexes', (SELECT array_agg(i.indexrelid::bigint) FROM pg_index i WHERE i.indrelid = h.oid))
  FROM heap h JOIN pg_class c ON c.oid = h.oid JOIN pg_class t ON t.oid = h.owner
 WHERE {"true" if asked else _SUSPECT}
 ORDER BY h.n_dead_tup DESC, h.oid LIMIT {MOST}""",
        always=False,
        help="counters, options and thresholds of each table",
    )


#: Tables of a name, below them all partitions, and the table that a TOAST table belongs to.
#: Without ``schema`` in any of them.
FIND = """WITH RECURSIVE named AS (
    SELECT c.oid, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relname = %(name)s AND (n.nspname = %(schema)s OR %(schema)s IS NULL)
       AND c.relkind IN ('r', 'm', 'p', 't')
), found AS (
    SELECT coalesce(o.oid, named.oid) AS oid
      FROM named LEFT JOIN pg_class o ON named.relkind = 't' AND o.reltoastrelid = named.oid
     UNION
    SELECT i.inhrelid FROM found JOIN pg_inherits i ON i.inhparent = found.oid
      JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
)
SELECT oid::bigint, (SELECT array_agg(DISTINCT n.nspname::text) FROM named
                       JOIN pg_class c ON c.oid = named.oid
                       JOIN pg_namespace n ON n.oid = c.relnamespace) AS schemas
  FROM found"""

#: Names to choose from where there is no table of the name asked for.
NAMES = """SELECT n.nspname, c.relname FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'm', 'p')
   AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
 ORDER BY c.oid LIMIT 20000"""

VIEWS = (
    View(
        "server",
        """SELECT jsonb_build_object(
       'at', extract(epoch FROM clock_timestamp())::float8,
       'version', current_setting('server_version_num')::int,
       'in_recovery', pg_is_in_recovery(),
       'started', extract(epoch FROM pg_postmaster_start_time())::float8,
       'stats_reset', extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time())::float8,
       'role', current_user,
       'database', current_database(),
       'sees_all', pg_has_role('pg_read_all_stats', 'USAGE'),
       'reads_settings', pg_has_role('pg_read_all_settings', 'USAGE'))""",
        help="clock, role, rights and restarts",
    ),
    View(
        "activity",
        # Those who are idle and hold nothing are left out: there may be thousands.
        _all_but(
            "query,query_id,usesysid,client_hostname",
            _number("datid"),
            _xid("backend_xid", "backend_xmin"),
            _epoch("backend_start", "xact_start", "query_start", "state_change"),
            "'query', left(v.query, 400)",
            "'blockers', CASE WHEN v.wait_event_type = 'Lock' THEN pg_blocking_pids(v.pid) END",
        )
        + """
  FROM pg_stat_activity v
 WHERE v.pid <> pg_backend_pid()
   AND (v.state IS DISTINCT FROM 'idle' OR v.backend_xid IS NOT NULL OR v.backend_xmin IS NOT NULL)
 ORDER BY v.pid""",
        help="sessions and workers that are not idle",
    ),
    View(
        "prepared",
        _all_but("transaction", _xid("transaction"), _epoch("prepared"))
        + "\n  FROM pg_prepared_xacts v ORDER BY v.gid",
        help="prepared transactions",
    ),
    View(
        "slots",
        # A standby has no position of its own to measure from: there it is what was replayed.
        _all_but(
            "inactive_since",
            _number("datoid"),
            _xid("xmin", "catalog_xmin"),
            "'inactive_since', extract(epoch FROM (to_jsonb(v) ->> 'inactive_since')::timestamptz)",
            """'retained_bytes', (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
       ELSE pg_current_wal_lsn() END - v.restart_lsn)::bigint""",
        )
        + "\n  FROM pg_replication_slots v ORDER BY v.slot_name",
        help="replication slots",
    ),
    View(
        "replication",
        _all_but("usesysid,client_hostname", _xid("backend_xmin"), _epoch("backend_start"))
        + "\n  FROM pg_stat_replication v ORDER BY v.pid",
        help="walsenders and their standbys",
    ),
    View(
        "vacuuming",
        _all_but("", _number("datid", "relid"))
        + "\n  FROM pg_stat_progress_vacuum v ORDER BY v.pid",
        help="running vacuums",
    ),
    View(
        "building",
        " UNION ALL\n".join(
            f"SELECT to_jsonb(v) || jsonb_build_object({_number('datid', 'relid')}{command})\n"
            f"  FROM pg_stat_progress_{view} v"
            for view, command in (
                ("create_index", ""),
                ("cluster", ""),
                ("analyze", ", 'command', 'ANALYZE'"),
            )
        ),
        help="CREATE INDEX, CLUSTER, VACUUM FULL and ANALYZE at work",
    ),
    View(
        "subscriptions",
        """SELECT jsonb_build_object('pid', v.pid, 'subname', v.subname, 'relid', v.relid::bigint)
  FROM pg_stat_subscription v WHERE v.pid IS NOT NULL""",
        help="workers of logical subscriptions",
    ),
    View(
        "databases",
        """SELECT jsonb_build_object('datname', v.datname, 'oid', v.oid::bigint,
       'datallowconn', v.datallowconn, 'xid_age', age(v.datfrozenxid),
       'mxid_age', mxid_age(v.datminmxid),
       'stats_reset', extract(epoch FROM s.stats_reset)::float8)
  FROM pg_database v LEFT JOIN pg_stat_database s ON s.datid = v.oid ORDER BY v.oid""",
        help="databases and their age",
    ),
    View(
        "settings",
        f"""SELECT jsonb_build_object('name', v.name, 'setting', v.setting, 'unit', v.unit,
       'source', v.source, 'sourcefile', v.sourcefile, 'sourceline', v.sourceline)
  FROM pg_settings v WHERE v.name IN ({_LISTED})""",
        help="settings that decide about vacuum",
    ),
    View(
        "role_settings",
        """SELECT jsonb_build_object('database', d.datname, 'role', r.rolname, 'setting', c)
  FROM pg_db_role_setting v LEFT JOIN pg_database d ON d.oid = v.setdatabase
  LEFT JOIN pg_roles r ON r.oid = v.setrole, unnest(v.setconfig) c
 WHERE split_part(c, '=', 1) IN ('track_counts', 'track_activities')""",
        help="what was set for a role or a database and hides dead rows or sessions",
    ),
    View(
        "locks",
        # Only what can keep vacuum off a table, or somebody waiting; and on the heaps looked at
        # everything, since whoever reads one may pin the page that vacuum waits for.
        """SELECT to_jsonb(v) - '{classid,objid,objsubid,page,tuple,fastpath,waitstart}'::text[]
       || jsonb_build_object('database', v.database::bigint, 'relation', v.relation::bigint,
       'transactionid', v.transactionid::text::bigint)
  FROM pg_locks v
 WHERE v.pid IS DISTINCT FROM pg_backend_pid()
   AND (NOT v.granted OR v.locktype = 'transactionid' OR (v.locktype = 'relation' AND (v.mode IN
        ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
         'AccessExclusiveLock') OR v.relation = ANY(%(relations)s))))""",
        always=False,
        help="locks that keep vacuum waiting, and those on the tables asked about",
    ),
    View(
        "receiver",
        """SELECT jsonb_build_object('sender_host', v.sender_host, 'sender_port', v.sender_port,
       'slot_name', v.slot_name, 'status', v.status) FROM pg_stat_wal_receiver v""",
        always=False,
        help="where a standby gets its WAL from",
    ),
)
