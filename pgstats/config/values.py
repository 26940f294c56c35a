"""Turns one value, as a file or an option holds it, into what pgstats works with.

A parser takes the value and returns it converted, or raises `Wrong`. What is wrong is told by
saying what is allowed; the value itself is never repeated, for it may hold a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from pgstats.errors import ConfigError

Parser = Callable[[object], Any]
#: The keys and indexes that lead to a value: ("postgres", 0, "tables").
Keys = tuple[str | int, ...]

_DURATION = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)"
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PREFIX = r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*"
_NAME = r"[A-Za-z0-9_-]+"
_TAG = r"[a-z][a-z0-9_]*"
_INTERNET = r"(udp|tcp)://(\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[^\s/:@?#\[\]]+)(?::([0-9]{1,5}))?/?"
_SOCKET = r"unix(gram)?:///[^\0\n]+"
_STATSD_PORT = 8125


class Wrong(Exception):
    """A value that cannot be used: what is allowed, for each place inside it (() is itself)."""

    def __init__(self, text: str = "", inside: Iterable[tuple[Keys, str]] = ()) -> None:
        super().__init__(text)
        self.faults = tuple(inside) or (((), text),)


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """The end of a fault that names the nearest allowed word, "" where none is near."""
    from difflib import get_close_matches  # noqa: PLC0415 - only a fault pays for it

    near = get_close_matches(word.lower().replace("-", "_"), list(allowed), 1)
    return f'; did you mean "{near[0]}"?' if near else ""


def text(value: object) -> str:
    """Any string."""
    if not isinstance(value, str):
        raise Wrong("must be a string in quotes")
    if "\0" in value:
        raise Wrong("must not hold a NUL character")
    return value


def path(value: object) -> str:
    """A path; a relative one in a file starts at the file's folder. The loader joins them."""
    return text(value)


def flag(value: object) -> bool:
    """A truth value."""
    if not isinstance(value, bool):
        raise Wrong("must be true or false, without quotes")
    return value


