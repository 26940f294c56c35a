"""What is gone gets one last value: pure rules first, then real servers and the real statsd."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pgstats.ask import asker, parse_dsn
from pgstats.catalogue.own import UP
from pgstats.catalogue.pgbouncer import CLIENTS, DERIVED, POOLS
from pgstats.catalogue.postgres import DATABASE, TABLES, TOTALS
from pgstats.cli.cycle import Cycle
from pgstats.config import load
from pgstats.model import OTHER, POSTGRES, Frame, Metric, Poll, Query, Row, Target
from pgstats.scratch import Bouncer, Cluster, Scratch, free_port
from pgstats.shape import Glance, ended, restore, retired
from pgstats.ship import Paper
from pgstats.state import State
from tests.node_statsd import NodeStatsd
from tests.program import gauges, pgstats

Values = dict[str, float]

# The rules. An answer is a frame of (labels..., numbers...) with as many metrics as it needs.


def frame(query: Query, *rows: Row, scope: Row = (), **more: Any) -> Frame:
    width = len(rows[0]) - len(query.labels) if rows else 1
    return Frame.of(query, query.metrics[:width], rows, "main", scope=scope, **more)


def tables(database: str, *names: object) -> Frame:
    rows = [(database, OTHER if name is OTHER else "public", name, 5) for name in names]
    return frame(TABLES, *rows, scope=(database,))


def databases(*names: str) -> Frame:
    return frame(DATABASE, *((name, 1) for name in names))


def last(frames: list[Frame], value: float = 0) -> set[str]:
    """The retired series as GROUP.LABELS.METRIC, all of which must have that value."""
    found: set[str] = set()
    for one in frames:
        width = len(one.query.labels)
        for row in one.rows:
            assert row[width:] == (value,) * len(one.metrics)
            assert one.metrics == one.query.metrics
            path = ".".join([one.query.group, *map(str, row[:width])])
            names = {f"{path}.{metric.name}" for metric in one.metrics}
            assert names
            assert not names & found, "one last value each"
            found |= names
    return found


class Story:
    """Polls one after the other, as a daemon or as one-shot runs see them."""

    def __init__(self, value: float | None = 0, *, oneshot: bool = False) -> None:
        self.value, self.oneshot, self.sent = value, oneshot, dict[str, Any]()
        self.glance = None if oneshot else Glance()

    def poll(self, *frames: Frame, **more: Any) -> set[str]:
        found = retired(frames, self.sent, self.value, glance=self.glance, **more)
        if self.oneshot:
            text = json.dumps(self.sent, default=lambda other: pytest.fail(f"{other!r}"))
            self.sent = json.loads(text)
        return last(found, self.value or 0)


@pytest.fixture(params=[False, True], ids=["daemon", "oneshot"])
def story(request: pytest.FixtureRequest) -> Story:
    return Story(oneshot=request.param)


def test_a_row_that_is_gone_is_retired_once(story: Story) -> None:
    assert story.poll(frame(POOLS, ("a", "u", 1, 2), ("b", "u", 1, 2))) == set()
    gone = {"pools.b.u.cl_active", "pools.b.u.cl_waiting"}
    assert story.poll(frame(POOLS, ("a", "u", 1, 2))) == gone
    assert story.poll(frame(POOLS, ("a", "u", 1, 2))) == set()
    assert story.poll(frame(POOLS, ("b", "u", 1, 2))) == {n.replace(".b.", ".a.") for n in gone}


def test_a_number_that_comes_to_be_known_later_is_retired_too(story: Story) -> None:
    for number in (None, None, 2, 2, None):
        assert story.poll(frame(POOLS, ("a", "u", 1, number))) == set()
    gone = {"pools.a.u.cl_active", "pools.a.u.cl_waiting"}
    assert story.poll(frame(POOLS, ("b", "u", 1, 2))) == gone


def test_what_was_missing_from_a_part_of_the_rows_is_gone_when_all_come(story: Story) -> None:
    story.poll(frame(POOLS, ("a", "u", 1), ("b", "u", 1)))
    for _ in range(2):
        assert story.poll(frame(POOLS, ("a", "u", 1)), partial=True) == set()
    assert story.poll(frame(POOLS, ("a", "u", 1))) == {"pools.b.u.cl_active"}


def test_what_failed_is_not_taken_for_seen(story: Story) -> None:
    story.poll(frame(POOLS, ("a", "u", 1)))
    odd = frame(POOLS, ("b", "u", 1))._replace(metrics=POOLS.metrics[:2])
    for _ in range(2):
        with pytest.raises(ValueError, match="shorter"):
            story.poll(odd)
    assert story.poll(frame(POOLS, ("b", "u", 1))) == {"pools.a.u.cl_active"}


def test_a_few_rows_are_only_glanced_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is the same as the last time is not worked out again; of many rows all is."""
    rules = sys.modules["pgstats.shape.retired"]  # whose name the function has taken
    worked: list[object] = []
    answers = rules._Answers

    def working(frames: list[Frame]) -> object:
        worked.append(frames)
        return answers(frames)

    monkeypatch.setattr(rules, "_Answers", working)
    for most, often in ((50_000, [1, 0, 1, 0]), (3, [1, 1, 1, 1])):
        monkeypatch.setattr(rules, "MANY", most)
        story, found = Story(), []
        for names in ("abc", "abc", "abd", "abd"):
            worked.clear()
            story.poll(frame(POOLS, *((name, "u", 1) for name in names)))
            found.append(len(worked))
        assert found == often


