"""Reads just enough SQL to know that a text is one SELECT, so that it can be put into another.

Comments, strings and quoted names are what may hide a semicolon or a bracket; they are read as
PostgreSQL's own lexer does, with standard_conforming_strings on.
"""

from __future__ import annotations

import re

from pgstats.config.values import Wrong, text

#: A to Z, underscore and all beyond ASCII; said by what is none, which compiles 20 times as fast.
_LETTER = r"[^\x00-@\[-\^`{-\x7f]"
_NAME = rf"{_LETTER}[^\x00-#%-/:-@\[-\^`{{-\x7f]*"
_TAG = rf"{_LETTER}[^\x00-/:-@\[-\^`{{-\x7f]*"
_ESCAPED = r"'(?:\\.|''|[^'\\])*'"
#: Strings that stand on lines of their own are one, and go on as the first of them began.
_NEXT = r"[ \t\f\v]*[\r\n](?:\s|--[^\n\r]*[\r\n])*"
#: What is blanked out, at the start of a token.
_HIDDEN = (
    rf"(?s)--[^\n\r]*|[eE]{_ESCAPED}(?:{_NEXT}{_ESCAPED})*|'(?:''|[^'])*'|\"(?:\"\"|[^\"])*\"|"
    rf"\$((?:{_TAG})?)\$.*?\$\1\$"
)
_COMMENT = r"/\*|\*/"
_BLANKS = " \t\n\r\f\v"
_FIRST = ("SELECT", "WITH", "VALUES", "TABLE")


def select(value: object) -> str:
    """One SELECT, without a semicolon at its end."""
    sql = text(value)
    bare = _blanked(sql)
    end = bare.find(";")
    if bare[end:].strip(_BLANKS + ";") and end >= 0:
        raise Wrong("must be one statement: something follows its semicolon")
    one = bare[:end] if end >= 0 else bare
    first = re.split(r"[^A-Za-z]", one.lstrip(_BLANKS + "("), maxsplit=1)[0].upper()
    if first not in _FIRST:
        raise Wrong("must be a SELECT (or WITH, VALUES, TABLE): pgstats only reads")
    _pair_brackets(one)
    return sql[: len(one)].strip(_BLANKS)


def _pair_brackets(bare: str) -> None:
    depth = 0
    for bracket in re.findall(r"[()]", bare):
        depth += 1 if bracket == "(" else -1
        if depth < 0:
            break
    if depth:
        raise Wrong("has a bracket without its other half")


def _blanked(sql: str) -> str:
    """The text with blanks for all that is no part of the statement's structure."""
    hides, names = re.compile(_HIDDEN), re.compile(_NAME)
    found, at = "", 0
    while at < len(sql):
        hidden = hides.match(sql, at)
        word = names.match(sql, at)
        if sql.startswith("/*", at):
            end = _comment_end(sql, at)
        elif hidden:
            end = hidden.end()
        elif sql[at] in "'\"":
            raise Wrong("has an opening quote without its end")
        else:
            end = word.end() if word else at + 1
            found += sql[at:end]
            at = end
            continue
        found += " " * (end - at)
        at = end
    return found


def _comment_end(sql: str, at: int) -> int:
    """Where a comment ends; there may be others inside."""
    depth = 0
    for mark in re.compile(_COMMENT).finditer(sql, at):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return mark.end()
    raise Wrong("has a comment without its end")
