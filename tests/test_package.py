"""The wheel, installed with nothing but its own requirements, runs every command."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import pgstats
from pgstats.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # pip builds where the source is, and leaves things there
    shutil.copytree(ROOT / "pgstats", source / "pgstats")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "pgstats.1", source / "docs")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    run(*pip, "wheel", "--no-deps", "-w", str(folder), str(source))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    run(sys.executable, "-m", "venv", str(folder))
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "-q"]
    run(*pip, "install", str(wheel))
    return folder / "bin" / "pgstats"


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "pgstats/py.typed" in names
    assert {name.split("/")[0] for name in names} == {
        "pgstats",
        f"pgstats-{pgstats.__version__}.dist-info",
        f"pgstats-{pgstats.__version__}.data",
    }
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "pgstats").rglob("*.py")}
    assert modules <= set(names)


def test_the_metadata_is_complete(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        path = f"pgstats-{pgstats.__version__}.dist-info/METADATA"
        metadata = archive.read(path).decode()
    for line in ("License-Expression: MIT", "Requires-Python: >=3.11", f"{pgstats.__version__}"):
        assert line in metadata
    for name in ("click", "psycopg2-binary", "rich", "schedule", "statsd"):
        assert f"Requires-Dist: {name}" in metadata


@pytest.mark.parametrize("command", COMMANDS)
def test_a_bare_install_has_every_command(bare: Path, command: str) -> None:
    assert command in run(str(bare), command, "--help")


def test_a_bare_install_has_the_man_page(bare: Path) -> None:
    page = bare.parent.parent / "share" / "man" / "man1" / "pgstats.1"
    assert page.read_text() == (ROOT / "docs" / "pgstats.1").read_text()


def test_a_bare_install_does_something(bare: Path) -> None:
    assert run(str(bare), "--version").strip() == f"pgstats {pgstats.__version__}"
    assert "cl_active" in run(str(bare), "metrics")
    checked = run(str(bare), "check", "--offline", "--postgres", "host=192.0.2.1")
    assert "valid" in checked
