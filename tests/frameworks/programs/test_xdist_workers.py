# mypy: ignore-errors
"""A test suite for pytest-xdist: each test leaves what its worker sees in the directory SEEN_IN."""

import json
import os
from pathlib import Path

import pytest
from seen import seen


@pytest.mark.parametrize("number", range(4))
def test_seen(number):
    worker = seen()
    Path(os.environ["SEEN_IN"], str(worker["pid"])).write_text(json.dumps(worker))
