"""What PgBouncer's admin console is asked: one `Query` for each SHOW command."""

from __future__ import annotations

from collections.abc import Mapping

from pgstats.model import PGBOUNCER, Metric, Query

ADMIN = "pgbouncer"  # the console's own pseudo-database, which also has a pool and statistics

_YES_NO = {"yes": 1, "no": 0}
_POOL_MODES = {"session": 1, "transaction": 2, "statement": 3}


def _total(name: str, text: str, *, column: str = "", unit: str = "", since: int = 0) -> Metric:
    return Metric(name, text, unit=unit, kind="total", column=column, since=since)


# What SHOW STATS and SHOW TOTALS call by the same names.
_COUNTS = (
    _total(
        "total_server_assignment_count",
        "Times a server connection was assigned to a client",
        since=12300,
    ),
    _total("total_xact_count", "Transactions pooled"),
    _total("total_query_count", "Queries pooled, BEGIN and COMMIT included"),
)
_TIMES = (
    _total(
        "total_xact_time_us",
        "Time clients spent in transactions, waiting for a server included",
        column="total_xact_time",
        unit="us",
    ),
    _total(
        "total_query_time_us",
        "Time clients spent in queries, waiting for a server included",
        column="total_query_time",
        unit="us",
    ),
    _total(
        "total_wait_time_us",
        "Time clients waited for a server; grows only when a waiter gets one",
        column="total_wait_time",
        unit="us",
    ),
)
_LOGINS = _total("total_client_login_count", "Logins of clients", since=12600)

STATS = Query(
    PGBOUNCER,
    "stats",
    sql="SHOW STATS",
    source="SHOW STATS",
    labels={"database": "database"},
    # avg_* cover one to two stats_periods, are cut to whole numbers, and avg_wait_time changed
    # its meaning in 1.23: the totals say the same without any of that.
    ignored=("avg_*",),
    metrics=(
        *_COUNTS,
        _total(
            "total_received_bytes", "Bytes read from clients", column="total_received", unit="bytes"
        ),
        _total("total_sent_bytes", "Bytes sent to clients", column="total_sent", unit="bytes"),
        *_TIMES,
        _total("total_client_parse_count", "Prepared statements created by clients", since=12400),
        _total(
            "total_server_parse_count",
            "Prepared statements created by PgBouncer on servers",
            since=12400,
        ),
        _total(
            "total_bind_count", "Prepared statements readied for execution by clients", since=12400
        ),
        _LOGINS,
    ),
)

POOLS = Query(
    PGBOUNCER,
    "pools",
    sql="SHOW POOLS",
    source="SHOW POOLS",
    labels={"database": "database", "user": "user"},
    ignored=("pool_mode", "load_balance_hosts"),
    metrics=(
        Metric("cl_active", "Clients linked to a server or idle"),
        Metric("cl_waiting", "Clients that sent a query and wait for a server"),
        Metric(
            "cl_active_cancel_req",
            "Clients whose query cancellation is on its way to the server",
            since=11800,
        ),
        Metric(
            "cl_waiting_cancel_req",
            "Clients whose query cancellation waits to be sent to the server",
            formerly=("cl_cancel_req",),
            since=11600,
        ),
        Metric("sv_active", "Servers linked to a client"),
        Metric("sv_active_cancel", "Servers that are sending a query cancellation", since=11800),
        Metric(
            "sv_being_canceled",
            "Servers that wait for their query's cancellation before they are idle",
            since=11800,
        ),
        Metric("sv_idle", "Servers ready for a client"),
        Metric(
            "sv_used", "Servers idle for longer than server_check_delay: free, but checked first"
        ),
        Metric("sv_tested", "Servers running server_reset_query or server_check_query"),
        Metric("sv_login", "Servers logging in"),
        Metric(
            "maxwait_seconds",
            "How long the oldest waiting client has waited; 0 for clients queued at login",
            unit="seconds",
            column="maxwait",
            plus={"maxwait_us": 1e-6},
        ),
    ),
)

