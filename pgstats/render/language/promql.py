"""PromQL, over the names that statsd_exporter gives with our mapping, or from tags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pgstats.overview import Condition, Fleet, Level, Rule, Series

#: How far back the time of a last success is looked for: statsd_exporter forgets idle series.
_MEMORY = "6h"


@dataclass(frozen=True, slots=True)
class PromQL:
    """Expressions for one fleet. ``chosen`` are regular expressions for the values of labels."""

    fleet: Fleet
    chosen: Mapping[str, str] = field(default_factory=dict)

    def curve(self, series: Series) -> str:
        """What a panel draws."""
        text = f"{self.value(series)} > 0" if series.lit else self.value(series)
        return f"topk({series.top}, {text})" if series.top else text

    def value(self, series: Series) -> str:
        """The series, combined and divided as it says."""
        text = self._combined(series)
        if not series.per:
            return text
        whole = series.whole
        below = " + ".join(map(self._combined, whole))
        below = f"({below})" if len(whole) > 1 else below
        shared = tuple(key for key in series.keys if key in whole[0].keys)
        match = f" on ({', '.join(shared)}) group_left ()" if shared != series.keys else ""
        return f"{text} /{match} {below}"

    def _combined(self, series: Series) -> str:
        text = self._rows(series)
        return f"{series.how} by ({', '.join(series.keys)}) ({text})"

    def _rows(self, series: Series) -> str:
        text = f"{self.name(series)}{self._selector(series)}"
        if series.rate:
            return f"rate({text}[{self._window()}])"
        if series.age:
            return f"time() - (last_over_time({text}[{_MEMORY}]) > 0)"
        return text

    def _window(self) -> str:
        return f"{max(60, round(4 * self.fleet.interval))}s"

    def name(self, series: Series) -> str:
        """The metric's name: what a label may not hold is `_`."""
        return metric_name(self.fleet.prefix, series.metric)

    def _selector(self, series: Series) -> str:
        chosen = [label for label in series.chosen_by if label in self.chosen]
        pairs = [f'{label}=~"{self.chosen[label]}"' for label in chosen]
        for label, value in series.where.items():
            sign = "!=" if value.startswith("!") else "="
            pairs.append(f'{label}{sign}"{value.removeprefix("!")}"')
        return f"{{{','.join(pairs)}}}" if pairs else ""

    def firing(self, rule: Rule, level: Level) -> str:
        """The condition of a rule at one level, a line for each part."""
        keys = rule.series.keys
        lines = [f"{self.value(rule.series)} {rule.sign} {level.limit:.12g}"]
        lines += [f"and {self._also(one, keys)}" for one in (rule.size, *level.also)]
        lines += [f"unless {self._also(one, keys)}" for one in rule.muted]
        return "\n".join(lines)

    def _also(self, condition: Condition, keys: tuple[str, ...]) -> str:
        shared = [key for key in condition.series.keys if key in keys]
        text = f"{self.value(condition.series)} {condition.sign} {condition.limit:.12g}"
        return f"on ({', '.join(shared)}) {text}"


def metric_name(*parts: str) -> str:
    """What statsd_exporter makes of a name: letters, digits and underscores."""
    return re.sub(r"[^A-Za-z0-9_]", "_", ".".join(filter(None, parts)))
