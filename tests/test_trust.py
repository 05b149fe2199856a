"""docs/trust.md: what it tells auditors to type is typed here, and what it lists is all there is."""

from __future__ import annotations

import ast
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import ROOT, Cgroup, Venv, clean_environ, copy_checkout, make_venv, run
from instructions import copy_hook
from test_rooms import START_UP, imports

from blasenv.pythons.installed import HOOK, STARTUP_FILES

PAGE = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
TEMPLATE = ROOT / "sitecustomize_template" / "sitecustomize.py"
START_UP_FILES = [ROOT / "blasenv" / name for name in STARTUP_FILES]


def section(heading: str) -> str:
    """What stands below a heading of the page."""
    return PAGE.partition(f"\n## {heading}")[2].partition("\n## ")[0]


def transcript(heading: str) -> list[tuple[str, str]]:
    """The commands of a section, each with what the page says it prints."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"^```console\n(.*?)^```", section(heading), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], ""))
            else:
                found[-1] = (found[-1][0], f"{found[-1][1]}{line}\n")
    assert found
    return found


# Building.


def test_three_commands_build_the_same_everywhere(tmp_path: Path) -> None:
    """In two clones, in other directories, at another time, with another umask and time zone."""
    if not shutil.which("git"):
        pytest.skip("no git on this machine")
    origin = copy_checkout(tmp_path / "origin")
    author = {f"GIT_{who}_{what}": "a" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "a release"]):
        run(["git", *words], cwd=origin, environ=clean_environ(**author))
    three, compare = transcript("Build it yourself")[:3], transcript("Build it yourself")[3:]
    said = []
    for number, (umask, zone) in enumerate((("022", "UTC"), ("077", "Asia/Tokyo"))):
        clone = tmp_path / f"clone {number}" / ("deeper" * number) / "blasenv"
        script = "\n".join(["set -e", f"umask {umask}", f"git clone --quiet {origin} '{clone}'", f"cd '{clone}'"])
        script += "".join(f"\n{command}" for command, _ in three[:2]) + "\necho\n" + three[2][0]
        tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # build is installed beside pytest
        done = run(["bash", "-c", script], environ=clean_environ(TZ=zone, PATH=tools))
        said.append(done.stdout.rpartition("\n\n")[2])
    assert said[0] == said[1]
    assert re.fullmatch(r"([0-9a-f]{64}  dist/blasenv-\S+\n){2}", said[0])
    for command, printed in compare:
        assert run(["bash", "-c", command], cwd=clone, status=None).stdout == printed, command
    pinned = (ROOT / "build-constraints.txt").read_text(encoding="utf-8").split("==")[1].strip()
    (wheel_file,) = (clone / "wheel").glob("*.dist-info/WHEEL")
    assert f"Generator: setuptools ({pinned})\n" in wheel_file.read_text(encoding="utf-8")


def test_the_release_runs_the_same_commands() -> None:
    """GitHub's workflow can't be run here; that it builds as the page says, and who may sign, is read from it."""
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))["jobs"]
    build, publish = jobs["build"], jobs["publish"]
    commands = "\n".join(step.get("run", "") for step in build["steps"])
    assert "".join(f"{command}\n" for command, _ in transcript("Build it yourself")[:3]) in commands
    assert build["permissions"] == {"contents": "read"}
    assert publish["permissions"] == {"id-token": "write"}
    assert not any("run" in step for step in publish["steps"])


# Looking.


@pytest.fixture
def on_path(one_venv: Venv) -> dict[str, str]:
    """An environment in which ``python3`` and ``blasenv`` are those of a venv with blasenv."""
    return clean_environ(PATH=f"{one_venv.directory / 'bin'}:{os.environ['PATH']}")


def test_the_line_is_the_only_one(on_path: dict[str, str]) -> None:
    ((command, printed),) = transcript("The line")
    assert comparable(run(["bash", "-c", command], environ=on_path).stdout) == comparable(printed)
    assert (ROOT / "blasenv" / HOOK).read_text(encoding="ascii") in section("The line")


def test_what_the_doctor_compares(on_path: dict[str, str]) -> None:
    ((command, _),) = transcript("What is installed is what was released")
    said = run(["bash", "-c", command], environ=on_path).stdout
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    hashes = re.findall(r"^ *([0-9a-f]{64})$", said, re.MULTILINE)
    assert len(hashes) == 2
    for name, digest in zip((HOOK, "__init__.py"), hashes):
        assert f"    {digest}  blasenv/{name}\n" in changelog


def comparable(text: str) -> str:
    """A transcript without what is the machine's: times, places, versions, descriptors, the cgroup and its version."""
    text = re.sub(r"\) = \d+$", ") = FD", text, flags=re.MULTILINE)  # whoever starts us may have left some open
    text = re.sub(r"\d+ \| +\d+ \|", "N | N |", re.sub(r"time: +", "time: ", text))
    text = re.sub(r'/[^"\n]*/site-packages/', "SITE/", text)
    text = re.sub(r"cpython-3\d+", "cpython-3", text)
    return re.sub(
        r'(openat\(AT_FDCWD, )"/sys/fs/cgroup/[^"]*/cpu\.[^"]*"(.*\n)(\1"/sys/fs/cgroup/.*\n)*', r"\1LIMIT\2", text
    )


