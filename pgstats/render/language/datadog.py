"""Datadog's queries, over tags: those of the dialect dogstatsd, or of our mapper profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgstats.overview import Condition, Fleet, Level, Rule, Series

_HAIR = 1e-6


@dataclass(frozen=True, slots=True)
class Datadog:
    """Queries for one fleet; ``chosen`` are template variables, by the labels they filter."""

    fleet: Fleet
    chosen: Sequence[str] = ()

    def curve(self, series: Series) -> str:
        """What a widget draws.

        What is not sent is not repeated here, so an age need not be known: the time of the last
        success moves by a second a second, or is not there.
        """
        text = self._combined(series)
        if series.rate:
            text = f"clamp_min(per_second({text}), 0)"
        elif series.age:
            text = f"per_second({text})"
        text = f"cutoff_min({text}, {_HAIR})" if series.lit else text
        return f"top({text}, {series.top}, 'max', 'desc')" if series.top else text

    def _combined(self, series: Series, keys: tuple[str, ...] | None = None) -> str:
        name = ".".join(filter(None, (self.fleet.prefix, series.metric)))
        scope = ",".join(self._scope(series)) or "*"
        by = series.keys if keys is None else keys
        grouped = f" by {{{','.join(by)}}}" if by else ""
        return f"{series.how}:{name}{{{scope}}}{grouped}"

    def _scope(self, series: Series) -> list[str]:
        found = [f"${label}" for label in self.chosen if label in series.chosen_by]
        for label, value in series.where.items():
            found.append(f"!{label}:{value[1:]}" if value[0] == "!" else f"{label}:{value}")
        return found

    def firing(self, rule: Rule, level: Level) -> str:
        """The value of a rule, not there where it must say nothing.

        Both sides of an operator need the same groups: a share of something about a whole target is
        about that, and what else is about whole targets is left out where rows are meant.
        """
        series = rule.series
        keys = series.whole[0].keys if series.per else series.keys
        text = self._value(series, keys)
        if series.per:
            below = " + ".join(self._value(one, keys) for one in series.whole)
            text = f"{text} / ({below})"
        for condition in (rule.size, *level.also, *(one.negated() for one in rule.muted)):
            if set(keys) <= set(condition.series.keys):
                text += f" * {self._kept(condition, keys)}"
        return text

    def _value(self, series: Series, keys: tuple[str, ...]) -> str:
        text = self._combined(series, keys)
        return f"clamp_min(per_second({text}), 0)" if series.rate else text

    def _kept(self, condition: Condition, keys: tuple[str, ...]) -> str:
        """1 where a condition holds, else nothing."""
        text = self._value(condition.series, keys)
        cut, limit = ("cutoff_min", condition.limit)
        if condition.sign == "<":
            cut, limit = ("cutoff_max", condition.limit - _HAIR)
        return f"(({cut}({text}, {limit:.12g}) + 1) / ({text} + 1))"
