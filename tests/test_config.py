"""The configuration: real files, libpq's own parser, and what people would see."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg2.extensions import parse_dsn as libpq_parse

from pgstats.catalogue import COLLECTED
from pgstats.config import Config, load, loading
from pgstats.config.settings import SECTIONS
from pgstats.config.showing import show
from pgstats.errors import ConfigError
from pgstats.model import PGBOUNCER, POSTGRES

MAIN = '[[postgres]]\nname = "main"\ndsn = "host=10.0.0.7"\n'


def parse_dsn(dsn: str) -> Mapping[str, str]:
    try:
        parsed: dict[str, str] = libpq_parse(dsn)
    except psycopg2.Error as error:
        raise ConfigError(["not a connection string"]) from error
    return parsed


@pytest.fixture(autouse=True)
def _no_system_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "DEFAULT_FILE", str(tmp_path / "system.toml"))
    monkeypatch.setattr(loading, "DEFAULT_STATE", str(tmp_path / "var" / "state"))


def written(text: str, folder: Path) -> str:
    path = folder / "pgstats.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def configured(text: str, folder: Path, **environ: str) -> Config:
    return load(written(text, folder), {}, environ, parse_dsn)


def faults(text: str, folder: Path, **environ: str) -> list[str]:
    """What is wrong with a file, without the file's name."""
    path = written(text, folder)
    with pytest.raises(ConfigError) as caught:
        load(path, {}, environ, parse_dsn)
    assert all(fault.startswith(path + ":") for fault in caught.value.faults)
    return [fault.removeprefix(path + ":") for fault in caught.value.faults]


def fault(text: str, folder: Path, **environ: str) -> str:
    (only,) = faults(text, folder, **environ)
    return only


def by_options(environ: Mapping[str, str] | None = None, **options: object) -> Config:
    return load(None, options, environ or {}, parse_dsn)


