"""Which rows of a metric are meant, and how they are combined: the words of panels and rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pgstats.catalogue import QUERIES
from pgstats.model import PGBOUNCER, SELF, Metric, Query

#: Every metric by FAMILY.GROUP.METRIC; of those that servers' versions give in different ways, one.
METRICS: Mapping[str, tuple[Query, Metric]] = {
    ".".join(filter(None, (query.family, query.group, metric.name))): (query, metric)
    for query in QUERIES
    for metric in query.metrics
}


@dataclass(frozen=True, slots=True)
class Series:
    """Rows of one metric: a curve for each combination of the labels ``by``, and each target.

    Without ``by`` every row is one; else those that share these labels are combined as ``how``
    says (sum, max, min). ``where`` chooses rows by a label's value, "!x" all but those with x.
    ``per`` are metrics whose sum the value is divided by. Of many curves the ``top`` are shown,
    of ``lit`` ones those above 0. A total is its growth per second, unless ``raw``; the time of
    something is its age.
    """

    metric: str
    by: tuple[str, ...] | None = None
    how: str = "max"
    where: Mapping[str, str] = field(default_factory=dict)
    per: tuple[str, ...] = ()
    top: int = 0
    raw: bool = False
    lit: bool = False

    @property
    def query(self) -> Query:
        """The entry of its group in the catalogue."""
        return METRICS[self.metric][0]

    @property
    def entry(self) -> Metric:
        """The entry of its metric."""
        return METRICS[self.metric][1]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of its rows, without the target."""
        return tuple(label for label in self.query.labels if label != "target")

    @property
    def kept(self) -> tuple[str, ...]:
        """The labels that tell its curves apart, without the target."""
        return self.labels if self.by is None else self.by

    @property
    def targeted(self) -> bool:
        """Whether it speaks of a target rather than of pgstats as a whole."""
        return self.query.family != SELF or "target" in self.query.labels

    @property
    def chosen_by(self) -> tuple[str, ...]:
        """Every label that its rows can be chosen by, the target first."""
        return (*(("target",) if self.targeted else ()), *self.labels)

    @property
    def keys(self) -> tuple[str, ...]:
        """Every label that tells its curves apart.

        The processes behind one port, and their sum, are one target with the tag ``peer``.
        """
        peer = ("peer",) if self.query.family == PGBOUNCER else ()
        return (*(("target",) if self.targeted else ()), *peer, *self.kept)

    @property
    def whole(self) -> tuple[Series, ...]:
        """What it is a share of: these series added up, by as many of its labels as they have."""
        wholes = (Series(metric, how=self.how) for metric in self.per)
        return tuple(
            replace(one, by=tuple(label for label in self.kept if label in one.labels))
            for one in wholes
        )

    @property
    def rate(self) -> bool:
        """Whether its growth per second is meant."""
        return self.entry.kind == "total" and not self.raw

    @property
    def age(self) -> bool:
        """Whether the time since then is meant."""
        return self.entry.unit == "timestamp_seconds" and not self.raw

    @property
    def unit(self) -> str:
        """The unit of what is shown."""
        if self.per:
            return "ratio"
        unit = "seconds" if self.age else self.entry.unit
        return f"{unit or 'count'}_per_second" if self.rate else unit

    @property
    def title(self) -> str:
        """What tells it from the other curves of a panel, besides its labels."""
        return self.entry.name