def whole(low: int, high: int = 2**31 - 1) -> Parser:
    """A whole number between two limits, both included."""
    limits = f"from {low} to {high}" if high < 2**31 - 1 else f"of at least {low}"

    def parse(value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            raise Wrong(f"must be a whole number {limits}, without quotes")
        return value

    return parse


def budget(value: object) -> int | None:
    """A number of tables, or None for all of them."""
    if value == "all":
        return None
    try:
        return int(whole(0)(value))
    except Wrong:
        raise Wrong('must be a whole number of at least 0, or "all"') from None


def last_value(value: object) -> int | float | None:
    """The value that ends a series, or None for no value at all."""
    if value in ("zero", "nothing"):
        return 0 if value == "zero" else None
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 10**15:
        return value
    raise Wrong('must be "zero", "nothing", or a number, without quotes, below 10^15')


def duration(value: object) -> float:
    """A time in seconds."""
    match = re.fullmatch(_DURATION, value) if isinstance(value, str) else None
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not 0 < seconds <= 24 * 3600:
        near = f'; did you mean "{value}s"?' if type(value) is int else ""
        raise Wrong(
            'must be a duration above 0 and at most 24h, with its unit and in quotes: "250ms", '
            f'"10s", "2m" or "1h"{near}'
        )
    return seconds


def seconds(text: str) -> float:
    """A duration given on the command line."""
    try:
        return duration(text)
    except Wrong as error:
        raise ConfigError([str(error).replace(" and in quotes", "").replace('"', "")]) from error


def spell_duration(seconds: float) -> str:
    """A time in seconds, written as in a file."""
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"


def one_of(*words: str) -> Parser:
    """One of a few words."""

    def parse(value: object) -> str:
        if value not in words:
            near = did_you_mean(value, words) if isinstance(value, str) else ""
            raise Wrong(f"must be one of {', '.join(words)}{near}")
        return str(value)

    return parse


def some_of(words: tuple[str, ...]) -> Parser:
    """A list of some of the words, each once."""
    one = one_of(*words)

    def parse(value: object) -> tuple[str, ...]:
        return tuple(dict.fromkeys(map(one, texts(value))))

    return parse


def texts(value: object) -> tuple[str, ...]:
    """A list of strings."""
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise Wrong('must be a list of strings such as ["one", "two"]')
    return tuple(map(text, value))


def one_or_more(value: object) -> tuple[str, ...]:
    """A string, or a list of strings."""
    return (text(value),) if isinstance(value, str) and value else texts(value)


def columns(reserved: frozenset[str]) -> Parser:
    """A list of columns, each once, whose names are fit for the wire and not reserved."""

    def parse(value: object) -> tuple[str, ...]:
        names = texts(value)
        faults = [fault for fault in (_column_fault(name, reserved) for name in names) if fault]
        if faults:
            raise Wrong(faults[0])
        if len(set(names)) < len(names):
            raise Wrong("must name each column once")
        return names

    return parse


def _column_fault(name: str, reserved: frozenset[str]) -> str:
    """What is wrong with a column; unlike other values it is no secret and can be repeated."""
    if not re.fullmatch(_TAG, name):
        return (
            "must be columns of lower-case letters, digits and _, a letter first: in the SQL, "
            "AS gives a column another name"
        )
    if name in reserved:
        return f'"{name}" is a key that pgstats or a receiver uses itself; rename it with AS'
    return ""


def prefix(value: object) -> str:
    """What every metric's name starts with."""
    if not isinstance(value, str) or not re.fullmatch(_PREFIX, value):
        raise Wrong(
            "must be letters, digits, _ and - with single dots between, a letter first: "
            '"pgstats" or "infra.pgstats"'
        )
    return value


def name(value: object) -> str:
    """The name of a target."""
    if not isinstance(value, str) or not re.fullmatch(_NAME, value):
        raise Wrong('must be a string of letters, digits, _ and - such as "main"')
    return value


def tags(reserved: frozenset[str]) -> Parser:
    """A table of strings, by lower-case keys that are not reserved."""

    def parse(value: object) -> dict[str, str]:
        if not isinstance(value, dict):
            raise Wrong('must be a table of strings such as { env = "prod" }')
        found = (((key,), _tag_fault(key, item, reserved)) for key, item in value.items())
        if faults := [(place, fault) for place, fault in found if fault]:
            raise Wrong(inside=faults)
        return dict(value)

    return parse


def _tag_fault(key: str, item: object, reserved: frozenset[str]) -> str:
    if key in reserved:
        return "is a key that pgstats or a receiver uses itself; choose another one"
    if not re.fullmatch(_TAG, key):
        return "must have a key of lower-case letters, digits and _, a letter first"
    if not isinstance(item, str) or not item or not item.isprintable():
        return "must be a string in quotes, not empty and without control characters"
    return ""


def url(value: object) -> str:
    """Where statsd listens, the port always given."""
    if isinstance(value, str) and re.fullmatch(_SOCKET, value):
        return value
    match = re.fullmatch(_INTERNET, value) if isinstance(value, str) else None
    port = int(match[3] or _STATSD_PORT) if match else 0
    if not match or not 0 < port < 65536:
        raise Wrong(
            'must be "udp://HOST:PORT", "tcp://HOST:PORT", "unix:///PATH" (stream) or '
            f'"unixgram:///PATH" (datagram); an IPv6 HOST in brackets, PORT {_STATSD_PORT} '
            "unless given"
        )
    return f"{match[1]}://{match[2]}:{port}"


def command(value: object) -> str:
    """A command as one string, quoted as for a shell, from that or from a list of words."""
    if value == "":
        return value
    import shlex  # noqa: PLC0415 - hardly any target has one

    if isinstance(value, list):
        return shlex.join(texts(value))
    try:
        shlex.split(text(value))
    except ValueError:
        raise Wrong("has an opening quote without its end") from None
    return str(value)


def first_word(value: object) -> str:
    """A command as it may be shown: what follows its first word may be secret."""
    words = list(value) if isinstance(value, list) else str(value).split()
    return " ".join(words) if len(words) < 2 else f"{words[0]} …"
