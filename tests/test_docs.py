"""The reference pages follow from the catalogue. `python -m tests.test_docs` renews them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from textwrap import shorten
from typing import Any

import click
import pytest

from pgstats.cli.main import cli
from pgstats.cli.metrics import entries
from pgstats.overview import RULES
from pgstats.render.alerts import runbook
from pgstats.why.causes import CAUSES
from tests import commands

DOCS = Path(__file__).parent.parent / "docs"
COMMANDS, MANUAL = DOCS / "commands.md", DOCS / "pgstats.1"
METRICS, WHY, RUNBOOK = DOCS / "metrics.md", DOCS / "why.md", DOCS / "runbook"

HEAD = """# Metrics

Everything that pgstats can ship, by group. This page is generated from the catalogue, as is what
`pgstats metrics` prints; `pgstats metrics --dialect NAME` spells the names for another dialect.

*Kind*: a `gauge` is a level; a `total` is a gauge that counts up since the server's start or
reset; a `count` is a statsd counter, what was added since the last poll; a `timing` is a statsd
timer, of which receivers make means and percentiles. Without a *unit* it is a plain count, 1 for
yes and 0 for no, or what the meaning says. *Since* and *until* are versions of the server; without
one it is there in all of them (PgBouncer from 1.8, PostgreSQL from 13 on). *Source* is the server's
own column, or what the number is computed from; without one pgstats counts or finds it out by
itself, as the meaning says. What is unknown is not sent. `pgstats metrics` has the sources that are
cut here.
"""


def page() -> str:
    """The whole page."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in entries("plain", "pgstats"):
        groups.setdefault(entry["name"].rpartition(".")[0], []).append(entry)
    sections = [HEAD]
    for group, listed in groups.items():
        shape = listed[0]["line"].rpartition(".")[0]
        sections.append(f"## {group}\n\n`{shape}.METRIC`\n\n{table(listed)}")
    return "\n".join(sections)


def table(listed: list[dict[str, Any]]) -> str:
    lines = ["| metric | unit | kind | since | source | meaning |", "|---|---|---|---|---|---|"]
    for entry in listed:
        versions = entry["since"] or ""
        if entry["until"]:
            versions += f" until {entry['until']}"
        cells = [
            f"`{entry['name'].rpartition('.')[2]}`",
            entry["unit"] or "",
            entry["kind"],
            versions,
            f"`{shorten(entry['source'], 120)}`".replace("|", "\\|") if entry["source"] else "",
            entry["help"].replace("|", "\\|"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def causes(text: str) -> str:
    """The page of `pgstats why` with its table of causes as it should be."""
    head, start, _ = text.partition("| id | severity | what |\n|---|---|---|\n")
    rows = []
    for one in CAUSES:
        severities = " ".join(severity[0].upper() for severity in one.severities)
        rows.append(f"| `{one.id}` | {severities} | {one.help}{when(one)} |\n")
    return head + start + "".join(rows)


def when(cause: Any) -> str:
    """The versions that can have it, where these are not all."""
    if cause.until:
        return f" (up to {cause.until // 10000 - 1})"
    return f" (from {cause.since // 10000} on)" if cause.since else ""


def test_every_cause_is_on_the_page() -> None:
    assert WHY.read_text() == causes(WHY.read_text()), "run: python -m tests.test_docs"


def test_the_page_of_metrics_is_up_to_date() -> None:
    assert METRICS.read_text() == page(), "run: python -m tests.test_docs"


def test_every_metric_is_on_the_page() -> None:
    text = METRICS.read_text()
    for entry in entries("plain", "pgstats"):
        assert f"| `{entry['name'].rpartition('.')[2]}` |" in text


def pages() -> dict[str, str]:
    """A page for each alert, and one that lists them."""
    listed = "".join(f"- [{rule.title}]({rule.id}.md)\n" for rule in RULES)
    index = f"# Runbook\n\nA page for each alert of `pgstats alerts`.\n\n{listed}"
    return {"index.md": index} | {f"{rule.id}.md": runbook.page(rule) for rule in RULES}


def test_the_runbook_is_up_to_date() -> None:
    found = {path.name: path.read_text() for path in RUNBOOK.glob("*.md")}
    assert found == pages(), "run: python -m tests.test_docs"


def test_the_page_of_commands_is_up_to_date() -> None:
    assert COMMANDS.read_text() == commands.page(), "run: python -m tests.test_docs"


def test_the_man_page_is_up_to_date() -> None:
    assert MANUAL.read_text() == commands.manual(), "run: python -m tests.test_docs"


def test_every_option_is_on_both() -> None:
    """Seen with the help that click makes of the same tree."""
    parent = click.Context(cli, info_name="pgstats")
    for name in cli.list_commands(parent):
        command = cli.get_command(parent, name)
        assert command
        shown = command.get_help(click.Context(command, info_name=name, parent=parent))
        for option in re.findall(r"^  (?:-\w, )?(--[\w-]+)", shown, re.MULTILINE):
            if option != "--help":
                section = COMMANDS.read_text().split(f"## pgstats {name}\n")[1].split("\n## ")[0]
                assert option in section
                entry = MANUAL.read_text().split(f".SS pgstats {name} ")[1].split(".SS ")[0]
                assert option.replace("-", "\\-") in entry


@pytest.mark.full
def test_readers_of_man_pages_take_it() -> None:
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", MANUAL], capture_output=True, text=True
    )
    assert [line for line in done.stdout.splitlines() if "missing date" not in line] == []
    shown = subprocess.run(["mandoc", "-T", "utf8", MANUAL], capture_output=True, text=True).stdout
    plain = re.sub(".\b", "", shown)
    assert "--pgbouncer DSN" in plain
    assert "Exit codes: 0 all well" in " ".join(plain.split())


if __name__ == "__main__":
    COMMANDS.write_text(commands.page())
    MANUAL.write_text(commands.manual())
    METRICS.write_text(page())
    WHY.write_text(causes(WHY.read_text()))
    RUNBOOK.mkdir(exist_ok=True)
    for name, text in pages().items():
        (RUNBOOK / name).write_text(text)