LISTS = Query(
    PGBOUNCER,
    "lists",
    sql="SHOW LISTS",
    source="SHOW LISTS",
    pairs=("list", "items"),
    metrics=(
        Metric("databases", "Databases known", across="max"),
        Metric("users", "Users known", across="max"),
        Metric("pools", "Pools"),
        Metric("free_clients", "Client slots kept for reuse; not the capacity left"),
        Metric("used_clients", "Clients connected: what max_client_conn limits"),
        Metric("login_clients", "Clients logging in"),
        Metric("free_servers", "Server slots kept for reuse; not the capacity left"),
        Metric("used_servers", "Servers connected"),
        Metric("dns_names", "Host names in the DNS cache"),
        Metric("dns_zones", "DNS zones in the cache"),
        Metric("dns_queries", "DNS queries under way; -1 where PgBouncer does not count them"),
        Metric("dns_pending", "Not used by PgBouncer"),
        Metric("peers", "Sibling processes configured", since=11900),
        Metric("peer_pools", "Pools of sibling processes", since=11900),
    ),
)

DATABASES = Query(
    PGBOUNCER,
    "databases",
    sql="SHOW DATABASES",
    source="SHOW DATABASES",
    labels={"database": "name"},
    ignored=("host", "port", "database", "force_user", "pool_mode", "load_balance_hosts"),
    metrics=(
        Metric(
            "pool_size", "Servers allowed for each user of the database; from 1.24 on 0 is no limit"
        ),
        Metric("min_pool_size", "Servers kept open", since=11600),
        Metric(
            "reserve_pool_size", "Additional servers allowed for a pool", formerly=("reserve_pool",)
        ),
        Metric(
            "server_lifetime_seconds",
            "Age at which a server is closed",
            unit="seconds",
            column="server_lifetime",
            since=12300,
        ),
        Metric("max_connections", "Servers allowed for the database; 0 is no limit"),
        Metric("current_connections", "Servers connected for the database"),
        Metric(
            "max_client_connections",
            "Clients allowed for the database; 0 is no limit",
            since=12400,
        ),
        Metric("current_client_connections", "Clients connected to the database", since=12400),
        Metric("paused", "1 while PAUSE or KILL of this database is in force", across="max"),
        Metric("disabled", "1 while DISABLE of this database is in force", across="max"),
    ),
)

STATE = Query(
    PGBOUNCER,
    "state",
    sql="SHOW STATE",
    source="SHOW STATE",
    pairs=("key", "value"),
    since=11900,
    metrics=(
        Metric(
            "active",
            "1 while PgBouncer is neither paused nor suspended",
            words=_YES_NO,
            across="max",
        ),
        Metric(
            "paused", "1 while a PAUSE of all databases is in force", words=_YES_NO, across="max"
        ),
        Metric("suspended", "1 while a SUSPEND is in force", words=_YES_NO, across="max"),
    ),
)


def _seconds(key: str, text: str, *, since: int = 0) -> Metric:
    return Metric(f"{key}_seconds", text, unit="seconds", column=key, since=since)


CONFIG = Query(
    PGBOUNCER,
    "config",
    sql="SHOW CONFIG",
    source="SHOW CONFIG",
    pairs=("key", "value"),
    # An allow-list: the rest of SHOW CONFIG can hold secrets.
    ignored=("*",),
    metrics=(
        Metric("max_client_conn", "Clients allowed"),
        Metric("default_pool_size", "Servers allowed for a pool"),
        Metric("min_pool_size", "Servers kept open for a pool"),
        Metric("reserve_pool_size", "Additional servers allowed for a pool"),
        _seconds("reserve_pool_timeout", "Wait after which the reserve pool is used"),
        Metric("max_db_connections", "Servers allowed for a database; 0 is no limit"),
        Metric("max_user_connections", "Servers allowed for a user; 0 is no limit"),
        Metric(
            "max_db_client_connections",
            "Clients allowed for a database; 0 is no limit",
            since=12400,
        ),
        Metric(
            "max_user_client_connections",
            "Clients allowed for a user; 0 is no limit",
            since=12400,
        ),
        Metric("max_prepared_statements", "Prepared statements kept for a server", since=12100),
        Metric(
            "pool_mode", "1 session, 2 transaction, 3 statement", words=_POOL_MODES, across="max"
        ),
        _seconds("query_timeout", "Limit of a query; 0 is no limit"),
        _seconds("query_wait_timeout", "Limit of the wait for a server; 0 is no limit"),
        _seconds("idle_transaction_timeout", "Limit of an idle transaction; 0 is no limit"),
        _seconds("transaction_timeout", "Limit of a transaction; 0 is no limit", since=12500),
        _seconds("server_idle_timeout", "Idle time after which a server is closed"),
        _seconds("server_lifetime", "Age at which a server is closed"),
        _seconds("stats_period", "How often PgBouncer renews its averages"),
        Metric(
            "so_reuseport", "1 when several processes may share the port", since=11200, across="max"
        ),
        Metric(
            "peer_id",
            "Number of this process among its siblings; 0 is none",
            since=11900,
            across="",
        ),
    ),
)