def test_the_last_row_too(story: Story) -> None:
    story.poll(frame(POOLS, ("a", "u", 1)))
    assert story.poll(frame(POOLS)) == {"pools.a.u.cl_active"}


def test_what_was_not_answered_stays_until_it_is(story: Story) -> None:
    story.poll(frame(POOLS, ("a", "u", 1)))
    up = Frame.of(UP[POSTGRES], UP[POSTGRES].metrics, [(0,)], "main")
    for _ in range(3):
        assert story.poll(up) == set()
    assert story.poll(up, frame(POOLS, ("b", "u", 1))) == {"pools.a.u.cl_active"}


def test_a_value_that_is_unknown_now_is_no_row_that_is_gone(story: Story) -> None:
    story.poll(frame(POOLS, ("a", "u", 1, 2)))
    assert story.poll(frame(POOLS, ("a", "u", 1, None))) == set()
    assert story.poll(frame(POOLS, ("a", "u", 1))) == set()
    assert story.poll(frame(POOLS)) == {"pools.a.u.cl_active", "pools.a.u.cl_waiting"}


def test_what_was_never_sent_is_not_retired(story: Story) -> None:
    story.poll(frame(POOLS, ("a", "u", 1, None), ("b", "u", None, None)))
    assert story.poll(frame(POOLS)) == {"pools.a.u.cl_active"}


def test_counters_need_no_last_value(story: Story) -> None:
    counter = Query("pgbouncer", "stats", (Metric("n", "", kind="count"), Metric("level", "")))
    story.poll(frame(Query("x", "y", counter.metrics, labels={"a": ""}), ("b", 1, 2)))
    assert story.poll(frame(Query("x", "y", counter.metrics, labels={"a": ""}))) == {"y.b.level"}


def test_several_questions_of_one_group_are_one_row(story: Story) -> None:
    """Rates are there only where totals grew; the pool they are of is there all the same."""
    stats, rates = frame(POOLS, ("a", "u", 1)), DERIVED["stats"][0]
    more = Query("pgbouncer", "pools", rates.metrics, labels=POOLS.labels)
    story.poll(stats, frame(more, ("a", "u", 0.5)))
    assert story.poll(stats, frame(more)) == set()
    assert story.poll(frame(POOLS)) == {"pools.a.u.cl_active", "pools.a.u.query_ms"}


def test_a_database_speaks_for_its_own_tables_alone(story: Story) -> None:
    story.poll(databases("a", "b"), tables("a", "x", "y"), tables("b", "x", "y"))
    gone = story.poll(databases("a", "b"), tables("a", "x"))  # b failed
    assert gone == {"tables.a.public.y.n_live_tup"}
    gone = story.poll(databases("a", "b"), tables("a", "x"), tables("b", "y"))
    assert gone == {"tables.b.public.x.n_live_tup"}


