"""A configuration to begin with: every setting there is, with its help and its default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pgstats.config.settings import QUERY, SECTIONS, STATSD, TOP, Setting, heading
from pgstats.config.showing import toml
from pgstats.model import PGBOUNCER, POSTGRES

#: What stands where the default says nothing. It takes effect where nothing works without it.
EXAMPLES: Mapping[tuple[str, str], object] = {
    (TOP, "state"): "/var/lib/pgstats/state",
    (PGBOUNCER, "name"): "front",
    (PGBOUNCER, "dsn"): "host=127.0.0.1 port=6432 user=pgstats dbname=pgbouncer",
    (POSTGRES, "name"): "main",
    (POSTGRES, "dsn"): "host=/var/run/postgresql user=pgstats dbname=postgres",
    **{(family, "interval"): "30s" for family in (PGBOUNCER, POSTGRES)},
    **{(family, "timeout"): "8s" for family in (PGBOUNCER, POSTGRES)},
    (POSTGRES, "sizes"): "10m",
    (QUERY, "name"): "orders",
    (QUERY, "sql"): "SELECT count(*) AS open FROM public.orders WHERE NOT paid",
    (QUERY, "metrics"): ["open"],
    (QUERY, "target"): "main",
    (QUERY, "interval"): "60s",
}
_IN_EFFECT = ("name", "dsn")
_NOTES = {
    TOP: "What pgstats polls, and where it ships that. Lines behind # show what holds anyway,\n"
    "# or an example where nothing does;\n"
    "# `pgstats check` proves that all of it works.",
    STATSD: "The receiver.",
    PGBOUNCER: "A PgBouncer: one section each. Take it out where there is none.",
    POSTGRES: "A PostgreSQL cluster: one section each.",
    QUERY: "A question of your own: one section each.",
}


def template() -> str:
    """The text of the file."""
    return "\n".join(line for section in SECTIONS for line in _section(section)) + "\n"


def _section(section: str) -> Iterator[str]:
    yield from ["", "", f"# {_NOTES[section]}"][2 * (section == TOP) :]
    if section:
        yield "#" * (section == QUERY) + heading(section)
    for setting in SECTIONS[section]:
        yield ""
        yield f"# {setting.help}"
        yield _line(section, setting)


def _line(section: str, setting: Setting) -> str:
    value = EXAMPLES.get((section, setting.key), setting.default)
    off = "#" * (section == QUERY or setting.key not in _IN_EFFECT)
    return f"{off}{setting.key} = {toml(value)}"
