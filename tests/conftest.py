"""What the tests stand on: real interpreters, real virtual environments, real CPU limits.

Nothing of the machine is assumed. What is not there makes a test skip and say why; in CI, a
skip whose reason is not in `ALLOWED_SKIPS` is a failure.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cgroup
import pytest

# Whoever starts the tests in the background ignores it, and what the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
PROBE = ROOT / "tests" / "support" / "probe.py"
TIMEOUT = 120  # seconds, for a command that hangs; nothing is measured with it

VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15")

# Skips that CI accepts, each because of what the machine is, not because of what blasenv does.
ALLOWED_SKIPS = (
    r"no CPython 3\.\d+ on this machine",  # docker-tests cover the versions that a CI machine lacks
    r"no atheris for this Python",
    r"no libpython of CPython 3\.\d+ to link with",  # distributions ship it apart from the interpreter
)


def clean_environ(**changes: str) -> dict[str, str]:
    """The environment of a person who set nothing: no thread counts, nothing that steers Python or blasenv."""
    steers = re.compile(r"PYTHON|BLASENV_|VIRTUAL_ENV|UV_PYTHON|OPENBLAS_|.*_THREADS$|.*LOCAL_(WORLD_)?SIZE|SLURM_")
    return {**{name: value for name, value in os.environ.items() if not steers.match(name)}, **changes}


def run(
    command: Sequence[str | Path],
    environ: Mapping[str, str] | None = None,
    status: int | None = 0,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run a command in a clean environment, its output captured, and demand its exit status (None: any)."""
    result = subprocess.run(
        [str(word) for word in command],
        env=clean_environ() if environ is None else environ,
        check=False,
        text=True,
        timeout=TIMEOUT,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )
    if status is not None:
        assert result.returncode == status, (
            f"{command}: exit status {result.returncode}\n{result.stdout}{result.stderr}"
        )
    return result


def _find_pythons() -> dict[str, Path]:
    """Every CPython of this machine, by version: on PATH, or installed by pyenv or uv."""
    candidates = [Path(sys.executable).resolve()]
    for version in VERSIONS:
        candidates += [Path(path) for path in [shutil.which(f"python{version}")] if path]
    if shutil.which("pyenv"):
        root = Path(run(["pyenv", "root"]).stdout.strip())
        candidates += [path for version in VERSIONS for path in root.glob(f"versions/{version}.*/bin/python{version}")]
    if uv := find_uv():
        installed = json.loads(run([uv, "python", "list", "--only-installed", "--output-format=json"]).stdout)
        candidates += [Path(python["path"]) for python in installed if python["implementation"] == "cpython"]
    code = "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2], sys.abiflags, sep='|')"
    pythons: dict[str, Path] = {}
    for candidate in candidates:
        try:
            result = run([candidate, "-I", "-S", "-c", code], status=None)
        except OSError:
            continue
        name, _, rest = result.stdout.strip().partition("|")
        version, _, flags = rest.partition("|")
        if name == "cpython" and version in VERSIONS and not flags:
            pythons.setdefault(version, candidate)
    return pythons


def find_uv() -> str | None:
    beside = Path(sys.prefix, "bin", "uv")
    return str(beside) if beside.exists() else shutil.which("uv")


PYTHONS = _find_pythons()
NEWEST_TESTED = PYTHONS.get("3.13") or PYTHONS[max(PYTHONS, key=lambda version: int(version[2:]))]


