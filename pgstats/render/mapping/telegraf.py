"""Telegraf: measurements, tags and fields of dotted names; fields of names with tags."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pgstats.overview import Fleet
from pgstats.render.mapping._names import Shape, shapes

_HEAD = """\
# Made by `pgstats mapping telegraf`: to be put into telegraf.conf, or beside it.
[[inputs.statsd]]
  protocol = "udp"
  service_address = "127.0.0.1:8125"
  metric_separator = "_"
  # What was not sent in an interval is not written again: a dead poller leaves a gap.
  delete_gauges = true
"""


def render(fleet: Fleet) -> str:
    """The section."""
    lines = [_HEAD]
    if fleet.dialect == "dogstatsd":
        lines.append("  datadog_extensions = true\n")
    lines.append("  templates = [\n")
    lines += [f"    {json.dumps(text)},\n" for text in templates(fleet)]
    return "".join([*lines, "  ]\n"])


def templates(fleet: Fleet) -> Iterator[str]:
    """FILTER TEMPLATE, as Telegraf and InfluxDB read them."""
    if fleet.plain:
        yield from map(_plain, shapes(fleet))
        return
    head = fleet.prefix.split(".")
    for shape in shapes(fleet):
        if not shape.group:
            names = [*head, shape.family, shape.levels[-1][1]]
            yield f"{'.'.join(names)} {_measured(len(names) - 1)}.field"
    yield f"{fleet.prefix}.*.*.* {_measured(len(head) + 2)}.field"


def _plain(shape: Shape) -> str:
    *levels, last = shape.levels
    parts = [label or "measurement" for label, _ in levels]
    names = [text or "*" for _, text in levels]
    return f"{'.'.join([*names, last[1] or '*'])} {'.'.join([*parts, 'field'])}"


def _measured(levels: int) -> str:
    return ".".join(["measurement"] * levels)
