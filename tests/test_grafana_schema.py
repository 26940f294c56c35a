"""Grafana's own types hold for the dashboards: @grafana/schema, checked by the compiler."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pgstats.overview import Fleet
from pgstats.render import KINDS, render

pytestmark = pytest.mark.full

#: Where ./dev test-full installs both.
MODULES = Path(__file__).parents[1] / ".cache" / "grafana" / "node_modules"

FLEET = Fleet("pgstats", "plain", ("front",), ("main",))
KINDS_OF_GRAFANA = [kind for kind in KINDS["dashboard"] if kind.startswith("grafana")]

# JSON has the values of enums where TypeScript wants their names.
HEAD = """
import type { Dashboard } from "@grafana/schema/dist/esm/raw/dashboard/x/Dashboard_types.gen";
import type * as stat from
  "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as timeseries from
  "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";
type Loose<T> = T extends string ? `${T}` : T extends number ? number : T extends boolean ? T
  : T extends (infer U)[] ? Loose<U>[] : T extends object ? { [K in keyof T]?: Loose<T[K]> } : T;
"""


def complaints(document: dict[str, Any], folder: Path) -> str:
    """What the compiler says about a dashboard."""
    lines = [HEAD, f"export const all: Loose<Dashboard> = {json.dumps(document, indent=1)};"]
    for panel in document["panels"]:
        if panel["type"] in ("stat", "timeseries"):
            options = json.dumps(panel["options"])
            lines.append(
                f"export const o{panel['id']}: Loose<{panel['type']}.Options> = {options};"
            )
        if custom := panel.get("fieldConfig", {}).get("defaults", {}).get("custom"):
            text = json.dumps(custom)
            lines.append(f"export const c{panel['id']}: Loose<timeseries.FieldConfig> = {text};")
    (folder / "node_modules").symlink_to(MODULES)
    (folder / "check.ts").write_text("\n".join(lines))
    command: list[str | Path] = ["node", MODULES / "typescript" / "bin" / "tsc", "--noEmit"]
    command += ["--strict", "--skipLibCheck", "--module", "esnext"]
    command += ["--moduleResolution", "bundler", folder / "check.ts"]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder).stdout


@pytest.mark.parametrize("kind", KINDS_OF_GRAFANA)
def test_grafana_s_types_hold(kind: str, tmp_path: Path) -> None:
    assert complaints(json.loads(render("dashboard", kind, FLEET)), tmp_path) == ""


def test_a_fault_is_found(tmp_path: Path) -> None:
    document = json.loads(render("dashboard", "grafana-prometheus", FLEET))
    document["panels"][1]["options"]["colorMode"] = "valu"
    document["panels"][1]["gridPoss"] = document["panels"][1].pop("gridPos")
    found = complaints(document, tmp_path)
    assert "gridPoss" in found
    assert "valu" in found
