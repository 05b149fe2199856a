"""``blasenv-runtime``: an OCI runtime that adds blasenv's start-up code, and leaves the rest to the real one.

    blasenv-runtime [--startup DIR] [--real-runtime PATH] ARGUMENTS OF THE REAL RUNTIME

Docker, Podman, containerd and CRI-O start it in the place of runc or crun. When a container is
made (``create``, ``run``), it edits the bundle's config.json: one bind mount, read-only, and its
directory before what PYTHONPATH holds. A process that is started later in a container that has the
mount (``exec``) gets the same PYTHONPATH: the engines make its environment from what they know,
not from config.json. Then it becomes the real runtime, with the same arguments.

Whatever is wrong with that, the container is made as if this were not here, and one line goes
to the runtime's log. No number is set: the start-up code decides inside, from the container's
own cgroup.

config.json: https://github.com/opencontainers/runtime-spec/blob/main/config.md
The command line: https://github.com/opencontainers/runtime-tools/blob/master/docs/command-line-interface.md
"""

from __future__ import annotations

import os
import signal
import stat
import sys

from blasenv import ENABLED, RECEIPT

# Engines call a runtime several times for each container: what most calls don't need is imported where it is used.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

# As in contents and export, which import what each container's start would have to wait for; a test holds them equal.
PLACE = "/.blasenv"
STARTUP = "/usr/local/lib/blasenv"

RUNTIMES = ("runc", "crun")
ANNOTATION = "blasenv.inject"
# Where containerd and CRI-O say what a container is to its pod: "sandbox", or "container".
KINDS = ("io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType")
OFF = ("false", "0", "no", "off")
# Options of runc, crun and youki before the command whose value may be the next word.
VALUED = ("--root", "--log", "--log-format", "--log-level", "--criu", "--rootless", "--cgroup-manager", "-r", "-l")
# The commands of runc, crun, runsc and youki. A word before the first of these is the value of an option we don't know.
COMMANDS = frozenset(
    (
        *("checkpoint", "create", "delete", "do", "events", "exec", "features", "help", "info", "init", "kill", "list"),
        *("mounts", "pause", "ps", "restore", "resume", "run", "spec", "start", "state", "update", "wait"),
    )
)
FILES = ("--bundle", "-b", "--process", "-p")  # behind the command
MAX_CONFIG = 64 << 20  # bytes


class Problem(Exception):
    """Why a container is made without blasenv."""


