"""Checks of what is installed: the hook, its files, its place among others, its configuration."""

from __future__ import annotations

import base64
import csv
import difflib
import hashlib
import os
import re
import stat
import sys

import blasenv
from blasenv._config_file import KEYS
from blasenv.machine.observe import disabled
from blasenv.output.report import RULES
from blasenv.output.text import printable
from blasenv.pythons import installed

from .checks import Context, Result, check

# Imported before the hook runs, these have already read the environment.
NUMERIC = ("numpy", "scipy", "torch", "numexpr", "numba", "mkl", "pyarrow", "sklearn", "pandas")
SLOW = 5.0  # milliseconds; the import takes about 0.4 with a .pyc file


@check
def hook(context: Context) -> Result:
    """Is the hook there, and did it run when this process started?"""
    directory = context.hook_directory
    decision = context.hook_decision
    ignored = installed.hook_ignored(directory, context.lib) if directory else ""
    if decision is not None:
        contents = installed.read_file(os.path.join(directory, installed.HOOK)) if directory and not ignored else None
        if contents is None:
            return Result("ok", f"ran, from {decision.by}")
        line = printable(contents.decode("utf-8", "replace").strip())
        return Result("ok", f"ran, from {directory}/{installed.HOOK}\n{line}\nsha256 {installed.digest(contents)}")
    if directory is not None and not context.here:
        contents = installed.read_file(os.path.join(directory, installed.HOOK)) or b""
        state = installed.hook_state(directory, context.lib)
        line = printable(contents.decode("utf-8", "replace").strip())
        if state.damage:
            return Result("problem", f"{directory}: {state.damage}", "pip install --force-reinstall blasenv, in there")
        if not ignored:
            return Result("ok", f"{directory}/{installed.HOOK}\n{line}\nsha256 {installed.digest(contents)}")
    if not context.here:
        if installed.sitecustomize_state(context.stdlib).works:
            return Result("ok", f"the copy beside the standard library, {context.stdlib}/{installed.SITE}")
        if ignored:
            return Result("problem", f"{directory}: {ignored}", f"RUN blasenv install {context.interpreter.path}")
        value = f"no {installed.HOOK} for {context.interpreter.path}"
        return Result("problem", value, "RUN pip install blasenv, in its Dockerfile")
    if disabled(os.environ):
        return Result("warning", "switched off by BLASENV_DISABLE", "Unset BLASENV_DISABLE to have it back.")
    if ignored:
        return Result("problem", f"{directory}: {ignored}", f"blasenv install {context.interpreter.path}")
    if directory is not None:
        value = f"{directory}/{installed.HOOK} is there, but did not run when this process started"
        if sys.flags.no_site:
            return Result("warning", f"{value}: python -S", "Start Python without -S.")
        return Result("problem", value, "See why: python -c pass, with BLASENV_DEBUG=1. Then install blasenv again.")
    advice = f"{os.path.basename(sys.executable)} -m pip install --force-reinstall blasenv"
    return Result("problem", f"no {installed.HOOK} in {', '.join(context.site_directories) or 'any directory'}", advice)


@check
def files(context: Context) -> Result:
    """Are the hook and the module as they were installed?"""
    directory = context.hook_directory
    copy = installed.sitecustomize_state(context.stdlib)
    if copy.damage:
        return Result("problem", copy.damage, f"blasenv install {context.interpreter.path}")
    if directory is None:
        return Result("ok", "the copy beside the standard library is intact") if copy.works else _nothing_installed()
    recorded = _recorded(directory)
    if recorded is None:
        return Result("skipped", "no RECORD tells what was installed (an editable install, or another tool's)")
    for name, digest in recorded.items():
        contents = installed.read_file(os.path.join(directory, name))
        if contents is None:
            return Result("problem", f"{directory}/{name} is missing", "pip install --force-reinstall blasenv")
        if base64.urlsafe_b64encode(hashlib.sha256(contents).digest()).rstrip(b"=").decode() != digest:
            value = f"{directory}/{name} is not the installed file"
            return Result("problem", value, "See who changed it; then pip install --force-reinstall blasenv")
    module = installed.read_file(os.path.join(directory, "blasenv", "__init__.py"))
    sha = f"\nblasenv/__init__.py: sha256 {installed.digest(module)}" if module is not None else ""
    return Result("ok", f"{len(recorded)} files are as in RECORD{sha}")


def _nothing_installed() -> Result:
    return Result("skipped", "nothing is installed in this interpreter")


