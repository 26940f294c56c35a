"""Completion, with the Tab key in real shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.program import pgstats
from tests.tmux import Tmux

FULL = pytest.mark.full
SHELLS = {
    "bash": ("bash --norc --noprofile -i", 'eval "$(pgstats completion bash)"'),
    "zsh": ("zsh -f", 'autoload -Uz compinit; compinit -u; eval "$(pgstats completion zsh)"'),
    "fish": ("fish --no-config", "pgstats completion fish | source"),
}


@pytest.mark.parametrize("shell", ["bash", *(pytest.param(s, marks=FULL) for s in ("zsh", "fish"))])
def test_the_tab_key(shell: str, tmp_path: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell}")
    file = tmp_path / "pgstats.toml"
    file.write_text('[[pgbouncer]]\nname = "frontdoor"\ndsn = "host=/nowhere"\n')
    start, load = SHELLS[shell]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {"PATH": path, "PGSTATS_CONFIG": str(file), "HOME": str(tmp_path), "PS1": "$ "}
    with Tmux(100, 24, env) as terminal:
        terminal.until("$")
        terminal.type(start)
        terminal.type(f"{load}; clear; echo rea''dy")
        terminal.when(lambda screen: screen.startswith("ready"), "the shell")
        for begun, whole in (
            ("pgstats comple", "pgstats completion"),
            ("pgstats show hori", "pgstats show horizon"),
            ("pgstats check --off", "pgstats check --offline"),
            ("pgstats show --target fro", "pgstats show --target frontdoor"),
        ):
            terminal.run("send-keys", "-l", begun)
            terminal.press("Tab")
            terminal.until(whole)
            terminal.press("C-u")
            terminal.when(lambda screen: "pgstats" not in screen, "an empty line")


def test_it_works_without_a_shell_and_without_a_configuration() -> None:
    env = {"COMP_WORDS": "pgstats show --target ", "COMP_CWORD": "3"}
    done = pgstats(env=env | {"_PGSTATS_COMPLETE": "bash_complete"})
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_bash_takes_the_script(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(pgstats("completion", "bash").stdout)
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert "_PGSTATS_COMPLETE=bash_complete" in script.read_text()
