"""Cuts text into packets of whole lines."""

from __future__ import annotations

from collections.abc import Iterator


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """Whole lines in packets of at most ``size`` bytes; a longer line goes alone.

    A negative gauge stays with the zero in front of it: in two packets they could be swapped.
    """
    data = data.rstrip(b"\n")
    start = 0
    while start < len(data):
        end = _end(data, start, size)
        if end > start:
            yield data[start:end]
        start = end + 1


def _end(data: bytes, start: int, size: int) -> int:
    """Where the packet ends that starts there: as late as fits, but after one line or pair."""
    if len(data) - start <= size:
        return len(data)
    end = data.rfind(b"\n", start, start + size + 1)
    if end >= 0 and _paired(data, end):
        end = data.rfind(b"\n", start, end)
    if end >= 0:
        return end
    end = data.find(b"\n", start)
    if end >= 0 and _paired(data, end):
        end = data.find(b"\n", end + 1)
    return end if end >= 0 else len(data)


def _paired(data: bytes, end: int) -> bool:
    """Whether the line that ends there is the zero of the negative gauge in the next."""
    name, zero, _ = data[data.rfind(b"\n", 0, end) + 1 : end].partition(b":0|")
    return bool(zero) and data.startswith(name + b":-", end + 1)