def outside_faults(environ: Mapping[str, str] | None = None, **options: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        by_options(environ, **options)
    return caught.value.faults


# What a file means


def test_every_default_is_the_promised_one(tmp_path: Path) -> None:
    config = configured(MAIN + '[[pgbouncer]]\ndsn = "host=10.0.0.8 port=6432"', tmp_path)
    assert (config.prefix, config.interval) == ("pgstats", 10.0)
    assert config.path == str(tmp_path / "pgstats.toml")
    statsd = config.statsd
    assert (statsd.url, statsd.dialect) == ("udp://127.0.0.1:8125", "plain")
    assert (statsd.tags, statsd.rate, statsd.max_packet) == ({}, 1000, 1400)
    assert statsd.on_vanish == 0
    front, main = config.targets
    assert (front.family, main.family) == (PGBOUNCER, POSTGRES)
    assert (front.collect, front.include_admin) == (COLLECTED, False)
    assert (main.databases, main.tables, main.exclude_tables) == (("*",), 50, ())
    assert (main.pooled, main.password_file, main.password_command) == (False, "", "")
    assert (main.tags, main.interval, main.timeout, main.passfile) == ({}, 10.0, 8.0, "")


def test_every_key_of_a_file_arrives(tmp_path: Path) -> None:
    config = configured(
        """
        prefix = "infra.pg"
        interval = "1m"
        state = "here/state"
        [statsd]
        url = "tcp://[::1]:9125"
        dialect = "influx"
        tags = { env = "prod", service = "db" }
        rate = 0
        max_packet = 512
        [[pgbouncer]]
        name = "front"
        dsn = "host=/run/pgbouncer port=6432"
        interval = "250ms"
        collect = ["pools", "stats", "pools"]
        include_admin = true
        password_file = "secrets/front"
        [[postgres]]
        name = "self"
        dsn = "service=main"
        timeout = "1.5s"
        databases = ["*", "!scratch_*"]
        tables = "all"
        exclude_tables = ["audit.*"]
        pooled = true
        password_command = ["aws", "rds token"]
        tags = { tier = "1" }
        """,
        tmp_path,
    )
    assert (config.prefix, config.interval) == ("infra.pg", 60.0)
    assert config.state == str(tmp_path / "here/state")
    statsd = config.statsd
    assert (statsd.url, statsd.dialect, statsd.rate) == ("tcp://[::1]:9125", "influx", 0)
    assert (statsd.tags, statsd.max_packet) == ({"env": "prod", "service": "db"}, 512)
    front, own = config.targets
    assert (front.name, front.dsn) == ("front", "host=/run/pgbouncer port=6432")
    assert (front.interval, front.timeout) == (0.25, 0.2)
    assert (front.collect, front.include_admin) == (("pools", "stats"), True)
    assert front.password_file == str(tmp_path / "secrets/front")
    assert (own.name, own.interval, own.timeout) == ("self", 60.0, 1.5)
    assert (own.databases, own.tables) == (("*", "!scratch_*"), None)
    assert (own.exclude_tables, own.pooled, own.tags) == (("audit.*",), True, {"tier": "1"})
    assert own.password_command == "aws 'rds token'"


@pytest.mark.parametrize(
    ("interval", "seconds", "timeout"),
    [("250ms", 0.25, 0.2), ("10s", 10, 8), ("2m", 120, 10), ("1h", 3600, 10), ("0.5s", 0.5, 0.4)],
)
def test_durations_and_the_timeout_that_follows(
    interval: str, seconds: float, timeout: float, tmp_path: Path
) -> None:
    (target,) = configured(f'interval = "{interval}"\n{MAIN}', tmp_path).targets
    assert (target.interval, target.timeout) == pytest.approx((seconds, timeout))


def test_limits_are_included(tmp_path: Path) -> None:
    for packet in (64, 65507):
        text = (
            f'interval = "24h"\n[statsd]\nmax_packet = {packet}\n[[postgres]]\ndsn = ""\ntables = 0'
        )
        config = configured(text, tmp_path)
        assert (config.interval, config.statsd.max_packet) == (86400, packet)
        assert config.targets[0].tables == 0


@pytest.mark.parametrize(
    ("given_url", "url"),
    [
        ("udp://statsd.example.com", "udp://statsd.example.com:8125"),
        ("udp://10.0.0.1:9125/", "udp://10.0.0.1:9125"),
        ("tcp://[fe80::1%eth0]", "tcp://[fe80::1%eth0]:8125"),
        ("unix:///run/statsd.sock", "unix:///run/statsd.sock"),
        ("unixgram:///run/statsd.sock", "unixgram:///run/statsd.sock"),
    ],
)
def test_addresses(given_url: str, url: str) -> None:
    assert by_options(postgres=("",), statsd=given_url).statsd.url == url


@pytest.mark.parametrize(
    "url",
    [
        *("127.0.0.1:8125", "http://h:1", "udp://", "udp://h:0", "udp://h:65536", "udp://::1:8125"),
        *("unix://relative", "udp://h:1/path", "udp://user:Zq9@h:1", "tcp://a b"),
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    (told,) = outside_faults(postgres=("",), statsd=url)
    assert told.startswith('--statsd: must be "udp://HOST:PORT"')
    assert "Zq9" not in told


@pytest.mark.parametrize("prefix", ["a", "pg.stats-1_x", "A.1"])
def test_prefixes(prefix: str) -> None:
    assert by_options(postgres=("",), prefix=prefix).prefix == prefix


@pytest.mark.parametrize("prefix", ["1a", ".a", "a.", "a..b", "a b", "a:b", "ä", "a\n"])
def test_prefixes_that_are_none(prefix: str) -> None:
    (told,) = outside_faults(postgres=("",), prefix=prefix)
    assert told.startswith("--prefix: must be letters, digits")


def test_variables_are_replaced_and_can_be_avoided(tmp_path: Path) -> None:
    text = 'dsn = "host=${HOST} password=$${HOST}$x"\ntags = { env = "${ENV}-1" }'
    (target,) = configured("[[postgres]]\n" + text, tmp_path, HOST="10.0.0.9", ENV="prod").targets
    assert target.dsn == "host=10.0.0.9 password=${HOST}$x"
    assert target.tags == {"env": "prod-1"}


# Who wins


def test_option_beats_environment_beats_file(tmp_path: Path) -> None:
    path = written(
        f'prefix = "file"\ninterval = "1s"\n[statsd]\ndialect = "influx"\n{MAIN}', tmp_path
    )
    environ = {"PGSTATS_PREFIX": "env", "PGSTATS_INTERVAL": "2s", "PGSTATS_CONFIG": path}
    config = by_options(environ, prefix="option")
    assert (config.prefix, config.interval, config.statsd.dialect) == ("option", 2.0, "influx")
    assert config.targets[0].interval == 2.0


def test_every_option_can_come_from_the_environment() -> None:
    options = {setting.option for section in SECTIONS for setting in SECTIONS[section]} - {""}
    assert options == {"prefix", "interval", "state", "statsd", "dialect"}
    texts = {
        "PREFIX": "p",
        "INTERVAL": "3s",
        "STATE": "/s",
        "STATSD": "udp://h:1",
        "DIALECT": "graphite",
        "POSTGRES": "host=a\n\nhost=b\n",
        "PGBOUNCER": "host=c",
    }
    config = by_options({f"PGSTATS_{name}": text for name, text in texts.items()})
    assert (config.prefix, config.interval, config.state) == ("p", 3.0, "/s")
    assert (config.statsd.url, config.statsd.dialect) == ("udp://h:1", "graphite")
    assert [target.dsn for target in config.targets] == ["host=c", "host=a", "host=b"]


def test_targets_of_the_options_replace_all_others(tmp_path: Path) -> None:
    path = written(MAIN + '[[pgbouncer]]\ndsn = "host=${UNSET}"', tmp_path)
    environ = {"PGSTATS_PGBOUNCER": "host=env"}
    config = load(path, {"postgres": ("host=x", "host=y"), "pgbouncer": ()}, environ, parse_dsn)
    assert [(t.family, t.dsn) for t in config.targets] == [
        (POSTGRES, "host=x"),
        (POSTGRES, "host=y"),
    ]
    config = load(path, {"postgres": None}, environ, parse_dsn)
    assert [(t.family, t.dsn) for t in config.targets] == [(PGBOUNCER, "host=env")]


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"PGHOST": "10.0.0.7", "PGPORT": "5433"}, "10_0_0_7_5433"),
        ({"PGHOST": "/run/postgresql"}, "postgresql"),
        ({"PGHOST": "h", "PGSERVICE": "main"}, "main"),
        ({"PGDATABASE": "app"}, "localhost_5432"),
        ({"PGUSER": "me"}, "localhost_5432"),
    ],
)
def test_libpq_environment_is_a_target(environ: dict[str, str], name: str) -> None:
    (target,) = by_options(environ).targets
    assert (target.family, target.name, target.dsn) == (POSTGRES, name, "")


