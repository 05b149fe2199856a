"""``blasenv install``, ``upgrade`` and ``uninstall`` on real installations."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NEWEST_TESTED, PYTHONS, ROOT, Cgroup, clean_environ, run
from prefix import TEMPLATE, Prefix, copy_by_hand, make_prefix
from snapshot import snapshot

from blasenv.pythons.installed import STARTUP_FILES, digest

NEWEST = next(version for version, path in PYTHONS.items() if path == NEWEST_TESTED)
BY = "import sys; print(getattr(getattr(sys, '_blasenv', None), 'by', None))"


@pytest.fixture
def prefix(tmp_path: Path) -> Prefix:
    return make_prefix(tmp_path / "prefix", NEWEST)


def blasenv(*words: str | Path, status: int | None = 0, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run the command from this checkout."""
    environ = clean_environ(PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1", **changes)
    return run([sys.executable, "-m", "blasenv", *words], environ=environ, status=status)


def scanned(place: Path) -> dict[str, dict[str, object]]:
    """What scan says of the interpreters below ``place``, by the path from there."""
    found = json.loads(blasenv("scan", "--json", place).stdout)["interpreters"]
    return {os.path.relpath(one["path"], place.resolve()): one for one in found}


def test_install_and_uninstall(version: str, tmp_path: Path, one_cpu: Cgroup) -> None:
    prefix = make_prefix(tmp_path / "prefix", version)
    before = snapshot(prefix.directory)
    plan = blasenv("install", "--dry-run", prefix.python).stdout
    assert f"{prefix.stdlib}/sitecustomize.py" in plan
    assert snapshot(prefix.directory) == before

    assert blasenv("install", prefix.python).stdout.startswith(plan)
    assert one_cpu.run([prefix.python, "-B", "-c", "import os; print(os.environ['BLASENV_SET'])"]).stdout == (
        "OMP_NUM_THREADS=1\n"
    )
    (one,) = scanned(tmp_path).values()
    assert (one["covered_by"], one["intact"], one["compiled"]) == (["sitecustomize"], True, True)
    placed = snapshot(prefix.directory)
    assert "in place already" in blasenv("install", prefix.python).stdout
    assert snapshot(prefix.directory) == placed

    blasenv("uninstall", prefix.python)
    assert snapshot(prefix.directory) == before
    assert "nothing of blasenv" in blasenv("uninstall", prefix.python).stdout


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "not UTF-8"])
def test_a_former_sitecustomize_runs_on_and_comes_back(kind: str, prefix: Prefix, tmp_path: Path) -> None:
    site = prefix.stdlib / "sitecustomize.py"
    if "link" in kind:
        site.symlink_to(tmp_path / "elsewhere.py")
    if kind != "dangling link":
        site.write_bytes(b"print('former')\n" + (b"# \xff\n" if kind == "not UTF-8" else b""))
        site.chmod(0o640)
    run([prefix.python, "-c", "pass"])  # Python writes its .pyc, and those of its own modules
    run([prefix.python, "-O", "-S", "-c", "pass"])
    before, started = snapshot(tmp_path), run([prefix.python, "-c", "pass"])
    blasenv("install", prefix.python)
    after = run([prefix.python, "-c", BY])
    assert after.stdout == f"{started.stdout}{prefix.stdlib}/_blasenv_startup/__init__.py\n"
    run([prefix.python, "-O", "-c", "pass"])  # leaves more .pyc files
    blasenv("uninstall", prefix.python)
    assert snapshot(tmp_path) == before


def test_upgrade_replaces_another_version(prefix: Prefix) -> None:
    before = snapshot(prefix.directory)
    blasenv("install", prefix.python)
    placed = {name: path.read_bytes() for name, path in files(prefix).items()}
    make_older(prefix)
    (one,) = scanned(prefix.directory).values()
    assert (one["blasenv"], one["advice"]) == ("0.0.1", f"blasenv upgrade {prefix.python}")
    blasenv("upgrade", prefix.python)
    assert {name: path.read_bytes() for name, path in files(prefix).items()} == placed
    make_older(prefix)
    blasenv("uninstall", prefix.python)
    assert snapshot(prefix.directory) == before


def files(prefix: Prefix) -> dict[str, Path]:
    startup = prefix.stdlib / "_blasenv_startup"
    return {
        path.name: path for path in (prefix.stdlib / "sitecustomize.py", *(startup / name for name in STARTUP_FILES))
    }


