"""`pgstats init` writes what the settings are, and the daemon takes it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pgstats.ask import parse_dsn
from pgstats.config import load
from pgstats.config.settings import SECTIONS
from pgstats.config.template import EXAMPLES, template
from tests.program import pgstats

#: Each line that can take effect, with its number.
SETTINGS = [
    (number, line)
    for number, line in enumerate(template().splitlines())
    if re.match(r"#?\w+ = ", line)
]


def test_what_it_writes_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "pgstats.toml"
    done = pgstats("init", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{path} is written" in done.stdout
    assert path.read_text() == template()
    checked = pgstats("check", "--offline", "--config", str(path))
    assert (checked.returncode, checked.stdout) == (0, f"{path}: valid, 2 targets\n")


def test_every_setting_is_there() -> None:
    keys = [line.lstrip("#").partition(" ")[0] for _, line in SETTINGS]
    assert keys == [one.key for settings in SECTIONS.values() for one in settings]
    for settings in SECTIONS.values():
        assert all(f"# {one.help}\n" in template() for one in settings)


def test_what_has_no_default_has_an_example() -> None:
    without = {
        (section, one.key)
        for section, settings in SECTIONS.items()
        for one in settings
        if one.default is None
    }
    assert without <= set(EXAMPLES)
    assert set(EXAMPLES) - without == {("query", "metrics")}, "a default would do"


@pytest.mark.parametrize("place", SETTINGS, ids=lambda place: f"{place[0]}-{place[1][:20]}")
def test_each_line_can_be_put_into_effect(place: tuple[int, str], tmp_path: Path) -> None:
    """Those of a question with all of it."""
    lines = template().splitlines()
    start = lines.index("#[[query]]")
    for number in range(start, len(lines)) if place[0] > start else [place[0]]:
        lines[number] = re.sub(r"^#(?=\S)", "", lines[number])
    path = tmp_path / "pgstats.toml"
    path.write_text("\n".join(lines))
    load(str(path), {}, {"HOME": str(tmp_path)}, parse_dsn)


def test_defaults_are_what_holds_without_them(tmp_path: Path) -> None:
    """Every line that is commented out says what is so anyway, but for the examples."""
    examples = {key for _, key in EXAMPLES}
    plain, full = tmp_path / "plain", tmp_path / "full"
    plain.write_text(template())
    text = template().partition("\n\n\n# A question")[0]
    pattern = rf"^#(?=(?!{'|'.join(examples)})\w+ = )"
    full.write_text(re.sub(pattern, "", text, flags=re.MULTILINE))
    assert full.read_text() != plain.read_text()
    environ = {"HOME": str(tmp_path)}
    one, other = (load(str(path), {}, environ, parse_dsn) for path in (plain, full))
    assert one._replace(path="", inventory="", settings=()) == other._replace(
        path="", inventory="", settings=()
    )


def test_it_never_writes_over_a_file_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "pgstats.toml"
    path.write_text("mine")
    done = pgstats("init", str(path))
    assert (done.returncode, done.stdout) == (78, "")
    assert "is there already; --force writes over it" in done.stderr
    assert path.read_text() == "mine"
    assert pgstats("init", str(path), "--force").returncode == 0
    assert path.read_text() == template()


def test_where_it_writes(tmp_path: Path) -> None:
    assert pgstats("init", "-").stdout == template()
    path = tmp_path / "named"
    assert pgstats("init", env={"PGSTATS_CONFIG": str(path)}).returncode == 0
    assert path.exists()
    done = pgstats("init", str(tmp_path / "no" / "where"))
    assert (done.returncode, done.stdout) == (78, "")
    assert "cannot be written: No such file or directory" in done.stderr


def test_a_full_disk_is_told() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m pgstats init - >/dev/full"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
