"""Questions of the user's own: a SELECT of the configuration becomes gauges and harms nobody."""

from __future__ import annotations

import json
import resource
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from pgstats.ask.postgres import PostgresAsker
from pgstats.ask.proof import prove
from pgstats.config import Config, load
from pgstats.config.showing import show
from pgstats.config.statement import select
from pgstats.config.values import Wrong
from pgstats.errors import ConfigError
from pgstats.model import POSTGRES, Metric, Poll, Query, Question, Target
from pgstats.scratch import Bouncer, Cluster, Scratch
from tests.program import gauges, pgstats
from tests.test_ask_postgres import column, database, poll
from tests.test_config import parse_dsn

__all__ = ["database"]

MAIN = '[[postgres]]\nname = "main"\ndsn = "host=10.0.0.7"\n'
JOBS = '[[query]]\nname = "jobs"\nsql = "SELECT 1 AS waiting"\nmetrics = ["waiting"]\n'


def question(
    sql: str, *metrics: str, labels: tuple[str, ...] = (), name: str = "own", **more: object
) -> Question:
    shared = {"database": ""} if more.get("databases") else {}
    query = Query(
        POSTGRES,
        name,
        tuple(Metric(metric, "") for metric in metrics or ("n",)),
        sql=sql,
        labels=shared | {label: label for label in labels},
        ignored=("*",),
    )
    return Question(query, **more)  # type: ignore[arg-type]


def target(cluster: Cluster, *questions: Question, **more: object) -> Target:
    given: dict[str, object] = {"databases": ("postgres",), "questions": questions} | more
    return Target(POSTGRES, "main", cluster.dsn(), **given)  # type: ignore[arg-type]


def failed(found: Poll) -> dict[str, str]:
    return {one.stage: f"{one.reason}: {one.message} ({one.remedy})" for one in found.failures}


# What the file says


def configured(text: str, folder: Path, **options: object) -> Config:
    path = folder / "pgstats.toml"
    path.write_text(text)
    return load(str(path), options, {"E": "x"}, parse_dsn)


