"""Several looks at the pools within one poll: a cron job sees the peaks between its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from pgstats.catalogue.pgbouncer import BURST, BURST_OF, POOLS
from pgstats.model import Frame, Number, Row, Target


@dataclass(frozen=True, slots=True)
class Burst:
    """How many samples, and the seconds between them."""

    times: int
    every: float

    @property
    def seconds(self) -> float:
        """How long all samples take."""
        return (self.times - 1) * self.every


def peaks(samples: Sequence[Frame], target: Target) -> Frame:
    """Least, mean, greatest and 95th percentile of each pool's numbers over the samples.

    A pool that is not in a sample has nothing waiting and nothing active there.
    """
    width = len(POOLS.labels)
    tables = [_by_pool(sample, width) for sample in samples]
    pools = dict.fromkeys(pool for table in tables for pool in table)
    rows = []
    for pool in pools:
        series = [table.get(pool, {}) for table in tables]
        columns = [sorted(found.get(name, 0) for found in series) for name in BURST_OF]
        rows.append((*pool, *(number for column in columns for number in _summary(column))))
    return Frame(BURST, BURST.metrics, rows, target.name, target.also)


def _by_pool(sample: Frame, width: int) -> dict[Row, dict[str, Number]]:
    names = [metric.name for metric in sample.metrics]
    return {
        row[:width]: {name: v for name, v in zip(names, row[width:], strict=True) if v is not None}
        for row in sample.rows
    }


def _summary(ordered: Sequence[Number]) -> tuple[Number, Number, Number, Number]:
    """Of values in order; the percentile is the nearest rank, so always one that was seen."""
    rank = max(0, -(-len(ordered) * 95 // 100) - 1)
    return ordered[0], round(fmean(ordered), 6), ordered[-1], ordered[rank]
