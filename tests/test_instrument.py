"""`pgstats.instrument` on everything that can be called, read back from the real statsd."""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing, closing
from pathlib import Path
from typing import Any

import pytest

from pgstats import instrument
from pgstats.config.settings import SECTIONS, STATSD
from pgstats.errors import ShipError
from pgstats.instrumenting import Courier
from pgstats.instrumenting.courier import MOST
from pgstats.instrumenting.public import URL, VARIABLE, _post
from pgstats.ship import wire
from tests.node_statsd import NodeStatsd

_NUMBERS = itertools.count()


@pytest.fixture
def name() -> str:
    """What no other test's job is called: counters of statsd only grow."""
    return f"test.{os.getpid()}.job{next(_NUMBERS)}"


@pytest.fixture(autouse=True)
def statsd(monkeypatch: pytest.MonkeyPatch, node_statsd: NodeStatsd) -> NodeStatsd:
    monkeypatch.setenv(VARIABLE, node_statsd.udp)
    return node_statsd


def zero() -> int:
    """A job."""
    return 0


def counted(statsd: NodeStatsd, name: str, runs: int = 0) -> tuple[int, int, int, int]:
    """How often it was started, succeeded, failed, and timed; waits for so many ended runs."""
    until = time.monotonic() + 30
    while True:
        counters = statsd.counters()
        started, *ended = (
            int(counters.get(f"{name}.{event}", 0)) for event in ("started", "succeeded", "failed")
        )
        if (started and sum(ended) >= runs) or time.monotonic() > until:
            times = statsd.timers().get(f"{name}.duration", [])
            return (started, ended[0], ended[1], len(times))
        time.sleep(0.02)


# ---- what can be decorated


def test_a_function(statsd: NodeStatsd, name: str) -> None:
    @instrument(name)
    def nap(seconds: float, *, result: str = "rested") -> str:
        """Sleeps."""
        time.sleep(seconds)
        return result

    assert nap(0.02) == "rested"
    assert nap(0.02, result="well") == "well"
    assert counted(statsd, name, 2) == (2, 2, 0, 2)
    assert all(20 <= took < 30_000 for took in statsd.timers()[f"{name}.duration"])
    assert (nap.__name__, nap.__doc__) == ("nap", "Sleeps.")
    assert str(inspect.signature(nap)) == "(seconds: 'float', *, result: 'str' = 'rested') -> 'str'"
    assert inspect.getfullargspec(nap).kwonlyargs == ["result"]


def test_what_it_raises_passes_through(statsd: NodeStatsd, name: str) -> None:
    trouble = ValueError("no")

    @instrument(name=name)
    def job() -> None:
        raise trouble from OSError("below")

    with pytest.raises(ValueError, match="no") as caught:
        job()
    assert caught.value is trouble
    assert trouble.__context__ is None
    assert repr(trouble.__cause__) == "OSError('below')"
    places = [frame.name for frame in traceback.extract_tb(trouble.__traceback__)]
    assert places == ["test_what_it_raises_passes_through", "run", "job"]
    assert counted(statsd, name, 1) == (1, 0, 1, 1)


class Shop:
    """Methods of every kind."""

    @instrument
    def method(self, what: str) -> tuple[Shop, str]:
        return self, what

    @instrument
    @classmethod
    def outside(cls) -> type:
        return cls

    @classmethod
    @instrument
    def inside(cls) -> type:
        return cls

    @instrument
    @staticmethod
    def static_outside() -> int:
        return 1

    @staticmethod
    @instrument
    def static_inside() -> int:
        return 2

    def __call__(self) -> str:
        return "called"

    class Corner:
        """Whose method has a longer name."""

        @instrument
        def method(self) -> None: ...


class Better(Shop):
    """Inherits."""


def test_methods_are_called_like_their_place(statsd: NodeStatsd) -> None:
    shop = Better()
    assert shop.method("a") == (shop, "a")
    assert Better.outside() is shop.outside() is Better.inside() is Better
    assert (Shop.static_outside(), shop.static_inside()) == (1, 2)
    Shop.Corner().method()
    assert str(inspect.signature(shop.method)).startswith("(what: 'str')")
    times = {"outside": 2}
    names = ("method", "outside", "inside", "static_outside", "static_inside", "Corner.method")
    for name in names:
        runs = times.get(name, 1)
        found = counted(statsd, f"tests.test_instrument.Shop.{name}", runs)
        assert found == (runs, runs, 0, runs), name


