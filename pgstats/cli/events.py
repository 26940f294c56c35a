"""What happens to a command that shows pictures: signals, keys, and news from other threads."""

from __future__ import annotations

import os
import re
import select
import signal
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Self

END, SIZE, STOP, NEWS = "end", "size", "stop", "news"
_BYTES = {END: b"e", SIZE: b"s", STOP: b"z", NEWS: b"n"}
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: What a key that is no character sends.
_ARROWS = re.compile(r"\x1b(\[[0-9;]*.|O.|.)?")


class Events:
    """Turns signals into answers, so that they interrupt nothing half-done.

    ``more`` are further signals and what they mean. With ``keys`` the keys that are pressed on
    that descriptor, a terminal, come at once and unseen; it is left as it was found.
    """

    def __init__(self, more: Mapping[int, str] | None = None, keys: int = -1) -> None:
        self._meaning = dict.fromkeys(_ENDING, END) | dict(more or {})
        self._keys = keys
        self._stack = ExitStack()
        self._reading = self._writing = -1
        self._pressed: list[str] = []
        self.ended = False

    def __enter__(self) -> Self:
        # Never closed: a thread that is left behind must not write to what has its number by then.
        self._reading, self._writing = os.pipe()
        for number, meaning in self._meaning.items():
            before = signal.signal(number, lambda *_, meaning=meaning: self.tell(meaning))
            self._stack.callback(signal.signal, number, before)
        if self._keys >= 0:
            self.take_keys()
            self._stack.callback(self.give_keys)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def tell(self, event: str) -> None:
        """Let that event happen, from any thread."""
        os.write(self._writing, _BYTES[event])

    def asked(self, seconds: float) -> bool:
        """Wait so many seconds unless told to end; whether that was ever told."""
        return self.next(seconds) == END

    def next(self, seconds: float | None = None) -> str:
        """What happens next, a key as its character; "" if nothing does within the time."""
        if self.ended:
            return END
        if self._pressed:
            return self._pressed.pop(0)
        readable, _, _ = select.select([self._reading, *self._watched()], [], [], seconds)
        if self._reading in readable:
            code = os.read(self._reading, 1)
            found = next(event for event, byte in _BYTES.items() if byte == code)
        elif readable:
            found = self._key()
        else:
            return ""
        self.ended = found == END
        return found

    def _watched(self) -> list[int]:
        return [] if self._keys < 0 else [self._keys]

    def _key(self) -> str:
        """The first key of those pressed; others wait. A terminal that is gone ends."""
        pressed = os.read(self._keys, 64).decode("ascii", "replace")
        self._pressed = list(_ARROWS.sub("", pressed))
        return self._pressed.pop(0) if self._pressed else "" if pressed else END

    def take_keys(self) -> None:
        """Have keys come at once and unseen."""
        import termios  # noqa: PLC0415
        import tty  # noqa: PLC0415

        self._before = termios.tcgetattr(self._keys)
        tty.setcbreak(self._keys)

    def give_keys(self) -> None:
        """Put the terminal back; what was typed meanwhile is nobody's."""
        import termios  # noqa: PLC0415

        termios.tcsetattr(self._keys, termios.TCSAFLUSH, self._before)
