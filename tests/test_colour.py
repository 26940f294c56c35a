"""Colour: one decision for every command."""

from __future__ import annotations

import pytest

from pgstats.cli.colour import wanted
from tests.program import pgstats

NO, FORCE, DUMB = {"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}, {"TERM": "dumb"}


@pytest.mark.parametrize(
    ("choice", "environ", "colour"),
    [
        ("auto", {}, None),
        ("auto", {"NO_COLOR": "", "FORCE_COLOR": ""}, None),
        ("auto", NO, False),
        ("auto", FORCE, True),
        ("auto", DUMB, False),
        ("auto", NO | FORCE, False),
        ("auto", FORCE | DUMB, True),
        ("always", NO | DUMB, True),
        ("never", FORCE, False),
    ],
)
def test_who_wins(choice: str, environ: dict[str, str], colour: bool | None) -> None:
    assert wanted(choice, environ) is colour


@pytest.mark.parametrize("command", [["show", "up"], ["why", "--watch", "0"]])
@pytest.mark.parametrize(
    ("options", "env", "coloured"),
    [
        ([], {}, False),
        (["--color", "always"], NO, True),
        ([], FORCE, True),
        ([], {"PGSTATS_COLOR": "always"}, True),
        (["--color", "never"], FORCE, False),
    ],
)
def test_commands_heed_it(
    command: list[str], options: list[str], env: dict[str, str], coloured: bool
) -> None:
    done = pgstats(*command, "--postgres", "host=/nowhere", *options, env=env)
    assert done.returncode == 69
    assert ("\x1b[" in done.stdout) == coloured
    assert "\x1b" not in done.stderr