def test_nothing_to_poll_says_what_to_do(tmp_path: Path) -> None:
    told = outside_faults({"PGPASSWORD": "x", "PGSTATS_POSTGRES": ""}, postgres=())
    assert len(told) == 3
    assert "no target" in told[0]
    assert "--postgres 'host=" in told[1]
    assert "[[postgres]]" in told[2]
    assert "pgstats init" in told[2]
    with pytest.raises(ConfigError, match=r"pgstats\.toml has no \[\[pgbouncer\]\]"):
        configured('prefix = "x"', tmp_path)


def test_the_system_file_is_read_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "system.toml").write_text(MAIN)
    assert by_options().path == str(tmp_path / "system.toml")


@pytest.mark.parametrize("how", ["option", "environment"])
def test_a_named_file_must_be_there(how: str, tmp_path: Path) -> None:
    path = str(tmp_path / "none.toml")
    option, environ = (path, {}) if how == "option" else (None, {"PGSTATS_CONFIG": path})
    with pytest.raises(ConfigError) as caught:
        load(option, {"prefix": "1"}, environ, parse_dsn)
    assert caught.value.faults[0] == f"{path}: cannot be read: No such file or directory"
    assert caught.value.faults[1].startswith("--prefix: ")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory"):
        load(str(tmp_path), {}, {}, parse_dsn)


# Where the state is kept


