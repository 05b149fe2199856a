"""``blasenv install`` and ``uninstall``, killed at every file operation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import NEWEST_TESTED, PYTHONS, ROOT, clean_environ, run
from prefix import make_prefix


@pytest.mark.parametrize("hidden", [True, False])
def test_a_kill_at_any_step_leaves_nothing_broken(hidden: bool, tmp_path: Path) -> None:
    version = next(version for version, path in PYTHONS.items() if path == NEWEST_TESTED)
    prefix = make_prefix(tmp_path / "prefix", version)
    venv = prefix.venv(tmp_path / "venv")
    if hidden:
        # A link, as Debian's, and with a .pyc of its own.
        (tmp_path / "conffile").write_text("import sys\nsys.hidden_ran = True\n")
        (prefix.stdlib / "sitecustomize.py").symlink_to(tmp_path / "conffile")
        run([prefix.python, "-c", "pass"])
        assert list(prefix.stdlib.glob("__pycache__/sitecustomize.*.pyc"))
    (tmp_path / "spare").mkdir()
    driver = ROOT / "tests" / "support" / "killed.py"
    done = run(
        [sys.executable, driver, prefix.stdlib, prefix.python, venv.python, tmp_path / "spare"],
        environ=clean_environ(PYTHONPATH=str(ROOT)),
    )
    (kills, states), (kills_back, states_back) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert kills > states > 12
    assert kills_back > states_back > 7
