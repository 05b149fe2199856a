"""Run `handed` in another Python process, at a safe point of its own: PEP 768, `sys.remote_exec`.

What calls sys.remote_exec is the other process's own executable, because it must be of the same version; and
it is started with that process's rights and in its namespaces, because what root starts must be nothing that
this user wrote. Nothing is ever injected by other means.

The script lies in a new directory that only that user (and root) can enter. It is given through file
descriptors, never through a path that the user could turn elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.util
import json
import os
import re
import secrets
import select
import signal
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import blasenv
from blasenv.live import handed, pools
from blasenv.machine.libraries import parse_maps
from blasenv.machine.process import parse_stat, parse_status

SINCE = (3, 14)
# Where a directory is tried, in this order, as the process sees them. /dev/shm is there on a read-only root.
PLACES = ("/tmp", "/dev/shm", "/var/tmp", "/run", "/run/user/{uid}")  # noqa: S108  a new directory of mode 0700 in it
MOST = 1 << 20  # bytes of an answer; it comes from the other process, so it may be anything
PATIENCE = 20.0  # seconds for the executable to start and call; and for a script that has begun to answer
_PYTHON = re.compile(r"(?:lib)?python(\d)\.(\d+)")

_ASK = """
import sys
if not hasattr(sys, "remote_exec"):
    print("version %d.%d" % sys.version_info[:2])
else:
    try:
        sys.remote_exec(int(sys.argv[1]), sys.argv[2])
        print("done")
    except BaseException as error:
        print("error %s: %s" % (type(error).__name__, error))
"""


class Refused(Exception):
    """It can't be done, and the sentence says why."""


class Late(Exception):
    """The process did not come to a safe point in time; nothing will run there later. The text is what stays behind."""


@dataclass(frozen=True)
class Target:
    """A Python process that runs."""

    pid: int
    inner: int
    """Its PID as it knows it itself."""
    started: bytes
    """Its start time, which tells it from a later process of the same PID."""
    executable: str
    """As the process sees it."""
    version: tuple[int, int] | None
    """Of its Python, None where the names of its files don't tell."""
    user: int
    group: int
    capabilities: int
    """The permitted ones, as a mask."""

    def lives(self) -> bool:
        """Whether it still runs."""
        return _start_time(self.pid) == self.started


def identify(pid: int) -> Target:
    """Find out what a process is. Raises Refused with a sentence when it can't be healed whatever is done."""
    proc = f"/proc/{pid}"
    started = _start_time(pid)
    status = parse_status(_read(f"{proc}/status"))
    if not started or not status:
        raise Refused("there is no such process here; in a container, only its own PIDs can be seen")
    state = status.get("State", "")[:1]
    if state in ("Z", "X"):
        raise Refused("it has ended")
    if state in ("T", "t"):
        raise Refused(f"it is stopped, and does nothing until it goes on: kill -CONT {pid}")
    users, groups = _numbers(status, "Uid"), _numbers(status, "Gid")
    if os.geteuid() not in (0, users[0]):
        raise Refused(f"it belongs to the user {users[0]}; only that user and root may heal it")
    if len({*users[:3]}) > 1 or len({*groups[:3]}) > 1:
        raise Refused("it runs with changed rights (set-uid), which the kernel lets nobody look into")
    try:
        executable = _below(os.readlink(f"{proc}/root"), os.readlink(f"{proc}/exe").removesuffix(" (deleted)"))
    except OSError as error:
        raise Refused(f"it can't be looked into ({proc}/exe: {error.strerror}); {_rights()}") from None
    maps, problem = blasenv.read_file(f"{proc}/maps", blasenv.MAX_MOUNTINFO, kernel=True)
    if problem:
        raise Refused(f"it can't be looked into ({proc}/maps: {problem}); {_rights()}")
    version = _version([executable, *parse_maps(maps)])
    name = os.path.basename(executable)
    if not name.startswith("python"):
        if version is None:
            raise Refused(f"it is not Python, but {name}")
        raise Refused(f"its Python is built into {name}, and only an executable of Python itself can call for it")
    if version is not None and version < SINCE:
        raise Refused(_too_old(version))
    return Target(
        pid=pid,
        inner=_numbers(status, "NSpid")[-1] if "NSpid" in status else pid,
        started=started,
        executable=executable,
        version=version,
        user=users[0],
        group=groups[0],
        capabilities=int(status.get("CapPrm", "0"), 16),
    )


