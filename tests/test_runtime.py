"""blasenv-runtime: what it does to a bundle, and that nothing of it stops a container.

docker-tests/inject runs it in front of runc and crun; here a script stands for these and says what it was given.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Venv, clean_environ, run
from hypothesis import HealthCheck, given, settings, strategies as st

from blasenv.inject import contents, export, runtime
from blasenv.inject.runtime import PLACE, add_startup, parse_arguments, split_options

MOUNT = {"destination": PLACE, "type": "bind", "options": ["bind", "ro", "nosuid", "nodev", "noexec"]}


class Bench:
    """A bundle, start-up code, and a real runtime that says what it was given."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bundle = directory / "bundle"
        (self.bundle / "rootfs").mkdir(parents=True)
        self.startup = directory / "startup"
        self.startup.mkdir()
        (self.startup / "sitecustomize.py").write_text("")
        self.real = directory / "bin" / "runc"
        self.real.parent.mkdir()
        self.real.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\ngrep SigIgn /proc/self/status >&2\nexit 9\n')
        self.real.chmod(0o755)
        self.log = directory / "log.json"

    def write(self, config: object) -> None:
        text = config if isinstance(config, (str, bytes)) else json.dumps(config)
        self.bundle.joinpath("config.json").write_bytes(text if isinstance(text, bytes) else text.encode())

    def read(self) -> Any:
        return json.loads(self.bundle.joinpath("config.json").read_bytes())

    def words(self, command: str = "create") -> list[str]:
        """The arguments of the real runtime, as containerd gives them."""
        log = ["--root", "/run/x", "--log", str(self.log), "--log-format", "json"]
        return [*log, command, "--bundle", str(self.bundle), "--pid-file", "/run/y", "container-1"]

    def call(self, words: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Call it as a runtime is called; the exit status and the outputs are the real one's."""
        command = [sys.executable, "-m", "blasenv.inject.runtime"]
        own = ["--startup", str(self.startup), f"--real-runtime={self.real}"]
        return run([*command, *own, *words], **{"status": 9, **options})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    made.write(config())
    return made


def config(*env: str, **changes: object) -> dict[str, Any]:
    """The parts of a config.json that matter here, and some that don't."""
    return {
        "ociVersion": "1.0.2",
        "process": {"args": ["python3"], "env": ["PATH=/bin", *env], "rlimits": [{"hard": 18446744073709551615}]},
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"resources": {"cpu": {"shares": 512}}},
        **changes,
    }


def test_the_places_are_the_same_everywhere() -> None:
    assert (runtime.PLACE, runtime.STARTUP) == (contents.PLACE, export.DEFAULT)


@pytest.mark.parametrize("command", ["create", "run"])
def test_a_container_gets_one_mount_and_one_directory(command: str, bench: Bench) -> None:
    path = bench.bundle / "config.json"
    path.chmod(0o640)
    done = bench.call(bench.words(command))
    assert done.stdout.splitlines() == bench.words(command)
    expected = config(f"PYTHONPATH={PLACE}")
    expected["mounts"].append({**MOUNT, "source": str(bench.startup)})
    assert bench.read() == expected
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert sorted(os.listdir(bench.bundle)) == ["config.json", "rootfs"]
    before = path.read_bytes()
    bench.call(bench.words(command))
    assert path.read_bytes() == before  # once is enough
    assert not bench.log.exists()