def test_what_others_see(on_path: dict[str, str], one_venv: Venv, one_cpu: Cgroup) -> None:
    if not shutil.which("strace"):
        pytest.skip("no strace on this machine")
    run([one_venv.python, "-c", "pass"])  # writes the byte code
    for command, printed in transcript("See for yourself"):
        done = one_cpu.run(["bash", "-c", command], environ=on_path)
        # What Python itself opens behind blasenv's files is not part of the page.
        theirs = comparable(done.stdout).splitlines()[: len(comparable(printed).splitlines())]
        assert theirs == comparable(printed).splitlines(), command
    assert "/blasenv/" not in done.stdout.rpartition("cpu.")[2]


# The list of files.


@dataclass(frozen=True)
class Situation:
    """How a process is started, so that blasenv reads more than it does at most starts."""

    name: str
    opens: tuple[str, ...] = ()
    """What it reads in this situation, as SECURITY.md names it, beside what it always does."""
    cpus: float = 1
    config: str = ""
    command: tuple[str, ...] = ("-c", "pass")
    environ: Mapping[str, str] = field(default_factory=dict)


SPAWN = "import multiprocessing as m; c = m.get_context('spawn').Process(target=print); c.start(); c.join()"
LIMIT = ("/proc/self/cgroup", "/proc/self/mountinfo")
CPUS = len(os.sched_getaffinity(0))
CORES = ("/sys/devices/system/cpu/cpuN/topology/thread_siblings_list",)
ONLINE = "/sys/devices/system/cpu/online"
SITUATIONS = (
    Situation("limit", LIMIT),
    Situation("user", environ={"OMP_NUM_THREADS": "2"}),
    Situation("disabled", environ={"BLASENV_DISABLE": "1"}),
    Situation("cores", CORES if CPUS > 2 else (), cpus=CPUS - 0.5),  # rounded, above half of them and below all
    Situation("config", config='rounding = "ceil"\ncpu_count = true\nvariables = "all"\n'),
    Situation("programs", ("/proc/PPID/cmdline", ONLINE), config='[programs]\n"no.py" = 1\n', command=("-c", SPAWN)),
    Situation("worker", ("/proc/PPID/cmdline", ONLINE), command=("-c", SPAWN)),
    Situation("server", ("gunicorn.conf.py", ONLINE), command=("gunicorn",)),
    Situation("ranks", environ={"SLURM_GTIDS": "0,1"}),
    Situation("broken", config="what\n"),
)


def listed() -> set[str]:
    """The paths and names in SECURITY.md's table of what is read."""
    table = SECURITY.partition("| reads | when |\n|---|---|\n")[2].partition("\n\n")[0]
    rows = [row.split("|")[1] for row in table.splitlines()]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)} - {"BLASENV_CONFIG", "-m", "-c"}