def faults(text: str, folder: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        configured(text, folder)
    return [fault.partition("pgstats.toml:")[2] for fault in caught.value.faults]


def test_a_question_arrives_with_all_it_has(tmp_path: Path) -> None:
    text = f"""{MAIN}
        [[postgres]]
        name = "second"
        dsn = "host=10.0.0.8"
        [[query]]
        name = "jobs"
        sql = '''
        SELECT queue, '${{E}}%' AS e, count(*) AS waiting -- of all; really
          FROM app.jobs GROUP BY 1 ; -- done'''
        labels = ["queue"]
        metrics = ["waiting"]
        target = "main"
        databases = ["app_*"]
        interval = "5m"
        rows = 7
        [[query]]
        name = "every"
        sql = "TABLE public.numbers"
        metrics = ["n"]
        """
    config = configured(text, tmp_path)
    main, second = config.targets
    jobs, every = main.questions
    assert second.questions == (every,)
    assert (jobs.databases, jobs.interval, jobs.rows) == (("app_*",), 300.0, 7)
    assert (every.databases, every.interval, every.rows) == ((), 0.0, 100)
    assert jobs.query.sql.startswith("SELECT queue, 'x%' AS e")
    assert jobs.query.sql.endswith("GROUP BY 1")
    assert (jobs.query.family, jobs.query.group) == (POSTGRES, "jobs")
    assert dict(jobs.query.labels) == {"database": "", "queue": "queue"}
    assert [metric.name for metric in jobs.query.metrics] == ["waiting"]
    shown = "\n".join(show(config))
    assert "[[query]]" in shown
    assert "${E}" in shown, "what a variable held stays a secret"


def test_targets_of_the_command_line_are_asked_too(tmp_path: Path) -> None:
    named = JOBS.replace('"jobs"', '"named"') + 'target = "main"\n'
    config = configured(MAIN + JOBS + named, tmp_path, postgres=("host=10.0.0.9",))
    (only,) = config.targets
    assert [one.query.group for one in only.questions] == ["jobs"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('name = "jobs"', "query.name: is missing: for example"),
        ('name = "tables"', 'query.name: "tables" is a group of pgstats itself'),
        ('name = "UP"', 'query.name: "UP" is a group of pgstats itself'),
        ('name = "a.b"', "query.name: must be a string of letters"),
        ('sql = "SELECT 1 AS waiting"', "query.sql: is missing: for example"),
        ('sql = "DELETE FROM t"', "query.sql: must be a SELECT"),
        ('sql = "SELECT 1; SELECT 2"', "query.sql: must be one statement"),
        ('metrics = ["waiting"]', "query.metrics: is missing: which columns"),
        ('metrics = ["Total"]', "query.metrics: must be columns of lower-case letters"),
        ('metrics = ["a", "a"]', "query.metrics: must name each column once"),
        ('metrics = "a"', "query.metrics: must be a list of strings"),
        ('labels = ["target"]', 'query.labels: "target" is a key that pgstats or a receiver'),
        ('labels = ["le"]', 'query.labels: "le" is a key that pgstats or a receiver'),
        ('labels = ["waiting"]', 'query.metrics: "waiting" is among labels too'),
        ('labels = ["env"]', 'query.labels: "env" is a tag of the target main already'),
        ('target = "mian"', 'query.target: "mian" is no [[postgres]]; there are main'),
        ('target = ["front"]', 'query.target: "front" is a PgBouncer, whose console takes no'),
        ('labels = ["database"]\ndatabases = ["*"]', 'query.labels: "database" is added by'),
        ("rows = 0", "query.rows: must be a whole number from 1 to 10000"),
        ('interval = "often"', "query.interval: must be a duration"),
        ('lables = ["a"]', "query.lables: unknown key; .*"),
        ('target = "main"\n[[query]]\nname = "jobs"\nsql = "SELECT 1 AS a"\nmetrics = ["a"]',
         'query.name: "jobs" is already the name of the question at '),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_question_is_told(line: str, told: str, tmp_path: Path) -> None:
    front = '[[pgbouncer]]\nname = "front"\ndsn = "host=10.0.0.8"\n[statsd]\ntags = {env = "x"}\n'
    lines = JOBS.splitlines()
    if "is missing" in told:
        lines.remove(line)
    else:
        key = line.partition(" ")[0]
        lines = [one for one in lines if not one.startswith(f"{key} ")] + [line]
    (found,) = faults("\n".join([front + MAIN, *lines]), tmp_path)
    assert found.partition(": ")[2].startswith(told.removesuffix(".*"))


@pytest.mark.parametrize("text", ['query = "SELECT 1"', '[query]\nsql = "SELECT 1"'])
def test_the_form_of_a_question_is_told(text: str, tmp_path: Path) -> None:
    assert faults(f"{text}\n{MAIN}", tmp_path)[0].startswith("1: query: must be ")


def test_a_question_needs_somebody_to_answer_it(tmp_path: Path) -> None:
    (found,) = faults('[[pgbouncer]]\nname = "front"\ndsn = ""\n' + JOBS, tmp_path)
    assert found == "5: query.name: there is no [[postgres]] to ask"


ONE = [
    "SELECT 1",
    "select ';' AS a, \";)\" FROM t",
    r"SELECT E'\';', 1",
    "SELECT E'a'\n  -- between\n '\\';'",
    "SELECT fooe';'",
    "SELECT $$;($$, $a$ $$; $a$, a$b$, $1",
    "SELECT 1 /* ; /* ) */ ; */ + 1",
    "-- first; a word\nSELECT 1 -- last; word",
    "(SELECT 1) UNION (SELECT 2)",
    "WITH a AS (SELECT 1) TABLE a",
    "VALUES (1), (2)",
    "SELECT 'ä;' AS ö",
]


@pytest.mark.parametrize("sql", ONE)
def test_one_select_is_left_as_it_is(sql: str) -> None:
    assert select(sql) == sql
    assert select(f" {sql}\n ;\n; ") == sql if "-- last" not in sql else True


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELECT 1; DROP TABLE t", "one statement"),
        ("SELECT '\\'; DROP TABLE t --'", "one statement"),
        ("SELECT 1) AS a; SELECT (1", "one statement"),
        ("SELECT 1) AS a, (SELECT 1", "a bracket"),
        ("SELECT (1", "a bracket"),
        ("SELECT '1", "an opening quote"),
        ('SELECT "1', "an opening quote"),
        ("SELECT 1 /* /* */", "a comment"),
        ("", "a SELECT"),
        ("-- SELECT 1", "a SELECT"),
        ("UPDATE t SET a = 1", "a SELECT"),
        ("SHOW work_mem", "a SELECT"),
        ("selected", "a SELECT"),
    ],
)
def test_what_is_not_one_select_is_refused(sql: str, told: str) -> None:
    with pytest.raises(Wrong, match=told):
        select(sql)


