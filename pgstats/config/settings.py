"""Every setting there is: one entry each. Validation, defaults, hints and listings follow."""

from __future__ import annotations

from pgstats import catalogue
from pgstats.config import values
from pgstats.config.values import Parser
from pgstats.model import PGBOUNCER, POSTGRES
from pgstats.noun import Noun

TOP = ""
STATSD = "statsd"
QUERY = "query"
FAMILIES = (PGBOUNCER, POSTGRES)

#: Keys that a receiver drops or breaks on, then those that tell targets apart.
RESERVED = frozenset(
    {"name", "units", "family", "metric_type", "le", "quantile"} | {"target", "peer"}
)
#: All keys that pgstats sets itself.
RESERVED_TAGS = RESERVED | frozenset(
    {"database", "user", "schema", "table", "reason", "holder"}
    | {label for query in catalogue.QUERIES for label in query.labels}
)


class Setting(Noun):
    """One key of the file.

    ``default`` is written as in the file; None is worked out when the rest is known. ``option``
    is the command line's name for it, ``PGSTATS_`` and that in capitals the environment's.
    A ``secret`` is shown as it is written in the file, never with its ${VAR} replaced.
    """

    key: str
    parse: Parser
    default: object
    help: str
    option: str = ""
    secret: bool = False


_tags = values.tags(RESERVED_TAGS)


def _select(value: object) -> str:
    """A statement of the user's own, read by a module that most configurations do not need."""
    from pgstats.config.statement import select  # noqa: PLC0415

    return select(value)


_TARGET = (
    Setting(
        "name",
        values.name,
        None,
        "unique, in every name and tag; else host and port, the socket's folder, or the service",
    ),
    Setting("dsn", values.text, None, "any libpq connection string or URI", secret=True),
    Setting("interval", values.duration, None, "time between polls; else the global one"),
    Setting(
        "timeout",
        values.duration,
        None,
        "most time a poll may take; else 80 % of the interval and at most 10 s",
    ),
    Setting("tags", _tags, {}, "added to the target's lines in the tag dialects"),
    Setting("password_file", values.path, "", "file that holds the password", secret=True),
    Setting("password_command", values.command, "", "prints the password", secret=True),
)

SECTIONS: dict[str, tuple[Setting, ...]] = {
    TOP: (
        Setting("prefix", values.prefix, "pgstats", "first part of every name", "prefix"),
        Setting("interval", values.duration, "10s", "time between polls", "interval"),
        Setting("state", values.path, None, "what one-shot runs remember between polls", "state"),
    ),
    STATSD: (
        Setting("url", values.url, "udp://127.0.0.1:8125", "where statsd listens", "statsd"),
        Setting(
            "dialect",
            values.one_of("plain", "dogstatsd", "influx", "graphite"),
            "plain",
            "how names and labels are written",
            "dialect",
        ),
        Setting("tags", _tags, {}, "added to every line of the tag dialects"),
        Setting("rate", values.whole(0), 1000, "datagrams a second, 0 for no limit"),
        Setting("max_packet", values.whole(64, 65507), 1400, "bytes in a packet at most"),
        Setting(
            "on_vanish",
            values.last_value,
            "zero",
            'last value of a series that is gone: "zero", "nothing" or a number',
        ),
    ),
    PGBOUNCER: (
        *_TARGET,
        Setting(
            "collect",
            values.some_of(catalogue.COLLECT),
            [*catalogue.COLLECTED],
            f"SHOW commands asked, of {', '.join(catalogue.COLLECT)}",
        ),
        Setting("include_admin", values.flag, False, "also the pseudo-database `pgbouncer`"),
        Setting(
            "counters",
            values.one_of("gauge", "count"),
            "gauge",
            "`count` also ships what totals grew by as statsd counters",
        ),
        Setting(
            "sockets",
            values.texts,
            [],
            "unix_socket_dir of each process behind a shared port (so_reuseport)",
        ),
    ),
    POSTGRES: (
        *_TARGET,
        Setting("databases", values.texts, ["*"], "globs of databases; ! leaves out"),
        Setting("tables", values.budget, 50, "tables shown of each database, the rest folded"),
        Setting(
            "exclude_tables",
            values.texts,
            [],
            "globs of SCHEMA.TABLE that are always folded; ! keeps",
        ),
        Setting(
            "sizes",
            values.duration,
            None,
            "time between two measurements of the tables shown; else sizes are estimated alone",
        ),
        Setting("pooled", values.flag, False, "the DSN goes through a transaction-mode pool"),
        Setting(
            "from_pgbouncer",
            values.text,
            "",
            "name of the `[[pgbouncer]]` whose SHOW DATABASES tells host, port and databases",
        ),
    ),
    QUERY: (
        Setting("name", values.name, None, "unique, the group in every name"),
        Setting("sql", _select, None, "one SELECT, schemas written out", secret=True),
        Setting("labels", values.columns(RESERVED), [], "columns that tell the rows apart"),
        Setting("metrics", values.columns(frozenset()), [], "columns that become gauges"),
        Setting("target", values.one_or_more, None, "`[[postgres]]` asked, by name; else every"),
        Setting(
            "databases",
            values.texts,
            [],
            "globs over the target's databases, as label `database`; else the DSN's own is asked",
        ),
        Setting("interval", values.duration, None, "time between two askings; else every poll"),
        Setting("rows", values.whole(1, 10000), 100, "rows sent at most, the first of the answer"),
    ),
}
#: Sections that a file may have several of.
SEVERAL = (*FAMILIES, QUERY)


def heading(section: str) -> str:
    """How a section is headed in a file."""
    return f"[[{section}]]" if section in SEVERAL else f"[{section}]" if section else ""


def unknown(section: str, key: str) -> str:
    """What to say about a key that a section does not have: what it has, and what is nearest."""
    own = [setting.key for setting in SECTIONS[section]]
    below = [other for other in SECTIONS if other] if section == TOP else []
    allowed = ", ".join(own + [heading(other) for other in below])
    hint = _home(key) or values.did_you_mean(key, own + below)
    return f"unknown key; allowed are {allowed}{hint}"


def _home(key: str) -> str:
    """The end of a fault that says which section a key belongs to, "" for none."""
    homes = [home for home in SECTIONS if key in (setting.key for setting in SECTIONS[home])]
    places = (heading(home) or "the top of the file, above all sections" for home in homes)
    return f"; it belongs to {' or '.join(places)}" if homes else ""
