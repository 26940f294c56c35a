"""How receivers read our mappings: statsd_exporter, the Datadog Agent, Telegraf.

Small, and only as much of each language as the mappings use.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

Named = tuple[str, frozenset[tuple[str, str]]]


def globbed(entry: Mapping[str, Any], tags: str, name: str) -> Named | None:
    """A name by one glob: ``*`` is one level, ``${1}`` what the first of them stands for."""
    pattern = "".join("([^.]*)" if part == "*" else re.escape(part) for part in _parts(entry))
    found = re.fullmatch(pattern, name)
    if not found:
        return None

    def filled(text: str) -> str:
        return re.sub(r"\$\{(\d+)\}", lambda number: found[int(number[1])], text)

    labels = {(key, filled(value)) for key, value in entry[tags].items()}
    return filled(entry["name"]), frozenset(labels)


def _parts(entry: Mapping[str, Any]) -> list[str]:
    return re.split(r"(\*)", entry["match"])


def statsd_exporter(text: str) -> Callable[[str], Named | None]:
    """The metric and its labels of a name; the first mapping that matches counts."""
    mappings = yaml.safe_load(text)["mappings"]
    return lambda name: first(globbed(entry, "labels", name) for entry in mappings)


def datadog_agent(text: str) -> Callable[[str], Named | None]:
    """The metric and its tags of a name."""
    (profile,) = yaml.safe_load(text)["dogstatsd_mapper_profiles"]

    def mapped(name: str) -> Named | None:
        if not name.startswith(profile["prefix"]):
            return None
        return first(globbed(entry, "tags", name) for entry in profile["mappings"])

    return mapped


def telegraf(text: str, name: str) -> tuple[str, str, frozenset[tuple[str, str]]] | None:
    """The measurement, the field and the tags; the most particular filter counts."""
    (section,) = tomllib.loads(text)["inputs"]["statsd"]
    levels = name.split(".")
    fits = [
        (filter_, template)
        for filter_, _, template in (entry.partition(" ") for entry in section["templates"])
        if _fits(filter_.split("."), levels)
    ]
    if not fits:
        return None
    _, template = min(fits, key=lambda fit: (fit[0].count("*"), -len(fit[0])))
    parts = template.split(".")
    assert len(parts) == len(levels), (template, name)
    pairs = list(zip(parts, levels, strict=True))
    separator = section["metric_separator"]
    measurement = separator.join(level for part, level in pairs if part == "measurement")
    (field,) = (level for part, level in pairs if part == "field")
    return measurement, field, frozenset(p for p in pairs if p[0] not in ("measurement", "field"))


def _fits(filter_: list[str], levels: list[str]) -> bool:
    """Whether a filter matches: a name may have more levels, which ours never need."""
    pairs = zip(filter_, levels, strict=False)
    return len(filter_) <= len(levels) and all(want in ("*", level) for want, level in pairs)


def first(found: Iterator[Named | None]) -> Named | None:
    return next(filter(None, found), None)