# What the server answers


def test_numbers_of_every_kind_become_gauges(cluster: Cluster) -> None:
    sql = (
        "SELECT 1::smallint AS a, 2.5::numeric AS b, true AS c, ' 7 ' AS d, 'NaN'::float8 AS e,"
        " NULL AS f, 0 AS g, '1e3' AS h, 'x' AS unused"
    )
    found = poll(target(cluster, question(sql, *"abcdefgh")))
    assert found.ok, found.failures
    numbers = {name: column(found, "own", name)[()] for name in "abcdfgh"}
    assert numbers == {"a": 1, "b": 2.5, "c": 1, "d": 7, "f": None, "g": 0, "h": 1000}
    lines = gauges_of(found)
    assert lines["p.postgres.main.own.g"] == 0
    assert not {"p.postgres.main.own.e", "p.postgres.main.own.f"} & set(lines)


def gauges_of(found: Poll) -> dict[str, float]:
    from pgstats.spell import DIALECTS, Speller  # noqa: PLC0415

    return gauges(Speller(DIALECTS["plain"], "p").spell(*found.frames))


def test_labels_tell_rows_apart(cluster: Cluster) -> None:
    sql = "SELECT * FROM (VALUES ('a', 1, 10), ('b', 2, 20), (NULL, 3, 30)) v(queue, shard, n)"
    found = poll(target(cluster, question(sql, "n", labels=("queue", "shard"))))
    assert column(found, "own", "n") == {("a", "1"): 10, ("b", "2"): 20, ("none", "3"): 30}


def test_rows_that_come_later_need_labels(cluster: Cluster) -> None:
    cluster.psql("CREATE TABLE queues (n int); INSERT INTO queues VALUES (1)")
    try:
        asked = question("SELECT n FROM public.queues")
        with closing(PostgresAsker(target(cluster, asked))) as asks:
            assert column(asks.poll(), "own", "n") == {(): 1}
            cluster.psql("INSERT INTO queues VALUES (2)")
            (twice,) = asks.poll().failures
            assert "several rows, and no labels" in twice.message
    finally:
        cluster.psql("DROP TABLE queues")