TOTALS = Query(
    PGBOUNCER,
    "totals",
    sql="SHOW TOTALS",
    source="SHOW TOTALS",
    pairs=("name", "value"),
    default=False,  # the sums of STATS, for those who have too many databases
    ignored=("avg_*",),
    metrics=(
        *_COUNTS,
        _total("total_client_bytes", "Bytes read from clients", unit="bytes"),
        _total("total_server_bytes", "Bytes read from servers", unit="bytes"),
        *_TIMES,
        _total("total_ps_client_parse_count", "Statements prepared by clients", since=12400),
        _total("total_ps_server_parse_count", "Statements prepared on servers", since=12400),
        _total("total_ps_bind_count", "Prepared statements bound by clients", since=12400),
        _LOGINS,
    ),
)

_LEAKY = ", nor up to 1.25.2, where the setting of one user shows for others"

USERS = Query(
    PGBOUNCER,
    "users",
    sql="SHOW USERS",
    source="SHOW USERS",
    labels={"user": "name"},
    default=False,
    ignored=("pool_mode",),
    metrics=(
        Metric(
            "pool_size",
            "Servers allowed for each pool of the user; not sent where unset" + _LEAKY,
            since=12300,
            wrong_since=12300,
            right_since=12503,
        ),
        Metric(
            "reserve_pool_size",
            "Additional servers allowed for each pool of the user; not sent where unset" + _LEAKY,
            since=12400,
            wrong_since=12400,
            right_since=12503,
        ),
        Metric("max_user_connections", "Servers allowed for the user; 0 is no limit", since=12300),
        Metric("current_connections", "Servers connected for the user", since=12300),
        Metric(
            "max_user_client_connections",
            "Clients allowed for the user; 0 is no limit",
            since=12400,
        ),
        Metric("current_client_connections", "Clients connected as the user", since=12400),
    ),
)


def _connections(group: str, *metrics: Metric) -> Query:
    """SHOW CLIENTS or SHOW SERVERS, a row per connection, counted by what they have in common."""
    return Query(
        PGBOUNCER,
        group,
        sql=f"SHOW {group.upper()}",
        source=f"SHOW {group.upper()}",
        labels={
            "database": "database",
            "user": "user",
            "state": "state",
            "application_name": "application_name",
        },
        default=False,
        budget=50,
        ignored=(
            *("type", "replication", "addr", "port", "local_addr", "local_port", "connect_time"),
            *("request_time", "wait", "wait_us", "ptr", "link", "remote_pid", "id"),
        ),
        metrics=(
            Metric("count", f"Number of {group}", column="*", fold="sum"),
            *metrics,
            Metric(
                "close_needed", "To be closed as soon as they are idle", fold="sum", since=10900
            ),
            Metric(
                "tls_ratio",
                "Share of those that use TLS",
                unit="ratio",
                column="tls",
                words={"": 0, "*": 1},
                fold="mean",
            ),
            Metric("prepared_statements", "Prepared statements held", fold="sum", since=12100),
        ),
    )


CLIENTS = _connections(
    "clients",
    Metric(
        "oldest_wait_seconds",
        "Longest time since a client's query arrived: its wait, or its run while active",
        unit="seconds",
        column="wait",
        plus={"wait_us": 1e-6},
        fold="max",
    ),
)
SERVERS = _connections("servers")

MEM = Query(
    PGBOUNCER,
    "mem",
    sql="SHOW MEM",
    source="SHOW MEM",
    labels={"cache": "name"},
    default=False,
    budget=100,  # a cache may be listed twice (db_cache in 1.19)
    metrics=(
        Metric("size_bytes", "Size of one slot", unit="bytes", column="size", fold="max"),
        Metric("used", "Slots in use", fold="sum"),
        Metric("free", "Slots kept for reuse", fold="sum"),
        Metric(
            "memtotal_bytes",
            "Memory held; PgBouncer has 32 bits for it, so that it is wrong from 4 GiB on",
            unit="bytes",
            column="memtotal",
            unsigned=True,
            fold="sum",
        ),
    ),
)