@dataclass
class Trace:
    """What the processes of one start asked of the kernel."""

    calls: Counter[str]
    """System calls that make something: a process, a socket, a file, a name."""
    read: set[str]
    """Files, as SECURITY.md names them; Python's own and the code of blasenv left out."""


MAKES = "fork vfork clone clone3 execve execveat mkdir mkdirat rename renameat renameat2 link linkat symlink symlinkat"
MAKES += " unlink unlinkat rmdir chmod fchmodat truncate ftruncate write writev pwrite64 kill mount"
NETWORK = "socket socketpair connect bind listen accept accept4 sendto sendmsg recvfrom recvmsg"


@pytest.fixture(scope="module")
def two_venvs(tmp_path_factory: pytest.TempPathFactory, one_venv: Venv) -> dict[str, Venv]:
    """One with blasenv, and one with a line that does nothing in its place."""
    made = {name: make_venv(tmp_path_factory.mktemp(name) / "venv", one_venv.version) for name in ("with", "bare")}
    copy_hook(made["with"].site_packages)
    (made["bare"].site_packages / HOOK).write_text("import os\n")
    for venv in made.values():
        run([venv.python, "-m", "compileall", "-q", venv.site_packages], status=None)
    return made


def trace(venv: Venv, situation: Situation, group: Cgroup, directory: Path) -> Trace:
    directory.mkdir()
    (directory / "gunicorn").write_text("pass\n")
    environ = dict(situation.environ)
    if situation.config:
        (directory / "blasenv.toml").write_text(situation.config)
        environ["BLASENV_CONFIG"] = str(directory / "blasenv.toml")
    out = directory / "trace"
    makes = ",".join(f"?{name}" for name in f"{MAKES} {NETWORK}".split())
    command: list[str | Path] = [
        "strace",
        "-f",
        "-qq",
        "-o",
        out,
        "-e",
        f"trace=%file,{makes}",
        venv.python,
        *situation.command,
    ]
    group.run(command, environ=clean_environ(PYTHONHASHSEED="0", **environ), cwd=directory)
    calls: Counter[str] = Counter()
    read: set[str] = set()
    for line in out.read_text().splitlines():
        call = re.fullmatch(r"\d+ +(\w+)\((.*)", line)
        if not call:
            continue  # the rest of a call that was interrupted, or a process's end
        name, arguments = call.groups()
        makes_file = re.search(r"O_(WRONLY|RDWR|CREAT|TRUNC|APPEND)", arguments)
        if name in f"{MAKES} {NETWORK}".split() or makes_file:
            calls[name] += 1
        path = re.search(r'"([^"]*)"', arguments)
        if path and not name.startswith("write"):
            read.add(as_listed(path[1], venv, directory))
    return Trace(calls, read)


def as_listed(path: str, venv: Venv, directory: Path) -> str:
    """A path under the name that SECURITY.md has for it."""
    path = path.replace(str(venv.directory), "VENV").replace(f"{directory}/blasenv.toml", "/etc/blasenv.toml")
    path = path.replace(str(directory), "CWD")
    path = re.sub(r"^/proc/(self|\d+)/cwd/", "", path)
    path = re.sub(r"^/proc/\d+/cmdline$", "/proc/PPID/cmdline", path)
    path = re.sub(r"/cpu/cpu\d+/", "/cpu/cpuN/", path)
    return re.sub(r"^/sys/fs/cgroup/.*/(cpu\.[a-z_]+)$", r"\1", path)


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.name)
def test_what_is_opened_is_in_the_list_and_nothing_is_made(
    situation: Situation, two_venvs: dict[str, Venv], limited: Callable[[float], Cgroup], tmp_path: Path
) -> None:
    if not shutil.which("strace"):
        pytest.skip("no strace on this machine")
    group = limited(situation.cpus)
    seen = {name: trace(venv, situation, group, tmp_path / name) for name, venv in two_venvs.items()}
    more = {path for path in seen["with"].read - seen["bare"].read if not path.startswith("VENV/")}
    assert more <= listed()
    assert set(situation.opens) <= more
    calls = seen["with"].calls - seen["bare"].calls
    # A configuration that is refused is told of, once.
    assert calls == (Counter(write=1) if situation.name == "broken" else Counter())


