"""What people look at and are woken by, as data: panels, alert rules, and what is left out.

Every name in them is one of the catalogue. How a receiver is asked for it is not known here.
"""

from __future__ import annotations

from pgstats.overview.fleet import Fleet
from pgstats.overview.left_out import LEFT_OUT
from pgstats.overview.panels import PANELS, ROWS, Panel, Row
from pgstats.overview.rules import RULES, Condition, Level, Rule
from pgstats.overview.series import METRICS, Series

__all__ = [
    "LEFT_OUT",
    "METRICS",
    "PANELS",
    "ROWS",
    "RULES",
    "Condition",
    "Fleet",
    "Level",
    "Panel",
    "Row",
    "Rule",
    "Series",
]