def test_other_callables(statsd: NodeStatsd, name: str) -> None:
    assert instrument(Shop())() == "called"
    assert instrument(functools.partial(int, base=2))("101") == 5
    assert instrument(name)(len)("four") == 4
    assert counted(statsd, "tests.test_instrument.Shop", 1) == (1, 1, 0, 1)
    assert counted(statsd, "builtins.int", 1) == (1, 1, 0, 1)
    assert counted(statsd, name, 1) == (1, 1, 0, 1)


def test_a_function_in_a_function_has_a_name(statsd: NodeStatsd) -> None:
    @instrument
    def job() -> None: ...

    job()
    here = "tests.test_instrument.test_a_function_in_a_function_has_a_name.job"
    assert counted(statsd, here, 1) == (1, 1, 0, 1)


@pytest.mark.parametrize("started", [["-m", "jobs"], ["jobs.py"]])
def test_a_program_s_jobs_are_called_like_its_file(
    started: list[str], tmp_path: Path, node_statsd: NodeStatsd, name: str
) -> None:
    text = f"from pgstats import instrument\n@instrument(prefix={name!r})\ndef job(): pass\njob()\n"
    (tmp_path / "jobs.py").write_text(text)
    subprocess.run([sys.executable, *started], cwd=tmp_path, check=True, env=os.environ)
    assert counted(node_statsd, f"{name}.jobs.job", 1) == (1, 1, 0, 1)


def test_a_coroutine(statsd: NodeStatsd, name: str) -> None:
    @instrument(name)
    async def job(seconds: float) -> str:
        await asyncio.sleep(seconds)
        if not seconds:
            raise ValueError
        return "done"

    async def all_() -> Any:
        return await asyncio.gather(job(0.02), job(0.02), job(0), return_exceptions=True)

    assert inspect.iscoroutinefunction(job)
    assert [str(one) for one in asyncio.run(all_())] == ["done", "done", ""]
    assert counted(statsd, name, 3) == (3, 2, 1, 3)
    assert max(statsd.timers()[f"{name}.duration"]) >= 20


def test_a_generator_runs_from_its_first_value_to_its_last(statsd: NodeStatsd, name: str) -> None:
    @instrument(name)
    def job() -> Any:
        got = []
        for step in range(2):
            try:
                got.append((yield step))
            except KeyError as error:
                got.append(repr(error))
        return got

    def whole() -> Any:
        return (yield from job())

    assert inspect.isgeneratorfunction(job)
    values = whole()
    assert name not in str(statsd.counters())
    assert (next(values), values.send("sent")) == (0, 1)
    assert counted(statsd, name) == (1, 0, 0, 0)
    with pytest.raises(StopIteration) as end:
        values.throw(KeyError("thrown"))
    assert end.value.value == ["sent", "KeyError('thrown')"]
    assert counted(statsd, name, 1) == (1, 1, 0, 1)
    for _ in job():
        break  # nobody wants the rest, which is no failure
    assert list(job()) == [0, 1]
    assert counted(statsd, name, 2) == (3, 2, 0, 2)


def test_an_asynchronous_generator(statsd: NodeStatsd, name: str) -> None:
    closed = []

    @instrument(name)
    async def job() -> AsyncGenerator[Any, Any]:
        try:
            sent = yield 1
            try:
                yield sent
            except KeyError as error:
                yield repr(error)
        finally:
            closed.append(True)

    async def use() -> list[Any]:
        values: Any = job()
        found = [await anext(values), await values.asend("sent")]
        found += [await values.athrow(KeyError("thrown")), *[one async for one in values]]
        async with aclosing(job()) as values:
            found.append(await anext(values))
        return found + [one async for one in job()]

    assert inspect.isasyncgenfunction(job)
    assert asyncio.run(use()) == [1, "sent", "KeyError('thrown')", 1, 1, None]
    assert len(closed) == 3
    assert counted(statsd, name, 2) == (3, 2, 0, 2)


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (SystemExit(), (1, 1)), (SystemExit(0), (1, 0)), (SystemExit(3), (0, 1)),
        (SystemExit("told"), (0, 1)), (MemoryError(), (0, 1)), (KeyboardInterrupt(), (0, 0)),
        (asyncio.CancelledError(), (0, 0)), (GeneratorExit(), (0, 0)), (BaseException(), (0, 1)),
    ],
    ids=repr,
)  # fmt: skip
def test_what_failed_means(
    error: BaseException, failed: tuple[int, int], statsd: NodeStatsd, name: str
) -> None:
    @instrument(name)
    def job() -> None:
        raise error

    with pytest.raises(type(error)):
        job()
    expected = (1, 0) if isinstance(error, SystemExit) and not error.code else failed
    assert counted(statsd, name, sum(expected)) == (1, *expected, sum(expected))


