"""The dotted names of the dialect plain, level by level."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pgstats.errors import ConfigError
from pgstats.model import SELF
from pgstats.overview import METRICS, Fleet


@dataclass(frozen=True, slots=True)
class Shape:
    """The names of one group: ``levels`` are fixed words or, with "", the labels beside them.

    The last level is the metric, a word where the group has no name of its own.
    """

    family: str
    group: str
    levels: tuple[tuple[str, str], ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in their order."""
        return tuple(label for label, text in self.levels if not text and label)


def shapes(fleet: Fleet) -> Iterator[Shape]:
    """One for every group that can be shipped; one for each metric of a family itself."""
    head = [("", part) for part in fleet.prefix.split(".")]
    for (family, group), labels in fleet.groups().items():
        target = [] if family == SELF else [("target", "")]
        base = (*head, ("", family), *target)
        rows = tuple((label, "") for label in labels)
        if group:
            yield Shape(family, group, (*base, ("", group), *rows, ("", "")))
            continue
        for query, metric in METRICS.values():
            if (query.family, query.group) == (family, ""):
                yield Shape(family, "", (*base, ("", metric.name)))


def plain_only(fleet: Fleet, receiver: str) -> None:
    """Tags need no mapping."""
    if not fleet.plain:
        text = f"{receiver} needs no mapping: the dialect {fleet.dialect} has tags already"
        raise ConfigError([text])


def lifetime(fleet: Fleet) -> int:
    """Seconds after which a series that nobody sets any more may go: some polls, and 5 minutes."""
    return max(300, round(5 * fleet.interval))
