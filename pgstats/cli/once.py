"""`pgstats once`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from pgstats.cli.main import FAILED, OK, UNAVAILABLE
from pgstats.cli.options import configured, held, log_of, with_state, with_targets
from pgstats.log import DEBUG, ERROR, Log

if TYPE_CHECKING:
    from pgstats.cli.cycle import Cycle
    from pgstats.config import Config
    from pgstats.model import Poll


@click.command("once")
@with_targets
@with_state
@click.option(
    "--dry-run", is_flag=True, help="Print the lines that would be shipped; ship nothing."
)
@click.option("--json", "as_json", is_flag=True, help="Print the poll as JSON; ship nothing.")
def command(*, dry_run: bool, as_json: bool, **options: Any) -> int:
    """Polls every target once, ships, and exits: for cron and systemd timers."""
    if dry_run and as_json:
        raise click.UsageError("--dry-run and --json exclude each other")
    config = configured(options)
    log = log_of(options)
    with ExitStack() as stack:
        if not dry_run and not as_json:
            held(config.state, stack, log, DEBUG)
        return _once(config, log, dry_run=dry_run, as_json=as_json)


def _once(config: Config, log: Log, *, dry_run: bool, as_json: bool) -> int:
    from pgstats.cli.cycle import Cycle, poll_all  # noqa: PLC0415

    polls = poll_all(config.targets)
    _tell(polls, log)
    if as_json:
        from pgstats.cli.document import document  # noqa: PLC0415

        click.echo(document(polls))
        return _code(polls)
    if dry_run:
        from pgstats.ship import Paper  # noqa: PLC0415

        paper = Paper(config.statsd.max_packet)
        Cycle(config, paper).ship(polls, seconds=60)
        for packet in paper.packets:
            sys.stdout.write(packet.decode() + "\n")
        return _code(polls)
    return _ship(Cycle(config), polls, log)


def _ship(cycle: Cycle, polls: Sequence[Poll], log: Log) -> int:
    taken = cycle.ship(polls, seconds=60)
    counts = cycle.wire.counts
    if not taken:
        log.tell(
            ERROR,
            f"statsd at {cycle.wire.url}: {cycle.wire.fault}: {counts['errors']} packets lost, "
            f"{counts['packets']} sent (is statsd running there? see --statsd)",
        )
    log.tell(DEBUG, f"shipped {counts['lines']} lines in {counts['packets']} packets")
    if not counts["packets"]:
        return UNAVAILABLE
    return _code(polls) or (OK if taken else FAILED)


def _tell(polls: Sequence[Poll], log: Log) -> None:
    for poll in polls:
        for problem in poll.problems():
            log.tell(ERROR, f"{poll.target.name}: {problem}")
        log.tell(DEBUG, f"{poll.target.name}: polled in {poll.seconds * 1000:.0f} ms")
        if refused := poll.counts.get("databases_refused"):
            log.tell(DEBUG, f"{poll.target.name}: {refused} databases let this role not in")
        if strange := poll.counts.get("unknown_columns"):
            log.tell(DEBUG, f"{poll.target.name}: {strange} columns this version does not know")


def _code(polls: Sequence[Poll]) -> int:
    if not any(poll.up for poll in polls):
        return UNAVAILABLE
    return OK if all(poll.ok for poll in polls) else FAILED
