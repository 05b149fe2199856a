"""Runs in a machine of docker-tests/recipes, as root: sets up what each case needs, one JSON line for each case."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Callable

import cgroup
from recipes_cases import CONTAINER, MARK, PORT, PROBE, QUOTA, Case, cases

HOST = "blasenv"
ADDRESS = "192.0.2.1"  # of TEST-NET-1; with 127.0.0.1 alone, getaddrinfo(AI_ADDRCONFIG) finds no address at all
SECONDS = 60  # for one case
# https://slurm.schedmd.com/slurm.conf.html; config_overrides: as many CPUs as it says, whatever there are.
SLURM = f"""\
ClusterName=recipes
SlurmctldHost={HOST}({ADDRESS})
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=/tmp/slurmctld
SlurmdSpoolDir=/tmp/slurmd-%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd-%n.pid
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
PartitionName=all Nodes=ALL Default=YES
"""
NODES = f"NodeHostname={HOST} NodeAddr={ADDRESS}"
NOT_CONFINED = f"""\
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
NodeName=n[1-3] CPUs=4 Port=[17001-17003] {NODES}
"""
CONFINED = f"""\
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup,task/affinity
NodeName=n1 CPUs=2 Port=17001 {NODES}
"""
# As Debian's apache2ctl starts it, less the modules that nobody needs.
APACHE = f"""\
ServerRoot /etc/apache2
ServerName localhost
PidFile /run/apache2/apache2.pid
ErrorLog /dev/stderr
Listen 127.0.0.1:{PORT}
User www-data
Group www-data
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule wsgi_module /usr/lib/apache2/modules/mod_wsgi.so
WSGIScriptAlias / /machine/recipes_probe.py
"""
DAEMON = "WSGIDaemonProcess app processes=2 threads=1\nWSGIProcessGroup app\n"
LIMITS = {"deploy": "    deploy: {resources: {limits: {cpus: '1.5'}}}\n", "cpus": "    cpus: 1.5\n"}
LXC = f"""\
lxc.uts.name = container
lxc.rootfs.path = dir:{CONTAINER}
lxc.net.0.type = none
lxc.apparmor.profile = unconfined
lxc.environment = PATH=/usr/bin:/bin
lxc.cgroup.cpu.cfs_quota_us = {QUOTA * 100_000:.0f}
lxc.mount.auto = proc:mixed sys:mixed """

Wrap = Callable[[str], "list[str]"]


def shell(command: str) -> list[str]:
    """The words that run a command as it is."""
    return ["sh", "-c", command]


@contextlib.contextmanager
def limited() -> Iterator[Wrap]:
    """What runs a command in a cgroup with the quota."""
    with cgroup.make_cgroup(QUOTA) as group:
        yield lambda command: group.enter(shell(command))


@contextlib.contextmanager
def daemon(*command: str) -> Iterator[None]:
    """A program in the background, with its output in a file that is shown when something fails."""
    with Path("/tmp", Path(command[0]).name + ".log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(what: str, ready: Callable[[], bool]) -> None:
    """Ask until it is so."""
    deadline = time.monotonic() + SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} is not there after {SECONDS} s")
        time.sleep(0.1)


@contextlib.contextmanager
def cluster(confined: bool, quota: bool) -> Iterator[Wrap]:
    """A Slurm cluster of one node with confined cores, or of three, all here; with ``quota``, jobs are in a limit."""
    nodes = ["n1"] if confined else ["n1", "n2", "n3"]
    Path("/etc/slurm/slurm.conf").write_text(SLURM + (CONFINED if confined else NOT_CONFINED))
    cores = "yes" if confined else "no"
    Path("/etc/slurm/cgroup.conf").write_text(
        f"CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nConstrainCores={cores}\n"
    )
    shutil.rmtree("/tmp/slurmctld", ignore_errors=True)
    for name in ("slurmctld", *(f"slurmd-{node}" for node in nodes)):
        Path("/tmp", name).mkdir(exist_ok=True)
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge")
    with contextlib.ExitStack() as stack:
        within = stack.enter_context(cgroup.make_cgroup(QUOTA)) if quota else None
        stack.enter_context(daemon("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "munged", "-F"))
        wait_for("munged", lambda: not subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode)
        stack.enter_context(daemon("slurmctld", "-D"))
        for node in nodes:
            slurmd = ["slurmd", "-D", "-N", node]
            stack.enter_context(daemon(*(within.enter(slurmd) if within else slurmd)))

        def wrap(command: str) -> list[str]:
            # A job that has to wait waits for Slurm's next look at the queue, many seconds.
            idle = f"{len(nodes)} idle"
            wait_for("the nodes", lambda: said("sinfo", "--noheader", "--format=%D %T") == idle)
            wait_for("the end of all jobs", lambda: not said("squeue", "--noheader"))
            return shell(command)

        yield wrap


def said(*command: str) -> str:
    """What a command says."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


slurm = partial(cluster, confined=False, quota=False)
slurm_limited = partial(cluster, confined=False, quota=True)
slurm_cores = partial(cluster, confined=True, quota=False)
slurm_cores_limited = partial(cluster, confined=True, quota=True)