def state(environ: Mapping[str, str], **options: object) -> str:
    return by_options(environ, postgres=("",), **options).state


def test_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state({"STATE_DIRECTORY": "/a:/b", "XDG_STATE_HOME": "/x"}) == "/a/state"
    assert state({"XDG_STATE_HOME": "/x"}) == str(tmp_path / "var" / "state")
    (tmp_path / "file").write_text("")  # no folder can be made below it, not even by root
    monkeypatch.setattr(loading, "DEFAULT_STATE", str(tmp_path / "file" / "pgstats" / "state"))
    assert state({"XDG_STATE_HOME": "/x", "HOME": "/h"}) == "/x/pgstats/state"
    assert state({"HOME": "/h"}) == "/h/.local/state/pgstats/state"
    assert state({}) == ""


def test_state_by_option_and_environment() -> None:
    assert state({"PGSTATS_STATE": "/e"}) == "/e"
    assert state({"PGSTATS_STATE": "/e"}, state="/o") == "/o"
    assert state({"PGSTATS_STATE": "/e"}, state="/o", no_state=True) == ""
    assert state({"PGSTATS_STATE": "/e"}, no_state=False) == "/e"
    assert state({"PGSTATS_STATE": "/e", "PGSTATS_NO_STATE": "1"}) == ""
    assert state({"PGSTATS_STATE": "/e", "PGSTATS_NO_STATE": "off"}) == "/e"
    assert state({"PGSTATS_NO_STATE": "yes"}, state="/o") == "/o"
    assert outside_faults({"PGSTATS_NO_STATE": "maybe"}, postgres=("",)) == [
        "PGSTATS_NO_STATE: must be one of 1, true, yes, on, 0, false, no, off"
    ]


# Names of targets


@pytest.mark.parametrize(
    ("dsn", "name"),
    [
        ("host=10.0.0.7 port=6432", "10_0_0_7_6432"),
        ("postgresql://u@db-1.example.com/app", "db-1_example_com_5432"),
        ("postgresql://[::1]:6432/app", "1_6432"),
        ("host=a,b port=1,2", "a_b_1_2"),
        ("hostaddr=10.0.0.7", "10_0_0_7_5432"),
        ("host=/run/pgbouncer/ port=6432", "pgbouncer"),
        ("host=@abstract", "abstract"),
        ("host=/", "localhost"),
        ("service=main port=1", "main"),
        ("service=main host=h", "h_5432"),
        ("dbname=app", "localhost_5432"),
    ],
)
def test_default_names(dsn: str, name: str) -> None:
    assert by_options(pgbouncer=(dsn,)).targets[0].name == name


def test_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    text = '[[pgbouncer]]\ndsn = "host=a"\n' * 2 + '[[postgres]]\nname = "a_5432"\ndsn = "host=b"'
    names = [target.name for target in configured(text, tmp_path).targets]
    assert names == ["a_5432_2", "a_5432_3", "a_5432"]


def test_names_are_unique_over_both_families(tmp_path: Path) -> None:
    told = fault(MAIN + '[[pgbouncer]]\nname = "main"\ndsn = "host=b"', tmp_path)
    first = tmp_path / "pgstats.toml:5"
    assert told == (
        f'2: postgres.name: "main" is already the name of the target at {first}; names are unique'
    )


# Passwords


def test_systemd_credentials(tmp_path: Path) -> None:
    for name in ("main", "given", "commanded", "pgpass"):
        (tmp_path / name).write_text("secret")
    text = MAIN + "\n".join(
        f'[[postgres]]\nname = "{name}"\ndsn = ""\n{more}'
        for name, more in [
            ("other", ""),
            ("given", 'password_file = "/else"'),
            ("commanded", 'password_command = "cat x"'),
            ("pgpass", ""),
        ]
    )
    config = configured(text, tmp_path, CREDENTIALS_DIRECTORY=str(tmp_path))
    files = {target.name: target.password_file for target in config.targets}
    main = str(tmp_path / "main")
    assert files == {"main": main, "other": "", "given": "/else", "commanded": "", "pgpass": ""}
    assert {target.passfile for target in config.targets} == {str(tmp_path / "pgpass")}
    assert "environment CREDENTIALS_DIRECTORY" in "\n".join(show(config))


