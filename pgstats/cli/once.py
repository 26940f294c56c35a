"""`pgstats once`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pgstats.cli.main import BUG, FAILED, OK, UNAVAILABLE
from pgstats.cli.options import (
    SECONDS,
    configured,
    held,
    log_of,
    option,
    with_state,
    with_targets,
)
from pgstats.cli.progress import progress
from pgstats.cli.telling import code, tell
from pgstats.errors import StateError
from pgstats.log import DEBUG, ERROR, WARNING, Log

if TYPE_CHECKING:
    from pgstats.config import Config
    from pgstats.model import Poll
    from pgstats.state import State


@click.command("once")
@with_targets
@with_state
@option("--dry-run", is_flag=True, help="Print the lines that would be shipped; ship nothing.")
@option("--packets", is_flag=True, help="With --dry-run: show where each packet begins.")
@option(
    "--sample",
    type=click.IntRange(2, 1000),
    metavar="N",
    help="Look at each PgBouncer's pools so many times, and ship least, mean, greatest and p95.",
)
@option("--every", type=SECONDS, default="200ms", help="Time between two samples [200ms].")
@option("--json", "as_json", is_flag=True, help="Print the poll as JSON; ship nothing.")
def command(
    *,
    dry_run: bool,
    packets: bool,
    as_json: bool,
    sample: int | None,
    every: float,
    **options: Any,
) -> int:
    """Polls every target once, ships, and exits: for cron and systemd timers."""
    if dry_run and as_json:
        dry_run, as_json = _stronger("dry_run", "as_json")
    if packets and not dry_run:
        raise click.UsageError("--packets goes with --dry-run")
    if sample is None and _typed("every"):
        raise click.UsageError("--every goes with --sample")
    config = configured(options)
    log = log_of(options)
    with ExitStack() as stack:
        # The lock comes before the poll: a run that may not ship asks nobody anything.
        state = None if as_json else _state(config, stack, log, dry_run=dry_run)
        polls = _poll(config, sample or 0, every, state)
        if state is None:
            return _show(polls, log)
        if dry_run:
            return _spell(config, state, polls, log, packets=packets)
        return _ship(config, state, polls, log)


def _stronger(*names: str) -> Sequence[bool]:
    """Which of two flags that exclude each other holds: an option wins over the environment."""
    given = [_typed(name) for name in names]
    if len(set(given)) == 1:
        raise click.UsageError("--dry-run and --json exclude each other")
    return given


def _typed(name: str) -> bool:
    """Whether an option stands on the command line."""
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE


def _state(config: Config, stack: ExitStack, log: Log, *, dry_run: bool) -> State:
    """What is remembered; who ships nothing takes no lock and changes nothing."""
    from pgstats.state import glanced  # noqa: PLC0415

    if not dry_run:
        return held(config.state, stack, log)
    state = glanced(config.state)
    if state.fault:
        log.tell(DEBUG, state.fault)
    return state


def _poll(config: Config, sample: int, every: float, state: State | None) -> Sequence[Poll]:
    from pgstats.cli.cycle import poll_all  # noqa: PLC0415

    burst = None
    if sample:
        from pgstats.ask.burst import Burst  # noqa: PLC0415

        burst = Burst(sample, every)
    with progress("asking"):
        return poll_all(config.targets, burst, state)


def _show(polls: Sequence[Poll], log: Log) -> int:
    """Print the poll."""
    from pgstats.cli.document import document  # noqa: PLC0415

    tell(polls, log)
    click.echo(document(polls))
    return code(polls)


def _spell(config: Config, state: State, polls: Sequence[Poll], log: Log, *, packets: bool) -> int:
    """Print what would be shipped, which depends on what was before."""
    from pgstats.cli.cycle import Cycle  # noqa: PLC0415
    from pgstats.ship import Paper  # noqa: PLC0415

    paper = Paper(config.statsd.max_packet)
    Cycle(config, state, partial(log.tell, WARNING), paper).ship(polls, seconds=60)
    tell(polls, log)
    for number, packet in enumerate(paper.packets, 1):
        if packets:
            lines = packet.count(b"\n") + 1
            sys.stdout.write(f"# packet {number}: {lines} lines, {len(packet)} bytes\n")
        sys.stdout.write(packet.decode() + "\n")
    return code(polls)


def _ship(config: Config, state: State, polls: Sequence[Poll], log: Log) -> int:
    from pgstats.cli.cycle import Cycle  # noqa: PLC0415

    cycle = Cycle(config, state, partial(log.tell, WARNING))
    taken = cycle.ship(polls, seconds=60)
    tell(polls, log)
    _save(state, log)
    counts = cycle.wire.counts
    if not taken:
        log.tell(
            ERROR,
            f"statsd at {cycle.wire.url}: {cycle.fault}: {counts['errors']} packets lost, "
            f"{counts['packets']} sent (is statsd running there? see --statsd)",
        )
    if log.hears(DEBUG):
        log.tell(DEBUG, cycle.told())
    found = code(polls)
    if not counts["packets"]:
        return found if found == BUG else UNAVAILABLE
    return found or (OK if taken else FAILED)


def _save(state: State, log: Log) -> None:
    """What cannot be remembered is told; the poll was shipped all the same."""
    try:
        state.save()
    except StateError as error:
        log.tell(WARNING, str(error))
