"""What the nouns are made of: tuples with named fields that cost little to define.

A `typing.NamedTuple` in all but its making: that compiles a constructor and looks at every
annotation, for each of some 40 kinds at every start, of which most runs construct a part.
"""

from __future__ import annotations

from collections import _tuplegetter  # type: ignore[attr-defined]
from collections.abc import Iterable
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from typing import NamedTuple as Noun
else:

    @cache
    def _constructor(width: int) -> FunctionType:
        """One for so many fields, whose names are still to be told."""
        fields = "".join(f"_{number}, " for number in range(width))
        return eval(f"lambda _kind, {fields}: _new(_kind, ({fields}))", {"_new": tuple.__new__})  # noqa: S307

    class _Fields(tuple):
        """What all of them can do, as `collections.namedtuple` has it."""

        __slots__ = ()

        def __new__(cls, *values: Any, **named: Any) -> Self:
            """Construct the first of its kind, and make the constructor of all others."""
            kind = next(kind for kind in cls.__mro__ if "_fields" in vars(kind))
            made = _constructor(len(kind._fields))
            code = made.__code__.replace(
                co_varnames=("_kind", *kind._fields), co_qualname=f"{kind.__name__}.__new__"
            )
            defaults = tuple(kind._field_defaults.values())
            kind.__new__ = staticmethod(FunctionType(code, made.__globals__, "__new__", defaults))
            return kind.__new__(cls, *values, **named)

        @classmethod
        def _make(cls, values: Iterable[Any]) -> Self:
            return cls(*values)

        def _replace(self, /, **named: Any) -> Self:
            changed = tuple.__new__(type(self), map(named.pop, self._fields, self))
            if named:
                raise TypeError(f"Got unexpected field names: {list(named)!r}")
            return changed

        __replace__ = _replace

        def _asdict(self) -> dict[str, Any]:
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self) -> str:
            fields = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
            return f"{type(self).__name__}({fields})"

        def __getnewargs__(self) -> tuple[Any, ...]:
            return tuple(self)

    class _Maker(type):
        """Makes the fields of a class's annotations."""

        def __new__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> type:
            if not bases:
                return super().__new__(cls, name, bases, space)
            fields = tuple(space["__annotations__"])  # from 3.14 on only where they are text
            defaults = {field: space[field] for field in fields if field in space}
            getters = {field: _tuplegetter(at, "") for at, field in enumerate(fields)}
            own = {"__slots__": (), "__match_args__": fields, "_fields": fields}
            return type(name, (_Fields,), space | getters | own | {"_field_defaults": defaults})

    class Noun(metaclass=_Maker):
        """A tuple with a named field for each annotation."""


__all__ = ["Noun"]
