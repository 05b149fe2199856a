"""The README's chart and the 48-CPU page show what was measured: both are made anew and compared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SVG = "{http://www.w3.org/2000/svg}"


def test_the_chart_is_what_the_script_makes_of_the_measurements(tmp_path: Path) -> None:
    picture = tmp_path / "throttling.svg"
    subprocess.run([sys.executable, ROOT / "benchmarks" / "chart.py", picture], check=True)
    assert picture.read_bytes() == (DOCS / "throttling.svg").read_bytes(), "run benchmarks/chart.py"


def test_the_page_is_what_the_script_makes_of_the_measurements() -> None:
    script = ROOT / "docker-tests" / "machine_report.py"
    done = subprocess.run([sys.executable, script, DOCS / "48-cpus.json"], check=True, capture_output=True)
    page = (DOCS / "48-cpus.md").read_bytes()
    assert done.stdout == page, "run docker-tests/machine_report.py docs/48-cpus.json >docs/48-cpus.md"


def test_the_chart_fits_a_page_and_stands_alone() -> None:
    picture = ElementTree.fromstring((DOCS / "throttling.svg").read_bytes())  # noqa: S314, our own file
    assert int(picture.attrib["width"]) <= 900
    assert picture.find(f"{SVG}title") is not None
    # GitHub shows it as an image: nothing from elsewhere is loaded.
    assert not [part for part in picture.iter() for name in part.attrib if name.endswith("href")]


def test_every_measurement_of_the_chart_is_there() -> None:
    machine = json.loads((DOCS / "48-cpus.json").read_text(encoding="utf-8"))
    rounds = [int(row["name"]) for row in machine if row["kind"] == "sweep"]
    assert {rounds.count(threads) for threads in (1, 2, 3, 4, 6, 8, 16, 24, 48)} == {3}
