"""`pgstats sink`."""

from __future__ import annotations

import sys

import click

from pgstats.cli.main import OK
from pgstats.cli.options import SECONDS, option


@click.command("sink")
@click.argument("url", default="udp://127.0.0.1:8125")
@option("--count", type=click.IntRange(1), metavar="N", help="End after so many lines.")
@option("--for", "seconds", type=SECONDS, help="End after this time: 30s, 5m.")
def command(*, url: str, count: int | None, seconds: float | None) -> int:
    """A statsd receiver for eyes: prints what arrives at URL until Ctrl-C.

    URL is udp://host:port, tcp://host:port, unix:///path or unixgram:///path. The last line, on
    standard error, counts lines, packets, and what the kernel had to drop.
    """
    from pgstats.sink import Sink, show  # noqa: PLC0415

    with Sink(url) as sink:
        click.echo(f"listening at {sink.url}", err=True)
        show(sink, sys.stdout, count=count, seconds=seconds)
        click.echo(sink.summary(), err=True)
    return OK
