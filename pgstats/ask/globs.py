"""Globs over databases and tables: what a person writes, and what it means to the server."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from pgstats.catalogue.postgres import VENDORS


def chosen(name: str, globs: Sequence[str]) -> bool:
    """Whether a database is one of those the globs mean; `!` in front takes out."""
    if name in VENDORS and name not in globs:
        return False
    wanted = [glob for glob in globs if not glob.startswith("!")]
    unwanted = [glob[1:] for glob in globs if glob.startswith("!")]
    return _any(name, wanted or ["*"]) and not _any(name, unwanted)


def _any(name: str, globs: Iterable[str]) -> bool:
    return any(glob == "*" or fnmatchcase(name, glob) for glob in globs)


def pattern(glob: str) -> str:
    """The server's regular expression for a glob over schema.table, or table in any schema."""
    whole = glob if "." in glob else f"*.{glob}"
    return "^" + "".join(map(_regex, re.findall(r"\[!?[^\]]+\]|.", whole, re.DOTALL))) + "$"


def _regex(part: str) -> str:
    if part in ("*", "?"):
        return ".*" if part == "*" else "."
    if len(part) > 1:
        return part.replace("\\", "\\\\").replace("[!", "[^", 1)
    return re.sub(r"(\W)", r"\\\1", part)