def test_a_database_that_is_gone_takes_its_tables_along(story: Story) -> None:
    sums = frame(TOTALS, ("b", 1), scope=("b",))
    story.poll(databases("a", "b"), sums, tables("a", "x"), tables("b", "x", OTHER))
    assert story.poll(tables("a", "x")) == set(), "the list of databases failed"
    assert story.poll(databases("a"), tables("a", "x")) == {
        "database.b.n_live_tup",
        "database.b.numbackends",
        "tables.b.public.x.n_live_tup",
        "tables.b._other._other.n_live_tup",
    }


def test_the_sums_of_one_database_say_nothing_of_another(story: Story) -> None:
    sums = [frame(TOTALS, (name, 1), scope=(name,)) for name in "ab"]
    story.poll(databases("a", "b"), *sums)
    assert story.poll(sums[0]) == set()


def test_the_rest_and_a_table_of_that_name_are_told_apart(story: Story) -> None:
    clients = frame(CLIENTS, *((text,) * len(CLIENTS.labels) + (1,) for text in ("_other", "x")))
    rest = frame(CLIENTS, (OTHER,) * len(CLIENTS.labels) + (1,))
    story.poll(clients)
    assert len(story.poll(rest)) == 2
    found = retired([clients], story.sent, 0)
    assert found[0].rows[0][0] is OTHER


def test_one_process_behind_a_port_says_nothing_of_another(story: Story) -> None:
    one, two = (frame(POOLS, ("a", "u", 1), tags={"peer": peer}) for peer in "12")
    story.poll(one, two)
    assert story.poll(frame(POOLS, tags={"peer": "1"})) == {"pools.a.u.cl_active"}
    (found,) = retired([frame(POOLS, tags={"peer": "2"})], story.sent, 0)
    assert found.tags == {"peer": "2"}


def test_rows_of_a_partial_answer_may_be_elsewhere(story: Story) -> None:
    story.poll(frame(POOLS, ("a", "u", 1), ("b", "u", 1)))
    assert retired([frame(POOLS, ("a", "u", 1))], story.sent, 0, partial=True) == []
    assert story.poll(frame(POOLS, ("a", "u", 1))) == {"pools.b.u.cl_active"}


def test_the_last_value_may_be_any_number_or_none() -> None:
    story = Story(-1.5)
    story.poll(frame(POOLS, ("a", "u", 1)))
    assert story.poll(frame(POOLS)) == {"pools.a.u.cl_active"}
    silent = Story(None)
    silent.poll(frame(POOLS, ("a", "u", 1)))
    assert silent.poll(frame(POOLS)) == set()
    assert silent.sent == {}
    assert ended(story.sent, None) == []


def test_a_target_that_is_polled_no_more_ends_whole(story: Story) -> None:
    up = Frame.of(UP[POSTGRES], UP[POSTGRES].metrics, [(1,)], "main")
    story.poll(up, tables("a", "x", OTHER))
    assert last(ended(story.sent, 0)) == {
        ".up",
        "tables.a.public.x.n_live_tup",
        "tables.a._other._other.n_live_tup",
    }


def test_last_values_that_were_not_taken_are_due_again(story: Story) -> None:
    story.poll(frame(POOLS, ("a", "u", 1), ("b", "u", 1)))
    gone = retired([frame(POOLS, ("a", "u", 1))], story.sent, 0)
    restore(gone, story.sent)
    assert story.poll(frame(POOLS, ("a", "u", 1))) == {"pools.b.u.cl_active"}
    assert story.poll(frame(POOLS, ("a", "u", 1))) == set()


def test_last_values_that_could_not_be_spelled_are_due_again(tmp_path: Path) -> None:
    """A bug in spelling what comes after them takes them along."""
    path = tmp_path / "pgstats.toml"
    path.write_text('[[postgres]]\nname = "main"\ndsn = "host=here"\n')
    config, paper = load(str(path), {}, {}, parse_dsn), Paper()
    cycle, sound = Cycle(config, State(), pytest.fail, paper), tables("shop", "a")
    fault = frame(DATABASE, ("shop", "no number"))
    found = []
    for frames in ([tables("shop", "a", "b")], [sound, fault], [sound], [sound]):
        paper.packets.clear()
        cycle.ship([Poll(config.targets[0], frames)], 5)
        lines = gauges(b"\n".join(paper.packets).decode())
        gone = [v for name, v in lines.items() if ".tables.shop.public.b." in name]
        found.append((gone, lines["pgstats.self.ship.retired_series"]))
    assert found == [([5], 0), ([], 0), ([0], 1), ([], 1)]