def is_open(pid: int) -> bool:
    """Whether `heal` is worth naming for a process: a Python since 3.14, within our rights, whose door is not shut.

    Nothing is tried; what the kernel or a build forbids shows only then.
    """
    try:
        target = identify(pid)
    except Refused:
        return False
    shut = "PYTHON_DISABLE" in _switched_off_by(target) or " -X " in _switched_off_by(target)
    return target.version is not None and not shut


def _below(root: str, path: str) -> str:
    """A path as a process with this root directory (chroot) sees it."""
    return path[len(root) :] if root != "/" and path.startswith(root + "/") else path


def _too_old(version: tuple[int, int]) -> str:
    return f"its Python is {version[0]}.{version[1]}; from outside, counts can be changed since 3.14 (PEP 768)"


def _rights() -> str:
    return "run this as its user or as root (docker run: --cap-add SYS_PTRACE)"


def _numbers(status: dict[str, str], name: str) -> list[int]:
    return [int(word) for word in status[name].split()]


def _read(path: str) -> bytes:
    return blasenv.read_file(path, blasenv.MAX_MOUNTINFO, kernel=True)[0]


def _start_time(pid: int) -> bytes:
    """Field 22 of proc_pid_stat(5), b"" for a process that is not there or has ended."""
    contents = _read(f"/proc/{pid}/stat")
    found = parse_stat(contents)
    return b"" if found is None or found.state in "ZX" else contents.rpartition(b")")[2].split()[19]


def _version(paths: list[str]) -> tuple[int, int] | None:
    """The version of Python that names of files tell: libpython3.14.so.1.0, python3.14."""
    for path in sorted(paths, key=lambda path: "/libpython" not in path):
        found = _PYTHON.match(os.path.basename(path))
        if found:
            return int(found[1]), int(found[2])
    return None


def heal(target: Target, *, seconds: float = 5.0, **request: int | None) -> list[dict[str, Any]]:
    """Have `pools.change` run in a process with the arguments ``request``, and return the rows that came out.

    Waits ``seconds`` for its main thread to come to a safe point. Raises Late when it did not, and
    Refused when it can't be done; in both cases nothing runs there afterwards.
    """
    if os.geteuid() and os.stat(f"/proc/{target.pid}/ns/mnt").st_ino != os.stat("/proc/self/ns/mnt").st_ino:
        raise Refused("it is in a container; from outside, only root can heal it")
    if not os.geteuid() and not importlib.util.find_spec("_ctypes"):
        raise Refused("this Python has no ctypes, without which root can't give up its rights (Debian: python3)")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_alone(target))
        root = _opened(stack, f"/proc/{target.pid}/root", os.O_PATH | os.O_DIRECTORY)
        executable = _opened(stack, f"/proc/{target.pid}/exe", os.O_PATH)
        if not target.lives():
            raise Refused("it has ended")
        directory = stack.enter_context(_directory(target, root))
        directory.write(_script(directory.path, request))
        directory.told = True
        script = f"{directory.path}/{handed.SCRIPT}"
        error = _call(target, root, executable, script)
        if _is_forbidden(error) and _yama() and os.geteuid() == 0 and is_roots(target):
            error = _call(target, root, executable, script, as_root=True)
        if error:
            directory.told = False
            raise Refused(_why(target, error))
        rows = _wait(target, directory, seconds)
        directory.done = True
        return rows


def _opened(stack: contextlib.ExitStack, path: str, flags: int) -> int:
    try:
        fd = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(f"it can't be looked into ({path}: {error.strerror}); {_rights()}") from None
    stack.callback(os.close, fd)
    return fd


@contextlib.contextmanager
def _alone(target: Target) -> Iterator[None]:
    """No two healers at once: there is room for the path of one script in a process."""
    try:
        fd = os.open(f"/proc/{target.pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        raise Refused("it has ended") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused("somebody else is healing it at this moment") from None
        yield
    finally:
        os.close(fd)


def _script(directory: str, request: Mapping[str, int | None]) -> bytes:
    """The script: one expression, so that the program's ``__main__``, where it runs, gains no name."""
    parts = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in (pools, handed)]
    # A future import stands first in a text, so only the first part may have one.
    parts[1] = parts[1].replace("from __future__ import annotations\n", "")
    parts.append(f"take({directory!r}, **{dict(request)!r})\n")
    text = "\n".join(parts)
    code = f"compile({text!r}, '<blasenv heal>', 'exec', dont_inherit=True)"
    return f"exec({code}, {{'__name__': 'blasenv_heal'}})\n".encode()


