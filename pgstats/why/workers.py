"""Who vacuums which heap in a sample."""

from __future__ import annotations

from collections.abc import Iterator

from pgstats.evidence import Record, Sample
from pgstats.noun import Noun
from pgstats.why.heaps import Heap

WORKER = "autovacuum worker"


class Worker(Noun):
    """A worker at a heap: its session, and how far it is ({} while it waits to begin)."""

    session: Record
    progress: Record

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self.session["pid"])

    @property
    def waits_for(self) -> str:
        """The event it waits for, "" while it works."""
        return str(self.session.get("wait_event") or "")


class Crew:
    """All autovacuum workers of a sample."""

    def __init__(self, sample: Sample) -> None:
        self.sessions = [r for r in sample.rows("activity") if r.get("backend_type") == WORKER]
        self.progress = {row["pid"]: row for row in sample.rows("vacuuming")}
        self._oids = {row["datname"]: row["oid"] for row in sample.rows("databases")}

    def at(self, heap: Heap) -> Iterator[Worker]:
        """The workers at a heap; one that waits for its lock is known by its text alone."""
        text = f"autovacuum: VACUUM {heap.name}"
        for row in self.sessions:
            done = self.progress.get(row["pid"], {})
            place = (done.get("relid"), done.get("datid"))
            here = place == (heap["oid"], self._oids.get(heap.database))
            named = (row.get("datname") == heap.database and row.get("query")) or ""
            waits = not done and (named == text or named.startswith(f"{text} "))
            if here or waits:
                yield Worker(row, done)

    def busy(self) -> Iterator[Record]:
        """What each worker does, since when, and how far it is."""
        names = ("pid", "query", "xact_start", "wait_event")
        amounts = ("phase", "heap_blks_scanned", "heap_blks_total", "delay_time")
        for row in self.sessions:
            done = self.progress.get(row["pid"], {})
            shown = [(row, name) for name in names] + [(done, name) for name in amounts]
            yield {name: of[name] for of, name in shown if of.get(name) is not None}
