"""What the hook costs each start: files, modules, instructions. No times, which are the machine's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import cost_page
import pytest
from conftest import NEWEST_TESTED, PYTHONS, ROOT, Cgroup, Venv, clean_environ, make_venv, run
from instructions import BARE, CALLGRIND, SITUATIONS, Bench, collected
from scale import make_tree

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


@pytest.fixture(scope="module")
def bench(wheel: Path, one_cpu: Cgroup, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Counts instructions on 3.13, of what the wheel installs."""
    for program in ("valgrind", "cc"):
        if not shutil.which(program):
            pytest.skip(f"no {program} on this machine")
    if "3.13" not in PYTHONS:
        pytest.skip("no CPython 3.13 on this machine")
    directory = tmp_path_factory.mktemp("bench")
    return Bench(PYTHONS["3.13"], directory, lambda packages: shutil.unpack_archive(wheel, packages, "zip"))


@pytest.mark.parametrize("name", [name for name, situation in SITUATIONS.items() if situation.most])
def test_instructions(name: str, bench: Bench) -> None:
    """What a start costs in a situation, in parts of a start without any .pth file; docs/cost.md has the figures."""
    situation, bare = SITUATIONS[name], bench.count(BARE)
    counted, without = bench.measure(situation)
    cost = counted - without
    print(f"{situation.label}: +{cost:,} instructions, {cost / bare:.2%} of {bare:,}")
    assert 0 < cost < situation.most * bare


def test_the_page_has_the_figures_that_were_measured() -> None:
    page, document = cost_page.PAGE.read_text("utf-8"), json.loads(cost_page.RESULT.read_text("utf-8"))
    assert set(document) == set(cost_page.SECTIONS)
    assert cost_page.render(page, document) == page, "run benchmarks/cost_page.py"


def test_the_readme_has_the_figures_that_were_measured() -> None:
    pythons = json.loads(cost_page.RESULT.read_text("utf-8"))["instructions"]["pythons"]
    (counted,) = [counted for version, counted in pythons.items() if version.startswith("3.13.")]
    share = (counted["half"][0] - counted["half"][1]) / counted["bare"][0]
    words = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert f"about {share:.0%} of a bare start".replace("%", " %") in words


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
