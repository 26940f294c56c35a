"""Tells a person who waits what for. Nobody else is told: cron would mail it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from pgstats.cli.colour import movable

#: Seconds that nobody minds.
PATIENCE = 2.0


def say(text: str) -> None:
    """Show a line in the place of the one before; "" takes it away."""
    if movable(sys.stderr):
        click.echo(f"\r\x1b[K{text}", err=True, nl=False)


@contextmanager
def progress(text: str) -> Iterator[None]:
    """While this takes longer than one minds, what it is and for how long it has gone on."""
    if not movable(sys.stderr):
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_count, args=(text, over), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _count(text: str, over: threading.Event) -> None:
    started = time.monotonic()
    if over.wait(PATIENCE):
        return
    while True:
        say(f"{text} ... {time.monotonic() - started:.0f} s")
        if over.wait(1.0):
            say("")
            return
