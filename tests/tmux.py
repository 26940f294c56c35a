"""A real terminal: tmux, driven by keys and read like a screen."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
import unicodedata
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self


class Tmux:
    """A terminal of a size in which a shell runs, alone on a tmux server of its own."""

    def __init__(self, columns: int, lines: int, environment: Mapping[str, str]) -> None:
        self._socket = f"pgstats-{uuid.uuid4().hex}"
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "TMUX"))}
        self._environment = clean | {"TERM": "screen-256color", "LC_ALL": "C.UTF-8"}
        size = ["-x", str(columns), "-y", str(lines)]
        shell = line(["env", "PS1=$ ", *map("=".join, environment.items()), "sh"])
        self.run("-f", "/dev/null", "new-session", "-d", *size, shell)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.run("kill-server")

    def run(self, *words: str) -> str:
        argv = ["tmux", "-L", self._socket, *words]
        done = subprocess.run(argv, capture_output=True, text=True, env=self._environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def type(self, text: str) -> None:
        """Type a line into the shell."""
        self.run("send-keys", "-l", text)
        self.press("Enter")

    def press(self, *keys: str) -> None:
        self.run("send-keys", *keys)

    def resize(self, columns: int, lines: int) -> None:
        self.run("resize-window", "-x", str(columns), "-y", str(lines))

    def screen(self) -> str:
        return self.run("capture-pane", "-p")

    def coloured(self) -> str:
        """The screen with the escape sequences of its colours."""
        return self.run("capture-pane", "-p", "-e")

    def fact(self, name: str) -> str:
        """What tmux knows of the terminal: its title, whether the cursor shows, ..."""
        return self.run("display-message", "-p", f"#{{{name}}}").strip()

    def until(self, *texts: str) -> str:
        """The screen, once it shows all of these."""
        return self.when(lambda screen: all(text in screen for text in texts), texts)

    def when(self, fact: Callable[[str], object], what: object = "") -> str:
        """The screen, once that holds for it."""
        deadline = time.monotonic() + 60
        while not fact(screen := self.screen()):
            assert time.monotonic() < deadline, f"{what} never came:\n{screen}"
            time.sleep(0.05)
        return screen


def line(words: Sequence[str | Path]) -> str:
    """Words as a line for a shell."""
    return shlex.join(map(str, words))


def wide(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )
