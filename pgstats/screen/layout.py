"""Finds the widths of a table's columns, and the heights of a page's tables."""

from __future__ import annotations

from collections.abc import Sequence

GAP = 2  # between two columns
HEADING = 13  # columns of a heading that is cut into lines
LABEL = 12  # columns of a label that numbers may not take

Widths = list[int]


def shared(wanted: Sequence[int], room: int) -> list[int]:
    """A share of the room for each: what it wants, or as much as the others who want too much."""
    shares = [0] * len(wanted)
    for left, at in zip(
        range(len(wanted), 0, -1), sorted(range(len(wanted)), key=wanted.__getitem__), strict=True
    ):
        shares[at] = max(0, min(wanted[at], room // left))
        room -= shares[at]
    return shares


def fitted(labels: Sequence[int], numbers: Sequence[int], width: int) -> tuple[Widths, Widths]:
    """The widths of the labels and of those numbers, from the first on, that fit beside them.

    One number does in any case: labels are cut, numbers never.
    """
    room = width - sum(min(label, LABEL) + GAP for label in labels) + GAP
    count = 0
    for number in numbers:
        room -= number + GAP
        if room < 0:
            break
        count += 1
    taken = list(numbers[: max(1, count)])
    left = width - sum(number + GAP for number in taken) - GAP * (len(labels) - 1)
    return shared(labels, max(len(labels), left)), taken


def heading(name: str, width: int) -> list[str]:
    """The lines of a column's heading: a metric's name cut behind underscores."""
    lines = [""]
    for part in name.replace("_", "_\n").split("\n"):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return lines
