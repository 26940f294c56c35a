"""What a terminal may be asked for, colour above all: decided here, for every command."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TextIO

import click


def wanted(choice: str, environ: Mapping[str, str]) -> bool | None:
    """What a user wants; None is colour on terminals alone.

    The option beats $NO_COLOR, that $FORCE_COLOR, and that what the terminal can do.
    """
    if choice != "auto":
        return choice == "always"
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    return False if environ.get("TERM") == "dumb" else None


def _decide(context: click.Context, _: click.Parameter, choice: str) -> None:
    context.color = wanted(choice, os.environ)  # click.echo goes by this


def with_colour(command: click.Command) -> click.Command:
    """The command with the option --color."""
    if not any(one.name == "color" for one in command.params):
        command.params.append(
            click.Option(
                ["--color"],
                type=click.Choice(("auto", "always", "never")),
                default="auto",
                show_default=True,
                envvar="PGSTATS_COLOR",
                show_envvar=True,
                expose_value=False,
                is_eager=True,
                callback=_decide,
                help="Colour; auto is on terminals alone, and heeds NO_COLOR and FORCE_COLOR.",
            )
        )
    return command


def on(stream: TextIO) -> bool:
    """Whether what a command writes there is to be coloured."""
    chosen = click.get_current_context().color
    return stream.isatty() if chosen is None else chosen


def movable(stream: TextIO) -> bool:
    """Whether what was written there can be taken back, since its cursor can be moved."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"