def test_every_file_in_the_list_is_read_in_some_situation() -> None:
    """But for what another Python, another cgroup version and other servers read; tests of their own have those."""
    elsewhere = {"/proc/self/cmdline", "cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"}
    elsewhere |= {"/etc/blasenv.toml", "celeryconfig.py", "pyproject.toml"}
    elsewhere |= set(CORES)  # which takes three CPUs
    assert listed() - elsewhere == {name for situation in SITUATIONS for name in situation.opens} - set(CORES)


# Reading.


def test_the_table_of_files_is_right() -> None:
    rows = dict(re.findall(r"^\| `([\w./]+)` \| (\d+) \|", section("Read it in ten minutes"), re.MULTILINE))
    files = [ROOT / "blasenv" / HOOK, *START_UP_FILES, TEMPLATE]
    assert rows == {str(file.relative_to(ROOT)): str(file.read_bytes().count(b"\n")) for file in files}


def names_of(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def dotted(node: ast.AST) -> str:
    """`os.path.exists` of such an expression, "" of any other."""
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return node.id if isinstance(node, ast.Name) else ""


def of_module(tree: ast.AST, module: str) -> set[str]:
    """What a source takes from a module that it has imported: a name, or `path.exists`."""
    names = [name.split(".")[1:] for name in map(dotted, ast.walk(tree)) if name.startswith(f"{module}.")]
    return {".".join(name[:2]) if name[0] == "path" else name[0] for name in names} - {"path"}


# No other way to run text, or to reach what is not imported: builtins by another name, modules by their table.
NEVER = {
    "eval",
    "exec",
    "compile",
    "open",
    "input",
    "__import__",
    "breakpoint",
    "globals",
    "__builtins__",
    "__loader__",
}


@pytest.mark.parametrize("path", [*START_UP_FILES, TEMPLATE], ids=lambda path: path.name)
def test_what_no_start_does(path: Path) -> None:
    tree = ast.parse(path.read_bytes())
    assert not names_of(tree) & NEVER
    if path != TEMPLATE:
        assert not of_module(tree, "sys") & {"modules", "meta_path", "path_hooks", "_getframe", "stdin"}
    listed_on_page = re.findall(r"`([^`]+)`", section("What it never does").partition("- Of `os`")[2])
    allowed = set(listed_on_page[: listed_on_page.index("O_")]) | {"O_RDONLY", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY"}
    if path != TEMPLATE:
        assert of_module(tree, "os") <= allowed
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "os"]
    never = set(re.findall(r"`(\w+)`", re.findall(r"^- No (.*?)\.", section("What it never does"), re.MULTILINE)[0]))
    assert never <= NEVER


def test_the_list_of_what_it_takes_from_os_has_nothing_that_it_does_not() -> None:
    used = set().union(*(of_module(ast.parse(path.read_bytes()), "os") for path in START_UP_FILES))
    page = section("What it never does").partition("- Of `os`, only: ")[2].partition("; and")[0]
    assert set(re.findall(r"`([\w.]+)`", page)) == {name for name in used if not name.startswith("O_")}


def test_its_imports() -> None:
    (page,) = re.findall(r"^- Its imports: (.*?), and its own", section("What it never does"), re.MULTILINE)
    outside = set().union(*(imports(module) for module in START_UP))
    assert {name for name in outside if not name.startswith("blasenv")} == set(re.findall(r"`(\w+)`", page))


def test_opens_for_reading_only() -> None:
    """The one call of os.open has the flags READ, and those are for reading."""
    calls = [
        ast.unparse(node)
        for path in START_UP_FILES
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "os.open"
    ]
    assert calls == ["os.open(path, READ)"]
    source = (ROOT / "blasenv" / "__init__.py").read_text(encoding="utf-8")
    assert "READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY\n" in source


def test_the_page_is_one_page() -> None:
    assert PAGE.count("\n") <= 120