def make_older(prefix: Prefix) -> None:
    """Make what was installed look as if another version had done it."""
    manifest = prefix.stdlib / "_blasenv_startup" / "manifest.json"
    fields = json.loads(manifest.read_text())
    fields["version"] = "0.0.1"
    for name, path in files(prefix).items():
        text = path.read_text()
        version = text.partition('__version__ = "')[2].partition('"')[0]
        text = text.replace(f'__version__ = "{version}"', '__version__ = "0.0.1"') + "# older\n"
        path.write_text(text)
        key = name if name == "sitecustomize.py" else f"_blasenv_startup/{name}"
        fields["files"][key] = [digest(path.read_bytes())]
    manifest.write_text(json.dumps(fields))


def test_a_damaged_copy_is_noticed_and_repaired(prefix: Prefix) -> None:
    blasenv("install", prefix.python)
    placed = snapshot(prefix.stdlib).keys()
    for name, path in files(prefix).items():
        if name != "sitecustomize.py":
            path.write_text("# cut")
        else:
            path.unlink()
        (one,) = scanned(prefix.directory).values()
        assert name in str(one["problems"])
        assert blasenv("scan", "--strict", prefix.directory, status=1).stdout
        blasenv("install", prefix.python)
        (one,) = scanned(prefix.directory).values()
        assert one["intact"]
        assert snapshot(prefix.stdlib).keys() == placed


def test_a_copy_made_by_hand_is_recognised_taken_over_and_removed(prefix: Prefix) -> None:
    before = snapshot(prefix.directory)
    copy_by_hand(prefix.stdlib)
    (one,) = scanned(prefix.directory).values()
    assert (one["covered_by"], one["intact"], one["compiled"]) == (["sitecustomize"], True, False)
    blasenv("install", prefix.python)
    (one,) = scanned(prefix.directory).values()
    assert one["compiled"]
    blasenv("uninstall", prefix.python)
    assert snapshot(prefix.directory) == before
    copy_by_hand(prefix.stdlib)
    blasenv("uninstall", prefix.python)
    assert snapshot(prefix.directory) == before


def test_for_a_venv_it_is_the_base_that_is_covered(prefix: Prefix, tmp_path: Path) -> None:
    venv = prefix.venv(tmp_path / "venv", "--copies")
    before = snapshot(venv.directory)
    assert str(prefix.stdlib) in blasenv("install", venv.python).stdout
    assert snapshot(venv.directory) == before
    found = scanned(tmp_path)
    assert found[f"venv/bin/python{NEWEST}"]["covered_by"] == ["inherited"]
    assert blasenv("scan", "--strict", tmp_path).stdout.endswith("All 2 covered.\n")


def test_a_copy_outlives_its_owner_and_takes_itself_away(
    prefix: Prefix, tmp_path: Path, wheel: Path, one_cpu: Cgroup
) -> None:
    (prefix.stdlib / "sitecustomize.py").write_text("import sys\nsys.former = True\n")
    site = prefix.site_packages
    before = snapshot(prefix.directory)
    environ = clean_environ(PYTHONDONTWRITEBYTECODE="1")

    def pip(command: str, *words: str | Path) -> None:
        start: list[str | Path] = [sys.executable, "-m", "pip", "--quiet", "--python", prefix.python, command]
        by_force = ["--break-system-packages"] if (prefix.stdlib / "EXTERNALLY-MANAGED").exists() else []
        run([*start, *by_force, *words], environ=environ)

    pip("install", "--no-index", "--no-deps", wheel)
    run([prefix.python, "-m", "blasenv", "install", prefix.python], environ=environ)
    pip("uninstall", "--yes", "blasenv")
    assert not list(site.rglob("*blasenv*"))
    # The command is gone, and the copy decides as before.
    ask = "import os, sys; print(os.environ['BLASENV_SET'], sys.former, sys._blasenv.by)"
    copy = prefix.stdlib / "_blasenv_startup"
    assert one_cpu.run([prefix.python, "-B", "-c", ask]).stdout == f"OMP_NUM_THREADS=1 True {copy}/__init__.py\n"

    placed = snapshot(prefix.directory)
    remove: list[str | Path] = [prefix.python, "-B", "-m", "_blasenv_startup"]
    plan = run([*remove, "--dry-run"]).stdout
    assert plan.splitlines()[-1] == f"remove {copy}"
    assert snapshot(prefix.directory) == placed
    assert "usage: " in run([*remove, "--help"], status=2).stderr
    # From a venv as well: it is the base's copy that goes.
    run([prefix.python, "-B", "-m", "venv", "--without-pip", tmp_path / "venv"])
    assert run([tmp_path / "venv" / "bin" / "python", *remove[1:]]).stdout == plan
    for directory in [*prefix.site_packages.parents, prefix.directory / "bin"]:
        if directory.is_relative_to(prefix.directory) and not any(directory.iterdir()):
            directory.rmdir()  # pip leaves them
    assert snapshot(prefix.directory) == before


