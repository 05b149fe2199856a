"""``blasenv bench``: what it measures, what it says about it, and how it ends. No time is judged here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Cgroup, Venv, clean_environ, run

from blasenv.commands.bench import chart, measure
from blasenv.commands.bench.measure import DEFAULT, Series
from blasenv.commands.bench.workloads import WORKLOADS, Workload, program

BENCH = [sys.executable, "-m", "blasenv", "bench"]
ENVIRON = clean_environ(PYTHONPATH=str(ROOT))
WORK = Workload("matmul", "a product", work="a @ a")


def bench(*words: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    return run([*BENCH, *words], status=status, environ=ENVIRON)


def series(threads: int, *seconds: float) -> Series:
    return Series("matmul", threads, list(seconds))


@pytest.fixture
def fake_numpy(tmp_path: Path) -> Path:
    """A Python that has a numpy with just enough in it to be timed, so that no real one is needed."""
    package = tmp_path / "numpy"
    package.mkdir()
    (package / "__init__.py").write_text(
        "class A:\n    def __matmul__(self, other): return self\n"
        "class R:\n    def random(self, size): return A()\n"
        "class random:\n    default_rng = staticmethod(lambda seed: R())\n"
        "class linalg:\n    solve = staticmethod(lambda a, b: a)\n    svd = staticmethod(lambda a: a)\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python


def test_a_table_with_every_count_and_the_default(fake_numpy: Path) -> None:
    out = bench("--python", fake_numpy, "--only", "matmul", "--threads", "1,3", "--rounds", "1").stdout
    rows = [line.split()[0] for line in out.split("\n") if "█" in line or "#" in line]
    assert rows == ["1", "3", "default"]
    assert "Fewer than 3 rounds, too few to compare" in out


def test_json_and_svg(fake_numpy: Path, tmp_path: Path) -> None:
    file = tmp_path / "chart.svg"
    words = ["--python", str(fake_numpy), "--only", "svd", "--only", "solve", "--threads", "1", "--rounds", "1"]
    found = json.loads(bench(*words, "--json", "--svg", file).stdout)
    assert found["schema"] == 1
    assert found["affinity_cpus"] == len(os.sched_getaffinity(0))
    assert [work["name"] for work in found["workloads"]] == ["svd", "solve"]
    for work in found["workloads"]:
        assert [one["threads"] for one in work["series"]] == [1, None]
        assert all(len(one["seconds"]) == 1 and one["seconds"][0] > 0 for one in work["series"])
    root = ET.fromstring(file.read_text(encoding="utf-8"))  # noqa: S314, our own
    assert len(root.findall("{http://www.w3.org/2000/svg}rect")) == 4


def test_a_command_of_the_users_gets_each_count(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = ["sh", "-c", f'echo "${{OMP_NUM_THREADS-unset}} $BLASENV_DISABLE" >> {log}']
    bench("--threads", "1,2", "--rounds", "2", "--", *command)
    assert sorted(log.read_text().split("\n")) == sorted(["", *["1 1", "2 1", "unset 1"] * 2])


def test_a_command_that_fails_is_not_timed() -> None:
    result = bench("--rounds", "1", "--", "sh", "-c", "echo oh no >&2; exit 3", status=1)
    assert "sh ended with exit status 3: oh no" in result.stderr


def test_without_numpy_it_says_what_to_do(one_bare_venv: Venv) -> None:
    result = bench("--python", one_bare_venv.python, status=1)
    assert "has no numpy; name another Python with --python" in result.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--threads", "0"], "--threads 0: not a list of whole numbers from 1 to 8192 such as 1,2,8"),
        (["--threads", "1,x"], "--threads 1,x: not a list of whole numbers from 1 to 8192 such as 1,2,8"),
        (["--seconds", "0"], "--seconds is a number above 0 and up to 86400, which is a day"),
        (["--seconds", "1e9"], "--seconds is a number above 0 and up to 86400, which is a day"),
        (["--seconds", "nan"], "--seconds is a number above 0 and up to 86400, which is a day"),
        (["--rounds", "0"], "--rounds is a whole number from 1 to 1000"),
        (["--only", "nothing"], "there is no workload 'nothing'"),
    ],
)
def test_wrong_usage(words: list[str], sentence: str) -> None:
    assert sentence in bench(*words, status=2).stderr


def test_a_command_that_is_not_there() -> None:
    assert bench("--", "no-such-command", status=1).stderr == (
        "blasenv: no-such-command: not found; is it installed, and on PATH?\n"
    )


def test_a_command_that_cannot_be_run() -> None:
    assert bench("--", "/etc/passwd", status=1).stderr == "blasenv: /etc/passwd: cannot be run: Permission denied\n"


@pytest.mark.parametrize("where", ["none/chart.svg", "."])
def test_a_chart_that_cannot_be_written_is_said_before_anything_is_measured(where: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    result = bench("--svg", tmp_path / where, "--", "sh", "-c", f"echo x >> {log}", status=1)
    assert result.stderr.startswith(f"blasenv: --svg {tmp_path / where}: ")
    assert not log.exists()


def test_looking_whether_a_chart_can_be_written_leaves_no_file(tmp_path: Path) -> None:
    bench("--svg", tmp_path / "chart.svg", "--", "no-such-command", status=1)
    (tmp_path / "mine.svg").write_text("mine")
    bench("--svg", tmp_path / "mine.svg", "--", "no-such-command", status=1)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("mine.svg", "mine")]


def test_after_one_round_nobody_knows_whether_the_choice_is_best(limited: Callable[[float], Cgroup]) -> None:
    command = [*BENCH, "--rounds", "1", "--json", "--", "true"]
    (found,) = json.loads(limited(1).run(command, environ=ENVIRON).stdout)["workloads"]
    assert found["choice_is_best"] is None
    assert found["noise"] is None
    assert not any("best" in one["marks"] for one in found["series"])


def test_a_long_command_fits_80_columns(limited: Callable[[float], Cgroup]) -> None:
    command = [*BENCH, "--threads", "1,2", "--rounds", "3", "--", "sh", "-c", f": {'word ' * 40}\n:"]
    lines = limited(1).run(command, environ=ENVIRON).stdout.split("\n")
    assert max(map(len, lines)) <= 80
    assert sum("█" in line or "#" in line for line in lines) == 3
    assert "\\n" not in lines[2]  # cut before


def test_the_choice_under_a_limit_is_measured_and_marked(limited: Callable[[float], Cgroup]) -> None:
    command = [*BENCH, "--rounds", "1", "--json", "--", "true"]
    found = json.loads(limited(1).run(command, environ=ENVIRON).stdout)
    assert (found["quota_cpus"], found["choice"]) == (1, 1)
    marked = [one["threads"] for one in found["workloads"][0]["series"] if "blasenv" in one["marks"]]
    assert marked == [1]


def test_throttling_is_measured(limited: Callable[[float], Cgroup]) -> None:
    code = "import time; start = time.process_time()\nwhile time.process_time() - start < 0.1: pass"
    command = [*BENCH, "--threads", "1", "--rounds", "1", "--json", "--", sys.executable, "-c", code]
    found = json.loads(limited(0.1).run(command, environ=ENVIRON).stdout)
    assert any(one["throttled_share"] > 0 for one in found["workloads"][0]["series"])


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [*BENCH, "--threads", "1", "--rounds", "1000", "--", "sh", "-c", f"echo x >> {log}; sleep 0.1"]
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ENVIRON}
    with subprocess.Popen(command, **options) as child:
        for _ in range(1000):
            if log.exists() and len(log.read_text().split()) > 6:
                break
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert "default" in out
    assert "interrupted; this is what was measured until then" in err
    assert child.returncode == -signal.SIGINT


def test_nothing_but_the_report_when_it_is_no_terminal() -> None:
    assert bench("--rounds", "1", "--", "true").stderr == ""


def test_startup_compares_the_hook_with_itself_switched_off(one_venv: Venv) -> None:
    found = json.loads(bench("--startup", "--seconds", "0.5", "--json", "--python", one_venv.python).stdout)
    assert found["pairs"] >= 10
    assert found["low"] <= found["difference"] <= found["high"]


def test_startup_without_the_hook(one_bare_venv: Venv) -> None:
    result = bench("--startup", "--python", one_bare_venv.python, status=1)
    assert "the hook does not run in" in result.stderr


# What it says.


@pytest.mark.parametrize(
    ("affinity", "chosen", "want"),
    [
        (1, DEFAULT, [1]),
        (2, 1, [1, 2]),
        (8, 2, [1, 2, 3, 4, 6, 8]),
        (48, 5, [1, 2, 3, 4, 5, 6, 9, 13, 19, 28, 42, 48]),
    ],
)
def test_counts(affinity: int, chosen: int, want: list[int]) -> None:
    assert measure.counts(affinity, chosen) == want


def test_the_choice_is_best() -> None:
    group = [series(1, 1.0, 1.1, 1.2), series(2, 3.0, 3.1, 3.2), series(DEFAULT, 3.3, 3.4, 3.5)]
    said = chart.sentence(WORK, group, 1)
    assert said == "matmul: blasenv's choice (1) is best; 3.1 × as fast as the default."


def test_the_choice_is_not_best() -> None:
    group = [series(1, 2.0, 2.0, 2.0), series(2, 1.0, 1.0, 1.0), series(DEFAULT, 1.0, 1.0, 1.0)]
    said = chart.sentence(WORK, group, 1)
    assert said == (
        "matmul: blasenv's choice (1) is not the best: it takes 100 % longer than 2; 2.0 × as slow as the default."
    )


def test_noise() -> None:
    group = [series(1, 1.0, 1.2, 1.4), series(2, 1.0, 1.1, 1.3), series(DEFAULT, 0.9, 1.3, 1.5)]
    said = chart.sentence(WORK, group, 1)
    assert "as good as the best (2); the difference is noise" in said
    assert "no clear difference to the default" in said


def test_where_blasenv_changes_nothing() -> None:
    group = [series(1, 2.0, 2.0, 2.0), series(2, 1.0, 1.0, 1.0), series(DEFAULT, 1.0, 1.05, 1.1)]
    said = chart.sentence(WORK, group, DEFAULT)
    assert said.startswith("matmul: the default, which blasenv leaves, is as good as the best (2)")


def noisy(ours: float, twin: float, default: float) -> str:
    """What is said of these medians, with little spread, on a machine with 2 CPUs."""
    group = [series(1, *[ours] * 3), series(2, *[twin] * 3), series(DEFAULT, *[default] * 3)]
    return chart.sentence(WORK, group, 1, affinity=2)


def test_the_same_thing_measured_twice_tells_the_noise() -> None:
    assert noisy(1.0, 3.0, 3.3) == "matmul: blasenv's choice (1) is best; 3.3 × as fast as the default."
    assert noisy(1.0, 6.9 / 4, 6.9) == (
        "matmul: blasenv's choice (1) is best; no clear difference to the default. The default and 2, which are the "
        "same to most libraries, differ 4.0 ×: other load on this machine, or a program that counts in its own way."
    )
    assert "is best; faster than the default, and by how much can't be told. The default and 2" in noisy(1.0, 5.0, 20.0)
    assert "no clear difference to the default" in noisy(1.0, 1.0, 1.4)
    assert "no clear difference to the default" in noisy(2.0, 1.0, 4.0)
    assert "as good as the best (2); the difference is noise" in noisy(2.0, 1.0, 4.0)
    group = [series(1, 2.0, 2.0, 2.0), series(2, 1.0, 1.0, 1.0), series(DEFAULT, 4.0, 4.0, 4.0)]
    found = chart.as_json(WORK, group, 1, affinity=2)
    assert (found["noise"], found["choice_is_best"]) == (4.0, True)


@pytest.mark.parametrize("faster", [2.0, 5.0, 40.0])
def test_no_ratio_is_printed_where_the_noise_is_large(faster: float) -> None:
    for pair in ((faster, faster * 4), (faster * 4, faster)):
        said = noisy(1.0, *pair)
        assert said.count("×") == 1, said
        assert "differ 4.0 ×" in said


@pytest.mark.parametrize("affinity", [DEFAULT, 4])
def test_without_a_twin_nothing_is_known_of_the_noise(affinity: int) -> None:
    group = [series(1, 1.0, 1.0, 1.0), series(2, 1.0, 1.0, 1.0), series(DEFAULT, 4.0, 4.0, 4.0)]
    assert chart.as_json(WORK, group, 1, affinity)["noise"] is None
    assert "4.0 × as fast" in chart.sentence(WORK, group, 1, affinity)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0000123, "12.3 µs"), (0.00099, "990 µs"), (0.0123, "12.3 ms"), (1.5, "1.50 s"), (180.0, "180 s")],
)
def test_duration(seconds: float, text: str) -> None:
    assert chart.duration(seconds) == text


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: str(workload.name))
def test_every_workload_compiles(workload: Workload) -> None:
    compile(program(workload, 0.1), workload.name, "exec")


def test_a_name_cannot_break_the_svg() -> None:
    work = Workload("matmul", '<&">')
    root = ET.fromstring(chart.svg([work], [series(1, 1.0)], 1, "<title>"))  # noqa: S314, our own
    assert any('<&">' in (text.text or "") for text in root.iter())


@pytest.mark.parametrize("name", ["bench.svg", "doctor.svg"])
def test_in_a_picture_of_a_terminal_blanks_hold_no_word_in_its_place(name: str) -> None:
    """Viewers drop blanks; docs/screenshot.py places each phrase."""
    root = ET.fromstring((ROOT / "docs" / name).read_text(encoding="utf-8"))  # noqa: S314, our own
    texts = [text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert len(texts) > 10
    assert [text for text in texts if text != text.strip("\xa0 \n") or "\xa0\xa0" in text] == []
