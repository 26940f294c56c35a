"""The floor for a PgBouncer, by hand: every number of STATS and POOLS. Arguments: DSN, port."""

import socket
import sys

import psycopg2
import psycopg2.extensions

connection = psycopg2.connect(sys.argv[1])
connection.autocommit = True
connection.string_types[1700] = psycopg2.extensions.LONGINTEGER
cursor = connection.cursor()
wire = socket.socket(type=socket.SOCK_DGRAM)
wire.connect(("127.0.0.1", int(sys.argv[2])))
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
    text = "\n".join(lines).encode()
    at = 0
    while at < len(text):
        end = text.rfind(b"\n", at, at + 1401) if len(text) - at > 1400 else len(text)
        wire.send(text[at:end])
        at = end + 1
    print(len(lines), flush=True)
