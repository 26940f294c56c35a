"""Frames as lines: names, tags and numbers, also hostile ones, in every dialect."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgstats.catalogue.own import UP
from pgstats.model import OTHER, PGBOUNCER, Frame, Metric, Query, Row
from pgstats.spell import (
    _BLOCK,
    _FORMS,
    DIALECTS,
    LONGEST,
    Speller,
    clean,
    shape,
    spell_number,
)

TABLES = Query(
    "postgres",
    "tables",
    (Metric("n_dead_tup", "Dead"), Metric("age_seconds", "Age", unit="seconds")),
    labels={"database": "", "schema": "", "table": ""},
)
POOLS = Query("pgbouncer", "pools", (Metric("cl_active", "Active"),), labels={"user": "user"})
GROWTH = Query("pgbouncer", "stats", (Metric("queries", "Queries", kind="count"),))

HOSTILE = [
    "a:1|g\nadmin.x:9|c", "|@ 1", "__x", "x" * 300, "\N{PILE OF POO}", "", "..", ".", "a b",
    "\u202egnp.exe", "\0", "\1", "\2", "\0\1\2", "%s", "%", "{0}", "a\r\nb", "\udc80", "_other",
    ".other", "none", "a;b=c", "a,b=c", "a#b", "é", "~x", "-1", "a|#b:c", "\N{FULLWIDTH COLON}",
]  # fmt: skip


@dataclass(frozen=True)
class Said:
    """A line as a receiver of that dialect reads it."""

    name: str
    tags: tuple[tuple[str, str], ...]
    value: str
    kind: str


#: What any receiver of a dialect reads as one line; nothing else may be sent.
WORD = r"[A-Za-z0-9_.-]+"
LINES = {
    "plain": re.compile(rf"(?P<name>{WORD})(?P<tags>):(?P<value>-?[0-9.]+)\|(?P<kind>[gc])"),
    "dogstatsd": re.compile(
        rf"(?P<name>{WORD}):(?P<value>-?[0-9.]+)\|(?P<kind>[gc])(?:\|#(?P<tags>{WORD}:{WORD}(?:,{WORD}:{WORD})*))?"
    ),
    "influx": re.compile(
        rf"(?P<name>{WORD})(?P<tags>(?:,{WORD}={WORD})*):(?P<value>-?[0-9.]+)\|(?P<kind>[gc])"
    ),
    "graphite": re.compile(
        rf"(?P<name>{WORD})(?P<tags>(?:;{WORD}={WORD})*):(?P<value>-?[0-9.]+)\|(?P<kind>[gc])"
    ),
}


def read(text: str, dialect: str) -> list[Said]:
    assert text == "" or text.endswith("\n")
    assert text.isascii()
    return [_read(line, dialect) for line in text.split("\n")[:-1]]


def _read(line: str, dialect: str) -> Said:
    match = LINES[dialect].fullmatch(line)
    assert match, line
    pairs = (re.split("[:=]", tag) for tag in re.split("[,;]", match["tags"] or "") if tag)
    tags = tuple((key, value) for key, value in pairs)
    return Said(match["name"], tags, match["value"], match["kind"])


def speller(dialect: str = "plain", tags: Mapping[str, str] | None = None) -> Speller:
    return Speller(DIALECTS[dialect], "pgstats", tags or {})


def tables(*rows: Row, **more: Any) -> Frame:
    return Frame.of(TABLES, TABLES.metrics, rows, "main", **more)


def names(spelled: str) -> list[str]:
    return [line.partition(":")[0] for line in spelled.splitlines()]


# ---- lines


LINES_OF_A_ROW = {
    "plain": [
        "pgstats.postgres.main.tables.appdb.public.orders.n_dead_tup:12|g",
        "pgstats.postgres.main.tables.appdb.public.orders.age_seconds:0|g",
        "pgstats.postgres.main.tables.appdb.public.orders.age_seconds:-2.5|g",
    ],
    "dogstatsd": [
        "pgstats.postgres.tables.n_dead_tup:12|g|#{tags}",
        "pgstats.postgres.tables.age_seconds:0|g|#{tags}",
        "pgstats.postgres.tables.age_seconds:-2.5|g|#{tags}",
    ],
    "influx": [
        "pgstats.postgres.tables.n_dead_tup,{tags}:12|g",
        "pgstats.postgres.tables.age_seconds,{tags}:0|g",
        "pgstats.postgres.tables.age_seconds,{tags}:-2.5|g",
    ],
    "graphite": [
        "pgstats.postgres.tables.n_dead_tup;{tags}:12|g",
        "pgstats.postgres.tables.age_seconds;{tags}:0|g",
        "pgstats.postgres.tables.age_seconds;{tags}:-2.5|g",
    ],
}
MARKS = {"plain": "  ", "dogstatsd": ":,", "influx": "=,", "graphite": "=;"}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_row_in_each_dialect(dialect: str) -> None:
    equals, between = tuple(MARKS[dialect])
    tags = between.join(
        f"{key}{equals}{value}"
        for key, value in [
            ("target", "main"), ("database", "appdb"), ("schema", "public"), ("table", "orders"),
            ("env", "prod_1"), ("zone", "a"),
        ]
    )  # fmt: skip
    spelled = speller(dialect, {"zone": "a", "env": "prod/1"}).spell(
        tables(("appdb", "public", "orders", 12, -2.5))
    )
    assert spelled.splitlines() == [line.format(tags=tags) for line in LINES_OF_A_ROW[dialect]]


def test_up_has_no_group() -> None:
    up = UP[PGBOUNCER]
    frame = Frame.of(up, up.metrics[:1], [(1,)], "front")
    assert speller().spell(frame) == "pgstats.pgbouncer.front.up:1|g\n"
    assert speller("influx").spell(frame) == "pgstats.pgbouncer.up,target=front:1|g\n"


@pytest.mark.parametrize(
    ("dialect", "line"),
    [
        ("plain", "pgstats.self.ship.lines:7|g\n"),
        ("dogstatsd", "pgstats.self.ship.lines:7|g\n"),
        ("influx", "pgstats.self.ship.lines:7|g\n"),
        ("graphite", "pgstats.self.ship.lines:7|g\n"),
    ],
)
def test_without_target_labels_and_tags_nothing_stands_in_for_them(dialect: str, line: str) -> None:
    query = Query("self", "ship", (Metric("lines", "Lines"),))
    assert speller(dialect).spell(Frame.of(query, query.metrics, [(7,)])) == line


def test_one_process_of_a_group_is_a_target_or_a_tag() -> None:
    frame = Frame.of(POOLS, POOLS.metrics, [("app", 4)], "front", {"peer": "2"})
    assert speller().spell(frame) == "pgstats.pgbouncer.front-2.pools.app.cl_active:4|g\n"
    assert (
        speller("influx", {"env": "x", "zone": "y"}).spell(frame)
        == "pgstats.pgbouncer.pools.cl_active,target=front,user=app,env=x,peer=2,zone=y:4|g\n"
    )


def test_counters_are_counters_and_have_no_zero_before_them() -> None:
    frame = Frame.of(GROWTH, GROWTH.metrics, [(-3,)], "front")
    assert speller().spell(frame) == "pgstats.pgbouncer.front.stats.queries:-3|c\n"
    tagged = speller("dogstatsd").spell(frame)
    assert tagged == "pgstats.pgbouncer.stats.queries:-3|c|#target:front\n"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_nothing_to_say_is_no_line(dialect: str) -> None:
    ours = speller(dialect)
    assert ours.spell() == ours.spell(tables()) == ""
    assert ours.spell(Frame.of(TABLES, (), [("a", "b", "c")], "main")) == ""
    assert ours.spell(tables(("a", "b", "c", None, None))) == ""
    assert ours.counts.skipped_values == 2


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_shape_for_people_is_the_line(dialect: str) -> None:
    frame = Frame.of(TABLES, TABLES.metrics[:1], [("D", "S", "T", 5)], "M")
    line = speller(dialect).spell(frame).rstrip("\n")
    words = {"<target>": "M", "<database>": "D", "<schema>": "S", "<table>": "T", "<value>": "5"}
    shown = shape(TABLES, TABLES.metrics[0], DIALECTS[dialect], "pgstats")
    for word, value in words.items():
        shown = shown.replace(word, value)
    assert shown == line
    count = shape(GROWTH, GROWTH.metrics[0], DIALECTS[dialect], "pgstats")
    assert ":<value>|c" in count


# ---- numbers


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"), (-0.0, "0"), (0.0, "0"), (True, "1"), (False, "0"), (5, "5"), (-5, "-5"),
        (2**53 + 1, "9007199254740993"), (2**63, "9223372036854775808"),
        (-(2**63), "-9223372036854775808"), (2**64, "18446744073709551616"),
        (1.0, "1"), (10.0, "10"), (100.5, "100.5"), (0.1, "0.1"), (0.041, "0.041"),
        (1e-7, "0"), (-1e-7, "0"), (1e-6, "0.000001"), (-1e-6, "-0.000001"), (5e-7, "0"),
        (1 / 3, "0.333333"), (-2 / 3, "-0.666667"), (1e16, "10000000000000000"),
        (1e22, "10000000000000000000000"), (123456789.125, "123456789.125"),
        (None, None), (float("nan"), None), (float("inf"), None), (float("-inf"), None),
    ],
)  # fmt: skip
def test_numbers(number: float | None, text: str | None) -> None:
    assert spell_number(number) == text


@given(st.floats() | st.integers() | st.booleans() | st.none())
def test_no_number_reads_differently_than_meant(number: float | None) -> None:
    text = spell_number(number)
    if text is None:
        assert number is None or number - number != 0
        return
    assert re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]{0,5}[1-9])?", text)
    assert text != "-0"
    assert number is not None
    assert (
        int(text) == number
        if isinstance(number, int)
        else abs(float(text) - number) <= 5e-7 or (float(text) == number)
    )


NUMBERS = st.none() | st.integers() | st.floats() | st.booleans()


@given(rows=st.lists(st.tuples(NUMBERS, NUMBERS), max_size=8), dialect=st.sampled_from([*DIALECTS]))
def test_each_number_of_a_table_is_sent_once_or_counted(
    rows: list[tuple[Any, Any]], dialect: str
) -> None:
    ours = speller(dialect)
    frame = tables(*(("db", "s", f"t{at}", *row) for at, row in enumerate(rows)))
    expected: list[str] = []
    for row in rows:
        for text in map(spell_number, row):
            expected += [] if text is None else ["0", text] if text[0] == "-" else [text]
    assert [said.value for said in read(ours.spell(frame), dialect)] == expected
    assert ours.counts.skipped_values == [spell_number(n) for row in rows for n in row].count(None)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=6), st.sampled_from([*DIALECTS]))
def test_the_zero_of_a_negative_has_the_same_name_and_tags(
    numbers: list[int], dialect: str
) -> None:
    frame = Frame.of(POOLS, POOLS.metrics, [(f"u{at}", n) for at, n in enumerate(numbers)], "front")
    said = read(speller(dialect, {"env": "x"}).spell(frame), dialect)
    for at, line in enumerate(said):
        if line.value.startswith("-"):
            assert said[at - 1] == Said(line.name, line.tags, "0", "g")


PLAIN = st.integers(0, 10**20)
#: A question with many rows, few of which have the same of any label or all the same of one.
HOLDERS = Query(
    "postgres",
    "holders",
    (
        Metric("age", "Age"),
        Metric("held", "Held", kind="total"),
        Metric("new", "New", kind="count"),
    ),
    labels={"database": "", "holder": ""},
)


@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["a", "b", "a b"]), *[PLAIN | NUMBERS] * 3),
        min_size=1,
        max_size=5,
    ),
    databases=st.sampled_from([["db"], ["db", "d b", "%s"]]),
    height=st.sampled_from([1, 2, 7, _BLOCK // 3 + 3]),
    dialect=st.sampled_from([*DIALECTS]),
)
@settings(max_examples=60)
def test_rows_read_the_same_one_by_one_and_together(
    rows: list[Row], databases: list[str], height: int, dialect: str
) -> None:
    """A single row is spelled in a way of its own, many are in blocks."""
    ours = speller(dialect, {"env": "x"})
    many = [
        (databases[at % len(databases)], f"{name}{at}", *numbers)
        for at, (name, *numbers) in zip(range(height), cycle(rows))
    ]
    whole = ours.spell(Frame.of(HOLDERS, HOLDERS.metrics, many, "main"))
    skipped = ours.counts.skipped_values
    singles = [Frame.of(HOLDERS, HOLDERS.metrics, [row], "main") for row in many]
    assert whole == "".join(map(ours.spell, singles))
    assert whole == ours.spell(*singles)
    assert skipped * 3 == ours.counts.skipped_values


def test_questions_that_look_alike_are_told_apart_from_poll_to_poll() -> None:
    """What is remembered of a question is not taken for another's, even if that was let go of."""
    ours = speller()
    for poll in range(3 * _FORMS):
        metrics = (Metric(f"metric_{poll}", ""),)
        query = Query("postgres", f"group_{poll}", metrics)
        text = ours.spell(Frame.of(query, metrics, [(poll,)], "main"))
        assert text == f"pgstats.postgres.main.group_{poll}.metric_{poll}:{poll}|g\n"