def test_the_real_runtime_starts_as_it_was_called(bench: Bench) -> None:
    words = bench.words()
    bare = subprocess.run([bench.real, *words], check=False, capture_output=True, text=True)
    assert bench.call(words).stderr == bare.stderr  # with no signal ignored
    odd = ["--weird", "create", "", "a b", "\udcff", "*"]
    bench.write(config())
    assert os.fsencode(bench.call(odd, errors="surrogateescape").stdout) == b"--weird\ncreate\n\na b\n\xff\n*\n"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--version"],
        ["features"],
        ["--root", "create", "state", "x"],
        ["start", "create"],
        ["exec", "--process", "/p", "run"],
        ["exec", "container-1", "sh", "-c", "create"],
        ["update", "-b"],
        ["exec", "--process", "/etc/hostname", "../.."],
        ["delete", "a container; $(id)\x1b[31m"],
    ],
)
def test_all_else_goes_through(words: list[str], bench: Bench) -> None:
    before = bench.bundle.joinpath("config.json").read_bytes()
    done = bench.call(words, cwd=bench.bundle, environ=clean_environ(PYTHONPATH=str(Path.cwd())))
    assert done.stdout.splitlines() == words or not words
    assert bench.bundle.joinpath("config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "command", "options"),
    [
        (["create"], "create", {}),
        (["--root", "run", "--log=/l", "create", "--bundle", "/b", "id"], "create", {"--bundle": "/b"}),
        (["--debug", "--systemd-cgroup", "run", "-b", "/b", "run"], "run", {"-b": "/b"}),
        (["--platform", "ptrace", "create", "--bundle=/b", "id"], "create", {"--bundle": "/b"}),
        (["--log", "/l", "--log-format", "json", "delete", "--force", "run"], "delete", {"--log": "/l"}),
        (["create", "--bundle"], "create", {"--bundle": ""}),
        (["--root"], "", {"--root": ""}),
    ],
)
def test_the_command_line_is_understood(words: list[str], command: str, options: dict[str, str]) -> None:
    found, have = parse_arguments(words)
    assert found == command
    assert have.items() >= options.items()


def test_our_options_come_first_and_only_there() -> None:
    default = {"--startup": runtime.STARTUP, "--real-runtime": ""}
    assert split_options(["create", "--startup", "x"]) == (default, ["create", "--startup", "x"])
    assert split_options(["--real-runtime", "/r", "--startup=/s", "--root", "/x"]) == (
        {"--startup": "/s", "--real-runtime": "/r"},
        ["--root", "/x"],
    )
    assert split_options(["--startup"]) == (default, ["--startup"])


@pytest.mark.parametrize(
    ("env", "after"),
    [
        ([], [f"PYTHONPATH={PLACE}"]),
        (["PYTHONPATH=/app:/lib"], [f"PYTHONPATH={PLACE}:/app:/lib"]),
        (["PYTHONPATH="], [f"PYTHONPATH={PLACE}"]),
        (["A=1", "PYTHONPATH=/app", "B=PYTHONPATH=2"], ["A=1", f"PYTHONPATH={PLACE}:/app", "B=PYTHONPATH=2"]),
        (["PYTHONPATH=/a", "PYTHONPATH=/b"], [f"PYTHONPATH={PLACE}:/a", f"PYTHONPATH={PLACE}:/b"]),
        (["PYTHONPATHS=/a", "BLASENV_DISABLE=0"], ["PYTHONPATHS=/a", "BLASENV_DISABLE=0", f"PYTHONPATH={PLACE}"]),
    ],
)
def test_what_the_image_and_the_user_set_stays(env: list[str], after: list[str]) -> None:
    made = config(*env)
    assert add_startup(made, "/s")
    assert made["process"]["env"] == ["PATH=/bin", *after]


@pytest.mark.parametrize(
    "made",
    [
        config("BLASENV_DISABLE=1"),
        config("BLASENV_DISABLE=yes", "X=1"),
        config(annotations={"blasenv.inject": "false"}),
        config(annotations={"blasenv.inject": " No ", "other": "x"}),
        config(annotations={"io.kubernetes.cri.container-type": "sandbox"}),
        config(annotations={"io.kubernetes.cri-o.ContainerType": "sandbox"}),
        config(mounts=[{"destination": f"{PLACE}/", "type": "tmpfs"}]),
    ],
)
def test_a_container_can_opt_out(made: dict[str, Any]) -> None:
    before = json.dumps(made)
    assert not add_startup(made, "/s")
    assert json.dumps(made) == before
    assert add_startup(config(annotations={"blasenv.inject": "true"}), "/s")


def test_a_config_without_lists() -> None:
    without: list[dict[str, Any]] = [{}, {"env": None}, {"env": []}]
    for empty in without:
        made: Any = {"process": {"args": ["x"], **empty}, "root": {"path": "/"}, "annotations": None}
        assert add_startup(made, "/s")
        assert made["process"]["env"] == [f"PYTHONPATH={PLACE}"]
        assert made["mounts"] == [{**MOUNT, "source": "/s"}]


