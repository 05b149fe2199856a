"""A short run of the fuzzer, to find what is easy to find; SECURITY.md records the long ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import ROOT, clean_environ, run


def test_a_short_run_finds_nothing(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="no atheris for this Python")
    done = run(
        [sys.executable, ROOT / "tests" / "support" / "fuzz.py", "-runs=15000"], environ=clean_environ(), cwd=tmp_path
    )
    assert "Done 15000 runs" in done.stderr
