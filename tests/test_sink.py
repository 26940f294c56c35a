"""The receiver for eyes, over real sockets."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pgstats.errors import PgstatsError, ShipError
from pgstats.printing import escaped
from pgstats.sink import Sink, parse, series, show
from tests.program import pgstats

INTERNET = ["udp://127.0.0.1:0", "udp://[::1]:0", "tcp://127.0.0.1:0", "tcp://[::1]:0"]


@pytest.fixture
def urls(tmp_path: Path) -> list[str]:
    return [*INTERNET, f"unix://{tmp_path}/stream", f"unixgram://{tmp_path}/datagram"]


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


def send(url: str, *packets: bytes) -> None:
    """Send each packet to a sink, over one socket of its kind."""
    parts = urlsplit(url)
    datagram = parts.scheme in {"udp", "unixgram"}
    kind = socket.SOCK_DGRAM if datagram else socket.SOCK_STREAM
    unix = parts.scheme.startswith("unix")
    family = socket.AF_UNIX if unix else socket.AF_INET6 if "[" in url else socket.AF_INET
    with socket.socket(family, kind) as sock:
        sock.connect(parts.path if unix else (parts.hostname, parts.port))
        for packet in packets:
            sock.sendall(packet)


def arrivals(sink: Sink, lines: int) -> list[str]:
    """Receive until that many lines came."""
    texts: list[str] = []
    while len(texts) < lines:
        more = sink.receive(10)
        assert more or sink._partial, f"only {texts} came"
        texts += more
    return texts


# ---- lines


@pytest.mark.parametrize(
    "text",
    [
        "a.b:5|g|#db:shop,user:app",
        "a.b;user=app;db=shop:5|g",
        "a.b,db=shop,user=app:5|g",
    ],
)
def test_every_dialect_means_the_same(text: str) -> None:
    line = parse(text)
    assert line
    assert line.series == series("a.b", {"db": "shop", "user": "app"})
    assert (line.value, line.kind) == ("5", "g")


@pytest.mark.parametrize(
    "text",
    ["", "a", "a:5", "a:|g", ":5|g", "a:5|x", "a:nan|g", "a:inf|g", "a:0x10|g", "a:1_0|g",
     "a: 5|g", "a:5|g\r", "a:1:2|g", "a:5||g"],
)  # fmt: skip
def test_bad_lines(text: str) -> None:
    assert parse(text) is None


def test_other_fields_are_tolerated() -> None:
    line = parse("a:5|c|@0.5|#bare,addr:10.0.0.1:5432|c:container|T1656581400")
    assert line
    assert line.rate == 0.5
    assert dict(line.series[1]) == {"bare": "", "addr": "10.0.0.1:5432"}


def test_values_follow_statsd(sink: Sink) -> None:
    send(sink.url, b"x:0|g\nx:-7|g\nup:5|g\nup:+2|g\nup:-0.5|g\nexp:1e3|g", b"n:2|c\nn:1|c|@0.1",
         b"t:3|ms\nt:4|ms\nset:member|s\nbad\n")  # fmt: skip
    assert len(arrivals(sink, 12)) == 12
    assert sink.snapshot() == {
        series("x"): -7,
        series("up"): 6.5,
        series("exp"): 1000,
        series("n"): 12,
        series("t"): 4,
    }
    assert (sink.lines, sink.packets, sink.bad_lines) == (12, 3, 1)


def test_what_could_steer_a_terminal_is_escaped() -> None:
    assert escaped("plain é 1") == "plain é 1"
    assert escaped("a\x1b[2J\x07\u202e\x9b\x7f") == r"a\x1b[2J\x07\u202e\x9b\x7f"


# ---- sockets


def test_every_transport(urls: list[str]) -> None:
    for url in urls:
        with Sink(url) as sink:
            assert not sink.url.endswith(":0")
            send(sink.url, b"a:1|g\nb:2|g\n", b"c:3|g\n")
            assert arrivals(sink, 3) == ["a:1|g", "b:2|g", "c:3|g"]
            assert sink.snapshot()[series("c")] == 3
            assert (sink.bytes, sink.lost) == (18, 0)


def test_streams_are_cut_at_line_ends_only(tmp_path: Path) -> None:
    for url in ("tcp://127.0.0.1:0", f"unix://{tmp_path}/stream"):
        with Sink(url).start() as sink:
            send(sink.url, b"long.na", b"me:1", b"|g\nlast:2|g")  # its end closes the last line
            assert sink.wait(lambda sink=sink: sink.lines == 2, 30)  # type: ignore[misc]
            assert sink.snapshot() == {series("long.name"): 1, series("last"): 2}


def test_a_stream_without_line_ends_is_cut_off() -> None:
    with Sink("tcp://127.0.0.1:0").start() as sink:
        with pytest.raises(ConnectionError):
            send(sink.url, *[b"x" * 60_000] * 200)
        assert sink.wait(lambda: sink.bad_lines >= 1, 30)


def test_packets_lost_in_the_kernel_are_counted(sink: Sink) -> None:
    sent = 20_000
    send(sink.url, *[b"x:1|g" + b"\nx:1|g" * 200] * sent)  # while nobody receives
    while sink.receive(0.5):
        pass
    assert sink.lost > 0
    assert sink.packets + sink.lost == sent
    lost = sink.lost
    sink.stop()
    assert sink.lost == lost
    assert f"{lost} packets lost" in sink.summary()


def test_invalid_utf8_is_shown(sink: Sink) -> None:
    send(sink.url, b"a\xff:1|g")
    assert arrivals(sink, 1) == [r"a\xff:1|g"]


def test_unix_sockets_are_removed(tmp_path: Path) -> None:
    for scheme in ("unix", "unixgram"):
        with Sink(f"{scheme}://{tmp_path}/socket"):
            assert (tmp_path / "socket").is_socket()
        assert not (tmp_path / "socket").exists()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1", "expected udp://"),
        ("unix://relative", "expected a path"),
        ("udp://127.0.0.1:99999", "0-65535"),
        ("udp://no.such.host.invalid:1", "no.such.host.invalid"),
        ("unixgram:///no/such/folder/socket", "cannot listen there: No such file"),
    ],
)
def test_bad_addresses_are_told(url: str, words: str) -> None:
    with pytest.raises(PgstatsError, match=words):
        Sink(url)


@pytest.mark.parametrize(("url", "code"), [("foo", 78), ("udp://no.such.host.invalid:1", 69)])
def test_a_wrong_address_is_no_place_that_cannot_be_had(url: str, code: int) -> None:
    assert pgstats("sink", url).returncode == code


def test_a_taken_port_is_told(sink: Sink) -> None:
    with pytest.raises(ShipError, match="Address already in use"):
        Sink(sink.url)


# ---- the thread and the command


def test_the_thread_receives_while_we_wait(sink: Sink) -> None:
    sink.start()
    assert not sink.wait(lambda: sink.lines > 0, 0.1)
    threads = [threading.Thread(target=send, args=(sink.url, b"x:+1|g")) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sink.wait(lambda: sink.values.get(series("x")) == 20, 30)


def test_show_ends_after_count_and_after_seconds(sink: Sink) -> None:
    out = io.StringIO()
    send(sink.url, b"a:1|g\nb:2|g\nc:3|g")
    show(sink, out, count=2)
    assert out.getvalue() == "a:1|g\nb:2|g\n"
    show(sink, out, seconds=0.05)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


SHOW = """
import sys
from pgstats.sink import Sink, show
with Sink() as sink:
    print(sink.url, flush=True)
    show(sink, sys.stdout)
    print(sink.summary(), file=sys.stderr)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_show_prints_at_once_and_ends_in_peace(number: signal.Signals) -> None:
    shown = subprocess.Popen(
        [sys.executable, "-c", SHOW],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # as in the background of a shell script
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # noqa: PLW1509
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    with shown:
        assert shown.stdout
        url = shown.stdout.readline().strip()
        send(url, b"a:1|g\n\x1b[2J:2|g")
        assert [shown.stdout.readline(), shown.stdout.readline()] == ["a:1|g\n", "\\x1b[2J:2|g\n"]
        shown.send_signal(number)
        _, errors = shown.communicate(timeout=30)
    assert shown.returncode == 0
    counts = "2 lines in 1 packets, 14 bytes, 2 series, 0 bad lines, 0 packets lost"
    assert errors == f"{url}: {counts}\n"