# ---- names


@pytest.mark.parametrize(
    ("raw", "part", "tag"),
    [
        ("orders", "orders", "orders"),
        ("Or-ders_1", "Or-ders_1", "Or-ders_1"),
        ("10.0.0.1:5432", "10_0_0_1_5432", "10.0.0.1_5432"),
        ("", "none", "none"),
        ("..", "__", ".."),
        ("a:1|g\nadmin.x:9|c", "a_1_g_admin_x_9_c", "a_1_g_admin.x_9_c"),
        ("|@ 1", "___1", "___1"),
        ("\N{PILE OF POO}\udc80\0\1\2", "_____", "_____"),
        ("x" * 300, "x" * LONGEST, "x" * LONGEST),
    ],
)
def test_clean(raw: str, part: str, tag: str) -> None:
    assert clean(raw) == part
    assert clean(raw, tag=True) == tag


@pytest.mark.parametrize("dialect", DIALECTS)
def test_hostile_names_stay_in_their_place(dialect: str) -> None:
    rows = [(raw, other, "t", 1, 2) for raw in HOSTILE for other in HOSTILE]
    said = read(speller(dialect, {"env": HOSTILE[0]}).spell(tables(*rows)), dialect)
    assert len(said) == len({(line.name, line.tags) for line in said}) == 2 * len(rows)
    for line in said:
        if dialect == "plain":
            assert len(line.name.split(".")) == 8
        else:
            keys = [key for key, _ in line.tags]
            assert keys == ["target", "database", "schema", "table", "env"]
        assert line.kind == "g"