def test_what_was_skipped_and_altered_is_counted_over_all_targets_and_polls(tmp_path: Path) -> None:
    path = tmp_path / "pgstats.toml"
    path.write_text("".join(f'[[postgres]]\nname = "{n}"\ndsn = "host=here"\n' for n in "ab"))
    config, paper = load(str(path), {}, {}, parse_dsn), Paper()
    cycle = Cycle(config, State(), pytest.fail, paper)
    found = []
    for _ in range(2):
        for target in config.targets:
            paper.packets.clear()
            cycle.ship([Poll(target, [frame(DATABASE, ("shop é", None))])], 5)
            lines = gauges(b"\n".join(paper.packets).decode())
            numbers = [lines[f"pgstats.self.ship.{n}"] for n in ("skipped_values", "altered_names")]
            found.append(numbers)
        cycle = cycle.renewed(config)
    assert found == [[1, 1], [2, 2], [3, 2], [4, 2]]


# The command on real servers. Every file has a state of its own.


class Site:
    """A configuration file that can be written anew, and a state beside it."""

    def __init__(self, folder: Path, statsd: NodeStatsd) -> None:
        self.folder, self.statsd, self.targets = folder, statsd, dict[str, str]()
        self.url, self.statsd_options = statsd.udp, ""

    def target(self, family: str, name: str, dsn: str, more: str = "") -> None:
        text = f"[[{family}]]\nname = {json.dumps(name)}\ndsn = {json.dumps(dsn)}\n{more}\n"
        self.targets[name] = text

    def write(self, interval: str = "1m") -> str:
        """A poll may take 80 % of the interval, at most 10 s: a one-shot run has all of these."""
        path = self.folder / "pgstats.toml"
        head = f'interval = "{interval}"\nstate = "state"\n[statsd]\nurl = "{self.url}"\n'
        path.write_text(f"{head}{self.statsd_options}\n{''.join(self.targets.values())}")
        return str(path)

    def once(self, *options: str, code: int = 0) -> Values:
        """The gauges after a one-shot run."""
        done = pgstats("once", "--config", self.write(), *options)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return self.statsd.gauges()

    def would(self, *options: str) -> Values:
        """What a dry run prints, the last value of each name."""
        done = pgstats("once", "--dry-run", "--config", self.write(), *options)
        assert (done.returncode, done.stderr) == (0, "")
        return gauges(done.stdout)

    def state(self) -> str:
        """What is in the state file, "" before there is one."""
        path = self.folder / "state"
        return path.read_text() if path.exists() else ""

    @contextmanager
    def running(self, stop: int = signal.SIGTERM) -> Iterator[subprocess.Popen[bytes]]:
        """The daemon, until that signal."""
        with (self.folder / "log").open("wb") as log:
            command = [sys.executable, "-m", "pgstats", "run", "--config", self.write("500ms")]
            daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            try:
                yield daemon
                daemon.send_signal(stop)
                daemon.wait(10)
            finally:
                daemon.kill()
                daemon.wait()
        assert "Traceback" not in (self.folder / "log").read_text()

    def wait(self, fact: Callable[[Values], bool], seconds: float = 20) -> Values:
        until = time.monotonic() + seconds
        while not fact(found := self.statsd.gauges()):
            log = self.folder / "log"
            assert time.monotonic() < until, log.read_text() if log.exists() else found
            time.sleep(0.05)
        return found


@pytest.fixture
def site(tmp_path: Path, node_statsd: NodeStatsd) -> Site:
    return Site(tmp_path, node_statsd)


@pytest.fixture
def shop(cluster: Cluster) -> Iterator[str]:
    """A database of its own with two tables."""
    name = f"shop{time.monotonic_ns()}"
    cluster.psql(f"CREATE DATABASE {name} TEMPLATE template0")
    cluster.psql("CREATE TABLE one AS SELECT 1 AS i; CREATE TABLE two AS SELECT 1 AS i", name)
    yield name
    cluster.psql(f"DROP DATABASE IF EXISTS {name}")


def series(found: Values, start: str) -> Values:
    return {name: value for name, value in found.items() if name.startswith(start)}


