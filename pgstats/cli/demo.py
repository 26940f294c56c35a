"""`pgstats demo`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from pgstats.cli import colour
from pgstats.cli.colour import movable
from pgstats.cli.events import Events
from pgstats.cli.main import FAILED, OK
from pgstats.cli.options import SECONDS, option

if TYPE_CHECKING:
    from subprocess import Popen

    from pgstats.scratch import Bouncer, Cluster, Scratch
    from pgstats.screen import Board
    from pgstats.sink import Sink

    Asked = Callable[[float], bool]

_INTERVAL = 2.0  # seconds between polls, and between pictures where they cannot be drawn in place
_REFRESH = 0.5  # seconds between pictures on a terminal
_LOOK = 3.0  # seconds that `pgstats why` watches


@click.command("demo")
@option("--for", "seconds", type=SECONDS, help="End after this time: 30s, 5m.")
def command(*, seconds: float | None) -> int:
    """Shows pgstats at work on a private PostgreSQL and PgBouncer, until Ctrl-C.

    Both are started in a temporary directory with a load that makes clients queue and dead
    tuples pile up, polled every two seconds, asked why, and removed at the end. Nothing else is
    touched.
    """
    with Events() as events:
        return demo(seconds, sys.stdout, events.asked)


def demo(seconds: float | None, out: TextIO, asked: Asked) -> int:
    """Run it all; ``asked`` waits so many seconds and says whether to end."""
    from pgstats.scratch import Scratch  # noqa: PLC0415
    from pgstats.sink import Sink  # noqa: PLC0415

    with Scratch() as scratch, Sink() as sink, closing(_board(out)) as board:
        board.say(f"Starting PostgreSQL and PgBouncer in {scratch.path} ...")
        servers = _servers(scratch, asked)
        if servers is None:
            return OK
        _load(scratch, servers[1])
        config = _config(scratch, *servers, sink, board)
        poller = _pgstats(scratch, _log(scratch), "run", config)
        well = _watch(poller, sink.start(), board, _Why(scratch, config), seconds, asked)
        board.close()
        if not well:
            click.echo(f"pgstats run did not do its work:\n{_log(scratch).read_text()}", err=True)
        return OK if well else FAILED


def _board(out: TextIO) -> Board:
    from pgstats.screen import Board  # noqa: PLC0415

    return Board(out, colour=colour.on(out), live=movable(out))


def _servers(scratch: Scratch, asked: Asked) -> tuple[Cluster, Bouncer] | None:
    """Both servers with the shop in them; None when told to end meanwhile.

    They have no TCP ports: they ask no passwords, and a port is open to every local user.
    """
    from pgstats.demo import POOL_SIZE, SCHEMA  # noqa: PLC0415
    from pgstats.scratch import Bouncer, Cluster  # noqa: PLC0415

    settings = {"listen_addresses": "", "autovacuum_naptime": "5s"}
    cluster = Cluster(scratch, settings)
    if asked(0):
        return None
    cluster.start()
    cluster.psql("CREATE DATABASE shop")
    cluster.psql(SCHEMA, "shop")
    bouncer = Bouncer(
        scratch,
        {"shop": cluster.address},
        users=dict.fromkeys(("web", "worker", "report", "pgstats"), ""),
        stats_users=["pgstats"],
        settings={"listen_addr": "", "default_pool_size": POOL_SIZE},
    )
    return None if asked(0) else (cluster, bouncer.start())


def _load(scratch: Scratch, bouncer: Bouncer) -> None:
    from pgstats.demo import CLIENTS  # noqa: PLC0415

    psql = scratch.binaries.postgres / "psql"
    for client in CLIENTS:
        script = scratch.write(f"{client.user}.sql", client.script)
        for _ in range(client.sessions):
            dsn = f"{bouncer.dsn('shop', client.user)} application_name=shop-{client.user}"
            scratch.launch([psql, "-Xq", "-d", dsn, "-f", script], output=Path(os.devnull))


def _config(scratch: Scratch, cluster: Cluster, bouncer: Bouncer, sink: Sink, board: Board) -> Path:
    """The configuration file, as a user would write it."""
    from pgstats.demo import configuration  # noqa: PLC0415

    text = configuration(
        statsd=sink.url,
        pgbouncer=f"host={bouncer.host} port={bouncer.port}",
        postgres=f"host={cluster.host} port={cluster.port}",
        state=str(scratch.path / "state"),
        interval=_INTERVAL,
    )
    path = scratch.path / "pgstats.toml"
    path.write_text(text, "utf-8")
    board.say(f"Running pgstats run --config {path}\n\n{text}")
    return path


def _pgstats(scratch: Scratch, output: Path, name: str, config: Path, *more: str) -> Popen[bytes]:
    """A command of pgstats, as a user would run it."""
    # -P: what lies in the current folder must not be taken for a part of pgstats.
    argv: list[str | Path] = [sys.executable, "-P", "-m", "pgstats", name, "--config", config]
    return scratch.launch([*argv, *more], output=output, death_signal=signal.SIGTERM, ours=True)


class _Why:
    """Asks `pgstats why` again and again, beside the polls."""

    def __init__(self, scratch: Scratch, config: Path) -> None:
        self._scratch, self._config = scratch, config
        self._output = scratch.path / "why.txt"
        self._asking: Popen[bytes] | None = None
        self.said = ""

    def listen(self) -> str:
        """The first sentence of the last report, "" until there is one."""
        if self._asking is None:
            watch = f"{_LOOK:g}s"
            self._output.unlink(missing_ok=True)
            self._asking = _pgstats(
                self._scratch, self._output, "why", self._config, "--watch", watch
            )
        elif self._asking.poll() is not None:
            self.said = self._output.read_text("utf-8").partition("\n\n")[0].strip()
            self._asking = None
        return self.said


def _log(scratch: Scratch) -> Path:
    return scratch.path / "pgstats.log"


def _watch(
    poller: Popen[bytes],
    sink: Sink,
    board: Board,
    why: _Why,
    seconds: float | None,
    asked: Asked,
) -> bool:
    """Show what arrives until told to end or ``seconds`` are over; whether all went well."""
    from pgstats.screen import healthy  # noqa: PLC0415

    pause = _REFRESH if board.live else _INTERVAL
    end = float("inf") if seconds is None else time.monotonic() + seconds
    values: dict[str, float] = {}
    while (left := end - time.monotonic()) > 0:
        if asked(min(pause, left)):
            return True
        values = {name: value for (name, _), value in sink.snapshot().items()}
        board.draw(values, time.monotonic(), _account(sink), why.listen())
        if poller.poll() is not None:
            return False
    return healthy(values)


def _account(sink: Sink) -> str:
    lost = f"{sink.lost} packets lost"
    return f"received {sink.lines} lines in {sink.packets} packets, {lost}. Ctrl-C ends."
