"""Fills the texts of causes in: for reports alone, since the module behind it costs every start."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any

from pgstats.why.words import identifier, literal


class _Template(Formatter):
    """`str.format` with conversions for SQL: ``!i`` an identifier, ``!l`` a literal."""

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        if conversion == "i":
            return identifier(str(value))
        if conversion == "l":
            return literal(str(value))
        return super().convert_field(value, conversion)


def filled(template: str, values: Mapping[str, Any]) -> str:
    """A template of a `Cause` with its values filled in."""
    return _Template().vformat(template, (), values)
