"""Standbys and their slots as holders of the horizon: each by its name, and gone when they are."""

from __future__ import annotations

import pytest

from pgstats.scratch import Cluster
from tests.test_why_gauges import ages, server, shown
from tests.test_why_horizon import SNAPSHOT, fed_back, standby
from tests.why import session, until, value

__all__ = ["server"]


@pytest.mark.parametrize("slot", [None, "fed"])
def test_a_standby_with_feedback_and_the_slot_it_leaves_behind(
    server: Cluster, slot: str | None
) -> None:
    kind = "slot_xmin" if slot else "standby"
    view = "xmin) FROM pg_replication_slots" if slot else "backend_xmin) FROM pg_stat_replication"
    with standby(server, slot) as other, session(other, *SNAPSHOT) as reader:
        fed_back(server, other, reader)
        for _ in range(2):
            server.psql("INSERT INTO elsewhere VALUES (1)")
        before = float(value(server, f"SELECT age({view}"))
        found = ages(shown(server))
        after = float(value(server, f"SELECT age({view}"))
        assert set(found) == {kind, "oldest"}
        assert 2 <= before <= found[kind] == found["oldest"] <= after
    if slot:
        until(lambda: server.psql("SELECT active FROM pg_replication_slots") == "f")
        assert set(ages(shown(server))) == {kind, "oldest"}, "with nobody behind it"
        server.psql(f"SELECT pg_drop_replication_slot('{slot}')")
    until(lambda: not ages(shown(server)))
