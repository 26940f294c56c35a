"""statsd_exporter: the labels of dotted names, and how long a series lives."""

from __future__ import annotations

from pgstats.overview import Fleet
from pgstats.render.language.promql import metric_name
from pgstats.render.mapping._names import Shape, lifetime, shapes
from pgstats.render.yaml import yaml

_HEAD = """\
# Made by `pgstats mapping statsd-exporter`, for --statsd.mapping-config.
# What nobody sends any more is forgotten after the ttl, so that a dead poller shows.
"""


def render(fleet: Fleet) -> str:
    """The configuration. Names with tags need no mapping, and get none but a word about it."""
    mappings = [_mapping(fleet, shape) for shape in shapes(fleet)] if fleet.plain else []
    why = "" if fleet.plain else f"# No mappings: the dialect {fleet.dialect} has tags already.\n"
    return _HEAD + why + yaml({"defaults": {"ttl": f"{lifetime(fleet)}s"}, "mappings": mappings})


def _mapping(fleet: Fleet, shape: Shape) -> dict[str, object]:
    labels = shape.labels
    name = metric_name(fleet.prefix, shape.family, shape.group)
    metric = shape.levels[-1][1] or f"${{{len(labels) + 1}}}"
    return {
        "match": ".".join(text or "*" for _, text in shape.levels),
        "name": f"{name}_{metric}",
        "labels": {label: f"${{{n}}}" for n, label in enumerate(labels, 1)},
    }
