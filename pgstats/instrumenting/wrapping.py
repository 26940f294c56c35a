"""Puts a measured callable in another's place: same name, docstring, signature and kind."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import suppress
from time import perf_counter
from typing import Any, Protocol

Job = Callable[..., Any]


class Teller(Protocol):
    """Is told what becomes of the runs of a job. It must neither raise nor hold anything up."""

    def started(self) -> None:
        """A run begins."""

    def ended(self, seconds: float, *, failed: bool) -> None:
        """A run is over; it took so long."""


def wrapped(job: Job, teller: Teller, bad: Callable[[Any], bool] | None = None) -> Job:
    """A callable of the same kind that tells of each run; what the job raises passes through.

    A coroutine function is one again, and so is a generator function, whose run lasts from the
    first value asked for to the last one given. ``bad`` says of what a function or coroutine
    returns that it means failure.
    """
    runs = functools.partial(_Run, teller, bad)
    make = next((make for is_one, make in _KINDS if is_one(_body(job))), _function)
    made: Job = functools.wraps(job)(make(job, runs))
    with suppress(TypeError, ValueError):  # what is written in C may have none to show
        # Also for those who do not follow __wrapped__, as Celery when it checks arguments.
        made.__signature__ = inspect.signature(job)  # type: ignore[attr-defined]
    return made


class _Run:
    """One run of a job."""

    __slots__ = ("_bad", "_failed", "_start", "_teller")

    def __init__(self, teller: Teller, bad: Callable[[Any], bool] | None) -> None:
        self._teller = teller
        self._bad = bad
        self._failed = False

    def __enter__(self) -> _Run:
        self._teller.started()
        self._start = perf_counter()
        return self

    def gave(self, result: Any) -> Any:
        """What the job returned."""
        if self._bad:
            self._failed = self._bad(result)
        return result

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        seconds = perf_counter() - self._start
        failed = self._failed if error is None else _failed(error)
        if failed is not None:
            self._teller.ended(seconds, failed=failed)


def _failed(error: BaseException) -> bool | None:
    """Whether a job failed that ends so; None: it was stopped, which says nothing about it.

    Stopped is what somebody else ended (^C, a cancelled coroutine, a generator that nobody
    wants to the end), and the task that tells Celery to run it again, or not to count it.
    """
    if isinstance(error, SystemExit):
        return error.code not in (None, 0)
    cancelled = _classes("asyncio", "CancelledError")
    predicates = _classes("celery.exceptions", "TaskPredicate")
    stopped = isinstance(error, (KeyboardInterrupt, GeneratorExit, *cancelled, *predicates))
    return None if stopped else True


def _classes(module: str, name: str) -> tuple[type[BaseException], ...]:
    """A class of a module that only those import who use it."""
    found = getattr(sys.modules.get(module), name, None)
    return (found,) if found else ()


def _body(job: Job) -> Job:
    """What says of which kind a callable is; of an object, its class does."""
    if inspect.isroutine(job) or isinstance(job, functools.partial):
        return job
    return type(job).__call__


_Runs = Callable[[], _Run]


def _function(job: Job, runs: _Runs) -> Job:
    def run(*args: Any, **kwargs: Any) -> Any:
        with runs() as one:
            return one.gave(job(*args, **kwargs))

    return run


def _coroutine(job: Job, runs: _Runs) -> Job:
    async def run(*args: Any, **kwargs: Any) -> Any:
        with runs() as one:
            return one.gave(await job(*args, **kwargs))

    return run


def _generator(job: Job, runs: _Runs) -> Job:
    def run(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with runs():
            return (yield from job(*args, **kwargs))

    return run


def _async_generator(job: Job, runs: _Runs) -> Job:
    async def run(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        with runs():
            values = job(*args, **kwargs)
            step = anext(values)
            while True:
                try:
                    value = await step
                except StopAsyncIteration:
                    return
                try:
                    step = values.asend((yield value))
                except GeneratorExit:
                    await values.aclose()
                    raise
                except BaseException as error:
                    step = values.athrow(error)

    return run


_KINDS = (
    (inspect.isasyncgenfunction, _async_generator),
    (inspect.iscoroutinefunction, _coroutine),
    (inspect.isgeneratorfunction, _generator),
)
