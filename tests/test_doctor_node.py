"""``blasenv doctor --node``: names from real grammars and fake roots, and containers that are real cgroups."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TIMEOUT, Cgroup, clean_environ, make_cgroup, run
from crowd import crowd
from hypothesis import given, strategies
from measure import install
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from blasenv.commands.doctor import metrics
from blasenv.commands.doctor.node import Row, document, render, rows_of
from blasenv.machine import node
from blasenv.machine.containers import (
    Name,
    Names,
    parse_bundle,
    parse_data_root,
    parse_docker,
    parse_monitor,
    parse_path,
    parse_podman,
)

BLASENV = [sys.executable, "-m", "blasenv", "doctor", "--node"]
SUFFERS = ROOT / "tests" / "support" / "suffers.py"
ID, OTHER = "0123456789abcdef" * 4, "f" * 64
UID = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
UNDER = UID.replace("-", "_")
STATIC = "0123456789abcdef" * 2
RUNTIME = "run/containerd/io.containerd.runtime.v2.task"

# The path, and of the place it says: the cgroup of the container, engine, id, pod, name.
PATHS = [
    # Docker: cgroupfs, systemd's driver, --cgroup-parent, in Docker, with cgroups of its own.
    (f"/docker/{ID}", f"/docker/{ID}", "docker", ID, "", ""),
    (f"/system.slice/docker-{ID}.scope", f"/system.slice/docker-{ID}.scope", "docker", ID, "", ""),
    (f"/batch/{ID}", f"/batch/{ID}", "container", ID, "", ""),
    (f"/batch.slice/docker-{ID}.scope", f"/batch.slice/docker-{ID}.scope", "docker", ID, "", ""),
    (f"/docker/{OTHER}/docker/{ID}", f"/docker/{OTHER}/docker/{ID}", "docker", ID, "", ""),
    (f"/docker/{ID}/system.slice/cron.service", f"/docker/{ID}", "docker", ID, "", ""),
    (f"/../../docker/{ID}", f"/../../docker/{ID}", "docker", ID, "", ""),
    # Podman: as root, as a user, in a pod; crun makes a cgroup below on v2; the monitor is no container.
    (f"/machine.slice/libpod-{ID}.scope", f"/machine.slice/libpod-{ID}.scope", "podman", ID, "", ""),
    (f"/machine.slice/libpod-{ID}.scope/container", f"/machine.slice/libpod-{ID}.scope", "podman", ID, "", ""),
    (
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container",
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope",
        "podman", ID, "", "",
    ),
    (f"/libpod_parent/libpod-{ID}", f"/libpod_parent/libpod-{ID}", "podman", ID, "", ""),
    (
        f"/machine.slice/machine-libpod_pod_{OTHER}.slice/libpod-{ID}.scope",
        f"/machine.slice/machine-libpod_pod_{OTHER}.slice/libpod-{ID}.scope",
        "podman", ID, "", "",
    ),
    (
        f"/machine.slice/libpod-conmon-{ID}.scope",
        f"/machine.slice/libpod-conmon-{ID}.scope",
        "systemd", "", "", f"libpod-conmon-{ID}.scope",
    ),
    # Kubernetes: three classes of service, two drivers, containerd, CRI-O, Docker; a static pod; kind; v1's odd one.
    *(
        (
            f"/kubepods.slice/{slices}-pod{UNDER}.slice/{scope}-{ID}.scope",
            f"/kubepods.slice/{slices}-pod{UNDER}.slice/{scope}-{ID}.scope",
            engine, ID, UID, "",
        )
        for slices in ("kubepods", "kubepods-burstable.slice/kubepods-burstable",
                       "kubepods-besteffort.slice/kubepods-besteffort")
        for scope, engine in (("cri-containerd", "containerd"), ("crio", "crio"), ("docker", "docker"))
    ),
    *(
        (f"/kubepods/{level}pod{UID}/{ID}", f"/kubepods/{level}pod{UID}/{ID}", "kubernetes", ID, UID, "")
        for level in ("", "burstable/", "besteffort/")
    ),
    (f"/kubepods/pod{UID}/crio-{ID}", f"/kubepods/pod{UID}/crio-{ID}", "crio", ID, UID, ""),
    (f"/kubepods/burstable/pod{STATIC}/{ID}", f"/kubepods/burstable/pod{STATIC}/{ID}", "kubernetes", ID, STATIC, ""),
    (
        f"/docker/{OTHER}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UNDER}.slice/cri-containerd-{ID}.scope/x",
        f"/docker/{OTHER}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UNDER}.slice/cri-containerd-{ID}.scope",
        "containerd", ID, UID, "",
    ),
    (
        f"/system.slice/containerd.service/kubepods-burstable-pod{UNDER}.slice:cri-containerd:{ID}",
        f"/system.slice/containerd.service/kubepods-burstable-pod{UNDER}.slice:cri-containerd:{ID}",
        "containerd", ID, UID, "",
    ),
    (f"/kubepods.slice/kubepods-pod{UNDER}.slice", f"/kubepods.slice/kubepods-pod{UNDER}.slice", "systemd", "", "",
     f"kubepods-pod{UNDER}.slice"),
    # nerdctl, and containerd's own client, whose ids are any word.
    (f"/system.slice/nerdctl-{ID}.scope", f"/system.slice/nerdctl-{ID}.scope", "containerd", ID, "", ""),
    ("/default/web", "/default/web", "", "", "", "web"),
    # Slurm, v1 and v2.
    ("/slurm/uid_1000/job_42/step_0/task_3", "/slurm/uid_1000/job_42/step_0", "slurm", "", "", "job 42 step 0"),
    (
        "/system.slice/slurmstepd.scope/job_42/step_batch/user/task_0",
        "/system.slice/slurmstepd.scope/job_42/step_batch",
        "slurm", "", "", "job 42 step batch",
    ),
    ("/slurm_node7/uid_0/job_42", "/slurm_node7/uid_0/job_42", "slurm", "", "", "job 42"),
    ("/batch/job_42/step_0", "/batch/job_42/step_0", "", "", "", "step_0"),
    # systemd.
    ("/system.slice/nginx.service", "/system.slice/nginx.service", "systemd", "", "", "nginx.service"),
    (r"/system.slice/a\x2db.service", r"/system.slice/a\x2db.service", "systemd", "", "", "a-b.service"),
    (r"/system.slice/a\x2.service", r"/system.slice/a\x2.service", "systemd", "", "", r"a\x2.service"),
    ("/user.slice/user-1000.slice/session-3.scope", "/user.slice/user-1000.slice/session-3.scope", "systemd", "", "",
     "session-3.scope"),
    ("/user.slice/u.slice/user@1.service/app.slice/a.service", "/user.slice/u.slice/user@1.service/app.slice/a.service",
     "systemd", "", "", "a.service"),
    ("/system.slice/a.service/payload", "/system.slice/a.service/payload", "systemd", "", "", "a.service/payload"),
    ("/user.slice", "/user.slice", "systemd", "", "", "user.slice"),
    # Neither; and what only looks like one.
    ("/", "/", "", "", "", ""),
    ("/a b\tc:d", "/a b\tc:d", "", "", "", "a b\tc:d"),
    (f"/docker/{ID[:63]}", f"/docker/{ID[:63]}", "", "", "", ID[:63]),
    (f"/docker/{ID.upper()}", f"/docker/{ID.upper()}", "", "", "", ID.upper()),
    (f"/docker/{ID}\n", f"/docker/{ID}\n", "", "", "", f"{ID}\n"),
    ("/podcast/podium", "/podcast/podium", "", "", "", "podium"),
]  # fmt: skip


@pytest.mark.parametrize("row", PATHS, ids=[row[0] for row in PATHS])
def test_what_a_path_says(row: tuple[str, ...]) -> None:
    path, *expected = row
    place = parse_path(path.encode())
    assert [os.fsdecode(place.path), place.engine, place.id, place.pod, place.name] == expected


def test_bytes_that_are_no_text_stay_what_they_are() -> None:
    place = parse_path(b"/x/\xff\x01.service")
    assert (place.path, os.fsencode(place.name)) == (b"/x/\xff\x01.service", b"\xff\x01.service")


@given(
    strategies.lists(strategies.sampled_from([row[0] for row in PATHS]) | strategies.text(), max_size=6).map("/".join)
)
def test_any_path_says_something(text: str) -> None:
    path = text.encode("utf-8", "surrogatepass")
    place = parse_path(path)
    assert path.startswith(place.path)
    assert place.id or not place.pod


DOCKER = {"Name": "/web", "Config": {"Labels": {"a": "b"}}}
K8S = {"io.kubernetes.container.name": "main", "io.kubernetes.pod.name": "train-0", "io.kubernetes.pod.namespace": "ml"}
CRI = {
    "io.kubernetes.cri.container-name": "main",
    "io.kubernetes.cri.sandbox-name": "train-0",
    "io.kubernetes.cri.sandbox-namespace": "ml",
}
IN_POD = Name("", "main", "train-0", "ml")
BROKEN = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"7",
    b'"x"',
    b"\xff",
    b"[" * 100_000,
    b'{"Name": 7, "Config": 7, "annotations": 7}',
]


def test_docker_names() -> None:
    assert parse_docker(json.dumps(DOCKER).encode()) == Name("web")
    assert parse_docker(json.dumps({"Name": f"/k8s_main_train-0_ml_{UID}_0"}).encode()) == IN_POD
    labels = {"Name": "", "Config": {"Labels": K8S}}
    assert parse_docker(json.dumps(labels).encode()) == IN_POD


def test_names_in_annotations() -> None:
    for written in (K8S, CRI):
        assert parse_bundle(json.dumps({"annotations": written}).encode()) == IN_POD
    assert parse_bundle(b'{"annotations": {"nerdctl/name": "web"}}') == Name("web")
    assert parse_bundle(b'{"annotations": {"io.kubernetes.pod.name": ["x"]}}') == Name()


def test_podman_names() -> None:
    stored = [{"id": ID, "names": ["web", "alias"]}, {"id": OTHER}, {"id": 7, "names": ["x"]}, 7]
    assert parse_podman(json.dumps(stored).encode()) == {ID: Name("web")}
    words = ["conmon", "--api-version", "1", "-c", ID, "-u", ID, "-n", "web"]
    assert parse_monitor(words) == (ID, Name("web"))
    assert parse_monitor(["conmon", "-c"]) == ("", Name())


def test_where_docker_keeps_its_files() -> None:
    assert parse_data_root(["dockerd", "--data-root", "/a/", "-D"]) == "/a"
    assert parse_data_root(["dockerd", "--data-root=/b"]) == "/b"
    assert parse_data_root(["dockerd"]) == ""


@pytest.mark.parametrize("contents", BROKEN)
def test_broken_files_have_no_names(contents: bytes) -> None:
    assert (parse_docker(contents), parse_bundle(contents), parse_podman(contents)) == (Name(), Name(), {})


def put(root: Path, path: str, contents: object) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(contents))


@pytest.mark.parametrize("top", ["", "proc/1/root"])
def test_names_are_found_in_the_files_of_each_engine(tmp_path: Path, top: str) -> None:
    host = tmp_path / top
    put(host, f"var/lib/docker/containers/{ID}/config.v2.json", DOCKER)
    put(host, "etc/docker/daemon.json", {"data-root": "/data/docker"})
    put(host, f"data/docker/containers/{OTHER}/config.v2.json", {"Name": "/elsewhere"})
    put(host, f"{RUNTIME}/k8s.io/{'1' * 64}/config.json", {"annotations": CRI})
    put(host, f"run/containers/storage/overlay-containers/{'2' * 64}/userdata/config.json", {"annotations": K8S})
    put(host, "var/lib/containers/storage/overlay-containers/containers.json", [{"id": "3" * 64, "names": ["pod"]}])
    names = Names(str(tmp_path), [["conmon", "-c", "4" * 64, "-n", "mine"]], [["dockerd", "--data-root", "/own"]])
    put(host, f"own/containers/{'5' * 64}/config.v2.json", {"Name": "/own"})
    for path, engine, name in (
        (f"/docker/{ID}", "docker", Name("web")),
        (f"/batch/{ID}", "docker", Name("web")),
        (f"/docker/{OTHER}", "docker", Name("elsewhere")),
        (f"/kubepods/pod{UID}/{'1' * 64}", "containerd", IN_POD),
        (f"/kubepods/pod{UID}/{'2' * 64}", "crio", IN_POD),
        (f"/kubepods/pod{UID}/crio-{'2' * 64}", "crio", IN_POD),
        (f"/machine.slice/libpod-{'3' * 64}.scope", "podman", Name("pod")),
        (f"/batch/{'4' * 64}", "podman", Name("mine")),
        (f"/docker/{'5' * 64}", "docker", Name("own")),
        (f"/batch/{'6' * 64}", "container", Name()),
        ("/system.slice/cron.service", "systemd", Name()),
    ):
        assert names.find(parse_path(path.encode())) == (engine, name), path


def test_a_file_that_is_none_has_no_name(tmp_path: Path) -> None:
    directory = tmp_path / f"var/lib/docker/containers/{ID}"
    directory.mkdir(parents=True)
    os.mkfifo(directory / "config.v2.json")
    assert Names(str(tmp_path)).find(parse_path(f"/docker/{ID}".encode())) == ("docker", Name())


# A machine that is a directory: 2 CPUs, cgroup v2, processes whose counters do not move.


class Fake:
    """A root with processes, for `node.look`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        own = root / "proc" / "self"
        own.mkdir(parents=True)
        (own / "mountinfo").write_text("30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n")
        (own / "cgroup").write_text("0::/\n")

    def limit(self, path: str, cpus: float | None, stat: str = "") -> None:
        directory = self.root / "sys/fs/cgroup" / path.strip("/")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cpu.max").write_text(f"{'max' if cpus is None else round(cpus * 100_000)} 100000\n")
        (directory / "cpu.stat").write_text(stat or "nr_periods 0\nnr_throttled 0\nthrottled_usec 0\n")

    def process(
        self, pid: int, cgroup: str, state: str = "S", name: str = "x", flags: int = 0, threads: int = 3
    ) -> Path:
        proc = self.root / "proc" / str(pid)
        (proc / "task" / str(pid)).mkdir(parents=True)
        words = [state, "1", *["0"] * 4, str(flags), *["0"] * 10, str(threads), "0", "5", "0"]
        for directory in (proc, proc / "task" / str(pid)):
            (directory / "stat").write_text(f"{pid} ({name}) {' '.join(words)}\n")
            (directory / "status").write_text("Uid:\t0\t0\t0\t0\nCpus_allowed_list:\t0-1\n")
        (proc / "cgroup").write_text(f"0::{cgroup}\n")
        for file in ("cmdline", "maps", "environ"):
            (proc / file).write_bytes(b"")
        return proc

    def rows(self) -> list[Row]:
        return rows_of(node.look(0.01, str(self.root)))


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


