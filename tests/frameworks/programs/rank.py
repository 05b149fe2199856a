# mypy: ignore-errors
"""One rank of a job: leaves what it sees, and its affinity, in the directory SEEN_IN."""

import json
import os
import sys
from pathlib import Path

from seen import seen

worker = {**seen(), "affinity": len(os.sched_getaffinity(0))}
decision = getattr(sys, "_blasenv", None)
worker["rule"] = decision and decision.rule
Path(os.environ["SEEN_IN"], str(worker["pid"])).write_text(json.dumps(worker))