@pytest.mark.parametrize("databases", [(), ("postgres",)])
def test_labels_may_change_from_poll_to_poll(databases: tuple[str, ...], cluster: Cluster) -> None:
    """Those that are the last poll's are the same objects; all others are looked at."""
    sql = "SELECT queue, shard, n FROM public.queues"
    asked = question(sql, "n", labels=("queue", "shard"), databases=databases)
    shared = databases
    cluster.psql("CREATE TABLE queues (queue text, shard text, n int)")
    try:
        with closing(PostgresAsker(target(cluster, asked))) as asks:

            def answer(*rows: str) -> Poll:
                cluster.psql(f"TRUNCATE queues; INSERT INTO queues VALUES {', '.join(rows)}")
                return asks.poll()

            def labels(found: Poll) -> Sequence[Sequence[object]]:
                return next(f.labels for f in found.frames if f.query is asked.query)

            first = answer("('a', 'x', 1)", "('b', 'x', 2)")
            again = answer("('a', 'x', 3)", "('b', 'x', 4)")
            assert column(first, "own", "n") == {(*shared, "a", "x"): 1, (*shared, "b", "x"): 2}
            assert column(again, "own", "n") == {(*shared, "a", "x"): 3, (*shared, "b", "x"): 4}
            assert all(a is b for a, b in zip(labels(first)[-2:], labels(again)[-2:], strict=True))
            other = answer("('a', 'x', 5)", "('b', 'y', 6)", "(NULL, 'y', 7)")
            rows = {(*shared, "a", "x"): 5, (*shared, "b", "y"): 6, (*shared, "none", "y"): 7}
            assert column(other, "own", "n") == rows
            (twice,) = answer("('a', 'x', 8)", "('a', 'x', 9)").failures
            assert "several rows of the answer have the same queue, shard" in twice.message
            assert column(answer("('a', 'x', 1)"), "own", "n") == {(*shared, "a", "x"): 1}
    finally:
        cluster.psql("DROP TABLE queues")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) AS n FROM pg_class WHERE relname LIKE 'pg%' AND 7 % 2 = 1 -- 100 %s",
        "SELECT 1 AS n, '%(a)s {columns} {}' AS unused /* %d */",
        "(SELECT 1 AS n ORDER BY 1 LIMIT 5)",
        "WITH a AS (SELECT 1 AS n) SELECT * FROM a",
    ],
)
def test_sql_is_sent_as_it_stands(sql: str, cluster: Cluster) -> None:
    found = poll(target(cluster, question(sql)))
    assert found.ok, found.failures
    assert column(found, "own", "n")[()] >= 1


@pytest.mark.parametrize(
    ("sql", "labels", "told"),
    [
        ("SELECT 1 AS m, 2 AS o", (), "other: the answer has no column n; it has m, o .*AS"),
        ("SELECT 1 AS n", ("q",), "other: the answer has no column q; it has n "),
        ("SELECT 1 AS n, 2 AS n", (), "two columns of the answer have the same name"),
        ("SELECT now() AS n", (), r"n holds .* no number .*extract\(epoch FROM now\(\) - n\)"),
        ("SELECT interval '1s' AS n", (), r"no number \(write extract\(epoch FROM n\)"),
        ("SELECT 'secret' AS n", (), "no number .*n::numeric"),
        ("SELECT '294276-01-01'::timestamp AS n", (), "no room for.*column::text"),
        ("SELECT 1 AS n UNION ALL SELECT 2", (), "several rows, and no labels"),
        ("SELECT 1 AS n, 'a' AS q UNION ALL SELECT 2, 'a'", ("q",), "have the same q"),
        ("SELECT count(*) AS n FROM jobs", (), '"jobs" does not exist.*public.orders'),
        ("SELECT backlog() AS n", (), "does not exist.*search_path"),
        ("SELECT nextval('public.counter') AS n", (), "read-only.*pgstats only reads"),
        ("WITH d AS (DELETE FROM public.t RETURNING 1) SELECT 1 AS n", (), "WITH clause"),
        ("SELECT 1 AS n FROM public.t FOR UPDATE", (), "read-only transaction"),
        ("SELECT 1/0 AS n", (), "division by zero.*try it in psql"),
        ("SELECT 1 AS n FROM", (), "syntax error.*try it in psql"),
    ],
)
def test_a_question_fails_alone_and_says_why(
    sql: str, labels: tuple[str, ...], told: str, cluster: Cluster, database: str
) -> None:
    cluster.psql("CREATE SEQUENCE public.counter; CREATE TABLE public.t AS SELECT 1 AS i", database)
    good = question("SELECT 5 AS n", name="good")
    asked = (question(sql, "n", labels=labels, name="bad"), good)
    one = Target(POSTGRES, "main", cluster.dsn(database), databases=(database,), questions=asked)
    found = poll(one)
    (message,) = failed(found).values()
    assert list(failed(found)) == ["query bad"]
    import re  # noqa: PLC0415

    assert re.search(told, message), message
    assert "secret" not in message
    assert column(found, "good", "n") == {(): 5}
    assert column(found, "database", "tables")[database,] == 1
    assert cluster.psql("SELECT is_called FROM public.counter", database) == "f"