def test_a_row_for_each_container_with_a_limit_below_its_pod(fake: Fake) -> None:
    pod = f"/kubepods.slice/kubepods-pod{UNDER}.slice"
    fake.limit(pod, 1.5)
    for number, (identity, cpus) in enumerate(((ID, None), (OTHER, 0.5))):
        fake.limit(f"{pod}/cri-containerd-{identity}.scope", cpus)
        fake.process(10 + number, f"{pod}/cri-containerd-{identity}.scope")
    fake.process(20, f"{pod}/cri-containerd-{ID}.scope/init")
    fake.process(21, "/system.slice/cron.service")
    put(fake.root, f"{RUNTIME}/k8s.io/{ID}/config.json", {"annotations": CRI})
    first, second = sorted(fake.rows(), key=lambda row: row.name, reverse=True)
    assert (first.name, first.allowed, len(first.seen.processes)) == (f"pod {UID}/{OTHER[:12]}", 0.5, 1)
    assert (second.name, second.allowed, len(second.seen.processes)) == ("ml/train-0/main", 1.5, 2)
    assert second.threads == 6
    assert [row.why for row in (first, second)] == ["idle", "idle"]


def test_threads_of_the_kernel_and_zombies_are_no_processes(fake: Fake) -> None:
    fake.limit("/a", 1)
    fake.process(10, "/a")
    fake.process(11, "/a", state="Z")
    fake.process(12, "/a", flags=0x00200000)
    (row,) = fake.rows()
    assert [one.pid for one in row.seen.processes] == [10]


