"""The floor of a whole cycle, by hand: fetch, an f-string a number, packets.

Arguments: DSN, port, file of SQL, then the columns that are gauges. No configuration, no errors, no
names that need care, no pace, nothing remembered.
"""

import pathlib
import sys

import psycopg2
from by_hand import send, wire

connection = psycopg2.connect(sys.argv[1])
connection.autocommit = True
cursor = connection.cursor()
cursor.execute("SET stats_fetch_consistency = none; SET jit = off; SET search_path = ''")
sql = pathlib.Path(sys.argv[3]).read_text()
database = connection.info.dbname
to = wire(sys.argv[2])
for _ in sys.stdin:
    cursor.execute(sql)
    columns = [column.name for column in cursor.description]
    gauges = [(columns.index(name), name) for name in sys.argv[4:]]
    lines = []
    for row in cursor.fetchall():
        path = f"pgstats.postgres.main.tables.{database}.{row[0]}.{row[1]}"
        lines += [f"{path}.{name}:{row[at]}|g" for at, name in gauges if row[at] is not None]
    send(to, "\n".join(lines))
    print(len(lines), flush=True)
