"""The catalogue on every major version of PostgreSQL: `./dev test-full`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgstats.scratch import Cluster
from tests.test_equals_psql import compared, fill
from tests.versions import VERSIONS, scratch_of

pytestmark = pytest.mark.full


@pytest.fixture(params=VERSIONS, ids=lambda major: f"PostgreSQL {major}")
def other(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of that major version."""
    with scratch_of(request.param) as scratch, Cluster(scratch) as cluster:
        assert cluster.psql("SHOW server_version").startswith(request.param)
        yield cluster


def test_every_gauge_equals_what_psql_shows(other: Cluster) -> None:
    fill(other)
    own = compared(other)
    assert own["pgstats.postgres.main.up"] == 1
