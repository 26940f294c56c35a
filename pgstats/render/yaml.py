"""Writes the little YAML that the receivers' files need, for people to read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

#: Text that needs no quotes: it starts like a word and is none that YAML knows.
_PLAIN = re.compile(r"[A-Za-z_/][\w./-]*(?: [\w./,()-]+)*", re.ASCII)
_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def yaml(value: object) -> str:
    """A mapping or a list, and what is in it, as a document."""
    return "".join(f"{line}\n" for line in _lines(value))


def _lines(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _entry(f"{_text(key)}:", inner, "  ")
    elif isinstance(value, list | tuple):
        for inner in value:
            first, *rest = _lines(inner) if _nested(inner) else _entry("", inner, "  ")
            yield f"- {first.lstrip()}"
            yield from (f"  {line}" for line in rest)


def _entry(head: str, value: object, indent: str) -> Iterator[str]:
    """What stands behind a key or a dash, on its line or below it."""
    if _nested(value):
        yield head
        yield from (f"{indent}{line}" for line in _lines(value))
    elif isinstance(value, str) and _block(value):
        yield f"{head} |-"
        yield from (f"{indent}{line}" for line in value.split("\n"))
    else:
        yield f"{head} {_text(value)}"


def _nested(value: object) -> bool:
    return isinstance(value, Mapping | list | tuple) and bool(value)


def _block(text: str) -> bool:
    """Whether text reads well, and the same, as lines of its own."""
    lines = text.split("\n")
    return len(lines) > 1 and all(re.fullmatch(r"[!-~][ -~]*", line) for line in lines)


def _text(value: object) -> str:
    """A word, a number, or anything else as JSON, which is YAML too."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=not (isinstance(value, str) and value.isprintable()))
