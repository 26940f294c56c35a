"""Text for terminals, whatever a name may hold."""

from __future__ import annotations


def escaped(text: str) -> str:
    """Text that cannot steer a terminal: what could is written as Python would."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _spelled(char) for char in text)


def _spelled(char: str) -> str:
    return char.encode("unicode_escape").decode()
