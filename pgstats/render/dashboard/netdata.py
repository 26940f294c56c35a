"""An application of netdata's statsd plugin: a chart for each panel and target."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pgstats.errors import ConfigError
from pgstats.model import PGBOUNCER, POSTGRES
from pgstats.overview import PANELS, Fleet, Panel, Series

_HEAD = """\
# Charts of {prefix} for netdata, made by `pgstats dashboard netdata`: to be put into statsd.d/.
# netdata shows gauges as they come: totals, whose growth counts, and ages are on other dashboards.
# A poller that has died leaves gaps.

[app]
  name = {prefix}
  metrics = {prefix}.*
  private charts = no
  gaps when not collected = yes
"""


def render(fleet: Fleet) -> str:
    """The file."""
    if not fleet.plain:
        raise ConfigError(["netdata reads no tags: its charts need the dialect plain"])
    return _HEAD.format(prefix=fleet.prefix) + "".join(_charts(fleet))


def _charts(fleet: Fleet) -> Iterator[str]:
    names = {PGBOUNCER: fleet.pgbouncer, POSTGRES: fleet.postgres, "self": fleet.targets}
    for number, panel in enumerate(PANELS):
        for family, targets in names.items():
            series = [one for one in panel.series if one.query.family == family and _fits(one)]
            whole = [one for one in series if not one.targeted]
            if rest := [one for one in series if one.targeted]:
                yield from (_chart(fleet, number, panel, rest, target) for target in targets)
            if whole:
                yield _chart(fleet, number, panel, whole, "")


def _fits(series: Series) -> bool:
    return not series.rate and not series.age


def _chart(fleet: Fleet, number: int, panel: Panel, series: list[Series], target: str) -> str:
    family = series[0].query.family
    title = panel.title.replace(",", "")
    dimensions = "".join(f"  dimension = {_dimension(fleet, one, target)}\n" for one in series)
    return f"""
[{_name(panel.title)}_{family}_{_name(target) or "all"}]
  name = {_name(panel.title)}_{_name(target) or family}
  title = {title}{f" of {target}" if target else ""}
  family = {target or family}
  context = {_name(fleet.prefix)}.{family}.{_name(panel.title)}
  units = {panel.unit or "count"}
  priority = {91000 + number}
  type = line
{dimensions}"""


def _dimension(fleet: Fleet, series: Series, target: str) -> str:
    """The metrics that match: netdata calls each as it is called itself, less what is the same."""
    query = series.query
    levels = [series.where.get(label, "*") for label in query.labels]
    if query.family == "self":
        parts = [fleet.prefix, "self", query.group, target]
    else:
        parts = [fleet.prefix, query.family, target, query.group, *levels]
    name = ".".join(filter(None, (*parts, series.entry.name)))
    pattern = "pattern " if "*" in name else ""
    return f"{pattern}'{name}' '{'' if pattern else series.title}' last"


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).lower().strip("_")
