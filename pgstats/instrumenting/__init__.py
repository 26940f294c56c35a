"""Measures any callable and ships how it fares: `pgstats.instrument`.

The pollers' own jobs are measured by the same parts, over their own wire.
"""

from pgstats.instrumenting.courier import Courier
from pgstats.instrumenting.public import instrument
from pgstats.instrumenting.wrapping import Teller, wrapped

__all__ = ["Courier", "Teller", "instrument", "wrapped"]
