"""Shows the merged configuration as TOML, each value with its origin."""

from __future__ import annotations

from pgstats.config.loading import Config
from pgstats.config.settings import heading

_WIDEST = 60  # a longer line does not push the origins of all others to the right


def show(config: Config) -> list[str]:
    """The lines of the configuration: secrets masked, the origin of each value a comment."""
    rows: list[tuple[str, str]] = []
    for section, entries in config.settings:
        rows += [("", ""), (heading(section), "")] if section else []
        rows += [(f"{shown.key} = {toml(shown.value)}", shown.origin) for shown in entries]
    width = max(len(text) for text, _ in rows if len(text) <= _WIDEST)
    return [f"{text:{width}}  # {_safe(origin)}" if origin else text for text, origin in rows]


def toml(value: object) -> str:
    """A value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        pairs = ", ".join(f"{key} = {toml(item)}" for key, item in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    return f'"{_safe(value)}"' if isinstance(value, str) else str(value)


def _safe(text: str) -> str:
    """Text for inside quotes or a comment: on one line, in characters that TOML allows."""
    text = text.encode("utf-8", "replace").decode()
    return "".join(_character(c) for c in text)


def _character(c: str) -> str:
    if c in '"\\':
        return "\\" + c
    return c if c.isprintable() else f"\\U{ord(c):08x}"
