"""The file: its values, and the line each of them stands on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from pgstats.config.values import Keys
from pgstats.errors import ConfigError
from pgstats.noun import Noun

_PART = r"""[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*'"""
_KEY = rf"(?:{_PART})(?:[ \t]*\.[ \t]*(?:{_PART}))*"
#: What stands outside values: a key, or the heading of a table or of an array's entry.
_STATEMENT = rf"(\[\[?)?[ \t]*({_KEY})[ \t]*(?(1)\]\]?|=)"
#: What a value is made of, as far as finding its end needs it.
_PIECE = (
    r'(?s)"""(?:\\.|[^\\])*?"{3,5}|' + r"'''.*?'{3,5}|" + r'"(?:\\.|[^"\\\n])*"|' + r"'[^'\n]*'|"
    r"#[^\n]*|[^\"'#\[\]{}\n]+|."
)
_BLANK = r"(?:\s|#[^\n]*)*"
_POSITION = r" \(at (?:line ([0-9]+), column ([0-9]+)|end of document)\)$"


class Place(Noun):
    """Where a value comes from, as told by a listing and by a fault; line 0 is not in a file."""

    origin: str
    where: str
    line: int = 0


class Document(Noun):
    """A file that was read; the empty one stands for none."""

    path: str = ""
    data: Mapping[str, object] = {}
    lines: Mapping[Keys, int] = {}

    def place(self, at: Keys) -> Place:
        """Where a value stands; what the scan did not find stands where its table does."""
        above = (at[:length] for length in range(len(at), 0, -1))
        line = next((self.lines[keys] for keys in above if keys in self.lines), 1)
        key = ".".join(part for part in at if isinstance(part, str))
        return Place(f"{self.path}:{line}", f"{self.path}:{line}: {key}", line)

    def resolve(self, path: str) -> str:
        """A path named in the file: a relative one starts at the file's folder."""
        if not path or path.startswith("/"):
            return path
        from pathlib import Path  # noqa: PLC0415 - hardly any file has such a path

        return str(Path(self.path).absolute().parent / path)


def read(path: str) -> Document:
    """Read a TOML file; `ConfigError` says why it cannot be."""
    import tomllib  # noqa: PLC0415 - only where there is a file

    source = _text(path)
    try:
        return Document(path, tomllib.loads(source), _lines(source))
    except (ValueError, RecursionError) as error:
        raise ConfigError([_syntax_fault(path, source, str(error))]) from error


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read()
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: is not UTF-8 text"]) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError([f"{path}: cannot be read: {reason}"]) from error


def _syntax_fault(path: str, source: str, said: str) -> str:
    """The line and column of a syntax error, and what the parser says about it."""
    match = re.search(_POSITION, said)
    line, column = match.groups() if match else (None, None)
    line = line or str(source.rstrip("\n").count("\n") + 1)
    where = f"column {column}: " if column else ""
    return f"{path}:{line}: {where}not valid TOML: {re.sub(_POSITION, '', said)}"


def _lines(source: str) -> dict[Keys, int]:
    """The first line of every heading and key of a valid file, and of the tables above them."""
    lines: dict[Keys, int] = {}
    for keys, line in _scan(source):
        for length in range(1, len(keys) + 1):
            lines.setdefault(keys[:length], line)
    return lines


def _scan(source: str) -> Iterator[tuple[Keys, int]]:
    """The place and line of every heading and key of a valid file, in order."""
    table: Keys = ()
    latest: dict[Keys, int] = {}  # the index of the newest entry of each array of tables
    position = 0
    statement = re.compile(_STATEMENT)
    while match := statement.search(source, _skip_blank(source, position)):
        line = source.count("\n", 0, match.start()) + 1
        position = match.end()
        parts = [part.strip("\"'") for part in re.findall(_PART, match[2])]
        if match[1]:
            table = _heading(parts, match[1] == "[[", latest)
            yield table, line
        else:
            yield _below(table, parts, latest), line
            position = _value_end(source, position)


def _skip_blank(source: str, position: int) -> int:
    """Where the next statement starts: spaces, line breaks and comments lie before it."""
    match = re.compile(_BLANK).match(source, position)
    return match.end() if match else position


def _heading(parts: list[str], array: bool, latest: dict[Keys, int]) -> Keys:
    """The table that a heading opens; an entry of an array is counted."""
    if not array:
        return _below((), parts, latest)
    keys = (*_below((), parts[:-1], latest), parts[-1])
    latest[keys] = latest.get(keys, -1) + 1
    return (*keys, latest[keys])


def _below(table: Keys, parts: list[str], latest: Mapping[Keys, int]) -> Keys:
    """The place of a dotted key in a table; an array on the way stands at its newest entry."""
    for part in parts:
        table = (*table, part)
        if table in latest:
            table = (*table, latest[table])
    return table


def _value_end(source: str, position: int) -> int:
    """Where the value that starts here ends: the first line break outside brackets."""
    depth = 0
    for piece in re.compile(_PIECE).finditer(source, position):
        depth += (piece[0] in ("[", "{")) - (piece[0] in ("]", "}"))
        if piece[0] == "\n" and depth == 0:
            return piece.start()
    return len(source)
