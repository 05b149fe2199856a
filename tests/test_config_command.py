"""``blasenv config``: init, check and show."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Venv, clean_environ, run

import blasenv
from blasenv import _config_file
from blasenv.commands.config import TEMPLATE, find_problems


def config(*words: str | Path, status: int = 0, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run ``blasenv config`` of the checkout."""
    environ = clean_environ(PYTHONPATH=str(ROOT), **changes)
    return run([sys.executable, "-m", "blasenv", "config", *words], environ, status)


def test_init_writes_a_file_that_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "blasenv.toml"
    config("init", path)
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path) == ["blasenv.toml"]
    written = blasenv.read_config("/", {"BLASENV_CONFIG": str(path)})
    default = blasenv.read_config("/", {"BLASENV_CONFIG": ""})
    assert {**vars(written), "path": None} == vars(default)
    assert config("check", path).stdout == f"{path}: fine\n"


def test_every_example_in_the_template_is_valid() -> None:
    text = re.sub(r'(?m)^#(?=[a-z"\[])', "", TEMPLATE)
    settings, problems, _ = _config_file.parse_config(text.encode())
    assert problems == []
    assert find_problems(text.encode()) == []
    assert set(settings) == set(_config_file.KEYS)
    programs = settings["programs"]
    assert isinstance(programs, dict)
    assert {"gunicorn", "uvicorn", "celery", "airflow", "train.py"} == set(programs)


@pytest.mark.parametrize("there", ["file", "link to nothing", "directory"])
def test_init_never_overwrites(there: str, tmp_path: Path) -> None:
    path = tmp_path / "blasenv.toml"
    if there == "file":
        path.write_text("mine")
    elif there == "directory":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    assert "exists" in config("init", path, status=1).stderr
    assert os.listdir(tmp_path) == ["blasenv.toml"]
    assert there != "file" or path.read_text() == "mine"


def test_init_says_why_it_cannot(tmp_path: Path) -> None:
    error = config("init", tmp_path / "none" / "blasenv.toml", status=1).stderr
    assert error.startswith(f"blasenv: {tmp_path}/none/blasenv.toml cannot be written: No such file or directory")


def test_init_to_stdout() -> None:
    assert config("init", "-").stdout == TEMPLATE


def test_init_writes_where_the_hook_will_read(tmp_path: Path) -> None:
    config("init", BLASENV_CONFIG=str(tmp_path / "named.toml"))
    assert (tmp_path / "named.toml").exists()


BROKEN = """\
mode = "singel"
thread = 4
rounding = ceil
visible = yes
gunicorn = "single"
[program]
x = 1
"""


def test_check_names_every_line_and_what_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "blasenv.toml"
    path.write_text(BROKEN)
    result = config("check", path, status=1)
    assert re.findall(rf"(?m)^{re.escape(str(path))}:(\d+): ", result.stdout) == ["1", "2", "3", "4", "5", "6", "7"]
    assert re.findall(r"(?m)^    (Did you mean .*|A program's .*)$", result.stdout) == [
        'Did you mean mode = "single"?',
        "Did you mean threads?",
        'Did you mean rounding = "ceil"?',
        "Did you mean visible = true?",
        "A program's line belongs below [programs].",
        "Did you mean [programs]?",
    ]
    assert result.stdout.endswith("7 problems. Python refuses this file when it starts; the defaults apply.\n")
    document = json.loads(config("check", "--json", path, status=1).stdout)
    assert document["schema"] == 1
    assert [problem["line"] for problem in document["problems"]] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("threads = 0", ""),
        ("threads = 9999", ""),
        ('threads = "0"', ""),
        ('threads = "4"', "Did you mean threads = 4?"),
        ("threads = 04", "Did you mean threads = 4?"),
        ('max_threads = "4"', "Did you mean max_threads = 4?"),
        ("max_threads = 0", ""),
        ("cpu_count = yes", "Did you mean cpu_count = true?"),
        ("variables = all", 'Did you mean variables = "all"?'),
        ('mode = "auto"\nmode = "auto"', ""),
        ("visible = true\nvisible = true # again", ""),
    ],
)
def test_nobody_is_advised_to_write_what_is_there(line: str, meant: str) -> None:
    problems = find_problems(line.encode())
    assert problems
    assert {problem.hint for problem in problems} == {meant}


