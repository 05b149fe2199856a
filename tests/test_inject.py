"""blasenv inject export: what is written, and what it does to real interpreters."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import NEWEST_TESTED, PROBE, PYTHONS, Cgroup, Venv, clean_environ, make_venv, run
from instructions import CALLGRIND, collected, copy_hook
from prefix import copy_by_hand, make_prefix

from blasenv.inject import contents as contents_module
from blasenv.inject.contents import Contents, collect, render_site
from blasenv.inject.export import damage, export, keep, read_manifest
from blasenv.pythons.installed import STARTUP_FILES, template

BY = "import sys; print(getattr(getattr(sys, '_blasenv', None), 'by', None))"


@pytest.fixture(scope="module")
def collected_files() -> Contents:
    """With byte code of every Python that the tests know."""
    return collect([str(path) for path in PYTHONS.values()])


@pytest.fixture(scope="module")
def exported(collected_files: Contents, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("exported")
    export(collected_files, str(directory))
    return directory


def state(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Mode, time and contents of all that is in a directory, and of itself."""
    paths = [directory, *directory.rglob("*")]
    return {
        str(path.relative_to(directory)): (
            path.stat().st_mode,
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in paths
    }


def command(*words: str | Path, status: int = 0, **options: Any) -> str:
    """What ``blasenv inject`` says, of both outputs."""
    done = run([sys.executable, "-m", "blasenv", "inject", *words], status=status, **options)
    return done.stdout + done.stderr


def test_two_exports_are_equal_whoever_asks(tmp_path: Path) -> None:
    for name, umask in (("first", 0o022), ("second", 0o077)):
        said = command("export", tmp_path / name, preexec_fn=lambda umask=umask: os.umask(umask))
        assert f"in {tmp_path / name}\n" in said
        assert "byte code for Python 3." in said
    first = state(tmp_path / "first")
    assert first == state(tmp_path / "second")
    assert {mode & 0o777 for mode, _, _ in first.values()} == {0o755, 0o644}
    assert {"sitecustomize.py", *(f"_blasenv_startup/{name}" for name in STARTUP_FILES)} <= set(first)
    command("export", tmp_path / "first")
    assert state(tmp_path / "first") == first


def test_says_which_versions_have_no_byte_code(tmp_path: Path) -> None:
    alone = Contents(compiled={"cpython-311": (3, 11)})
    assert alone.missing == [version for version in contents_module.SUPPORTED if version != (3, 11)]
    said = command("export", tmp_path / "out")
    missing = [f"3.{minor}" for _, minor in collect().missing]
    assert (f"none for {', '.join(missing)}:" in " ".join(said.split())) == bool(missing)


def test_byte_code_counts_whatever_the_files_times(version: str, exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    for path in copy.rglob("*.pyc"):
        assert path.read_bytes()[4:8] == b"\1\0\0\0", path  # PEP 552: hash-based, not checked
    (copy / "_blasenv_startup" / "__init__.py").write_text("raise SystemExit('compiled anew')\n")
    done = run([PYTHONS[version], "-c", BY], environ=clean_environ(PYTHONPATH=str(copy)))
    assert done.stdout == f"{copy}/_blasenv_startup/__init__.py\n"


def test_every_python_gets_the_number_and_its_own_path(version: str, exported: Path, one_cpu: Cgroup) -> None:
    python = PYTHONS[version]
    path = {"PYTHONPATH": f"{exported}:/opt/of/the/image"}
    report = json.loads(one_cpu.run([python, PROBE], environ=clean_environ(**path)).stdout)
    assert (report["native"], report["receipt"]) == ("1", "OMP_NUM_THREADS=1")
    code = "import sys; print(sys.path)"
    without = run([python, "-c", code], environ=clean_environ(PYTHONPATH="/opt/of/the/image")).stdout
    assert run([python, "-c", code], environ=clean_environ(**path)).stdout == without
    # A child has PYTHONPATH, and decides for itself; -I and -E don't read it.
    child = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {BY!r}]))"
    assert run([python, "-c", child], environ=clean_environ(**path)).stdout.startswith(str(exported))
    for option in ("-I", "-E"):
        assert run([python, option, "-c", BY], environ=clean_environ(**path)).stdout == "None\n"


