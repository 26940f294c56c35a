"""The units as systemd itself judges them. `systemd-analyze` needs no running systemd."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[1] / "systemd"
SERVICES = ["pgstats.service", "pgstats-once.service"]
DROP_IN = "postgres-user.conf"


def install(folder: Path, *, drop_in: bool) -> None:
    """Puts the units where an administrator would, perhaps with the user of the servers."""
    for unit in UNITS.glob("*.*"):
        if unit.is_file():
            shutil.copy(unit, folder)
    for service in SERVICES if drop_in else []:
        place = folder / f"{service}.d"
        place.mkdir()
        shutil.copy(UNITS / "pgstats.service.d" / f"{DROP_IN}.example", place / DROP_IN)


@pytest.fixture(params=[False, True], ids=["as shipped", "with the drop-in"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    install(tmp_path, drop_in=request.param)
    return tmp_path


def analyze(folder: Path, *arguments: str) -> str:
    """What systemd-analyze says, which has to be approval."""
    done = subprocess.run(
        ["systemd-analyze", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
    )
    assert done.returncode == 0, done.stdout[-400:] + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("unit", [*SERVICES, "pgstats-once.timer"])
def test_systemd_understands_every_line(folder: Path, unit: str) -> None:
    assert analyze(folder, "verify", "--recursive-errors=no", f"./{unit}") == ""


@pytest.mark.parametrize("service", SERVICES)
def test_services_are_hardened(folder: Path, service: str) -> None:
    analyze(folder, "security", "--offline=true", "--threshold=15", f"./{service}")


@pytest.mark.parametrize("service", SERVICES)
def test_the_servers_shared_memory_is_safe(tmp_path: Path, service: str) -> None:
    """Under User=postgres systemd must not remove what that user left in /dev/shm."""
    install(tmp_path, drop_in=True)
    table = analyze(tmp_path, "security", "--offline=true", "--json=short", f"./{service}")
    (verdict,) = [row for row in json.loads(table) if row["name"] == "RemoveIPC="]
    assert verdict["set"] is False


def test_the_timer_fires_twice_a_minute() -> None:
    (calendar,) = setting("pgstats-once.timer", "OnCalendar")
    text = analyze(UNITS, "calendar", "--iterations=3", "--base-time=2026-01-01 00:00:10", calendar)
    seconds = re.findall(r"2026-01-01 00:0(\d:\d\d) UTC", text)
    assert list(dict.fromkeys(seconds)) == ["0:30", "1:00", "1:30"]


@pytest.mark.parametrize("service", SERVICES)
def test_commands_and_options_exist(service: str) -> None:
    (start,) = setting(service, "ExecStart")
    env, program, command, *options = start.split()
    assert (env, program) == ("/usr/bin/env", "pgstats")
    usage = subprocess.run(
        [sys.executable, "-m", "pgstats", command, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert usage.returncode == 0, usage.stderr
    for option in options:
        assert option.partition("=")[0] in usage.stdout


def test_both_services_run_in_the_same_cage() -> None:
    """What is added to one of them is added to the other."""
    marker = "NoNewPrivileges=yes"
    cages = [
        [line for line in (UNITS / service).read_text().splitlines() if re.match(r"#?\w+=", line)]
        for service in SERVICES
    ]
    first, second = (cage[cage.index(marker) :] for cage in cages)
    assert [line for line in first if line != "WantedBy=multi-user.target"] == second


def test_settings_that_users_depend_on() -> None:
    promised = {
        "pgstats.service": {
            "Type": ["notify"],
            "NotifyAccess": ["main"],
            "WatchdogSec": ["60s"],
            "SyslogIdentifier": ["pgstats"],
            "Restart": ["on-failure"],
            "RestartPreventExitStatus": ["78"],
            "ExecReload": ["/bin/kill -HUP $MAINPID"],
            "StateDirectory": ["pgstats"],
            "RuntimeDirectory": ["pgstats"],
        },
        # No RuntimeDirectory: the end of a run would remove the one of a running daemon.
        "pgstats-once.service": {
            "Type": ["oneshot"],
            "SuccessExitStatus": ["75"],
            "StateDirectory": ["pgstats"],
            "RuntimeDirectory": [],
        },
        "pgstats-once.timer": {"AccuracySec": ["1s"], "Persistent": ["false"]},
    }
    found = {
        unit: {key: setting(unit, key) for key in settings} for unit, settings in promised.items()
    }
    assert found == promised


def setting(unit: str, key: str) -> list[str]:
    """Every value that a unit gives a setting."""
    text = (UNITS / unit).read_text()
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)