def test_init_with_the_hook_explains_what_the_hook_says(one_venv: Venv, tmp_path: Path) -> None:
    """BLASENV_CONFIG names the file to be written, and the hook, which starts before, finds it missing."""
    path = tmp_path / "new.toml"
    command: list[str | Path] = [one_venv.directory / "bin" / "blasenv", "config", "init"]
    result = run(command, clean_environ(BLASENV_CONFIG=str(path)))
    hook, *more = result.stderr.splitlines()
    assert hook.startswith(f"blasenv: {path}: no such file")
    assert more == ["blasenv: what was said above about that file was true before it was written"]
    assert run([one_venv.python, "-c", ""], clean_environ(BLASENV_CONFIG=str(path))).stderr == ""


def test_check_and_start_up_agree(tmp_path: Path) -> None:
    path = tmp_path / "blasenv.toml"
    for text in (
        BROKEN,
        'mode = "off"\nx',
        "",
        "threads = 4",
        "threads = 0",
        'a = """\n"""',
        "\xff",
        "mode = 'auto'\r\n",
    ):
        path.write_bytes(text.encode("latin-1"))
        refused = bool(blasenv.read_config("/", {"BLASENV_CONFIG": str(path)}).problems)
        config("check", path, status=1 if refused else 0)


def test_check_says_that_off_still_counts(tmp_path: Path) -> None:
    path = tmp_path / "blasenv.toml"
    path.write_text('mode = "off"\nnonsense\n')
    assert 'only its mode = "off" counts' in config("check", path, status=1).stdout


def test_check_says_what_is_no_file(tmp_path: Path) -> None:
    assert "not a regular file" in config("check", tmp_path, status=1).stdout
    assert "no such file" in config("check", tmp_path / "none", status=1).stdout
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in config("check", tmp_path / "fifo", status=1).stdout
    assert "the defaults apply" in config("check", "--root", tmp_path).stdout


def test_check_notes_a_file_that_others_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "blasenv.toml"
    path.write_text('mode = "auto"\n')
    path.chmod(0o600)
    assert f"chmod a+r {path}" in config("check", path).stdout


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is new in Python 3.11")
def test_what_is_no_toml_is_never_fine() -> None:
    import tomllib

    for text in ("mode = 'auto' x", "a = [1", "= 1", "[programs", "threads = 1\nthreads = 2", "\x00"):
        with pytest.raises(tomllib.TOMLDecodeError):
            tomllib.loads(text)
        assert find_problems(text.encode()), text


def test_show(tmp_path: Path) -> None:
    path = tmp_path / "blasenv.toml"
    path.write_text('mode = "single"\nvisible = true\n')
    assert config("show", BLASENV_CONFIG=str(path)).stdout == (
        "KEY          VALUE                FROM\n"
        f'mode         "single"             {path}:1\n'
        "threads      -                    default\n"
        "max_threads  -                    default\n"
        "cpus         -                    default\n"
        'rounding     "floor"              default\n'
        'variables    ["OMP_NUM_THREADS"]  default\n'
        f"visible      true                 {path}:2\n"
        "override     false                default\n"
        "cpu_count    false                default\n"
    )
    document = json.loads(config("show", "--json", BLASENV_CONFIG=str(path)).stdout)
    assert document["settings"][0] == {"key": "mode", "value": "single", "source": f"{path}:1"}


def test_show_of_a_refused_file(tmp_path: Path) -> None:
    path = tmp_path / "blasenv.toml"
    path.write_text("nonsense\n")
    result = config("show", status=1, BLASENV_CONFIG=str(path))
    assert result.stdout.count("default") == 9
    assert f"{path}:1: expected key = value" in result.stderr


def test_a_wish_that_is_ignored_is_named() -> None:
    assert "BLASENV_THREADS='x' is ignored" in config("show", BLASENV_CONFIG="", BLASENV_THREADS="x").stderr