@dataclass(frozen=True)
class Venv:
    """A virtual environment."""

    directory: Path
    version: str

    @property
    def python(self) -> Path:
        return self.directory / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        return self.directory / "lib" / f"python{self.version}" / "site-packages"

    def files(self) -> set[str]:
        """Every file in it, by its path from the top, but for byte code that Python itself made, and uv's lock."""
        paths = (path for path in self.directory.rglob("*") if path.is_file() or path.is_symlink())
        names = {str(path.relative_to(self.directory)) for path in paths if "__pycache__" not in path.parts}
        return names - {".lock"}

    def install(self, *what: str | Path, uv: bool = True) -> None:
        """Install with uv, or with this environment's own pip."""
        if uv and (path := find_uv()):
            run([path, "pip", "install", "--quiet", "--python", self.python, *what])
        else:
            run([self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what])

    def uninstall(self, name: str, *, uv: bool = True) -> None:
        if uv and (path := find_uv()):
            run([path, "pip", "uninstall", "--quiet", "--python", self.python, name])
        else:
            run([self.python, "-m", "pip", "uninstall", "--quiet", "--yes", name])


def make_venv(directory: Path, version: str, *, pip: bool = False) -> Venv:
    """A new virtual environment of the CPython ``version``, made by its own venv module."""
    if version not in PYTHONS:
        pytest.skip(f"no CPython {version} on this machine")
    run([PYTHONS[version], "-m", "venv", *([] if pip or not find_uv() else ["--without-pip"]), directory])
    return Venv(directory, version)


def copy_checkout(target: Path) -> Path:
    """The files of the checkout that make the package, so that building leaves nothing behind in it."""
    target.mkdir(parents=True)
    leave_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("blasenv", "sitecustomize_template"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=leave_out)
    about = ("CHANGELOG.md", "LICENSE", "README.md")
    for name in (*about, "MANIFEST.in", "build-constraints.txt", "build_hook.py", "pyproject.toml", "setup.cfg"):
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, target / name)
    return target


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's sources, apart from the checkout."""
    return copy_checkout(tmp_path_factory.mktemp("source") / "blasenv")


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """blasenv's wheel, built from this checkout."""
    base = tmp_path_factory.mktemp("wheel")
    copy = shutil.copytree(source, base / "source")
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", base, copy])
    (built,) = base.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def venv_of(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Callable[[str], Venv]:
    """The virtual environment of a CPython version in which blasenv is installed."""
    made: dict[str, Venv] = {}

    def venv(version: str) -> Venv:
        if version not in made:
            new = make_venv(tmp_path_factory.mktemp("venv") / version, version)
            new.install(wheel)
            made[version] = new
        return made[version]

    return venv


@pytest.fixture(scope="session")
def bare_venv_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Venv]:
    """The virtual environment of a CPython version with a hook that does nothing in the place of blasenv's."""
    made: dict[str, Venv] = {}

    def venv(version: str) -> Venv:
        if version not in made:
            new = make_venv(tmp_path_factory.mktemp("bare") / version, version)
            (new.site_packages / "a0_nothing.pth").write_text("import os\n")
            made[version] = new
        return made[version]

    return venv


@pytest.fixture(params=[version for version in VERSIONS if version in PYTHONS])
def version(request: pytest.FixtureRequest) -> str:
    """Each CPython version of this machine in turn."""
    return str(request.param)


@pytest.fixture
def venv(version: str, venv_of: Callable[[str], Venv]) -> Venv:
    """blasenv installed, for each CPython version in turn."""
    return venv_of(version)


@pytest.fixture
def bare_venv(version: str, bare_venv_of: Callable[[str], Venv]) -> Venv:
    """The same without blasenv."""
    return bare_venv_of(version)


@pytest.fixture(scope="session")
def one_venv(venv_of: Callable[[str], Venv]) -> Venv:
    """blasenv installed, for one CPython version, where the version makes no difference."""
    return venv_of(next(version for version, path in PYTHONS.items() if path == NEWEST_TESTED))