PEERS = Query(
    PGBOUNCER,
    "peers",
    sql="SHOW PEERS",
    source="SHOW PEERS",
    labels={"peer_id": "peer_id"},
    default=False,
    since=11900,
    ignored=("host", "port"),
    metrics=(Metric("pool_size", "Connections allowed to the sibling"),),
)

PEER_POOLS = Query(
    PGBOUNCER,
    "peer_pools",
    sql="SHOW PEER_POOLS",
    source="SHOW PEER_POOLS",
    labels={"peer_id": "peer_id"},
    default=False,
    since=11900,
    metrics=(
        Metric("cl_active_cancel_req", "Cancellations on their way to the sibling"),
        Metric("cl_waiting_cancel_req", "Cancellations that wait to be sent to the sibling"),
        Metric("sv_active_cancel", "Connections that forward a cancellation"),
        Metric("sv_login", "Connections logging in"),
    ),
)


def _rows(group: str, text: str, ignored: tuple[str, ...]) -> Query:
    return Query(
        PGBOUNCER,
        group,
        sql=f"SHOW {group.upper()}",
        source=f"SHOW {group.upper()}",
        default=False,
        budget=1,
        ignored=ignored,
        metrics=(Metric("count", text, column="*", fold="sum"),),
    )


DNS_HOSTS = _rows("dns_hosts", "Host names in the DNS cache", ("hostname", "ttl", "addrs"))
DNS_ZONES = _rows("dns_zones", "DNS zones watched", ("zonename", "serial", "count"))


def _growth(name: str, text: str, unit: str, per: str, of: Mapping[str, float]) -> Metric:
    return Metric(name, text, unit=unit, of=of, per=per)


def _rates(group: str, labels: Mapping[str, str], received: str, sent: str) -> Query:
    """Means and rates since the last poll, of a group that has the totals of SHOW STATS."""
    queries, xacts = "total_query_count", "total_xact_count"
    settled = "; not sent while none ends, nor around a PAUSE"
    return Query(
        PGBOUNCER,
        group,
        labels=labels,
        metrics=(
            _growth(
                "query_ms",
                "Mean time of a query since the last poll, its wait for a server included"
                + settled,
                *("ms", queries),
                {"total_query_time_us": 1e-3},
            ),
            _growth(
                "wait_ms",
                "Mean wait for a server per query since the last poll" + settled,
                *("ms", queries),
                {"total_wait_time_us": 1e-3},
            ),
            _growth(
                "server_ms",
                "Mean time of a query in the server since the last poll: query_ms less wait_ms. "
                "Exact when none was under way at either poll, close while they are many and short "
                "(a wait is booked as it ends, a query as that ends); not sent where more was "
                "waited than queried, nor at the poll after" + settled.replace("not sent", "nor"),
                *("ms", queries),
                {"total_query_time_us": 1e-3, "total_wait_time_us": -1e-3},
            ),
            _growth(
                "xact_ms",
                "Mean time of a transaction since the last poll, its waits included" + settled,
                *("ms", xacts),
                {"total_xact_time_us": 1e-3},
            ),
            _growth(
                "queries_per_second", "Queries", "per_second", "seconds", {"total_query_count": 1}
            ),
            _growth(
                "xacts_per_second", "Transactions", "per_second", "seconds", {"total_xact_count": 1}
            ),
            _growth(
                "received_bytes_per_second",
                "Bytes read from clients",
                *("bytes_per_second", "seconds"),
                {received: 1},
            ),
            _growth(
                "sent_bytes_per_second",
                "Bytes sent to clients",
                *("bytes_per_second", "seconds"),
                {sent: 1},
            ),
        ),
    )


def _counts(query: Query, new_rows: str = "") -> Query:
    """The totals of a query as statsd counters: what each grew by, under a name of its own."""
    return Query(
        PGBOUNCER,
        query.group,
        labels=query.labels,
        metrics=tuple(
            Metric(
                m.name.removeprefix("total_"),
                f"{m.help}: growth since the last poll, with counters = 'count'{new_rows}",
                unit=m.unit,
                kind="count",
                of={m.name: 1},
                since=m.since,
            )
            for m in query.metrics
        ),
    )


