"""The server as a whole, and the databases it has."""

from __future__ import annotations

from pgstats.model import POSTGRES, Metric, Query

#: The databases there are. Their names are bytes, since nobody says in which encoding. The start of
#: the server is its identity: any role may read it, and it is another one after a failover to a
#: standby too, whose counters differ while its system identifier does not. A connection limit of
#: -2 marks what an interrupted DROP DATABASE left behind; 0 lets nobody in.
DISCOVER = """SELECT textsend(datname::text) AS datname, datname = current_database() AS here,
       extract(epoch FROM pg_postmaster_start_time())::text AS started,
       has_database_privilege(oid, 'CONNECT') AS open
  FROM pg_database
 WHERE datallowconn AND NOT datistemplate AND datconnlimit NOT IN (-2, 0)
 ORDER BY datname"""

SERVER = Query(
    POSTGRES,
    "server",
    sql="SELECT {columns}",
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
    ),
)

#: Databases of the vendors of managed servers, which let nobody in.
VENDORS = ("rdsadmin", "cloudsqladmin", "azure_maintenance", "azure_sys")
