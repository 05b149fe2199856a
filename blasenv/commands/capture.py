"""The files that a decision was read from, written as a test case: a fake root and its expect.json."""

from __future__ import annotations

import json
import os
import platform
from typing import TYPE_CHECKING

import blasenv
from blasenv._host import parse_cpu_list
from blasenv.errors import Failure
from blasenv.machine.cgroup import is_level, quota_cpus
from blasenv.machine.observe import observe

if TYPE_CHECKING:
    from blasenv.machine.observe import Observation


def capture(directory: str, seen: Observation) -> list[str]:
    """Write the tree that ``seen`` came from to an empty or new ``directory``, and return the names written.

    Nothing else is copied, and a configuration that BLASENV_CONFIG names only if it is one.
    """
    try:
        os.makedirs(directory, exist_ok=True)
        if os.listdir(directory):
            raise Failure(f"{directory} is not empty; name a new directory")
        missing = _copy(directory, seen)
        # What blasenv says of the copy, with nothing in the environment, as a test will ask it.
        copy = observe(directory, len(seen.cpus), environ={})
        why = f"captured on Linux {platform.release()} with blasenv {blasenv.__version__}"
        expect = {
            "why": "; ".join([why, *missing]),
            "affinity": len(seen.cpus),
            "quota_cpus": quota_cpus(copy.limits),
            "rule": copy.decision.rule,
            "threads": copy.decision.threads,
        }
        with open(os.path.join(directory, "expect.json"), "w", encoding="utf-8") as file:
            file.write(json.dumps(expect, indent=2) + "\n")
    except OSError as error:
        raise Failure(f"{error.filename or directory}: {error.strerror}") from None
    return sorted(
        os.path.relpath(os.path.join(base, name), directory) for base, _, names in os.walk(directory) for name in names
    )


def _copy(directory: str, seen: Observation) -> list[str]:
    """Copy the files; return what could not be copied, and why."""
    prefix = seen.root.rstrip("/")
    missing = []
    wanted = [("/proc/self/cgroup", blasenv.MAX_FILE), ("/proc/self/mountinfo", blasenv.MAX_MOUNTINFO)]
    for limit in seen.limits:
        if is_level(limit):
            wanted.append((limit.path, blasenv.MAX_FILE))
            if limit.version == 1:
                wanted.append((os.path.join(os.path.dirname(limit.path), "cpu.cfs_period_us"), blasenv.MAX_FILE))
    for path, most in dict(wanted).items():
        contents, problem = blasenv.read_file(prefix + path, most)
        if not problem:
            _write(directory, path, contents)
        elif problem != blasenv.ABSENT:
            missing.append(f"{path}: {problem}")
    config = seen.config
    if config.path is not None:
        contents, problem = blasenv.read_file(config.path, blasenv.MAX_FILE)
        if problem or (config.problems and "BLASENV_CONFIG" in seen.environ):
            missing.append(f"{config.path}: {problem or 'not copied'}")
        else:
            _write(directory, blasenv.CONFIG_PATH, contents)
    for limit in seen.limits:
        if limit.controller == "smt":
            contents, problem = blasenv.read_file(prefix + limit.path, blasenv.MAX_FILE)
            if problem:
                missing.append(f"{limit.path}: {problem}")
            # The test will see the CPUs 0 to N-1, so number them anew.
            order = {cpu: number for number, cpu in enumerate(sorted(seen.cpus))}
            siblings = sorted(order[cpu] for cpu in parse_cpu_list(contents) if cpu in order)
            path = "/sys/devices/system/cpu/cpu0/topology/thread_siblings_list"
            _write(directory, path, (",".join(map(str, siblings)) + "\n").encode())
    return missing


def _write(directory: str, path: str, contents: bytes) -> None:
    target = directory + "/" + path.lstrip("/")
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "wb") as file:
        file.write(contents)
