"""What a check is, the list of them, and what they look at together."""

from __future__ import annotations

import importlib.util
import os
import re
import site
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import blasenv
from blasenv.errors import Failure
from blasenv.machine.cgroup import cpus_of, tightest_quota
from blasenv.machine.libraries import Library, recognise_all
from blasenv.machine.observe import Observation, observe
from blasenv.pythons import installed
from blasenv.pythons.interpreter import Interpreter, executables, identify

STATES = ("ok", "skipped", "warning", "problem")
SEARCH = ("/usr/local/bin", "/usr/bin", "/bin")  # the PATH of an image that says nothing, sbin aside


@dataclass(frozen=True)
class Result:
    """What one check found."""

    state: str
    """ok, warning, problem, or skipped when there was nothing to check."""
    value: str
    """What was found, in words; may be several lines."""
    advice: str = ""
    """What to do; never empty for a warning or a problem."""


class Context:
    """What is checked: this interpreter, or the one of an image that lies unpacked under a directory.

    Everything is looked at once, when the first check asks for it.
    """

    def __init__(self, root: str = "/") -> None:
        self.root = os.path.realpath(root)
        """The directory read in the place of /."""
        self.here = self.root == "/"
        """Whether it is the interpreter that runs this, which can be asked by starting it."""

    def real(self, path: str) -> str:
        """Where a path of the image can be opened from here."""
        return path if self.here else self.root + path

    @cached_property
    def observation(self) -> Observation:
        """Limits, configuration and decision. An image's files don't hold its environment."""
        return observe() if self.here else observe(self.root, environ={})

    @cached_property
    def interpreter(self) -> Interpreter:
        """The image's own Python. Raises `Failure` when there is none."""
        directories = [place for place in os.environ.get("PATH", "").split(":") if place] if self.here else SEARCH
        paths = [sys.executable] if self.here else []
        for directory in directories:
            paths += [path for path in (f"{directory}/python3", f"{directory}/python") if path not in paths]
            paths += executables(self.root, directory)
        for path in paths:
            found = identify(path, self.root)
            if found is not None:
                return found
        raise Failure(f"no Python in {', '.join(SEARCH)} below {self.root}; to find others: blasenv scan --root DIR")

    @cached_property
    def stdlib(self) -> str:
        """The directory of the standard library, as it can be opened from here."""
        return os.path.dirname(os.__file__) if self.here else self.real(self.interpreter.stdlib)

    @property
    def lib(self) -> str:
        """The name of that directory, such as python3.11."""
        return os.path.basename(self.stdlib)

    @cached_property
    def site_directories(self) -> list[str]:
        """Where this interpreter reads .pth files, as they can be opened from here."""
        if not self.here:
            return [self.real(place) for place in self.interpreter.site_packages]
        user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
        return [directory for directory in [*site.getsitepackages(), *user] if os.path.isdir(directory)]

    @cached_property
    def hook_directory(self) -> str | None:
        """The first of them that has our hook."""
        places = self.site_directories
        found = [directory for directory in places if os.path.exists(os.path.join(directory, installed.HOOK))]
        return found[0] if found else None

    @property
    def hook_decision(self) -> blasenv.Decision | None:
        """What the hook decided when this process started, None when it did not run."""
        return self.observation.hook if self.here else None

    @cached_property
    def import_times(self) -> list[tuple[str, float]]:
        """The modules that a new process of this interpreter imports as it starts, with milliseconds each.

        -X importtime writes ``import time: self [us] | cumulative | imported package``, deepest first.
        """
        command = [sys.executable, "-X", "importtime", "-c", "pass"]
        result = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        found = re.findall(r"^import time: +\d+ \| +(\d+) \| +(\S+)$", result.stderr, re.MULTILINE)
        return [(name, int(microseconds) / 1000) for microseconds, name in found]

    @cached_property
    def library_directories(self) -> list[str]:
        """Where packages keep native libraries."""
        # conda keeps them in its own lib directory, beside python3.X.
        prefix = sys.prefix if self.here else os.path.dirname(os.path.dirname(self.stdlib))
        if os.path.isdir(os.path.join(prefix, "conda-meta")):
            return [os.path.join(prefix, "lib")]
        return self.site_directories

    @cached_property
    def libraries(self) -> list[Library]:
        """The BLAS and OpenMP libraries that packages bring."""
        return installed_libraries(self.library_directories)

    def package(self, library: Library) -> str:
        """Which package brought a library."""
        for directory in self.library_directories:
            if library.path.startswith(directory + os.sep):
                return library.path[len(directory) + 1 :].partition(os.sep)[0]
        return library.path

    def has(self, name: str) -> bool:
        """Whether a package can be imported; in an image, as far as its files tell."""
        if self.here:
            return importlib.util.find_spec(name) is not None
        places = [f"{directory}/{name}" for directory in self.site_directories]
        return any(os.path.isfile(f"{place}/__init__.py") or os.path.isfile(f"{place}.py") for place in places)

    @property
    def cpus(self) -> float:
        """CPUs that can be used: the quota, or the affinity where that is less."""
        level = tightest_quota(self.observation.limits)
        visible = float(self.observation.affinity)
        quota = cpus_of(level) if level is not None else None
        return min(visible, quota) if quota else visible

    def not_here(self, what: str) -> Result | None:
        """Why a check that has to run the interpreter is skipped, None when it need not be."""
        return None if self.here else Result("skipped", f"{what}, and nothing of {self.root} is run")


def installed_libraries(directories: Sequence[str]) -> list[Library]:
    """The BLAS and OpenMP libraries below directories of packages, found by their files alone."""
    paths = {}
    for directory in directories:
        for parent, _, names in os.walk(directory):
            for name in names:
                if name.startswith("lib") and ".so" in name:
                    path = os.path.join(parent, name)
                    paths[os.path.realpath(path)] = path  # libgomp.so.1 and libgomp.so.1.0.0 are one
    return recognise_all(sorted(paths.values()))


Check = Callable[[Context], Result]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Register a check under its function's name; its docstring's first line says what it looks at."""
    CHECKS[function.__name__.replace("_", "-")] = function
    return function


def summary(function: Check) -> str:
    """The first line of a check's docstring."""
    return (function.__doc__ or "").partition("\n")[0]