def test_one_way_to_a_password_is_enough(tmp_path: Path) -> None:
    told = fault(MAIN + 'password_file = "x"\npassword_command = "y"', tmp_path)
    assert told == "5: postgres.password_command: cannot stand beside password_file: choose one"


@pytest.mark.parametrize(
    ("given_", "meant"), [('"zero"', 0), ('"nothing"', None), ("-1", -1), ("0.5", 0.5)]
)
def test_the_last_value_of_what_is_gone(given_: str, meant: float | None, tmp_path: Path) -> None:
    config = configured(f"[statsd]\non_vanish = {given_}\n{MAIN}", tmp_path)
    assert config.statsd.on_vanish == meant


@pytest.mark.parametrize("given_", ["true", "nan", "-inf", "1e15", '"1"', "[0]", '""'])
def test_a_last_value_is_a_number_that_every_receiver_reads(given_: str, tmp_path: Path) -> None:
    told = fault(f"[statsd]\non_vanish = {given_}\n{MAIN}", tmp_path)
    assert told.startswith('2: statsd.on_vanish: must be "zero", "nothing", or a number')


def test_only_a_file_that_lists_the_targets_is_their_inventory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(MAIN, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert load("pgstats.toml", {}, {}, parse_dsn).inventory == path
    assert load(path, {"postgres": ("host=10.0.0.8",)}, {}, parse_dsn).inventory == ""
    assert load(path, {}, {"PGSTATS_PGBOUNCER": "host=10.0.0.8"}, parse_dsn).inventory == ""
    assert by_options({"PGHOST": "10.0.0.8"}).inventory == ""


# What is wrong, and where

#: Lines that are wrong, and what is told about them. Each stands in a section of its own kind.
PLANTED = {
    "": [
        ('sate = "x"', 'sate: unknown key; allowed are prefix, .* did you mean "state"[?]'),
        ("interval = 10", 'interval: must be a duration .* did you mean "10s"[?]'),
        ('prefix = ".x"', "prefix: must be letters, digits, _ and - with single dots"),
        ('dialect = "influx"', r"dialect: unknown key; .* it belongs to \[statsd\]"),
        ("state = 1", "state: must be a string in quotes"),
    ],
    "[statsd]": [
        ('dialect = "grafite"', 'statsd.dialect: must be one of .* did you mean "graphite"[?]'),
        ('rate = "many"', "statsd.rate: must be a whole number of at least 0"),
        ("max_packet = 70000", "statsd.max_packet: must be a whole number from 64 to 65507"),
        ('on_vanish = "null"', 'statsd.on_vanish: must be "zero", "nothing", or a number'),
    ],
    "[[pgbouncer]]": [
        ('collect = ["stats",\n  "polls"]', 'pgbouncer.collect: .* did you mean "pools"[?]'),
        ("tables = 5", r"pgbouncer.tables: unknown key; .* it belongs to \[\[postgres\]\]"),
        ('include_admin = "yes"', "pgbouncer.include_admin: must be true or false"),
        ('name = "a b"', "pgbouncer.name: must be a string of letters"),
        ('sockets = "/run/pgb1"', "pgbouncer.sockets: must be a list of strings"),
        ('tags = { le = "1" }', "pgbouncer.tags.le: is a key that"),
        ('password_command = "a \'b"', "pgbouncer.password_command: has an opening quote"),
    ],
    "[[postgres]]": [
        ("tabels = 5", 'postgres.tabels: unknown key; .* did you mean "tables"[?]'),
        ("tables = -1", 'postgres.tables: must be a whole number of at least 0, or "all"'),
        ('databases = "app"', "postgres.databases: must be a list of strings"),
        ('timeout = "0s"', "postgres.timeout: must be a duration above 0"),
        ('exclude_tables = ["${UNSET}"]', "postgres.exclude_tables: needs .* UNSET, which is not"),
        ('"password_file" = ["x"]', "postgres.password_file: must be a string"),
    ],
}
NOISE = ["", "# dsn = [", "\t", "# '''", '  # [[postgres]] """']


@st.composite
def spoiled(draw: st.DrawFn) -> tuple[str, list[tuple[int, str]]]:
    """A file with some of the planted faults, and the line and the text of each of them."""
    lines: list[str] = []
    expected: list[tuple[int, str]] = []
    for heading, planted in PLANTED.items():
        lines += [heading, 'dsn = "host=/run/x"' if heading[:2] == "[[" else ""]
        for text, told in draw(st.lists(st.sampled_from(planted), unique=True)):
            lines += draw(st.lists(st.sampled_from(NOISE), max_size=2))
            expected.append((len(lines) + 1, told))
            lines += text.split("\n")
    return "\n".join(lines), expected


@given(spoiled())
def test_all_faults_are_told_in_one_run_with_their_lines(
    case: tuple[str, list[tuple[int, str]]],
) -> None:
    text, expected = case
    with TemporaryDirectory() as folder:
        if not expected:
            assert len(configured(text, Path(folder)).targets) == 2
            return
        told = faults(text, Path(folder))
    assert len(told) == len(expected)
    for one, (line, pattern) in zip(told, expected, strict=True):
        assert one.startswith(f"{line}: ")
        assert re.search(pattern, one)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[pgbouncer]\ndsn = "host=x"', "1: pgbouncer: must be headed [[pgbouncer]]"),
        ("[[statsd]]\nrate = 1", "1: statsd: must be a section: [statsd]"),
        ('statsd = "udp://h"', "1: statsd: must be a section: [statsd]"),
        ('postgres = "host=x"', "1: postgres: must be a section: [[postgres]]"),
        ('postgres = [\n  "host=x" ]', "1: postgres: must be a section: [[postgres]]"),
        ('[[postgress]]\ndsn = "host=x"', "1: postgress: unknown key"),
        ('\n[statsd.url]\nhost = "x"', '2: statsd.url: must be "udp://HOST:PORT"'),
        ("\nstatsd.rate = -1", "2: statsd.rate: must be a whole number"),
        ('\n[statsd]\ntags.le = "x"', "3: statsd.tags.le: is a key that"),
        ('\n[statsd.tags]\n\n"1x" = "x"', "4: statsd.tags.1x: must have a key of lower-case"),
        ('\n[statsd]\n[statsd.tags]\nenv = ""', "4: statsd.tags.env: must be a string in quotes"),
        ('[[postgres]]\nname = "x"', "1: postgres.dsn: is missing"),
        ('prefix = "${}"', "1: prefix: has a ${ without NAME} behind it"),
        ("rate = 1", "1: rate: unknown key; allowed are prefix, interval, state, [statsd], "),
        ('[[postgres]]\ndsn = "hots"', "2: postgres.dsn: not a connection string"),
        ('[[postgres]]\ndsn = "host=a port=543Z"', "2: postgres.dsn: cannot be cut into host"),
        ('[[postgres]]\ndsn = "a\\u0000"', "2: postgres.dsn: must not hold a NUL"),
        ("interval = true", "1: interval: must be a duration"),
        ('interval = "25h"', "1: interval: must be a duration above 0 and at most 24h"),
        ("prefix = 1979-05-27", "1: prefix: must be letters"),
    ],
)
def test_the_right_form_is_told(text: str, told: str, tmp_path: Path) -> None:
    found = faults(text, tmp_path)
    assert found[0].startswith(told)
    assert all(one.startswith(("1: postgres.dsn: is missing", told)) for one in found)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('prefix = "a"\nrate = = 1', "2: column 8: not valid TOML: Invalid value"),
        ('prefix = "a"\nprefix = "b"\n', "2: column 13: not valid TOML: Cannot overwrite a value"),
        ('prefix = "a"\nx = [1,\n', "2: not valid TOML: Invalid value"),
        ("x = " + "9" * 5000, "1: not valid TOML: Exceeds the limit"),
        ("x = " + "[" * 5000, "1: not valid TOML: maximum recursion"),
    ],
)
def test_syntax_errors_have_line_and_column(text: str, told: str, tmp_path: Path) -> None:
    assert fault(text, tmp_path).startswith(told)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "pgstats.toml"
    path.write_bytes(b'prefix = "a"\n# \xff')
    with pytest.raises(ConfigError, match=r"pgstats\.toml:2: is not UTF-8 text"):
        load(str(path), {}, {}, parse_dsn)


