"""A poll as one JSON document: the frames, still tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pgstats.model import Failure, Frame, Poll


def document(polls: Sequence[Poll]) -> str:
    """The polls as JSON text, one target after the other."""
    return json.dumps({"targets": [_target(poll) for poll in polls]}, default=str)


def _target(poll: Poll) -> dict[str, Any]:
    return {
        "target": poll.target.name,
        "family": poll.target.family,
        "up": int(poll.up),
        "down": _failure(poll.down) if poll.down else None,
        "version": poll.version or None,
        "seconds": round(poll.seconds, 6),
        "failures": [_failure(failure) for failure in poll.failures],
        "counts": poll.counts,
        "frames": [_frame(frame) for frame in poll.frames],
    }


def _failure(failure: Failure) -> dict[str, str]:
    return {
        "stage": failure.stage,
        "reason": failure.reason,
        "message": failure.message,
        "remedy": failure.remedy,
    }


def _frame(frame: Frame) -> dict[str, Any]:
    names = [*frame.query.labels, *(metric.name for metric in frame.metrics)]
    return {
        "group": frame.query.group,
        "labels": list(frame.query.labels),
        "rows": [dict(zip(names, row, strict=True)) for row in frame.rows],
    }
