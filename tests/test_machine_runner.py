"""docker-tests/machine loses nothing when an emulated machine dies: a script stands for QEMU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from conftest import ROOT, run

# Measures one step of those that the kernel's command line asks for, and dies; with LAME it never measures any.
MACHINE = """
import json, os, sys
words = dict(word.partition("=")[::2] for word in sys.argv[-1].split())
with open(sys.argv[1], "a") as log:
    log.write(words["KINDS"] + "\\n")
print('RESULT {"kind": "machine", "image": "plain"}')
if "LAME" not in os.environ:
    kind, _, done = words["KINDS"].split(",")[0].partition(":")
    print("RESULT " + json.dumps({"kind": kind, "name": f"step {done}", "result": {}}))
"""
RUNNER = """
import importlib.machinery, importlib.util, json, pathlib, sys
folder, cache, python = sys.argv[1:]
sys.path.insert(0, folder)
loader = importlib.machinery.SourceFileLoader("machine", f"{folder}/machine")
machine = importlib.util.module_from_spec(importlib.util.spec_from_loader("machine", loader))
loader.exec_module(machine)
machine.CACHE, machine.QEMU = pathlib.Path(cache), (python, f"{cache}/qemu.py", f"{cache}/log")
results = []
try:
    machine.boot("kernel", "initramfs", "short", ["pids", "command"], results)
except RuntimeError as error:
    print(error)
print(json.dumps(results))
"""


def test_a_machine_that_dies_is_followed_by_one_that_goes_on(tmp_path: Path) -> None:
    (tmp_path / "qemu.py").write_text(MACHINE)
    command: list[str | Path] = [sys.executable, "-c", RUNNER, ROOT / "docker-tests", tmp_path, sys.executable]
    results = json.loads(run(command).stdout)
    asked = (tmp_path / "log").read_text().splitlines()
    assert asked[:3] == ["pids:0,command:0", "pids:1,command:0", "command:0"]
    measured = [(result["kind"], result["name"]) for result in results if result["kind"] != "machine"]
    assert measured[:3] == [("pids", "step 0"), ("pids", "step 1"), ("command", "step 0")]
    assert len(measured) == len(asked)
    assert len(results) == len(measured) + 1
    assert json.loads((tmp_path / "results-short.json").read_text()) == results


def test_three_machines_in_a_row_that_measure_nothing_are_enough(tmp_path: Path) -> None:
    (tmp_path / "qemu.py").write_text(MACHINE)
    command: list[str | Path] = [sys.executable, "-c", RUNNER, ROOT / "docker-tests", tmp_path, sys.executable]
    said = run(command, environ={"LAME": "1"}).stdout
    assert said.startswith("the machine never got to the end: pids:0 command:0; see --continue\n")
    assert len((tmp_path / "log").read_text().splitlines()) == 3
