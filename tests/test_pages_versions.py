"""All tables in pages, on every major version of PostgreSQL: `./dev test-full`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgstats.scratch import Scratch
from tests.test_pages import *  # noqa: F403 - the same tests, on other servers
from tests.versions import VERSIONS, scratch_of

pytestmark = pytest.mark.full


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda major: f"PostgreSQL {major}")
def scratch(request: pytest.FixtureRequest) -> Iterator[Scratch]:
    """Instead of the machine's own version, every other one."""
    with scratch_of(request.param) as scratch:
        yield scratch
