"""The options that commands share, and the configuration they make."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pgstats.errors import ConfigError, PgstatsError, StateError, StateLocked
from pgstats.log import WARNING, Log

if TYPE_CHECKING:
    from pgstats.config import Config
    from pgstats.model import Target
    from pgstats.state import State

F = TypeVar("F", bound=Callable[..., Any])


class _Seconds(click.ParamType):  # type: ignore[type-arg]
    """A duration as the configuration writes it; ``or_none`` takes 0 as well."""

    name = "duration"

    def __init__(self, *, or_none: bool = False) -> None:
        self._or_none = or_none

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        from pgstats.config import seconds  # noqa: PLC0415

        if self._or_none and str(value) in ("0", "0s", "0.0"):
            return 0.0
        try:
            return seconds(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


SECONDS = _Seconds()
SECONDS_OR_NONE = _Seconds(or_none=True)


def option(*names: str, **more: Any) -> Callable[[F], F]:
    """A click option that its variable in the environment can give as well.

    Those of the configuration are no such options: `pgstats.config` reads their variables itself,
    to tell where a value comes from.
    """
    long = next(name for name in names if name.startswith("--"))
    variable = "PGSTATS_" + long.removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=variable, show_envvar=True, **more)


def _target_names(context: click.Context, _: click.Parameter, start: str) -> list[str]:
    """Those of the configuration, for a shell to complete."""
    try:
        found = configured(context.params)
    except PgstatsError:
        return []
    return [target.name for target in found.targets if target.name.startswith(start)]


_WHOM = (
    click.option(
        "--config",
        metavar="FILE",
        help="Configuration file [$PGSTATS_CONFIG, else /etc/pgstats/pgstats.toml if it exists].",
    ),
    click.option(
        "--pgbouncer",
        metavar="DSN",
        multiple=True,
        help="Poll this PgBouncer instead of the file's targets; repeatable.",
    ),
    click.option(
        "--postgres",
        metavar="DSN",
        multiple=True,
        help="Poll this PostgreSQL instead of the file's targets; repeatable.",
    ),
)

_SHIPPING = (
    click.option("--statsd", metavar="URL", help="Where to ship [udp://127.0.0.1:8125]."),
    click.option("--dialect", metavar="NAME", help="plain, dogstatsd, influx or graphite [plain]."),
    click.option("--prefix", metavar="NAME", help="First part of every name [pgstats]."),
)

_TELLING = (
    option("-v", "--verbose", is_flag=True, help="Tell more."),
    option("-q", "--quiet", is_flag=True, help="Tell errors only."),
    option(
        "--log-format",
        type=click.Choice(("text", "json")),
        default="text",
        show_default=True,
        help="How standard error tells it: lines, or an object a line.",
    ),
)

_VIEW = (
    option("-H", "--host", metavar="HOST", help="Ask the server on this host, as psql's -h does."),
    option("-p", "--port", metavar="PORT", help="Ask the server at this port."),
    option("-U", "--username", metavar="NAME", help="Log in as this user."),
    option("-d", "--dbname", metavar="DBNAME", help="Log in to this database, or a whole DSN."),
    option(
        "--target",
        "names",
        metavar="GLOB",
        multiple=True,
        help="Ask these of the configured targets; repeatable.",
        shell_complete=_target_names,
    ),
)

_STATE = (
    click.option("--state", metavar="FILE", help="What one-shot runs remember, and their lock."),
    click.option("--no-state", is_flag=True, help="Remember nothing and take no lock."),
)


def _decorated(function: F, decorators: tuple[Callable[[F], F], ...]) -> F:
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def with_targets(function: F) -> F:
    """Adds the options that say whom to poll and where to ship."""
    return _decorated(function, (*_WHOM, *_SHIPPING, *_TELLING))


def with_view(function: F) -> F:
    """Adds the options that say whom to ask, and no place to ship to: psql's among them."""
    return _decorated(function, (*_VIEW, *_WHOM, *_TELLING))


def with_state(function: F) -> F:
    """Adds the options of the state file."""
    return _decorated(function, _STATE)


#: Options that a script with an unset variable leaves empty, and means something by.
_NEVER_EMPTY = ("config", "statsd", "dialect", "prefix", "interval", "state")


def configured(options: Mapping[str, Any], default: tuple[str, str] | None = None) -> Config:
    """The merged configuration of options, environment and file.

    ``default`` is the family and the DSN of whom to ask where nobody says.
    """
    for name in _NEVER_EMPTY:
        if options.get(name) == "":
            raise click.UsageError(f"--{name} is empty: leave it out, or give it a value")
    from pgstats.ask import parse_dsn  # noqa: PLC0415
    from pgstats.config import load  # noqa: PLC0415

    return load(options["config"], options, os.environ, parse_dsn, default)


def overlaps(target: Target) -> str:
    """What is to be said of a timeout that is longer than the interval, "" for any other."""
    if target.timeout <= target.interval:
        return ""
    return (
        f"its timeout of {target.timeout:g} s is longer than its interval of {target.interval:g} s:"
        " where a run takes so long, `pgstats run` skips the next ones (skipped_runs)"
    )


def log_of(options: Mapping[str, Any], *, daemon: bool = False) -> Log:
    """The log at the verbosity asked for."""
    verbosity = "verbose" if options["verbose"] else "quiet" if options["quiet"] else "normal"
    return Log(verbosity, os.environ, daemon=daemon, form=options["log_format"])


def held(path: str, stack: ExitStack, log: Log) -> State:
    """The state of a file and its lock; without a place to write it, one that is not kept."""
    from pgstats import state  # noqa: PLC0415

    try:
        found = stack.enter_context(state.held(path))
    except StateLocked:
        raise
    except StateError as error:
        log.tell(WARNING, str(error))
        return state.State()
    if found.fault:
        log.tell(WARNING, found.fault)
    return found
