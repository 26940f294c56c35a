"""Thresholds as check_postgres has them: N, N% of the limit, -N left to the limit; and N: below."""

from __future__ import annotations

import re

from pgstats.model import Number
from pgstats.noun import Noun

_FORM = re.compile(r"(-?)([0-9]+(?:\.[0-9]+)?)([%:]?)")


class Threshold(Noun):
    """``how`` is "" for a number, % of the limit, - for what is left to it, : for too little."""

    text: str
    how: str
    number: float

    @property
    def relative(self) -> bool:
        """Whether it needs a limit."""
        return self.how in ("%", "-")

    def at(self, limit: Number | None, unit: str) -> float | None:
        """The value where it begins to be crossed; None where there is no limit."""
        if self.how == "%" and unit == "ratio":
            return self.number / 100
        if not self.relative:
            return self.number
        if not limit:
            return None
        return limit * self.number / 100 if self.how == "%" else limit - self.number

    def crossed(self, value: Number, limit: Number | None, unit: str) -> bool:
        """Whether a value is at or above it; with : below it."""
        at = self.at(limit, unit)
        if at is None:
            return False
        return value < at if self.how == ":" else value >= at


def threshold(text: str) -> Threshold | None:
    """A threshold as a user writes it; None for what is none."""
    found = _FORM.fullmatch(text.strip())
    if not found or (found[1] and found[3]):
        return None
    return Threshold(text.strip(), found[1] or found[3], float(found[2]))


def contradict(warning: Threshold, critical: Threshold) -> bool:
    """Whether critical would come before the warning."""
    if warning.how != critical.how:
        return False
    first, second = warning.number, critical.number
    return first < second if warning.how in ("-", ":") else first > second