def test_nothing_of_a_process_that_stands_still_is_opened_but_its_counters(fake: Fake) -> None:
    """Its maps and environment are behind the lock of its memory; reading a FIFO would hang, as that would."""
    fake.limit(f"/docker/{ID}", 1)
    proc = fake.process(10, f"/docker/{ID}", state="D")
    for name in ("maps", "environ", "cmdline"):
        (proc / name).unlink()
        os.mkfifo(proc / name)
    (row,) = fake.rows()
    assert (row.name, row.seen.hostname) == (ID[:12], "")


def test_one_that_vanishes_in_the_middle(fake: Fake) -> None:
    fake.limit("/a", 1)
    fake.limit("/b", 1)
    fake.process(10, "/a")
    shutil.rmtree(fake.process(11, "/b"))
    (fake.root / "proc/12").mkdir()
    proc = fake.process(13, "/a", state="R")
    (proc / "task/13/stat").unlink()
    assert [row.name for row in fake.rows()] == ["a"]


def test_the_hostname_is_the_pod_where_no_file_names_it(fake: Fake) -> None:
    fake.limit(f"/kubepods/pod{UID}/{ID}", 1)
    proc = fake.process(10, f"/kubepods/pod{UID}/{ID}", state="R")
    (proc / "environ").write_bytes(b"A=B\0HOSTNAME=train-0\0")
    (row,) = fake.rows()
    assert row.name == f"train-0/{ID[:12]}"


