"""Finds the asker for a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pgstats.ask.burst import Burst
from pgstats.model import PGBOUNCER, Poll, Target


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