@pytest.mark.parametrize(
    ("given", "value"), [("", 0), ('on_vanish = "nothing"', None), ("on_vanish = -7", -7)]
)
def test_a_dropped_table_reads_its_last_value_after_the_next_run(
    given: str, value: int | None, site: Site, cluster: Cluster, shop: str
) -> None:
    site.statsd_options = given
    site.target("postgres", "main", cluster.dsn(), f'databases = ["{shop}"]')
    before = site.once()
    one, two = (f"pgstats.postgres.main.tables.{shop}.public.{name}." for name in ("one", "two"))
    mine = series(before, one)
    assert f"{one}n_live_tup" in mine
    assert f"{one}vacuum_count" in mine
    assert f"{one}last_vacuum_age_seconds" not in mine, "it never was"
    cluster.psql("DROP TABLE one", shop)
    site.once("--no-state")
    assert series(site.statsd.gauges(), one) == mine, "nothing is known without the state"
    would = site.would()
    after = site.once()
    if value is None:
        assert series(after, one) == mine
        assert series(would, one) == {}
    else:
        assert set(series(after, one).values()) == {value}
        assert series(would, one) == series(after, one)
    since = f"pgstats.postgres.main.database.{shop}.tables_vacuumed_in_vain"  # takes two polls
    assert set(after) == set(before) | {since}
    assert series(after, two).keys() == series(before, two).keys()
    retired_series = len(mine) * (value is not None)
    assert after["pgstats.self.ship.retired_series"] == retired_series
    # And no more after that.
    assert series(site.would(), one) == {}
    assert site.once()["pgstats.self.ship.retired_series"] == 0


def test_no_gauge_stays_behind_where_names_read_alike(
    site: Site, cluster: Cluster, shop: str
) -> None:
    """Neither when another one comes nor when it goes: each keeps its name from run to run."""
    site.statsd_options = "on_vanish = -7"
    site.target("postgres", "main", cluster.dsn(), f'databases = ["{shop}"]')
    start = f"pgstats.postgres.main.tables.{shop}.public.a_b"

    def found() -> dict[str, float]:
        """What a run ships of their rows, by what follows the common part of the name."""
        mine = {
            name.removeprefix(start): value
            for name, value in site.once().items()
            if name.startswith(start) and name.endswith(".n_live_tup")
        }
        site.statsd.forget()
        return mine

    plain = ".n_live_tup"
    cluster.psql('CREATE TABLE "a b" ()', shop)
    assert found() == {plain: 0}
    cluster.psql('CREATE TABLE "a.b" ()', shop)
    (mine, other) = sorted(found())
    assert mine == plain
    assert re.fullmatch(r"_[0-9a-f]{6}\.n_live_tup", other)
    cluster.psql('DROP TABLE "a b"', shop)
    assert found() == {plain: -7, other: 0}
    assert found() == {other: 0}


def test_the_daemon_does_the_same_and_goes_on_after_a_restart(
    site: Site, cluster: Cluster, shop: str
) -> None:
    site.target("postgres", "main", cluster.dsn(), f'databases = ["{shop}"]')
    site.statsd_options = "on_vanish = -7"
    start = f"pgstats.postgres.main.tables.{shop}.public"
    one, late = f"{start}.one.n_live_tup", f"{start}.late.n_live_tup"
    with site.running():
        site.wait(lambda found: one in found)
        cluster.psql("DROP TABLE one; CREATE TABLE late (i int)", shop)
        found = site.wait(lambda found: found[one] == -7 and late in found)
        assert found[late] >= 0
    cluster.psql("DROP TABLE late", shop)
    assert site.would()[late] == -7, "the state is where one-shot runs look"
    with site.running():
        site.wait(lambda found: found[late] == -7)


def test_the_daemon_remembers_after_a_hard_kill(site: Site, cluster: Cluster, shop: str) -> None:
    site.target("postgres", "main", cluster.dsn(), f'databases = ["{shop}"]')
    site.statsd_options = "on_vanish = -7"
    one = f"pgstats.postgres.main.tables.{shop}.public.one.n_live_tup"
    with site.running(signal.SIGKILL):
        site.wait(lambda found: one in found and '"one"' in site.state())
    cluster.psql("DROP TABLE one", shop)
    with site.running():
        site.wait(lambda found: found[one] == -7)


