"""The dashboard of graphite-web itself: what it saves, and loads, under a name."""

from __future__ import annotations

import json
from urllib.parse import urlencode

from pgstats.overview import PANELS, Fleet, Panel
from pgstats.render.language.graphite import Graphite

_SIZE = {"width": 480, "height": 300}


def render(fleet: Fleet) -> str:
    """The dashboard as JSON, to be posted to /dashboard/save/NAME as `state`."""
    language = Graphite(fleet, {"target": _targets(fleet)})
    document = {
        "name": fleet.prefix,
        "refreshConfig": {"enabled": True, "interval": 60000},
        "graphSize": _SIZE,
        "timeConfig": {
            "type": "relative",
            "relativeStartQuantity": "3",
            "relativeStartUnits": "hours",
            "relativeUntilQuantity": "",
            "relativeUntilUnits": "now",
            "startDate": "",
            "startTime": "",
            "endDate": "",
            "endTime": "",
        },
        "defaultGraphParams": {"from": "-3hours", "until": "now", **_SIZE},
        "graphs": [_graph(panel, language) for panel in PANELS],
    }
    return json.dumps(document, indent=1) + "\n"


def _targets(fleet: Fleet) -> str:
    """The configured targets, and the processes behind their ports."""
    if not fleet.plain:
        return f"({'|'.join(fleet.targets)})"
    names = [name for target in fleet.targets for name in (target, f"{target}-[0-9]*")]
    return f"{{{','.join(names)}}}"


def _graph(panel: Panel, language: Graphite) -> list[object]:
    """What the page keeps of a graph: its targets, its parameters, its address."""
    targets = [text for series in panel.series for text in language.curves(series)]
    if not panel.number:  # the line of a number only says which color it has
        targets += [f"constantLine({line:.12g})" for line in panel.lines]
    more = {"title": panel.title, "from": "-3hours", "until": "now"}
    more |= {"lineMode": "connected", "yMin": "0"}
    address = urlencode([("target", text) for text in targets] + list(more.items()))
    return [targets, {**more, "target": targets}, f"/render?{address}"]
