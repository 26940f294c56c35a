"""Why dead rows stay: who holds them, and what keeps vacuum away. Pure: samples in, words out."""

from pgstats.why.gauges import frames

__all__ = ["frames"]