ROWS = st.lists(
    st.tuples(*[st.text(max_size=8) | st.sampled_from(HOSTILE) | st.just(OTHER)] * 3),
    unique=True,
    max_size=12,
)


@given(labels=ROWS, dialect=st.sampled_from([*DIALECTS]))
def test_any_names_are_told_apart(labels: list[Row], dialect: str) -> None:
    text = speller(dialect).spell(tables(*((*row, 1, 2) for row in labels)))
    said = read(text, dialect)
    assert len({(line.name, line.tags) for line in said}) == len(said) == 2 * len(labels)


@given(labels=ROWS, data=st.data())
def test_names_do_not_depend_on_the_order(labels: list[Row], data: st.DataObject) -> None:
    def named(rows: Sequence[Row]) -> dict[Row, str]:
        spelled = names(speller().spell(tables(*((*row, 1, None) for row in rows))))
        return dict(zip(rows, spelled, strict=True))

    assert named(labels) == named(data.draw(st.permutations(labels)))


def of(ours: Speller, *tables_: object) -> list[str]:
    """The last label of each table, spelled."""
    spelled = ours.spell(tables(*(("db", "s", table, 1, None) for table in tables_)))
    return [name.split(".")[-2] for name in names(spelled)]


def hashed(text: str) -> Any:
    class Hashed:
        def __eq__(self, other: object) -> bool:
            return bool(re.fullmatch(rf"{text}_[0-9a-f]{{6}}", str(other)))

        __hash__ = None  # type: ignore[assignment]

        def __repr__(self) -> str:
            return f"{text}_XXXXXX"

    return Hashed()


