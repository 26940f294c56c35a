"""Graphite's functions, over dotted names or over tags, as the dialect makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pgstats.errors import ConfigError
from pgstats.model import SELF
from pgstats.overview import Condition, Fleet, Level, Rule, Series

#: Graphite keeps values up to a limit or from it on, never those below it: a hair less will do.
_HAIR = 1e-6

#: Seconds between two flushes of statsd, unless set.
_FLUSH = 10


@dataclass(frozen=True, slots=True)
class Graphite:
    """Expressions for one fleet.

    ``chosen`` are values of labels: globs where names are dotted, regular expressions for tags.
    """

    fleet: Fleet
    chosen: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.fleet.dialect == "influx":
            raise ConfigError(["names in the dialect influx do not reach Graphite; plain do"])

    # ---- what panels draw

    def curves(self, series: Series) -> list[str]:
        """The expressions that a panel draws, with a name for each curve."""
        if series.age:
            return [f'alias({self._age(series, name)}, "{name}")' for name in self.fleet.targets]
        text = self._rows(series) if series.by is None else self._combined(series)
        if series.lit:
            text = f"maximumAbove({text}, 0)"
        if series.top:
            text = f"highestAverage({text}, {series.top})"
        if not series.keys:
            return [f'alias({text}, "{series.title}")']
        if series.by is None:
            text = f"aliasByNode({text}, {self._nodes(series)})"
        return [f'aliasSub({text}, "$", " {series.title}")']

    def _age(self, series: Series, target: str) -> str:
        one = replace(self, chosen={**self.chosen, "target": target})
        then = f"removeBelowValue({one._path(series)}, 1)"
        # A difference would take an unknown time for 0; a quotient is unknown with it.
        quotient = f'divideSeries(timeFunction("now", 10), {then})'
        return f"multiplySeries({then}, offset({quotient}, -1))"

    # ---- rows, and what is made of them

    def _combined(self, series: Series) -> str:
        """The rows that agree in the keys of a series, put together."""
        text, nodes = self._rows(series), self._nodes(series)
        how = series.how
        return f'groupByNodes({text}, "{how}", {nodes})' if nodes else f"{how}Series({text})"

    def _rows(self, series: Series) -> str:
        text = self._path(series)
        for value in series.where.values() if self.fleet.plain else ():
            if value.startswith("!"):
                text = f'exclude({text}, "\\.{value[1:]}\\.")'
        return self._rate(text) if series.rate else text

    def _rate(self, text: str) -> str:
        """Growth per second: over a poll, where statsd repeats a total in between."""
        seconds = round(self.fleet.interval)
        text = f"perSecond({text})"
        return f'movingAverage({text}, "{seconds}s")' if seconds > _FLUSH else text

    # ---- names

    def _path(self, series: Series) -> str:
        return self._dotted(series) if self.fleet.plain else self._tagged(series)

    def _levels(self, series: Series) -> list[tuple[str, str]]:
        """The levels of a dotted name, each with the label that it is the value of."""
        query = series.query
        target = [("target", "")] if query.family != SELF else []
        head = [("", part) for part in f"{self.fleet.under}.{self.fleet.prefix}".split(".") if part]
        group = [("", query.group)] if query.group else []
        labels = [(label, "") for label in query.labels]
        return [*head, ("", query.family), *target, *group, *labels, ("", series.entry.name)]

    def _dotted(self, series: Series) -> str:
        def level(label: str, text: str) -> str:
            wanted = series.where.get(label, "!")
            return text or (self.chosen.get(label, "*") if wanted.startswith("!") else wanted)

        return ".".join(level(label, text) for label, text in self._levels(series))

    def _tagged(self, series: Series) -> str:
        name = ".".join(filter(None, (self.fleet.under, self.fleet.prefix, series.metric)))
        conditions = [f"name={name}"]
        chosen = [label for label in series.chosen_by if label in self.chosen]
        conditions += [f"{label}=~^({self.chosen[label]})$" for label in chosen]
        conditions += [
            f"{label}{'!=' if value[0] == '!' else '='}{value.lstrip('!')}"
            for label, value in series.where.items()
        ]
        return f"seriesByTag({', '.join(map(_quoted, conditions))})"

    def _nodes(self, series: Series) -> str:
        """Where the keys of a series stand in its name, or the names of the tags."""
        if not self.fleet.plain:
            return ", ".join(map(_quoted, series.keys))
        levels = [label for label, _ in self._levels(series)]
        return ", ".join(str(levels.index(key)) for key in series.keys if key != "peer")

    # ---- rules

    def firing(self, rule: Rule, level: Level) -> str:
        """How far a value is from its limit: bad below 0, unknown where the rule says nothing.

        Where part of it is about whole targets, it is the worst of all rows of a target. The
        distance is the only thing that can be below 0: what is missing leaves a 1.
        """
        series = rule.series
        if series.age:
            return self._distance(self._value(series), rule, level)
        factors = [(self._value(series), series.keys)]
        if series.per:
            factors.append((f"invert({self._sum(series.whole)})", series.whole[0].keys))
        rows, whole = _parted(factors, series.keys)
        keys = series.keys
        if whole:
            keys = _of_target(keys)
            rows = [self._again(self._product(rows, series.keys), "max", series.keys, keys), *whole]
        distance = self._distance(self._product(rows, keys), rule, level)
        conditions = (rule.size, *level.also, *(one.negated() for one in rule.muted))
        masks = [self._kept(one, keys) for one in conditions]
        rows, whole = _parted([(distance, keys), *masks], keys)
        text = self._product(rows, keys)
        if not whole:
            return text
        text = self._again(text, "min", keys, _of_target(keys))
        return self._product([text, *whole], _of_target(keys))

    @staticmethod
    def _distance(text: str, rule: Rule, level: Level) -> str:
        if rule.sign == "<":
            return f"offset({text}, {-level.limit:.12g})"
        return f"offset(scale({text}, -1), {level.limit - _HAIR:.12g})"

    def _value(self, series: Series) -> str:
        """The rows of a series, put together by its keys."""
        if not series.age:
            return self._combined(series)
        ages = ", ".join(
            f'alias({self._age(series, name)}, "{name}")' for name in self.fleet.targets
        )
        return f"group({ages})"

    def _sum(self, several: Sequence[Series]) -> str:
        texts = [self._combined(one) for one in several]
        keys = several[0].keys
        return (
            self._again(f"group({', '.join(texts)})", "sum", keys, keys) if texts[1:] else texts[0]
        )

    def _product(self, texts: Sequence[str], keys: tuple[str, ...]) -> str:
        """The product of series that agree in their keys, unknown where one is."""
        several = f"group({', '.join(texts)})"
        return self._again(several, "multiply", keys, keys) if texts[1:] else texts[0]

    def _kept(self, condition: Condition, keys: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        """1 where a condition holds, else unknown; and its keys: no others than the rule's."""
        own = condition.series.keys
        text = self._value(condition.series)
        if condition.sign == ">=":
            text = f"pow(removeBelowValue({text}, {condition.limit:.12g}), 0)"
        else:
            text = f"pow(removeAboveValue({text}, {condition.limit - _HAIR:.12g}), 0)"
        if set(own) <= set(keys):
            return text, own
        return self._again(text, "max", own, keys), keys

    def _again(self, text: str, how: str, keys: tuple[str, ...], kept: tuple[str, ...]) -> str:
        """Group once more: by then a name is nothing but its keys."""
        there = [key for key in keys if key != "peer"] if self.fleet.plain else list(keys)
        names = [key for key in kept if key in there]
        nodes = [str(there.index(key)) if self.fleet.plain else _quoted(key) for key in names]
        return (
            f'groupByNodes({text}, "{how}", {", ".join(nodes)})'
            if nodes
            else f"{how}Series({text})"
        )


def _parted(
    factors: Sequence[tuple[str, tuple[str, ...]]], keys: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    """What is about the rows with these keys, and what is about whole targets."""
    rows = [text for text, own in factors if own == keys]
    return rows, [text for text, own in factors if own != keys]


def _of_target(keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(key for key in keys if key in ("target", "peer"))


def _quoted(text: str) -> str:
    return f'"{text}"'
