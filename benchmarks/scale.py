#!/usr/bin/env python3
"""How cost grows on a crowded machine, in a large image, and with many starts: docs/cost.json, docs/cost.md.

    benchmarks/scale.py [mounts] [crowd] [image] [starts]

- mounts: finding the limit among thousands of mounts and dozens of nested groups.
- crowd: `CROWD_COMMANDS` on a machine with up to 2,000 processes of 50 threads, which sleep, each with libgomp
  loaded, in one limited cgroup, and of users who have RLIMIT_NPROC: everything that can be looked at is. Needs root,
  a C compiler, some 3 GB of memory, and raises kernel.pid_max while it runs.
- image: `scan` over a root with up to 2 million files in directories of 40. Needs 2 million inodes below
  TMPDIR, and 0.4 GB.
- starts: the CPU time of starts with blasenv and without, in pairs under a limit of 1 CPU.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import cost_page  # noqa: E402
from cgroup import make_cgroup  # noqa: E402
from instructions import copy_hook  # noqa: E402

import blasenv  # noqa: E402

MOUNTS = ((10, 5), (1_000, 5), (10_000, 5), (10, 50), (10_000, 50))
CROWD_COMMANDS = {
    "doctor --all": ("doctor", "--all", "--json"),
    "doctor --node": ("doctor", "--node", "--json"),
}
PROCESSES, THREADS = (500, 1000, 2000), 50
FILES, FILES_IN_ONE, DIRECTORIES_IN_ONE = (500_000, 1_000_000, 2_000_000), 40, 100
STARTS = 300  # pairs
CROWD = r"""
#include <pthread.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

static void *sleep_on(void *unused) {
    for (;;) pause();
    return unused;
}

int main(int count, char **words) {
    int processes = atoi(words[1]), threads = atoi(words[2]);
    for (int process = 0; process < processes; process++) {
        pid_t pid = fork();
        if (pid < 0) write(1, "!", 1);
        if (pid) continue;
        // Of two users, because RLIMIT_NPROC may be fewer than all of the threads.
        int user = 65533 + process % 2, failed = setgid(user) || setuid(user);
        prctl(PR_SET_PDEATHSIG, 9);
        pthread_attr_t small;
        pthread_attr_init(&small);
        pthread_attr_setstacksize(&small, 16384);
        for (int thread = 1; thread < threads; thread++) {
            pthread_t started;
            failed |= pthread_create(&started, &small, sleep_on, NULL);
        }
        write(1, failed ? "!" : ".", 1);
        sleep_on(NULL);
    }
    sleep_on(NULL);
}
"""


def make_tree(root: Path, mounts: int, groups: int) -> None:
    """A cgroup v2 file system below so many groups, each with a limit, among so many other mounts."""
    process = root / "proc" / "self"
    process.mkdir(parents=True)
    names = [f"group{number}" for number in range(groups)]
    (process / "cgroup").write_text(f"0::/{'/'.join(names)}\n")
    line = "{0} 1 0:{0} / /var/lib/docker/overlay2/{0:064x}/merged rw,relatime shared:{0} - overlay overlay rw\n"
    cgroup = "25 1 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
    (process / "mountinfo").write_text(cgroup + "".join(line.format(number) for number in range(26, 26 + mounts)))
    for count in range(groups + 1):
        directory = root.joinpath("sys", "fs", "cgroup", *names[:count])
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cpu.max").write_text(f"{400_000 + count} 100000\n")


def find_limits(root: Path) -> float:
    """Milliseconds, the least of 20."""
    times = []
    for _ in range(20):
        start = time.perf_counter()
        limits = list(blasenv.find_quota(str(root)))
        times.append(time.perf_counter() - start)
    if not all(limit.quota for limit in limits):
        raise SystemExit(f"{root}: not every limit was found")
    return 1000 * min(times)


def measure_mounts() -> None:
    """Trees made for it."""
    rows = []
    for mounts, groups in MOUNTS:
        with tempfile.TemporaryDirectory() as directory:
            make_tree(Path(directory), mounts, groups)
            rows.append({"mounts": mounts, "groups": groups, "ms": round(find_limits(Path(directory)), 2)})
    cost_page.write("mounts", {"rows": rows})


def run(words: Sequence[str]) -> dict[str, float]:
    """Seconds, CPU seconds and MB of one ``blasenv`` command."""
    begin = time.perf_counter()
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "BLASENV_CONFIG": ""}
    process = subprocess.Popen([sys.executable, "-m", "blasenv", *words], env=environ, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise SystemExit(f"blasenv {' '.join(words)} ended with {process.returncode}")
    took = {"seconds": time.perf_counter() - begin, "cpu_seconds": used.ru_utime + used.ru_stime}
    return {**{name: round(value, 2) for name, value in took.items()}, "mb": round(used.ru_maxrss / 1024)}


@contextlib.contextmanager
def pid_max(least: int) -> Iterator[None]:
    """At least so many threads on this machine."""
    file = Path("/proc/sys/kernel/pid_max")
    before = file.read_text()
    try:
        if int(before) < least:
            file.write_text(str(least))
        yield
    finally:
        file.write_text(before)


@contextlib.contextmanager
def crowd(program: Path, processes: int) -> Iterator[None]:
    """So many processes that sleep."""
    with pid_max(2 * processes * THREADS + 32768), make_cgroup(1.0) as group:
        command = group.enter([program, str(processes), str(THREADS)])
        with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
            try:
                if parent.stdout is None or parent.stdout.read(processes) != b"." * processes:
                    raise SystemExit("not all of them have started")
                yield
            finally:
                parent.kill()
                group.kill()
                until = time.monotonic() + 60  # 100,000 threads take a while to end
                while group.pids() and time.monotonic() < until:
                    time.sleep(0.2)


def measure_crowd() -> None:
    """Growth with the number of processes."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # noqa: S103, it runs as nobody
        program = Path(directory, "crowd")
        program.with_suffix(".c").write_text(CROWD)
        libraries = ("-pthread", "-Wl,--no-as-needed", "-lgomp")
        subprocess.run(["cc", "-o", program, program.with_suffix(".c"), *libraries], check=True)
        for processes in PROCESSES:
            with crowd(program, processes):
                for name, words in CROWD_COMMANDS.items():
                    rows.append({"command": name, "processes": processes, "threads": THREADS, **run(words)})
                    print(rows[-1], file=sys.stderr)
    cost_page.write("crowd", {"rows": rows})