def test_one_without_rights_is_told_what_to_grant(cluster: Cluster, database: str) -> None:
    cluster.psql("CREATE TABLE public.t (i int); CREATE ROLE looker LOGIN", database)
    asked = question("SELECT count(*) AS n FROM public.t")
    dsn = cluster.dsn(database, "looker")
    found = poll(Target(POSTGRES, "main", dsn, databases=(database,), questions=(asked,)))
    cluster.psql("DROP ROLE looker")
    assert "not_allowed: permission denied for table t (GRANT" in failed(found)["query own"]


def test_an_endless_question_costs_no_more_than_its_share(cluster: Cluster) -> None:
    endless = question("SELECT count(*) AS n FROM generate_series(1, 1e12)", name="endless")
    asks = PostgresAsker(
        target(cluster, endless, question("SELECT 5 AS n", name="good"), timeout=3.0)
    )
    with closing(asks):
        found = asks.poll()
        kept = asks._kept
        again = asks.poll()
    assert "statement timeout (make it faster" in failed(found)["query endless"]
    assert column(found, "good", "n") == {(): 5}
    assert ("postgres",) in column(found, "database", "tables")
    assert found.seconds < 3.0
    assert kept is asks._kept or asks._kept is None, "the connection is kept"
    assert column(again, "good", "n") == {(): 5}
    busy = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%1e12%' AND state = 'active'"
    assert cluster.psql(f"{busy} AND pid <> pg_backend_pid()") == "0"


def test_a_lock_is_not_waited_for(cluster: Cluster, database: str) -> None:
    cluster.psql("CREATE TABLE public.t AS SELECT 1 AS i", database)
    asked = question("SELECT count(*) AS n FROM public.t")
    with closing(psycopg2.connect(cluster.dsn(database))) as other:
        other.cursor().execute("LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE")
        dsn = cluster.dsn(database)
        found = poll(Target(POSTGRES, "main", dsn, databases=(database,), questions=(asked,)))
    told = failed(found)["query own"]
    assert told.startswith("timeout: canceling statement due to lock timeout")
    assert "somebody holds a lock" in told


def test_a_million_rows_are_cut_at_the_server(cluster: Cluster) -> None:
    sql = "SELECT i::text AS label, repeat('x', 100) AS n2, i AS n FROM generate_series(1, 1e6) i"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = poll(target(cluster, question(sql, labels=("label",), rows=3)))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert column(found, "own", "n") == {("1",): 1, ("2",): 2, ("3",): 3}
    assert found.ok
    assert found.counts["cut_queries"] == 1
    (note,) = found.notes
    assert note.startswith("query own: more than 3 rows; the rest is not sent")
    assert after - before < 20_000, "kilobytes"


def test_as_many_rows_as_it_may_are_not_cut(cluster: Cluster) -> None:
    sql = "SELECT i::text AS label, i AS n FROM generate_series(1, 3) i ORDER BY i DESC"
    found = poll(target(cluster, question(sql, labels=("label",), rows=3)))
    assert list(column(found, "own", "n").values()) == [3, 2, 1]
    assert (found.counts["cut_queries"], found.notes) == (0, [])


def test_nothing_that_a_question_sets_outlives_it(cluster: Cluster) -> None:
    sql = (
        "SELECT set_config('work_mem', '1GB', false) AS a,"
        " set_config('search_path', 'public', false) AS b, 1 AS n"
    )
    spy = question("SELECT current_setting('work_mem') = '4MB' AS n", name="spy")
    found = poll(target(cluster, question(sql), spy))
    assert column(found, "own", "n") == {(): 1}
    assert column(found, "spy", "n") == {(): 1}


def test_it_never_writes_whatever_it_sets(cluster: Cluster, database: str) -> None:
    cluster.psql("CREATE SEQUENCE public.counter", database)
    sql = (
        "SELECT nextval('public.counter') AS n"
        " FROM (SELECT set_config('transaction_read_only', 'off', true) OFFSET 0) s(x)"
    )
    dsn = cluster.dsn(database)
    found = poll(Target(POSTGRES, "main", dsn, databases=(database,), questions=(question(sql),)))
    assert "query own" in failed(found)
    assert cluster.psql("SELECT is_called FROM public.counter", database) == "f"