def _recorded(directory: str) -> dict[str, str] | None:
    """The hash of each file of blasenv that has one in RECORD (PEP 376), None without a useful RECORD."""
    for entry in sorted(os.listdir(directory)):
        if re.fullmatch(r"blasenv-[^-]+\.dist-info", entry):
            contents = installed.read_file(os.path.join(directory, entry, "RECORD"))
            if contents is None:
                return None
            rows = csv.reader(contents.decode("utf-8", "replace").splitlines())
            hashes = {
                row[0]: row[1].partition("=")[2] for row in rows if len(row) == 3 and row[1].startswith("sha256=")
            }
            return hashes if "blasenv/__init__.py" in hashes else None
    return None


@check
def order(context: Context) -> Result:
    """Does anything import a numeric library before the hook has run?"""
    skipped = context.not_here("it takes a new process")
    if skipped:
        return skipped
    names = [name for name, _ in context.import_times]
    if "blasenv" not in names and "_blasenv_startup" not in names:
        return Result("skipped", "the hook did not run in a new process")
    ours = min(names.index(name) for name in ("blasenv", "_blasenv_startup") if name in names)
    early = [name for name in names[:ours] if name in NUMERIC]
    if not early:
        return Result("ok", "nothing numeric is imported before the hook")
    culprits = _early_hooks(context)
    who = f" by {culprits[0]}" if culprits else ""
    advice = "Rename that .pth file so that it sorts behind a0_blasenv.pth, or remove it."
    return Result("problem", f"{early[0]} is imported before the hook{who}", advice)


def _early_hooks(context: Context) -> list[str]:
    """The .pth files with code that run before ours: site sorts them by name within a directory."""
    found: list[str] = []
    for directory in context.site_directories:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".pth"))
        for name in names:
            if name == installed.HOOK:
                return found
            contents = installed.read_file(os.path.join(directory, name)) or b""
            if re.search(rb"^import[ \t]", contents, re.MULTILINE):
                found.append(os.path.join(directory, name))
    return found


@check
def compiled(context: Context) -> Result:
    """Does the start-up code have its .pyc file?"""
    directory = context.hook_directory
    if directory is None:
        state = installed.sitecustomize_state(context.stdlib)
    else:
        state = installed.hook_state(directory, context.lib)
    if not state.form:
        return _nothing_installed()
    if state.compiled:
        return Result("ok", "yes")
    where = os.path.join(directory, "blasenv") if directory else context.stdlib
    advice = f"python -m compileall -q {where}, in the Dockerfile; with uv: uv pip install --compile-bytecode"
    return Result("warning", "no: each start compiles it anew, which takes milliseconds", advice)


@check
def cost(context: Context) -> Result:
    """What does the hook's import cost a new process?"""
    skipped = context.not_here("it takes a new process")
    if skipped:
        return skipped
    times = dict(context.import_times)
    spent = times.get("blasenv", times.get("_blasenv_startup"))
    if spent is None:
        return Result("skipped", "the hook did not run in a new process")
    value = f"{spent:.1f} ms to import, by -X importtime; measure it well: blasenv bench --startup"
    if spent <= SLOW:
        return Result("ok", value)
    return Result("warning", value, "See the check named compiled; a busy machine and a cold disk cost the same.")


@check
def config(context: Context) -> Result:
    """Is the configuration understood, and safe from other users?"""
    found = context.observation.config
    notes = printable("; ".join(found.notes))
    ignored = Result("warning", notes, "Correct the variable, or unset it.") if notes else None
    if found.path is None:
        return ignored or Result("ok", f"no {blasenv.CONFIG_PATH}; the defaults apply")
    path = os.path.realpath(found.path) if context.here else found.path
    for place in (path, os.path.dirname(path)):
        try:
            mode = os.stat(place).st_mode
        except OSError:
            continue
        if mode & stat.S_IWOTH and not (mode & stat.S_ISVTX and place != path):
            return Result("problem", f"{place} can be written by every user", f"chmod o-w {place}")
    if found.problems:
        lines = "; ".join(f"line {number}: {problem}" if number else problem for number, problem in found.problems)
        return Result("problem", f"{found.path}: {printable(lines)}", _suggestion(lines) + "blasenv config check")
    return ignored or Result("ok", f"{found.path} is understood")


def _suggestion(lines: str) -> str:
    unknown = re.findall(r"unknown key '([^']*)'", lines)
    close = [difflib.get_close_matches(key, KEYS, 1) for key in unknown]
    return "".join(f"{key}: did you mean {match[0]}? " for key, match in zip(unknown, close) if match)


@check
def decision(context: Context) -> Result:
    """What does blasenv decide here?"""
    seen = context.observation.decision
    rule = f"{seen.rule}: {RULES[seen.rule]}"
    if seen.rule == "error":
        return Result("problem", printable("; ".join([rule, *seen.notes])), "Please report it with: blasenv explain")
    values = ", ".join(f"{name}={value}" for name, value in seen.set.items())
    return Result("ok", f"{values or 'sets nothing'} ({rule})")
