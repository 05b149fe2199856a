"""The Docker daemon: the user's, where one answers, else one of our own that goes with us."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from process import install, output, run, stop_all

HIERARCHIES = Path("/sys/fs/cgroup")


class Docker:
    """A way to talk to one daemon."""

    def __init__(self, environ: dict[str, str], own: bool) -> None:
        self.environ = environ
        self.own = own
        self.parent = f"/blasenv-docker-{os.getpid()}"
        """The cgroup that holds what we make. All containers of an own daemon are below it."""

    def output(self, *arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        return output(["docker", *arguments], self.environ, timeout)

    def run(self, *arguments: str) -> str:
        return run(["docker", *arguments], self.environ)

    def has(self, image: str) -> bool:
        return self.output("image", "inspect", image).returncode == 0

    def stop(self) -> None:
        """End what this run has under way, containers included."""
        stop_all()
        ours = self.output("ps", "-aq", "--filter", f"label=blasenv={os.getpid()}").stdout.split()
        if ours:
            self.output("rm", "--force", *ours)

    def cgroup_version(self) -> int:
        return int(self.run("info", "--format", "{{.CgroupVersion}}"))

    def why_no_parent(self) -> str:
        """Why we can't give a container a parent cgroup with a limit, "" if we can."""
        driver = self.run("info", "--format", "{{.CgroupDriver}}").strip()
        if driver != "cgroupfs":
            return f"the daemon's cgroup driver is {driver}, the case is written for cgroupfs"
        return "" if os.access(HIERARCHIES, os.W_OK) and os.geteuid() == 0 else "needs root on the daemon's machine"

    def limited_parent(self, cpus: float, name: str) -> str:
        """Make a cgroup with a limit, for --cgroup-parent."""
        path = f"{self.parent}/{name}"
        quota = round(cpus * 100_000)
        if self.cgroup_version() == 1:
            group = HIERARCHIES / "cpu" / path[1:]
            group.mkdir(parents=True)
            group.joinpath("cpu.cfs_quota_us").write_text(f"{quota}\n")
        else:
            group = HIERARCHIES / path[1:]
            group.mkdir(parents=True)
            for level in (HIERARCHIES, group.parent):
                level.joinpath("cgroup.subtree_control").write_text("+cpu\n")
            group.joinpath("cpu.max").write_text(f"{quota} 100000\n")
        return path

    def remove_cgroups(self) -> None:
        """Remove the groups we made, in every hierarchy. What is still in use stays, and is named."""
        for top in [HIERARCHIES, *HIERARCHIES.iterdir()]:
            for directory, _, _ in os.walk(top / self.parent[1:], topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
                    continue
                print(f"docker-tests: the cgroup {directory} stays behind", file=sys.stderr)


@contextlib.contextmanager
def docker(cache: Path, options: Sequence[str] = ()) -> Iterator[Docker]:
    """The user's daemon, or else a new one: private data root under ``cache``, no bridge, no iptables.

    With ``options`` for dockerd, a new one in any case.
    """
    builder = {} if output(["sh", "-c", "docker buildx version"]).returncode == 0 else {"DOCKER_BUILDKIT": "0"}
    answers = (
        None if options else shutil.which("docker") and output(["docker", "info", "--format", "{{.ServerVersion}}"])
    )
    if answers and answers.returncode == 0 and answers.stdout.strip():
        users = Docker(builder, own=False)
        try:
            yield users
        finally:
            users.stop()
            users.remove_cgroups()
        return
    if os.geteuid():
        raise RuntimeError("no Docker daemon answers, and starting one needs root")
    if not shutil.which("dockerd"):
        install("docker.io")
    if not shutil.which("docker"):
        install("docker-cli")  # part of docker.io until Debian 12
    # Its sockets have short names there: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="blasenv-docker-") as directory:
        environ = {"DOCKER_HOST": f"unix://{directory}/docker.sock", "DOCKER_CONFIG": directory, **builder}
        own = Docker(environ, own=True)
        log = cache / "dockerd.log"
        command = [
            # The kernel stops it even if we are killed.
            "setpriv", "--pdeathsig", "TERM",
            "dockerd", "--data-root", str(cache / "docker"), "--exec-root", f"{directory}/exec",
            "--pidfile", f"{directory}/pid", "--host", environ["DOCKER_HOST"],
            # If it finds a system's containerd, it must not mistake that one's containers for its own.
            "--containerd-namespace", "blasenv", "--containerd-plugins-namespace", "blasenv-plugins",
            "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", own.parent,
            "--bridge=none", "--iptables=false", "--ip6tables=false", *options,
        ]  # fmt: skip
        # In a session of its own, so that Ctrl-C reaches us alone, and the containers go first.
        with log.open("wb") as file, subprocess.Popen(command, stderr=file, start_new_session=True) as process:
            try:
                _wait_for(own, process, log)
                yield own
            finally:
                if process.poll() is None:
                    own.stop()
                    own.output("image", "prune", "-f")  # the layers of yesterday's wheel
                    process.terminate()
                    process.wait()
                own.remove_cgroups()


def _wait_for(docker: Docker, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while docker.output("info").returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            words = log.read_text(errors="replace").splitlines()
            raise RuntimeError("dockerd did not start:\n  " + "\n  ".join(words[-6:]))
        time.sleep(0.1)
