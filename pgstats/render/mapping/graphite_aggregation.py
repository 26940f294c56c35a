"""Graphite: what becomes of numbers when they are kept in larger steps."""

from __future__ import annotations

import re
from collections import defaultdict

from pgstats.model import Metric
from pgstats.overview import METRICS, Fleet

_HEAD = """\
# Made by `pgstats mapping graphite-aggregation`: to be put into storage-aggregation.conf, above
# [default_average]. A minute that was down once was down; peaks stay; totals end where they end.
"""
_ENTRY = """
[{name}_{method}]
pattern = ^{pattern}\\.{metrics}(;|$)
xFilesFactor = 0
aggregationMethod = {method}
"""

#: Numbers of which the worst moment counts.
_PEAKS = {"seconds", "ms", "ratio", "xids", "mxids"}
_GOOD = {"up", "ok", "rights_ok"}


def render(fleet: Fleet) -> str:
    """The entries, the most particular first."""
    methods: dict[str, set[str]] = defaultdict(set)
    for _, metric in METRICS.values():
        methods[_method(metric)].add(metric.name)
    top = re.escape(".".join(filter(None, (fleet.under, fleet.prefix))))
    texts = {
        method: rf"(.*\.)?({'|'.join(sorted(methods[method]))})"
        for method in ("min", "last", "max")
    }
    return _HEAD + "".join(
        _ENTRY.format(name=fleet.prefix, method=method, pattern=top, metrics=text)
        for method, text in (texts | {"average": "[^;]*"}).items()
    )


def _method(metric: Metric) -> str:
    if metric.name in _GOOD:
        return "min"
    if metric.kind == "total" or metric.unit == "timestamp_seconds":
        return "last"
    return "max" if metric.unit in _PEAKS or "wait" in metric.name else "average"