@pytest.fixture(scope="session")
def one_bare_venv(bare_venv_of: Callable[[str], Venv], one_venv: Venv) -> Venv:
    """The same without blasenv."""
    return bare_venv_of(one_venv.version)


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A copy of the package that every user can read, wherever this checkout is."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        shutil.copytree(ROOT / "blasenv", Path(name, "blasenv"), ignore=shutil.ignore_patterns("__pycache__"))
        yield Path(name)


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Path]:
    """Makes the root of a container with a cgroup v2 limit of so many CPUs (None: none), and a configuration."""

    def make(cpus: float | None, config: str = "") -> Path:
        group = tmp_path / "sys/fs/cgroup"
        group.mkdir(parents=True)
        (group / "cpu.max").write_text(f"{'max' if cpus is None else round(cpus * 100_000)} 100000\n")
        process = tmp_path / "proc/self"
        process.mkdir(parents=True)
        (process / "cgroup").write_text("0::/\n")
        (process / "mountinfo").write_text("30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n")
        if config:
            (tmp_path / "etc").mkdir()
            (tmp_path / "etc/blasenv.toml").write_text(config)
        return tmp_path

    return make


class Cgroup(cgroup.Cgroup):
    """A control group to run commands in."""

    def run(self, command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        """`run` a command inside."""
        return run(self.enter(command), **options)


@contextlib.contextmanager
def make_cgroup(cpus: float) -> Iterator[Cgroup]:
    """A real control group with a limit of ``cpus``. Skips where none can be made."""
    with contextlib.ExitStack() as stack:
        try:
            group = stack.enter_context(cgroup.make_cgroup(cpus))
        except cgroup.NoCgroupError as error:
            pytest.skip(str(error))
        yield Cgroup(group.directory)


@contextlib.contextmanager
def pids_cgroup(most: int) -> Iterator[Cgroup]:
    """A real control group in which there may be ``most`` threads. Skips where none can be made."""
    with contextlib.ExitStack() as stack:
        try:
            group = stack.enter_context(cgroup.make_pids_cgroup(most))
        except cgroup.NoCgroupError as error:
            pytest.skip(str(error))
        yield Cgroup(group.directory)


@pytest.fixture
def limited() -> Iterator[Callable[[float], Cgroup]]:
    """Makes control groups with a real limit of so many CPUs, which must be fewer than this machine has."""
    with contextlib.ExitStack() as stack:

        def make(cpus: float) -> Cgroup:
            if len(os.sched_getaffinity(0)) <= cpus:
                pytest.skip(f"{cpus} CPUs are no limit on a machine with {len(os.sched_getaffinity(0))}")
            return stack.enter_context(make_cgroup(cpus))

        yield make


@pytest.fixture(scope="module")
def group() -> Iterator[Cgroup]:
    """A control group with a limit that stands for one thread, and less slow to test frameworks in than one CPU."""
    with make_cgroup(1.5) as made:
        yield made


@pytest.fixture(scope="session")
def one_cpu() -> Iterator[Cgroup]:
    """A control group with a real limit of one CPU, on a machine with more."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU is no limit on a machine with one CPU")
    with make_cgroup(1) as group:
        yield group


def pytest_report_header() -> str:
    """What the tests found, and what they must do without."""
    missing = [version for version in VERSIONS if version not in PYTHONS]
    found = ", ".join(version for version in VERSIONS if version in PYTHONS)
    return f"CPython: {found}; not on this machine, so not tried: {', '.join(missing) or 'none'}"


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return str(reason).removeprefix("Skipped: ")


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Say once more what was not tried; in CI, name the skips that have no business there."""
    del exitstatus, config
    terminalreporter.write_line(pytest_report_header())
    for report in _unexpected_skips(terminalreporter):
        terminalreporter.write_line(f"{report.nodeid}: skipped in CI: {skip_reason(report)}", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI, a skip that `ALLOWED_SKIPS` does not list is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and session.exitstatus == pytest.ExitCode.OK and _unexpected_skips(reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _unexpected_skips(reporter: Any) -> list[Any]:
    if os.environ.get("CI") not in ("1", "true"):
        return []
    skipped = [report for report in reporter.stats.get("skipped", []) if not hasattr(report, "wasxfail")]
    return [
        report for report in skipped if not any(re.match(allowed, skip_reason(report)) for allowed in ALLOWED_SKIPS)
    ]
