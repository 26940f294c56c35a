"""`pgstats.instrument`, the decorator."""

from __future__ import annotations

import atexit
import functools
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, overload

from pgstats.errors import ShipError
from pgstats.instrumenting import celery
from pgstats.instrumenting.courier import Courier
from pgstats.instrumenting.wrapping import Job, wrapped
from pgstats.ship import wire
from pgstats.spell import DIALECTS, clean, spell_number, template

URL = "udp://127.0.0.1:8125"
VARIABLE = "PGSTATS_STATSD"
LAST_CHANCE = 1.0  # seconds at the end of the process for lines that still wait

J = TypeVar("J")


@overload
def instrument(
    job: str = "",
    /,
    *,
    name: str = "",
    url: str = "",
    prefix: str = "",
    dialect: str = "plain",
    tags: Mapping[str, str] | None = None,
) -> Callable[[J], J]: ...


@overload
def instrument(job: J, /) -> J: ...


def instrument(
    job: Any = "",
    /,
    *,
    name: str = "",
    url: str = "",
    prefix: str = "",
    dialect: str = "plain",
    tags: Mapping[str, str] | None = None,
) -> Any:
    """Ship NAME.started, NAME.succeeded and NAME.failed as counters, NAME.duration as a timing.

    ``@instrument``, ``@instrument("orders.import")`` or ``@instrument(name=..., url=...,
    prefix=..., dialect=..., tags=...)``, on functions, methods (static and class methods too),
    coroutines, generators and Celery's tasks. NAME is the module and the qualified name, or the
    task's own name; ``url`` is $PGSTATS_STATSD, else udp://127.0.0.1:8125; ``tags`` are for the
    dialects that have tags.

    What the job raises passes through, and has failed; ^C, cancelling, closing a generator and
    Celery's Retry, Ignore and Reject are neither success nor failure. Milliseconds. Whatever the
    receiver does, shipping neither raises nor waits.

    Raises ShipError for a URL, ValueError for a dialect or tag that cannot be, TypeError for
    what is no job.
    """
    if isinstance(job, str):
        settings = _Settings(job or name, url, prefix, dialect, tags or {})
        return functools.partial(_instrumented, settings)
    return _instrumented(_Settings(), job)


@dataclass(frozen=True)
class _Settings:
    """What the decorator was given; all of it can be used."""

    name: str = ""
    url: str = ""
    prefix: str = ""
    dialect: str = "plain"
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.url:
            wire(self.url)
        if self.dialect not in DIALECTS:
            raise ValueError(f"dialect must be one of {', '.join(DIALECTS)}")
        if self.tags:
            _check(self.tags)

    def measure(self, job: Job, name: Callable[[], str]) -> Job:
        """The job, measured under the name given, else under its own."""
        return wrapped(job, _Shipper(self, name))


def _check(given: Mapping[str, str]) -> None:
    """Refuse the tags that receivers take for something else, as the configuration does."""
    from pgstats.config import settings, values  # noqa: PLC0415 - most jobs have no tags

    try:
        values.tags(settings.RESERVED)(dict(given))
    except values.Wrong as wrong:
        faults = (f"tag {key}: {fault}" for (key, *_), fault in wrong.faults)
        raise ValueError("; ".join(faults)) from None


def _instrumented(settings: _Settings, job: Any) -> Any:
    if celery.is_task(job):
        return celery.measured(job, settings.measure)
    if isinstance(job, staticmethod | classmethod):
        return type(job)(_instrumented(settings, job.__func__))
    if isinstance(job, type) or not callable(job):
        raise TypeError(f"{job!r} is no job: decorate functions, methods, or tasks of Celery")
    return settings.measure(job, lambda: _name(job))


def _name(job: Any) -> str:
    """Module and qualified name, as the module is known when it is imported."""
    while isinstance(job, functools.partial):
        job = job.func
    named = job if hasattr(job, "__qualname__") else type(job)
    return f"{_module(named.__module__)}.{named.__qualname__.replace('.<locals>', '')}"


def _module(name: str | None) -> str:
    """A module's name; the script that Python was started with is called like its file."""
    if name != "__main__":
        return name or "builtins"
    main = sys.modules[name]
    if main.__spec__:
        return main.__spec__.name.removesuffix(".__main__")
    return Path(getattr(main, "__file__", "main")).stem


class _Shipper:
    """Ships what becomes of a job. Where to, and its name, are found out at the first run."""

    def __init__(self, settings: _Settings, name: Callable[[], str]) -> None:
        self._settings, self._find_name = settings, name

    def started(self) -> None:
        """Ship a line."""
        self._post(self._lines[0])

    def ended(self, seconds: float, *, failed: bool) -> None:
        """Ship two lines."""
        _, succeeded, fail, duration = self._lines
        took = duration % spell_number(round(1000 * seconds, 3))
        self._post((fail if failed else succeeded) + took)

    @functools.cached_property
    def _post(self) -> Callable[[str], None]:
        return _post(self._settings.url or os.environ.get(VARIABLE) or URL)

    @functools.cached_property
    def _lines(self) -> tuple[str, str, str, str]:
        """The lines of a start, a success and a failure, and that of a duration with its ``%s``."""
        name = f"{self._settings.prefix}.{self._settings.name or self._find_name()}".strip(".")
        path = ".".join(map(clean, name.split(".")))
        dialect, tags = DIALECTS[self._settings.dialect], self._settings.tags
        started, succeeded, failed = (
            template(f"{path}.{event}", "count", dialect, tags) % 1
            for event in ("started", "succeeded", "failed")
        )
        return started, succeeded, failed, template(f"{path}.duration", "timing", dialect, tags)


@functools.cache
def _post(url: str) -> Callable[[str], None]:
    """Ships lines to a URL: one socket for the process, whoever asks."""
    try:
        to = Courier(lambda: wire(url, rate=0), functools.partial(_told, url), urgent=True)
    except ShipError as error:  # of the environment, which must not stop a job
        _told(VARIABLE, str(error))
        return lambda _: None
    os.register_at_fork(after_in_child=to.renew)
    atexit.register(to.flush, LAST_CHANCE)
    return to.post


def _told(where: str, fault: str) -> None:
    """Tell that jobs go unmeasured, and nothing else happens to them."""
    import logging  # noqa: PLC0415 - hardly ever needed

    logging.getLogger("pgstats").warning(
        "statsd at %s: %s: jobs are not measured (told once)", where, fault
    )
