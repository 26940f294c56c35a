"""The Datadog Agent: tags for dotted names."""

from __future__ import annotations

from pgstats.overview import Fleet
from pgstats.render.mapping._names import Shape, plain_only, shapes
from pgstats.render.yaml import yaml

_HEAD = "# Made by `pgstats mapping datadog-agent`: to be put into datadog.yaml.\n"


def render(fleet: Fleet) -> str:
    """The profile."""
    plain_only(fleet, "the Agent")
    profile = {
        "name": "pgstats",
        "prefix": f"{fleet.prefix}.",
        "mappings": [_mapping(fleet, shape) for shape in shapes(fleet)],
    }
    return _HEAD + yaml({"dogstatsd_mapper_profiles": [profile]})


def _mapping(fleet: Fleet, shape: Shape) -> dict[str, object]:
    labels = shape.labels
    metric = shape.levels[-1][1] or f"${{{len(labels) + 1}}}"
    return {
        "match": ".".join(text or "*" for _, text in shape.levels),
        "name": ".".join(filter(None, (fleet.prefix, shape.family, shape.group, metric))),
        "tags": {label: f"${{{n}}}" for n, label in enumerate(labels, 1)},
    }