@contextlib.contextmanager
def server() -> Iterator[Wrap]:
    """uWSGI, in a limit."""
    Path("/tmp/workers.ini").write_text("[uwsgi]\nprocesses = 2\n")
    with limited() as wrap:
        yield wrap


@contextlib.contextmanager
def apache() -> Iterator[Wrap]:
    """Apache in a limit, its configurations, and the directory that apache2ctl makes: the sockets of mod_wsgi's
    daemons lie in it, and without it each request is answered with 503."""
    Path("/run/apache2").mkdir(exist_ok=True)
    Path("/tmp/embedded.conf").write_text(APACHE)
    Path("/tmp/daemon.conf").write_text(APACHE + DAEMON)
    with limited() as wrap:
        yield wrap


@contextlib.contextmanager
def compose() -> Iterator[Wrap]:
    """Compose files with the recipe, and with the short form, for the daemon outside."""
    checkout, site = os.environ["CHECKOUT"], "/usr/local/lib/python3.11/dist-packages"
    volumes = {
        f"{checkout}/blasenv": f"{site}/blasenv",
        f"{checkout}/blasenv/a0_blasenv.pth": f"{site}/a0_blasenv.pth",
        f"{checkout}/docker-tests/recipes_probe.py": PROBE.split()[1],
    }
    for name, limit in LIMITS.items():
        lines = "".join(f"      - {source}:{target}:ro\n" for source, target in volumes.items())
        Path(f"/tmp/{name}.yaml").write_text(
            f"services:\n  app:\n    image: {os.environ['IMAGE']}\n    network_mode: none\n    command: {PROBE}\n"
            f"    volumes:\n{lines}{limit}"
        )
    yield shell


@contextlib.contextmanager
def podman() -> Iterator[Wrap]:
    """Podman with runc and without systemd. The limits of processes and files are those that root has here."""
    files = Path("/etc/containers")
    files.joinpath("containers.conf").write_text(
        '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n'
        '[containers]\nnetns = "none"\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
    )
    files.joinpath("storage.conf").write_text(
        '[storage]\ndriver = "vfs"\nrunroot = "/run/store"\ngraphroot = "/tmp/store"\n'
    )
    yield shell


@contextlib.contextmanager
def lxc() -> Iterator[Wrap]:
    """Two containers: with a cgroup namespace, LXC mounts the cgroups only if it is forced to."""
    Path("/tmp/seen.conf").write_text(LXC + "cgroup:mixed:force\n")
    Path("/tmp/hidden.conf").write_text(LXC + "cgroup:mixed\n")
    yield shell


@contextlib.contextmanager
def apptainer() -> Iterator[Wrap]:
    """A user in a limit, as in a job."""
    if not Path("/home/able").exists():
        subprocess.run(["useradd", "--create-home", "able"], check=True)
    with limited() as wrap:
        yield wrap


@contextlib.contextmanager
def apptainer_root() -> Iterator[Wrap]:
    """Without systemd, Apptainer makes cgroups itself, for root alone."""
    settings = Path("/etc/apptainer/apptainer.conf")
    text = settings.read_text()
    settings.write_text(text.replace("\nsystemd cgroups = yes", "\nsystemd cgroups = no"))
    yield shell
    settings.write_text(text)


def ask() -> str:
    """What the server answers, or ""."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError as error:
        return json.dumps({"answer": str(error)}) if hasattr(error, "code") else ""


def run(case: Case, wrap: Wrap) -> dict[str, object]:
    """Run one case: what its processes said, and all that went to stderr."""
    answers = case.setting in {"server", "apache"}
    process = subprocess.Popen(
        wrap(f"exec {case.command}" if answers else case.command),
        cwd="/tmp",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        answer = ""
        if answers:
            deadline = time.monotonic() + SECONDS
            while not answer and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
                answer = ask()
            os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        stderr += f"(stopped after {SECONDS} s)"
    lines = [json.loads(line) for line in (answer + "\n" + stdout).splitlines() if line.startswith("{")]
    return {"lines": lines, "stderr": stderr, "status": process.returncode}


def prepare() -> None:
    """Network, the package as it is installed, and a container's root."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"], check=True)
    socket.sethostname(HOST)
    Path("/etc/hosts").write_text(f"127.0.0.1 localhost\n{ADDRESS} {HOST}\n")
    Path("/etc/blasenv.toml").write_text('rounding = "ceil"\n')
    Path(CONTAINER).mkdir()
    subprocess.run(["mount", "--bind", "/", CONTAINER], check=True)


def main() -> None:
    """The cases of this release, in their order, setting by setting."""
    release, cores, *names = sys.argv[1:]
    chosen = [case for case in cases(int(cores)) if case.release == release and case.setting in names]
    prepare()
    for name in dict.fromkeys(case.setting for case in chosen):
        of_this = [case for case in chosen if case.setting == name]
        try:
            with globals()[name]() as wrap:
                while of_this:
                    print(MARK + json.dumps({"name": of_this[0].name, "setting": name, **run(of_this[0], wrap)}))
                    sys.stdout.flush()
                    del of_this[0]
        except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            for log in sorted(Path("/tmp").glob("*.log")):
                print(log, *log.read_text(errors="replace").splitlines()[-10:], sep="\n  ", file=sys.stderr)


if __name__ == "__main__":
    main()
