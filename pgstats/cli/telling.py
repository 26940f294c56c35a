"""What polls have to tell the person who runs the command, and the exit code that follows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from pgstats.cli.main import BUG, FAILED, OK, UNAVAILABLE
from pgstats.log import DEBUG, ERROR, WARNING, Log

if TYPE_CHECKING:
    from pgstats.model import Poll


def tell(polls: Sequence[Poll], log: Log) -> None:
    """Tell what failed, what somebody should know, and who asks, how it went."""
    from pgstats.cli.cycle import problems  # noqa: PLC0415

    for name, several in groupby(polls, lambda poll: poll.target.name):
        poll, *processes = several
        for problem in problems([poll, *processes]):
            log.tell(ERROR, f"{name}: {problem}")
            for line in problem.trace.splitlines():
                log.tell(DEBUG, line)
        for note in poll.notes:
            log.tell(WARNING, f"{name}: {note}")
        log.tell(DEBUG, f"{name}: polled in {poll.seconds * 1000:.0f} ms")
        for database, why in poll.refused.items():
            log.tell(DEBUG, f"{name}: database {database} is left out: {why}")
        if strange := poll.counts.get("unknown_columns"):
            log.tell(DEBUG, f"{name}: {strange} columns this version does not know")


def code(polls: Sequence[Poll]) -> int:
    """The exit code of a command that polled."""
    if any(failure.trace for poll in polls for failure in poll.problems()):
        return BUG
    polls = [poll for poll in polls if not poll.target.peer]  # the group speaks for them
    if not any(poll.up for poll in polls):
        return UNAVAILABLE
    return OK if all(poll.ok for poll in polls) else FAILED
