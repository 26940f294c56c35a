"""Widths and heights of pictures, without a terminal."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pgstats.model import Metric, Table
from pgstats.screen import Part, page, picture
from pgstats.screen.layout import GAP, fitted, heading, shared
from pgstats.screen.picture import ASCII, Signs
from tests.tmux import wide

NUMBERS = st.lists(st.integers(0, 100), max_size=8)


@given(NUMBERS, st.integers(0, 200))
def test_shares_fill_the_room_and_no_more(wanted: list[int], room: int) -> None:
    shares = shared(wanted, room)
    assert all(0 <= share <= want for share, want in zip(shares, wanted, strict=True))
    assert sum(shares) <= room
    if sum(wanted) <= room:
        assert shares == wanted


@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=4), st.lists(st.integers(3, 14), min_size=1)
)
def test_a_line_fits_into_the_width(labels: list[int], numbers: list[int]) -> None:
    widths, taken = fitted(labels, numbers, 80)
    assert numbers[: len(taken)] == taken
    assert len(taken) >= 1
    assert sum(widths) + sum(taken) + GAP * (len(widths) + len(taken) - 1) <= 80


def test_headings_are_cut_behind_underscores() -> None:
    assert heading("maxwait_seconds", 13) == ["maxwait_", "seconds"]
    assert heading("count", 3) == ["count"]
    assert "".join(heading("last_autovacuum_age_seconds", 13)) == "last_autovacuum_age_seconds"


TEXT = st.text(st.sampled_from("ab_é漢字ー😀\x1b\x07\x9b\u202e\u200d\n\t\ud800 "), max_size=40)
FEW = settings(max_examples=30)


def table(rows: list[tuple[str, float | None]]) -> Table:
    return Table("pools", ("target", "user"), (Metric("n", ""),), [("t", *row) for row in rows])


@FEW
@given(st.lists(st.tuples(TEXT, st.one_of(st.none(), st.integers(0, 99))), max_size=5))
def test_no_name_steers_and_every_line_is_whole(rows: list[tuple[str, float | None]]) -> None:
    lines = [line.plain for line in picture(table(rows), 30, None, ASCII)]
    for line in lines:
        assert line.isprintable()
        assert wide(line) <= 30


def test_changes_are_marked() -> None:
    before = {(("t", "a"), "n"): 1, (("t", "b"), "n"): 1, (("t", "c"), "n"): 1}
    new: list[tuple[str, float | None]] = [("a", 0), ("b", 1), ("c", 2), ("d", 9), ("e", None)]
    lines = [line.plain.split() for line in picture(table(new), 30, before, Signs())]
    assert lines[1:] == [["a", "0↓"], ["b", "1"], ["c", "2↑"], ["d", "9↑"], ["e", "?"]]
    ascii_ = [line.plain.split()[-1] for line in picture(table(new), 30, before, ASCII)]
    assert ascii_[1:] == ["0-", "1", "2+", "9+", "?"]


@FEW
@given(st.integers(1, 60), st.integers(0, 30), st.integers(0, 9))
def test_a_page_has_as_many_lines_as_the_terminal(height: int, rows: int, faults: int) -> None:
    part = Part("pools", table([(str(number), number) for number in range(rows)]))
    lines = page("head", [part, part], ["fault"] * faults, "foot", (40, height), ASCII)
    assert len(lines) == height
    assert lines[0].plain == "head"


def test_a_low_terminal_shows_rows_before_heads() -> None:
    """A part for no row of which there is room is left out."""
    part = Part("pools", table([(str(number), number) for number in range(9)]))
    for high, parts in ((6, 1), (10, 2), (14, 3)):
        lines = [line.plain for line in page("head", [part] * 3, [], "q", (40, high), ASCII)]
        assert lines.count("pools") == parts
        assert sum(line[:1].isdigit() for line in lines) >= parts
