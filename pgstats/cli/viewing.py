"""What the commands that show live values share: whom to ask, and the answers as tables.

It is the road of `once` as far as it goes: asked and shaped the same way. Nothing is written.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any

from pgstats.ask import composed
from pgstats.catalogue import COLLECT, QUERIES
from pgstats.cli.cycle import Cycle, poll_all, problems
from pgstats.cli.options import configured
from pgstats.config import Config
from pgstats.errors import ConfigError
from pgstats.model import PGBOUNCER, POSTGRES, SELF, Poll, Query, Table, Target
from pgstats.shape.joined import joined
from pgstats.ship import Paper
from pgstats.state import glanced

_WORDS = {PGBOUNCER: "PgBouncer", POSTGRES: "PostgreSQL"}
#: The ports of both, and what libpq has for one that nobody names.
_PORT = "6432"


def group_of(query: Query) -> str:
    """The name under which a query's numbers are shown: `up` belongs to no group."""
    return query.group or query.metrics[0].name


#: What no poll says: the account of shipping, and jobs of other programs.
ELSEWHERE = ("ship", "job")
#: The families of each group that can be shown.
GROUPS: Mapping[str, tuple[str, ...]] = {
    group: tuple(
        family
        for family in (PGBOUNCER, POSTGRES)
        if any(query.family in (family, SELF) and group_of(query) == group for query in QUERIES)
    )
    for group in dict.fromkeys(map(group_of, QUERIES))
    if group not in ELSEWHERE
}


def viewed(options: Mapping[str, Any], families: Sequence[str]) -> Config:
    """The configuration, with the targets of those families that were asked for alone.

    psql's options name one target. Its family is the one that is asked for; where that may be
    either, a PgBouncer has its usual port or its own database.
    """
    given = {key: options[key] or "" for key in ("host", "port", "dbname")}
    given["user"] = options["username"] or ""
    family = families[0]
    if len(families) > 1 and given["port"] != _PORT and given["dbname"] != PGBOUNCER:
        family = POSTGRES
    if family == PGBOUNCER and not (given["port"] or {"PGPORT", "PGSERVICE"} & set(os.environ)):
        default = composed(**{**given, "port": _PORT})
    else:
        default = composed(**given)
    named = any(given.values())
    whom = {"pgbouncer": (), "postgres": (), family: (default,)} if named else {}
    config = configured({**options, **whom}, (family, default))
    return config._replace(targets=_chosen(config, families, options["names"]))


def _chosen(config: Config, families: Sequence[str], names: Sequence[str]) -> tuple[Target, ...]:
    found = [one for one in config.targets if one.family in families]
    if not found:
        words = " or ".join(_WORDS[family] for family in families)
        raise ConfigError([f"no {words} is configured; --host, --port and so on name one"])
    chosen = [one for one in found if not names or any(fnmatchcase(one.name, n) for n in names)]
    if not chosen:
        there = ", ".join(one.name for one in found)
        words = " or ".join(_WORDS[family] for family in families)
        raise ConfigError([f"no {words} matches {' or '.join(names)}; there are {there}"])
    return tuple(chosen)


def collecting(target: Target, group: str) -> Target:
    """A target that is asked for a group as well, if that is a matter of choice."""
    if target.family != PGBOUNCER or group not in COLLECT or group in target.collect:
        return target
    return target._replace(collect=(*target.collect, group))


class View:
    """The polls of a configuration as tables; what it remembers of them it keeps for itself."""

    def __init__(self, config: Config) -> None:
        self._cycle = Cycle(config, glanced(config.state), lambda _: None, Paper())

    def tables(self, polls: Sequence[Poll], groups: Sequence[str]) -> list[Table]:
        """The tables of those groups."""
        named = [
            (one.target.title, frame) for one in self._cycle.shaped(polls) for frame in one.frames
        ]
        return [
            joined(group, [(name, f) for name, f in named if group_of(f.query) == group])
            for group in groups
        ]


def trouble(polls: Sequence[Poll]) -> dict[str, str]:
    """What is wrong with each target, "" where nothing is."""
    return {
        name: "; ".join(map(str, problems(list(several))))
        for name, several in groupby(polls, lambda poll: poll.target.name)
    }


class Poller(threading.Thread):
    """Polls again and again, so that keys and signals are answered meanwhile.

    ``told`` is called after each; ``polls`` are the newest.
    """

    def __init__(self, targets: Sequence[Target], every: float, told: Callable[[], None]) -> None:
        super().__init__(name="poller", daemon=True)
        self._targets, self._every, self._told = targets, every, told
        self.polls: Sequence[Poll] = ()

    def run(self) -> None:
        """Poll for ever; the end of the process ends it."""
        while True:
            started = time.monotonic()
            self.polls = poll_all(self._targets)
            self._told()
            time.sleep(max(0.0, started + self._every - time.monotonic()))