def test_a_file_of_windows(tmp_path: Path) -> None:
    path = tmp_path / "pgstats.toml"
    path.write_bytes(b'\xef\xbb\xbfprefix = "a"\r\n[[postgres]]\r\ndsn = ""\r\ntabels = 1\r\n')
    with pytest.raises(ConfigError, match=r"pgstats\.toml:4: postgres\.tabels"):
        load(str(path), {}, {}, parse_dsn)


def test_lines_are_found_in_any_toml(tmp_path: Path) -> None:
    text = r'''
        state = """
        interval = 1
        [[postgres]] \"""
        """  # " [
        "prefix" = 'a'
        statsd . "rate" = -1

        [[ postgres ]]  # [x]
        dsn = "host=a application_name='\" # ]'"
        databases = [ # ]
          "a]", '[b"', """
          tables = 1
          """,
        ]
        tables = -1
        [[postgres]]
        tags = { env = "}", x = "#" }
        dsn = """
        host=b"""
        interval = 5
        [postgres.extra]
        [[pgbouncer]]
        dsn = ''
        timeout = 5
    '''
    starts = [one.split(" ")[:2] for one in faults(text, tmp_path)]
    assert starts == [
        ["7:", "statsd.rate:"],
        ["16:", "postgres.tables:"],
        ["21:", "postgres.interval:"],
        ["22:", "postgres.extra:"],
        ["25:", "pgbouncer.timeout:"],
    ]


