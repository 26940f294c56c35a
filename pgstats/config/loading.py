"""Merges defaults, the file, the environment and the options into one configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pgstats.config import document, dsn, values
from pgstats.config.document import Document
from pgstats.config.given import Entries, Entry, Faults, Givers, Outside, Section, by_dsn
from pgstats.config.settings import QUERY, STATSD, TOP
from pgstats.errors import ConfigError
from pgstats.model import PGBOUNCER, POSTGRES, Target
from pgstats.noun import Noun

if TYPE_CHECKING:
    from pgstats.config.questions import Putting

DEFAULT_FILE = "/etc/pgstats/pgstats.toml"
DEFAULT_STATE = "/var/lib/pgstats/state"
_PASSFILE = "pgpass"

#: Any of these tells libpq where to go.
_LIBPQ = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGDATABASE", "PGUSER")

ParseDsn = Callable[[str], Mapping[str, str]]


class Statsd(Noun):
    """Where and how lines are shipped; ``rate`` in datagrams a second, ``max_packet`` in bytes.

    ``on_vanish`` is the last value of a series that is gone, None for none.
    """

    url: str
    dialect: str
    tags: Mapping[str, str]
    rate: int
    max_packet: int
    on_vanish: int | float | None


class Shown(Noun):
    """One value as it may be shown, written as in a file, and where it came from."""

    key: str
    value: object
    origin: str


class Config(Noun):
    """Everything that was configured. ``interval`` is seconds; ``state`` is "" for none.

    ``path`` is the file that was read, "" for none; ``inventory`` the one that lists the targets,
    absolute, "" where options or the environment name them. ``settings`` holds what `show` prints:
    the name of each section and its values, every secret already masked.
    """

    prefix: str
    interval: float
    state: str
    statsd: Statsd
    targets: tuple[Target, ...]
    path: str
    inventory: str
    settings: tuple[tuple[str, tuple[Shown, ...]], ...]


def load(
    path: str | None,
    options: Mapping[str, object],
    environ: Mapping[str, str],
    parse_dsn: ParseDsn,
    default: tuple[str, str] | None = None,
) -> Config:
    """The merged configuration; `ConfigError` lists everything that is wrong with it.

    ``options`` are the command line's, by their names without dashes (a tuple of DSNs for
    ``pgbouncer`` and ``postgres``); what is absent, None or empty was not given. ``default`` is
    the family and the DSN of the target where none is given, else libpq's environment names it.
    """
    faults = Faults()
    file, cause = _read(path or environ.get("PGSTATS_CONFIG"), faults)
    givers = Givers.of(options, environ, file, faults)
    top = givers.entries(givers.section(TOP, (), file.data))
    if top["state"].value is None:
        top["state"] = _state(environ)
    statsd = givers.entries(givers.section(STATSD, (STATSD,), file.data.get(STATSD, {})))
    sections = givers.targets() or _default_target(default) or _libpq_target(environ)
    targets = [_target(givers, section, top["interval"]) for section in sections]
    _name(targets, givers, parse_dsn)
    _take_passwords(targets, environ)
    families = [section.name for section in sections]
    _check_fronts(targets, givers, families)
    listed = bool(sections) and sections[0].source is file
    puttings = _questions(givers, families, targets, statsd["tags"].value, listed=listed)
    if not sections and not faults.found:
        raise ConfigError(_nothing_to_poll(file.path))
    if faults.found:
        raise ConfigError(faults.lines()) from cause
    passfile = _credential(_PASSFILE, environ)
    return Config(
        **_values(top),
        statsd=Statsd(**_values(statsd)),
        targets=_targets(families, targets, puttings, passfile),
        path=file.path,
        inventory=os.path.abspath(file.path) if listed else "",
        settings=_settings(
            [TOP, STATSD, *families, *[QUERY] * len(puttings)],
            [top, statsd, *targets, *(putting.entries for putting in puttings)],
        ),
    )


def _questions(
    givers: Givers,
    families: list[str],
    targets: list[Entries],
    shared: Mapping[str, str],
    *,
    listed: bool,
) -> list[Putting]:
    """The questions of the file, if it has any; ``shared`` are the tags of all targets."""
    if QUERY not in givers.file.data:
        return []
    from pgstats.config.questions import Asked, questions  # noqa: PLC0415

    asked = [
        Asked(family, one["name"].value, {**shared, **one["tags"].value})
        for family, one in zip(families, targets, strict=True)
    ]
    return questions(givers, asked, listed=listed)


def _targets(
    families: list[str], targets: list[Entries], puttings: list[Putting], passfile: str
) -> tuple[Target, ...]:
    """The targets, each with what is put to it and with the PgBouncer that knows where it is."""
    found: dict[str, Target] = {}
    for family, entries in sorted(zip(families, targets, strict=True), key=_fronts_first):
        given = _values(entries)
        front = found.get(given.pop("from_pgbouncer", ""))
        asked = tuple(one.question for one in puttings if given["name"] in one.targets)
        found[given["name"]] = Target(
            family=family, passfile=passfile, front=front, questions=asked, **given
        )
    return tuple(found[entries["name"].value] for entries in targets)


def _fronts_first(target: tuple[str, Entries]) -> bool:
    return target[0] != PGBOUNCER


def _check_fronts(targets: list[Entries], givers: Givers, families: list[str]) -> None:
    """Every `from_pgbouncer` names a PgBouncer."""
    fronts = [
        entries["name"].value
        for family, entries in zip(families, targets, strict=True)
        if family == PGBOUNCER
    ]
    for entry in (entries.get("from_pgbouncer") for entries in targets):
        if entry and entry.given and entry.value and entry.value not in fronts:
            there = f"there are {', '.join(fronts)}" if fronts else "there is none"
            text = f'"{entry.value}" is no [[pgbouncer]]; {there}'
            givers.faults.add(entry.given.source, entry.given.at, text)


def _settings(
    names: list[str], sections: list[Entries]
) -> tuple[tuple[str, tuple[Shown, ...]], ...]:
    """What `show` prints of each section."""
    return tuple(
        (
            name,
            tuple(
                Shown(key, entry.shown, entry.origin)
                for key, entry in entries.items()
                if entry.shown is not None
            ),
        )
        for name, entries in zip(names, sections, strict=True)
    )


def _read(named: str | None, faults: Faults) -> tuple[Document, BaseException | None]:
    """The file, if there is one; where it cannot be used, nothing of it and the reason.

    The default one is nobody's wish: where it may be read by root alone, it does not count.
    """
    if not named and not os.access(DEFAULT_FILE, os.R_OK):
        return Document(), None
    try:
        return document.read(named or DEFAULT_FILE), None
    except ConfigError as error:
        faults.found += [(0, fault) for fault in error.faults]
        return Document(), error.__cause__


def _default_target(default: tuple[str, str] | None) -> list[Section]:
    return [by_dsn(*default, Outside("default", "of the command"))] if default else []


def _libpq_target(environ: Mapping[str, str]) -> list[Section]:
    """The PostgreSQL that libpq's own environment names, if it names one."""
    named = (variable for variable in _LIBPQ if environ.get(variable))
    return [by_dsn(POSTGRES, "", Outside("environment", variable)) for variable in named][:1]


