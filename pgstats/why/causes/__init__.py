"""Every cause there is: one entry each."""

from __future__ import annotations

from pgstats.why.cause import Cause
from pgstats.why.causes import horizon, vacuum

CAUSES: tuple[Cause, ...] = (*horizon.CAUSES, *vacuum.CAUSES)
