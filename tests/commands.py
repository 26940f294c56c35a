"""The command tree as a page of docs/ and as a man page."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from textwrap import indent
from typing import NamedTuple

import click

from pgstats.cli.main import COMMANDS, cli


class Option(NamedTuple):
    """One option: how it is written, what it does, its default, its variable."""

    names: str
    help: str
    default: str
    variable: str


class Command(NamedTuple):
    """One command of the tree; ``text`` are its paragraphs, lines that stand by themselves kept."""

    name: str
    usage: str
    text: list[str]
    options: list[Option]


def commands() -> Iterator[Command]:
    """Every command, in the order of the help."""
    for name in COMMANDS:
        with click.Context(cli, info_name="pgstats") as parent:
            command = cli.get_command(parent, name)
            assert command
            context = click.Context(command, info_name=name, parent=parent)
            usage = " ".join(command.collect_usage_pieces(context))
            text = re.split(r"\n\s*\n", inspect.cleandoc(command.help or ""))
            options = [_option(p) for p in command.params if isinstance(p, click.Option)]
            yield Command(name, f"pgstats {name} {usage}", text, options)


def _option(option: click.Option) -> Option:
    names = ", ".join(sorted(option.opts, key=len))
    shown = option.default if option.show_default and option.default is not None else ""
    value = "" if option.is_flag else f" {_value(option)}"
    return Option(names + value, option.help or "", str(shown), str(option.envvar or ""))


def _value(option: click.Option) -> str:
    """What stands behind an option."""
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    return option.metavar or option.type.name.upper()


HEAD = """# Commands

This page is generated from the command tree, as are `pgstats COMMAND --help` and the man page.
"""


def page() -> str:
    """The page of docs/."""
    return HEAD + "".join(map(_section, commands())) + f"\n## Exit codes\n\n{cli.epilog}\n"


def _section(command: Command) -> str:
    text = "\n\n".join(map(_paragraph, command.text))
    rows = "".join(map(_row, command.options))
    table = f"| option | does | default | variable |\n|---|---|---|---|\n{rows}"
    return f"\n## pgstats {command.name}\n\n`{command.usage}`\n\n{text}\n\n{table}"


def _paragraph(text: str) -> str:
    if text.startswith("\b"):
        return indent(text[1:].strip("\n"), "    ")
    return text.replace("<", "\\<").replace("*", "\\*")


def _row(option: Option) -> str:
    cells = (
        f"`{option.names}`",
        option.help,
        f"`{option.default}`" if option.default else "",
        f"`{option.variable}`" if option.variable else "",
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


FILES = (
    (
        "/etc/pgstats/pgstats.toml",
        "The configuration, unless --config or $PGSTATS_CONFIG names it.",
    ),
    ("/var/lib/pgstats/state", "What one-shot runs remember between polls, and their lock."),
)
VARIABLES = (
    ("PGSTATS_...", "Every option: --dry-run as PGSTATS_DRY_RUN=1. An option beats its variable."),
    ("PGHOST, PGSERVICE, ...", "Those of libpq name a server where nothing else does."),
    ("NO_COLOR, FORCE_COLOR, TERM=dumb", "Whether there is colour, unless --color says so."),
)


def manual() -> str:
    """The man page."""
    return "\n".join(_manual()) + "\n"


def _manual() -> Iterator[str]:
    yield '.\\" Generated from the command tree.'
    yield '.TH PGSTATS 1 "" pgstats "User Commands"'
    yield from (".SH NAME", f"pgstats \\- {_roff(_sentence())}")
    yield from (".SH SYNOPSIS", ".B pgstats", "COMMAND [OPTIONS] [ARGS]...")
    yield from (".SH DESCRIPTION", _roff(cli.help or ""))
    yield ".SH COMMANDS"
    for command in commands():
        yield from _entry(command)
    yield from (".SH EXIT STATUS", _roff(cli.epilog or ""))
    yield ".SH ENVIRONMENT"
    yield from _terms(VARIABLES)
    yield ".SH FILES"
    yield from _terms(FILES)
    yield from (".SH SEE ALSO", ".BR pgbouncer (1),", ".BR psql (1)")


def _sentence() -> str:
    """The first sentence of the help, as the line of a man page's name has it."""
    text = (cli.help or "").partition(".")[0]
    return text[0].lower() + text[1:]


def _entry(command: Command) -> Iterator[str]:
    yield f".SS {_roff(command.usage)}"
    for number, text in enumerate(command.text):
        if number:
            yield ".PP"
        if text.startswith("\b"):
            yield from (".nf", _roff(text[1:].strip("\n")), ".fi")
        else:
            yield _roff(text)
    yield from _terms((option.names, _told(option)) for option in command.options)


def _told(option: Option) -> str:
    more = [f"default: {option.default}"] * bool(option.default)
    more += [f"${option.variable}"] * bool(option.variable)
    return f"{option.help} [{'; '.join(more)}]" if more else option.help


def _terms(pairs: Iterator[tuple[str, str]] | tuple[tuple[str, str], ...]) -> Iterator[str]:
    for term, text in pairs:
        yield from (".TP", f".B {_roff(term)}", _roff(text))


def _roff(text: str) -> str:
    """Text that no roff takes for a command."""
    lines = text.replace("\\", "\\e").replace("-", "\\-").splitlines()
    return "\n".join(f"\\&{line}" if line[:1] in (".", "'") else line for line in lines)
