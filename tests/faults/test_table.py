"""docs/troubles.md has the table of the tests. `python -m tests.faults.test_table` renews it."""

from __future__ import annotations

from pathlib import Path

from tests.faults.table import FAULTS

PAGE = Path(__file__).parents[2] / "docs" / "troubles.md"
HEAD = "| fault | target | tried with | what must still arrive |\n|---|---|---|---|\n"


def renewed(text: str) -> str:
    """The page with its table as it should be."""
    rows = [
        f"| {fault.name} | {', '.join(fault.whom)} | {', '.join(fault.commands)} | {fault.must} |\n"
        for fault in FAULTS
    ]
    head, _, tail = text.partition(HEAD)
    return head + HEAD + "".join(rows) + tail[tail.index("\n## ") :]


def test_the_page_tells_what_is_tried() -> None:
    text = PAGE.read_text()
    assert renewed(text) == text


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
