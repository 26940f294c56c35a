"""Pictures of numbers for people: the only door to rich. Nothing that a name holds steers it."""

from pgstats.screen.board import Board, healthy
from pgstats.screen.page import Part, page
from pgstats.screen.picture import Before, notes, picture
from pgstats.screen.terminal import Terminal

__all__ = ["Before", "Board", "Part", "Terminal", "healthy", "notes", "page", "picture"]
