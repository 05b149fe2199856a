"""``blasenv limit --cpus 1.5 -- CMD``: run a command under a real CPU limit, as a container would.

A cgroup of our own below the one we are in (v1), or below the nearest one that hands out the
CPU controller (v2); where only systemd may make one, it makes it. A second process, the
keeper, holds the other end of a pipe: when this process ends, however it ends, the keeper
kills what is left in the cgroup and removes it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

import blasenv
from blasenv import Limit, _host
from blasenv.errors import Failure
from blasenv.machine.cgroup import cpus_of, directory_of, find_levels, read_throttling
from blasenv.output.text import count, number

PERIOD = 100_000  # microseconds, the kernel's default and Docker's
LEAST_QUOTA = 1000  # microseconds, the kernel's min_cfs_quota_period
# What a person or a supervisor sends to us is meant for the command.
_FORWARDED = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def limit_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``blasenv limit``."""
    parser.usage = "blasenv limit --cpus N [--cpuset LIST] -- COMMAND [ARGUMENT ...]"
    parser.add_argument("--cpus", type=float, required=True, metavar="N", help="CPUs of quota, such as 1.5")
    parser.add_argument("--cpuset", metavar="LIST", help="CPUs to run on, such as 0-3 (as an affinity mask)")
    parser.add_argument("--quiet", action="store_true", help="do not say at the end how often it was throttled")
    parser.add_argument("--scope", action="store_true", help=argparse.SUPPRESS)  # systemd made our cgroup


def limit_command(args: argparse.Namespace) -> int:
    """Run the command; its exit status is ours, and when a signal ends it, the same signal ends us."""
    if not args.cmd:
        raise Failure("the command is missing: blasenv limit --cpus 1.5 -- python train.py", 2)
    if not LEAST_QUOTA / PERIOD <= args.cpus <= blasenv.MAX_THREADS:
        raise Failure(f"--cpus is a number from {LEAST_QUOTA / PERIOD:g} to {blasenv.MAX_THREADS}, such as 1.5", 2)
    cpus = None
    if args.cpuset is not None:
        cpus = _host.parse_cpu_list(args.cpuset.encode()) & os.sched_getaffinity(0)
        if not cpus:
            ours = ",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0)))
            raise Failure(f"--cpuset {args.cpuset}: none of these are CPUs we may use; those are {ours}", 2)
    if args.scope:
        level = find_levels()[0]
        cpus_here = cpus_of(level)
        if cpus_here is None or cpus_here > args.cpus + 1 / PERIOD:
            raise Failure(
                f"systemd set no CPU limit in {directory_of(level)}; does it hand out the cpu controller to users "
                f"(Delegate=cpu for user@.service)? With Docker: {_docker(args)}"
            )
        return _finish(_supervise(args.cmd, None, cpus), level, args)
    with _cgroup(args) as level:
        status = _supervise(args.cmd, directory_of(level), cpus)
        if not args.quiet:
            _say_throttling(level, args.cpus)
    return _end_as(status)


def _finish(status: int, level: Limit, args: argparse.Namespace) -> int:
    if not args.quiet:
        _say_throttling(level, args.cpus)
    return _end_as(status)


def _say_throttling(level: Limit, cpus: float) -> None:
    throttling = read_throttling(level)
    if throttling is None:
        return
    counts = f"{throttling.throttled} of {throttling.periods} periods ({100 * throttling.share:.0f} %)"
    print(f"blasenv: throttled in {counts} under a limit of {count(cpus, 'CPU')}", file=sys.stderr)


@contextlib.contextmanager
def _cgroup(args: argparse.Namespace) -> Iterator[Limit]:
    """A cgroup with the limit; removed, with all that still runs in it, by the keeper."""
    level = _make_cgroup(args)
    read_end, write_end = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        _keep(level, read_end, write_end)
    os.close(read_end)
    try:
        _write(directory_of(level), "cpu.max" if level.version == 2 else "cpu.cfs_period_us", _first(level))
        if level.version == 1:
            _write(directory_of(level), "cpu.cfs_quota_us", str(level.quota))
        yield level
    except OSError as error:
        message = f"{error.filename or directory_of(level)}: {error.strerror}"
        above = [cpus for level_above in find_levels() if (cpus := cpus_of(level_above))]
        if above and min(above) < args.cpus:
            message += f"; the cgroup above allows {number(min(above))}, and a limit can't be looser"
        raise Failure(message) from None
    finally:
        os.close(write_end)
        os.waitpid(keeper, 0)


def _first(level: Limit) -> str:
    return f"{level.quota} {level.period}" if level.version == 2 else str(level.period)


