"""Cuts text into packets of whole lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def packed(texts: Iterable[str], size: int) -> Iterator[bytes]:
    """The packets of texts of whole lines, each text asked for when those before it are out."""
    rest = b""
    for text in texts:
        data = text.encode(errors="replace")
        *whole, rest = cut(rest + b"\n" + data if rest else data, size) or [b""]
        yield from whole
    if rest:
        yield rest


def cut(data: bytes, size: int) -> list[bytes]:
    """Whole lines in packets of at most ``size`` bytes; a longer line goes alone.

    A negative gauge stays with the zero in front of it: in two packets they could be swapped.
    """
    data = data.rstrip(b"\n")
    signed = b"-" in data  # found quickly, and rarely part of a name
    found, start = [], 0
    while start < len(data):
        end = data.rfind(b"\n", start, start + size + 1)
        if signed or end < 0 or len(data) - start <= size:
            end = _end(data, start, size)
        if end > start:
            found.append(data[start:end])
        start = end + 1
    return found


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
