"""Names that no user of PgBouncer should have, and that any client can give itself."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from pgstats import catalogue
from pgstats.ask import asker
from pgstats.model import PGBOUNCER, Target
from pgstats.scratch import Bouncer, Cluster, Scratch
from tests.program import gauges, pgstats
from tests.test_derived import values


@pytest.fixture(scope="module")
def open_house(scratch: Scratch, cluster: Cluster) -> Iterator[Bouncer]:
    """A PgBouncer that takes a client for any database."""
    with Bouncer(
        scratch, {"*": cluster.address}, stats_users=["stats"], name="open_house"
    ) as bouncer:
        bouncer.psql("SELECT 1", "postgres")
        yield bouncer


@contextmanager
def client(bouncer: Bouncer, database: bytes, application_name: bytes = b"") -> Iterator[bytes]:
    """A client that says so, byte for byte; yields what PgBouncer answers."""
    said = {b"user": b"postgres", b"database": database, b"application_name": application_name}
    text = b"".join(key + b"\0" + value + b"\0" for key, value in said.items())
    body = struct.pack("!i", 196608) + text + b"\0"
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(30)
        line.connect(f"{bouncer.host}/.s.PGSQL.{bouncer.port}")
        line.sendall(struct.pack("!i", len(body) + 4) + body)
        yield line.recv(4096)


def test_a_name_that_is_not_utf_8_hides_no_other(open_house: Bouncer) -> None:
    """PgBouncer lists the database of a login that failed, and what clients call themselves."""
    with ExitStack() as stack:
        for name in (b"caf\xe9", b"caf\xe8"):
            refused = stack.enter_context(client(open_house, name))
            assert b"does not exist" in refused
        stack.enter_context(client(open_house, b"postgres", b"na\xefve"))
        dsn = open_house.dsn("pgbouncer", "stats")
        poll = asker(Target(PGBOUNCER, "front", dsn, collect=catalogue.COLLECT)).poll()
        whole = pgstats("once", "--dry-run", "--pgbouncer", dsn)
        document = pgstats("once", "--json", "--pgbouncer", dsn)
    assert poll.ok, poll.problems()
    found = values(poll.frames)
    assert found["stats.postgres.total_query_count"] == 1
    assert found[r"pools.caf\xe9.postgres.cl_active"] == 0
    assert found[r"pools.caf\xe8.postgres.cl_active"] == 0
    assert [name for name in found if name.endswith(r".na\xefve.count")]
    assert (whole.returncode, whole.stderr) == (0, "")
    shipped = {name.partition(".pools.")[2] for name in gauges(whole.stdout)}
    assert {"caf_xe8.postgres.cl_waiting", "caf_xe9.postgres.cl_waiting"} <= shipped
    assert json.loads(document.stdout)
