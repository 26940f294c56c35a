"""A console that answers what a test has written down: what another pooler, or a version that
cannot be had here, would say. It speaks the simple query protocol over a real socket.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

TEXT, WHOLE, NUMERIC = 25, 23, 1700  # OIDs of types

#: Names and types of the columns, and the rows as text.
Answer = tuple[Sequence[tuple[str, int]], Sequence[Sequence[str | None]]]


def table(columns: str, *rows: str, kind: int = NUMERIC) -> Answer:
    """An answer from words: `table("database user maxwait", "shop me 7")`; `~` is NULL.

    ``kind`` is the type of the columns that hold no names.
    """
    names = ("database", "user", "name", "list", "what", "key", "value", "state", "host")
    return (
        [(column, TEXT if column in names else kind) for column in columns.split()],
        [[None if word == "~" else word for word in row.split()] for row in rows],
    )


class Console:
    """Answers on a TCP port until closed; to a command that it does not know, with an error.

    ``asked`` are the commands that came, ``most`` is how many connections there were at once. With
    a ``folder`` there is a unix socket beside the port.
    """

    def __init__(
        self, answers: Mapping[str, Answer], version: str = "1.18.0", folder: str = ""
    ) -> None:
        self.answers, self.version = dict(answers), version
        self.asked: list[str] = []
        self.open = self.most = 0
        self.pause = threading.Event()  # while it is set, commands are not answered
        self.halt = ""  # nor is this one
        self.dies_at = ""  # a command at which the connection ends
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._beside = socket.socket(socket.AF_UNIX) if folder else None
        if self._beside:
            self._beside.bind(f"{folder}/.s.PGSQL.{self.port}")
            self._beside.listen()
            threading.Thread(target=self._listen, args=(self._beside,), daemon=True).start()
        threading.Thread(target=self._listen, args=(self._listener,), daemon=True).start()

    @property
    def dsn(self) -> str:
        """How to get here."""
        return f"host=127.0.0.1 port={self.port} user=stats"

    def shut_down(self) -> None:
        """Take no more connections over TCP, and keep those there are: SHUTDOWN WAIT_FOR_..."""
        _shut(self._listener)

    def close(self) -> None:
        """Take no more connections."""
        self.shut_down()
        if self._beside:
            _shut(self._beside)

    def _listen(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self.open += 1
            self.most = max(self.most, self.open)
        with client, suppress(OSError, EOFError):
            self._welcome(client)
            while True:
                kind = _read(client, 1)
                text = _read(client, struct.unpack("!i", _read(client, 4))[0] - 4)
                if kind != b"Q":
                    break
                self._answer(client, text.rstrip(b"\0").decode())
        with self._lock:
            self.open -= 1

    def _welcome(self, client: socket.socket) -> None:
        """Refuse encryption, then let anybody in."""
        while True:
            (length,) = struct.unpack("!i", _read(client, 4))
            (code,) = struct.unpack("!i", _read(client, length - 4)[:4])
            if code == 196608:
                break
            client.sendall(b"N")
        said = {"server_version": f"{self.version}/bouncer", "client_encoding": "UTF8"}
        said |= {"DateStyle": "ISO", "standard_conforming_strings": "on"}
        messages = [_message(b"R", struct.pack("!i", 0))]
        messages += [_message(b"S", f"{k}\0{v}\0".encode()) for k, v in said.items()]
        client.sendall(b"".join(messages) + _ready())

    def _answer(self, client: socket.socket, sql: str) -> None:
        self.asked.append(sql)
        if sql == self.dies_at:
            raise EOFError
        while self.pause.is_set() or sql == self.halt:
            if select.select([client], [], [], 0.05)[0]:
                raise EOFError  # the other side has had enough
        found = self.answers.get(sql)
        client.sendall(
            (_error(f"unknown command: {sql}") if found is None else _table(*found)) + _ready()
        )


@contextmanager
def console(
    answers: Mapping[str, Answer], version: str = "1.18.0", folder: str = ""
) -> Iterator[Console]:
    """A console for a while."""
    one = Console(answers, version, folder)
    try:
        yield one
    finally:
        one.close()


def _shut(listener: socket.socket) -> None:
    with suppress(OSError):  # it may be closed already
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _read(client: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = client.recv(length - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def _ready() -> bytes:
    return _message(b"Z", b"I")


def _error(text: str) -> bytes:
    return _message(b"E", b"SERROR\0C08P01\0M" + text.encode() + b"\0\0")


def _table(columns: Sequence[tuple[str, int]], rows: Sequence[Sequence[str | None]]) -> bytes:
    if not columns:
        return _message(b"C", b"SHOW\0")
    fields = b"".join(
        name.encode() + b"\0" + struct.pack("!ihihih", 0, 0, oid, -1, -1, 0)
        for name, oid in columns
    )
    messages = [_message(b"T", struct.pack("!h", len(columns)) + fields)]
    messages += [
        _message(b"D", struct.pack("!h", len(row)) + b"".join(map(_cell, row))) for row in rows
    ]
    return b"".join(messages) + _message(b"C", b"SHOW\0")


def _cell(value: str | None) -> bytes:
    if value is None:
        return struct.pack("!i", -1)
    data = value.encode()
    return struct.pack("!i", len(data)) + data