def test_a_limit_that_stops_several_is_counted_once() -> None:
    """Real: two cgroups below one with a limit, a loop in each; the limit is the parent's."""
    with make_cgroup(0.1) as parent, loops_below(parent, "a", "b"):
        rows = [row for row in rows_of(node.look(0.6)) if within(row, parent)]
    assert len(rows) == 2
    assert sorted(row.seen.counted_with is None for row in rows) == [False, True]
    first, second = rows if rows[1].seen.counted_with else reversed(rows)
    assert first.seen.standing_still > 0
    assert (second.seen.standing_still, second.seen.sharing) == (0.0, 2)
    assert second.seen.counted_with is first.seen
    assert (first.cause, second.cause) == ("workers", "neighbours")
    assert second.fix == f"see {first.name}"
    assert {json_of(row)["throttled_by"] for row in rows} == {str(parent.directory)}
    assert {row.allowed for row in rows} == {0.1}
    assert "shared" in render(rows, node.Node([], 2, 0, True))


def within(row: Row, group: Cgroup) -> bool:
    return os.fsdecode(row.seen.place.path).startswith(f"/{group.directory.name}")


def json_of(row: Row) -> dict[str, Any]:
    (found,) = json.loads(json.dumps(document([row], node.Node([row.seen], 1, 0, True))))["containers"]
    assert isinstance(found, dict)
    return found


