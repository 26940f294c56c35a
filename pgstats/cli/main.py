"""The command tree, and what becomes of errors: exit codes exist only here."""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
from contextlib import suppress
from typing import NoReturn

import click

from pgstats import __version__
from pgstats.cli.colour import with_colour
from pgstats.errors import ConfigError, PgstatsError, StateLocked, traced

# Exit codes beside click's own 2 for usage errors; the table in the README says when.
OK, FAILED, UNAVAILABLE, BUG, LOCKED, CONFIG, INTERRUPTED = 0, 1, 69, 70, 75, 78, 130

#: What click takes for a yes in the environment.
_YES = ("1", "true", "t", "yes", "y", "on")

#: Each with its line in `pgstats --help`, which imports none of them.
COMMANDS = {
    "once": "Polls every target once, ships, and exits.",
    "run": "Polls on a schedule until a signal ends it.",
    "why": "Says why dead tuples are not reclaimed.",
    "show": "Shows live values as a table.",
    "top": "Fills the terminal with pools, worst tables and the horizon.",
    "nagios": "Judges one metric as a Nagios plug-in.",
    "check": "Proves that targets, rights and statsd work.",
    "status": "Asks the running daemon how its last polls went.",
    "metrics": "Lists everything that can be shipped.",
    "dashboard": "Prints a dashboard of what is configured.",
    "mapping": "Prints how a receiver makes labels of names.",
    "alerts": "Prints alert rules for what is configured.",
    "init": "Writes a commented configuration to begin with.",
    "completion": "Prints what lets a shell complete commands and names.",
    "demo": "Shows pgstats at work on private servers.",
    "sink": "Prints what arrives: a statsd receiver for eyes.",
}


class _Commands(click.Group):
    """Imports a command when it is needed: start-up is a feature."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"pgstats.cli.{cmd_name}").command
        command.short_help = COMMANDS[cmd_name]
        return with_colour(command)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches  # noqa: PLC0415

            if near := get_close_matches(args[0], COMMANDS, 1):
                text = f"No such command '{args[0]}'. Did you mean '{near[0]}'?"
                raise click.UsageError(text, ctx) from error
            raise


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 all well, 1 something failed, 2 usage, 69 nothing could be read or "
    "shipped, 70 a bug in pgstats, 75 another run is under way, 78 configuration error. "
    "Every option can come from the environment: --dry-run as PGSTATS_DRY_RUN=1.",
)
@click.version_option(__version__, "--version", message="pgstats %(version)s")
def cli() -> None:
    """Polls PgBouncer and PostgreSQL and ships gauges to statsd."""


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    _open_streams()
    code = _run()
    try:
        sys.stdout.flush()
    except OSError as error:
        _say(f"cannot write to standard output: {error.strerror}")
        code = code or FAILED
    with suppress(OSError):
        sys.stderr.flush()
    _end_children()
    # Not sys.exit: a look-up left behind must not hold the process.
    os._exit(code)


def _end_children() -> None:
    """End a password_command that a poll still waits for; it leads a session of its own."""
    with suppress(OSError):  # no Linux
        for task in os.listdir("/proc/self/task"):  # noqa: PTH208 - pathlib costs every start
            with open(f"/proc/self/task/{task}/children") as file:  # noqa: PTH123
                children = file.read().split()
            for child in children:
                with suppress(OSError):
                    os.killpg(int(child), 9)


def _open_streams() -> None:
    """Let nothing else be standard output or error where the caller has closed them.

    The next file or connection would get their number, and every message.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", closefd=False))
    # What the encoding of a terminal or file does not hold is told all the same.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _run() -> int:
    try:
        result = cli.main(prog_name="pgstats", standalone_mode=False)
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt, SystemExit) as error:
        # Click's completion ends by itself, and rich where a pipe is closed.
        return int(error.code or OK) if isinstance(error, SystemExit) else INTERRUPTED
    except PgstatsError as error:
        return _fault(error)
    except OSError as error:
        return _output_gone(error)
    except Exception as error:
        return _bug(error)
    return result if isinstance(result, int) else OK


def _fault(error: PgstatsError) -> int:
    for line in str(error).splitlines():
        _say(line)
    codes = ((ConfigError, CONFIG), (StateLocked, LOCKED))
    return next((code for kind, code in codes if isinstance(error, kind)), UNAVAILABLE)


def _output_gone(error: OSError) -> int:
    """Standard output is closed (a pipe into head) or full; servers' troubles never get here."""
    if isinstance(error, BrokenPipeError):
        # Keep Python from complaining about the closed pipe once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    else:
        _say(f"cannot write the result: {error.strerror or error}")
    return FAILED


def _bug(error: Exception) -> int:
    """A bug is told in one line; --verbose shows where it is."""
    _say(f"a bug in pgstats, please report it: {type(error).__name__} (details with --verbose)")
    if _verbose():
        with suppress(OSError):
            sys.stderr.write(traced(error))
    return BUG


def _verbose() -> bool:
    """Whether somebody asked for more, also where no command came to read its options."""
    asked = any(re.fullmatch(r"--verbose|-[qvh]*v[qvh]*", word) for word in sys.argv[1:])
    return asked or os.environ.get("PGSTATS_VERBOSE", "").lower() in _YES


def _say(text: str) -> None:
    """What ends a command, told as its log would, where no command is there to do it."""
    from pgstats.log import ERROR, Log  # noqa: PLC0415

    asked = re.search(r" --log-format[ =]json\b", " ".join(sys.argv))
    form = "json" if asked else os.environ.get("PGSTATS_LOG_FORMAT", "")
    Log("normal", os.environ, form=form).tell(ERROR, f"pgstats: {text}")
