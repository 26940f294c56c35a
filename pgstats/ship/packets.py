"""Cuts text into packets of whole lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def packed(texts: Iterable[str], size: int) -> Iterator[list[bytes]]:
    """The packets of texts of whole lines, each text asked for when those before it are out."""
    rest = b""
    for text in texts:
        data = text.encode(errors="replace")
        *whole, rest = cut(rest + b"\n" + data if rest else data, size) or [b""]
        if whole:
            yield whole
    if rest:
        yield [rest]


def cut(data: bytes, size: int) -> list[bytes]:
    """Whole lines in packets of at most ``size`` bytes; a longer line goes alone.

    A negative gauge stays with the zero in front of it: in two packets they could be swapped.
    """
    data = data.rstrip(b"\n")
    signed = b"-" in data  # found quickly
    found, start = [], 0
    while len(data) - start > size:
        end = data.rfind(b"\n", start, start + size + 1)
        if end < 0 or (signed and _paired(data, end)):
            end = _end(data, start, end)
        if end > start:
            found.append(data[start:end])
        start = end + 1
    return [*found, data[start:]] if start < len(data) else found


def _end(data: bytes, start: int, end: int) -> int:
    """Where a packet ends that cannot end there: before that pair, else after one line or pair."""
    before = data.rfind(b"\n", start, max(start, end))
    if before >= 0:
        return before
    end = data.find(b"\n", start)
    if end >= 0 and _paired(data, end):
        end = data.find(b"\n", end + 1)
    return end if end >= 0 else len(data)


def _paired(data: bytes, end: int) -> bool:
    """Whether the line that ends there is the zero of the negative gauge in the next."""
    sign = data.find(b":-", end + 1, data.find(b"\n", end + 1))
    if sign < 0:
        return False
    return data.startswith(data[end + 1 : sign] + b":0|", data.rfind(b"\n", 0, end) + 1)
