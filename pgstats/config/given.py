"""What was given, by whom: the options, the environment, the file; and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from pgstats.config import settings, values
from pgstats.config.document import Document, Place
from pgstats.config.settings import FAMILIES, SECTIONS, TOP, Setting
from pgstats.config.values import Keys
from pgstats.noun import Noun

_VARIABLE = r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\{"
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


class Source(Protocol):
    """Where values come from: the file, an option, a variable of the environment."""

    def place(self, at: Keys) -> Place:
        """Where one of its values stands."""

    def resolve(self, path: str) -> str:
        """A path that it names."""


class Outside(Noun):
    """An option or a variable of the environment."""

    kind: str
    name: str

    def place(self, _: Keys) -> Place:
        """Its name; it is one value."""
        return Place(f"{self.kind} {self.name}", self.name)

    def resolve(self, path: str) -> str:
        """The path as it is: it starts at the working directory."""
        return path


class Given(Noun):
    """One value as it was given.

    ``raw`` still has its ${VAR}, ``replaced`` is what these held; one that is ``broken`` has
    been told as a fault.
    """

    source: Source
    at: Keys
    raw: object
    value: object
    replaced: tuple[str, ...] = ()
    broken: bool = False


class Section(Noun):
    """All that was given for one section, or one target, and where that starts."""

    name: str
    source: Source
    at: Keys
    given: Mapping[str, Given]


class Entry(Noun):
    """One setting merged: its value, how it is shown, from where, and as what it was given."""

    value: Any
    shown: object
    origin: str = "default"
    given: Given | None = None


Entries = dict[str, Entry]


class Faults:
    """All that was found wrong so far, each with its line in the file (0: not in the file)."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []

    def add(self, source: Source, at: Keys, text: str) -> None:
        """Note what is wrong with one value."""
        place = source.place(at)
        self.found.append((place.line, f"{place.where}: {text}"))

    def lines(self) -> list[str]:
        """All of them, in the order of the file."""
        return [text for _, text in sorted(self.found, key=lambda fault: fault[0])]


class _Level(Noun):
    """The options, or the environment under the names of the options."""

    given: Mapping[str, object]
    spelling: Callable[[str], Outside]

    def targets(self, family: str) -> list[Section]:
        """The targets it gives by their DSNs alone."""
        dsns = _dsns(self.given.get(family))
        source = self.spelling(family)
        if len(dsns) == 1:
            return [by_dsn(family, dsns[0], source)]
        return [
            by_dsn(family, dsn, source._replace(name=f"{source.name} {number}"))
            for number, dsn in enumerate(dsns, 1)
        ]


