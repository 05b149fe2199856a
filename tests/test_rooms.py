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
START_UP = {"blasenv", "blasenv._rare"}


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


def test_the_sources_are_found() -> None:
    assert {"blasenv", "blasenv._rare", "blasenv.report", "blasenv.cli", "blasenv.__main__"} <= set(SOURCES)


def test_start_up_imports_what_a_bare_interpreter_has_loaded() -> None:
    assert imports("blasenv") == {"os", "sys", "blasenv._rare"}
    assert at_the_top("blasenv") == {"os", "sys"}
    assert imports("blasenv._rare") == {"os", "sys", "blasenv"}


def test_start_up_knows_nobody_even_for_its_types() -> None:
    known = set().union(*(imports(module, only_types=True) for module in START_UP))
    assert {name for name in known if name.startswith("blasenv")} == {*START_UP, "blasenv._types"}


def test_the_types_are_imported_for_type_checkers_only() -> None:
    assert [module for module in SOURCES if "blasenv._types" in imports(module)] == []


def test_a_report_knows_only_types_and_text() -> None:
    ours = {name for name in imports("blasenv.report", only_types=True) if name.startswith("blasenv")}
    assert ours <= {"blasenv._types", "blasenv.text"}


def test_text_knows_nobody() -> None:
    assert not {name for name in imports("blasenv.text", only_types=True) if name.startswith("blasenv")}


def of_command(module: str) -> list[str]:
    """The modules a command is made of: its own, and those below it when it is a package."""
    return [name for name in SOURCES if name == module or name.startswith(f"{module}.")]


@pytest.mark.parametrize("command", sorted({module for _, module, _ in COMMANDS}))
def test_commands_do_not_import_one_another(command: str) -> None:
    others = {name for _, module, _ in COMMANDS if module != command for name in of_command(module)}
    for module in of_command(command):
        assert not imports(module) & others, module


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_nobody_imports_the_command_line(module: str) -> None:
    assert module == "blasenv.__main__" or "blasenv.cli" not in imports(module)


NEWER = {"tomllib"}  # in the standard library since Python 3.11; what is older does without


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_nothing_but_the_standard_library(module: str) -> None:
    for name in {name.partition(".")[0] for name in imports(module)} - {"blasenv"} - NEWER:
        spec = importlib.util.find_spec(name)
        assert spec, name
        assert spec.origin in ("built-in", "frozen") or Path(spec.origin or "").parts[: len(STDLIB)] == STDLIB, name
        assert "-packages" not in (spec.origin or ""), name
