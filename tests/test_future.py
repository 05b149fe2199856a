"""PEP 829: the lines of .pth files come to an end, .start files take their place. What each Python does, what we say.

What fails first here, on a Python that is new, is told what to do in docs/future.md.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import PYTHONS, ROOT, VERSIONS, Venv, clean_environ, find_uv, make_venv, run
from instructions import copy_hook
from prefix import copy_by_hand
from test_scan import Image, scan

from blasenv.pythons.installed import HOOK, NOT_EXECUTED, SILENCED_BY_START, START

PLAN = "docs/future.md says what to ship for such a Python, and what it costs"
SEEN = "import sys; print(getattr(sys, '_blasenv', None) is not None)"


def minor(version: str) -> int:
    return int(version.partition(".")[2])


def ran(venv: Venv, **environ: str) -> bool:
    """Whether a new process of the environment has run blasenv, in silence."""
    done = run([venv.python, "-c", SEEN], environ=clean_environ(**environ))
    assert done.stderr == ""
    return done.stdout == "True\n"


def test_this_python_still_executes_the_line_of_a_pth_file(version: str, tmp_path: Path) -> None:
    venv = make_venv(tmp_path / "venv", version)
    (venv.site_packages / HOOK).write_text("import sys; sys.executed = True\n")
    done = run([venv.python, "-W", "error", "-X", "dev", "-c", "import sys; print(hasattr(sys, 'executed'))"])
    assert done.stdout == "True\n", f"CPython {version} does not execute import lines of .pth files any more. {PLAN}"
    assert done.stderr == "", f"CPython {version} complains of import lines in .pth files. {PLAN}"


def test_a_python_without_such_lines_is_not_promised_before_the_start_file_is_there() -> None:
    setup = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    promised = {*VERSIONS, *re.findall(r"Programming Language :: Python :: (3\.\d+)$", setup, re.MULTILINE)}
    too_new = [version for version in promised if minor(version) >= NOT_EXECUTED]
    assert not too_new or (ROOT / "blasenv" / START).exists(), f"{too_new}: {PLAN}"


def test_its_own_site_module_says_when(version: str) -> None:
    """The versions that doctor and scan go by are those in CPython's source."""
    where = run([PYTHONS[version], "-I", "-S", "-c", "import site; print(site.__file__)"]).stdout.strip()
    source = Path(where).read_text(encoding="utf-8")
    ends = re.findall(r'import lines in \.pth files are silently ignored",\s*remove=\((\d+), (\d+)\)', source)
    assert ends == [("3", str(NOT_EXECUTED))] * (minor(version) >= SILENCED_BY_START), PLAN
    assert ('".start"' in source) == (minor(version) >= SILENCED_BY_START)


# What is in the .start file (None: there is none), whether the line is beside it, and whether blasenv is run then by
# a Python that does not read such files, and by one that does.
PAIRS: tuple[tuple[str | None, bool, bool, bool], ...] = (
    (None, True, True, True),
    ("blasenv:run\n", True, True, True),
    ("blasenv:run\n", False, False, True),
    ("", True, True, False),
    ("# nothing\n", True, True, False),
)


def test_what_scan_and_doctor_say_is_what_this_python_does(version: str, tmp_path: Path) -> None:
    venv = make_venv(tmp_path / "venv", version)
    copy_hook(venv.site_packages)
    hook = venv.site_packages / HOOK
    file = venv.site_packages / START
    text = hook.read_text(encoding="ascii")
    reads_start = minor(version) >= SILENCED_BY_START
    for start, line, runs_before, runs_since in PAIRS:
        for path, contents in ((file, start), (hook, text if line else None)):
            path.unlink(missing_ok=True)
            if contents is not None:
                path.write_text(contents)
        runs = runs_since if reads_start else runs_before
        assert ran(venv) == runs, (start, line)
        # The switch stands in the line. A .start file can only name a function, which would have to ask for it.
        assert ran(venv, BLASENV_DISABLE="1") == (runs and reads_start and start is not None)
        if line:
            found = json.loads(scan(venv.directory, "--json", status=int(not runs)).stdout)
            (one,) = (one for one in found["interpreters"] if one["path"].startswith(str(venv.directory)))
            assert (one["covered_by"] == ["hook"]) == runs
            assert one["problems"] == ([] if runs else [f"{HOOK} is silenced by {START}"])
            done = run([venv.python, "-m", "blasenv", "doctor", "hook", "--json"], status=int(not runs))
            (check,) = json.loads(done.stdout)["checks"]
            assert check["state"] == ("ok" if runs else "problem")


@pytest.mark.parametrize(("name", "executed"), [("python3.17", True), ("python3.18", False), ("python3.20t", False)])
def test_the_boundary(name: str, executed: bool, tmp_path: Path) -> None:
    image = Image(tmp_path / "image")
    image.base("/usr", name, "python3")
    copy_hook(image.directory(f"/usr/local/lib/{name}/dist-packages"))
    problem = f"Python {name[6:].rstrip('t')} does not execute the line in {HOOK} (PEP 829)"
    (one,) = image.scan(status=int(not executed)).values()
    assert one["covered_by"] == (["hook"] if executed else [])
    assert one["problems"] == ([] if executed else [problem])
    text = " ".join(scan("--root", image.root, status=int(not executed)).stdout.split())
    assert (f"/usr/bin/{name}: {problem}; blasenv install /usr/bin/{name} " in text) == (not executed)
    doctor = [sys.executable, "-m", "blasenv", "doctor", "--root", str(image.root), "hook", "--json"]
    done = run(doctor, environ=clean_environ(PYTHONPATH=str(ROOT)), status=int(not executed))
    (check,) = json.loads(done.stdout)["checks"]
    assert check["state"] == ("ok" if executed else "problem")
    if not executed:
        assert check["value"].endswith(f"dist-packages: {problem}")
        assert check["advice"] == "RUN blasenv install /usr/bin/python3"


