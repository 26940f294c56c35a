"""`pgstats sink` as a process: the receiver on a unix socket of datagrams."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from pgstats.scratch import Scratch, Server


class SinkProcess(Server):
    """Prints what arrives to its log, which is read back."""

    stop_signal = signal.SIGTERM
    death_signal = signal.SIGKILL
    ours = True  # the checkout may be private

    @property
    def url(self) -> str:
        """Its address as pgstats takes it."""
        return f"unixgram://{self._path}"

    @property
    def _path(self) -> Path:
        return self.folder / "datagram"

    def __init__(self, scratch: Scratch, name: str) -> None:
        super().__init__(scratch, name)
        self._read_from = 0

    def configure(self) -> None:
        self._path.unlink(missing_ok=True)  # a hard kill leaves it behind

    def command(self) -> list[str | Path]:
        root = str(Path(__file__).parents[2])
        program = f"import sys; sys.path.insert(0, {root!r}); from pgstats.__main__ import main"
        return [sys.executable, "-c", f"{program}; sys.exit(main())", "sink", self.url]

    def ready(self) -> bool:
        return self._path.exists()

    def forget(self) -> None:
        """Leave out what has arrived so far."""
        self._read_from = self.log.stat().st_size

    def gauges(self) -> dict[str, float]:
        """The last value of each gauge since `forget`."""
        with self.log.open("rb") as log:
            log.seek(self._read_from)
            lines = log.read().decode(errors="replace").splitlines()
        found = {}
        for line in lines:
            name, _, rest = line.partition(":")
            value, _, kind = rest.partition("|")
            if kind == "g":
                found[name] = float(value)
        return found