def test_a_clean_name_keeps_its_name_and_altered_ones_give_way() -> None:
    assert of(speller(), "a b") == ["a_b"]
    assert of(speller(), "a b", "a_b") == [hashed("a_b"), "a_b"]
    assert of(speller(), "a b", "a.b") == [hashed("a_b"), hashed("a_b")]
    assert of(speller(), "x" * 300, "x" * 301, "x" * LONGEST) == [
        hashed("x" * (LONGEST - 7)), hashed("x" * (LONGEST - 7)), "x" * LONGEST,
    ]  # fmt: skip
    assert of(speller(), "", "none") == [hashed("none"), "none"]


def test_the_folded_rest_keeps_its_name() -> None:
    ours = speller()
    assert of(ours, OTHER, "_other", ".other") == ["_other", hashed("_other"), hashed("_other")]
    assert of(ours, "_other") == [hashed("_other")]
    assert of(speller(), "_other") == [hashed("_other")]


def test_who_is_called_like_a_hash_is_told_apart() -> None:
    (first, _) = of(speller(), "a b", "a.b")
    both = of(speller(), "a b", "a.b", first)
    assert both[2] == first
    assert len(set(both)) == 3
    odd = of(speller(), "a b", "a.b", first.replace("_", " "))
    assert len(set(odd)) == 3


def test_names_stay_from_poll_to_poll() -> None:
    ours = speller()
    one, two = of(ours, "a b", "a.b")
    assert of(ours, "a.b", "a b") == [two, one]
    assert of(ours, "a b") == [one]
    assert of(ours, "a b", "a.b", "a_b") == [one, two, "a_b"]
    assert of(ours, "a b", "a.b", "a,b") == [one, two, hashed("a_b")]


