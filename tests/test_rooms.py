"""Who may import whom. The separations of the design, read from the source."""

from __future__ import annotations

import ast
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import blasenv
from blasenv.cli import COMMANDS

PACKAGE = Path(blasenv.__file__).parent
SOURCES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
STDLIB = Path(os.__file__).parent.parts
START_UP = {"blasenv", "blasenv._config_file", "blasenv._cpu_count", "blasenv._host", "blasenv._workers"}

# What `_host.public` imports when a program asks the package for its functions; no start does.
ASKED_FOR = {"blasenv.live"}


def imports(module: str, only_types: bool = False) -> set[str]:
    """The modules that a module imports, wherever in it; those under TYPE_CHECKING only if asked for."""
    source = SOURCES[module]
    package = module if source.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node, for_types in walk(ast.parse(source.read_bytes())):
        if for_types and not only_types:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package.rsplit(".", node.level - 1)[0] if node.level else ""
            origin = ".".join(filter(None, [parent, node.module]))
            # "from . import report" names a module, "from . import __version__" does not.
            found.update(name if (name := f"{origin}.{alias.name}") in SOURCES else origin for alias in node.names)
    return found


def walk(tree: ast.AST, for_types: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every node, and whether it stands under ``if TYPE_CHECKING``."""
    yield tree, for_types
    guarded = isinstance(tree, ast.If) and isinstance(tree.test, ast.Name) and tree.test.id == "TYPE_CHECKING"
    body = tree.body if guarded and isinstance(tree, ast.If) else []
    for node in ast.iter_child_nodes(tree):
        yield from walk(node, for_types or node in body)


def at_the_top(module: str) -> set[str]:
    """The modules that are imported as soon as this one is."""
    statements = [node for node in ast.parse(SOURCES[module].read_bytes()).body if isinstance(node, ast.Import)]
    return {alias.name for node in statements for alias in node.names}


def room(module: str) -> str:
    """The folder a module is in: "commands", "machine" …, "start-up" for those, else the module's own name."""
    return "start-up" if module in START_UP else module.split(".")[1]


def ours(module: str, only_types: bool = False) -> set[str]:
    """The rooms that a module imports from, but its own."""
    return {room(name) for name in imports(module, only_types) if name.partition(".")[0] == "blasenv"} - {room(module)}


def test_the_sources_are_found() -> None:
    found = {"blasenv", "blasenv._host", "blasenv.output.report", "blasenv.cli", "blasenv.__main__"}
    assert found <= set(SOURCES)


def test_start_up_imports_what_a_bare_interpreter_has_loaded() -> None:
    assert at_the_top("blasenv") == {"os", "sys"}
    for module in START_UP:
        assert imports(module) <= {"os", "posix", "sys", *START_UP, *ASKED_FOR}, module


def test_start_up_knows_nobody_even_for_its_types() -> None:
    known = set().union(*(imports(module, only_types=True) for module in START_UP))
    assert {name for name in known if name.startswith("blasenv")} == {*START_UP, *ASKED_FOR, "blasenv._types"}


def test_what_programs_ask_for_is_imported_in_one_place() -> None:
    """`public` alone leads from start-up to another room; `blasenv` names it for type checkers."""
    assert [module for module in START_UP if imports(module) & ASKED_FOR] == ["blasenv._host"]
    tree = ast.parse(SOURCES["blasenv._host"].read_bytes())
    (public,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "public"]
    inside = [alias.name for node in ast.walk(public) if isinstance(node, ast.ImportFrom) for alias in node.names]
    everywhere = [alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert (inside, everywhere.count("live")) == (["live"], 1)


def test_what_is_sent_to_another_process_needs_nothing_of_ours() -> None:
    assert ours("blasenv.live.pools", only_types=True) == set()
    assert ours("blasenv.live.handed") == set()
    for module in ("blasenv.live.pools", "blasenv.live.handed"):
        assert at_the_top(module) <= {"os", "sys"}


def test_the_types_are_imported_for_type_checkers_only() -> None:
    assert [module for module in SOURCES if "blasenv._types" in imports(module)] == []


# Who may import from where, types included. What is not listed is imported by nobody but `cli`.
ALLOWED = {
    "start-up": {"_types", "live"},
    "_types": {"start-up", "live"},  # names them for type checkers
    "errors": set(),
    "output": {"start-up", "_types", "errors", "machine"},
    "machine": {"start-up", "_types", "errors"},
    "live": {"start-up", "_types", "errors", "machine"},
    "pythons": {"start-up", "_types", "errors", "output"},
    "inject": {"start-up", "_types", "errors", "output", "pythons"},
    "commands": {"start-up", "_types", "errors", "output", "machine", "pythons", "live", "inject"},
    "cli": {"start-up", "errors"},
    "__main__": {"cli"},
}


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_imports_run_one_way(module: str) -> None:
    assert ours(module, only_types=True) <= ALLOWED[room(module)]


def test_what_is_copied_to_stand_alone_knows_nobody() -> None:
    assert not [name for name in imports("blasenv.pythons.removal", only_types=True) if "blasenv" in name]


def test_text_knows_nobody() -> None:
    assert ours("blasenv.output.text", only_types=True) == set()


@pytest.mark.parametrize("command", [name for name, _, _ in COMMANDS])
def test_a_command_is_where_its_name_says(command: str) -> None:
    module = {name: module for name, module, _ in COMMANDS}[command]
    named = "install" if command in ("upgrade", "uninstall") else command
    assert module == f"blasenv.commands.{named}"


def of_command(module: str) -> list[str]:
    """The modules a command is made of: its own, and those below it when it is a package."""
    return [name for name in SOURCES if name == module or name.startswith(f"{module}.")]


@pytest.mark.parametrize("command", sorted({module for _, module, _ in COMMANDS}))
def test_commands_do_not_import_one_another(command: str) -> None:
    others = {name for _, module, _ in COMMANDS if module != command for name in of_command(module)}
    for module in of_command(command):
        assert not imports(module) & others, module


NEWER = {"tomllib"}  # in the standard library since Python 3.11; what is older does without


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_nothing_but_the_standard_library(module: str) -> None:
    for name in {name.partition(".")[0] for name in imports(module)} - {"blasenv"} - NEWER:
        spec = importlib.util.find_spec(name)
        assert spec, name
        assert spec.origin in ("built-in", "frozen") or Path(spec.origin or "").parts[: len(STDLIB)] == STDLIB, name
        assert "-packages" not in (spec.origin or ""), name
