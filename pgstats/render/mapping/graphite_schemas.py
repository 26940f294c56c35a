"""Graphite: how long what is kept."""

from __future__ import annotations

import re

from pgstats.overview import Fleet

_TEXT = """\
# Made by `pgstats mapping graphite-schemas`: to be put into storage-schemas.conf, above [default].
# The first step is statsd's flushInterval, 10 s unless set.
[{name}]
pattern = ^{pattern}\\.
retentions = 10s:2d,1m:30d,10m:2y
"""


def render(fleet: Fleet) -> str:
    """The entry."""
    top = ".".join(filter(None, (fleet.under, fleet.prefix)))
    return _TEXT.format(name=fleet.prefix, pattern=re.escape(top))
