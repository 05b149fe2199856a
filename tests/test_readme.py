"""What the README and docs/ tell people to type is typed here, and what they refer to exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Cgroup, Venv, clean_environ, run
from speedup import mean
from speedup_work import PROGRAMS

from blasenv import WISHES
from blasenv._config_file import KEYS
from blasenv.output import report

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "RELEASING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
README, CONTRIBUTING = (page.read_text(encoding="utf-8") for page in PAGES[:2])
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")

# What stands for something of the reader's, and what stands for it here. PID, FILE and DIR come from fixtures.
STANDS_FOR = {
    "./program": "/bin/true",
    "train.py": "{FILE}",
    "4711": "{PID}",
    "8541": "{PID}",
    "PID": "{PID}",
    "DIR": "{DIR}",
    "--all": "--dry-run {PYTHON}",  # not on the machine of whoever runs the tests
}
# These are whole programs, with tests of their own; here their command line is understood.
HELP_ONLY = ("bench", "scan")


def commands(page: str, language: str = "console") -> Iterator[str]:
    """Every line after a prompt, without its comment."""
    for block in re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                yield re.split(r"  +# ", line[2:])[0].strip()


BLASENV = sorted({line for line in commands(README) if line.startswith("blasenv ")})


@pytest.fixture
def asleep() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


@pytest.mark.parametrize("line", BLASENV)
def test_commands_work(line: str, one_venv: Venv, one_cpu: Cgroup, asleep: int, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print('trained')\n")
    words = " ".join(STANDS_FOR.get(word, word) for word in line.split())
    words = words.format(PID=asleep, FILE=tmp_path / "train.py", DIR=tmp_path / "captured", PYTHON=one_venv.python)
    arguments = shlex.split(words)[1:]
    inside = arguments[0] != "limit"  # which makes a limit itself
    if arguments[0] in HELP_ONLY:
        arguments.append("--help")
    command: list[str | Path] = [one_venv.python, "-m", "blasenv", *arguments]
    if not inside:
        command[-2:-1] = [one_venv.python]
    environ = clean_environ(BLASENV_CONFIG="")
    done = one_cpu.run(command, environ=environ) if inside else run(command, environ=environ)
    assert done.stdout.strip() or arguments[0] == "run"
    if arguments[0] == "limit":
        assert done.stdout == "trained\n"


def test_every_command_is_shown(one_venv: Venv) -> None:
    listed = run([one_venv.python, "-m", "blasenv", "--help"]).stdout.partition("commands:")[2]
    names = set(re.findall(r"^    ([a-z]+) ", listed, re.MULTILINE))
    assert len(names) > 10
    shown = {line.split()[1] for line in BLASENV}
    assert names - shown == {"upgrade", "uninstall"}  # docs/interpreters.md has these


def test_the_demo(one_cpu: Cgroup) -> None:
    assert "tests/demo" in commands(CONTRIBUTING)
    del one_cpu  # made only to skip where there can be no limit
    said = run([ROOT / "tests" / "demo"]).stdout
    threads = dict(re.findall(r"^(without|with) blasenv +([0-9]+) ", said, re.MULTILINE))
    assert (int(threads["without"]) > 1, threads["with"]) == (True, "1")
    assert said.index("$ blasenv status") < said.index("$ blasenv explain")


SHOWN = sorted({line for page in PAGES for line in commands(page.read_text(encoding="utf-8"))})


@pytest.mark.parametrize("line", [line for line in SHOWN if re.match(r"(\.ci|benchmarks|docker-tests|tests)/", line)])
def test_programs_of_the_checkout_are_there(line: str) -> None:
    assert os.access(ROOT / line.split(maxsplit=1)[0], os.X_OK)


def test_only_runs_pytest_and_nothing_else(tmp_path: Path) -> None:
    """Its arguments untouched, with what is installed already: no package manager, no Python but that one."""
    (tmp_path / "tests" / "support").mkdir(parents=True)
    for name in ("tests/run", "tests/support/environment.sh"):
        shutil.copy(ROOT / name, tmp_path / name)
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    pytest_of = tmp_path / ".cache" / "dev" / "bin" / "pytest"
    pytest_of.parent.mkdir(parents=True)
    pytest_of.write_text("#!/bin/sh\nprintf '%s|' \"$@\"\n")
    pytest_of.chmod(0o755)
    said = run([str(shutil.which("bash")), tmp_path / "tests" / "run", "--only", "-k", "a or b"], {"PATH": str(tools)})
    assert (said.stdout, said.stderr) == ("-k|a or b|", "")


@pytest.mark.parametrize("line", [line for line in commands(CONTRIBUTING) if line.startswith("tests/run --only")])
def test_the_tests_that_are_named_exist(line: str) -> None:
    arguments = shlex.split(line)[2:]
    run([sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments], cwd=ROOT)


def test_what_python_sees(one_venv: Venv, one_cpu: Cgroup) -> None:
    """The two lines of Python print what the README says, for a limit of four CPUs."""
    lines = [line for line in commands(README) if line.startswith("python3 -c ")]
    assert len(lines) == 2
    for line in lines:
        said = README.partition(f"$ {line}\n")[2].partition("\n")[0]
        done = one_cpu.run([one_venv.python, *shlex.split(line)[1:]])
        assert done.stdout.strip().replace("1", "4") == said


def test_tables_are_complete() -> None:
    rules = set(re.findall(r"`([a-z-]+)`", "".join(re.findall(r"^\| (`[^|]*) \|.*$", README, re.MULTILINE))))
    assert set(report.RULES) <= rules
    for key in KEYS:
        assert f"| `{key}` |" in CONFIGURATION or f"| `[{key}]` |" in CONFIGURATION
    assert set(WISHES) <= set(re.findall(r"^\| `(BLASENV_\w+)` \|", CONFIGURATION, re.MULTILINE))


def test_what_the_48_cpu_machine_measured_is_quoted_right() -> None:
    measured = (ROOT / "docs" / "48-cpus.md").read_text(encoding="utf-8")
    default, ours = re.findall(
        r"([0-9.]+) CPUs' worth of threads\s+stood still\]\(docs/48-cpus.md\), with blasenv ([0-9.]+)\.", README
    )[0]
    rows = re.findall(r"^\| matmul \+ solve \| 4 \| nothing[^|]*\| [0-9]+ \| ([0-9.]+) \|", measured, re.MULTILINE)
    assert rows == [default, ours]
    (transcript,) = re.findall(r"^\$ blasenv doctor PID\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert transcript in measured


def test_what_programs_gained_is_quoted_right() -> None:
    rows = json.loads((ROOT / "docs" / "speedup.json").read_text(encoding="utf-8"))["rows"]
    quiet, busy = (f"{mean(rows, 1.0, beside):.1f}" for beside in (False, True))
    words = " ".join(README.split())
    assert f"run {quiet} times as fast on the average, and {busy} times beside a busy neighbour" in words
    assert f"How many times as fast {len(PROGRAMS)} real programs are with blasenv" in words


def test_what_servers_were_measured_to_do_is_quoted_right() -> None:
    page = (ROOT / "docs" / "frameworks.md").read_text(encoding="utf-8")
    rows = json.loads((ROOT / "docs" / "servers.json").read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 4
    for row in rows:
        numbers = f"{row['requests_a_second']} | {row['p99_ms']} ms | {row['throttled']} of {row['periods']} |"
        assert f"| {row['workers']} | {row['blasenv']} blasenv | {row['threads'][0]} | {numbers}" in page


def test_contributing_has_each_folder_and_nothing_that_is_gone() -> None:
    package = ROOT / "blasenv"
    folders = {f"blasenv/{path.parent.name}/" for path in package.glob("*/__init__.py")}
    named = set(re.findall(r"`([\w.-]+/[\w./-]*)`", CONTRIBUTING))
    assert folders - named == set()
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        if not target.startswith(("https://", "mailto:")):
            path, _, anchor = target.partition("#")
            other = page.parent / path if path else page
            assert other.exists(), target
            if anchor:
                headings = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = [re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings]
                assert anchor in slugs, target