class _Directory:
    """A new directory that the process sees under ``path``, and its files, held by descriptors."""

    def __init__(self, path: str, parent: int, name: str, fd: int) -> None:
        self.path = path
        self.parent = parent
        self.name = name
        self.fd = fd
        self.done = False
        """Whether the script has run and answered, so that nobody will ask for it again."""
        self.told = False
        """Whether the process may have been told of it."""
        self.files: dict[str, int] = {}

    def make(self, name: str, mode: int) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self.files[name] = fd = os.open(name, flags, mode, dir_fd=self.fd)
        return fd

    def write(self, script: bytes) -> None:
        while script:
            script = script[os.write(self.files[handed.SCRIPT], script) :]

    def withdraw(self) -> bool:
        """Take the token away; False when the process has taken it, and so has begun."""
        try:
            os.unlink(handed.TOKEN, dir_fd=self.fd)
        except FileNotFoundError:
            return False
        finally:
            os.ftruncate(self.files[handed.SCRIPT], 0)
        return True


@contextlib.contextmanager
def _directory(target: Target, root: int) -> Iterator[_Directory]:
    """A directory for one script in the process's own file system, with its three files."""
    directory = _make_directory(target, root)
    try:
        # Only now the user's: until here nobody else could enter it. The script stays root's.
        for name, mode in ((handed.SCRIPT, 0o444), (handed.TOKEN, 0o600), (handed.ANSWER, 0o600)):
            fd = directory.make(name, mode)
            os.fchmod(fd, mode)
            if os.geteuid() == 0 and name != handed.SCRIPT:
                os.fchown(fd, target.user, target.group)
        fcntl.flock(directory.files[handed.TOKEN], fcntl.LOCK_EX)
        if os.geteuid() == 0:
            os.fchown(directory.fd, target.user, target.group)
        yield directory
    finally:
        _clear(target, directory)


def _clear(target: Target, directory: _Directory) -> None:
    """Remove the directory; or, where the process may still look for the script, leave that, empty."""
    if handed.SCRIPT in directory.files:
        os.ftruncate(directory.files[handed.SCRIPT], 0)
    keep = {handed.SCRIPT} if directory.told and not directory.done and target.lives() else set()
    for name, fd in directory.files.items():
        if name not in keep:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=directory.fd)
        os.close(fd)
    if not keep:
        with contextlib.suppress(OSError):
            os.rmdir(directory.name, dir_fd=directory.parent)
    if directory.done:
        _clear_earlier(target, directory)
    os.close(directory.fd)
    os.close(directory.parent)


def _clear_earlier(target: Target, directory: _Directory) -> None:
    """Remove what earlier, late attempts have left: the process has another path to look for now."""
    with contextlib.suppress(OSError):
        for name in os.listdir(directory.parent):
            if name.startswith(f"blasenv-heal-{target.inner}-") and name != directory.name:
                with contextlib.suppress(OSError):
                    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory.parent)
                    try:
                        if os.fstat(fd).st_uid == target.user and os.listdir(fd) == [handed.SCRIPT]:
                            os.unlink(handed.SCRIPT, dir_fd=fd)
                            os.rmdir(name, dir_fd=directory.parent)
                    finally:
                        os.close(fd)


def _make_directory(target: Target, root: int) -> _Directory:
    """The first place that lets us make one, and where nobody else could exchange it afterwards."""
    reasons = []
    for place in PLACES:
        path = place.format(uid=target.user)
        try:
            parent = _walk(root, path, {0, target.user, _owner_inside(target)})
        except OSError as error:
            reasons.append(f"{path}: {error.strerror}")
            continue
        name = f"blasenv-heal-{target.inner}-{secrets.token_hex(8)}"
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        except OSError as error:
            os.close(parent)
            reasons.append(f"{path}: {error.strerror}")
            continue
        return _Directory(f"{path}/{name}", parent, name, fd)
    raise Refused(f"there is no place for the script that it could read ({'; '.join(reasons)})")


def _walk(root: int, path: str, trusted: set[int]) -> int:
    """Open a directory below ``root`` step by step. Refuses links, and what a third user could exchange."""
    fd = os.dup(root)
    try:
        for name in path.strip("/").split("/"):
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = below
            found = os.fstat(fd)
            shared = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
            if found.st_uid not in trusted or shared:
                raise PermissionError(errno.EPERM, "others may exchange what is in it")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _owner_inside(target: Target) -> int:
    """Who is root in the user namespace of a process, as we know that user; 0 where that can't be told."""
    for line in _read(f"/proc/{target.pid}/uid_map").split(b"\n"):
        fields = line.split()
        if len(fields) == 3 and fields[0] == b"0":
            return int(fields[1])
    return 0


