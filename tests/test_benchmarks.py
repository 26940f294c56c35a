"""The benchmarks' own arithmetic; what they measure is measured by `make bench`."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks import meter, report
from benchmarks.case import Case, Goal, Result
from benchmarks.cases import CASES
from benchmarks.meter import Cost

BUSY = "while True: pass"


def test_cases_have_names_of_their_own_and_some_are_quick() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert any(case.quick for case in CASES)


def test_a_program_is_measured_from_its_start_to_its_end() -> None:
    cost = meter.run([sys.executable, "-c", "bytes(50 << 20); sum(range(10**6))"])
    assert cost.client > 1
    assert cost.wall > 1


def test_the_clock_of_another_process_goes_on_while_it_works() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY]) as busy:
        while meter.cpu(busy.pid) < 50:
            assert busy.poll() is None
        assert meter.tree(os.getpid()) > 50
        assert meter.status(busy.pid, "VmHWM") > 1
        busy.kill()


def test_what_a_server_takes_anyway_is_nobody_s_cost() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY]) as busy:
        assert meter.resting(lambda: meter.cpu(busy.pid), 0.5) > 50
        busy.kill()
    assert meter.asked_for(Cost(1, 16, 500), 2) == Cost(1, 15, 500)


def test_all_take_turns_and_the_first_round_does_not_count() -> None:
    turns: list[str] = []

    def turn(name: str) -> Cost:
        turns.append(name)
        return Cost(len(turns))

    found = meter.alternately({"a": lambda: turn("a"), "b": lambda: turn("b")}, 2)
    assert turns == ["a", "b"] * 3
    assert found == {"a": [Cost(3), Cost(5)], "b": [Cost(4), Cost(6)]}
    assert meter.ratio(found["b"], found["a"], lambda cost: cost.client) == (4 / 3 + 6 / 5) / 2


def test_a_goal_is_met_or_missed() -> None:
    goals = Goal("few", 2, 1), Goal("few", 1, 1), Goal("all", 99, 100, "%", least=True)
    assert [goal.met for goal in goals] == [False, True, False]
    text = report.section(Case("x", "X", lambda _: Result()), Result({"us": Cost(1)}, goals))
    assert text.count("**missed**") == 2