ODD: dict[str, object] = {
    "empty": "",
    "half written": json.dumps(config())[:100],
    "not text": b"\xff\xfe{}",
    "a list": [],
    "a number": 3,
    "null": "null",
    "no process": {"root": {"path": "rootfs"}},
    "no root": {"process": {}},
    "env is a number": {"process": {"env": 3}, "root": {"path": "rootfs"}},
    "env of numbers": {"process": {"env": [3]}, "root": {"path": "rootfs"}},
    "mounts are words": {"process": {}, "mounts": ["/proc"], "root": {"path": "rootfs"}},
    "a mount over all": config(mounts=[{"destination": "/"}]),
    "not a number": '{"process": {"env": [], "x": NaN}, "root": {"path": "rootfs"}}',
    "a number that no float holds": '{"process": {"env": [], "x": 1e999}, "root": {"path": "rootfs"}}',
    "deep": "[" * 200_000,
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_bundle_is_left_alone_and_one_line_says_so(name: str, bench: Bench) -> None:
    bench.write(ODD[name])
    before = bench.bundle.joinpath("config.json").read_bytes()
    done = bench.call(bench.words())
    assert done.stdout.splitlines() == bench.words()
    assert bench.bundle.joinpath("config.json").read_bytes() == before
    assert sorted(os.listdir(bench.bundle)) == ["config.json", "rootfs"]
    (line,) = bench.log.read_text().splitlines()
    entry = json.loads(line)
    assert entry["level"] == "warning"
    assert entry["msg"].startswith("blasenv: the container starts without it: ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=4),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "process": JSON | st.fixed_dictionaries({}, optional={"env": JSON | st.lists(st.text())}),
            "mounts": JSON | st.lists(st.fixed_dictionaries({"destination": st.text()})),
            "annotations": JSON | st.dictionaries(st.text(), st.text()),
            "root": JSON | st.fixed_dictionaries({"path": st.text()}),
            "x": JSON,
        },
    )
)
def test_whatever_it_holds_it_is_edited_rightly_or_left(document: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        made = Bench(Path(directory))
        made.write(document)
        before = made.bundle.joinpath("config.json").read_bytes()
        runtime.prepare(made.words(), str(made.startup))
        after = made.bundle.joinpath("config.json").read_bytes()
        assert sorted(os.listdir(made.bundle)) == ["config.json", "rootfs"]
        if after != before:
            edited = json.loads(after)
            assert edited["mounts"].pop() == {**MOUNT, "source": str(made.startup)}
            assert edited["mounts"] == (document.get("mounts") or [])
            assert any(item.startswith(f"PYTHONPATH={PLACE}") for item in edited["process"]["env"])
            for found in (edited, document):
                found["process"].pop("env", None)
                found.pop("mounts", None)
            assert edited == document


def no_config(bench: Bench) -> None:
    (bench.bundle / "config.json").unlink()


def a_fifo(bench: Bench) -> None:
    (bench.bundle / "config.json").unlink()
    os.mkfifo(bench.bundle / "config.json")


def nothing_exported(bench: Bench) -> None:
    (bench.startup / "sitecustomize.py").unlink()


def a_file_in_its_place(bench: Bench) -> None:
    (bench.bundle / "rootfs" / PLACE[1:]).write_text("the image's")


def a_link_in_its_place(bench: Bench) -> None:
    (bench.bundle / "rootfs" / PLACE[1:]).symlink_to("/etc")


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (no_config, "No such file"),
        (a_fifo, "no regular file"),
        (nothing_exported, "blasenv inject export"),
        (a_file_in_its_place, "no directory"),
        (a_link_in_its_place, "no directory"),
    ],
)
def test_what_would_stop_the_container_is_not_done(spoil: Callable[[Bench], None], word: str, bench: Bench) -> None:
    spoil(bench)
    before = sorted(os.listdir(bench.bundle))
    assert bench.call(bench.words()).stdout.splitlines() == bench.words()
    assert sorted(os.listdir(bench.bundle)) == before
    assert word in json.loads(bench.log.read_text())["msg"]


def test_the_log_is_text_or_stderr_as_the_caller_says(bench: Bench) -> None:
    bench.write("")
    bench.call(["--log", str(bench.log), "create", "-b", str(bench.bundle), "x"])
    assert bench.log.read_text().startswith("blasenv: the container starts without it: config.json is not")
    assert "blasenv: the container starts" in bench.call(["create", "-b", str(bench.bundle), "x"]).stderr
    gone = ["--log", str(bench.directory / "no" / "log"), "create", "-b", str(bench.bundle), "x"]
    assert bench.call(gone).stdout.splitlines() == gone


