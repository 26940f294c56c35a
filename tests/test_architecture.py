"""The shape of the program, read from its syntax trees.

Each rule is a function from modules to offences. It is applied to the package, where it must find
none, and to a planted offence, which it must find.
"""

from __future__ import annotations

import ast
import configparser
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: What the stages hand to each other. They import no verb.
NOUNS = {"errors", "noun", "model", "evidence", "catalogue", "overview"}
#: Small helpers below the stages. They import nothing else of pgstats.
TOOLS = {"late", "lookup", "log", "printing", "threads"}
#: Those of them that everybody may use; the log is handed in.
SHARED = {"lookup", "printing", "threads"}
#: The only parts that know the others and compose them: for people, and for other programs, who
#: find it as `pgstats.instrument`.
COMPOSERS = {"cli", "__main__", "instrumenting", "instrument", ""}
#: The stages that must give the same answer for the same input, whenever and wherever.
PURE = NOUNS | {"shape", "spell", "why", "render"}

#: The one part that may import each foreign library.
DOORS = {
    "psycopg2": "ask",
    "statsd": "ship",
    "schedule": "daemon",
    "click": "cli",
    "rich": "screen",
}
#: Who may read the environment besides the command line: `ask` speaks for libpq, whose own
#: variables count; `scratch` hands it on to the servers that it starts.
ENVIRONMENT = COMPOSERS | {"ask", "scratch"}
#: Who may read the wall clock: the log takes it as the default of an argument.
WALL_CLOCK = COMPOSERS | {"log"}
#: Who may speak on standard output.
OUTPUT = COMPOSERS | {"demo", "sink"}

IMPURE = {"datetime", "os", "pathlib", "random", "select", "socket", "subprocess", "sys"}
IMPURE |= {"tempfile", "threading", "time"}
CHANGING = {"add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "remove"}
CHANGING |= {"setdefault", "update"}


@dataclass(frozen=True)
class Module:
    """One file: its dotted name and its tree."""

    name: str
    tree: ast.Module

    @property
    def part(self) -> str:
        """The stage it belongs to: pgstats.ask.postgres is part of ask."""
        return self.name.split(".")[1] if "." in self.name else ""

    def imports(self) -> set[str]:
        """Every module it imports, wherever in the file, with `from a import b` as a and a.b."""
        found = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name} has a relative import"
                assert node.module
                found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        return found

    def libraries(self) -> set[str]:
        """The top-level names of what it imports, without pgstats itself."""
        return {name.split(".")[0] for name in self.imports()} - {"pgstats"}


Rule = Callable[[list[Module]], set[str]]


def package(folder: Path) -> list[Module]:
    """Every module of the package below a folder."""
    return [
        Module(_dotted(path.relative_to(folder)), ast.parse(path.read_text(), str(path)))
        for path in sorted(folder.glob("pgstats/**/*.py"))
    ]


def _dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def parts_know_only_what_they_may(modules: list[Module]) -> set[str]:
    """Nouns know nouns, verbs nouns and tools, tools shared ones; nobody knows a composer."""
    parts = {module.part for module in modules} | COMPOSERS
    return {
        f"{module.name} imports {other}"
        for module in modules
        for other in parts & {name.split(".")[1] for name in _ours(module.imports())}
        if other not in _known_to(module.part)
    }


def _ours(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith("pgstats.")}


def _known_to(part: str) -> set[str]:
    """The parts that one part may import."""
    if part in COMPOSERS:
        return {module.part for module in MODULES} | COMPOSERS
    if part in NOUNS:
        return NOUNS
    return {part} | SHARED | (set() if part in TOOLS else NOUNS)


def libraries_have_one_door(modules: list[Module]) -> set[str]:
    """Every library that is not Python's own is imported by its one part."""
    return {
        f"{module.name} imports {library}"
        for module in modules
        for library in module.libraries() - set(sys.stdlib_module_names)
        if DOORS.get(library) != module.part
    }


def pure_parts_touch_no_world(modules: list[Module]) -> set[str]:
    """No clock, no file, no socket, no environment in nouns, shaping and spelling."""
    return {
        f"{module.name} imports {library}"
        for module in modules
        if module.part in PURE
        for library in module.libraries() & IMPURE
    }


def the_environment_comes_in_from_the_edge(modules: list[Module]) -> set[str]:
    """os.environ and os.getenv stay where they belong."""
    names = {"os.environ", "os.environb", "os.getenv", "os.getenvb"}
    return _uses(modules, names, ENVIRONMENT)


def the_wall_clock_comes_in_from_the_edge(modules: list[Module]) -> set[str]:
    """So do the date and the time of day; measuring with time.monotonic is free."""
    names = {"time.time", "time.time_ns", "time.localtime", "time.ctime"}
    names |= {f"datetime.{name}" for name in ("now", "utcnow", "today")} | {"date.today"}
    return _uses(modules, names, WALL_CLOCK)


