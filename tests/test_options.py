"""Every option can come from the environment, and an option on the command line beats that."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click
import pytest

from pgstats.cli.main import COMMANDS, cli
from pgstats.config import settings
from tests.program import gauges, pgstats

NOWHERE = "host=/nowhere/at/all user=me"
#: Options that `pgstats.config` reads from the environment itself, to tell where a value is from.
CONFIGURED = {"config", "no_state", *settings.FAMILIES} | {
    setting.option for section in settings.SECTIONS.values() for setting in section
}


def options() -> Iterator[tuple[str, click.Option]]:
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                yield name, parameter


@pytest.mark.parametrize(
    ("command", "option"),
    [pytest.param(*case, id=f"{case[0]}-{case[1].name}") for case in options()],
)
def test_every_option_can_come_from_the_environment(command: str, option: click.Option) -> None:
    long = next(name for name in option.opts if name.startswith("--")).removeprefix("--")
    if command not in ("metrics", "demo", "sink") and long.replace("-", "_") in CONFIGURED:
        assert option.envvar is None, "the configuration would not know that it was no option"
        return
    variable = "PGSTATS_" + long.replace("-", "_").upper()
    assert option.envvar == variable
    shown = " ".join(pgstats(command, "--help").stdout.split())
    assert f"env var: {variable}" in shown


def test_flags_of_once_from_the_environment() -> None:
    dry = pgstats("once", "--postgres", NOWHERE, env={"PGSTATS_DRY_RUN": "1"})
    assert [v for name, v in gauges(dry.stdout).items() if name.endswith(".up")] == [0]
    as_json = pgstats("once", "--postgres", NOWHERE, env={"PGSTATS_JSON": "true"})
    assert json.loads(as_json.stdout)["targets"][0]["up"] == 0


def test_an_option_beats_the_environment_even_where_two_exclude_each_other() -> None:
    found = pgstats("once", "--postgres", NOWHERE, "--dry-run", env={"PGSTATS_JSON": "1"})
    assert ":0|g" in found.stdout
    found = pgstats("once", "--postgres", NOWHERE, "--json", env={"PGSTATS_DRY_RUN": "1"})
    assert json.loads(found.stdout)
    both = {"PGSTATS_DRY_RUN": "1", "PGSTATS_JSON": "1"}
    assert pgstats("once", "--postgres", NOWHERE, env=both).returncode == 2
    assert pgstats("once", "--postgres", NOWHERE, "--json", "--dry-run").returncode == 2


@pytest.mark.parametrize("name", ["config", "statsd", "dialect", "prefix", "state"])
def test_an_option_that_an_unset_variable_left_empty_is_refused(name: str) -> None:
    done = pgstats("once", "--dry-run", "--postgres", NOWHERE, f"--{name}", "")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--{name} is empty" in done.stderr


def test_other_commands_from_the_environment() -> None:
    everything = {"PGSTATS_PREFIX": "ours", "PGSTATS_DIALECT": "influx", "PGSTATS_JSON": "1"}
    (entry,) = json.loads(pgstats("metrics", "pgbouncer.up", env=everything).stdout)
    assert entry["line"].startswith("ours.pgbouncer.up,target=")
    offline = pgstats("check", "--postgres", NOWHERE, env={"PGSTATS_OFFLINE": "1"})
    assert (offline.returncode, "valid" in offline.stdout) == (0, True)
    assert pgstats("sink", "udp://127.0.0.1:0", env={"PGSTATS_FOR": "10ms"}).returncode == 0


def test_what_a_command_has_no_option_for_does_not_concern_it() -> None:
    env = {f"PGSTATS_{name}": "1" for name in ("JSON", "DRY_RUN", "SAMPLE", "OFFLINE")}
    done = pgstats("sink", "udp://127.0.0.1:0", "--for", "10ms", env=env)
    assert done.returncode == 0
    assert pgstats("--version", env=env).returncode == 0
