"""What can go wrong, told for people: one small tree with one base.

Foreign exceptions (psycopg2's, the operating system's, tomllib's) are translated at the door
they come through and kept as ``__cause__``. Exit codes are the command line's business.
"""

from __future__ import annotations

from typing import TypeVar

_Error = TypeVar("_Error", bound=BaseException)


def kept(error: _Error) -> _Error:
    """An error that is to be kept, without the frames that it and what led to it went through.

    These hold all that was at work, often the keeper itself: only Python's collector would end it.
    """
    links: list[BaseException] = [error]
    for link in links:
        link.__traceback__ = None
        before = link.__cause__ or link.__context__
        if before and before not in links:
            links.append(before)
    return error


def traced(error: BaseException) -> str:
    """The traceback of a bug, for those who ask for it.

    The messages of exceptions are left out: what libpq or Python quotes may be a secret.
    """
    from traceback import format_tb  # noqa: PLC0415 - hardly ever needed

    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = f"{traced(cause)}\nwhich led to:\n\n" if cause else ""
    lines = ["Traceback (most recent call last):\n", *format_tb(error.__traceback__)]
    return f"{before}{''.join(lines)}{type(error).__qualname__}\n"


class PgstatsError(Exception):
    """Base of everything that pgstats raises on purpose. The text is ready to be shown."""


class ConfigError(PgstatsError):
    """The configuration cannot be used. ``faults`` holds one line for each thing that is wrong."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class AskError(PgstatsError):
    """A question to a server failed.

    ``reason`` is one of `pgstats.model.REASONS`, ``stage`` says where it happened ("connect",
    "SHOW POOLS", ...), ``remedy`` what a person can do about it ("" where nothing is known).
    """

    def __init__(self, stage: str, reason: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.stage = stage
        self.reason = reason
        self.remedy = remedy


class UnknownName(PgstatsError):
    """There is no table of that name, but those ``nearest``; or these ``several`` are called so."""

    def __init__(self, name: str, nearest: list[str], *, several: bool = False) -> None:
        hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
        super().__init__(f"there {'are several tables' if several else 'is no table'} {name}{hint}")
        self.nearest = nearest


class ShipError(PgstatsError):
    """The statsd address cannot be used at all."""


class StateError(PgstatsError):
    """The state file cannot be used."""


class StateLocked(StateError):
    """Another run holds the lock of the state file."""


class DeskError(PgstatsError):
    """The socket of `pgstats status` cannot be opened, or nobody answers there."""


class ScratchError(PgstatsError):
    """A private server of the demo or of the tests could not be started."""
