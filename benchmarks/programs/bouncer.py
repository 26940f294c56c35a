"""The floor for a PgBouncer, by hand: every number of STATS and POOLS. Arguments: DSN, port."""

import sys

import psycopg2
import psycopg2.extensions
from by_hand import send, wire

connection = psycopg2.connect(sys.argv[1])
connection.autocommit = True
connection.string_types[1700] = psycopg2.extensions.LONGINTEGER
cursor = connection.cursor()
to = wire(sys.argv[2])
for _ in sys.stdin:
    lines = []
    for command, labels in (("STATS", 1), ("POOLS", 2)):
        cursor.execute(f"SHOW {command}")
        names = [column.name for column in cursor.description]
        for row in cursor.fetchall():
            path = f"p.{command}.{'.'.join(row[:labels])}."
            lines += [
                f"{path}{name}:{value}|g"
                for name, value in zip(names[labels:], row[labels:], strict=True)
                if value.__class__ is int
            ]
    send(to, "\n".join(lines))
    print(len(lines), flush=True)
