"""InfluxQL, over the measurements, tags and fields that Telegraf makes with our templates."""

from __future__ import annotations

from dataclasses import dataclass

from pgstats.overview import Fleet, Series
from pgstats.render.language.promql import metric_name

_TIME = "time($__interval)"


@dataclass(frozen=True, slots=True)
class InfluxQL:
    """Queries for one fleet, in the form that Grafana fills in."""

    fleet: Fleet

    def curve(self, series: Series) -> str:
        """What a panel draws: the last value of each row in an interval, then its curves."""
        rows = (*(("target", "peer") if series.targeted else ()), *series.labels)
        value = f'last("{series.entry.name}")'
        if series.rate:
            value = f"non_negative_derivative({value}, 1s)"
        elif series.age:
            value = f"{value} * 1000"  # Grafana makes an age of a time in milliseconds
        source = f'FROM "{self.measurement(series)}" WHERE {self._where(series)}'
        inner = f'SELECT {value} AS "v" {source} GROUP BY {_by(rows)} fill(none)'
        if series.by is None:
            return inner
        outer = f'SELECT {series.how}("v") FROM ({inner}) WHERE $timeFilter'  # noqa: S608
        return f"{outer} GROUP BY {_by(series.keys)} fill(none)"

    def measurement(self, series: Series) -> str:
        """PREFIX_FAMILY_GROUP; the metric is the field."""
        return metric_name(self.fleet.prefix, series.query.family, series.query.group)

    def alias(self, series: Series) -> str:
        """What Grafana calls a curve."""
        return " ".join([*(f"$tag_{key}" for key in series.keys if key != "peer"), series.title])

    def _where(self, series: Series) -> str:
        chosen = [label for label in ("target", "database") if label in series.chosen_by]
        conditions = ["$timeFilter", *(f'"{label}" =~ /^${label}$/' for label in chosen)]
        conditions += [
            f"\"{label}\" {'!=' if value[0] == '!' else '='} '{value.lstrip('!')}'"
            for label, value in series.where.items()
        ]
        conditions += [f'"{series.entry.name}" > 0'] if series.lit else []
        return " AND ".join(conditions)


def _by(keys: tuple[str, ...]) -> str:
    return ", ".join([_TIME, *(f'"{key}"' for key in keys)])