def is_roots(target: Target) -> bool:
    """Whether a process's Python is root's alone, in the same file system, so that root may start it as itself.

    Where Yama is on (kernel.yama.ptrace_scope, Documentation/admin-guide/LSM/Yama.rst), that is the one way:
    only CAP_SYS_PTRACE lets anybody into a process that is not a child, and a user's rights don't have it.
    """
    for name, _ in _NAMESPACES:
        if os.stat(f"/proc/{target.pid}/ns/{name}").st_ino != os.stat(f"/proc/self/ns/{name}").st_ino:
            return False
    if not os.path.samefile(f"/proc/{target.pid}/root", "/"):
        return False
    prefix = os.path.dirname(os.path.dirname(target.executable))
    version = target.version or SINCE
    library = f"{prefix}/lib/python{version[0]}.{version[1]}"
    paths = [target.executable, library, f"{library}/encodings", f"{library}/encodings/__init__.py"]
    paths += [path for path in parse_maps(_read(f"/proc/{target.pid}/maps")) if "/libpython" in path]
    return all(_is_only_roots(path) for path in paths)


def _is_only_roots(path: str) -> bool:
    """Whether nobody but root can write a file, or exchange it or a directory above it."""
    path = os.path.realpath(path)
    while True:
        try:
            found = os.lstat(path)
        except OSError:
            return False
        if found.st_uid or found.st_mode & 0o022:
            return False
        if path == "/":
            return True
        path = os.path.dirname(path)


def _yama() -> str:
    """Yama's ptrace_scope, "" where it is off."""
    scope = _read("/proc/sys/kernel/yama/ptrace_scope").strip().decode()
    return "" if scope == "0" else scope


def _is_forbidden(error: str) -> bool:
    return "permission" in error.lower() or "not permitted" in error.lower()


