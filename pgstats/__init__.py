"""Polls PgBouncer and PostgreSQL and ships gauges to statsd."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgstats.instrumenting import instrument as instrument

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """What others import is loaded when they do: the commands start without it."""
    if name == "instrument":
        from pgstats.instrumenting import instrument  # noqa: PLC0415

        return instrument
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
