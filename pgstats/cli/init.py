"""`pgstats init`."""

from __future__ import annotations

import os
import sys

import click

from pgstats.cli.main import OK
from pgstats.cli.options import option
from pgstats.errors import ConfigError


@click.command("init")
@click.argument("file", default="")
@option("--force", is_flag=True, help="Write over a file that is there.")
def command(*, file: str, force: bool) -> int:
    """Writes a configuration with every setting, its meaning and its default, to begin with.

    FILE is $PGSTATS_CONFIG or /etc/pgstats/pgstats.toml unless named; - is standard output.
    """
    from pgstats.config import DEFAULT_FILE  # noqa: PLC0415
    from pgstats.config.template import template  # noqa: PLC0415

    path = file or os.environ.get("PGSTATS_CONFIG") or DEFAULT_FILE
    if path == "-":
        sys.stdout.write(template())
        return OK
    try:
        with open(path, "w" if force else "x", encoding="utf-8") as out:  # noqa: PTH123 - x
            out.write(template())
    except FileExistsError as error:
        raise ConfigError([f"{path} is there already; --force writes over it"]) from error
    except OSError as error:
        raise ConfigError([f"{path}: cannot be written: {error.strerror}"]) from error
    click.echo(f"{path} is written; name your servers in it, then: pgstats check --config {path}")
    return OK
