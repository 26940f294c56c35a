"""Every block of the README and of the pages is true.

`python -m tests.test_readme` renews the generated table of settings.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgstats.cli.main import BUG, COMMANDS, CONFIG, FAILED, LOCKED, OK, UNAVAILABLE
from pgstats.config import settings
from pgstats.scratch import Bouncer, Cluster, Scratch
from tests.program import gauges, pgstats

README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text()
PAGES = [README, *sorted(README.parent.glob("docs/**/*.md"))]
SETTINGS = README.parent / "docs" / "configuration.md"
BLOCKS = [
    block
    for page in PAGES
    for block in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
]


def blocks(kind: str) -> list[str]:
    return [text for language, text in BLOCKS if language == kind]


def settings_table() -> str:
    """The rows of the table of settings, from the one table that the program reads."""
    shared = {s.key for s in settings.SECTIONS["pgbouncer"]} & {
        s.key for s in settings.SECTIONS["postgres"]
    }
    rows = []
    for section in settings.SECTIONS:
        for setting in settings.SECTIONS[section]:
            if setting.key in shared and section == "pgbouncer":
                rows.append(("any target", setting))
            elif setting.key not in shared or section not in settings.FAMILIES:
                rows.append((f"`{settings.heading(section)}`" if section else "top", setting))
    return "".join(
        f"| {where} | `{s.key}` | {written(s.default)} | {s.help} |\n" for where, s in rows
    )


def written(default: object) -> str:
    """A default as it stands in a file; empty where it depends or there is none."""
    if default in (None, "", [], {}):
        return ""
    text = str(default).replace("'", '"').lower() if not isinstance(default, str) else default
    return f"`{text}`"


def renewed(text: str) -> str:
    """The page of settings with its generated part as it should be."""
    start = "| section | key | default | meaning |\n|---|---|---|---|\n"
    head, _, tail = text.partition(start)
    return head + start + settings_table() + tail[tail.index("\n\n") + 1 :]


def test_the_settings_are_those_of_the_program() -> None:
    assert renewed(SETTINGS.read_text()) == SETTINGS.read_text()


def test_the_configuration_is_valid(tmp_path: Path) -> None:
    for number, text in enumerate(blocks("toml")):
        path = tmp_path / f"{number}.toml"
        path.write_text(text)
        done = pgstats("check", "--offline", "--config", str(path))
        assert (done.returncode, done.stderr) == (0, "")


def commands() -> Iterator[list[str]]:
    for text in blocks("sh"):
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["pgstats"]:
                yield words[1:]


@pytest.mark.parametrize("words", sorted(set(map(tuple, commands()))), ids=" ".join)
def test_the_commands_exist_with_these_options(words: tuple[str, ...]) -> None:
    shown = pgstats(words[0], "--help").stdout
    for option in (word for word in words if word.startswith("--")):
        assert f"{option} " in shown or f"{option}\n" in shown


def test_the_two_commands_are_there() -> None:
    assert blocks("sh")[:2] == ["./dev demo\n", "./dev test\n"]
    usage = subprocess.run([README.parent / "dev"], capture_output=True, text=True).stderr
    assert "./dev demo" in usage
    assert "./dev test" in usage


def test_the_grants_are_enough(cluster: Cluster, scratch: Scratch) -> None:
    for sql in blocks("sql"):
        cluster.psql(sql)
    (ini,) = blocks("ini")
    users = re.findall(r"stats_users = (\w+)", ini)
    with Bouncer(scratch, {}, stats_users=users, name="readme") as bouncer:
        console = bouncer.dsn("pgbouncer", "pgstats")
        server = cluster.dsn("postgres", "pgstats")
        done = pgstats("check", "--pgbouncer", console, "--postgres", server)
        polled = pgstats("once", "--dry-run", "--pgbouncer", console, "--postgres", server)
    cluster.psql("DROP ROLE pgstats")
    assert [line for line in done.stdout.splitlines() if line.startswith("failed")] == [
        line for line in done.stdout.splitlines() if "statsd" in line and "failed" in line
    ]
    assert (polled.returncode, polled.stderr) == (0, "")


def test_the_names_are_spelled_like_that() -> None:
    lines = [line for text in blocks("") for line in text.splitlines()]
    known = "\n".join(pgstats("metrics").stdout.splitlines())
    for name in gauges("\n".join(lines)):
        parts = name.split(".")
        assert f".{parts[-1]}:<value>" in known, name
        assert parts[1] in known


def test_the_exit_codes_are_those_of_the_program() -> None:
    table = re.findall(r"^\| (\d+) \| ", TEXT, re.MULTILINE)
    codes = {OK, FAILED, 2, UNAVAILABLE, BUG, LOCKED, CONFIG}
    assert {int(code) for code in table} == codes


def test_every_command_is_listed() -> None:
    listed = set(re.findall(r"^\| `pgstats (\w+)[^`]*` \|", TEXT, re.MULTILINE))
    assert listed == set(COMMANDS)


def test_what_the_demo_shows_is_what_it_showed() -> None:
    """The picture names gauges that exist; its numbers are from one run."""
    (picture,) = blocks("text")
    known = pgstats("metrics").stdout
    for group in re.findall(r"^pgstats\.(\S+)\.$", picture, re.MULTILINE):
        family, _, name = group.split(".")
        assert f"pgstats.{family}.<target>.{name}." in known
    assert max(map(len, picture.splitlines())) <= 80


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / path).exists(), path


def test_the_readme_leads_to_every_page() -> None:
    linked = {README.parent / path for path in re.findall(r"\]\(([^)#:]+)\)", TEXT)}
    assert {page for page in PAGES[1:] if page.parent.name == "docs"} <= linked


if __name__ == "__main__":
    SETTINGS.write_text(renewed(SETTINGS.read_text()))
