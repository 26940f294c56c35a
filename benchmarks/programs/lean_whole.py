"""The floor of a whole cycle, by hand: fetch, an f-string a number, packets.

Arguments: DSN, port, file of SQL, then the columns that are gauges. No configuration, no errors, no
names that need care, no pace, nothing remembered.
"""

import pathlib
import socket
import sys

import psycopg2

connection = psycopg2.connect(sys.argv[1])
connection.autocommit = True
cursor = connection.cursor()
cursor.execute("SET stats_fetch_consistency = none; SET jit = off; SET search_path = ''")
sql = pathlib.Path(sys.argv[3]).read_text()
database = connection.info.dbname
wire = socket.socket(type=socket.SOCK_DGRAM)
wire.connect(("127.0.0.1", int(sys.argv[2])))
for _ in sys.stdin:
    cursor.execute(sql)
    columns = [column.name for column in cursor.description]
    gauges = [(columns.index(name), name) for name in sys.argv[4:]]
    lines = []
    for row in cursor.fetchall():
        path = f"pgstats.postgres.main.tables.{database}.{row[0]}.{row[1]}"
        lines += [f"{path}.{name}:{row[at]}|g" for at, name in gauges if row[at] is not None]
    text = "\n".join(lines).encode()
    at = 0
    while at < len(text):
        end = text.rfind(b"\n", at, at + 1401) if len(text) - at > 1400 else len(text)
        wire.send(text[at:end])
        at = end + 1
    print(len(lines), flush=True)
