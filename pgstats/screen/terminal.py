"""Where pictures go: a file, a terminal that is drawn on in place, or one that is filled."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import astuple
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live

from pgstats.screen.picture import ASCII, Signs

_SIZE = (80, 24)  # of what does not tell


class Terminal:
    """Draws pictures one below the other; ``live`` in place; ``full`` on a screen of its own.

    ``signs`` are those that can be written there. Whatever was drawn, `close` leaves a terminal as
    it was found.
    """

    def __init__(
        self, out: TextIO, *, colour: bool, live: bool = False, full: bool = False
    ) -> None:
        self._out = out
        self._console = Console(
            file=out,
            width=None if live or full else _SIZE[0],
            color_system="standard" if colour else None,
            force_terminal=live or full,
            highlight=False,
            legacy_windows=False,
        )
        self._live = Live(
            console=self._console,
            screen=full,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self.live = live or full
        self.signs = Signs() if _holds(out, "".join(astuple(Signs()))) else ASCII

    @property
    def size(self) -> tuple[int, int] | None:
        """Columns and lines of a terminal, as they are now; None of anything else."""
        if not self._out.isatty():
            return None
        try:
            columns, lines = os.get_terminal_size(self._out.fileno())
        except OSError:
            return _SIZE
        return columns or _SIZE[0], lines or _SIZE[1]

    def say(self, text: str) -> None:
        """Print lines that stay."""
        self._console.print(text, markup=False, soft_wrap=True)

    def draw(self, lines: Sequence[RenderableType]) -> None:
        """Show a picture."""
        if not self.live:
            self._console.print(Group(*lines), crop=False)
            return
        self._console.size = self.size or _SIZE
        self._live.start()
        self._live.update(Group(*lines), refresh=True)

    def close(self) -> None:
        """Give the terminal back; the next picture would take it again."""
        if self._console.is_alt_screen:
            self._console.clear()  # what is wider than before could be left over after a resize
        self._live.stop()


def _holds(out: TextIO, text: str) -> bool:
    try:
        text.encode(out.encoding or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True
