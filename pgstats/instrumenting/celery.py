"""Tasks of Celery, measured in their place. Celery itself is never imported: who has it, has it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from pgstats.instrumenting.wrapping import Job

#: Gives a measured callable for one and a way to its name, which tasks learn late.
Measure = Callable[[Job, Callable[[], str]], Job]


def is_task(job: object) -> bool:
    """Whether it is a task, what will become one, or a class of them."""
    kinds = (_class("celery.local", "Proxy"), _class("celery.app.task", "Task"))
    known = tuple(kind for kind in kinds if kind)
    # Not isinstance: of a proxy that would ask what it stands for, before that can be known.
    return issubclass(job if isinstance(job, type) else type(job), known)


def measured(task: Any, measure: Measure) -> Any:
    """The same task, or class of tasks, whose runs are measured under its own name."""
    if isinstance(task, type):
        return _class_of_tasks(task, measure)
    if type(task) is _class("celery.local", "Proxy"):
        _shared(task, measure)
    elif type(task) is _class("celery.local", "PromiseProxy"):
        task.__then__(_instance, task, measure)
    else:
        _instance(task, measure)
    return task


def _class(module: str, name: str) -> Any:
    return getattr(sys.modules.get(module), name, None)


def _instance(task: Any, measure: Measure) -> None:
    """What the worker calls is ``run`` of the instance, with all that Celery has put around it."""
    task.run = measure(task.run, lambda: task.name)


def _class_of_tasks(kind: type, measure: Measure) -> type:
    """Each task of the class, and of those below it, is measured; once if several are decorated.

    That ``run`` of the instance is replaced leaves those of the classes alone, so that one which
    calls its parent's counts as one.
    """
    begin = kind.__init__  # type: ignore[misc]

    @functools.wraps(begin)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        begin(self, *args, **kwargs)
        if "run" not in vars(self):
            _instance(self, measure)

    kind.__init__ = __init__  # type: ignore[misc]
    return kind


def _shared(proxy: Any, measure: Measure) -> None:
    """A task that every application has for itself: measured in each when it has its tasks."""
    state: Any = sys.modules["celery._state"]

    def place(app: Any) -> None:
        if state.get_current_app() is app:  # the one that the proxy asks
            _instance(proxy, measure)

    for app in state._get_active_apps():
        if app.finalized:
            place(app)
    state.connect_on_app_finalize(
        lambda app: app.on_after_finalize.connect(lambda sender, **_: place(sender), weak=False)
    )
