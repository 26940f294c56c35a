"""Receivers of lines."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from typing import Self

_SO_RCVBUFFORCE = 33  # of Linux; Python has no name for it
_SKIPPED = re.compile(rb"\.skipped_runs:([0-9.]+)\|")


class Counter:
    """Reads datagrams and counts lines and polls; its buffer is what the kernel gives anybody."""

    def __init__(self, buffer: int = 8 << 20) -> None:
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        if buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.2)
        self.port = self._socket.getsockname()[1]
        self.url = f"udp://127.0.0.1:{self.port}"
        self.lines = self.polls = 0
        self.skipped = 0.0
        self.each: Callable[[bytes], None] = lambda _: None
        self._open = True
        self._thread = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        while self._open:
            try:
                packet = self._socket.recv(1 << 16)
            except TimeoutError:
                continue
            self.lines += packet.count(b"\n") + 1
            self.polls += packet.count(b".up:")
            self.skipped = max([self.skipped, *map(float, _SKIPPED.findall(packet))])
            self.each(packet)

    def settled(self) -> int:
        """How many lines there were when for a moment no more came."""
        seen = -1
        while seen != self.lines:
            seen = self.lines
            time.sleep(0.05)
        return seen

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        self._thread.join()
        self._socket.close()
