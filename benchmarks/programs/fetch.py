"""The floor of asking: execute and fetchall on a kept connection. Arguments: DSN, file of SQL."""

import pathlib
import sys

import psycopg2

connection = psycopg2.connect(sys.argv[1])
connection.autocommit = True
cursor = connection.cursor()
cursor.execute("SET stats_fetch_consistency = none; SET jit = off; SET search_path = ''")
sql = pathlib.Path(sys.argv[2]).read_text()
for _ in sys.stdin:
    cursor.execute(sql)
    rows = cursor.fetchall()
    print(len(rows), flush=True)