#: Totals that the console's own clients add to: one for each that asked anything.
OF_CONSOLES = frozenset({"total_xact_count", "total_query_count", "total_client_login_count"})


def _of_clients(query: Query) -> Query:
    """What is derived of totals that count the console's own clients as well, without these."""
    known = "; less the console's own, for which `collect` must name stats too"
    return query._replace(
        metrics=tuple(
            m._replace(help=m.help + known) if OF_CONSOLES & {*m.of, m.per} else m
            for m in query.metrics
        ),
    )


#: What is computed from the growth of a query's totals: means and rates, then counters.
DERIVED = {
    STATS.group: (
        _rates("stats", STATS.labels, "total_received_bytes", "total_sent_bytes"),
        _counts(STATS, "; over TCP a new database counts from its second poll on"),
    ),
    TOTALS.group: (
        _of_clients(_rates("totals", {}, "total_client_bytes", "total_server_bytes")),
        _of_clients(_counts(TOTALS)),
    ),
}

SATURATION = Query(
    PGBOUNCER,
    "lists",
    metrics=(
        Metric(
            "client_utilization",
            "Share of max_client_conn that is used, 0 to 1",
            unit="ratio",
            column="used_clients of SHOW LISTS / max_client_conn of SHOW CONFIG",
        ),
    ),
)

CROWDING = Query(
    PGBOUNCER,
    "pools",
    labels=POOLS.labels,
    metrics=(
        Metric(
            "pool_utilization",
            "Servers at work or logging in as a share of the effective pool size: the user's own "
            "where `collect` names users and SHOW USERS tells it, else the database's; above 1 "
            "while the reserve pool is used; not sent where the size has no limit",
            unit="ratio",
            column="sv_active + sv_active_cancel + sv_being_canceled + sv_tested + sv_login of "
            "SHOW POOLS / pool_size of SHOW USERS or SHOW DATABASES",
        ),
        Metric(
            "waiting_for_seconds",
            "How long clients have been waiting without a break, seen by pgstats: maxwait is 0 "
            "for clients queued at login",
            unit="seconds",
            column="time since cl_waiting of SHOW POOLS is above 0, at least maxwait",
        ),
    ),
)

#: Columns of SHOW POOLS that a burst looks at, and what it tells of each.
BURST_OF = ("cl_waiting", "maxwait_seconds", "sv_active")
_BURST_TELLS = {
    "min": "Least",
    "mean": "Mean",
    "max": "Greatest",
    "p95": "95th percentile of",
}

BURST = Query(
    PGBOUNCER,
    "pools",
    labels=POOLS.labels,
    metrics=tuple(
        Metric(
            f"{name.removesuffix('_seconds')}_{tells}" + "_seconds" * name.endswith("_seconds"),
            f"{text} {name} over the samples of `once --sample`",
            unit="seconds" if name.endswith("_seconds") else "",
            column=f"{name} of several SHOW POOLS",
            across="sum" if tells == "mean" else "",  # peaks of processes need not coincide
        )
        for name in BURST_OF
        for tells, text in _BURST_TELLS.items()
    ),
)

LIFECYCLE = Query(
    PGBOUNCER,
    "state",
    metrics=(
        Metric(
            "code",
            "1 active, 2 paused, 3 suspended, 4 draining (TCP refused, the unix socket answers), "
            "5 unreachable, 6 login refused; not sent while unknown, which is nearly always before "
            "1.19 or without SHOW STATE: a PAUSE of all databases shows nowhere else",
            column="SHOW STATE, and whether TCP and the unix socket let pgstats in",
        ),
    ),
)

#: All that pgstats computes from the answers.
COMPUTED = (*(q for pair in DERIVED.values() for q in pair), SATURATION, CROWDING, BURST, LIFECYCLE)

QUERIES = (
    *(STATS, TOTALS),  # side by side: the console's row in the one is taken out of the other
    *(POOLS, LISTS, DATABASES, STATE, CONFIG),
    *(USERS, CLIENTS, SERVERS, MEM, PEERS, PEER_POOLS, DNS_HOSTS, DNS_ZONES),
)