def test_names_are_told_apart_across_the_frames_of_a_poll() -> None:
    """Each database's tables are a frame of their own."""
    frames = [tables((database, "s", "t", 1, None)) for database in ("a.b", "a_b", "a,b")]
    assert [name.split(".")[4] for name in names(speller().spell(*frames))] == [
        hashed("a_b"), "a_b", hashed("a_b"),
    ]  # fmt: skip


def test_groups_and_targets_do_not_disturb_each_other() -> None:
    ours = speller()
    one = Frame.of(POOLS, POOLS.metrics, [("a b", 1)], "front")
    two = Frame.of(POOLS, POOLS.metrics, [("a.b", 1)], "back")
    assert [name.split(".")[4] for name in names(ours.spell(one, two))] == ["a_b", "a_b"]


def test_a_name_is_the_same_in_every_group() -> None:
    """Or else what is said of one database would be read as said of another."""
    stats = Query("postgres", "database", (Metric("size", "Size"),), labels={"database": ""})
    sizes = Frame.of(stats, stats.metrics, [("a b", 1), ("a_b", 2)], "main")
    heaps = tables(("a b", "s", "only here", 1, None), ("a b", "s", "only.there", 1, None))
    found = [name.split(".")[4:-1] for name in names(speller().spell(heaps, sizes))]
    assert found == [
        [hashed("a_b"), "s", "only_here"], [hashed("a_b"), "s", "only_there"],
        [hashed("a_b")], ["a_b"],
    ]  # fmt: skip


def test_who_had_a_name_keeps_it_unless_a_clean_one_comes() -> None:
    """Or else its gauges would stay behind under the name it had."""
    ours = speller()
    assert of(ours, "a b") == ["a_b"]
    assert of(ours, "a b", "a.b") == of(ours, "a b", "a.b") == ["a_b", hashed("a_b")]
    after = Speller(DIALECTS["plain"], "pgstats", known=ours.altered())  # another run
    assert of(after, "a.b", "a b", "a:b") == [hashed("a_b"), "a_b", hashed("a_b")]
    assert of(after, "a.b") == [hashed("a_b")]
    assert of(after, "a.b", "a b", "a_b") == [hashed("a_b"), hashed("a_b"), "a_b"]
    assert ours.altered() == {"table": {"a b": "a_b", "a.b": hashed("a_b")}}


def test_names_that_read_alike_are_noted_with_the_first() -> None:
    ours = speller()
    of(ours, "a b", "_other", "a:c")
    assert ours.notes == {}
    of(ours, "a b", "_other", "a:c", "a.b", "a.c")
    note = "table 'a.b' would read like another: such names end in a hash"
    assert ours.notes == {"clash": note}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_names_that_a_receiver_cuts_are_noted_once_for_each(dialect: str) -> None:
    ours = speller(dialect)
    row = ["db", "s", "", 1, None]
    start = len(speller().spell(tables(tuple(row)))) - len("none.n_dead_tup:1|g\n")
    room = 127 - start - len(".age_seconds")
    cut = {}
    for room_, who, most in ((room, "collectd", 127), (room + 73, "Datadog", 200)):
        for more in (0, 1, 2):
            long = "x" * (room_ // 2 + more)
            row[1:3] = "y" * (room_ - room_ // 2 + len("s")), long
            if dialect == "plain" and more == 1:
                cut[who] = f"{who} keeps {most} characters of a name; "
            ours.spell(tables(tuple(row)))
            assert {who: note[: len(cut[who])] for who, note in ours.notes.items()} == cut
            if more == 1 and cut:
                assert f"{row[1]}.{long}.age_seconds has {most + 1}" in ours.notes[who]


def test_long_names_without_labels_are_noted_too() -> None:
    long = Speller(DIALECTS["dogstatsd"], f"p{'x' * 200}", {})
    frame = Frame.of(GROWTH, GROWTH.metrics, [(1,)], "front")
    long.spell(frame)
    assert long.notes["Datadog"].endswith(".pgbouncer.stats.queries has 225")


def test_altered_names_are_counted_once() -> None:
    ours = speller()
    for _ in range(3):
        of(ours, "a b", "fine", "a.b", OTHER, "_other")
    assert ours.counts.altered_names == 3


def test_names_that_came_and_went_do_not_pile_up() -> None:
    ours = speller()
    for poll in range(30):
        of(ours, *(f"t {poll} {at}" for at in range(200)), "a b", "a.b")
    memory = ours._names["postgres", "main", "table"]
    assert len(memory._names) < 2500
    assert len(memory._holders) < 2500
    assert of(ours, "a b", "a.b") == [hashed("a_b"), hashed("a_b")]
    assert ours.counts.altered_names == 30 * 200 + 2