def test_the_copy_does_not_take_away_what_somebody_changed(prefix: Prefix) -> None:
    blasenv("install", prefix.python)
    site = prefix.stdlib / "sitecustomize.py"
    site.write_text(TEMPLATE.read_text() + "import sys\n")
    changed = snapshot(prefix.stdlib)
    refusal = run([prefix.python, "-B", "-m", "_blasenv_startup"], status=1).stderr
    assert refusal == f"_blasenv_startup: {site} was changed after blasenv placed it; move it elsewhere and try again\n"
    assert snapshot(prefix.stdlib) == changed


def test_changed_by_somebody(prefix: Prefix) -> None:
    blasenv("install", prefix.python)
    site = prefix.stdlib / "sitecustomize.py"
    site.write_text(TEMPLATE.read_text() + "print('mine')\n")
    changed = snapshot(prefix.stdlib)
    for command in ("install", "uninstall", "upgrade"):
        refusal = blasenv(command, prefix.python, status=1).stderr
        assert refusal == f"blasenv: {site} was changed after blasenv placed it; move it elsewhere and try again\n"
        assert snapshot(prefix.stdlib) == changed


def test_replaced_by_somebody(prefix: Prefix) -> None:
    before = snapshot(prefix.stdlib)
    blasenv("install", prefix.python)
    site = prefix.stdlib / "sitecustomize.py"
    site.write_text("print('another')\n")
    (one,) = scanned(prefix.directory).values()
    assert (one["covered_by"], one["problems"]) == ([], ["sitecustomize.py is somebody else's"])
    blasenv("uninstall", prefix.python)
    assert site.read_text() == "print('another')\n"
    site.unlink()
    assert snapshot(prefix.stdlib) == before


def test_an_interpreter_that_starts_otherwise_afterwards_is_left_alone(prefix: Prefix) -> None:
    # Its own start-up code complains of a sitecustomize that is not the one it expects.
    (prefix.site_packages / "complain.pth").write_text(
        "import os, sys; '_blasenv_startup' in os.listdir(os.path.dirname(os.__file__)) and print('who is that?')\n"
    )
    before = snapshot(prefix.directory)
    assert "who is that?" in blasenv("install", prefix.python, status=1).stderr
    assert snapshot(prefix.directory) == before


def test_an_interpreter_that_does_not_run_it_is_left_alone(prefix: Prefix) -> None:
    # Something else is imported in its place.
    (prefix.site_packages / "early.pth").write_text("import sys; sys.modules['sitecustomize'] = sys\n")
    before = snapshot(prefix.directory)
    assert "blasenv did not run" in blasenv("install", prefix.python, status=1).stderr
    assert snapshot(prefix.directory) == before


def test_refusals(prefix: Prefix, tmp_path: Path) -> None:
    def refused(*words: str | Path, status: int = 1) -> str:
        before = snapshot(prefix.directory)
        said = blasenv("install", *words, status=status).stderr
        assert snapshot(prefix.directory) == before
        assert said.startswith("blasenv: ")
        return said

    assert "say --all" in refused(status=2)
    assert "say --all" in refused("--all", prefix.python, status=2)
    assert "there is no" in refused(tmp_path / "nowhere" / "python3")
    script = tmp_path / "python3"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert "a script that starts one?" in refused(script)
    venv = prefix.venv(tmp_path / "venv", "--copies")
    cfg = (venv.directory / "pyvenv.cfg").read_text()
    (venv.directory / "pyvenv.cfg").write_text(cfg.replace(str(prefix.directory), str(tmp_path / "gone")))
    assert "is gone" in refused(venv.python)
    (prefix.stdlib / "sitecustomize.py").mkdir()
    assert "is a directory" in refused(prefix.python)
    (prefix.stdlib / "sitecustomize.py").rmdir()
    prefix.python.chmod(0o644)
    assert "no Python interpreter" in refused(prefix.python)