def split_options(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Our own options, which come first, and the arguments of the real runtime."""
    options = {"--startup": STARTUP, "--real-runtime": ""}
    rest = list(arguments)
    while rest:
        name, equals, value = rest[0].partition("=")
        if name not in options or not (equals or len(rest) > 1):
            break
        options[name] = value if equals else rest[1]
        del rest[: 1 if equals else 2]
    return options, rest


def parse_arguments(arguments: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The command in the real runtime's arguments, "" if none, and the options that have a value.

    Those before the command as they are known to have one, those behind it if they are followed by one.
    """
    options = {}
    command = ""
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            command = command or (word if word in COMMANDS else "")
        elif equals:
            options[name] = value
        elif name in VALUED or (command and name in FILES):
            options[name] = next(words, "")
    return command, options


def find_runtime(named: str) -> str:
    """The real runtime: the one that was named, else the first of runc and crun on PATH. Raises Problem.

    A program on PATH that is this one by another name is not it.
    """
    if "/" in named:
        return named
    own = os.path.realpath(sys.argv[0])
    for name in [named] if named else RUNTIMES:
        for directory in os.get_exec_path():
            path = os.path.join(directory, name)
            if os.access(path, os.X_OK) and os.path.isfile(path) and os.path.realpath(path) != own:
                return path
    raise Problem(f"{named or ' or '.join(RUNTIMES)}: not found")


def wants(config: Any) -> bool:
    """Whether it is a container for programs whose owner has not said that blasenv is to stay out.

    The annotation blasenv.inject with a value such as "false", or BLASENV_DISABLE in the environment. A pod's
    sandbox holds its namespaces and nothing else.
    """
    annotations = config.get("annotations") or {}
    if "sandbox" in [annotations.get(name) for name in KINDS]:
        return False
    annotation = annotations.get(ANNOTATION, "")
    disabled = [item[16:] for item in config["process"].get("env") or [] if item.startswith("BLASENV_DISABLE=")]
    return annotation.strip().lower() not in OFF and not any(value not in ENABLED for value in disabled)


def prepend(env: list[str]) -> None:
    """Put our directory before what PYTHONPATH holds in the list of variables of a process."""
    for number, item in enumerate(env):
        name, _, value = item.partition("=")
        if name == "PYTHONPATH" and PLACE not in value.split(":"):
            # An empty element would be the working directory.
            env[number] = f"PYTHONPATH={PLACE}:{value}" if value else f"PYTHONPATH={PLACE}"
    if not any(item.startswith("PYTHONPATH=") for item in env):
        env.append(f"PYTHONPATH={PLACE}")


def add_startup(config: Any, startup: str) -> bool:
    """Put the mount of the directory ``startup`` and PYTHONPATH into a config.json; whether that changed it.

    Raises Problem, or what an odd config leads to.
    """
    process = config["process"]
    mounts = config.get("mounts") or []
    env = process.get("env") or []
    if not wants(config):
        return False
    others = [mount["destination"].rstrip("/") for mount in mounts]
    if PLACE in others:
        return False  # this one was here before
    if "" in others:
        raise Problem("something is mounted over /")
    prepend(env)
    process["env"] = env
    options = ["bind", "ro", "nosuid", "nodev", "noexec"]
    mounts.append({"destination": PLACE, "type": "bind", "source": startup, "options": options})
    config["mounts"] = mounts
    return True


def check_root(config: Any, bundle: str) -> None:
    """Raise Problem where the real runtime could not make the mount point."""
    root = os.path.join(bundle, config["root"]["path"])
    place = root.rstrip("/") + PLACE
    try:
        found = os.lstat(place)
    except FileNotFoundError:
        if os.path.isdir(root) and os.statvfs(root).f_flag & os.ST_RDONLY:
            raise Problem(f"the image has no {PLACE}, and is on a read-only file system") from None
    else:
        if not stat.S_ISDIR(found.st_mode):
            raise Problem(f"{PLACE} in the image is no directory")


def edit_bundle(bundle: str, startup: str) -> None:
    """Edit the config.json of a bundle."""
    path = os.path.join(bundle, "config.json")
    config, before = read_document(path)
    if not os.path.isfile(os.path.join(startup, "sitecustomize.py")):
        raise Problem(f"{startup} has no start-up code; blasenv inject export {startup}")
    if add_startup(config, os.path.abspath(startup)):
        check_root(config, bundle)
        write_document(path, config, before)


def default_roots() -> list[str]:
    """Where runc and crun keep what they know of their containers when nobody says --root, the user's own place first.

    runc(8), crun(1): below XDG_RUNTIME_DIR without root, else below /run; crun takes the variable from root, too.
    """
    places = [os.environ.get("XDG_RUNTIME_DIR", ""), "/run"]
    return [os.path.join(place, name) for place in places if place.startswith("/") for name in RUNTIMES]


def edit_process(path: str, roots: Sequence[str], container: str) -> None:
    """Edit the file that describes a process to start in a running container, where that has the mount.

    ``roots`` are the directories where the real runtime may keep what it knows of its containers.
    """
    pid = None
    if "/" in container:
        return  # no name of a container; the real runtime says so
    for root in roots:
        for name, key in (("state.json", "init_process_pid"), ("status", "pid")):  # runc's, crun's
            file = os.path.join(root, container, name)
            if pid is None and os.path.isfile(file):
                pid = read_document(file)[0][key]
    if isinstance(pid, int) and os.path.isfile(f"/proc/{pid}/root{PLACE}/sitecustomize.py"):
        process, before = read_document(path)
        env = process.setdefault("env", [])
        if not all(isinstance(item, str) for item in env):
            raise Problem(f"{path} has an odd environment")
        prepend(env)
        write_document(path, process, before)


def read_document(path: str) -> tuple[Any, os.stat_result]:
    """A JSON document and the state of its file. Raises Problem, OSError, or what is wrong with the JSON."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise Problem(f"{path} is no regular file")
        contents = file.read(MAX_CONFIG + 1)
    if len(contents) > MAX_CONFIG:
        raise Problem(f"{path} is larger than {MAX_CONFIG} bytes")
    import json

    return json.loads(contents), state


def write_document(path: str, document: Any, state: os.stat_result) -> None:
    """Replace a JSON document, whole or not at all, by one with the same owner and mode."""
    import json

    # What Python reads and Go would not (NaN) must not get in.
    edited = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()
    new = f"{path}.blasenv-{os.getpid()}"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(edited)
            os.fchmod(fd, stat.S_IMODE(state.st_mode))
            if (state.st_uid, state.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(fd, state.st_uid, state.st_gid)
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise


def log(options: dict[str, str], text: str) -> None:
    """Put one line into the log that the caller asked the real runtime to keep, or else on stderr."""
    import json
    import time

    path = options.get("--log") or options.get("-l", "")
    text = "".join(char if char.isprintable() else "?" for char in f"blasenv: {text}")
    if options.get("--log-format") == "json":
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        text = json.dumps({"level": "warning", "msg": text, "time": stamp})
    line = f"{text}\n".encode("utf-8", "backslashreplace")
    try:
        if path.startswith("/"):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(path, flags, 0o644)
            os.write(fd, line)
            os.close(fd)
        else:
            os.write(2, line)
    except OSError:
        pass  # a log that is full is no reason either


def prepare(arguments: Sequence[str], startup: str) -> None:
    """Do what is ours for one call of the runtime. Never raises an Exception."""
    options: dict[str, str] = {}
    try:
        command, options = parse_arguments(arguments)
        if command in ("create", "run"):
            edit_bundle(options.get("--bundle") or options.get("-b") or ".", startup)
        process = options.get("--process") or options.get("-p")
        if command == "exec" and process:
            # With the process in a file, the container is the last word.
            root = options.get("--root") or options.get("-r")
            edit_process(process, [root] if root else default_roots(), arguments[-1])
    except Exception as error:  # noqa: BLE001  whatever it is, the container must start
        said = str(error)
        if not isinstance(error, (Problem, OSError)):
            said = f"config.json is not as the OCI runtime specification says: {type(error).__name__}: {error}"
        log(options, f"the container starts without it: {said}")


def main() -> int:
    """Become the real runtime. Returns 127 or 126, as a shell does, when there is none or it can't be started."""
    options, arguments = split_options(sys.argv[1:])
    real = options["--real-runtime"]
    try:
        real = find_runtime(real)
        prepare(arguments, options["--startup"])
        # As it came: the thread count that our own hook may have set for this process is not in os.environ.
        environ = {name: value for name, value in os.environ.items() if name != RECEIPT}
        # Python ignores these, and a program would inherit that, the container's own included.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execve(real, [real, *arguments], environ)  # noqa: S606  a shell has no business here
    except Problem as problem:
        print(f"blasenv-runtime: {problem}", file=sys.stderr)
        return 127
    except FileNotFoundError:
        print(f"blasenv-runtime: {real}: not found", file=sys.stderr)
        return 127
    except OSError as error:
        print(f"blasenv-runtime: {real}: {error.strerror}", file=sys.stderr)
        return 126


if __name__ == "__main__":
    sys.exit(main())
