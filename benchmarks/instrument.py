"""What `pgstats.instrument` costs a call: the caller's CPU time, next to the bare call.

python -m benchmarks.instrument
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pgstats import instrument

CALLS, RUNS = 5_000, 5


def job() -> None:
    """Does nothing."""


def microseconds(call: Callable[[], object]) -> float:
    """Per call, the best of several runs."""
    times = []
    for _ in range(RUNS):
        start = time.thread_time()
        for _ in range(CALLS):
            call()
        times.append(time.thread_time() - start)
    return min(times) / CALLS * 1e6


def main() -> None:
    """Print microseconds a call."""
    print(f"bare call  {microseconds(job):6.2f} us")
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("udp", "tcp", "unix", "unixgram"):
            place = f"{folder}/{kind}" if kind.startswith("unix") else "127.0.0.1:18125"
            url = f"{kind}://{place}"
            argv = [sys.executable, "-m", "pgstats", "sink", url]
            with (
                Path(os.devnull).open("wb") as nowhere,
                subprocess.Popen(argv, stdout=nowhere) as sink,
            ):
                time.sleep(1)
                print(f"{kind:9}  {microseconds(instrument('job', url=url)(job)):6.2f} us")
                sink.terminate()
        url = "udp://127.0.0.1:18126"
        print(f"nobody     {microseconds(instrument('job', url=url)(job)):6.2f} us")


if __name__ == "__main__":
    main()
