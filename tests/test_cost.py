"""What the hook costs each start: files, modules, instructions. No times, which are the machine's."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from conftest import NEWEST_TESTED, ROOT, Cgroup, Venv, clean_environ, make_venv, run
from instructions import CALLGRIND, collected
from scale import make_tree

MOST_OF_A_BARE_START = 0.042

# Placed where it runs before blasenv's hook: tells which files this process opens, from then on.
WATCH = (
    "import sys; hasattr(sys, 'opened') or setattr(sys, 'opened', []) or "
    "sys.addaudithook(lambda event, args, sys=sys: event == 'open' and sys.opened.append(args[0]))\n"
)


@pytest.fixture(scope="module")
def watched(one_venv: Venv, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Cgroup, dict[str, str]], list[str]]:
    """Runs a bare start in a group, and returns the files it opened, with blasenv but not without."""
    with_hook = make_venv(tmp_path_factory.mktemp("with") / "venv", one_venv.version)
    without = make_venv(tmp_path_factory.mktemp("without") / "venv", one_venv.version)
    for venv in (with_hook, without):
        (venv.site_packages / "0_watch.pth").write_text(WATCH)
    shutil.copytree(one_venv.site_packages / "blasenv", with_hook.site_packages / "blasenv")
    shutil.copy(one_venv.site_packages / "a0_blasenv.pth", with_hook.site_packages)
    code = "import os, sys; print(*[os.fsdecode(path) for path in sys.opened if not isinstance(path, int)], sep='\\n')"

    def opened(venv: Venv, group: Cgroup, environ: dict[str, str]) -> Iterable[str]:
        for _ in range(2):  # the first start writes the byte code
            result = group.run([venv.python, "-c", code], environ=environ)
        return [line.replace(str(venv.directory), "VENV") for line in result.stdout.splitlines()]

    def difference(group: Cgroup, environ: dict[str, str]) -> list[str]:
        ordinary = set(opened(without, group, environ))
        return [path for path in opened(with_hook, group, environ) if path not in ordinary]

    return difference


def code_of(name: str, venv: Venv) -> str:
    tag = venv.version.replace(".", "")
    return f"VENV/lib/python{venv.version}/site-packages/blasenv/__pycache__/{name}.cpython-{tag}.pyc"


def limit_files(group: Cgroup) -> list[str]:
    """The files of a group's limit, and of the mount point's, in the order of reading."""
    if (group.directory / "cpu.max").exists():
        return [str(group.directory / "cpu.max"), str(group.outside / "cpu.max")]
    quota, period = "cpu.cfs_quota_us", "cpu.cfs_period_us"
    return [str(group.directory / quota), str(group.directory / period), str(group.outside / quota)]


def without_doubles(paths: list[str]) -> list[str]:
    """A venv's .pth files are read twice, the hook among them."""
    return list(dict.fromkeys(paths))


def test_opens_a_closed_list_of_files(
    watched: Callable[[Cgroup, dict[str, str]], list[str]], one_venv: Venv, one_cpu: Cgroup
) -> None:
    hook = f"VENV/lib/python{one_venv.version}/site-packages/a0_blasenv.pth"
    module = code_of("__init__", one_venv)
    kernel = ["/proc/self/cgroup", "/proc/self/mountinfo"]
    limit = [hook, module, "/etc/blasenv.toml", *kernel, *limit_files(one_cpu)]
    opened = watched(one_cpu, clean_environ())
    assert without_doubles(opened) == limit
    assert opened.count("/etc/blasenv.toml") == 1
    # Whoever decides himself, or switches it off, has nothing else read.
    assert without_doubles(watched(one_cpu, clean_environ(BLASENV_DISABLE="1"))) == [hook]
    users = watched(one_cpu, clean_environ(OMP_NUM_THREADS="2"))
    assert without_doubles(users) == [hook, module, "/etc/blasenv.toml"]


