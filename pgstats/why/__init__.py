"""Why dead rows stay: who holds them, and what keeps vacuum away. Pure: samples in, words out."""

from pgstats.why.cause import Case, over_key
from pgstats.why.gauges import frames
from pgstats.why.heaps import Heap
from pgstats.why.holders import first_seen, holders

__all__ = ["Case", "Heap", "first_seen", "frames", "holders", "over_key"]
