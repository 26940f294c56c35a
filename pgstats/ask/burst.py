"""Several looks at the pools within one poll: a cron job sees the peaks between its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pgstats.catalogue.pgbouncer import BURST, BURST_OF, POOLS
from pgstats.model import Frame, Number, Row, Target
from pgstats.noun import Noun


class Burst(Noun):
    """How many samples, and the seconds between them."""

    times: int
    every: float

    @property
    def seconds(self) -> float:
        """How long all samples take."""
        return (self.times - 1) * self.every


def peaks(samples: Sequence[Frame], target: Target) -> Frame:
    """Least, mean, greatest and 95th percentile of each pool's numbers over the samples.

    A pool that is not in a sample has nothing waiting and nothing active there. A column that no
    sample has is left out.
    """
    tables = [_by_pool(sample, len(POOLS.labels)) for sample in samples]
    pools = dict.fromkeys(pool for table in tables for pool in table)
    told = {metric.name for sample in samples for metric in sample.metrics}
    columns = [name for name in BURST_OF if name in told]
    rows = [
        (*pool, *(number for name in columns for number in _summary(_seen(tables, pool, name))))
        for pool in pools
    ]
    each = len(BURST.metrics) // len(BURST_OF)
    starts = [each * BURST_OF.index(name) for name in columns]
    metrics = tuple(metric for at in starts for metric in BURST.metrics[at : at + each])
    return target.frame(BURST, metrics, rows)


def _seen(
    tables: Sequence[Mapping[Row, Mapping[str, Number]]], pool: Row, name: str
) -> list[Number]:
    """A pool's numbers in order, without those that are unknown."""
    found = (table[pool].get(name) if pool in table else 0 for table in tables)
    return sorted(number for number in found if number is not None)


def _by_pool(sample: Frame, width: int) -> dict[Row, dict[str, Number]]:
    names = [metric.name for metric in sample.metrics]
    return {
        row[:width]: {name: v for name, v in zip(names, row[width:], strict=True) if v is not None}
        for row in sample.rows
    }


def _summary(ordered: Sequence[Number]) -> tuple[Number | None, ...]:
    """Of values in order; the percentile is the nearest rank, so always one that was seen."""
    if not ordered:
        return (None,) * 4
    rank = max(0, -(-len(ordered) * 95 // 100) - 1)
    return ordered[0], round(sum(ordered) / len(ordered), 6), ordered[-1], ordered[rank]
