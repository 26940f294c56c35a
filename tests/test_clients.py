"""SHOW CLIENTS and SHOW SERVERS on a real PgBouncer: what connections have in common, counted."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import psycopg2
import pytest

from pgstats.ask import asker
from pgstats.model import PGBOUNCER, Target
from pgstats.scratch import Bouncer, Cluster, Scratch
from tests.test_derived import until, values


@pytest.fixture(scope="module")
def crowd(scratch: Scratch, cluster: Cluster) -> Iterator[Bouncer]:
    """A PgBouncer with two servers that lets clients come by TLS."""
    if not shutil.which("openssl"):
        pytest.fail("openssl makes the certificate: ./dev test installs it")
    key, certificate = cluster.data / "crowd.key", cluster.data / "crowd.crt"
    words = "req -new -x509 -days 2 -nodes -subj /CN=localhost -newkey rsa:2048"
    scratch.run(["openssl", *words.split(), "-keyout", key, "-out", certificate])
    tls = {"sslmode": "allow", "key_file": key, "cert_file": certificate}
    with Bouncer(
        scratch,
        {"shop": f"{cluster.address} dbname=postgres"},
        stats_users=["stats"],
        admin_users=["pgadmin"],
        settings={"default_pool_size": 2} | {f"client_tls_{k}": v for k, v in tls.items()},
        name="crowd",
    ) as bouncer:
        yield bouncer


def test_connections_are_counted_by_what_they_have_in_common(crowd: Bouncer) -> None:
    dsn = crowd.dsn("pgbouncer", "stats")
    target = Target(PGBOUNCER, "front", dsn, collect=("clients", "servers"))

    def found() -> dict[str, float]:
        poll = asker(target).poll()
        assert poll.ok, poll.problems()
        return values(poll.frames)

    with ExitStack() as stack:

        def client(name: str, **more: Any) -> Any:
            dsn = crowd.dsn("shop", application_name=name, **more)
            one = stack.enter_context(closing(psycopg2.connect(dsn)))
            one.autocommit = name != "job"
            one.cursor().execute("SELECT 1")
            return one

        web = [client("web", host=crowd.host) for _ in range(3)]
        client("web", host="127.0.0.1", sslmode="require")
        client("job")  # in a transaction: its server cannot be closed yet
        crowd.console("RECONNECT", "pgadmin")
        asking = threading.Thread(target=web[0].cursor().execute, args=("SELECT pg_sleep(3)",))
        asking.start()
        oldest = "clients.shop.postgres.active.web.oldest_wait_seconds"
        until(lambda: found().get(oldest, 0) > 1)
        seen = found()
        asking.join()
    # From 1.25 on those that ask nothing are in a state of their own.
    mine = [f"clients.shop.postgres.{state}.web." for state in ("active", "idle")]
    counts = [seen.get(f"{one}count", 0) for one in mine]
    shares = [seen.get(f"{one}tls_ratio", 0) for one in mine]
    assert sum(counts) == 4
    assert sum(n * share for n, share in zip(counts, shares, strict=True)) == pytest.approx(
        1, abs=1e-3
    )
    assert seen["clients.shop.postgres.active.web.close_needed"] == 0
    assert seen["clients.shop.postgres.active.job.count"] == 1
    assert seen["clients.shop.postgres.active.job.oldest_wait_seconds"] == 0
    assert seen["servers.shop.postgres.active.job.close_needed"] == 1
    assert seen["servers.shop.postgres.active.web.close_needed"] == 0
    assert not [name for name in seen if ".pgbouncer." in name]