@contextlib.contextmanager
def loops_below(parent: Cgroup, *names: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name in names:
            child = Cgroup(parent.directory / name)
            if (parent.directory / "cgroup.subtree_control").exists():
                (parent.directory / "cgroup.subtree_control").write_text("+cpu")
            child.directory.mkdir()
            stack.callback(remove, child)
            stack.enter_context(started(child, "python_loop"))
        yield


def remove(group: Cgroup) -> None:
    deadline = time.monotonic() + TIMEOUT
    while True:
        group.kill()
        with contextlib.suppress(OSError):
            group.directory.rmdir()
            return
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def started(group: Cgroup | None, *program: str, python: str | Path = sys.executable, **changes: str) -> Iterator[int]:
    """A program of suffers.py that is at work, in a cgroup; its PID."""
    command = [str(python), str(SUFFERS), *program]
    command = group.enter(command) if group else command
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, env=clean_environ(**changes), start_new_session=True, **options) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline().startswith("ready")
            yield child.pid
        finally:
            os.killpg(child.pid, signal.SIGKILL)


@contextlib.contextmanager
def containers(numpy: Path) -> Iterator[dict[str, Cgroup]]:
    """What a node has: too many threads, several workers, a limit that is too small, an idle one, one without."""
    few = [
        ("threads", 1.0, ("matmul",), numpy, {}),
        ("workers", 0.5, ("pool", "3"), numpy, {"OMP_NUM_THREADS": "1"}),
        ("limit", 0.1, ("python_loop",), Path(sys.executable), {}),
        ("idle", 1.0, ("sleeper",), Path(sys.executable), {}),
    ]
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU is no limit on a machine with one CPU")
    with contextlib.ExitStack() as stack:
        groups = {}
        for name, cpus, program, python, changes in few:
            groups[name] = stack.enter_context(make_cgroup(cpus))
            stack.enter_context(started(groups[name], *program, python=python, **changes))
        free = Cgroup(groups["idle"].directory.with_name(f"{groups['idle'].directory.name}-free"))
        free.directory.mkdir()
        stack.callback(remove, free)
        stack.enter_context(started(free, "matmul", python=numpy, OMP_NUM_THREADS="1"))
        groups["free"] = free
        yield groups


@pytest.fixture(scope="module")
def numpy() -> Path:
    """A Python with numpy, in which there is no blasenv."""
    return install("pools").python


@pytest.fixture(scope="module")
def fleet(numpy: Path) -> Iterator[dict[str, Cgroup]]:
    with containers(numpy) as groups:
        time.sleep(1)  # in which the workers load numpy
        yield groups


def look(*words: str, status: int | None = 1, prefix: Sequence[str] = (), **options: Any) -> str:
    command = [*prefix, *BLASENV, "--seconds", "0.7", *words]
    return run(command, status=status, environ=clean_environ(PYTHONPATH=str(ROOT)), **options).stdout


def found_in(said: str, fleet: dict[str, Cgroup]) -> dict[str, dict[str, Any]]:
    """The rows by what they are here; each once."""
    rows = json.loads(said)["containers"]
    by_name = {row["name"]: row for row in rows}
    assert len(by_name) == len(rows)
    return {name: by_name[group.directory.name] for name, group in fleet.items() if group.directory.name in by_name}