def test_says_what_stands_in_the_place_of_an_interpreter(tmp_path: Path) -> None:
    (tmp_path / "nosuchpython").write_text("")
    (tmp_path / "true").symlink_to(str(shutil.which("true")))
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    command = [sys.executable, "-m", "blasenv", "install"]
    for name, sentence in {
        "nosuchinterpreter": "no nosuchinterpreter on PATH; blasenv scan lists",
        "nosuchpython": "no nosuchpython on PATH; the file here is ./nosuchpython; blasenv scan lists",
        f"{tmp_path}/gone": f"there is no {tmp_path}/gone; blasenv scan lists",
        f"{tmp_path}/": f"{tmp_path}/ is a directory; name the interpreter in it, such as {tmp_path}/bin/python3",
        "./true": "./true is no Python interpreter: no standard library lies with it",
        "./script": "./script is no Python interpreter (a script that starts one?); blasenv scan lists",
    }.items():
        done = run([*command, name], environ=clean_environ(PYTHONPATH=str(ROOT)), status=1, cwd=tmp_path)
        assert done.stderr.startswith(f"blasenv: {sentence}")


def test_all_is_this_image_and_not_what_lies_in_it(prefix: Prefix, tmp_path: Path) -> None:
    # A whole installation below a product's directory, and one in a directory that looks like a root.
    other = make_prefix(tmp_path / "root" / "usr", NEWEST)
    real = (other.stdlib / "os.py").resolve()
    (other.stdlib / "os.py").unlink()
    shutil.copy(real, other.stdlib)  # in a root of its own, a link leads to a place in there
    (tmp_path / "root" / "etc").mkdir()
    (tmp_path / "root" / "etc" / "os-release").write_text("ID=other\n")
    before = snapshot(tmp_path)

    def plan(**changes: str) -> tuple[set[str], set[str]]:
        lines = blasenv("install", "--all", "--dry-run", status=None, **changes).stdout.splitlines()
        ours = {str(one.stdlib) for one in (prefix, other)}
        written = {stdlib for stdlib in ours if any(f" {stdlib}/" in line for line in lines)}
        return written, {line.strip() for line in lines} & {str(prefix.python), str(other.python)}

    assert plan() == (set(), {str(prefix.python), str(other.python)})
    # Whoever has it on PATH uses it.
    assert plan(PATH=f"{prefix.python.parent}:{os.environ['PATH']}") == ({str(prefix.stdlib)}, {str(other.python)})
    assert snapshot(tmp_path) == before
    # By name, each is covered; --all then knows of the product's, and leaves the other root's alone.
    blasenv("install", prefix.python, other.python)
    for command in ("upgrade", "uninstall"):
        done = blasenv(command, "--all", "--dry-run", status=None).stdout
        assert f"{prefix.python} and every venv" in done
        assert f"  {other.python}\n" in done
    blasenv("uninstall", prefix.python, other.python)
    assert snapshot(tmp_path) == before


def test_refuses_what_belongs_to_another_user(prefix: Prefix) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(prefix.stdlib, 12345, -1)
    said = blasenv("install", prefix.python, status=1).stderr
    assert "belongs to the user 12345" in said


def test_refuses_what_cannot_be_written(prefix: Prefix, tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can mount a read-only file system")
    mount = f"mount --bind {prefix.directory} {prefix.directory} && mount -o remount,bind,ro {prefix.directory}"
    probe = ["unshare", "--mount", "sh", "-c", mount]
    if run(probe, status=None).returncode:
        pytest.skip("only root can mount a read-only file system")
    command = f"{mount} && exec {sys.executable} -m blasenv install {prefix.python}"
    environ = clean_environ(PYTHONPATH=str(ROOT))
    done = run(["unshare", "--mount", "sh", "-c", command], environ=environ, status=1, cwd=tmp_path)
    assert "is not writable" in done.stderr


def test_one_refusal_does_not_stop_the_others(prefix: Prefix, tmp_path: Path) -> None:
    other = make_prefix(tmp_path / "other", NEWEST)
    (other.stdlib / "sitecustomize.py").mkdir()
    done = blasenv("install", other.python, prefix.python, status=1)
    assert "is a directory" in done.stderr
    assert f"done: {prefix.python}" in done.stdout


def test_two_at_once(prefix: Prefix) -> None:
    environ = clean_environ(PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", "blasenv", "install", str(prefix.python)]
    both = [subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [one.wait() for one in both] == [0, 0, 0]
    (one,) = scanned(prefix.directory).values()
    assert one["intact"]
