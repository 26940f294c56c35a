"""The sessions: what they are doing, for how long, and how many more there may be.

Of others' sessions a role without pg_read_all_stats sees little more than that they are there: even
their start is NULL, which no session's is. Such a masked session may be doing anything, so that
whatever would count only the others is not sent then.
"""

from __future__ import annotations

from pgstats.catalogue.postgres.over import age, over
from pgstats.model import Metric, Query

#: Sessions of clients, that of pgstats left out. The type of a masked one is unknown, but only
#: clients, what works for them and logical replication have both a user and a database.
_CLIENTS = """(
    SELECT *, backend_start IS NULL AS masked
      FROM pg_stat_activity
     WHERE pid <> pg_backend_pid()
       AND (backend_type = 'client backend'
            OR backend_start IS NULL AND usesysid IS NOT NULL AND datid IS NOT NULL)
) AS client"""


def _tally(group: str, label: str, known: tuple[str, ...], sessions: str, text: str) -> Query:
    """How many sessions have each value of a label: the known ones always, others as they come."""
    values = ", ".join(f"('{value}')" for value in known)
    count = f"""CASE WHEN {label} = 'masked'
              OR NOT coalesce(bool_or(bool_or(masked)) OVER (), false)
            THEN count(pid) END"""
    return over(
        f"(VALUES {values}) AS known ({label})\n  FULL JOIN ({sessions}) AS s USING ({label})",
        group,
        Metric("count", text, column=count),
        labels={label: label},
        grouped=True,
    )


SESSIONS = _tally(
    "sessions",
    "state",
    (
        *("active", "idle", "idle_in_transaction", "idle_in_transaction_aborted"),
        *("fastpath_function_call", "starting", "disabled", "masked"),
    ),
    f"""
    SELECT pid, masked, CASE WHEN masked THEN 'masked' WHEN state IS NULL THEN 'starting'
                             ELSE rtrim(regexp_replace(state, '[^a-z]+', '_', 'g'), '_')
                        END AS state
      FROM {_CLIENTS}""",
    "Sessions of clients in that state, that of pgstats left out; disabled is track_activities = "
    "off; masked is what the role may not see, and then the other states are not sent",
)

WAITS = _tally(
    "waits",
    "wait_event_type",
    ("none", "BufferPin", "Client", "Extension", "IO", "IPC", "Lock", "LWLock", "Timeout"),
    f"""
    SELECT pid, masked, coalesce(wait_event_type, 'none') AS wait_event_type
      FROM {_CLIENTS}
     WHERE masked OR state = 'active'""",
    "Active sessions of clients by what they wait for, none is nothing; not sent where the role "
    "may not see all",
)

BACKENDS = _tally(
    "backends",
    "backend_type",
    ("client_backend", "autovacuum_worker", "parallel_worker", "walsender", "masked"),
    """
    SELECT pid, backend_start IS NULL AS masked,
           CASE WHEN backend_start IS NULL THEN 'masked'
                ELSE replace(backend_type, ' ', '_') END AS backend_type
      FROM pg_stat_activity""",
    "Processes of the server of that type; masked is what the role may not see, and then the other "
    "types are not sent",
)


def _oldest(name: str, text: str, moment: str, which: str = "true") -> Metric:
    """The longest of some times; unknown while that of any session is."""
    return Metric(
        f"oldest_{name}_seconds",
        f"{text}; 0 without any, not sent where the role may not see all sessions or one has "
        "track_activities off",
        unit="seconds",
        column=f"""CASE WHEN NOT coalesce(bool_or(masked OR state = 'disabled'), false)
            THEN coalesce({age(f"min({moment}) FILTER (WHERE {which})")}, 0) END""",
    )


ACTIVITY = over(
    _CLIENTS,
    "activity",
    _oldest("transaction", "Age of a client's oldest transaction", "xact_start"),
    _oldest(
        "idle_in_transaction",
        "Longest time that a client has been idle in a transaction",
        "state_change",
        "state ~ '^idle in transaction'",
    ),
    _oldest(
        "active_query",
        "Age of the oldest statement at work for a client",
        "query_start",
        "state IN ('active', 'fastpath function call')",
    ),
)

_MAX = "current_setting('max_connections')::int"
_SUPERUSER = "current_setting('superuser_reserved_connections')::int"
_RESERVED = "coalesce(current_setting('reserved_connections', true), '0')::int"
_USABLE = f"({_MAX} - {_SUPERUSER} - {_RESERVED})"
# Not those of standbys: walsenders have slots of their own, as has all that runs in the background.
_USED = """CASE WHEN NOT coalesce(bool_or(backend_start IS NULL AND usesysid IS NOT NULL
                                AND datid IS NOT NULL), false)
            THEN count(*) FILTER (WHERE backend_type = 'client backend') END"""

CONNECTIONS = over(
    "pg_stat_activity",
    "connections",
    Metric(
        "usable",
        "Connections that ordinary roles may have: max_connections less both reserves",
        column=_USABLE,
    ),
    Metric(
        "superuser_reserved_connections",
        "Connections kept for superusers",
        column=_SUPERUSER,
    ),
    Metric(
        "reserved_connections",
        "Connections kept for members of pg_use_reserved_connections",
        column=_RESERVED,
        since=160000,
    ),
    Metric(
        "used",
        "Connections of clients, superusers' included, standbys' not; not sent where the role may "
        "not see all",
        column=_USED,
    ),
    Metric(
        "free",
        "Connections left to ordinary roles",
        column=f"""CASE WHEN {_USED} > {_USABLE} THEN 0
            ELSE {_USABLE} - {_USED} END""",
    ),
    Metric(
        "utilization",
        "Share of the usable connections that is used; above 1 where superusers are in the reserve",
        unit="ratio",
        column=f"({_USED})::float8 / nullif({_USABLE}, 0)",
    ),
)

QUERIES = (SESSIONS, WAITS, BACKENDS, ACTIVITY, CONNECTIONS)
