"""blasenv inject docker, podman, containerd, crio: the lines, and --check in roots made by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import run

from blasenv.inject.contents import Contents, sources
from blasenv.inject.engines import ENGINES, Settings, lines, parse, wrapper
from blasenv.inject.export import DEFAULT, export

PROGRAM = "/usr/local/bin/blasenv-runtime"


def command(*words: str | Path, status: int = 0) -> tuple[str, str]:
    done = run([sys.executable, "-m", "blasenv", "inject", *words], status=status)
    return done.stdout, done.stderr


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine where everything is in place but the engine's configuration."""
    (tmp_path / "usr/local/bin").mkdir(parents=True)
    program = tmp_path / PROGRAM[1:]
    program.write_text("#!/usr/bin/python3\n")
    program.chmod(0o755)
    runc = tmp_path / "usr/bin/runc"
    runc.parent.mkdir()
    runc.write_text("")
    runc.chmod(0o755)
    export(Contents(sources()), str(tmp_path / DEFAULT[1:]))
    return tmp_path


def configure(root: Path, engine: str, text: str) -> Path:
    file = root / ENGINES[engine].file[1:]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def check(root: Path, engine: str, status: int = 0) -> dict[str, bool | None]:
    document = json.loads(command(engine, "--check", "--json", "--root", root, status=status)[0])
    assert document["engine"] == engine
    assert document["ok"] == (status == 0)
    assert all(one["advice"] for one in document["checks"] if one["ok"] is False)
    return {one["name"]: one["ok"] for one in document["checks"]}


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_printed_is_found_in_place(engine: str, root: Path) -> None:
    assert check(root, engine, status=1) == {"configuration": False}
    configure(root, engine, lines(engine, Settings(PROGRAM)))
    fine = {"configuration": True, "runtime": True, "startup": True, "real-runtime": True}
    assert check(root, engine) == fine
    said = command(engine, "--check", "--root", root)[0]
    assert f"{ENGINES[engine].title} gives blasenv to the containers" in said
    (root / PROGRAM[1:]).chmod(0o644)
    assert check(root, engine, status=1) == {"configuration": True, "runtime": False}
    (root / PROGRAM[1:]).chmod(0o755)
    (root / DEFAULT[1:] / "sitecustomize.py").unlink()
    assert check(root, engine, status=1) == {**fine, "startup": False}
    (root / "usr/bin/runc").unlink()
    assert check(root, engine, status=1) == {**fine, "startup": False, "real-runtime": False}


@pytest.mark.parametrize("engine", ENGINES)
def test_stdout_is_the_file_and_nothing_else(engine: str) -> None:
    out, told = command(engine)
    assert ENGINES[engine].file in told
    if engine == "docker":
        assert set(json.loads(out)) == {"runtimes", "default-runtime"}
        return
    tomllib = pytest.importorskip("tomllib", reason="no CPython 3.11 on this machine")
    settings = tomllib.loads(out)
    if engine == "podman":
        assert settings["engine"]["runtimes"]["blasenv"][0].endswith("/blasenv-runtime")
    elif engine == "containerd":
        runtime = settings["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]["runtimes"]["blasenv"]
        assert runtime["options"]["BinaryName"].endswith("/blasenv-runtime")
    else:
        assert settings["crio"]["runtime"]["runtimes"]["blasenv"]["runtime_path"].endswith("/blasenv-runtime")
    assert ("kind: RuntimeClass" in told) == (engine != "podman")


def test_options_go_into_the_file_or_into_a_script(root: Path) -> None:
    other = Settings(PROGRAM, "/srv/it's here", "/usr/bin/crun")
    document = json.loads(lines("docker", other))
    assert document["runtimes"]["blasenv"]["runtimeArgs"] == [
        *("--startup", "/srv/it's here"),
        *("--real-runtime", "/usr/bin/crun"),
    ]
    told = command("podman", "--startup", "/srv/x")[1]
    assert '--startup /srv/x "$@"\n' in told
    # --check reads them there.
    export(Contents(sources()), str(root / "srv/it's here"))
    script = root / "usr/local/bin/blasenv-runtime-here"
    script.write_text(wrapper(other))
    script.chmod(0o755)
    configure(root, "podman", lines("podman", Settings("/usr/local/bin/blasenv-runtime-here")))
    configure(root, "docker", lines("docker", other))
    for engine in ("podman", "docker"):
        assert check(root, engine, status=1)["real-runtime"] is False
    (root / "usr/bin/crun").write_text("")
    (root / "usr/bin/crun").chmod(0o755)
    for engine in ("podman", "docker"):
        assert check(root, engine)["startup"]


@pytest.mark.parametrize(
    ("engine", "text"),
    [
        ("docker", ""),
        ("docker", "{}"),
        ("docker", '{"runtimes": null}'),
        ("docker", '{"runtimes": {"x": {"path": "/usr/bin/runc"}, "y": {"runtimeType": "io.containerd.runsc.v1"}}}'),
        ("podman", '# runtime = "/usr/local/bin/blasenv-runtime"\n'),
        ("containerd", 'BinaryName = "/usr/bin/crun"\n'),
        ("crio", "\0\xff"),
    ],
)
def test_a_file_without_us(engine: str, text: str) -> None:
    assert parse(engine, text.encode("utf-8", "replace")) == (None, "")


@pytest.mark.parametrize("text", ["{", "[]", '{"runtimes": 3}', '{"runtimes": {"blasenv": []}}', "\0"])
def test_a_broken_daemon_json_is_said(text: str, root: Path) -> None:
    file = configure(root, "docker", text)
    out = command("docker", "--check", "--root", root, status=1)[0]
    assert "is not as Docker's documentation says" in " ".join(out.split())
    assert file.read_text() == text


def test_options_of_the_check_alone() -> None:
    assert "go with --check" in command("docker", "--json", status=2)[1]
    assert "no such directory" in command("docker", "--check", "--root", "/nowhere", status=2)[1]