def measure_image() -> None:
    """Growth with the number of files; the caches are warm."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        root, made = Path(directory), 0
        for files in FILES:
            while made < files:
                number = made // FILES_IN_ONE
                place = root / "srv" / f"{number // DIRECTORIES_IN_ONE}" / f"{number % DIRECTORIES_IN_ONE}"
                place.mkdir(parents=True)
                for one in range(FILES_IN_ONE):
                    os.close(os.open(place / f"module_{one}.py", os.O_CREAT | os.O_WRONLY))
                made += FILES_IN_ONE
            run(("scan", "--root", directory, "--json"))
            rows.append({"command": "scan", "files": files, **run(("scan", "--root", directory, "--json"))})
            print(rows[-1], file=sys.stderr)
    cost_page.write("image", {"rows": rows})


def measure_starts() -> None:
    """As many starts as one CPU can do, in pairs."""
    used: dict[str, list[float]] = {"without": [], "with": []}
    with tempfile.TemporaryDirectory() as directory, make_cgroup(1.0) as group:
        pythons = {}
        for name in used:
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", Path(directory, name)], check=True)
            pythons[name] = str(Path(directory, name, "bin", "python"))
            if name == "with":
                (packages,) = Path(directory, name).glob("lib/python3.*/site-packages")
                copy_hook(packages)
            subprocess.run([pythons[name], "-c", "pass"], check=True)
        (group.directory / "cgroup.procs").write_text(str(os.getpid()))
        begin = time.perf_counter()
        for _ in range(STARTS):
            for name in random.sample(list(used), 2):
                pid = os.posix_spawn(pythons[name], [pythons[name], "-c", "pass"], {"PATH": os.environ["PATH"]})
                usage = os.wait4(pid, 0)[2]
                used[name].append(usage.ru_utime + usage.ru_stime)
        took = time.perf_counter() - begin
        (group.outside / "cgroup.procs").write_text(str(os.getpid()))
    ms = {name: round(1000 * statistics.mean(all_of_it), 2) for name, all_of_it in used.items()}
    more = [1000 * (one - other) for one, other in zip(used["with"], used["without"])]
    error = statistics.stdev(more) / len(more) ** 0.5
    result = {
        "pairs": STARTS,
        "python": sys.version.split()[0],
        "starts_a_minute": round(120 * STARTS / took),
        "cpu_ms": ms,
        "more_ms": round(statistics.mean(more), 2),
        "error_ms": round(error, 2),
    }
    print(result, file=sys.stderr)
    cost_page.write("starts", result)


PARTS = {"mounts": measure_mounts, "crowd": measure_crowd, "image": measure_image, "starts": measure_starts}


def main() -> int:
    """Measure the parts named, all of them without names."""
    if set(sys.argv[1:]) - set(PARTS):
        print(__doc__, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
