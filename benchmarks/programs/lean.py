"""The floor of the whole job, by hand: fetch, one f-string a row, packets. Arguments: DSN, port.

Two gauges a table; no configuration, no errors, no names that need care, no pace.
"""

import sys

import psycopg2
from by_hand import send, wire

SQL = """SELECT n.nspname, c.relname, pg_stat_get_live_tuples(c.oid), pg_stat_get_dead_tuples(c.oid)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')"""

connection = psycopg2.connect(sys.argv[1])
connection.autocommit = True
cursor = connection.cursor()
cursor.execute("SET stats_fetch_consistency = none; SET jit = off")
to = wire(sys.argv[2])
for _ in sys.stdin:
    cursor.execute(SQL)
    rows = cursor.fetchall()
    text = "\n".join(
        [
            f"p.{s}.{t}.n_live_tup:{live}|g\np.{s}.{t}.n_dead_tup:{dead}|g"
            for s, t, live, dead in rows
        ]
    )
    send(to, text)
    print(2 * len(rows), flush=True)
