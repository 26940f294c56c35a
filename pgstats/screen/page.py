"""A page of several tables that share its height."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from pgstats.model import Table
from pgstats.noun import Noun
from pgstats.printing import escaped
from pgstats.screen.layout import shared
from pgstats.screen.picture import Before, Signs, notes, picture


class Part(Noun):
    """One table of a page, and the numbers that it had on the page before."""

    title: str
    table: Table
    before: Before = None


def page(
    head: str,
    parts: Sequence[Part],
    faults: Sequence[str],
    foot: str,
    size: tuple[int, int],
    signs: Signs,
) -> list[Text]:
    """As many lines as there are: a head, the parts, at the bottom what is wrong and a foot."""
    width, height = size
    below = [*notes(faults)[: height // 3], Text(escaped(foot), "dim")]
    for line in below:
        line.no_wrap = True
    tables = [_top(part.table, height) for part in parts]
    pictures = [
        [Text(part.title, "bold cyan"), *picture(table, width, part.before, signs)]
        for part, table in zip(parts, tables, strict=True)
    ]
    room = height - 1 - len(below)
    pictures = pictures[: _fitting(pictures, tables, room)]
    heights = shared([len(one) + 1 for one in pictures], room)
    lines = [Text(escaped(head), "bold", no_wrap=True)]
    for one, high in zip(pictures, heights, strict=True):
        lines += [*one[: high - 1], Text()][: max(0, high)]
    lines += [Text()] * (height - len(lines) - len(below))
    return [*lines, *below][:height]


def _fitting(pictures: Sequence[Sequence[Text]], tables: Sequence[Table], room: int) -> int:
    """How many parts show a row at least, the first in any case: heads alone tell nothing."""
    fitting = 0
    for one, table in zip(pictures, tables, strict=True):
        room -= len(one) + 1 - max(0, len(table.rows) - 1)
        fitting += room >= 0
    return max(1, fitting)


def _top(table: Table, height: int) -> Table:
    """No more rows than can be seen."""
    return table._replace(rows=table.rows[:height])