def test_causes_and_fixes(fleet: dict[str, Cgroup]) -> None:
    rows = found_in(look("--json"), fleet)
    assert set(rows) == set(fleet)
    causes = {name: row["cause"] for name, row in rows.items()}
    assert causes == {"threads": "threads", "workers": "workers", "limit": "limit", "idle": None, "free": None}
    assert {name: row["problem"] for name, row in rows.items()} == {name: bool(causes[name]) for name in rows}
    assert {name: row["quota_cpus"] for name, row in rows.items()} == {
        "threads": 1, "workers": 0.5, "limit": 0.1, "idle": 1, "free": None
    }  # fmt: skip
    threads, workers, limit = rows["threads"], rows["workers"], rows["limit"]
    assert re.fullmatch(r"\d+ OpenBLAS threads", threads["why"])
    assert threads["fix"] == "OMP_NUM_THREADS=1 or blasenv in its Python"
    assert "OMP_NUM_THREADS=1, or install blasenv in its Python." in threads["advice"]
    assert threads["busy_threads"] >= 2
    assert threads["fitting_threads"] == 1
    assert (workers["why"], workers["fix"]) == ("3 busy workers", "1 worker")
    assert len(workers["workers"]) == workers["busy_processes"] == 3
    assert limit["why"] == "the limit itself, not threads"
    assert limit["fix"] == "a higher limit"
    assert limit["throttled_share"] > 0
    assert limit["standing_still_cpus"] > 0
    assert (rows["idle"]["why"], rows["idle"]["busy_threads"]) == ("idle", None)
    assert rows["free"]["libraries"] == {"OpenBLAS": 1}
    assert rows["free"]["throttled_share"] is None


def test_it_says_what_doctor_pid_says(fleet: dict[str, Cgroup]) -> None:
    row = found_in(look("--json"), fleet)["threads"]
    command = [*BLASENV[:-1], str(row["pid"]), "--json"]
    said = run(command, status=1, environ=clean_environ(PYTHONPATH=str(ROOT))).stdout
    (process,) = json.loads(said)["processes"]
    assert process["verdict"]["kind"] == row["cause"]
    assert process["verdict"]["fitting_threads"] == row["fitting_threads"]
    assert process["verdict"]["advice"] == row["advice"]


def test_the_worst_is_first_and_told(fleet: dict[str, Cgroup]) -> None:
    said = look()
    lines = said.splitlines()
    assert lines[0].split() == ["CPUS", "PROCS", "THREADS", "THROTTLED", "STILL", "CONTAINER"]
    at = {name: said.index(group.directory.name) for name, group in fleet.items()}
    assert max(at["threads"], at["workers"], at["limit"]) < min(at["idle"], at["free"])
    assert re.search(r"\d of \d+ containers with a problem\. More about the\s+first: blasenv doctor \d+", said)
    assert "the limit itself, not threads → a higher limit" in " ".join(said.split())


def test_without_the_right_to_look_it_says_so(fleet: dict[str, Cgroup], open_to_all: Path) -> None:
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("only root can become somebody else")
    prefix = ["setpriv", "--reuid=64323", "--regid=64323", "--clear-groups"]
    command = [*prefix, *BLASENV, "--seconds", "0.7", "--json"]
    done = run(command, status=1, environ=clean_environ(PYTHONPATH=str(open_to_all)), cwd="/")
    document = json.loads(done.stdout)
    rows = found_in(done.stdout, fleet)
    assert document["closed"] > 0
    assert "free" not in rows  # its libraries can't be seen
    assert rows["limit"]["cause"] == "limit"
    assert rows["limit"]["throttled_share"] > 0
    said = run(command[:-1], status=1, environ=clean_environ(PYTHONPATH=str(open_to_all)), cwd="/").stdout
    assert re.search(
        r"Can't be looked into from here, of\s+those\s+that\s+use\s+CPUs: \d+ processe?s?; root\s+may", said
    )


def families(text: str) -> dict[str, dict[str, float]]:
    """The values by family and cgroup; the two formats are read alike."""
    both = []
    for parse in (parse_openmetrics, parse_text):
        found: dict[str, dict[str, float]] = {}
        for family in parse(text):
            assert family.type == "gauge"
            assert family.documentation
            for sample in family.samples:
                found.setdefault(sample.name, {})[sample.labels.get("cgroup", "")] = sample.value
        both.append(found)
    assert both[0] == both[1]
    return both[0]


