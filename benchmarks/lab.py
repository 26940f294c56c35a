"""The servers that everything is measured on: built once, when first asked for."""

from __future__ import annotations

import threading
from contextlib import ExitStack, closing
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg2

from benchmarks.sinks import Counter
from pgstats.catalogue.postgres.heaps import READ, SETTINGS
from pgstats.catalogue.postgres.tables import paged
from pgstats.scratch import Bouncer, Cluster, Scratch

ROOT = Path(__file__).parent.parent
PGSTATS = ROOT / ".cache" / "bench" / "bin" / "pgstats"
PYTHON = PGSTATS.with_name("python")

_SETTINGS = {
    "autovacuum": "off",
    "shared_buffers": "512MB",
    "max_connections": 600,
    "max_locks_per_transaction": 1000,
    "max_wal_size": "8GB",
}
#: One table in five has TOAST, another one in five dead rows.
_TABLES = """DO $$ DECLARE name text; BEGIN FOR i IN {first}..{last} LOOP
    name := 'table_' || lpad(i::text, 6, '0');
    EXECUTE 'CREATE TABLE ' || name || ' (id int PRIMARY KEY, n int'
            || CASE WHEN i % 5 = 1 THEN ', note text' ELSE '' END || ')';
    EXECUTE 'INSERT INTO ' || name || ' SELECT g, g FROM generate_series(1, 10) g';
    IF i % 5 = 0 THEN EXECUTE 'UPDATE ' || name || ' SET n = n + 1'; END IF;
END LOOP; END $$"""
_STEP = 200


class Lab:
    """Servers and what they hold; ``quick`` leaves out the largest."""

    def __init__(self, stack: ExitStack, *, quick: bool) -> None:
        self._stack = stack
        self.quick = quick
        self.scratch = stack.enter_context(Scratch())
        self._filled: set[int] = set()
        self._fronts: dict[int, Bouncer] = {}

    @cached_property
    def cluster(self) -> Cluster:
        """One PostgreSQL for all that asks one."""
        return Cluster(self.scratch, _SETTINGS).start()

    @cached_property
    def sink(self) -> Counter:
        """A receiver of lines that only counts them."""
        return self._stack.enter_context(Counter())

    def tables(self, count: int) -> str:
        """The DSN of a database with so many tables."""
        name = f"t{count}"
        if count not in self._filled:
            self.cluster.psql(f"CREATE DATABASE {name}")
            cuts = [(first, min(count, first + _STEP)) for first in range(0, count, _STEP)]
            halves = [cuts[::2], cuts[1::2]]
            threads = [threading.Thread(target=self._fill, args=(name, half)) for half in halves]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.cluster.psql("VACUUM ANALYZE pg_class; VACUUM ANALYZE pg_index", name)
            self._filled.add(count)
        return self.cluster.dsn(name)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Those of autovacuum, which heaps are asked for with."""
        with closing(psycopg2.connect(self.cluster.dsn())) as session:
            cursor = session.cursor()
            cursor.execute(f"SELECT {READ}")
            return dict(zip(SETTINGS, *cursor, strict=True))

    def every_table(self) -> str:
        """The SQL of the rows of all tables, in one page."""
        return paged(150000, globs=False) % {"after": 0, "page": 1000000, **self.settings}

    def _fill(self, name: str, cuts: list[tuple[int, int]]) -> None:
        with closing(psycopg2.connect(self.cluster.dsn(name))) as session:
            session.autocommit = True
            for first, end in cuts:
                session.cursor().execute(_TABLES.format(first=first, last=end - 1))

    def pools(self, count: int) -> Bouncer:
        """A PgBouncer with so many pools, each used once; its servers are closed at once."""
        if count not in self._fronts:
            names = [f"database_{number:05d}" for number in range(count)]
            front = Bouncer(
                self.scratch,
                dict.fromkeys(names, f"{self.cluster.address} dbname=postgres"),
                stats_users=["stats"],
                settings={"server_lifetime": 0, "max_client_conn": 1000},
                name=f"pools{count}",
            ).start()
            for name in names:
                with closing(psycopg2.connect(front.dsn(name))) as client:
                    client.autocommit = True
                    client.cursor().execute("SELECT 1")
            self._fronts[count] = front
        return self._fronts[count]

    def write(self, name: str, text: str) -> Path:
        """A file for whoever is measured."""
        path = self.scratch.path / name
        path.write_text(text, "utf-8")
        return path