def test_a_dropped_database_takes_everything_along(site: Site, cluster: Cluster, shop: str) -> None:
    site.target("postgres", "main", cluster.dsn(), f'databases = ["postgres", "{shop}"]')
    site.statsd_options = "on_vanish = -7"
    before = site.once()
    mine = {name for name in before if f".{shop}." in name}
    assert f"pgstats.postgres.main.database.{shop}.numbackends" in mine
    assert f"pgstats.postgres.main.database.{shop}.n_live_tup" in mine
    assert f"pgstats.postgres.main.tables.{shop}._other._other.n_live_tup" in mine
    cluster.psql(f"DROP DATABASE {shop}")
    after = site.once()
    assert {name for name, value in after.items() if value == -7} == mine


def test_a_database_that_is_not_wanted_any_more_is_as_good_as_dropped(
    site: Site, cluster: Cluster, shop: str
) -> None:
    site.target("postgres", "main", cluster.dsn(), f'databases = ["postgres", "{shop}"]')
    site.statsd_options = "on_vanish = -7"
    mine = {name for name in site.once() if f".{shop}." in name}
    site.target("postgres", "main", cluster.dsn(), 'databases = ["postgres"]')
    assert {name for name, value in site.once().items() if value == -7} == mine


def test_a_database_that_lets_nobody_in_keeps_its_tables(
    site: Site, cluster: Cluster, shop: str
) -> None:
    site.target("postgres", "main", cluster.dsn(), f'databases = ["postgres", "{shop}"]')
    before = {n: v for n, v in site.once().items() if f".tables.{shop}." in n}
    assert before
    file = cluster.data / "pg_hba.conf"
    rules = file.read_text()
    file.write_text(f"local {shop} all reject\nhost {shop} all all reject\n{rules}")
    cluster.reload()
    try:
        deadline = time.monotonic() + 10
        while site.once()["pgstats.self.poll.main.databases_refused"] != 1:
            assert time.monotonic() < deadline
        after = site.once()
    finally:
        file.write_text(rules)
        cluster.reload()
    assert after["pgstats.self.ship.retired_series"] == 0
    assert {n: v for n, v in after.items() if n in before} == before


def test_a_table_that_leaves_the_budget_is_gone(site: Site, cluster: Cluster, shop: str) -> None:
    """It goes on in `_other`, so that its own gauges would count it twice."""
    more = f'databases = ["{shop}"]\ntables = 1'
    site.target("postgres", "main", cluster.dsn(), more)
    site.statsd_options = "on_vanish = -7"
    quiet = "ALTER TABLE {0} SET (autovacuum_enabled = off); DELETE FROM {0}"
    start = f"pgstats.postgres.main.tables.{shop}"
    one, two = f"{start}.public.one.n_dead_tup", f"{start}.public.two.n_dead_tup"
    cluster.psql(quiet.format("one"), shop)
    before = site.once()
    assert before[one] == 1
    assert two not in before
    cluster.psql("INSERT INTO two SELECT generate_series(1, 500)", shop)
    cluster.psql(quiet.format("two"), shop)
    after = site.once()
    assert after[two] == 501
    assert after[one] == -7
    assert after[f"{start}._other._other.n_dead_tup"] == 1


def test_a_slot_that_is_dropped_is_gone(site: Site, cluster: Cluster) -> None:
    site.target("postgres", "main", cluster.dsn(), 'databases = ["postgres"]')
    site.statsd_options = "on_vanish = -7"
    cluster.psql("SELECT pg_create_physical_replication_slot('retired', true)")
    try:
        before = site.once()
    finally:
        cluster.psql("SELECT pg_drop_replication_slot('retired')")
    mine = {name for name in before if ".slots.retired." in name}
    assert mine
    assert {name for name, value in site.once().items() if value == -7} >= mine


@pytest.fixture
def fresh(scratch: Scratch, cluster: Cluster) -> Iterator[Bouncer]:
    """A PgBouncer without any pool."""
    name = f"fresh{time.monotonic_ns()}"
    with Bouncer(
        scratch,
        {"*": cluster.address},
        admin_users=["pgadmin"],
        stats_users=["stats"],
        name=name,
    ) as bouncer:
        yield bouncer


