"""The server as a whole, and the databases it has."""

from __future__ import annotations

from pgstats.catalogue.postgres.heaps import READ
from pgstats.model import POSTGRES, Metric, Query

#: Tells the server that answers from any other: its start, which any role may read, and which is
#: another one after a failover to a standby too, whose counters differ while its system identifier
#: does not. A promoted standby goes on under the same start, but is no longer who it was.
IDENTITY = """extract(epoch FROM pg_postmaster_start_time())::text
           || CASE WHEN pg_is_in_recovery() THEN ' standby' ELSE '' END"""

#: The databases there are. Their names are bytes, since nobody says in which encoding. A connection
#: limit of -2 marks what an interrupted DROP DATABASE left behind; 0 lets nobody in. What their
#: heaps are asked for with comes along.
DISCOVER = f"""SELECT textsend(datname::text) AS datname, datname = current_database() AS here,
       {IDENTITY} AS started,
       has_database_privilege(oid, 'CONNECT') AS open,
       has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE') AS dated,
       {READ}
  FROM pg_database
 WHERE datallowconn AND NOT datistemplate AND datconnlimit NOT IN (-2, 0)
 ORDER BY datname"""

#: What turns the counting of rows off for a database or a role, each as somebody typed it.
_UNCOUNTED = """SELECT FROM pg_db_role_setting, unnest(setconfig) AS entry
             WHERE NOT CASE split_part(entry, '=', 1)
                       WHEN 'track_counts' THEN split_part(entry, '=', 2)::bool END"""

SERVER = Query(
    POSTGRES,
    "server",
    # Fails in a session whose role was dropped: one of the same name needs a login of its own.
    sql="SELECT {columns} WHERE current_user <> ''",
    source="(VALUES (1)) AS server",
    metrics=(
        Metric(
            "version",
            "Version of the server as a number, 150018 for 15.18",
            column="current_setting('server_version_num')::int",
        ),
        Metric("in_recovery", "1 on a standby", column="pg_is_in_recovery()::int"),
        Metric(
            "uptime_seconds",
            "Time since the server was started",
            unit="seconds",
            column="extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8",
        ),
        Metric(
            "max_connections",
            "Connections allowed, those reserved for superusers included",
            column="current_setting('max_connections')::int",
        ),
        Metric(
            "rights_ok",
            "1 if the role has the rights of pg_read_all_stats (pg_monitor has them); without them"
            " the states of other sessions are hidden, and what follows from these is not sent",
            # USAGE, not MEMBER: what a NOINHERIT member sees is masked.
            column="pg_has_role('pg_read_all_stats', 'USAGE')::int",
        ),
        Metric(
            "autovacuum", "1 if autovacuum is on", column="current_setting('autovacuum')::bool::int"
        ),
        Metric(
            "track_counts",
            "1 if changed rows are counted; 0 if that is off here, or for any database or role:"
            " their rows become dead unseen, and autovacuum is blind",
            column=f"(current_setting('track_counts')::bool AND NOT EXISTS ({_UNCOUNTED}))::int",
        ),
    ),
)

#: The stamps of a loss of all statistics. A crash loses them and stamps the cumulative ones of
#: every kind; an operator may reset one kind, so that the older stamp of two counts. A standby
#: counts no rows until it is promoted, which leaves no stamp: but the walwriter starts when a
#: server begins to take writes, which is at once where a clean shutdown has kept the statistics.
#: Not every role may see when that was.
_STAMPS = """(SELECT least(b.stats_reset, a.stats_reset) AS kept,
                       pg_postmaster_start_time() AS started
                  FROM pg_stat_bgwriter b, pg_stat_archiver a) AS stamps,
               (SELECT max(backend_start) AS writing
                  FROM pg_stat_activity WHERE backend_type = 'walwriter') AS writer"""
_LOST = "kept >= started OR writing > started + interval '10 seconds'"

#: Since when the server has counted rows without a loss: ``since`` of one row, NULL where the role
#: may not see it.
COUNTING = f"""(SELECT CASE WHEN pg_is_in_recovery() THEN kept
                   WHEN writing IS NULL THEN NULL
                   WHEN {_LOST}
                   THEN greatest(kept, writing)
                   ELSE kept END AS since
          FROM {_STAMPS}) AS counting"""

_BEGINNING = "interval '10 seconds'"

#: Whether the statistics reach back to the making of the cluster, whose time its identifier holds:
#: those of a copy do not, nor those begun by a crash, however many clean restarts have kept them.
COMPLETE = f"""SELECT kept < to_timestamp(system_identifier >> 32 & 4294967295) + {_BEGINNING}
  FROM pg_control_system(), {_STAMPS}"""

_RESET = """pg_stat_get_db_stat_reset_time(
           (SELECT oid FROM pg_database WHERE datname = current_database()))"""


def forgetful(version: int) -> str:
    """Whether statistics were lost since the server's start, or of the database, ever.

    As far as the role may see. Before 15 a server that was never restarted says so too, and the
    stamp of a database says when it was begun as well: only one from the cluster's beginning tells
    that nothing came after it.
    """
    reset = f"{_RESET} IS NOT NULL" if version >= 150000 else f"{_RESET} >= kept + {_BEGINNING}"
    return f"(SELECT coalesce({_LOST}, false) OR coalesce({reset}, false) FROM {_STAMPS})"


STATISTICS = Query(
    POSTGRES,
    "server",
    sql=f"SELECT {{columns}} FROM {COUNTING}",
    source=COUNTING,
    metrics=(
        Metric(
            "stats_age_seconds",
            "Time since the statistics of all tables were lost (crash) or begun (promotion); on a"
            " standby since the start of its own; not sent without rights_ok",
            unit="seconds",
            column="extract(epoch FROM clock_timestamp() - since)::float8",
        ),
    ),
)

#: Databases of the vendors of managed servers, which let nobody in.
VENDORS = ("rdsadmin", "cloudsqladmin", "azure_maintenance", "azure_sys")
