"""Who vacuums which heap in a sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pgstats.evidence import Record, Sample
from pgstats.why.heaps import Heap

WORKER = "autovacuum worker"


class Worker(NamedTuple):
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


def workers(sample: Sample) -> list[Record]:
    """The sessions of all autovacuum workers."""
    return [row for row in sample.rows("activity") if row.get("backend_type") == WORKER]


def at(heap: Heap, sample: Sample) -> Iterator[Worker]:
    """The workers at a heap. One that waits for its lock is in no progress view: its text tells."""
    database = next(
        (row["oid"] for row in sample.rows("databases") if row["datname"] == heap.database), None
    )
    progress = {row["pid"]: row for row in sample.rows("vacuuming")}
    text = f"autovacuum: VACUUM {heap.name}"
    for row in workers(sample):
        done = progress.get(row["pid"], {})
        here = done.get("relid") == heap["oid"] and done.get("datid") == database
        named = (row.get("datname") == heap.database and row.get("query")) or ""
        waits = not done and (named == text or named.startswith(f"{text} "))
        if here or waits:
            yield Worker(row, done)


def busy(sample: Sample) -> Iterator[Record]:
    """What each worker does, since when, and how far it is."""
    progress = {row["pid"]: row for row in sample.rows("vacuuming")}
    names = ("pid", "query", "xact_start", "wait_event")
    amounts = ("phase", "heap_blks_scanned", "heap_blks_total", "delay_time")
    for row in workers(sample):
        done = progress.get(row["pid"], {})
        shown = [(row, name) for name in names] + [(done, name) for name in amounts]
        yield {name: of[name] for of, name in shown if of.get(name) is not None}


def seen(heap: Heap, samples: tuple[Sample, ...]) -> list[list[Worker]]:
    """The workers at a heap in each sample."""
    return [list(at(heap, sample)) for sample in samples]