def test_metrics(fleet: dict[str, Cgroup], tmp_path: Path) -> None:
    target = tmp_path / "blasenv.prom"
    target.write_text("old")
    assert look("--metrics", str(target)) == ""
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["blasenv.prom"]
    text = target.read_text(encoding="utf-8")
    assert text.endswith("\n# EOF\n")
    found = families(text)
    paths = {name: f"/{group.directory.name}" for name, group in fleet.items()}
    assert found["blasenv_container_problem"][paths["threads"]] == 1
    assert found["blasenv_container_problem"][paths["idle"]] == 0
    assert found["blasenv_container_limit_cpus"][paths["limit"]] == 0.1
    assert found["blasenv_container_standing_still_cpus"][paths["limit"]] > 0
    assert 0 < found["blasenv_container_throttled_ratio"][paths["limit"]] <= 1
    assert found["blasenv_container_fitting_threads"][paths["threads"]] == 1
    assert paths["free"] not in found["blasenv_container_limit_cpus"]
    assert found["blasenv_node_containers"][""] == len(found["blasenv_container_problem"])
    documented = set(re.findall(r"^\| `(blasenv_\w+)` \|", (ROOT / "docs/fleet.md").read_text("utf-8"), re.MULTILINE))
    assert documented == set(found)


def test_metrics_of_names_with_odd_characters(fake: Fake) -> None:
    path = '/a"b\\n\\x2d{},=\x07é'
    fake.limit(path, 1)
    fake.process(10, path)
    seen = node.look(0.01, str(fake.root))
    text = metrics.render(rows_of(seen), seen)
    assert list(families(text)["blasenv_container_limit_cpus"]) == [path.replace("\x07", "\\x07")]
    empty = node.Node([], 0, 0, True)
    assert families(metrics.render([], empty))["blasenv_node_containers"] == {"": 0}


def refused(target: Path, prefix: Sequence[str] = (), where: Path = ROOT) -> str:
    command = [*prefix, *BLASENV, "--seconds", "0.1", "--metrics", str(target)]
    done = run(command, status=1, environ=clean_environ(PYTHONPATH=str(where)), cwd="/")
    assert done.stdout == ""
    return done.stderr


