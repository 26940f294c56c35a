"""Each cell of the table: one fault, one target, one command."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.faults.table import FAULTS, TARGETS, Fault
from tests.faults.world import PATIENCE, World, told, wait_for


def cells() -> Iterator[object]:
    """All cells; those that take long are for the full run."""
    for fault in FAULTS:
        for whom in fault.whom:
            for command in fault.commands:
                if command == "why" and whom == "pgbouncer":
                    continue  # it asks PostgreSQL
                quick = fault.quick and command == "once"
                marks = [] if quick else [pytest.mark.full]
                name = f"{fault.name}|{whom}|{command}"
                yield pytest.param(fault, whom, command, id=name, marks=marks)


@pytest.mark.parametrize(("fault", "whom", "command"), list(cells()))
def test_fault(
    fault: Fault,
    whom: str,
    command: str,
    world: World,
    record_property: Callable[[str, object], None],
) -> None:
    record_property("cell", f"{fault.name}|{whom}|{command}")
    with fault.scene(world, whom):
        {"once": once, "run": run, "why": why, "check": check}[command](fault, whom, world)


def codes(fault: Fault, command: str, usual: int) -> tuple[int, ...]:
    return dict(fault.codes).get(command, (usual,))


def once(fault: Fault, whom: str, world: World) -> None:
    """All that can be read has arrived, and the exit code says that something has failed."""
    with fault.strike(world, whom):
        done = world.run("once", whom, "--verbose")
    assert told(done.stdout + done.stderr) == []
    assert done.stdout == ""
    assert done.returncode in codes(fault, "once", 1 if fault.reason else 0), done.stderr
    if not fault.codes:
        assert wait_for(lambda: arrived(fault, whom, world, one_shot=True)), seen(world)


def run(fault: Fault, whom: str, world: World) -> None:
    """It arrives while the fault lasts; all of it when it is over; and a signal ends it."""
    with world.running(whom) as daemon:
        assert wait_for(lambda: well(whom, world)), (world.log.read_text(), seen(world))
        with fault.strike(world, whom):
            if not fault.codes:
                world.sink.forget()
                during = wait_for(lambda: arrived(fault, whom, world, one_shot=False))
                assert during, (world.log.read_text(), seen(world))
        world.sink.forget()
        assert wait_for(lambda: well(whom, world)), (world.log.read_text(), seen(world))
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(PATIENCE) == 0
    assert told(world.log.read_text()) == []


def why(fault: Fault, whom: str, world: World) -> None:
    """It gives a verdict, or says that it cannot."""
    with fault.strike(world, whom):
        done = world.run("why", whom, "--json")
    assert told(done.stdout + done.stderr) == []
    documents = {one["target"]: one for one in json.loads(done.stdout)}
    assert documents["main"]["verdict"] in ("clear", "held")
    if fault.reason:
        assert done.returncode == 69, done.stderr
        assert documents["struck"]["verdict"] == "unknown"
    else:
        assert done.returncode in (0, 1), done.stderr


def check(fault: Fault, whom: str, world: World) -> None:
    """It names what does not work."""
    with fault.strike(world, whom):
        done = world.run("check", whom)
    assert told(done.stdout + done.stderr) == []
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed")]
    assert done.returncode == (1 if fault.reason else 0), done.stdout
    assert [line for line in failed if not line.startswith("failed struck: ")] == []
    assert bool(failed) == bool(fault.reason)
    for sound in ("main", "front"):
        assert f"ok     {sound}: " in done.stdout


def arrived(fault: Fault, whom: str, world: World, *, one_shot: bool) -> bool:
    """Whether all that must has come from the struck target, and all from the sound ones."""
    found = world.sink.gauges()
    if whom not in TARGETS or not fault.reason or (fault.kept == "up" and not one_shot):
        return well(whom, world, whole=not fault.reason)
    name = f"pgstats.{whom}.struck"
    reasons = [reason for reason in fault.reason if found.get(f"{name}.down.{reason}.count") == 1]
    return found.get(f"{name}.up") == 0 and len(reasons) == 1 and _sound(found)


def well(whom: str, world: World, *, whole: bool = True) -> bool:
    """Whether all targets are up, and each question of each was answered."""
    found = world.sink.gauges()
    if whom not in TARGETS:
        return _sound(found)
    whole = not whole or found.get("pgstats.self.poll.struck.ok") == 1
    return found.get(f"pgstats.{whom}.struck.up") == 1 and whole and _sound(found)


def _sound(found: dict[str, float]) -> bool:
    """Whether the targets that nothing happened to were polled in full."""
    wanted = ("postgres.main.up", "pgbouncer.front.up", "self.poll.main.ok", "self.poll.front.ok")
    return all(found.get(f"pgstats.{name}") == 1 for name in wanted)


def seen(world: World) -> dict[str, float]:
    """What arrived of the verdicts, for whoever reads a failure."""
    gauges = world.sink.gauges().items()
    return {k: v for k, v in gauges if k.endswith((".up", ".ok")) or (".down." in k and v)}