def _target(givers: Givers, section: Section, interval: Entry) -> Entries:
    """The settings of a target, all but its name worked out."""
    entries = givers.entries(section)
    if entries["interval"].value is None:
        entries["interval"] = interval
    if entries["timeout"].value is None:
        seconds = min(round(0.8 * entries["interval"].value, 6), 10.0)
        entries["timeout"] = Entry(seconds, values.spell_duration(seconds))
    if entries["password_file"].value and entries["password_command"].value:
        at = (*section.at, "password_command")
        givers.faults.add(section.source, at, "cannot stand beside password_file: choose one")
    if "from_pgbouncer" in section.given:
        _found_by_front(givers, section, entries)
    elif "dsn" not in section.given:
        text = 'is missing: where is the server? For example dsn = "host=10.0.0.5 user=pgstats"'
        givers.faults.add(section.source, (*section.at, "dsn"), text)
    command = entries["password_command"]
    entries["password_command"] = command._replace(shown=values.first_word(command.shown))
    return entries


def _found_by_front(givers: Givers, section: Section, entries: Entries) -> None:
    """What is different where a PgBouncer tells host and port: no DSN is needed, but a name."""
    if "dsn" not in section.given:
        entries["dsn"] = Entry("", "")
    if "name" not in section.given:
        text = "is missing: a target whose host comes from a PgBouncer is named by you"
        givers.faults.add(section.source, (*section.at, "name"), text)