def test_a_pool_is_gone_but_not_while_its_pgbouncer_is_down(site: Site, fresh: Bouncer) -> None:
    site.target("pgbouncer", "front", fresh.dsn("pgbouncer", "stats"))
    site.statsd_options = "on_vanish = -7"
    fresh.psql("SELECT 1", "postgres")
    site.once()
    before = site.once()  # rates need a second poll
    mine = {n for n in before if ".postgres." in n.removeprefix("pgstats.pgbouncer.front")}
    groups = ("pools", "stats", "databases")
    assert {name.split(".")[3] for name in mine} >= set(groups)
    assert any(name.endswith("queries_per_second") for name in mine)
    fresh.stop()
    down = site.once(code=69)
    assert down["pgstats.pgbouncer.front.up"] == 0
    assert {n: down[n] for n in mine} == {n: before[n] for n in mine}
    assert down["pgstats.self.ship.retired_series"] == 0
    fresh.start()
    after = site.once()
    assert after["pgstats.pgbouncer.front.up"] == 1
    # Before 1.19 nothing says that a process which is up is not paused: the code is taken back.
    code = {"pgstats.pgbouncer.front.state.code"} - set(before)
    assert {name for name, value in after.items() if value == -7} == mine | code
    fresh.psql("SELECT 1", "postgres")
    back = site.once()
    assert back["pgstats.pgbouncer.front.pools.postgres.postgres.cl_active"] == 0


def test_the_daemon_retires_a_pool_after_a_restart_of_its_pgbouncer(
    site: Site, fresh: Bouncer
) -> None:
    site.target("pgbouncer", "front", fresh.dsn("pgbouncer", "stats"))
    site.statsd_options = "on_vanish = -7"
    fresh.psql("SELECT 1", "postgres")
    up, pool = "pgstats.pgbouncer.front.up", "pgstats.pgbouncer.front.pools.postgres.postgres"
    with site.running():
        site.wait(lambda found: f"{pool}.sv_idle" in found)
        fresh.stop()
        down = site.wait(lambda found: found[up] == 0)
        assert down[f"{pool}.sv_idle"] >= 0
        fresh.start()
        site.wait(lambda found: found[up] == 1 and found[f"{pool}.sv_idle"] == -7)


@pytest.fixture
def processes(scratch: Scratch, cluster: Cluster) -> Iterator[list[Bouncer]]:
    """Two PgBouncers as two processes behind one port would be."""
    made = [
        Bouncer(scratch, {"*": cluster.address}, stats_users=["stats"], name=f"{n}of2")
        for n in (time.monotonic_ns(), time.monotonic_ns())
    ]
    for bouncer in made:
        bouncer.port = bouncer.settings["listen_port"] = made[0].port
        bouncer.settings["so_reuseport"] = 1
    with made[0], made[1]:
        yield made


def test_a_process_of_a_group_that_is_down_retires_nothing(
    site: Site, processes: list[Bouncer]
) -> None:
    sockets = [process.host for process in processes]
    dsn = processes[0].dsn("pgbouncer", "stats")
    site.target("pgbouncer", "front", dsn, f"sockets = {json.dumps(sockets)}")
    site.statsd_options = "on_vanish = -7"
    processes[1].psql("SELECT 1", "postgres")
    before = site.once()
    whole, second = (
        f"pgstats.pgbouncer.{name}.pools.postgres.postgres.cl_active"
        for name in ("front", "front-2")
    )
    assert before[whole] == before[second] == 0
    processes[1].stop()
    down = site.once(code=1)
    assert down["pgstats.pgbouncer.front-2.up"] == 0
    assert down[whole] == down[second] == 0
    processes[1].start()
    back = site.once()
    assert back[whole] == back[second] == -7


def test_a_process_that_is_no_more_in_its_group_ends_whole(
    site: Site, processes: list[Bouncer]
) -> None:
    sockets = [process.host for process in processes]
    dsn = processes[0].dsn("pgbouncer", "stats")
    site.target("pgbouncer", "front", dsn, f"sockets = {json.dumps(sockets)}")
    mine = {name for name in site.once() if ".front-2." in name}
    site.target("pgbouncer", "front", dsn, f"sockets = {json.dumps(sockets[:1])}")
    after = site.once()
    assert {after[name] for name in mine} == {0}
    assert after["pgstats.pgbouncer.front.up"] == after["pgstats.pgbouncer.front-1.up"] == 1


