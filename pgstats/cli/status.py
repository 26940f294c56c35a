"""`pgstats status`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click

from pgstats.cli.main import FAILED, OK
from pgstats.cli.options import option
from pgstats.errors import DeskError
from pgstats.log import duration, printable

_HEAD = ("target", "state", "last success", "took", "next poll", "skipped", "last error")


@click.command("status")
@option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def command(*, as_json: bool) -> int:
    """Asks the running daemon how its last polls went.

    Its socket is status.sock in $RUNTIME_DIRECTORY, else in $XDG_RUNTIME_DIR/pgstats or in
    /run/pgstats; only the user of the daemon, and root, may ask there.
    """
    import json  # noqa: PLC0415

    from pgstats.daemon import visit  # noqa: PLC0415

    text = visit(os.environ)
    try:
        found = json.loads(text)
    except ValueError as error:
        raise DeskError("the daemon's answer is cut short; it may be overloaded") from error
    click.echo(text if as_json else "\n".join(_lines(found)))
    well = all(one["ok"] is not False and not one["stuck"] for one in found["targets"])
    return OK if well and not found["statsd"]["fault"] else FAILED


def _lines(found: dict[str, Any]) -> list[str]:
    """The answer for people."""
    rows = [_HEAD, *(_row(one) for one in found["targets"])]
    return [*_aligned(rows), "", _shipping(found["statsd"]), _daemon(found)]


def _row(one: dict[str, Any]) -> Sequence[str]:
    return (
        one["name"],
        _state(one),
        _ago(one["last_success_age_seconds"]),
        _took(one["seconds"]),
        f"in {duration(one['next_poll_in_seconds'])}",
        str(one["skipped_runs"]),
        _error(one),
    )


def _state(one: dict[str, Any]) -> str:
    if one["stuck"]:
        return "stuck"
    return {True: "ok", False: "failing", None: "not polled yet"}[one["ok"]]


def _error(one: dict[str, Any]) -> str:
    age = one["last_error_age_seconds"]
    return "" if age is None else f"{_ago(age)}: {printable(one['last_error'])}"


def _ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{duration(seconds)} ago"


def _took(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.0f} ms"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, each column as wide as its widest word."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _shipping(statsd: dict[str, Any]) -> str:
    """What became of the lines."""
    reasons = ", ".join(f"{lines} {why}" for why, lines in statsd["dropped_by_reason"].items())
    dropped = f"{statsd['dropped']} dropped" + f" ({reasons})" * bool(reasons)
    fault = f"; now: {printable(statsd['fault'])}" if statsd["fault"] else ""
    return f"statsd at {statsd['url']}: {statsd['lines']} lines shipped, {dropped}{fault}"


def _daemon(found: dict[str, Any]) -> str:
    since = duration(found["running_seconds"])
    return f"pgstats {found['version']}, pid {found['pid']}, running for {since}"