def test_the_images_own_sitecustomize_runs(version: str, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('own')\n")
    environ = clean_environ(PYTHONPATH=f"{exported}:{tmp_path}")
    code = "import sitecustomize; print(sitecustomize.__file__)"
    said = run([PYTHONS[version], "-B", "-c", code], environ=environ).stdout
    assert said == f"own\n{tmp_path}/sitecustomize.py\n"
    off = run([PYTHONS[version], "-B", "-c", BY], environ={**environ, "BLASENV_DISABLE": "1"}).stdout
    assert off == "own\nNone\n"


def test_beside_a_hook_or_an_installed_copy_one_acts(exported: Path, tmp_path: Path) -> None:
    version = next(version for version, path in PYTHONS.items() if path == NEWEST_TESTED)
    environ = clean_environ(PYTHONPATH=str(exported), BLASENV_DEBUG="1")

    def acted(venv: Venv) -> str:
        done = run([venv.python, "-c", BY], environ=environ)
        assert len(done.stderr.splitlines()) == 1
        return done.stdout.strip()

    hooked = make_venv(tmp_path / "hooked", version)
    copy_hook(hooked.site_packages)
    assert acted(hooked) == f"{hooked.site_packages}/blasenv/__init__.py"
    copied = make_venv(tmp_path / "copied", version)
    copy_by_hand(copied.site_packages)
    assert acted(copied) == f"{exported}/_blasenv_startup/__init__.py"


def test_a_directory_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("precious\n")
    before = state(tmp_path)
    assert "holds what is not blasenv's; name a directory that is empty or new" in command("export", tmp_path, status=1)
    assert "not a directory" in command("export", tmp_path / "data", status=1)
    (tmp_path / "manifest.json").write_text('{"schema": 1, "files": {}}')
    assert "holds what is not blasenv's" in command("export", tmp_path, status=1)
    (tmp_path / "manifest.json").unlink()
    assert {name: entry[2] for name, entry in state(tmp_path).items()} == {name: x[2] for name, x in before.items()}
    if os.geteuid() == 0:
        assert "cannot be written" in command("export", "/proc/blasenv", status=1)
    assert "is no Python interpreter" in command("export", tmp_path / "new", "--python", "/bin/sh", status=1)


def test_an_export_replaces_the_former_one_and_touches_nothing_else(collected_files: Contents, tmp_path: Path) -> None:
    directory = tmp_path / "out"
    outside = tmp_path / "outside.pyc"
    outside.write_text("stays")
    export(collected_files, str(directory))
    manifest = directory / "manifest.json"
    document = json.loads(manifest.read_text())
    document["files"].update({"_blasenv_startup/old.py": "0", "../outside.pyc": "0", "/etc/passwd": "0"})
    manifest.write_text(json.dumps(document))
    (directory / "_blasenv_startup" / "old.py").write_text("")
    (directory / "notes.txt").write_text("the owner's")
    export(collected_files, str(directory))
    assert not (directory / "_blasenv_startup" / "old.py").exists()
    assert (directory / "notes.txt").read_text() == "the owner's"
    assert outside.read_text() == "stays"
    assert os.path.exists("/etc/passwd")


def test_damage_is_named(collected_files: Contents, tmp_path: Path) -> None:
    directory = tmp_path / "out"
    assert damage(str(directory)) == f"nothing is exported to {directory}: blasenv inject export {directory}"
    export(collected_files, str(directory))
    assert damage(str(directory)) == ""
    (directory / "_blasenv_startup" / "_host.py").unlink()
    assert "_host.py is not as it was exported" in damage(str(directory))
    other = Contents({**collected_files.files, "_blasenv_startup/_host.py": b"old = 1\n"}, collected_files.compiled)
    export(other, str(directory))
    assert "of another version" in damage(str(directory))


def test_byte_code_of_several_machines_comes_together(collected_files: Contents, tmp_path: Path) -> None:
    def only(tag: str) -> Contents:
        files = {name: code for name, code in collected_files.files.items() if ".pyc" not in name or f".{tag}." in name}
        return Contents(files, {tag: collected_files.compiled[tag]})

    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    export(collected_files, whole)
    for tag in collected_files.compiled:
        part = only(tag)
        keep(part, parts)
        export(part, parts)
    assert state(Path(parts)) == state(Path(whole))
    # Of other sources, it would count, and be wrong.
    stale = Contents({**collected_files.files, "_blasenv_startup/_host.py": b"old = 1\n"}, {})
    export(stale, parts)
    part = only(next(iter(collected_files.compiled)))
    keep(part, parts)
    assert len(part.compiled) == 1


def test_a_template_of_another_shape_is_no_ground_to_build_on() -> None:
    assert render_site(template()).isascii()
    with pytest.raises(Exception, match="install blasenv again"):
        render_site(template().replace(b"_find_hidden()\n", b"None\n"))


def test_a_manifest_that_is_no_manifest(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"blasenv": 1, "schema": 1, "files": 3}', '{"blasenv": 1, "schema": 2}', "\0"):
        (tmp_path / "manifest.json").write_text(text)
        assert read_manifest(str(tmp_path)) is None


def test_killed_half_way_no_start_sees_half_of_it(
    collected_files: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "out"
    export(collected_files, str(directory))
    replace: Callable[..., None] = os.replace
    for stop in range(len(collected_files.files) + 1):
        left = [stop]

        def dies(old: str, new: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            replace(old, new)

        monkeypatch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            export(collected_files, str(directory))
        monkeypatch.undo()
        assert damage(str(directory))
        assert not (directory / "sitecustomize.py").exists()
    done = run([NEWEST_TESTED, "-c", BY], environ=clean_environ(PYTHONPATH=str(directory)))
    assert (done.stdout, done.stderr) == ("None\n", "")
    export(collected_files, str(directory))
    assert damage(str(directory)) == ""


def test_a_start_costs_no_more_than_one_and_a_half_of_sitecustomize(
    exported: Path, tmp_path: Path, version: str, one_cpu: Cgroup
) -> None:
    if not shutil.which("valgrind"):
        pytest.skip("no valgrind on this machine")
    # An installation of its own: on Debian, the standard library's sitecustomize hides one in site-packages.
    prefix = make_prefix(tmp_path / "prefix", version)

    def count(**changes: str) -> int:
        environ = clean_environ(PYTHONHASHSEED="0", **changes)
        one_cpu.run([prefix.python, "-c", "pass"], environ=environ)
        return collected(one_cpu.run([*CALLGRIND, prefix.python, "-c", "pass"], environ=environ).stderr)

    bare = count()
    injected = count(PYTHONPATH=str(exported)) - bare
    copy_by_hand(prefix.stdlib)
    beside = count() - bare
    print(f"{version}: injected {injected / 1e6:.2f} M, as sitecustomize {beside / 1e6:.2f} M")
    assert 0 < injected < 1.5 * beside
