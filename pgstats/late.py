"""What libraries have Python do at their import and hardly ever use: done when somebody uses it.

Click and the client of statsd import modules of Python's own, each for a function or two, and click
has annotations compiled that nobody evaluates. Together that takes half as long as a whole run, so
that the process begins with stand-ins.
"""

from __future__ import annotations

import os
import sys
import typing
from collections.abc import Callable
from importlib import import_module
from threading import Lock
from types import FunctionType, ModuleType
from typing import Any

_LOCK = Lock()


class _Late(ModuleType):
    """Becomes the module of that name when anything is asked of it that it does not have yet."""

    def __getattr__(self, name: str) -> Any:
        if name == "__path__":  # Python asks whether it is a package, before it takes anything
            raise AttributeError(name)
        return getattr(self.loaded(), name)

    def loaded(self) -> ModuleType:
        """The module itself, which is found under its name from now on."""
        with _LOCK:  # not while it is loaded: that takes locks of its own
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
        module = import_module(self.__name__)
        vars(self).update(vars(module))
        return module


_INSPECT = _Late("inspect")

#: What is asked of them in every run, or at the top of who imports them, without loading them.
_LATE: dict[_Late, dict[str, Callable[..., Any]]] = {
    _INSPECT: {
        # Click has the help of each option cleaned, and asks whether a default is a function;
        # statsd's decorator looks for coroutines.
        "cleandoc": lambda text: (
            _INSPECT.loaded().cleandoc(text) if "\n" in text else text.expandtabs().lstrip()
        ),
        "isfunction": lambda thing: isinstance(thing, FunctionType),
        "iscoroutinefunction": lambda function: _INSPECT.loaded().iscoroutinefunction(function),
    },
    # Click's own words, which nobody has translated.
    _Late("gettext"): {
        "gettext": lambda text: text,
        "ngettext": lambda one, many, count: one if count == 1 else many,
    },
    _Late("platform"): {"system": lambda: os.uname().sysname},  # of uuid, which click imports
    _Late("random"): {},  # of statsd, for samples
    _Late("selectors"): {},  # of socket, for sendfile
}


def keep_out() -> None:
    """Put the stand-ins where nothing is loaded yet."""
    # What typing compiles of an annotation that is text it hands to eval, which takes text as well.
    vars(typing)["compile"] = lambda text, *_: text
    for module, functions in _LATE.items():
        vars(module).update(functions)
        sys.modules.setdefault(module.__name__, module)
