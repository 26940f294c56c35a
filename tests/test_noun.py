"""Nouns are named tuples in all that anybody can see, and cost less to define."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pgstats import noun
from pgstats.noun import Noun


class Plain(NamedTuple):
    """One of Python's."""

    first: int
    second: str = "b"
    third: Mapping[str, int] = {}

    def __str__(self) -> str:
        return f"<{self.first}>"

    @property
    def double(self) -> int:
        return 2 * self.first

    @classmethod
    def of(cls, first: int) -> Plain:
        return cls(first, "of")


class Ours(Noun):
    """One of ours."""

    first: int
    second: str = "b"
    third: Mapping[str, int] = {}

    def __str__(self) -> str:
        return f"<{self.first}>"

    @property
    def double(self) -> int:
        return 2 * self.first

    @classmethod
    def of(cls, first: int) -> Ours:
        return cls(first, "of")


class PlainChild(Plain):
    """Inherits."""

    more = 1


class OursChild(Ours):
    """Inherits."""

    more = 1


#: What is done with a kind, whose outcome is compared: a value, or what an exception says.
DEEDS: dict[str, Callable[[Any], Any]] = {
    "positional": lambda kind: tuple(kind(1, "c", {"d": 2})),
    "named": lambda kind: tuple(kind(third={}, first=1)),
    "defaults": lambda kind: tuple(kind(1)),
    "of": lambda kind: tuple(kind.of(3)),
    "fields": lambda kind: (kind._fields, kind._field_defaults, kind.__match_args__),
    "attributes": lambda kind: (kind(1).first, kind(1).second, kind(1).double, str(kind(1))),
    "repr": lambda kind: repr(kind(1)).replace("Plain", "Ours"),
    "equal": lambda kind: (kind(1) == kind(1), kind(1) == kind(2), kind(1) == (1, "b", {})),
    "hash": lambda kind: hash(kind(1, third=None)) == hash((1, "b", None)),
    "no hash": lambda kind: hash(kind(1)),
    "unpacked": lambda kind: [*kind(1)],
    "order": lambda kind: min(kind(2), kind(1)).first,
    "replaced": lambda kind: (type(kind(1)._replace(first=5)) is kind, tuple(kind(1)._replace())),
    "replaced in vain": lambda kind: kind(1)._replace(fourth=1),
    "as a dictionary": lambda kind: kind(1)._asdict(),
    "made": lambda kind: (type(kind._make([1, 2, 3])) is kind, tuple(kind._make([1, 2, 3]))),
    "pickled": lambda kind: pickle.loads(pickle.dumps(kind(1))) == kind(1),
    "pickled kind": lambda kind: type(pickle.loads(pickle.dumps(kind(1)))) is kind,
    "too few": lambda kind: kind(),
    "too many": lambda kind: kind(1, 2, 3, 4),
    "unknown": lambda kind: kind(1, fourth=4),
    "twice": lambda kind: kind(1, first=4),
    "names": lambda kind: (kind.__module__, kind.__qualname__.replace("Plain", "Ours")),
    "base": lambda kind: (issubclass(kind, tuple), type(kind)),
    "annotations": lambda kind: list(getattr(kind, "__annotations__", {})),
}


def outcome(deed: Callable[[Any], Any], kind: type) -> object:
    try:
        return deed(kind)
    except (TypeError, ValueError) as error:
        return str(error).replace("Plain", "Ours")


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("pair", [(Plain, Ours), (PlainChild, OursChild)], ids=["own", "child"])
def test_a_noun_is_like_a_named_tuple(deed: str, pair: tuple[type, type]) -> None:
    theirs, ours = (outcome(DEEDS[deed], kind) for kind in pair)
    assert ours == theirs


def test_a_field_cannot_be_set() -> None:
    for kind in (Plain, Ours):
        with pytest.raises(AttributeError):
            kind(1).first = 2  # type: ignore[misc]
        with pytest.raises(AttributeError):
            kind(1).other = 2  # type: ignore[union-attr]


@pytest.mark.parametrize("first", ["Child(7)", "Kind(7)"])
def test_whoever_is_constructed_first_makes_the_constructor(first: str) -> None:
    """Of the kind that has the fields, not of one that inherits them."""
    program = (
        "from pgstats.noun import Noun\n"
        "class Kind(Noun):\n"
        "    field: int\n"
        "class Child(Kind):\n"
        "    pass\n"
        f"print({first}.field, type(Child(1)).__name__, type(Kind(1)).__name__, Kind(field=2))\n"
        "print(['__new__' in vars(kind) for kind in (Kind, Child)])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "7 Child Kind Kind(field=2)\n[True, False]\n"


def test_every_named_tuple_is_a_noun() -> None:
    package = Path(noun.__file__).parent
    found = {path.name for path in package.rglob("*.py") if "NamedTuple" in path.read_text()}
    assert found == {"noun.py"}