def _write(directory: str, name: str, text: str) -> None:
    path = os.path.join(directory, name)
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def _make_cgroup(args: argparse.Namespace) -> Limit:
    """A new cgroup below one that has the CPU controller and that we may write to.

    v1: below our own. v2: a cgroup with processes can't hand controllers to its children (the
    "no internal processes" rule of cgroup-v2.rst; the real root is exempt), so below the
    nearest ancestor that hands out ``cpu``, or the root after asking it to.
    """
    reasons = []
    if sys.platform != "linux":
        raise Failure(f"CPU limits are a Linux thing. Elsewhere: {_docker(args)}")
    levels = find_levels()
    quota = max(LEAST_QUOTA, round(args.cpus * PERIOD))
    for level in levels[:1] if levels and levels[0].version == 1 else levels:
        try:
            if level.version == 2 and "cpu" not in _words(directory_of(level), "cgroup.subtree_control"):
                if level is not levels[-1] or os.path.exists(os.path.join(directory_of(level), "cgroup.type")):
                    reasons.append(f"{directory_of(level)} does not hand out the cpu controller")
                    continue
                _write(directory_of(level), "cgroup.subtree_control", "+cpu")
            directory = os.path.join(directory_of(level), f"blasenv-limit-{os.getpid()}")
            os.mkdir(directory)
        except OSError as error:
            reasons.append(f"{error.filename}: {error.strerror}")
            continue
        if _may_enter(directory):
            path = os.path.join(directory, os.path.basename(level.path))
            return Limit(controller="cpu", version=level.version, path=path, quota=quota, period=PERIOD, note="")
        os.rmdir(directory)
        reasons.append(f"{directory_of(level)}: we may not move processes there")
    unasked = _why_no_systemd()
    if unasked is None:
        _become_scope(args)
    why = reasons[0] if reasons else "no cgroup with the CPU controller can be seen"
    raise Failure(f"no cgroup can be made here: {why}{unasked}. With Docker: {_docker(args)}")


def _words(directory: str, name: str) -> list[str]:
    with open(os.path.join(directory, name), encoding="ascii") as file:
        return file.read().split()


def _may_enter(directory: str) -> bool:
    """Whether a process of ours can move there: tried with one, because the rules are many."""
    pid = os.fork()
    if pid == 0:
        try:
            _write(directory, "cgroup.procs", "0")
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def _why_no_systemd() -> str | None:
    """What to add to the sentence where systemd can't be asked, None where it can."""
    if not shutil.which("systemd-run") or not os.path.isdir("/run/systemd/system"):
        return ""
    if os.geteuid() and not {"XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"} & set(os.environ):
        return f"; systemd could, but not without XDG_RUNTIME_DIR (as a rule, /run/user/{os.geteuid()})"
    return None


def _become_scope(args: argparse.Namespace) -> NoReturn:
    """Become ``blasenv limit --scope`` in a scope that the user's systemd, or the system's, limits."""
    user = ["--user"] if os.geteuid() else []
    again = [sys.executable, "-m", "blasenv", "limit", "--scope", "--cpus", str(args.cpus)]
    again += ["--cpuset", args.cpuset] if args.cpuset else []
    again += ["--quiet"] if args.quiet else []
    scope = ["systemd-run", *user, "--scope", "--quiet", "--collect", "-p", f"CPUQuota={args.cpus * 100:g}%"]
    os.execvp("systemd-run", [*scope, "--", *again, "--", *args.cmd])  # noqa: S606, no shell is the point


def _docker(args: argparse.Namespace) -> str:
    cpuset = f" --cpuset-cpus {args.cpuset}" if args.cpuset else ""
    return f"docker run --rm --cpus {args.cpus:g}{cpuset} IMAGE {shlex.join(args.cmd)}"


def _keep(level: Limit, read_end: int, write_end: int) -> None:
    """Wait until our parent ends, then kill what is left in its cgroup and remove that. Never returns."""
    try:
        os.setsid()  # out of reach of the terminal's signals, and of a kill of the process group
        for signum in _FORWARDED:
            signal.signal(signum, signal.SIG_IGN)
        os.close(write_end)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):  # whoever reads our output waits for its end
            os.dup2(null, fd)
        while os.read(read_end, 1):
            pass
        for _ in range(500):
            with contextlib.suppress(OSError):
                for word in _words(directory_of(level), "cgroup.procs"):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(word), signal.SIGKILL)
            try:
                os.rmdir(directory_of(level))
            except FileNotFoundError:
                break
            except OSError:  # busy until the last of them is gone
                time.sleep(0.02)
            else:
                break
    finally:
        os._exit(0)


def _supervise(command: list[str], cgroup: str | None, cpus: set[int] | None) -> int:
    """Run ``command`` in ``cgroup`` and return its wait status; signals sent to us are passed on to it."""
    watched = {*_FORWARDED, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    child = os.fork()
    if child == 0:
        _become(command, cgroup, cpus, before)
    try:
        while True:
            received = signal.sigwaitinfo(watched)
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return status
            # si_code above 0: the kernel sent it, as for Ctrl-C, to the command as well.
            if received.si_signo != signal.SIGCHLD and received.si_code <= 0:
                os.kill(child, received.si_signo)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _become(command: list[str], cgroup: str | None, cpus: set[int] | None, mask: set[int]) -> None:
    """Enter the cgroup and exec. Never returns; 126 and 127 mean what they mean in a shell."""
    status = 126
    try:
        if cgroup is not None:
            _write(cgroup, "cgroup.procs", "0")
        if cpus is not None:
            os.sched_setaffinity(0, cpus)
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; its children should not
            signal.signal(ignored, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execvp(command[0], command)  # noqa: S606, no shell is the point
    except FileNotFoundError:
        status = 127
        print(f"blasenv: {command[0]}: command not found", file=sys.stderr)
    except OSError as error:
        print(f"blasenv: {error.filename or command[0]}: {error.strerror}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def _end_as(status: int) -> int:
    """The exit status of a wait status; death by a signal is repeated on ourselves."""
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    signum = os.WTERMSIG(status)
    sys.stdout.flush()
    sys.stderr.flush()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the command's core dump is of interest, not ours
    if signum != signal.SIGKILL:
        signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    return 128 + signum