def _name(targets: list[Entries], givers: Givers, parse_dsn: ParseDsn) -> None:
    """Give every target a name of its own; a name that was given stays as it is."""
    taken: dict[str, Entry] = {}
    for entry in (entries["name"] for entries in targets if entries["name"].value):
        first = taken.setdefault(entry.value, entry)
        if first is not entry and entry.given:
            text = f'"{entry.value}" is already the name of the target at {first.origin}'
            givers.faults.add(entry.given.source, entry.given.at, f"{text}; names are unique")
    for entries in targets:
        parameters = _parameters(entries, givers.faults, parse_dsn)
        if entries["name"].value is None:
            name = dsn.free_name(parameters, givers.environ, taken)
            taken[name] = entries["name"] = Entry(name, name)


def _parameters(entries: Entries, faults: Faults, parse_dsn: ParseDsn) -> Mapping[str, str]:
    """The parameters of a target's DSN; from here on it is shown with its secrets masked."""
    entry = entries["dsn"]
    given = entry.given
    parameters: Mapping[str, str] = {}
    if given is None or entry.value is None:
        return parameters
    try:
        parameters = parse_dsn(entry.value)
        fault = dsn.fault(entry.value, parameters)
    except ConfigError as error:
        fault = str(error)
    if fault:
        faults.add(given.source, given.at, fault)
    entries["dsn"] = entry._replace(shown=dsn.masked(parameters, given.replaced))
    return parameters


def _take_passwords(targets: list[Entries], environ: Mapping[str, str]) -> None:
    """Let a systemd credential named like a target be its password file."""
    for entries in targets:
        name = entries["name"].value
        if entries["password_file"].value or entries["password_command"].value or name == _PASSFILE:
            continue
        if path := _credential(name, environ):
            entries["password_file"] = Entry(path, path, "environment CREDENTIALS_DIRECTORY")


def _credential(name: str, environ: Mapping[str, str]) -> str:
    """The path of one of systemd's credentials, "" where there is none of that name."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    path = f"{folder}/{name}"
    return path if folder and os.access(path, os.R_OK) else ""


def _state(environ: Mapping[str, str]) -> Entry:
    """Where the state is kept unless somebody said so; nowhere ("") is told by who needs it."""
    folder = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    data, home = environ.get("XDG_STATE_HOME"), environ.get("HOME")
    if folder:
        path, origin = f"{folder}/state", "environment STATE_DIRECTORY"
    elif _can_write(os.path.dirname(DEFAULT_STATE)):
        path, origin = DEFAULT_STATE, "default"
    elif data:
        path, origin = f"{data}/pgstats/state", "environment XDG_STATE_HOME"
    else:
        path, origin = f"{home}/.local/state/pgstats/state" if home else "", "default"
    return Entry(path, path, origin)


def _can_write(folder: str) -> bool:
    """Whether files can be made in a folder, or the folder itself can be."""
    while not os.access(folder, os.F_OK):
        folder = os.path.dirname(folder)
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def _values(entries: Entries) -> dict[str, Any]:
    return {key: entry.value for key, entry in entries.items()}


def _nothing_to_poll(path: str) -> list[str]:
    """What to do where no target is given anywhere."""
    where = (
        f"{path} has no [[pgbouncer]] or [[postgres]]"
        if path
        else f"there is no {DEFAULT_FILE} to read"
    )
    return [
        f"no target to poll: no option and no environment variable names one, and {where}",
        "try: pgstats once --dry-run --postgres 'host=127.0.0.1 user=postgres dbname=postgres'",
        f"or write a section [[postgres]] or [[pgbouncer]] into {path or DEFAULT_FILE}, with its "
        'dsn = "host=127.0.0.1 user=postgres dbname=postgres" (pgstats init writes such a file)',
    ]