def test_configuration_costs_the_other_module(
    watched: Callable[[Cgroup, dict[str, str]], list[str]], one_venv: Venv, one_cpu: Cgroup, tmp_path: Path
) -> None:
    file = tmp_path / "blasenv.toml"
    file.write_text('mode = "off"\n')
    hook = f"VENV/lib/python{one_venv.version}/site-packages/a0_blasenv.pth"
    opened = watched(one_cpu, clean_environ(BLASENV_CONFIG=str(file)))
    assert without_doubles(opened) == [
        hook,
        code_of("__init__", one_venv),
        str(file),
        code_of("_config_file", one_venv),
        code_of("_host", one_venv),
    ]


def test_imports_one_module(one_venv: Venv, one_bare_venv: Venv, one_cpu: Cgroup) -> None:
    modules = {}
    for venv in (one_venv, one_bare_venv):
        result = one_cpu.run([venv.python, "-c", "import sys; print(*sys.modules)"])
        modules[venv] = set(result.stdout.split())
    assert modules[one_venv] - modules[one_bare_venv] == {"blasenv"}


def instructions(venv: Venv, group: Cgroup) -> int:
    """Instructions of a bare start, of the second one: the first writes the byte code."""
    group.run([venv.python, "-c", "pass"])
    return collected(
        group.run([*CALLGRIND, venv.python, "-c", "pass"], environ=clean_environ(PYTHONHASHSEED="0")).stderr
    )


def test_instructions(one_cpu: Cgroup, limited: Callable[[float], Cgroup], wheel: Path, tmp_path: Path) -> None:
    """The hook over a .pth line that does nothing, in parts of a start without any .pth file, on 3.13.

    Also where the limit is above half of the CPUs, as with 1.5 of 2: cores are asked for only where
    the rounded count could be more than they are.
    """
    if not shutil.which("valgrind"):
        pytest.skip("no valgrind on this machine")
    counts = {}
    for name in ("bare", "line", "hook"):
        venv = make_venv(tmp_path / name, "3.13")
        if name == "line":
            (venv.site_packages / "a0_nothing.pth").write_text("import os\n")
        if name == "hook":
            venv.install(wheel)
        for leftover in venv.site_packages.glob("_virtualenv.*"):
            leftover.unlink()
        counts[name] = instructions(venv, one_cpu)
    counts["hook at 1.5"] = instructions(venv, limited(1.5))
    print(
        f"instructions on 3.13: bare start {counts['bare']:,}; a .pth line that does nothing "
        f"+{counts['line'] - counts['bare']:,}"
    )
    for name in ("hook", "hook at 1.5"):
        cost = counts[name] - counts["line"]
        print(f"blasenv on top of that: {name} +{cost:,}, {cost / counts['bare']:.2%}")
        assert 0 < cost < MOST_OF_A_BARE_START * counts["bare"]


def test_many_mounts_and_nested_groups_cost_in_proportion(tmp_path: Path) -> None:
    """Ten times as many cost ten times as much, and not a hundred times; benchmarks/scale.py has the milliseconds."""
    if not shutil.which("valgrind"):
        pytest.skip("no valgrind on this machine")
    code = (
        "import gc, sys; gc.disable(); sys.path.insert(0, sys.argv[1]);"
        "import blasenv; print(len(list(blasenv.find_quota(sys.argv[2]))))"
    )

    def count(mounts: int, groups: int) -> int:
        root = tmp_path / f"{mounts}-{groups}"
        make_tree(root, mounts, groups)
        command = [*CALLGRIND, str(NEWEST_TESTED), "-S", "-c", code, str(ROOT), str(root)]
        result = run(command, environ=clean_environ(PYTHONHASHSEED="0"))
        assert result.stdout == f"{groups + 1}\n"
        return collected(result.stderr)

    count(1, 1)  # writes the byte code
    few = count(10, 5)
    thousand, ten_thousand = (count(mounts + 10, 5) - few for mounts in (1_000, 10_000))
    four, forty = (count(10, groups + 5) - few for groups in (4, 40))
    print(f"instructions: 1,000 mounts {thousand:,}, 10,000 {ten_thousand:,}; 4 groups {four:,}, 40 {forty:,}")
    assert ten_thousand < 12 * thousand
    assert forty < 12 * four