def test_faults_of_options_and_environment_name_them() -> None:
    environ = {"PGSTATS_DIALECT": "statsd", "PGSTATS_PGBOUNCER": "hots"}
    told = outside_faults(environ, interval="1 s")
    assert [one.split(" ")[0] for one in told] == [
        "--interval:",
        "PGSTATS_DIALECT:",
        "PGSTATS_PGBOUNCER:",
    ]
    assert outside_faults(postgres=("host=x", "hots")) == ["--postgres 2: not a connection string"]


def test_a_dsn_is_parsed_once(tmp_path: Path) -> None:
    seen: list[str] = []

    def counting(dsn: str) -> Mapping[str, str]:
        seen.append(dsn)
        return parse_dsn(dsn)

    path = written(MAIN + '[[pgbouncer]]\ndsn = "host=${UNSET}"', tmp_path)
    with pytest.raises(ConfigError):
        load(path, {}, {}, counting)
    assert seen == ["host=10.0.0.7"]
    show(load(path, {}, {"UNSET": "x"}, counting))
    assert sorted(seen) == ["host=10.0.0.7", "host=10.0.0.7", "host=x"]


# What is shown


def test_show_names_every_origin(tmp_path: Path) -> None:
    path = written('prefix = "a"\n' + MAIN, tmp_path)
    config = load(path, {"interval": "5s"}, {"PGSTATS_DIALECT": "influx"}, parse_dsn)
    lines = [line.split("  # ") for line in show(config) if " = " in line]
    origins = {(line[0].rstrip(), line[1]) for line in lines}
    assert origins >= {
        ('prefix = "a"', f"{path}:1"),
        ('interval = "5s"', "option --interval"),
        ('dialect = "influx"', "environment PGSTATS_DIALECT"),
        ("rate = 1000", "default"),
        ('name = "main"', f"{path}:3"),
        ('dsn = "host=10.0.0.7"', f"{path}:4"),
        ('timeout = "4s"', "default"),
    }