def test_no_transaction_stays_open(cluster: Cluster) -> None:
    asks = PostgresAsker(
        target(cluster, question("SELECT 1 AS n"), question("SELECT 1/0 AS n", name="bad"))
    )
    with closing(asks):
        asks.poll()
        state = cluster.psql(
            "SELECT state, xact_start IS NULL, backend_xmin IS NULL FROM pg_stat_activity"
            " WHERE application_name = 'pgstats'"
        )
    assert state == "idle|t|t"


# Databases, intervals, memory


def test_databases_are_asked_where_the_globs_lead(cluster: Cluster, database: str) -> None:
    cluster.psql("CREATE TABLE public.t AS SELECT 1 AS i", database)
    asked = question(
        "SELECT relname::text AS name, 1 AS n FROM pg_class WHERE relname = 't'",
        labels=("name",),
        databases=("own*",),
    )
    found = poll(target(cluster, asked, databases=("*",)))
    assert found.ok
    assert column(found, "own", "n") == {(database, "t"): 1}
    (frame,) = [one for one in found.frames if one.query.group == "own"]
    assert frame.scope == (database,)
    nowhere = question("SELECT 1 AS n", databases=("nowhere",))
    (note,) = poll(target(cluster, nowhere)).notes
    assert note.startswith("query own: no database that is polled is meant by databases = nowhere")


def test_many_databases_that_fail_alike_are_one_failure(cluster: Cluster, database: str) -> None:
    asked = question("SELECT 1/0 AS n", databases=("*",))
    found = poll(target(cluster, asked, databases=("postgres", database)))
    (stage,) = failed(found)
    assert stage == f"query own in database {min(database, 'postgres')} and 1 more"
    assert len(column(found, "database", "tables")) == 2


def test_at_most_two_connections_are_open(cluster: Cluster, database: str) -> None:
    sql = "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = 'pgstats'"
    asked = question(sql, databases=("*",))
    found = poll(target(cluster, asked, databases=("postgres", database)))
    assert max(column(found, "own", "n").values()) <= 2


def test_one_is_asked_when_it_is_due(cluster: Cluster) -> None:
    rare = question("SELECT 1 AS n", name="rare", interval=3600.0)
    often = question("SELECT 1 AS n", name="often")
    with closing(PostgresAsker(target(cluster, rare, often))) as asks:
        groups = [{frame.query.group for frame in asks.poll().frames} for _ in range(3)]
    assert ["rare" in found for found in groups] == [True, False, False]
    assert all("often" in found for found in groups)


def test_the_poll_nearest_to_the_interval_asks(cluster: Cluster) -> None:
    """At polls every 10 s a question every 8 s is asked at each, whatever the jitter."""
    soon = question("SELECT 1 AS n", interval=0.04)
    with closing(PostgresAsker(target(cluster, soon, interval=10.0))) as asks:
        assert all(column(asks.poll(), "own", "n") for _ in range(2))


def test_a_failure_stays_until_the_question_is_answered(cluster: Cluster) -> None:
    rare = question("SELECT 1/0 AS n", interval=3600.0)
    cut = question("SELECT 1 AS n UNION ALL SELECT 2", labels=(), name="cut", rows=1, interval=60.0)
    with closing(PostgresAsker(target(cluster, rare, cut))) as asks:
        polls = [asks.poll() for _ in range(2)]
    assert [list(failed(found)) for found in polls] == [["query own"], ["query own"]]
    assert [found.counts["cut_queries"] for found in polls] == [1, 1]


def test_a_connection_that_a_question_loses_is_replaced(cluster: Cluster) -> None:
    suicide = question("SELECT pg_terminate_backend(pg_backend_pid())::int AS n", name="suicide")
    asks = PostgresAsker(target(cluster, suicide, question("SELECT 5 AS n", name="good")))
    with closing(asks):
        found = asks.poll()
        again = asks.poll()
    assert "query suicide" in failed(found)
    assert again.up