def _call(target: Target, root: int, executable: int, script: str, *, as_root: bool = False) -> str:
    """Have the process's own executable call sys.remote_exec; "" or why the process knows nothing of it.

    Raises Refused when it can't be told whether the process has heard of it.
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        _child(target, root if os.geteuid() == 0 and not as_root else None, executable, script, write)
    os.close(write)
    try:
        said = _read_until(read, time.monotonic() + PATIENCE)
    finally:
        os.close(read)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    word, _, rest = said.decode(errors="replace").strip().rpartition("\n")[2].partition(" ")
    if word == "done":
        return ""
    if word in ("version", "error"):
        return f"{word} {rest}"
    raise Refused(_why(target, said.decode(errors="replace").strip()[:200]))


def _why(target: Target, error: str) -> str:
    """What an error of sys.remote_exec means."""
    word, _, rest = error.partition(" ")
    if word == "version":
        major, _, minor = rest.partition(".")
        return _too_old((int(major), int(minor))) if minor.isdigit() else f"its Python is {rest}"
    error = rest if word == "error" else error
    lower = error.lower()
    if "not enabled" in lower or "disabled" in lower or "not supported" in lower:
        return f"remote debugging is switched off in it{_switched_off_by(target)}"
    if _is_forbidden(error):
        if _yama():
            who = "" if os.geteuid() == 0 else "run this as root, or, "
            return (
                f"the kernel forbids it (kernel.yama.ptrace_scope is {_yama()}; {error}); {who}as root, "
                "set that to 0 for the moment: sysctl kernel.yama.ptrace_scope=0"
            )
        return f"the kernel forbids it ({error}); {_rights()}"
    if not target.lives():
        return "it has ended"
    return f"its executable could not hand the script over: {error or 'it said nothing'}"


def _switched_off_by(target: Target) -> str:
    environ = _read(f"/proc/{target.pid}/environ").split(b"\0")
    if any(item.startswith(b"PYTHON_DISABLE_REMOTE_DEBUG=") and not item.endswith(b"=") for item in environ):
        return ", by PYTHON_DISABLE_REMOTE_DEBUG in its environment"
    command = _read(f"/proc/{target.pid}/cmdline").replace(b"-", b"_")
    if b"disable_remote_debug" in command:
        return ", by -X disable-remote-debug"
    return ", or its Python was built without it"


def _read_until(fd: int, deadline: float) -> bytes:
    found = b""
    while len(found) < 65536:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            break
        chunk = os.read(fd, 4096)
        if not chunk:
            break
        found += chunk
    return found


# The rest of this part runs between fork and exec: it becomes what the process is, and starts its executable.


def _child(target: Target, root: int | None, executable: int, script: str, output: int) -> NoReturn:
    """Start the executable as what the process is, with ``root`` its root directory; without one, as what we are."""
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for fd, standard in ((null, 0), (output, 1), (output, 2)):
            os.dup2(fd, standard)
        pid = target.pid
        if root is not None:
            pid = target.inner
            _become(target, root)
        environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
        argv = [target.executable, "-I", "-S", "-B", "-c", _ASK, str(pid), script]
        os.execve(executable, argv, environ)  # noqa: S606  by descriptor: it is the one that the process runs
    except BaseException as error:  # noqa: BLE001  nothing of ours may go on in a forked copy
        os.write(output, f"error {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(1)


_NAMESPACES = (("mnt", 0x00020000), ("pid", 0x20000000), ("user", 0x10000000))  # setns(2): CLONE_NEW...
# prctl(2), include/uapi/linux/prctl.h
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 23, 24, 38


def _become(target: Target, root: int) -> None:
    """Take the process's namespaces, root directory, user and capabilities, and no right more than it has."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def do(result: int, what: str) -> None:
        if result:
            number = ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}")

    # Before we can be seen in its PID namespace: nobody there may look into what was root.
    do(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")
    user, group = target.user, target.group
    entered = {}
    for name, kind in _NAMESPACES:
        path = f"/proc/{target.pid}/ns/{name}"
        if os.stat(path).st_ino != os.stat(f"/proc/self/ns/{name}").st_ino:
            entered[name] = (os.open(path, os.O_RDONLY | os.O_CLOEXEC), kind)
    if "user" in entered:
        user = _inside(_read(f"/proc/{target.pid}/uid_map"), user)
        group = _inside(_read(f"/proc/{target.pid}/gid_map"), group)
    # A container's root may lack the rights for these, where there is nothing to change.
    same = (user, group) == (os.geteuid(), os.getegid())
    with contextlib.suppress(PermissionError) if same else contextlib.nullcontext():
        os.setgroups([])
    for name in ("mnt", "pid"):
        if name in entered:
            do(libc.setns(*entered[name]), f"entering its {name} namespace")
    os.fchdir(root)
    if not os.path.samestat(os.stat("/"), os.stat(root)):
        os.chroot(".")
    if "user" in entered:
        do(libc.setns(*entered["user"]), "entering its user namespace")
    if "pid" in entered:
        # It counts for children only.
        child = os.fork()
        if child:
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    for capability in range(64):
        held = libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0)
        if held < 0:
            break  # the kernel has no more
        if held and not target.capabilities >> capability & 1:
            do(libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), "giving up a capability")
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    do(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    do(libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


def _inside(contents: bytes, number: int) -> int:
    """A user or group in its own user namespace, from /proc/PID/uid_map: lines of inside, outside, count."""
    for line in contents.split(b"\n"):
        fields = [int(word) for word in line.split()]
        if len(fields) == 3 and fields[1] <= number < fields[1] + fields[2]:
            return fields[0] + number - fields[1]
    raise OSError(errno.EPERM, "its user is not mapped into its user namespace")


def _wait(target: Target, directory: _Directory, seconds: float) -> list[dict[str, Any]]:
    """Wait for the answer. Raises Late or Refused when there is none."""
    deadline = time.monotonic() + seconds
    begun = False
    while True:
        answer = os.pread(directory.files[handed.ANSWER], MOST, 0)
        if answer.endswith(b"\n"):
            return _understand(answer)
        if not target.lives():
            raise Refused("it has ended")
        if time.monotonic() > deadline:
            if begun:
                raise Refused("it has begun, but did not come to an end; see doctor what it waits for")
            if directory.withdraw():
                raise Late(directory.path)
            begun, deadline = True, time.monotonic() + PATIENCE
        time.sleep(0.005)


def _understand(answer: bytes) -> list[dict[str, Any]]:
    """The rows of an answer. It was written in the other process, so it may be anything."""
    try:
        document = json.loads(answer)
    except (ValueError, RecursionError):
        raise Refused("what it answered can't be read") from None
    if isinstance(document, dict) and isinstance(document.get("error"), str):
        raise Refused(f"the script failed in it: {document['error']}")
    rows = document.get("rows") if isinstance(document, dict) else None
    shape = {"kind": (str,), "path": (str,), "before": (int, type(None)), "after": (int, type(None)), "remark": (str,)}
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and row.keys() == shape.keys() and all(isinstance(row[k], t) for k, t in shape.items())
        for row in rows
    ):
        raise Refused("what it answered can't be read")
    return rows
