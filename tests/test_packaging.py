"""What building, installing and uninstalling put where, and that nothing stays behind."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PYTHONS, ROOT, Venv, clean_environ, find_uv, make_venv, run

import blasenv
from blasenv.pythons.installed import STARTUP_FILES

HOOK = (ROOT / "blasenv" / "a0_blasenv.pth").read_text(encoding="ascii")
DIST_INFO = f"blasenv-{blasenv.__version__}.dist-info"


def package_files(source: Path) -> set[str]:
    """What a wheel of these sources holds, besides its metadata."""
    files = [*source.glob("blasenv/**/*"), *source.glob("sitecustomize_template/*")]
    names = {str(path.relative_to(source)) for path in files if path.is_file()}
    template = "sitecustomize_template/"
    return {"a0_blasenv.pth"} | {f"blasenv/{name}" if name.startswith(template) else name for name in names}


def installed(venv: Venv) -> bool:
    """Whether the hook runs in a new process."""
    result = run([venv.python, "-c", "print('ok')"], environ=clean_environ(BLASENV_DEBUG="1"))
    assert result.stdout == "ok\n"
    return result.stderr.startswith("blasenv: rule ")


def test_wheel_holds_exactly_the_package_and_the_hook(wheel: Path, source: Path) -> None:
    metadata = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt")
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) == package_files(source) | {f"{DIST_INFO}/{name}" for name in metadata}
        assert archive.read("a0_blasenv.pth").decode() == HOOK
        assert "blasenv = blasenv.cli:main" in archive.read(f"{DIST_INFO}/entry_points.txt").decode()
        assert "Root-Is-Purelib: true" in archive.read(f"{DIST_INFO}/WHEEL").decode()


def test_hook_is_one_line_that_older_and_newer_site_modules_execute() -> None:
    assert HOOK.startswith("import ")
    assert HOOK.endswith("\n")
    assert HOOK.count("\n") == 1


def test_changelog_has_the_hashes_of_what_runs_at_start_up() -> None:
    hashes = re.findall(
        r"^    ([0-9a-f]{64})  (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(hashes) == 2 + len(STARTUP_FILES)
    for expected, path in hashes:
        assert hashlib.sha256((ROOT / path).read_bytes()).hexdigest() == expected, f"sha256sum {path}"


@pytest.mark.parametrize("page", ["README.md", "SECURITY.md"])
def test_auditors_are_shown_the_hook_line(page: str) -> None:
    assert HOOK in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("editable", [False, True], ids=["", "editable"])
@pytest.mark.parametrize("uv", [False, True], ids=["pip", "uv"])
def test_install_and_uninstall(uv: bool, editable: bool, one_venv: Venv, source: Path, tmp_path: Path) -> None:
    if uv and not find_uv():
        pytest.skip("no uv on this machine")
    copy = shutil.copytree(source, tmp_path / "source")
    venv = make_venv(tmp_path / "venv", one_venv.version, pip=not uv)
    before = venv.files()
    assert not installed(venv)
    venv.install(*["--editable"] * editable, copy, uv=uv)
    assert installed(venv)
    assert (venv.site_packages / "a0_blasenv.pth").read_text(encoding="ascii") == HOOK
    where = run([venv.python, "-c", "import blasenv; print(blasenv.__file__)"]).stdout.strip()
    assert Path(where).parent == (copy if editable else venv.site_packages) / "blasenv"
    run([venv.directory / "bin" / "blasenv", "--help"])
    venv.uninstall("blasenv", uv=uv)
    assert not installed(venv)
    assert venv.files() == before
    assert not (venv.site_packages / "blasenv").exists()


def test_oldest_setuptools(source: Path, tmp_path: Path) -> None:
    """Build requirement of pyproject.toml; it runs on no CPython after 3.11."""
    version = next((version for version in ("3.11", "3.10", "3.9") if version in PYTHONS), "3.11")
    venv = make_venv(tmp_path / "venv", version, pip=True)
    venv.install("setuptools==64.0.3", "wheel", uv=False)
    copy = shutil.copytree(source, tmp_path / "source")
    for options in ([], ["--editable"]):
        before = venv.files()
        venv.install("--no-build-isolation", *options, copy, uv=False)
        assert installed(venv)
        venv.uninstall("blasenv", uv=False)
        assert venv.files() == before


def test_uv_builds_the_same_twice(source: Path, tmp_path: Path) -> None:
    """The whole path: the source archive, and from it the wheel. With `build`: test_trust.py."""
    uv = find_uv()
    if not uv:
        pytest.skip("no uv on this machine")
    hashes = []
    for attempt in ("first", "second"):
        copy = shutil.copytree(source, tmp_path / attempt, copy_function=shutil.copy)  # files of another time
        target = tmp_path / f"{attempt} built"
        command = [uv, "build", "--quiet", "--python", sys.executable, "--out-dir", str(target), str(copy)]
        run(command, environ=clean_environ(SOURCE_DATE_EPOCH="1767225600"))
        (wheel,) = target.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            assert package_files(source) < set(archive.namelist())
        (sdist,) = target.glob("*.tar.gz")
        hashes.append([hashlib.sha256(archive.read_bytes()).hexdigest() for archive in (wheel, sdist)])
        with tarfile.open(sdist) as members:
            assert f"blasenv-{blasenv.__version__}/build_hook.py" in members.getnames()
    assert hashes[0] == hashes[1]


def test_wheel_file_installs_on_every_python(
    version: str, wheel: Path, source: Path, bare_venv_of: Callable[[str], Venv]
) -> None:
    venv = bare_venv_of(version)
    before = venv.files()
    venv.install(wheel)
    try:
        assert installed(venv)
        run([venv.python, "-m", "compileall", "-q", venv.site_packages / "blasenv"])
        run([venv.directory / "bin" / "blasenv", "--version"])
        assert {name.partition("site-packages/")[2] for name in venv.files() - before} >= package_files(source)
    finally:
        venv.uninstall("blasenv")
    assert venv.files() == before
