"""`pgstats completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from pgstats.cli.main import OK, cli

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
def command(*, shell: str) -> int:
    """Prints what lets a shell complete commands, options and the names of targets.

    \b
    bash: eval "$(pgstats completion bash)"  in ~/.bashrc
    zsh:  eval "$(pgstats completion zsh)"   in ~/.zshrc, after compinit
    fish: pgstats completion fish > ~/.config/fish/completions/pgstats.fish
    """  # noqa: D301 - click wants the character
    found = get_completion_class(shell)
    assert found
    click.echo(found(cli, {}, "pgstats", "_PGSTATS_COMPLETE").source())
    return OK
