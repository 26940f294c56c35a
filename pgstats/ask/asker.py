"""Finds the asker for a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from pgstats.catalogue.postgres import DATABASE
from pgstats.model import PGBOUNCER, Poll, Target

if TYPE_CHECKING:
    from pgstats.ask.burst import Burst


class Asker(Protocol):
    """Polls one target, again and again, until closed. Never raises for what the target does."""

    target: Target

    def poll(self) -> Poll:
        """All answers and failures of one poll."""

    def close(self) -> None:
        """Let go of what was kept between polls."""


def asker(
    target: Target, burst: Burst | None = None, memo: Mapping[str, Any] | None = None
) -> Asker:
    """An asker that fits the target; with a ``burst`` a PgBouncer's pools are sampled as well.

    ``memo`` is the one of the target's last poll, if that is known.
    """
    if target.family == PGBOUNCER:
        from pgstats.ask.pgbouncer import PgBouncerAsker  # noqa: PLC0415 - each may be all there is

        return PgBouncerAsker(target, burst)
    from pgstats.ask.postgres import PostgresAsker  # noqa: PLC0415

    return PostgresAsker(target, memo)


def unmatched(poll: Poll) -> str:
    """A note on `databases = [...]` that mean no database at all, "" where there are some."""
    if not any(frame.query is DATABASE and not frame.height for frame in poll.frames):
        return ""
    globs = ", ".join(poll.target.databases)
    return f"no database that the role may connect to is meant by databases = {globs}"