class Givers(Noun):
    """Everybody who may give a value: an option wins over the environment, that over the file."""

    levels: tuple[_Level, _Level]  # what stands above the file, the strongest first
    environ: Mapping[str, str]
    file: Document
    faults: Faults

    @classmethod
    def of(
        cls,
        options: Mapping[str, object],
        environ: Mapping[str, str],
        file: Document,
        faults: Faults,
    ) -> Givers:
        """Those that there are."""
        start = "PGSTATS_"
        named = {k[len(start) :].lower(): v for k, v in environ.items() if k.startswith(start)}
        levels = (
            _Level(options, lambda name: Outside("option", "--" + name.replace("_", "-"))),
            _Level(named, lambda name: Outside("environment", start + name.upper())),
        )
        return cls(levels, environ, file, faults)

    def entries(self, section: Section) -> Entries:
        """Every setting of a section, parsed; what was not given or is wrong has its default."""
        entries = {}
        for setting in SECTIONS[section.name]:
            given = self._outside(setting) or section.given.get(setting.key)
            entry = self._parsed(setting, given) if given else None
            entries[setting.key] = entry or _default(setting, given)
        return entries

    def section(self, name: str, at: Keys, table: object) -> Section:
        """What the file gives for a section: keys that exist, their ${VAR} replaced."""
        if not isinstance(table, dict):
            self.faults.add(
                self.file, at, f"must be a section: {settings.heading(name)}, its keys below it"
            )
            table = {}
        known = {setting.key for setting in SECTIONS[name]}
        for key in table.keys() - known - (SECTIONS.keys() if name == TOP else set()):
            self.faults.add(self.file, (*at, key), settings.unknown(name, key))
        given = {key: self._replaced((*at, key), table[key]) for key in table.keys() & known}
        return Section(name, self.file, at, given)

    def targets(self) -> list[Section]:
        """The targets of the options, else of the environment, else of the file."""
        for level in self.levels:
            if named := [one for family in FAMILIES for one in level.targets(family)]:
                return named
        return [section for family in FAMILIES for section in self.written(family)]

    def written(self, name: str) -> list[Section]:
        """The sections of a name that the file may have several of."""
        return [self.section(*written) for written in self._written(name)]

    def _written(self, family: str) -> Iterator[tuple[str, Keys, object]]:
        """Those sections as they stand in the file."""
        tables = self.file.data.get(family, [])
        if isinstance(tables, list):
            yield from ((family, (family, index), table) for index, table in enumerate(tables))
            return
        if isinstance(tables, dict):
            form = f"must be headed [[{family}]], in two brackets each: there may be several"
            self.faults.add(self.file, (family,), form)
        yield family, (family,), tables

    def _outside(self, setting: Setting) -> Given | None:
        """What an option, or else the environment, gives for a setting."""
        for level in self.levels if setting.option else ():
            if setting.key == "state" and self._without_state(level):
                return Given(level.spelling("no_state"), (), "", "")
            if (value := level.given.get(setting.option)) not in (None, ""):
                return Given(level.spelling(setting.option), (), str(value), str(value))
        return None

    def _without_state(self, level: _Level) -> bool:
        """Whether no_state is switched on, by an option or by a word in the environment."""
        word = str(level.given.get("no_state") or "no").lower()
        if word not in _YES + _NO:
            text = f"must be one of {', '.join(_YES + _NO)}"
            self.faults.add(level.spelling("no_state"), (), text)
        return word in _YES

    def _replaced(self, at: Keys, raw: object) -> Given:
        """A value of the file with each ${VAR} in its strings replaced."""
        replaced: list[str] = []
        faults: list[str] = []

        def variable(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            if match[1] is None:
                faults.append("has a ${ without NAME} behind it; a plain ${ is written $${")
            elif match[1] not in self.environ:
                faults.append(f"needs the environment variable {match[1]}, which is not set")
            replaced.append(self.environ.get(match[1] or "", ""))
            return replaced[-1]

        value = _map(lambda text: re.sub(_VARIABLE, variable, text) if "$" in text else text, raw)
        for fault in faults:
            self.faults.add(self.file, at, fault)
        return Given(self.file, at, raw, value, tuple(replaced), bool(faults))

    def _parsed(self, setting: Setting, given: Given) -> Entry | None:
        """One setting as it was given; None, and the faults noted, where that is wrong."""
        if given.broken:
            return None
        try:
            value = setting.parse(given.value)
        except values.Wrong as wrong:
            for inside, text in wrong.faults:
                self.faults.add(given.source, given.at + inside, text)
            return None
        if setting.parse is values.path:
            value = given.source.resolve(value)
        shown = given.raw if setting.secret else given.value
        return Entry(value, shown, given.source.place(given.at).origin, given)


def by_dsn(family: str, dsn: str, source: Source) -> Section:
    """A target that is given by its DSN alone."""
    return Section(family, source, (), {"dsn": Given(source, (), dsn, dsn)})


def _default(setting: Setting, given: Given | None) -> Entry:
    """A setting's default; it stands in for a wrong value too, to find what else is wrong."""
    value = None if setting.default is None else setting.parse(setting.default)
    return Entry(value, setting.default, given=given)


def _dsns(value: object) -> list[str]:
    """The DSNs of an option (a tuple), or of a variable (one a line)."""
    if isinstance(value, str):
        return [line.strip() for line in value.splitlines() if line.strip()]
    return list(value) if isinstance(value, tuple | list) else []


def _map(change: Callable[[str], str], value: object) -> object:
    """A value of a TOML file with all its strings changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map(change, item) for item in value]
    if isinstance(value, dict):
        return {key: _map(change, item) for key, item in value.items()}
    return value