def test_a_config_of_ten_megabytes(bench: Bench) -> None:
    long = config(*(f"V{number}={'x' * 1000}" for number in range(10_000)))
    bench.write(long)
    bench.call(bench.words())
    assert bench.read()["process"]["env"] == [*long["process"]["env"], f"PYTHONPATH={PLACE}"]


def test_a_relative_bundle_and_no_bundle(bench: Bench) -> None:
    environ = clean_environ(PYTHONPATH=str(Path.cwd()))
    bench.call(["create", "--bundle=bundle", "x"], cwd=bench.directory, environ=environ)
    assert len(bench.read()["mounts"]) == 2
    bench.write(config())
    bench.call(["create", "x"], cwd=bench.bundle, environ=environ)
    assert len(bench.read()["mounts"]) == 2


def test_without_a_real_runtime_it_ends_as_a_shell_would(bench: Bench) -> None:
    command = [sys.executable, "-m", "blasenv.inject.runtime"]
    gone = run([*command, "--real-runtime", "/no/runc", "state", "x"], status=127)
    assert gone.stderr == "blasenv-runtime: /no/runc: not found\n"
    denied = run([*command, "--real-runtime", str(bench.startup), "state", "x"], status=126)
    assert denied.stderr == f"blasenv-runtime: {bench.startup}: Permission denied\n"
    nowhere = run([*command, "state", "x"], status=127, environ=clean_environ(PATH="/nowhere"))
    assert nowhere.stderr == "blasenv-runtime: runc or crun: not found\n"


def test_found_on_path_and_never_itself(bench: Bench, one_venv: Venv) -> None:
    own = one_venv.python.with_name("blasenv-runtime")
    first = bench.directory / "first"
    first.mkdir()
    (first / "runc").symlink_to(own)
    environ = clean_environ(PATH=f"{first}:{bench.real.parent}:{os.environ['PATH']}")
    for name in (own, first / "runc"):
        done = run([name, "--startup", str(bench.startup), *bench.words()], status=9, environ=environ)
        assert done.stdout.splitlines() == bench.words()
    assert len(bench.read()["mounts"]) == 2


@pytest.mark.parametrize("named", [True, False], ids=["--root", "rootless Podman"])
@pytest.mark.parametrize(
    ("runtime", "name", "key"), [("runc", "state.json", "init_process_pid"), ("crun", "status", "pid")]
)
def test_a_process_that_comes_later_gets_the_same(
    runtime: str, name: str, key: str, named: bool, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = bench.directory / runtime
    (root / "container-1").mkdir(parents=True)
    file = bench.directory / "process.json"
    words = ["exec", "--process", str(file), "--detach", "container-1"]
    if named:
        words[:0] = ["--root", str(root)]
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(bench.directory))

    def env(init: int, **process: object) -> object:
        (root / "container-1" / name).write_text(json.dumps({"id": "x", key: init}))
        file.write_text(json.dumps({"args": ["x"], **process}))
        assert bench.call(words).stdout.splitlines() == words
        return json.loads(file.read_bytes()).get("env")

    # This machine's root stands for that of a container without the mount.
    assert env(os.getpid(), env=["A=1"]) == ["A=1"]
    if os.geteuid():
        pytest.skip("a root directory of its own for a process needs root")
    Path(bench.bundle, "rootfs", PLACE[1:]).mkdir()
    Path(bench.bundle, "rootfs", PLACE[1:], "sitecustomize.py").write_text("")
    code = f"import os, sys; os.chroot({str(bench.bundle / 'rootfs')!r}); print(flush=True); sys.stdin.read()"
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **streams) as init:
        assert init.stdout is not None
        init.stdout.readline()
        assert env(init.pid, env=["A=1"]) == ["A=1", f"PYTHONPATH={PLACE}"]
        assert env(init.pid, env=["PYTHONPATH=/a"]) == [f"PYTHONPATH={PLACE}:/a"]
        assert env(init.pid, env=[f"PYTHONPATH={PLACE}:/a"]) == [f"PYTHONPATH={PLACE}:/a"]
        assert env(init.pid) == [f"PYTHONPATH={PLACE}"]
        assert env(init.pid, env=[3]) == [3]
        assert env(2**31, env=["A=1"]) == ["A=1"]
        init.communicate()
