"""The processes behind one port as one: sums over them, maxima for ages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from pgstats.model import Frame, Metric, Number, Poll, Row, Target

_ACROSS: Mapping[str, Callable[[Iterable[Number]], Number]] = {"sum": sum, "max": max}


def spread(poll: Poll) -> list[Poll]:
    """A poll as what is shipped: itself, or the group of its processes and then each of them."""
    return [_group(poll), *poll.peers] if poll.peers else [poll]


def _group(poll: Poll) -> Poll:
    """The group is up while one of its processes is, and fails where one of them does."""
    peers = poll.peers
    there = [peer for peer in peers if peer.up]
    whole = Poll(poll.target, seconds=poll.seconds)
    whole.notes = list(dict.fromkeys(note for one in (poll, *peers) for note in one.notes))
    whole.down = None if there else peers[0].down
    whole.partial = len(there) < len(peers)
    whole.failures = [
        failure._replace(stage=f"process {peer.target.peer}: {failure.stage}")
        for peer in peers
        for failure in (peer.problems() if there else [])
    ]
    # Sums over other processes than the last time have nothing to be compared with.
    whole.identity = " ".join(f"{peer.target.peer}={peer.identity}" for peer in there)
    whole.process = _together(there)
    whole.console = _consoles(there)
    whole.at = sum(peer.at for peer in there) / max(1, len(there))
    whole.version = max((peer.version for peer in there), default=0)
    whole.draining = bool(there) and all(peer.draining for peer in there)
    whole.counts = {
        name: max((peer.counts.get(name, 0) for peer in there), default=0)
        for name in ("unknown_columns", "unavailable_queries")
    }
    whole.frames = _sums(poll.target, there)
    return whole


def _together(peers: Sequence[Poll]) -> str:
    """Which processes these are for certain: nothing unless each of them is known."""
    return " ".join(peer.process for peer in peers) if all(p.process for p in peers) else ""


def _consoles(peers: Sequence[Poll]) -> dict[str, Number]:
    """What the consoles add to the sums, in so far as every one of them tells."""
    common = set.intersection(*(set(peer.console) for peer in peers)) if peers else ()
    return {name: sum(peer.console[name] for peer in peers) for name in sorted(common)}


def _sums(target: Target, peers: Sequence[Poll]) -> list[Frame]:
    """One frame for each question that every process answered: part of a sum would be a lie."""
    tables = [{_key(frame): frame for frame in peer.frames} for peer in peers]
    common = [key for key in tables[0] if all(key in table for table in tables)] if tables else []
    return [_sum(target, [table[key] for table in tables]) for key in common]


def _key(frame: Frame) -> tuple[str, str]:
    """The question, and the first of its numbers: a group may hold several questions."""
    return frame.query.group, frame.metrics[0].name if frame.metrics else ""


def _sum(target: Target, frames: Sequence[Frame]) -> Frame:
    query = frames[0].query
    width = len(query.labels)
    metrics: dict[str, Metric] = {m.name: m for frame in frames for m in frame.metrics if m.across}
    found: dict[Row, dict[str, list[Number]]] = {}
    for frame in frames:
        names = [metric.name for metric in frame.metrics]
        for row in frame.rows:
            numbers = found.setdefault(row[:width], {})
            for name, value in zip(names, row[width:], strict=True):
                if value is not None:
                    numbers.setdefault(name, []).append(value)
    rows = [
        (*labels, *(_across(metric, numbers.get(name)) for name, metric in metrics.items()))
        for labels, numbers in found.items()
    ]
    whole = tuple(metrics.values())
    # The very ones, if they are: what is spelled of them is remembered.
    same = next((frame.metrics for frame in frames if frame.metrics == whole), whole)
    return target.frame(query, same, rows)


def _across(metric: Metric, values: Sequence[Number] | None) -> Number | None:
    """Ages, limits in time and shares are no matter of adding up."""
    if not values:
        return None
    how = "max" if metric.unit in ("seconds", "ratio") else metric.across
    return _ACROSS[how](values)
