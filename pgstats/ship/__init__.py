"""Hands lines to statsd: the only door to the statsd package, which it extends.

The package loses, in silence, what a receiver's buffer does not hold or nobody takes. Here packets
are whole lines, paced, sent within a time limit, and what is lost is counted.
"""

from pgstats.ship.base import Paper, Wire, cure, said
from pgstats.ship.packets import cut
from pgstats.ship.transports import wire

__all__ = ["Paper", "Wire", "cure", "cut", "said", "wire"]
