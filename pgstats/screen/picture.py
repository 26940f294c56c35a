"""A table as lines of text: labels cut to what there is room for, numbers whole, changes marked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from pgstats.model import Number, Row, Table
from pgstats.printing import escaped
from pgstats.screen.layout import GAP, HEADING, fitted, heading

#: The numbers of the picture before, by the labels of their row and their metric; None at first.
Before = Mapping[tuple[Row, str], Number] | None

_CHANGED, _HEADING, _FAINT, _FAULT = "bold yellow", "bold", "dim", "bold red"


@dataclass(frozen=True, slots=True)
class Signs:
    """What stands where something is cut, has grown, has fallen."""

    cut: str = "…"
    grown: str = "↑"
    fallen: str = "↓"


ASCII = Signs("~", "+", "-")


@dataclass(frozen=True, slots=True)
class _Column:
    """The lines of its heading, and its cells, each with a style."""

    head: Sequence[str]
    cells: Sequence[tuple[str, str]]

    @property
    def width(self) -> int:
        """Columns of the terminal that its widest line takes."""
        return max(map(_wide, [*self.head, *(text for text, _ in self.cells)]))


def number(value: Number | None) -> str:
    """A number as briefly as a table wants it; ? while it is unknown."""
    if value is None:
        return "?"
    return f"{value:.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def picture(
    table: Table, width: int | None, before: Before = None, signs: Signs = ASCII
) -> list[Text]:
    """The lines of a table; what does not fit into the width is left out and told.

    A table that tells nothing apart but targets stands upright, a line for each metric.
    """
    if not table.rows:
        return [Text("no rows", _FAINT)]
    upright = len(table.labels) == 1
    labels, numbers = (_upright if upright else _flat)(table, width, before, signs)
    wanted, needed = [one.width for one in labels], [one.width for one in numbers]
    widths, taken = fitted(wanted, needed, width) if width else (wanted, needed)
    shown = numbers[: len(taken)]
    lines = [
        *(_line(row, widths, taken, signs) for row in _heads([*labels, *shown])),
        *(
            _line(row, widths, taken, signs)
            for row in zip(*(one.cells for one in (*labels, *shown)), strict=True)
        ),
    ]
    if left := ["".join(one.head) for one in numbers[len(taken) :]]:
        lines.append(Text(f"not shown: {', '.join(left)}", _FAINT))
    return lines


def notes(faults: Sequence[str]) -> list[Text]:
    """Lines on what went wrong."""
    return [Text(escaped(fault), _FAULT) for fault in faults]


def _flat(
    table: Table, width: int | None, before: Before, signs: Signs
) -> tuple[list[_Column], list[_Column]]:
    """A line for each row."""
    labels = [
        _Column([name], [(escaped(row[at]), "") for row in table.rows])
        for at, name in enumerate(table.labels)
        if at or len({row[0] for row in table.rows}) > 1  # one target alone goes without saying
    ]
    cells = [_cells(table, row, before, signs) for row in table.rows]
    heads = [heading(m.name, HEADING if width else len(m.name)) for m in table.metrics]
    return labels, [_Column(h, c) for h, c in zip(heads, zip(*cells, strict=True), strict=True)]


def _upright(
    table: Table, _: int | None, before: Before, signs: Signs
) -> tuple[list[_Column], list[_Column]]:
    """A column for each row."""
    names = _Column([table.group], [(metric.name, "") for metric in table.metrics])
    return [names], [
        _Column([escaped(str(row[0]))], _cells(table, row, before, signs)) for row in table.rows
    ]


def _cells(table: Table, row: Row, before: Before, signs: Signs) -> list[tuple[str, str]]:
    """The numbers of a row, marked where they changed."""
    width = len(table.labels)
    return [
        _cell(
            value, None if before is None else before.get((row[:width], metric.name)), before, signs
        )
        for metric, value in zip(table.metrics, row[width:], strict=True)
    ]


def _cell(
    value: Number | None, last: Number | None, before: Before, signs: Signs
) -> tuple[str, str]:
    if before is None:
        return number(value), ""
    if value is None or value == last:
        return f"{number(value)} ", ""
    sign = signs.fallen if last is not None and value < last else signs.grown
    return f"{number(value)}{sign}", _CHANGED


def _heads(columns: Sequence[_Column]) -> Iterator[list[tuple[str, str]]]:
    """The lines of the headings, each standing on the first row."""
    for texts in reversed(list(zip_longest(*(one.head[::-1] for one in columns), fillvalue=""))):
        yield [(text, _HEADING) for text in texts]


def _line(
    cells: Iterable[tuple[str, str]], widths: Sequence[int], taken: Sequence[int], signs: Signs
) -> Text:
    """Labels to the left, numbers to the right."""
    parts, spans, at = [], [], 0
    for number, ((text, style), room) in enumerate(zip(cells, (*widths, *taken), strict=True)):
        filled = _left(text, room, signs) if number < len(widths) else _right(text, room)
        parts.append(filled)
        if style:
            spans.append((style, at, at + len(filled)))
        at += len(filled) + GAP
    line = Text((" " * GAP).join(parts).rstrip(), no_wrap=True, overflow="ignore")
    for span in spans:
        line.stylize(*span)
    return line


def _wide(text: str) -> int:
    """Columns of the terminal that a text takes."""
    return len(text) if text.isascii() else cell_len(text)


def _left(text: str, room: int, signs: Signs) -> str:
    left = room - _wide(text)
    return text + " " * left if left >= 0 else set_cell_size(text, room - 1) + signs.cut


def _right(text: str, room: int) -> str:
    return " " * (room - _wide(text)) + text
