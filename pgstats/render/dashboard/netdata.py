"""An application of netdata's statsd plugin: a chart for each panel and target."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pgstats.errors import ConfigError
from pgstats.model import PGBOUNCER, POSTGRES, SELF
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
    names = {PGBOUNCER: fleet.pgbouncer, POSTGRES: fleet.postgres, SELF: fleet.targets}
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
    """The gauges of a metric. netdata calls each by the name here and what the star stands for."""
    query = series.query
    rows = ["*"] if series.labels else []
    where = [target, query.group] if query.family != SELF else [query.group, target]
    name = ".".join(filter(None, (fleet.prefix, query.family, *where, *rows, series.entry.name)))
    if rows:
        return f"pattern '{name}' '{series.title}.' last"
    return f"'{name}' '{series.title}' last"


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).lower().strip("_")
