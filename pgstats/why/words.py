"""Words and numbers for people, and SQL text that can be pasted."""

from __future__ import annotations

import re

_PLAIN = r"[a-z_][a-z0-9_$]*\Z"
#: Words that must be quoted where a name is meant: those of the keyword list that a name may meet.
_WORDS = """
all analyse analyze and any array as asc asymmetric authorization between binary both case
cast check coalesce collate collation column concurrently constraint create cross
current_catalog current_date current_role current_schema current_time current_timestamp
current_user default deferrable desc distinct do else end except exists extract false
fetch for foreign freeze from full grant group having ilike in initially inner intersect
into is isnull join lateral leading left like limit localtime localtimestamp natural not
notnull null offset on only or order outer overlaps placing primary references returning
right select session_user similar some symmetric system_user table tablesample then to
trailing true union unique user using values variadic verbose when where window with
"""
_RESERVED = frozenset(_WORDS.split())


def identifier(name: str) -> str:
    """A name as SQL text, quoted where it has to be; nothing in it reaches a terminal as it is."""
    if re.match(_PLAIN, name) and name not in _RESERVED:
        return name
    doubled = name.replace('"', '""')
    if name.isprintable():
        return f'"{doubled}"'
    escaped = _escaped(doubled.replace("\\", "\\\\"), "\\{:04X}", "\\+{:06X}")
    return f'U&"{escaped}"'


def literal(text: str) -> str:
    """A string as SQL text; nothing in it reaches a terminal as it is."""
    doubled = text.replace("'", "''")
    if "\\" not in text and text.isprintable():
        return f"'{doubled}'"
    escaped = _escaped(doubled.replace("\\", "\\\\"), "\\u{:04X}", "\\U{:08X}")
    return f"E'{escaped}'"


def _escaped(text: str, short: str, long: str) -> str:
    """A text with what is not printable by its number."""

    def spelt(character: str) -> str:
        form = short if character <= "\uffff" else long
        return character if character.isprintable() else form.format(ord(character))

    return "".join(map(spelt, text))


def plain(text: str) -> str:
    """One line that moves no cursor and changes no colour, whatever somebody has named so."""
    return text if text.isprintable() else _escaped(text, "\\u{:04x}", "\\U{:08x}")


def lasting(seconds: float) -> str:
    """A length of time as one says it: 45 s, 12 min 5 s, 3 h 12 min, 2 d 4 h."""
    whole = max(0, int(seconds))
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    parts: list[tuple[int, str]] = []
    for name, size in units:
        count, whole = divmod(whole, size)
        if count or (parts and len(parts) < 2):
            parts.append((count, name))
    told = [f"{count} {name}" for count, name in parts[:2] if count]
    return " ".join(told) or "0 s"


def counted(number: float) -> str:
    """A number with its thousands parted."""
    return f"{number:,.0f}"


def several(count: int, one: str, many: str = "") -> str:
    """A count with its noun."""
    return f"{counted(count)} {one if count == 1 else many or one + 's'}"