@pytest.mark.parametrize("job", [Shop, 5, property(len)], ids=["class", "number", "property"])
def test_what_is_no_job_is_refused(job: object) -> None:
    with pytest.raises(TypeError, match="is no job"):
        instrument(job)


# ---- names and places


def test_prefix_and_odd_names(statsd: NodeStatsd, name: str) -> None:
    instrument(name="import orders:1|c\n.now", prefix=name)(zero)()
    assert counted(statsd, f"{name}.import_orders_1_c_.now", 1) == (1, 1, 0, 1)


def received(receiver: socket.socket, most: int = 2) -> list[str]:
    receiver.settimeout(30)
    return [line for _ in range(most) for line in receiver.recv(4096).decode().split("\n")]


@pytest.mark.parametrize(
    ("dialect", "line"),
    [
        ("plain", "job.started:1|c"),
        ("dogstatsd", "job.started:1|c|#env:prod_1,zone:a"),
        ("influx", "job.started,env=prod_1,zone=a:1|c"),
        ("graphite", "job.started;env=prod_1;zone=a:1|c"),
    ],
)
def test_dialects(dialect: str, line: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        url = f"udp://127.0.0.1:{receiver.getsockname()[1]}"
        tags = {"zone": "a", "env": "prod/1"}
        instrument("job", url=url, dialect=dialect, tags=tags)(zero)()
        started, succeeded, duration = received(receiver)
    assert started == line
    assert succeeded == line.replace("started", "succeeded")
    form = re.escape(line).replace("started", "duration").replace(r":1\|c", r":[0-9.]+\|ms")
    assert re.fullmatch(form, duration), duration


def test_impossible_settings_are_told_at_once() -> None:
    with pytest.raises(ShipError, match="must start with udp://"):
        instrument(url="http://statsd")
    with pytest.raises(ValueError, match="dialect must be one of plain,"):
        instrument(dialect="latin")
    with pytest.raises(ValueError, match="tag le: is a key that"):
        instrument(tags={"le": "1"})


def test_the_default_is_the_pollers_own() -> None:
    (setting,) = (one for one in SECTIONS[STATSD] if one.key == "url")
    assert setting.default == URL


@pytest.mark.parametrize("scheme", ["tcp", "unix", "unixgram", "localhost"])
def test_other_wires(scheme: str, statsd: NodeStatsd, name: str, tmp_path: Path) -> None:
    if scheme in ("tcp", "localhost"):
        url = statsd.tcp if scheme == "tcp" else f"udp://localhost:{statsd.port}"
        for _ in range(3):
            instrument(name, url=url)(zero)()
        assert counted(statsd, name, 3) == (3, 3, 0, 3)
        return
    with ExitStack() as stack:
        kind = socket.SOCK_STREAM if scheme == "unix" else socket.SOCK_DGRAM
        receiver = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
        receiver.bind(str(tmp_path / "socket"))
        if scheme == "unix":
            receiver.listen()
        instrument(name, url=f"{scheme}://{tmp_path}/socket")(zero)()
        if scheme == "unix":
            receiver = stack.enter_context(receiver.accept()[0])
        text = ""
        receiver.settimeout(30)
        while "duration" not in text or not text.endswith("ms" + "\n" * (scheme == "unix")):
            text += receiver.recv(4096).decode() + "\n" * (scheme == "unixgram")
            text = text.removesuffix("\n") if text.endswith("ms\n") and scheme != "unix" else text
    assert f"{name}.started:1|c\n{name}.succeeded:1|c\n{name}.duration" in text


# ---- whatever the receiver does


def deaf(stack: ExitStack, folder: Path) -> Iterator[str]:
    """Receivers that are not there, do not read, or cannot be found."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        yield f"udp://127.0.0.1:{free.getsockname()[1]}"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{closed.getsockname()[1]}"
    yield "udp://statsd.invalid:8125"
    yield "tcp://statsd.invalid:8125"
    yield f"unix://{folder}/nobody"
    full = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    full.bind(f"{folder}/full")
    yield f"unixgram://{folder}/full"
    silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    yield f"tcp://127.0.0.1:{silent.getsockname()[1]}"


def test_no_receiver_stops_a_job(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, node_statsd: NodeStatsd, name: str
) -> None:
    """That they are not held up is shown by their number: each wait would be of two seconds."""
    until = time.monotonic() + 30
    with ExitStack() as stack:
        for at, url in enumerate(deaf(stack, tmp_path)):
            job = instrument("deaf", url=url)(zero)
            assert [job() for _ in range(200)] == [0] * 200
            instrument(f"{name}.{at}")(zero)()
            assert counted(node_statsd, f"{name}.{at}", 1) == (1, 1, 0, 1)
    assert time.monotonic() < until
    told = [record.getMessage() for record in caplog.records]
    assert sum("Connection refused" in text for text in told) >= 1
    assert len(told) == len({text.split(": ")[0] for text in told})  # once each


def test_an_impossible_environment_stops_no_job(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, "http://statsd")
    job = instrument("job")(zero)
    assert job() == job() == 0
    (record,) = caplog.records
    assert "PGSTATS_STATSD: http://statsd: must start with" in record.getMessage()
    assert "jobs are not measured" in record.getMessage()


def test_what_waits_is_bounded_and_flushed() -> None:
    faults: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        courier = Courier(lambda: wire(f"tcp://127.0.0.1:{server.getsockname()[1]}"), faults.append)
        lock = courier._wire._sending
        with lock:  # as a shipment that takes its time holds it
            for _ in range(2100):  # of which one shipment may be under way
                courier.post("x" * 10 + ":1|c\n")
        courier.flush(30)
        connection, _ = server.accept()
        courier._wire.close()
        with connection, connection.makefile() as stream:
            arrived = len(stream.readlines())
    assert 1000 <= arrived == 2100 - courier._wire.drops["timeout"] <= 2000
    assert faults == ["1000 shipments wait already"]
    assert courier._thread is None


def test_lines_gather_between_two_shipments() -> None:
    """No thread for each post: the daemon's are many."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(30)
        ours = wire(f"udp://127.0.0.1:{receiver.getsockname()[1]}", rate=0)
        with closing(ours):
            courier = Courier(lambda: ours, pytest.fail, pause=600)
            courier.post("first:1|c\n")
            assert received(receiver, 1) == ["first:1|c"]
            thread = courier._thread
            for at in range(3):
                courier.post(f"later:{at}|c\n")
            assert courier._thread is thread is not None
            courier.flush(30)
            assert receiver.recv(100) == b"later:0|c\nlater:1|c\nlater:2|c"
            assert not thread.alive


def test_many_lines_do_not_wait_until_there_is_no_room() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        ours = wire(f"udp://127.0.0.1:{receiver.getsockname()[1]}", rate=0)
        with closing(ours):
            courier = Courier(lambda: ours, pytest.fail, pause=600)
            courier.post("first:1|c\n")
            assert received(receiver, 1) == ["first:1|c"]
            for at in range(MOST // 2 + 1):
                courier.post(f"x:{at}|c\n")
            until = time.monotonic() + 30
            while courier._waiting:
                assert time.monotonic() < until
                time.sleep(0.01)
            with courier._lock:
                assert not courier._hurry.is_set(), "from then on lines gather again"


def test_a_signal_may_post_while_its_thread_does() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        url = f"udp://127.0.0.1:{receiver.getsockname()[1]}"
        courier = Courier(lambda: wire(url, rate=0), pytest.fail, urgent=True)
        with courier._turn, closing(courier._wire):  # as the thread that is interrupted holds it
            courier.post("mine:1|c\n")
            courier.flush(30)
            assert received(receiver, 1) == ["mine:1|c"]


def test_a_crowd_of_threads_loses_nothing(statsd: NodeStatsd, name: str) -> None:
    job = instrument(name)(zero)
    with ThreadPoolExecutor(16) as crowd:
        for _ in range(96):
            crowd.submit(job)
    assert counted(statsd, name, 96) == (96, 96, 0, 96)


# ---- threads and processes


def test_threads_and_forks(statsd: NodeStatsd, name: str) -> None:
    jobs = [instrument(name, url=url)(zero) for url in (statsd.udp, statsd.tcp)]

    def work() -> None:
        for _ in range(8):
            for job in jobs:
                job()

    def child() -> None:
        work()
        _post(statsd.tcp).__self__.flush(30)  # type: ignore[attr-defined]
        os._exit(0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    program = forked(child)
    for thread in threads:
        thread.join()
    assert os.waitpid(program, 0)[1] == 0
    assert counted(statsd, name, 80) == (80, 80, 0, 80)


def forked(child: Callable[[], None]) -> int:
    """The child's process id."""
    import warnings  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of forks beside threads: that is it
        program = os.fork()
    if not program:
        child()
    return program


# ---- Celery


CELERY = {
    "tests.celery_jobs.below": (2, 2, 0),
    "shop.above": (1, 1, 0),
    "shop.renamed": (1, 1, 0),
    "shop.shared_above": (1, 1, 0),
    "shop.shared_below": (1, 1, 0),
    "shop.failing": (1, 0, 1),
    "shop.again": (3, 1, 0),  # two of them ended by a Retry
    "shop.auto": (2, 1, 0),
    "shop.ignored": (1, 0, 0),
    "shop.importer": (1, 1, 0),
    "shop.derived": (1, 1, 0),
    "tests.celery_jobs.Unnamed": (1, 1, 0),
    "shop.based": (1, 1, 0),
}
RETURNED = {
    "below": 3, "above": 6, "given": "given", "shared_above": "shared", "shared_below": "shared",
    "again": 2, "auto": 1, "importer": 3, "derived": 4, "unnamed": 4, "based": "based",
    "failing": "ValueError('no')", "arguments": "checked",
}  # fmt: skip


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_tasks_of_celery(pool: str, statsd: NodeStatsd, tmp_path: Path) -> None:
    before = {name: counted_now(statsd, name) for name in CELERY}
    program = f"from tests.celery_jobs import main; main({pool!r}, {str(tmp_path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        cwd=Path(__file__).parents[1],
        env=os.environ | {VARIABLE: statsd.udp},
    )
    assert done.stdout, done.stderr
    assert json.loads(done.stdout.splitlines()[0]) == RETURNED, done.stderr
    for name, runs in CELERY.items():
        found = counted_now(statsd, name)
        new = tuple(a - b for a, b in zip(found, before[name], strict=True))
        assert new == (*runs, runs[1] + runs[2]), name


def test_what_the_readme_shows(statsd: NodeStatsd, tmp_path: Path) -> None:
    """In a module of its own, without a broker."""
    page = Path(__file__).parents[1] / "docs" / "instrument.md"
    (text,) = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    module = f"shop{os.getpid()}"
    text = text.replace("shop.", f"{module}.").replace('Celery("shop")', f"Celery({module!r})")
    (tmp_path / f"{module}.py").write_text(text)
    program = f"""
import asyncio, {module} as shop
assert shop.import_orders("path") == 4
asyncio.run(shop.fetch(""))
assert shop.send_mail.apply(["me"]).failed()
assert shop.app.tasks["{module}.resize"].apply(["one"]).successful()
"""
    subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, env=os.environ, timeout=60
    )
    for job, runs in {
        "import_orders": (1, 1, 0, 1), "fetch": (1, 1, 0, 1), "send_mail": (1, 0, 1, 1),
        "resize": (1, 1, 0, 1),
    }.items():  # fmt: skip
        assert counted(statsd, f"{module}.{job}", 1) == runs


def counted_now(statsd: NodeStatsd, name: str) -> tuple[int, ...]:
    """As many as there are."""
    counters = statsd.counters()
    events = ("started", "succeeded", "failed")
    timed = len(statsd.timers().get(f"{name}.duration", []))
    return (*(int(counters.get(f"{name}.{event}", 0)) for event in events), timed)


def test_a_task_is_still_a_task() -> None:
    from tests import celery_jobs  # noqa: PLC0415

    task = celery_jobs.above
    assert (task.name, task.__doc__, task.run.__name__) == ("shop.above", "Adds.", "above")
    assert str(inspect.signature(task.run)).startswith("(a: 'int', b: 'int' = 2)")
    assert task(1, 2) == 3
    assert celery_jobs.importer.run(4) == 4
    assert celery_jobs.Importer.__doc__ == "Imports."
