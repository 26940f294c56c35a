"""An application of Celery with tasks measured in every way, run in a process of its own.

``python -c 'from tests.celery_jobs import main; main("solo", FOLDER)'`` works them off, prints what
they returned and ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

from celery import Celery, Task, shared_task
from celery.exceptions import Ignore
from celery.signals import worker_ready

from pgstats import instrument

app = Celery("shop", broker="memory://", set_as_current=True)


@app.task
@instrument
def below(a: int, b: int = 2) -> int:
    """Adds."""
    return a + b


@instrument
@app.task(name="shop.above")
def above(a: int, b: int = 2) -> int:
    """Adds."""
    return a + b


@instrument(name="shop.renamed")
@app.task
def given() -> str:
    return "given"


@instrument
@shared_task(name="shop.shared_above")
def shared_above() -> str:
    return "shared"


@shared_task(name="shop.shared_below")
@instrument("shop.shared_below")
def shared_below() -> str:
    return "shared"


@instrument
@app.task(name="shop.failing")
def failing() -> None:
    raise ValueError("no")


@instrument
@app.task(name="shop.again", bind=True, max_retries=2)
def again(self: Any) -> int:
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@instrument
@app.task(name="shop.auto", bind=True, autoretry_for=(OSError,), retry_kwargs={"countdown": 0})
def auto(self: Any) -> int:
    if self.request.retries < 1:
        raise OSError("once")
    return int(self.request.retries)


@instrument
@app.task(name="shop.ignored")
def ignored() -> None:
    raise Ignore


@instrument
class Importer(Task):  # type: ignore[misc]
    """Imports."""

    name = "shop.importer"

    def run(self, count: int) -> int:
        """Only counts."""
        return count


@instrument
class Base(Task):  # type: ignore[misc]
    """What other tasks are made from."""

    def run(self, count: int) -> int:
        return count


@instrument
class Derived(Base):
    """Decorated as its base is, and calls that."""

    name = "shop.derived"

    def run(self, count: int) -> int:
        return super().run(count) + 1


class Unnamed(Base):
    """Is called by its class."""


@app.task(base=Base, name="shop.based")
def based() -> str:
    return "based"


importer, derived, unnamed = map(app.register_task, (Importer(), Derived(), Unnamed()))


def produce() -> dict[str, object]:
    """Have every task run, some twice; what they return."""
    ignored.delay()
    sent = {
        "below": below.delay(1),
        "above": above.delay(1, b=5),
        "given": given.delay(),
        "shared_above": shared_above.delay(),
        "shared_below": shared_below.delay(),
        "again": again.delay(),
        "auto": auto.delay(),
        "importer": importer.delay(3),
        "derived": derived.delay(3),
        "unnamed": unnamed.delay(4),
        "based": based.delay(),
        "failing": failing.delay(),
    }
    below.apply(args=(7,))  # in this process
    found: dict[str, object] = {}
    for name, result in sent.items():
        value = result.get(timeout=60, propagate=False, disable_sync_subtasks=False)
        found[name] = repr(value) if isinstance(value, Exception) else value
    try:
        below.delay(1, 2, 3)
    except TypeError:
        found["arguments"] = "checked"
    return found


def main(pool: str, folder: str) -> None:
    """Be the worker, and its only client."""
    app.conf.update(
        result_backend=f"file://{folder}",
        worker_redirect_stdouts=False,
        worker_max_tasks_per_child=3,  # then it ends, right after its task and without much ado
    )
    if pool == "prefork":  # its processes share no memory to send retries through
        options = {f"data_folder_{way}": folder for way in ("in", "out")}
        app.conf.update(
            broker_url="filesystem://",
            broker_transport_options=options | {"control_folder": folder},
        )

    def work() -> None:
        sys.stdout.write(json.dumps(produce()) + "\n")
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGTERM)

    def begin(**_: object) -> None:
        threading.Thread(target=work, daemon=True).start()

    worker_ready.connect(begin, weak=False)
    quiet = {"without_gossip": True, "without_mingle": True, "without_heartbeat": True}
    app.Worker(pool=pool, concurrency=2, loglevel="ERROR", quiet=True, **quiet).start()
