"""What is polled in the demonstration: a small shop, busier than its pools."""

from __future__ import annotations

from dataclasses import dataclass

#: Servers for each user of the database: fewer than `CLIENTS`, so that some wait.
POOL_SIZE = 3

#: Run once in the database shop, which has the role pgstats to poll it.
SCHEMA = """
CREATE ROLE pgstats LOGIN;
GRANT pg_monitor TO pgstats;
CREATE ROLE web LOGIN;
CREATE ROLE worker LOGIN;
CREATE ROLE report LOGIN;

CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (id int PRIMARY KEY, state text NOT NULL, changed timestamptz);
CREATE TABLE queue (id bigserial PRIMARY KEY, task text NOT NULL);
INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 5000) AS n;
INSERT INTO orders SELECT n, 'new', now() FROM generate_series(1, 2000) AS n;
INSERT INTO queue (task) SELECT 'task ' || n FROM generate_series(1, 100) AS n;
GRANT ALL ON ALL TABLES IN SCHEMA public TO web, worker, report;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO web, worker, report;
"""


@dataclass(frozen=True, slots=True)
class Client:
    """So many sessions of one user, each running a script of psql without end."""

    user: str
    sessions: int
    script: str


#: The load. The servers mostly sleep, so that it costs little.
CLIENTS = (
    Client(
        "web",
        7,
        r"""UPDATE orders SET state = 'paid', changed = now()
            WHERE id IN (SELECT 1 + (random() * 1999)::int FROM generate_series(1, 5))\;
            SELECT pg_sleep(0.15 + random() * 0.2 * (1 + sin(extract(epoch FROM now()) / 5)))
            \watch 0.1""",
    ),
    Client(
        "worker",
        2,
        r"""INSERT INTO queue (task) SELECT 'task ' || n FROM generate_series(1, 10) AS n\;
            DELETE FROM queue WHERE id IN (SELECT id FROM queue ORDER BY id LIMIT 10)
            \watch 0.3""",
    ),
    # While this runs, no vacuum can remove what the others leave behind.
    Client("report", 1, r"SELECT txid_current(), count(*), pg_sleep(40) FROM orders \watch 15"),
)


def configuration(
    *, statsd: str, pgbouncer: str, postgres: str, state: str, interval: float
) -> str:
    """The file that `pgstats run` gets; the servers are "host=... port=..."."""
    return f"""\
interval = "{interval:g}s"
state    = "{state}"

[statsd]
url = "{statsd}"

[[pgbouncer]]
name = "front"
dsn  = "{pgbouncer} user=pgstats"

[[postgres]]
name      = "main"
dsn       = "{postgres} user=pgstats dbname=shop"
databases = ["shop"]
"""