def results_are_printed_at_the_edge(modules: list[Module]) -> set[str]:
    """Standard output carries results, which are the command line's."""
    return _uses(modules, {"print", "sys.stdout"}, OUTPUT)


def _uses(modules: list[Module], names: set[str], allowed: set[str]) -> set[str]:
    """Where one of those dotted names is used or imported by a part that may not."""
    return {
        f"{module.name} uses {name}"
        for module in modules
        if module.part not in allowed
        for name in names & (module.imports() | set(_dotted_names(module.tree)))
    }


def _dotted_names(tree: ast.Module) -> Iterator[str]:
    """Every name, and every attribute with the last name before it: `a.b.c` gives a, a.b, b.c."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            before = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            yield f"{before}.{node.attr}"


def modules_hold_no_state(modules: list[Module]) -> set[str]:
    """No `global`, and no function changes what a module holds."""
    return {
        f"{module.name}:{getattr(node, 'lineno', '')} changes {name}"
        for module in modules
        for node, name in _changes(module.tree)
    }


def _changes(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Where functions rebind or change names of their module."""
    globals_ = {name for node in tree.body for name in _assigned(node)}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            shared = globals_ - _locals(function)
            for node in ast.walk(function):
                yield from ((node, name) for name in _changed(node) if name in shared)
                if isinstance(node, ast.Global):
                    yield from ((node, name) for name in node.names)


def _assigned(node: ast.stmt) -> set[str]:
    """The names that a statement of a module assigns."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _locals(function: ast.FunctionDef) -> set[str]:
    """The names that a function binds itself."""
    arguments = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    return arguments | {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def _changed(node: ast.AST) -> Iterator[str]:
    """The names whose objects a node changes: x[...] = y, del x[...], x.a = y, x.append(y)."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        inner = node.func.value if node.func.attr in CHANGING else None
    elif isinstance(node, ast.Subscript | ast.Attribute) and not isinstance(node.ctx, ast.Load):
        inner = node.value
    else:
        inner = None
    if isinstance(inner, ast.Name):
        yield inner.id


MODULES = package(ROOT)

#: Each rule and a file that breaks it, by its module's name.
PLANTED: Mapping[Rule, tuple[str, str]] = {
    parts_know_only_what_they_may: ("pgstats.ask.x", "def f():\n    from pgstats import ship"),
    libraries_have_one_door: ("pgstats.spell", "import psycopg2.extensions"),
    pure_parts_touch_no_world: ("pgstats.catalogue.x", "from os import path"),
    the_environment_comes_in_from_the_edge: ("pgstats.config.x", "import os\nos.environ['A']"),
    the_wall_clock_comes_in_from_the_edge: ("pgstats.ship", "import time\nf = time.time"),
    results_are_printed_at_the_edge: ("pgstats.ask", "print(1)"),
    modules_hold_no_state: ("pgstats.ask", "SEEN = {}\ndef f(x):\n    SEEN[x] = 1"),
}


@pytest.mark.parametrize("rule", PLANTED, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    assert rule(MODULES) == set()


@pytest.mark.parametrize("rule", PLANTED, ids=lambda rule: rule.__name__)
def test_the_rule_bites(rule: Rule) -> None:
    name, text = PLANTED[rule]
    others = [module for module in MODULES if module.name != name]
    assert len(rule([*others, Module(name, ast.parse(text))])) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pgstats.model", "from pgstats.ask import asker"),
        ("pgstats.errors", "import pgstats.spell"),
        ("pgstats.daemon.x", "from pgstats.log import Log"),
        ("pgstats.ship", "from pgstats.cli import main"),
        ("pgstats.daemon.x", "from pgstats import instrument"),
        ("pgstats.lookup", "from pgstats.errors import AskError"),
    ],
)
def test_forbidden_acquaintances(name: str, text: str) -> None:
    assert parts_know_only_what_they_may([*MODULES, Module(name, ast.parse(text))])


@pytest.mark.parametrize(
    "change", ["X.append(1)", "del X[0]", "X[0] += 1", "X.a = 1", "global X\n    X = 1"]
)
def test_ways_to_hold_state(change: str) -> None:
    text = f"X = []\ndef f():\n    {change}"
    assert modules_hold_no_state([Module("pgstats.ask", ast.parse(text))])
    own = f"X = []\ndef f():\n    X = []\n    {change}"
    if "global" not in change:
        assert modules_hold_no_state([Module("pgstats.ask", ast.parse(own))]) == set()


def test_what_is_installed_is_what_has_a_door() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    needed = config["options"]["install_requires"].split("\n")
    names = {line.partition(">")[0].removesuffix("-binary") for line in needed if line}
    assert names == set(DOORS)