def test_only_a_regular_file_is_replaced(tmp_path: Path) -> None:
    directory, link, fifo, file = (tmp_path / name for name in ("directory", "link", "fifo", "file"))
    directory.mkdir()
    file.write_text("theirs")
    link.symlink_to(file)
    os.mkfifo(fifo)
    assert "is a directory, and stays" in refused(directory)
    assert "is a symbolic link, and stays" in refused(link)
    assert "is no regular file, and stays" in refused(fifo)
    assert "there is no directory" in refused(tmp_path / "missing" / "file")
    assert "cannot be written: Not a directory" in refused(file / "x")
    assert (file.read_text(), link.is_symlink(), fifo.is_fifo()) == ("theirs", True, True)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_directory_that_may_not_be_written(tmp_path: Path, open_to_all: Path) -> None:
    del tmp_path
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("only root can become somebody else")
    closed = open_to_all / "closed"
    closed.mkdir(mode=0o755)
    prefix = ["setpriv", "--reuid=64323", "--regid=64323", "--clear-groups"]
    assert "cannot be written: Permission denied" in refused(closed / "a.prom", prefix, open_to_all)
    assert list(closed.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--node", "7"], ["--node", "hook"], ["--node", "--all"], ["--node", "--strict"], ["--node", "--list"],
        ["--node", "--root", "/tmp"], ["--node", "--seconds", "0"], ["--node", "--watch", "0"],
        ["--node", "--watch", "nan"], ["--node", "--watch", "5", "--json"], ["--node", "--watch", "5"],
        ["--watch", "5"], ["--metrics", "x"], ["--metrics", "x", "--all"], ["--watch", "5", "7"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage(words: list[str], tmp_path: Path) -> None:
    done = run([*BLASENV[:-1], *words], status=2, environ=clean_environ(PYTHONPATH=str(ROOT)), cwd=tmp_path)
    assert done.stdout == ""
    assert done.stderr.startswith("blasenv: ")
    assert list(tmp_path.iterdir()) == []


class Terminal:
    """``blasenv doctor --node --watch`` on a terminal of its own."""

    def __init__(self, *words: str, shell: Sequence[str] = ()) -> None:
        self.seen = b""
        command = [*shell, *BLASENV, "--seconds", "0.1", *words]
        self.pid, self.fd = pty.fork()
        if not self.pid:
            # Room for all rows, however many containers this machine has.
            environ = clean_environ(PYTHONPATH=str(ROOT), TERM="xterm", LINES="999", COLUMNS="90")
            os.execvpe(command[0], command, environ)  # noqa: S606

    def read_until(self, pattern: bytes) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not re.search(pattern, self.seen):
            assert time.monotonic() < deadline, self.seen
            if select.select([self.fd], [], [], 1)[0]:
                try:
                    self.seen += os.read(self.fd, 65536)
                except OSError as error:  # it has ended
                    raise AssertionError(self.seen) from error

    def end(self) -> int:
        """How it ended, and all that it wrote until then."""
        while True:
            try:
                chunk = os.read(self.fd, 65536)
            except OSError:
                break
            if not chunk:
                break
            self.seen += chunk
        os.close(self.fd)
        return os.waitpid(self.pid, 0)[1]


DRAWN = rb"\d\d:\d\d:\d\d, every 0.2 s; Ctrl-C ends"
TAKEN, GIVEN_BACK = b"\x1b[?1049h\x1b[?25l", b"\x1b[?25h\x1b[?1049l"


def test_watch_draws_in_place_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    target = tmp_path / "x.prom"
    with make_cgroup(0.5) as group, started(group, "sleeper"):
        terminal = Terminal("--watch", "0.2", "--metrics", str(target))
        terminal.read_until(DRAWN + rb"(?s:.*)" + DRAWN)
        terminal.read_until(re.escape(group.directory.name.encode()) + rb" \(idle\)")
        os.write(terminal.fd, b"\x03")
        status = terminal.end()
    assert os.WIFEXITED(status)
    assert os.WEXITSTATUS(status) in (0, 1)
    seen = terminal.seen.replace(b"^C", b"")  # the terminal's echo
    assert seen.startswith(TAKEN)
    assert seen.count(TAKEN) == 1
    assert seen.rpartition(GIVEN_BACK)[2] == b""
    assert b"Traceback" not in seen
    assert target.read_text(encoding="utf-8").endswith("# EOF\n")


def test_watch_gives_the_screen_back_when_it_is_terminated() -> None:
    terminal = Terminal("--watch", "0.2")
    terminal.read_until(DRAWN)
    os.kill(terminal.pid, signal.SIGTERM)
    status = terminal.end()
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert terminal.seen.rpartition(GIVEN_BACK)[2] == b""
    assert b"Traceback" not in terminal.seen


def test_watch_gives_the_screen_back_while_it_is_stopped() -> None:
    shell = ["bash", "-c", 'set -m; "$@"; echo STOPPED; read; fg; exit 0', "bash"]
    terminal = Terminal("--watch", "0.2", shell=shell)
    terminal.read_until(DRAWN)
    os.write(terminal.fd, b"\x1a")  # Ctrl-Z
    terminal.read_until(rb"STOPPED")
    assert GIVEN_BACK in terminal.seen
    assert terminal.seen.rpartition(GIVEN_BACK)[2].count(TAKEN) == 0
    terminal.seen = b""
    os.write(terminal.fd, b"\n")
    terminal.read_until(re.escape(TAKEN) + rb"(?s:.*)" + DRAWN)
    os.write(terminal.fd, b"\x03")
    assert os.WIFEXITED(terminal.end())
    assert GIVEN_BACK in terminal.seen
    assert b"Traceback" not in terminal.seen


def test_a_crowd_with_processes_that_come_and_go() -> None:
    """A few hundred processes, some of which are killed while they are looked at."""
    with crowd(300, 30, busy=2) as groups:
        killer = subprocess.Popen(
            ["sh", "-c", "for pid; do kill -9 $pid; sleep 0.005; done", "sh", *(str(pid) for pid in groups[9].pids())]
        )
        said = look("--json")
        killer.wait()
    rows = {row["name"]: row for row in json.loads(said)["containers"]}
    found = [rows[group.directory.name] for group in groups if group.directory.name in rows]
    assert len(found) >= 29
    assert all(row["processes"] == 10 for row in found if row["name"] != groups[9].directory.name)
    assert sum(row["cause"] == "limit" for row in found) == 2


def test_there_is_a_bound_for_close_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "MOST_THREADS", 1)
    with make_cgroup(0.2) as one, make_cgroup(0.2) as other, started(one, "python_loop"), started(other, "python_loop"):
        seen = node.look(0.5)
        rows = [row for row in rows_of(seen) if within(row, one) or within(row, other)]
        said = render(rows, seen)
    assert {row.cause for row in rows} <= {"limit", "unknown"}
    assert "unknown" in {row.cause for row in rows}
    assert "not looked at closely" in " ".join(said.split())
