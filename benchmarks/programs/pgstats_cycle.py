"""What the daemon does of one target at each beat: poll, shape, spell, ship. Arguments: a file."""

import gc
import os
import sys

from pgstats.ask import asker, parse_dsn
from pgstats.cli.cycle import Cycle, polled
from pgstats.config import load
from pgstats.state import State

gc.set_threshold(100_000, 10, 10)  # as `pgstats.cli.main` does
config = load(sys.argv[1], {}, os.environ, parse_dsn)
(target,) = config.targets
one, cycle = asker(target), Cycle(config, State(), print)
for _ in sys.stdin:
    before = cycle.wire.counts["lines"]
    polls = polled(target, one.poll)
    assert not polls[0].problems(), polls[0].problems()
    cycle.ship(polls, 60)
    print(int(cycle.wire.counts["lines"] - before), flush=True)
