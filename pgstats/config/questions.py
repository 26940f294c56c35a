"""The questions of the user's own: what each one is, and which targets it is put to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pgstats import catalogue
from pgstats.config.given import Entries, Entry, Givers, Section
from pgstats.config.settings import QUERY
from pgstats.model import POSTGRES, Metric, Query, Question
from pgstats.noun import Noun

#: What cannot be a question's name: the groups that there are, and what stands beside them.
_GROUPS = frozenset({q.group for q in catalogue.QUERIES if q.family == POSTGRES} | {"up"})
_NEEDED = {
    "name": 'for example name = "jobs"',
    "sql": 'for example sql = "SELECT count(*) AS waiting FROM public.jobs"',
    "metrics": 'which columns become gauges? For example metrics = ["waiting"]',
}


class Asked(Noun):
    """A target as far as questions are concerned."""

    family: str
    name: str
    tags: Mapping[str, str]  # those of all lines among them


class Putting(Noun):
    """One question as configured, and the names of the targets it is put to."""

    entries: Entries
    question: Question
    targets: frozenset[str]


def questions(givers: Givers, targets: Sequence[Asked], *, listed: bool) -> list[Putting]:
    """All questions. Targets that are not ``listed`` in the file need not be those it names."""
    taken: dict[str, Entry] = {}
    return [
        _putting(_Wording(givers, section, givers.entries(section)), targets, taken, listed=listed)
        for section in givers.written(QUERY)
    ]


class _Wording(Noun):
    """One section with its settings, and a way to complain about them."""

    givers: Givers
    section: Section
    entries: Entries

    def complain(self, key: str, text: str) -> None:
        """Note a fault at the place of a key, or of its section where the key is missing."""
        given = self.entries[key].given
        at = given.at if given else (*self.section.at, key)
        self.givers.faults.add(self.section.source, at, text)

    def value(self, key: str) -> tuple[str, ...]:
        """A setting that is a list, () where none was given."""
        found: tuple[str, ...] = self.entries[key].value or ()
        return found


def _putting(
    one: _Wording, targets: Sequence[Asked], taken: dict[str, Entry], *, listed: bool
) -> Putting:
    for key, example in _NEEDED.items():
        if not one.entries[key].value and not one.entries[key].given:
            one.complain(key, f"is missing: {example}")
    _check_name(one, taken)
    _check_columns(one)
    names = _targets(one, targets, listed=listed)
    _check_tags(one, (target for target in targets if target.name in names))
    return Putting(one.entries, _question(one.entries), names)


def _question(entries: Entries) -> Question:
    values = {key: entry.value for key, entry in entries.items()}
    shared = {"database": ""} if values["databases"] else {}
    query = Query(
        POSTGRES,
        values["name"] or "",
        tuple(Metric(name, "") for name in values["metrics"]),
        sql=values["sql"] or "",
        labels=shared | {label: label for label in values["labels"]},
        ignored=("*",),
        per_database=bool(shared),
    )
    return Question(query, values["databases"], values["interval"] or 0.0, values["rows"])


def _check_name(one: _Wording, taken: dict[str, Entry]) -> None:
    entry = one.entries["name"]
    if not entry.value:
        return
    first = taken.setdefault(entry.value, entry)
    if first is not entry:
        text = f'"{entry.value}" is already the name of the question at {first.origin}'
        one.complain("name", f"{text}; names are unique")
    if entry.value.lower() in _GROUPS:
        one.complain("name", f'"{entry.value}" is a group of pgstats itself; choose another name')


def _check_columns(one: _Wording) -> None:
    labels = one.value("labels")
    both = [name for name in one.value("metrics") if name in labels]
    if both:
        one.complain("metrics", f'"{both[0]}" is among labels too: a column is one or the other')
    if "database" in labels and one.value("databases"):
        one.complain("labels", '"database" is added by databases = [...]; leave it out')


def _targets(one: _Wording, targets: Sequence[Asked], *, listed: bool) -> frozenset[str]:
    """The names of the targets that are asked."""
    families = {target.name: target.family for target in targets}
    there = [name for name, family in families.items() if family == POSTGRES]
    if one.entries["target"].given is None:
        if listed and not there:
            one.complain("name", "there is no [[postgres]] to ask")
        return frozenset(there)
    wanted = one.value("target")
    for name in wanted if listed else ():
        if families.get(name, POSTGRES) != POSTGRES:
            text = f'"{name}" is a PgBouncer, whose console takes no SELECT'
            one.complain("target", f"{text}; name a [[postgres]]: {', '.join(there)}")
        elif name not in families:
            one.complain("target", f'"{name}" is no [[postgres]]; there are {", ".join(there)}')
    return frozenset(there).intersection(wanted)


def _check_tags(one: _Wording, targets: Iterator[Asked]) -> None:
    """A line must not have two tags of the same key."""
    twice = {
        label: target.name
        for target in targets
        for label in one.value("labels")
        if label in target.tags
    }
    for label, name in twice.items():
        text = f'"{label}" is a tag of the target {name} already'
        one.complain("labels", f"{text}; rename the column with AS, or the tag")
