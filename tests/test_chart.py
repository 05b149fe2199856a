"""The README's chart and the 48-CPU page show what was measured: both are made anew and compared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import speedup
from speedup_work import PROGRAMS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SVG = "{http://www.w3.org/2000/svg}"


CHARTS = {"throttling.svg": "chart.py", "speedup.svg": "speedup_chart.py"}


@pytest.mark.parametrize(("name", "script"), CHARTS.items(), ids=CHARTS)
def test_the_chart_is_what_the_script_makes_of_the_measurements(name: str, script: str, tmp_path: Path) -> None:
    picture = tmp_path / name
    subprocess.run([sys.executable, ROOT / "benchmarks" / script, picture], check=True)
    assert picture.read_bytes() == (DOCS / name).read_bytes(), f"run benchmarks/{script}"


def test_the_page_is_what_the_script_makes_of_the_measurements() -> None:
    script = ROOT / "docker-tests" / "machine_report.py"
    done = subprocess.run([sys.executable, script, DOCS / "48-cpus.json"], check=True, capture_output=True)
    page = (DOCS / "48-cpus.md").read_bytes()
    assert done.stdout == page, "run docker-tests/machine_report.py docs/48-cpus.json >docs/48-cpus.md"


@pytest.mark.parametrize("name", CHARTS)
def test_the_chart_fits_a_page_and_stands_alone(name: str) -> None:
    picture = ElementTree.fromstring((DOCS / name).read_bytes())  # noqa: S314, our own file
    assert int(picture.attrib["width"]) <= 900
    assert picture.find(f"{SVG}title") is not None
    # GitHub shows it as an image: nothing from elsewhere is loaded.
    assert not [part for part in picture.iter() for name in part.attrib if name.endswith("href")]


def test_every_measurement_of_the_chart_is_there() -> None:
    machine = json.loads((DOCS / "48-cpus.json").read_text(encoding="utf-8"))
    rounds = [int(row["name"]) for row in machine if row["kind"] == "sweep"]
    assert {rounds.count(threads) for threads in (1, 2, 3, 4, 6, 8, 16, 24, 48)} == {3}


def test_every_program_was_measured_under_every_limit_alone_and_beside_a_neighbour() -> None:
    measured = json.loads((DOCS / "speedup.json").read_text(encoding="utf-8"))
    runs = {(row["program"], row["limit"], row["neighbour"]) for row in measured["rows"]}
    limits = {limit for limit in speedup.LIMITS if limit < measured["cpus"]}
    assert runs == {(name, limit, busy) for name in PROGRAMS for limit in limits for busy in (False, True)}
    assert {len(row[way]["seconds"]) for row in measured["rows"] for way in speedup.WAYS} == {measured["pairs"]}


def test_the_tables_of_the_page_are_what_the_script_makes_of_the_measurements() -> None:
    page = (DOCS / "speedup.md").read_text(encoding="utf-8")
    rows = json.loads((DOCS / "speedup.json").read_text(encoding="utf-8"))["rows"]
    assert speedup.render(page, rows) == page, "run benchmarks/speedup.py --page"