def test_on_a_standby_questions_are_asked(cluster: Cluster) -> None:
    asks = PostgresAsker(
        target(
            cluster,
            question("SELECT 1 AS n"),
            question("SELECT 2 AS n", name="roams", databases=("*",)),
        )
    )
    with closing(asks):
        asks._greet = lambda *_: True  # type: ignore[method-assign]
        found = asks.poll()
    assert column(found, "own", "n") == {(): 1}
    assert column(found, "roams", "n") == {("postgres",): 2}
    assert not column(found, "tables", "n_dead_tup")


# Behind a pool in transaction mode


@pytest.fixture
def pooled(scratch: Scratch, cluster: Cluster) -> Iterator[Bouncer]:
    """A pool with one server connection that everybody shares in turn."""
    settings = {"default_pool_size": 1, "server_reset_query": ""}
    with Bouncer(scratch, {"*": cluster.address}, settings=settings, name="own") as bouncer:
        yield bouncer


def test_behind_a_pool_nothing_leaks_to_the_next_client(pooled: Bouncer) -> None:
    changes = (
        "SELECT set_config('work_mem', '1GB', false) AS a,"
        " set_config('default_transaction_read_only', 'off', false) AS b, 1 AS n"
    )
    asked = (question(changes), question("SELECT 1/0 AS n", name="bad"))
    all_settings = "SELECT name, setting FROM pg_settings WHERE source = 'session' ORDER BY 1"
    before = pooled.psql(all_settings, "postgres")
    one = Target(
        POSTGRES, "main", pooled.dsn(), pooled=True, databases=("postgres",), questions=asked
    )
    found = poll(one)
    assert list(failed(found)) == ["query bad"]
    assert column(found, "own", "n") == {(): 1}
    assert pooled.psql(all_settings, "postgres") == before
    assert "work_mem" not in before


def test_behind_a_pool_it_is_guarded_all_the_same(pooled: Bouncer) -> None:
    sql = (
        "SELECT current_setting('transaction_read_only') = 'on' AS a,"
        " current_setting('statement_timeout') <> '0' AS b,"
        " current_setting('lock_timeout') = '250ms' AS c,"
        " current_setting('search_path') = '\"\"' AS d"
    )
    asked = (
        question(sql, *"abcd"),
        question("SELECT count(*) AS n FROM generate_series(1, 1e12)", name="endless"),
    )
    one = Target(
        POSTGRES,
        "main",
        pooled.dsn(),
        pooled=True,
        databases=("postgres",),
        timeout=3.0,
        questions=asked,
    )
    found = poll(one)
    assert [column(found, "own", name) for name in "abcd"] == [{(): 1}] * 4
    assert list(failed(found)) == ["query endless"]
    assert pooled.psql("SELECT 1", "postgres") == "1"


# The whole program


def written(folder: Path, cluster: Cluster, *questions: str) -> str:
    path = folder / "pgstats.toml"
    dsn = f'[[postgres]]\nname = "main"\ndsn = "{cluster.dsn()}"\ndatabases = ["postgres"]\n'
    path.write_text('state = "state"\n' + dsn + "\n".join(questions))
    return str(path)


def asked(name: str, sql: str, *more: str) -> str:
    return f'[[query]]\nname = "{name}"\nsql = "{sql}"\nmetrics = ["n"]\n' + "\n".join(more)


TWO = asked("own", "SELECT * FROM (VALUES ('a', -1), ('b', 2)) v(q, n)", 'labels = ["q"]')


def test_dry_run_json_and_check_show_them(cluster: Cluster, tmp_path: Path) -> None:
    bad = asked("bad", "SELECT n FROM nowhere")
    path = written(tmp_path, cluster, TWO, bad)
    dry = pgstats("once", "--config", path, "--dry-run")
    assert gauges(dry.stdout)["pgstats.postgres.main.own.b.n"] == 2
    assert gauges(dry.stdout)["pgstats.self.poll.main.cut_queries"] == 0
    assert "main: query bad: relation" in dry.stderr
    assert dry.returncode == 1
    tagged = pgstats("once", "--config", path, "--dry-run", "--dialect", "dogstatsd")
    assert "pgstats.postgres.own.n:2|g|#target:main,q:b\n" in tagged.stdout
    document = json.loads(pgstats("once", "--config", path, "--json").stdout)
    (frame,) = [one for one in document["targets"][0]["frames"] if one["group"] == "own"]
    assert frame["rows"] == [{"q": "a", "n": -1}, {"q": "b", "n": 2}]
    checked = pgstats("check", "--config", path).stdout
    assert "ok     main: query own: 2 rows\n" in checked
    assert "failed main: query bad: relation" in checked