def test_what_is_shown_can_be_read_again(tmp_path: Path) -> None:
    text = (
        'prefix = "a.b"\nstate = "/s"\n[statsd]\ntags = { env = "\\\\ \\"ü" }\n[[pgbouncer]]\n'
        "dsn = \"host=/run/x dbname='a b'\"\ncollect = ['pools']\n" + MAIN + "tables = 'all'\n"
        "databases = ['!x']\npooled = true\ninterval = '1500ms'\n"
    )
    first = configured(text, tmp_path)
    again = configured("\n".join(show(first)), tmp_path)
    assert [t.dsn for t in again.targets] == ["dbname='a b' host=/run/x", "host=10.0.0.7"]
    assert [t._replace(dsn="") for t in again.targets] == [
        t._replace(dsn="") for t in first.targets
    ]
    assert first._replace(settings=(), targets=()) == again._replace(settings=(), targets=())


def test_arguments_of_a_command_are_not_shown(tmp_path: Path) -> None:
    for command in ('"vault read Zq9"', '["vault", "Zq9"]', '"vault ${Z}"'):
        config = configured(f"{MAIN}password_command = {command}", tmp_path, Z="Zq9")
        assert "Zq9" in config.targets[0].password_command
        shown = "\n".join(show(config))
        assert 'password_command = "vault …"' in shown
        assert "Zq9" not in shown


def test_what_a_variable_put_into_a_dsn_is_not_shown(tmp_path: Path) -> None:
    dsn = "postgresql://${U}:${P}@10.0.0.7/app?application_name=${P}x&${MORE}"
    environ = {"U": "Xk4%20u", "P": "Zq9", "MORE": "sslmode=require&options=Zq9"}
    config = configured(f'[[postgres]]\ndsn = "{dsn}"', tmp_path, **environ)
    shown = "\n".join(show(config))
    assert "Zq9" not in shown
    assert "Xk4" not in shown
    assert "host=10.0.0.7" in shown
    assert "dbname=app" in shown
    text = f'{MAIN}password_file = "${{P}}"'
    assert 'password_file = "${P}"' in "\n".join(show(configured(text, tmp_path, P="Zq9")))


@pytest.mark.parametrize("secret", ["Zq9@Zq9", "Zq9/Zq9", "12/Zq9", "1:Zq9/Zq9", "a@b/Zq9"])
@pytest.mark.parametrize("end", ["h/db", "h", "h:5432/db?sslmode=require"])
def test_a_password_that_breaks_its_uri_is_told_and_not_shown(secret: str, end: str) -> None:
    told = outside_faults(postgres=(f"postgresql://u:{secret}@{end}",))
    assert "Zq9" not in "\n".join(told)
    assert "%40" in told[0] or "not a connection string" in told[0]


PASSWORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).map(
    lambda text: f"Zq9{text}Zq9"
)


def keyword(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


@given(PASSWORDS, st.sampled_from(["keyword", "tight", "uri", "query", "sslpassword", "broken"]))
def test_no_password_is_ever_shown(password: str, form: str) -> None:
    dsn = {
        "keyword": f"host=h password = {keyword(password)} user=u",
        "tight": f"password={keyword(password)}",
        "uri": f"postgresql://u:{quote(password, safe='')}@h:5432/db",
        "query": f"postgres:///db?host=/run/x&password={quote(password, safe='')}",
        "sslpassword": f"host=h sslpassword={keyword(password)}",
        "broken": f"host=h passwrod={keyword(password)}",
    }[form]
    seen = ""
    if form != "broken":
        config = by_options(postgres=(dsn,))
        assert password in parse_dsn(config.targets[0].dsn).values()
        seen = "\n".join(show(config)) + repr(config)
        assert "=***" in seen
        tomllib.loads("\n".join(show(config)))
    seen += "\n".join(outside_faults(postgres=(dsn, dsn), prefix="."))
    assert "Zq9" not in seen


# The table itself


def test_every_setting_is_explained_and_its_default_is_valid() -> None:
    for settings in SECTIONS.values():
        assert len({setting.key for setting in settings}) == len(settings)
        for setting in settings:
            assert setting.help
            if setting.default is not None:
                setting.parse(setting.default)


def test_importing_is_cheap() -> None:
    code = (
        "import sys, pgstats.config as c; c.load(None, {'postgres': ('',)}, {}, lambda d: {})\n"
        "print(*{'tomllib', 'logging', 'difflib', 'importlib.metadata', 'json'}"
        " & set(sys.modules))"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True
    )
    assert done.stdout.strip() == ""