def test_what_the_advice_leads_to_is_fine(tmp_path: Path) -> None:
    """A sitecustomize is no matter of PEP 829: beside it, the line that is not executed is no problem."""
    image = Image(tmp_path / "image")
    image.base("/usr", "python3.18", "python3")
    image.venv("/srv/app", "/usr/bin", "/usr/bin/python3", version="3.18.0")
    for place in ("/usr/local/lib/python3.18/dist-packages", "/srv/app/lib/python3.18/site-packages"):
        copy_hook(image.directory(place))
    assert len(image.scan("--strict", status=1)) == 2
    copy_by_hand(image.at("/usr/lib/python3.18"))
    found = {path: (one["covered_by"], one["problems"]) for path, one in image.scan("--strict").items()}
    assert found == {"/usr/bin/python3.18": (["sitecustomize"], []), "/srv/app/bin/python": (["inherited"], [])}
    doctor = [sys.executable, "-m", "blasenv", "doctor", "--root", str(image.root), "hook"]
    assert "the copy beside" in run(doctor, environ=clean_environ(PYTHONPATH=str(ROOT))).stdout


def test_a_start_file_that_names_blasenv_covers(tmp_path: Path) -> None:
    image = Image(tmp_path / "image")
    image.base("/opt/python3.18", "python3.18")
    site = image.directory("/opt/python3.18/lib/python3.18/site-packages")
    copy_hook(site)
    (site / START).write_text("blasenv:run\n")
    (one,) = image.scan("--strict").values()
    assert (one["covered_by"], one["problems"]) == (["hook"], [])


def test_an_interpreter_that_says_it_is_3_18(one_venv: Venv) -> None:
    """The doctor in it: started without site, so that nothing has executed the line, and under that name."""
    code = (
        "import os, sys; sys.prefix = sys.exec_prefix = sys.argv.pop(); os.__file__ = '/usr/lib/python3.18/os.py';"
        "import site; site.getsitepackages = lambda: [sys.argv.pop()]; sys.path.append(sys.argv[-1]);"
        "from blasenv.cli import main; sys.exit(main(['doctor', 'hook', '--json']))"
    )
    words = [one_venv.site_packages, one_venv.directory]
    done = run([one_venv.python, "-S", "-c", code, *words], status=1)
    (check,) = json.loads(done.stdout)["checks"]
    value = f"{one_venv.site_packages}: Python 3.18 does not execute the line in {HOOK} (PEP 829)"
    assert (check["state"], check["value"]) == ("problem", value)
    assert check["advice"] == f"blasenv install {one_venv.python}"


def test_what_a_start_file_costs_is_quoted_right() -> None:
    page = (ROOT / "docs" / "future.md").read_text(encoding="utf-8")
    measured = json.loads((ROOT / "docs" / "start-file.json").read_text(encoding="utf-8"))
    bare, *rows = measured["rows"]
    text = " ".join(page.split())
    assert f"on CPython {measured['python']}, over a start without anything ({bare['ms']:.1f} ms" in text
    assert f"median of {measured['pairs']} pairs" in text
    more = {row["case"]: row["more_instructions"] for row in rows}
    for row in rows:
        assert f"| {row['case']} | +{row['more_instructions'] / 1e6:.1f} M | {row['more_ms']:+.1f} |\n" in page
    nothing = more["a .start file that does nothing"]
    times = more["blasenv's .start file"] / more["blasenv's line"]
    modules = len(next(row["imports"] for row in rows if row["case"] == "a .start file that does nothing"))
    assert f"The {nothing / 1e6:.0f} M are `site`'s way" in text
    assert f"{modules} modules in all" in text
    assert f"make every start pay {times:.0f} times as much" in text


# PEP 425 orders tags from the most specific: py319 before py3, but py3 before py318.
SECOND = "blasenv-0.1.0-py318.py319.py320-none-any.whl"


@pytest.mark.parametrize(
    ("python", "second"), [("3.9", False), ("3.17", False), ("3.18", True), ("3.20", True), ("3.21", False)]
)
@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_which_of_two_wheels_is_taken(tool: str, python: str, second: bool, wheel: Path, tmp_path: Path) -> None:
    """The plan of docs/future.md: a second wheel, without the line, for Pythons that would not execute it."""
    offered = tmp_path / "offered"
    offered.mkdir()
    first = "blasenv-0.1.0-py3-none-any.whl"
    for name in (first, SECOND):
        with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(offered / name, "w") as new:
            for member in old.namelist():
                contents = old.read(member)
                if name == SECOND and member.endswith(".dist-info/WHEEL"):
                    tags = "\n".join(f"Tag: {tag}-none-any" for tag in SECOND.split("-")[2].split("."))
                    contents = contents.replace(b"Tag: py3-none-any", tags.encode())
                new.writestr(member, contents)
    target = tmp_path / "target"
    where = ["--no-index", "--find-links", str(offered), "--python-version", python, "--target", str(target), "blasenv"]
    if tool == "pip":
        options = ["install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--no-compile"]
        run([sys.executable, "-m", "pip", *options, *where])
    else:
        uv = find_uv()
        if not uv:
            pytest.skip("no uv on this machine")
        run([uv, "pip", "install", "--quiet", "--python", sys.executable, *where])
    (tags_file,) = target.glob("*.dist-info/WHEEL")
    assert ("Tag: py318-none-any" in tags_file.read_text(encoding="utf-8")) == second
