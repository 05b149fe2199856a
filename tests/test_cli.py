"""The command as a person runs it: in processes of its own, over fake roots and on the real machine."""

from __future__ import annotations

import json
import os
import platform
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ROOT, Cgroup, Venv, clean_environ, run

from blasenv.cli import COMMANDS
from blasenv.machine.library_threads import COUNT_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable

TREES = ROOT / "tests" / "trees"
BLASENV = [sys.executable, "-m", "blasenv"]
FIELDS = {"schema", "threads", "rule", "quota_cpus", "affinity_cpus", "limits", "variables", "config", "notes"}


def environ(**changes: str) -> dict[str, str]:
    """A clean environment in which this checkout is found, without its hook."""
    return clean_environ(PYTHONPATH=str(ROOT), BLASENV_CONFIG="", **changes)


def blasenv(*words: object, status: int | None = 0, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run the checkout's command, in an interpreter without the hook."""
    return run([*BLASENV, *map(str, words)], environ(**changes), status)


def report(*words: object, status: int = 0, **changes: str) -> Any:
    """The JSON that a command prints."""
    return json.loads(blasenv(*words, "--json", status=status, **changes).stdout)


def tree(root: Path, quota: str = "150000 100000", config: str | None = None) -> Path:
    """A fake root: cgroup v2 in a namespace, with one ``cpu.max``."""
    for name, text in {
        "proc/self/cgroup": "0::/\n",
        "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
        "sys/fs/cgroup/cpu.max": f"{quota}\n",
        **({} if config is None else {"etc/blasenv.toml": config}),
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")
    return root


def inside(root: Path, **changes: str) -> dict[str, str]:
    """`environ`, with the configuration of a fake root."""
    settings = environ(**changes)
    del settings["BLASENV_CONFIG"]
    return {**settings, "BLASENV_CONFIG": str(root / "etc/blasenv.toml")}


# The command itself.


def test_help_lists_every_command() -> None:
    text = blasenv("--help").stdout
    for name, _, summary in COMMANDS:
        assert f"    {name} " in text or f"    {name}\n" in text
        assert summary in text


@pytest.mark.parametrize("name", [name for name, _, _ in COMMANDS])
def test_each_command_has_help(name: str) -> None:
    assert blasenv(name, "--help").stdout.startswith(f"usage: blasenv {name}")


@pytest.mark.parametrize(
    "words", [[], ["nonsense"], ["status", "--affinity", "0"], ["status", "--root", "/none"], ["run"]]
)
def test_wrong_usage_is_2(words: list[str]) -> None:
    result = blasenv(*words, status=2)
    assert "blasenv" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(("typed", "meant"), [("statsu", "status"), ("benhc", "bench"), ("instal", "install")])
def test_a_mistyped_command(typed: str, meant: str) -> None:
    assert f"there is no command '{typed}'; did you mean {meant}?" in blasenv(typed, status=2).stderr


def test_a_command_that_is_like_no_other() -> None:
    assert "there is no command 'xyzzy'; see: blasenv --help" in blasenv("xyzzy", "--json", status=2).stderr


@pytest.mark.parametrize(
    ("words", "better"),
    [
        (["run", "ls", "-l"], "blasenv run -- ls -l"),
        (["run", "--threads", "3", "echo", "a b"], "blasenv run --threads 3 -- echo 'a b'"),
        (["run", "ls", "ls"], "blasenv run -- ls ls"),
        (["limit", "--cpus", "1", "true"], "blasenv limit --cpus 1 -- true"),
        (["limit", "--cpus", "1", "1"], "blasenv limit --cpus 1 -- 1"),
        (["bench", "--rounds", "3", "./train"], "blasenv bench --rounds 3 -- ./train"),
    ],
)
def test_the_dashes_are_missing(words: list[str], better: str) -> None:
    assert f"-- is missing before the command; write: {better}\n" in blasenv(*words, status=2).stderr


@pytest.mark.parametrize(
    "words", [["run", "--color", "ls"], ["status", "now"], ["limit", "--cpus", "1", "-x", "--", "ls"]]
)
def test_an_unknown_word_is_named_in_the_commands_own_usage(words: list[str]) -> None:
    error = blasenv(*words, status=2).stderr
    assert error.startswith(f"usage: blasenv {words[0]}")
    assert "unrecognized arguments: " in error
    assert "missing" not in error


@pytest.mark.parametrize("words", [["run", "--threads", "0", "--", "true"], ["status", "--affinity", "9999"]])
def test_a_count_that_is_none_says_what_one_is(words: list[str]) -> None:
    error = blasenv(*words, status=2).stderr
    assert f"argument {words[1]}: '{words[2]}' is not a whole number from 1 to 8192" in error


def test_version(one_venv: Venv) -> None:
    assert run([one_venv.directory / "bin" / "blasenv", "--version"]).stdout == blasenv("--version").stdout


# What is reported.


@pytest.mark.parametrize("command", ["status", "explain"])
@pytest.mark.parametrize("name", ["docker-v2", "bind-mount-adds-an-ancestor", "cgroup-empty", "cgroup-path-not-utf8"])
def test_json_says_what_a_tree_expects(command: str, name: str, tmp_path: Path) -> None:
    expect = json.loads((TREES / name / "expect.json").read_text("utf-8"))
    root = shutil.copytree(TREES / name, tmp_path / "root")
    for path, text in expect.get("files", {}).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(os.fsencode(text))
    document = report(command, "--root", root, "--affinity", str(expect["affinity"]))
    assert set(document) >= FIELDS
    assert document["schema"] == 1
    assert [document[key] for key in ("threads", "rule", "quota_cpus", "affinity_cpus")] == [
        expect[key] for key in ("threads", "rule", "quota_cpus", "affinity")
    ]
    assert blasenv(command, "--root", root, "--affinity", str(expect["affinity"])).stdout


def test_the_variables_say_who_set_them(tmp_path: Path) -> None:
    document = report("status", "--root", tree(tmp_path), "--affinity", "8", MKL_NUM_THREADS="3")
    found = {row["name"]: (row["value"], row["source"]) for row in document["variables"]}
    assert found["OMP_NUM_THREADS"] == ("1", "blasenv")
    assert found["MKL_NUM_THREADS"] == ("3", "environment")
    assert found["NUMBA_NUM_THREADS"] == (None, "unset")
    threads = {row["name"]: row["threads"] for row in document["libraries"]}
    assert (threads["MKL"], threads["LightGBM"], threads["Numba"]) == (3, 1, 8)


def test_all_variables_are_advised_where_they_are_not_set(tmp_path: Path) -> None:
    root = tree(tmp_path, config="")
    words: list[str | Path] = [*BLASENV, "status", "--root", root, "--affinity", "8"]
    advice = 'To set these as well, write in /etc/blasenv.toml: variables = "all"'
    assert advice in " ".join(run(words, inside(root)).stdout.split())
    (root / "etc/blasenv.toml").write_text('variables = "all"\n')
    text = run(words, inside(root, NUMBA_NUM_THREADS="7")).stdout
    assert "7 !" in text
    assert "write in" not in text


def test_the_user_wins(tmp_path: Path) -> None:
    root = tree(tmp_path)
    document = report("status", "--root", root, "--affinity", "8", OMP_NUM_THREADS="5")
    assert (document["rule"], document["threads"]) == ("user-env", None)
    assert "the user set OMP_NUM_THREADS=5" in blasenv("explain", "--root", root, OMP_NUM_THREADS="5").stdout


def test_disabled_says_so(tmp_path: Path) -> None:
    document = report("status", "--root", tree(tmp_path), "--affinity", "8", BLASENV_DISABLE="1")
    assert (document["rule"], document["threads"]) == ("disabled", None)
    assert "BLASENV_DISABLE=1" in document["reason"]


@pytest.mark.parametrize("other", ["", "BLASENV_DISABLE=1", "OMP_NUM_THREADS=3", "mode"])
@pytest.mark.parametrize(
    ("variable", "value", "accepted"),
    [
        ("BLASENV_THREADS", "abc", "a whole number from 1 to 8192"),
        ("BLASENV_THREADS", "0", "a whole number from 1 to 8192"),
        ("BLASENV_MODE", "bogus", '"auto", "single" or "off"'),
    ],
)
def test_what_was_ignored_is_named(
    variable: str, value: str, accepted: str, other: str, tmp_path: Path, one_venv: Venv, one_cpu: Cgroup
) -> None:
    changed = {**clean_environ(PYTHONPATH=str(ROOT)), variable: value}
    if other == "mode":
        changed["BLASENV_CONFIG"] = str(tmp_path / "off.toml")
        (tmp_path / "off.toml").write_text('mode = "off"\n')
    elif other:
        changed[other.partition("=")[0]] = other.partition("=")[2]
    note = f"{variable}={value!r} is ignored: it is {accepted}"
    words = [*BLASENV, "status", "--root", str(tree(tmp_path)), "--affinity", "8"]
    document = json.loads(run([*words, "--json"], changed).stdout)
    assert note in document["notes"]
    assert note not in document["reason"]
    assert note in " ".join(run(words, changed).stdout.split())
    # Of the process itself, the hook's decision has the note, and without a hook the look at it.
    del changed["PYTHONPATH"]
    seen = json.loads(one_cpu.run([one_venv.directory / "bin" / "blasenv", "status", "--json"], environ=changed).stdout)
    assert note in seen["notes"]
    assert seen["hook"]["active"] == (other != "BLASENV_DISABLE=1")


def test_an_odd_word_that_disables_is_told_the_others(tmp_path: Path) -> None:
    words = ["status", "--root", tree(tmp_path), "--affinity", "8"]
    for value in ("maybe", "Nope"):
        reason = report(*words, BLASENV_DISABLE=value)["reason"]
        assert reason.endswith(
            f"BLASENV_DISABLE={value} is in the environment; of all values, only 0, no, false, off "
            "and the empty one do not switch it off"
        )
    for value in ("1", "TRUE", "yes", "on"):
        assert report(*words, BLASENV_DISABLE=value)["reason"].endswith("is in the environment")
    for value in ("", "0", "no", "False", "OFF"):
        assert report(*words, BLASENV_DISABLE=value)["rule"] == "quota"


def test_each_setting_has_its_source(tmp_path: Path) -> None:
    root = tree(tmp_path, config='# ours\nrounding = "ceil"\n[programs]\n"train.py" = 6\n')
    words = ["explain", "--root", str(root), "--affinity", "8", "--json"]
    file = f"{root}/etc/blasenv.toml"

    def sources(*more: str, **changes: str) -> dict[str, tuple[Any, str]]:
        result = run([*BLASENV, *words, *more], inside(root, **changes))
        return {row["key"]: (row["value"], row["source"]) for row in json.loads(result.stdout)["settings"]}

    found = sources()
    assert found["rounding"] == ("ceil", f"{file}:2")
    assert found["mode"] == ("auto", "default")
    assert found["programs.train.py"] == (6, f"{file}:4")
    assert sources("--program", "train.py")["threads"] == (6, f"{file}:4 (for train.py)")
    assert sources(BLASENV_THREADS="3")["threads"] == (3, "BLASENV_THREADS")
    assert sources(BLASENV_MODE="single")["mode"] == ("single", "BLASENV_MODE")


def test_explain_reads_like_this(tmp_path: Path) -> None:
    text = blasenv("explain", "--root", tree(tmp_path), "--affinity", "8").stdout
    assert text[text.index("2. CPU limit") :] == (
        """\
2. CPU limit
     /proc/self/cgroup
   *   0::/
       cgroup v2: no v1 line lists the CPU controller, so this one has it
     /proc/self/mountinfo
   *   /sys/fs/cgroup shows /: 1 level, from our group up

      CPUS  QUOTA us  PERIOD us  FILE
   *  1.5   150000    100000     /sys/fs/cgroup/cpu.max

     The tightest applies: 1.5 CPUs.

3. Visible CPUs
   * 8 CPUs: 0-7 (pretended)

4. Process
     no ranks of an MPI, Slurm or torchrun job share the limit
     no decision of a parent was inherited (BLASENV_MARK)
     the user set none of OMP_NUM_THREADS

5. Decision
   * quota: the CPU limit of 1.5 is below the 8 CPUs this process can see;
     rounded down
   * would set OMP_NUM_THREADS=1 (native only; os.environ has the receipt)
"""
    )


def test_ranks_and_receipts_are_explained(tmp_path: Path) -> None:
    root = tree(tmp_path, "800000 100000")
    changes = environ(LOCAL_WORLD_SIZE="4", OMP_NUM_THREADS="6", BLASENV_MARK="OMP_NUM_THREADS=6")
    text = run([*BLASENV, "explain", "--root", root, "--affinity", "16"], changes).stdout
    assert "4 ranks (LOCAL_WORLD_SIZE=4) share the limit" in text
    assert "inherited OMP_NUM_THREADS from a parent's decision" in text
    assert "would set OMP_NUM_THREADS=2" in text


def test_throttling_without_a_visible_limit_is_mentioned(tmp_path: Path) -> None:
    root = tree(tmp_path, "max 100000")
    assert "throttled" not in blasenv("status", "--root", root).stdout
    (root / "sys/fs/cgroup/cpu.stat").write_text("usage_usec 1\nnr_periods 90\nnr_throttled 42\nthrottled_usec 7\n")
    assert "42 throttled periods" in blasenv("status", "--root", root).stdout


def _fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def _device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "fifo": (_fifo, "not a regular file"),
    "directory": (_directory, "not a regular file"),
    "device": (_device, "not a regular file"),
    "garbage": (lambda path: path.write_bytes(b"\xff\x00\xfe garbage \x1b[31m"), ""),
    "large": (lambda path: os.truncate(path, 100_000_000), "larger than"),
}


@pytest.mark.parametrize("what", BAD)
def test_explain_names_a_bad_configuration(what: str, tmp_path: Path) -> None:
    root = tree(tmp_path, config="")
    make, problem = BAD[what]
    make(root / "etc/blasenv.toml")
    for command in ("explain", "status"):
        result = run([*BLASENV, command, "--root", root, "--affinity", "8"], inside(root), 1)
        assert "\x1b" not in result.stdout
        assert problem in result.stdout
        assert f"{root}/etc/blasenv.toml" in result.stdout.replace("\n     ", "").replace("\n                 ", "")
    document = json.loads(run([*BLASENV, "explain", "--root", root, "--json"], inside(root), 1).stdout)
    assert document["config"]["problems"]


@pytest.mark.parametrize("name", ["proc/self/cgroup", "proc/self/mountinfo", "sys/fs/cgroup/cpu.max"])
@pytest.mark.parametrize("what", [*BAD, "absent"])
def test_explain_names_a_bad_kernel_file(name: str, what: str, tmp_path: Path) -> None:
    root = tree(tmp_path)
    if what == "absent":
        (root / name).unlink()
    else:
        BAD[what][0](root / name)
    document = report("explain", "--root", root, "--affinity", "8")
    # A mountinfo that is garbage, or all zeros, has no mount in it.
    if (name, what) != ("proc/self/mountinfo", "large"):
        assert (document["rule"], document["threads"]) == ("no-limit", None)
        assert any(limit["note"] for limit in document["limits"])
    text = blasenv("explain", "--root", root, "--affinity", "8").stdout
    assert f"/{name}" in text
    assert "\x1b" not in text
    assert "no limit is seen" in text or "No level sets a limit" in text


# Capture.


def test_a_capture_is_a_test_case(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", "350000 100000", config='rounding = "ceil"\n')
    siblings = root / "sys/devices/system/cpu/cpu0/topology/thread_siblings_list"
    siblings.parent.mkdir(parents=True)
    siblings.write_text("0,2\n")
    (root / "etc/secret").write_text("not to be copied")
    case = tmp_path / "case"
    before = run([*BLASENV, "explain", "--root", root, "--affinity", "4", "--capture", case], inside(root))
    assert "expect.json" in before.stderr
    found = {str(path.relative_to(case)) for path in case.rglob("*") if path.is_file()}
    assert found == {
        "expect.json",
        "etc/blasenv.toml",
        "proc/self/cgroup",
        "proc/self/mountinfo",
        "sys/fs/cgroup/cpu.max",
        "sys/devices/system/cpu/cpu0/topology/thread_siblings_list",
    }
    expect = json.loads((case / "expect.json").read_text("utf-8"))
    assert {key: expect[key] for key in ("affinity", "quota_cpus", "rule", "threads")} == {
        "affinity": 4,
        "quota_cpus": 3.5,
        "rule": "quota",
        "threads": 2,
    }
    again = run([*BLASENV, "explain", "--root", case, "--affinity", "4", "--json"], inside(case))
    assert json.loads(again.stdout)["threads"] == 2


def test_a_capture_of_this_machine_reads_the_same(tmp_path: Path) -> None:
    real = report("explain", "--capture", tmp_path / "case")
    copy = report("explain", "--root", tmp_path / "case", "--affinity", str(real["affinity_cpus"]))
    assert [copy[key] for key in ("rule", "threads", "quota_cpus")] == [
        real[key] for key in ("rule", "threads", "quota_cpus")
    ]


def test_a_capture_refuses_a_directory_with_files(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    result = blasenv("explain", "--capture", tmp_path, status=1)
    assert "is not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


# With the hook, under a real limit.


def test_status_of_a_limited_interpreter(one_cpu: Cgroup, one_venv: Venv) -> None:
    command = one_venv.directory / "bin" / "blasenv"
    document = json.loads(one_cpu.run([command, "status", "--json"]).stdout)
    assert (document["rule"], document["threads"], document["quota_cpus"]) == ("quota", 1, 1.0)
    assert document["hook"]["active"] is True
    assert {"name": "OMP_NUM_THREADS", "value": "1", "source": "blasenv"} in document["variables"]
    taken = [limit["path"] for limit in document["limits"] if limit["taken"]]
    assert [str(Path(path).parent) for path in taken] == [str(one_cpu.directory)]
    text = one_cpu.run([command, "status"]).stdout
    assert text.startswith("This interpreter got OMP_NUM_THREADS=1.\n")
    assert "os.environ shows only the receipt, BLASENV_SET=OMP_NUM_THREADS=1." in text


def test_what_status_says_to_check_with(one_cpu: Cgroup, one_venv: Venv) -> None:
    code = 'import os; os.system("printenv OMP_NUM_THREADS")'
    assert one_cpu.run([one_venv.python, "-c", code]).stdout == "1\n"


def test_status_without_the_hook_does_not_claim_it(one_cpu: Cgroup) -> None:
    result = one_cpu.run([*BLASENV, "status"], environ=environ())
    assert result.stdout.startswith("The hook did not run in this interpreter, so blasenv set nothing.\n")
    document = json.loads(one_cpu.run([*BLASENV, "status", "--json"], environ=environ()).stdout)
    assert (document["hook"]["active"], document["threads"]) == (False, 1)
    assert {"name": "OMP_NUM_THREADS", "value": None, "source": "unset"} in document["variables"]


def test_status_knows_a_parents_value(one_cpu: Cgroup) -> None:
    inherited = environ(OMP_NUM_THREADS="7", BLASENV_SET="OMP_NUM_THREADS=7", MKL_NUM_THREADS="2")
    document = json.loads(one_cpu.run([*BLASENV, "status", "--json"], environ=inherited).stdout)
    sources = {row["name"]: row["source"] for row in document["variables"]}
    assert (sources["OMP_NUM_THREADS"], sources["MKL_NUM_THREADS"]) == ("blasenv", "environment")


# Output.


@pytest.mark.parametrize("words", [["status"], ["explain"], ["config", "show"], ["config", "check"]])
def test_fits_80_columns_without_escapes(words: list[str], tmp_path: Path) -> None:
    lines = blasenv(*words, *(["--root", tree(tmp_path)] if words[-1] != "check" else []), status=None).stdout.split(
        "\n"
    )
    # A path is never broken: it must survive being copied.
    assert [line for line in lines if len(line) > 80 and str(tmp_path) not in line and sys.executable not in line] == []
    assert [line for line in lines if line != line.rstrip() or "\x1b" in line] == []


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_locale_that_cannot_print_a_name(encoding: str, tmp_path: Path) -> None:
    words = ["--root", tree(tmp_path / "gr\u00fcn"), "--affinity", "8"]
    for command in ("status", "explain", "env"):
        text = blasenv(command, *words, PYTHONIOENCODING=encoding, OMP_NUM_THREADS="\u20ac").stdout
        assert ("OMP_NUM_THREADS=\u20ac" if encoding == "utf-8" else "OMP_NUM_THREADS=\\u20ac") in text


def on_a_terminal(words: list[str], **changes: str) -> str:
    """What a command writes to a terminal."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [*BLASENV, *words], env=environ(TERM="xterm", **changes), stdout=slave, close_fds=True
    ) as process:
        os.close(slave)
        written = b""
        try:
            while chunk := os.read(master, 65536):
                written += chunk
        except OSError:  # the other side has closed
            pass
        process.wait()
    os.close(master)
    return written.decode()


def test_colour_is_for_terminals(tmp_path: Path) -> None:
    words = ["status", "--root", str(tree(tmp_path)), "--affinity", "8"]
    assert "\x1b[1m" in on_a_terminal(words)
    assert "\x1b" not in on_a_terminal(words, NO_COLOR="1")
    assert "\x1b" not in blasenv(*words).stdout


def test_a_reader_that_leaves_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    result = run([*BLASENV, "explain"], environ(), None, stdout=write)
    os.close(write)
    assert (result.returncode, result.stderr) == (1, "")


@pytest.mark.parametrize("words", [["status"], ["explain", "--json"], ["env"], ["config", "show"]])
def test_closed_streams(words: list[str]) -> None:
    for redirection in (">&-", "2>&-", "<&-", ">&- 2>&- <&-"):
        result = run(["/bin/sh", "-c", f'"$@" {redirection}', "sh", *BLASENV, *words], environ())
        assert result.stderr == ""


def test_a_full_disk_is_said() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    result = run(["/bin/sh", "-c", '"$@" >/dev/full', "sh", *BLASENV, "explain"], environ(), 1)
    assert result.stderr == "blasenv: stdout cannot be written: No space left on device\n"


# env.


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ([], "export OMP_NUM_THREADS=1\n"),
        (["--shell"], "export OMP_NUM_THREADS=1\n"),
        (["--docker"], "ENV OMP_NUM_THREADS=1\n"),
        (["--k8s"], 'env:\n  - name: OMP_NUM_THREADS\n    value: "1"\n'),
    ],
)
def test_env_lines(form: list[str], text: str, tmp_path: Path) -> None:
    assert blasenv("env", *form, "--root", tree(tmp_path), "--affinity", "8").stdout == text


def test_env_without_a_gap_is_a_comment(tmp_path: Path) -> None:
    text = blasenv("env", "--root", tree(tmp_path, "max 100000")).stdout
    assert text.startswith("# blasenv sets nothing: ")
    assert text.count("\n") == 1


def test_env_is_safe_to_evaluate(tmp_path: Path) -> None:
    line = blasenv("env", "--root", tree(tmp_path), OMP_NUM_THREADS="1\ntouch pwned; $(touch pwned)").stdout
    run(["/bin/sh", "-c", 'eval "$1"', "sh", line], cwd=tmp_path)
    assert not (tmp_path / "pwned").exists()


# run.


def test_run_sets_what_is_decided(one_cpu: Cgroup) -> None:
    script = 'echo "$OMP_NUM_THREADS $BLASENV_SET"'
    result = one_cpu.run([*BLASENV, "run", "--", "sh", "-c", script], environ=environ())
    assert result.stdout == "1 OMP_NUM_THREADS=1\n"


def test_run_leaves_the_users_value(one_cpu: Cgroup) -> None:
    words: list[str | Path] = [*BLASENV, "run", "--", "printenv", "OMP_NUM_THREADS"]
    assert one_cpu.run(words, environ=environ(OMP_NUM_THREADS="3")).stdout == "3\n"


def test_run_with_threads_beats_everybody() -> None:
    script = 'echo "$OMP_NUM_THREADS $OPENBLAS_NUM_THREADS $MKL_NUM_THREADS $BLASENV_SET"'
    words = ["run", "--threads", "4", "--", "sh", "-c", script]
    assert blasenv(*words, OMP_NUM_THREADS="3", OPENBLAS_NUM_THREADS="9").stdout == "4 4  \n"


@pytest.mark.parametrize("name", COUNT_VARIABLES)
def test_run_with_threads_beats_each_variable_that_is_there(name: str) -> None:
    words: list[str | Path] = [*BLASENV, "run", "--threads", "4", "--", "printenv", name]
    assert run(words, {**environ(), name: "9"}).stdout == "4\n"


def test_a_python_with_the_hook_keeps_the_threads_asked_for(one_cpu: Cgroup, one_venv: Venv) -> None:
    code = "import os; print(os.environ.get('OMP_NUM_THREADS'), os.environ.get('BLASENV_SET'))"
    words: list[str | Path] = [
        one_venv.directory / "bin" / "blasenv",
        "run",
        "--threads",
        "4",
        "--",
        one_venv.python,
        "-c",
        code,
    ]
    assert one_cpu.run(words).stdout == "4 None\n"


def test_run_reads_the_line_of_its_program(tmp_path: Path) -> None:
    config = tmp_path / "blasenv.toml"
    config.write_text('[programs]\nprintenv = 6\n"train.py" = 7\n')
    settings = {**environ(), "BLASENV_CONFIG": str(config)}
    assert run([*BLASENV, "run", "--", "printenv", "OMP_NUM_THREADS"], settings).stdout == "6\n"
    (tmp_path / "train.py").write_text("import os; print(os.environ['OMP_NUM_THREADS'])")
    words: list[str | Path] = [*BLASENV, "run", "--", sys.executable, "-X", "dev", tmp_path / "train.py"]
    assert run(words, settings).stdout == "7\n"


def test_run_passes_every_word_untouched() -> None:
    words = ["--json", "--", "-h", "", "a b", "--threads", "*"]
    result = blasenv("run", "--", sys.executable, "-c", "import sys; print(sys.argv[1:])", *words)
    assert result.stdout == f"{words}\n"


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 37", 37), ("kill -TERM $$", -signal.SIGTERM)])
def test_run_ends_as_its_command_ends(script: str, status: int) -> None:
    assert blasenv("run", "--", "sh", "-c", script, status=None).returncode == status


def test_run_is_the_process_that_a_signal_reaches() -> None:
    words: list[str | Path] = [
        *BLASENV,
        "run",
        "--",
        "sh",
        "-c",
        "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done",
    ]
    with subprocess.Popen(words, env=environ(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(60) == 9


def test_run_does_not_hand_down_pythons_ignored_signals() -> None:
    result = blasenv("run", "--", "grep", "SigIgn", "/proc/self/status")
    assert int(result.stdout.split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0


def test_run_says_why_it_cannot(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    assert "not found" in blasenv("run", "--", "no-such-program", status=127).stderr
    assert "Permission denied" in blasenv("run", "--", tmp_path / "plain", status=126).stderr
    assert "--" in blasenv("run", status=2).stderr


# The number of write(2), syscall(2).
WRITE = {"x86_64": "1", "aarch64": "64"}.get(platform.machine(), "4")


def test_ctrl_c_ends_by_the_signal() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, bytes(4096))
    except BlockingIOError:
        os.set_blocking(write, True)  # full: the command will stand still as it writes its result
    with subprocess.Popen(
        [*BLASENV, "explain"], env=environ(), stdout=write, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            deadline = time.monotonic() + 60
            # proc_pid_syscall(5): the number of the system call that blocks, and its first argument, the descriptor.
            while Path(f"/proc/{process.pid}/syscall").read_text().split()[:2] != [WRITE, "0x1"]:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == -signal.SIGINT
            assert process.stderr is not None
            assert process.stderr.read() == ""
        finally:
            process.kill()
    os.close(read)
    os.close(write)