def test_what_an_answer_lacks_gets_a_last_value_and_what_was_not_asked_none(
    cluster: Cluster, tmp_path: Path
) -> None:
    def once(*questions: str) -> dict[str, float]:
        path = written(tmp_path, cluster, *questions)
        shipped = pgstats("once", "--config", path, "--statsd", "udp://127.0.0.1:9", env={})
        assert "Traceback" not in shipped.stderr
        return gauges(pgstats("once", "--config", path, "--dry-run").stdout)

    name = "pgstats.postgres.main.own"
    broken = asked("own", "SELECT 'a' AS q, 1/0 AS n", 'labels = ["q"]')
    fewer = asked("own", "SELECT 'a' AS q, 7 AS n", 'labels = ["q"]')
    assert once(TWO)[f"{name}.b.n"] == 2
    assert f"{name}.b.n" not in once(broken), "a failure says nothing about the rows"
    path = written(tmp_path, cluster, fewer)
    seen = gauges(pgstats("once", "--config", path, "--dry-run").stdout)
    assert (seen[f"{name}.a.n"], seen[f"{name}.b.n"]) == (7, 0)
    path = written(tmp_path, cluster)
    gone = gauges(pgstats("once", "--config", path, "--dry-run").stdout)
    assert (gone[f"{name}.a.n"], gone[f"{name}.b.n"]) == (0, 0), "nobody asks any more"
    state = f"{tmp_path}/state"
    other = pgstats("once", "--postgres", cluster.dsn(), "--dry-run", "--state", state)
    assert name not in other.stdout


def test_an_interval_holds_across_one_shot_runs(cluster: Cluster, tmp_path: Path) -> None:
    rare, often = asked("rare", "SELECT 7 AS n", 'interval = "1h"'), asked("often", "SELECT 8 AS n")
    path = written(tmp_path, cluster, rare, often)

    def would(*options: str) -> dict[str, float]:
        return gauges(pgstats("once", "--config", path, "--dry-run", *options).stdout)

    name = "pgstats.postgres.main.rare.n"
    assert would()[name] == 7
    pgstats("once", "--config", path, "--statsd", "udp://127.0.0.1:9")
    later = would()
    assert name not in later, "neither asked nor gone"
    assert later["pgstats.postgres.main.often.n"] == 8
    assert would("--no-state")[name] == 7


def test_check_proves_each_of_them(cluster: Cluster) -> None:
    findings = prove(
        target(
            cluster,
            question("SELECT 1 AS n"),
            question("SELECT n FROM x", name="bad"),
            question("SELECT 1 AS n", name="nowhere", databases=("nowhere",)),
        )
    )
    told = [(one.status, one.message) for one in findings]
    assert ("ok", "query own: 1 row") in told
    assert any(status == "failed" and "query bad: " in text for status, text in told)
    assert any(status == "note" and "query nowhere: no database" in text for status, text in told)


def test_a_server_that_goes_away_meanwhile_is_told_once(scratch: Scratch) -> None:
    """A question at work when the server stops fails like any other, and the next poll is down."""
    with Cluster(scratch, name="going") as own:
        slow = question("SELECT 1 AS n FROM pg_sleep(20)")
        asks = PostgresAsker(target(own, slow, timeout=30.0))
        polls: list[Poll] = []
        thread = threading.Thread(target=lambda: polls.append(asks.poll()))
        thread.start()
        active = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(20)%'"
        deadline = time.monotonic() + 30
        while own.psql(f"{active} AND pid <> pg_backend_pid()") == "0":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        own.stop("immediate")
        thread.join(30)
        assert "query own" in failed(polls[0])
        assert asks.poll().down
        asks.close()