# Targets that come and go


def test_a_target_that_has_left_the_file_ends_whole(
    site: Site, cluster: Cluster, bouncer: Bouncer
) -> None:
    site.target("pgbouncer", "front", bouncer.dsn("pgbouncer", "stats"))
    site.target("postgres", "main", cluster.dsn(), 'databases = ["postgres"]')
    before = site.once()
    mine = {n for n in before if ".main." in n}
    assert {"pgstats.postgres.main.up", "pgstats.self.poll.main.ok"} <= mine
    options = ("--pgbouncer", bouncer.dsn("pgbouncer", "stats"))
    adhoc = site.once(*options)
    assert adhoc["pgstats.postgres.main.up"] == 1, "options do not say that it is gone"
    del site.targets["main"]
    would = site.would()
    after = site.once()
    assert {after[name] for name in mine} == {0}
    assert {would[name] for name in mine} == {0}
    assert after["pgstats.pgbouncer.front.up"] == 1
    assert not mine & set(site.would())


def test_a_reload_ends_a_target_too(site: Site, cluster: Cluster, bouncer: Bouncer) -> None:
    site.target("pgbouncer", "front", bouncer.dsn("pgbouncer", "stats"))
    site.target("postgres", "main", cluster.dsn(), 'databases = ["postgres"]')
    main, front = "pgstats.postgres.main.up", "pgstats.pgbouncer.front.up"
    with site.running() as daemon:
        site.wait(lambda found: found.get(main) == found.get(front) == 1)
        del site.targets["main"]
        site.target("pgbouncer", "second", bouncer.dsn("pgbouncer", "stats"))
        site.write("500ms")
        daemon.send_signal(signal.SIGHUP)
        found = site.wait(lambda found: found[main] == 0)
        assert found[front] == 1
        assert site.wait(lambda found: found.get("pgstats.pgbouncer.second.up") == 1)


def test_the_tags_of_a_target_that_has_left_are_those_it_had(
    site: Site, bouncer: Bouncer, cluster: Cluster
) -> None:
    site.target("postgres", "main", cluster.dsn(), 'tags = { team = "db" }')
    site.target("pgbouncer", "front", bouncer.dsn("pgbouncer", "stats"))
    site.once("--dialect", "dogstatsd")
    del site.targets["main"]
    done = pgstats("once", "--dry-run", "--dialect", "dogstatsd", "--config", site.write())
    assert "pgstats.postgres.up:0|g|#target:main,team:db\n" in done.stdout


def test_a_last_value_that_nobody_took_is_sent_again(
    site: Site, cluster: Cluster, shop: str
) -> None:
    site.target("postgres", "main", cluster.dsn(), f'databases = ["{shop}"]')
    site.target("postgres", "gone", cluster.dsn(), f'databases = ["{shop}"]')
    site.once()
    start = f"pgstats.postgres.{{}}.tables.{shop}.public.one.vacuum_count"
    site.statsd_options = "on_vanish = -7"
    cluster.psql("DROP TABLE one", shop)
    del site.targets["gone"]
    site.url = f"udp://127.0.0.1:{free_port()}"
    assert site.once(code=69)[start.format("main")] == 0
    site.url = site.statsd.udp
    after = site.once()
    assert after[start.format("main")] == after[start.format("gone")] == -7
    assert after["pgstats.postgres.gone.up"] == -7


# Who answers


def test_a_server_is_known_by_its_start_to_any_role(scratch: Scratch, cluster: Cluster) -> None:
    cluster.psql("CREATE ROLE nobody_special LOGIN")
    plain = Target(POSTGRES, "main", cluster.dsn(user="nobody_special"), databases=("postgres",))
    try:
        first = asker(plain).poll()
        again = asker(Target(POSTGRES, "main", cluster.dsn())).poll()
    finally:
        cluster.psql("DROP ROLE nobody_special")
    assert first.ok
    assert first.identity == again.identity != ""
    with Cluster(scratch, {}, name="other") as other:
        here = Target(POSTGRES, "main", other.dsn())
        identity = asker(here).poll().identity
        assert identity not in ("", first.identity)
        other.restart()
        assert asker(here).poll().identity not in ("", identity)
    assert asker(here).poll().identity == "", "it is down"
