"""What a cause is, and what is known when one is looked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from pgstats.evidence import Client, Holder, Record, Remedy, Sample
from pgstats.noun import Noun
from pgstats.why.heaps import Heap
from pgstats.why.holders import holders, label, owners
from pgstats.why.workers import Crew

#: Seconds from which on a hold counts though it was seen only once.
PATIENCE = 60.0


def over_key(database: str, oid: object) -> str:
    """The key of `Case.seen` for a table that is over its threshold."""
    return f"over {database} {oid}"


class Case:
    """All that is known of one cluster.

    ``samples`` are the oldest first, at least one. ``heaps`` are those asked about, or all that are
    over their threshold; None where nobody looked (in a poll). ``seen`` tells since when each hold
    has been there, by `holders.label`, as far as anybody remembers.
    """

    def __init__(
        self,
        target: str,
        samples: Sequence[Sample],
        heaps: Sequence[Heap] | None = None,
        *,
        seen: Mapping[str, float] = {},
        asked: str = "",
        database: str = "",
        standbys: Mapping[str, Sample] = {},
    ) -> None:
        self.target = target
        self.samples = samples
        self.heaps = heaps
        self.seen = seen
        self.asked = asked
        self.database = database
        self.standbys = standbys

    @property
    def last(self) -> Sample:
        """The newest sample."""
        return self.samples[-1]

    @cached_property
    def every(self) -> list[list[Holder]]:
        """Everybody who holds something in each sample, oldest first."""
        return [holders(sample) for sample in self.samples]

    @cached_property
    def owners(self) -> list[dict[int, tuple[str, str]]]:
        """Who runs each transaction in each sample: the key of a holder, and the database."""
        return [owners(sample) for sample in self.samples]

    @cached_property
    def shared(self) -> Counter[int]:
        """How many need the same transaction in the newest sample."""
        return Counter(holder.xid for holder in self.every[-1])

    @cached_property
    def steady(self) -> list[Holder]:
        """The holders that count, oldest first: the same in all samples, or old enough.

        Never by the age in transactions: one large UPDATE after the snapshot makes that 1.
        """
        return [h for h in self.every[-1] if h.hold in self._always or self._lasts(h)]

    @cached_property
    def passing(self) -> list[Holder]:
        """The holders that one look does not tell from those that are gone in a moment."""
        return [h for h in self.every[-1] if len(self.samples) == 1 and h not in self.steady]

    @cached_property
    def _always(self) -> set[tuple[str, int]]:
        """The holds that were there whenever somebody looked, if that was more than once."""
        holds = [{holder.hold for holder in found} for found in self.every]
        return set.intersection(*holds) if len(holds) > 1 else set()

    def owner(self, holder: Holder) -> tuple[str, str] | None:
        """Who owns the transaction that a holder needs, if that is somebody else."""
        found = self.owners[-1].get(holder.xid)
        return found if found and found[0] != holder.key else None

    def began(self, holder: Holder) -> float | None:
        """When a hold began, or was first seen; None where that is unknown."""
        known = [when for when in (holder.since, self.seen.get(label(holder))) if when is not None]
        return min(known, default=None)

    def keeps(self, holder: Holder, heap: Heap) -> bool:
        """Whether a holder keeps dead rows of a heap: too many, or such as a vacuum has left.

        From 14 on what is temporary is kept by its own session alone.
        """
        if holder.database not in ("", heap.database) or (holder.catalogs and not heap.is_catalog):
            return False
        if heap["persistent"] == "t" and self.last.version >= 140000:
            return False
        return heap.over or (heap.dead > 0 and self._left(holder, heap))

    def kept(self, holder: Holder) -> list[Heap]:
        """The heaps of which a holder keeps dead rows."""
        scope = holder.database, holder.catalogs
        if scope not in self._over:
            self._over[scope] = [h for h in self.heaps or () if h.over and self.keeps(holder, h)]
        few = (heap for heap in self.heaps or () if heap.dead and not heap.over)
        return [*self._over[scope], *(heap for heap in few if self.keeps(holder, heap))]

    @cached_property
    def _over(self) -> dict[tuple[str, bool], list[Heap]]:
        """By what a holder holds: the heaps over their threshold that it keeps."""
        return {}

    @cached_property
    def first(self) -> list[Holder]:
        """Of those that count, and hold the same: who began first."""
        found: dict[tuple[str, bool], Holder] = {}
        for holder in sorted(self.steady, key=lambda one: self.began(one) or float("inf")):
            found.setdefault((holder.database, holder.catalogs), holder)
        return list(found.values())

    @cached_property
    def crews(self) -> list[Crew]:
        """The workers in each sample."""
        return [Crew(sample) for sample in self.samples]

    def in_vain(self, holder: Holder, heap: Heap) -> bool:
        """Whether a vacuum of a heap ended since a holder began, which keeps its rows."""
        began = self.began(holder)
        since = began is not None and heap.last_vacuum is not None and heap.last_vacuum > began
        return since and self.keeps(holder, heap)

    def over_since(self, heap: Heap) -> float:
        """Since when a heap has been over its threshold, as far as anybody knows.

        A poll does not see that a vacuum came and the rows died anew before the next one.
        """
        known = self.seen.get(over_key(heap.database, heap["owner"]), self.samples[0].at)
        return max(known, heap.last_vacuum or known)

    def _left(self, holder: Holder, heap: Heap) -> bool:
        """Whether a vacuum left rows: one that ended just now, or one by hand since a hold."""
        began, by_hand = self.began(holder), heap["last_vacuum"]
        return heap.vacuumed or bool(began and by_hand and by_hand > began)

    def _lasts(self, holder: Holder) -> bool:
        """Whether one look is enough: it is old, nobody moves it, or vacuum came in vain."""
        began = self.began(holder)
        if began is None:  # a slot that nobody reads
            return holder.row.get("active") is False
        if self.last.at - began >= PATIENCE:
            return True
        alone = len(self.samples) == 1 and self.owner(holder) is None
        return alone and any(heap.over and self.in_vain(holder, heap) for heap in self.heaps or ())


class Found(Noun):
    """One cause at work: what proves it, whom it hits, and what would end it.

    ``evidence`` is by the names of the columns it comes from; ``values`` are further words for the
    texts; ``summary`` and ``remedies`` go before those of the cause. ``tables`` are written
    database.schema.table. ``root`` is who is behind the holder. ``alone`` says how many rows could
    go if this alone ended (None: nobody knows), ``next`` who holds them then. ``sessions`` are the
    culprit and who is behind it; ``client`` and ``blocker`` are their applications, once traced.
    """

    cause: Cause
    severity: str
    evidence: Record
    values: Mapping[str, Any] = {}
    summary: str = ""
    remedies: tuple[Remedy, ...] = ()
    tables: tuple[str, ...] = ()
    rows: int = 0
    holder: Holder | None = None
    since: float | None = None
    since_known: bool = False
    witnesses: int = 0
    root: str = ""
    alone: int | None = None
    next: str = ""
    sessions: tuple[Record, ...] = ()
    client: Client | None = None
    blocker: Client | None = None
    limits: tuple[str, ...] = ()


class Cause(Noun):
    """One reason why dead rows stay.

    ``detect`` finds it in a `Case`. ``summary``, ``remedies`` and ``prevention`` are templates over
    evidence and values (`filling.filled`). A ``cheap`` one needs no heaps, and is counted at every
    poll. ``severities`` are all it can have, the usual one first; ``needs`` are the views without
    which nobody can tell.
    """

    id: str
    help: str
    severities: tuple[str, ...]
    detect: Callable[[Cause, Case], Iterable[Found]]
    summary: str
    remedies: tuple[Remedy, ...] = ()
    prevention: tuple[str, ...] = ()
    cheap: bool = False
    needs: tuple[str, ...] = ()
    since: int = 0
    until: int = 0

    @property
    def severity(self) -> str:
        """The usual severity."""
        return self.severities[0]

    def on(self, version: int) -> bool:
        """Whether a server of that version can have it."""
        return self.since <= version and not 0 < self.until <= version
