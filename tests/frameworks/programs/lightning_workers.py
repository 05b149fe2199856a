# mypy: ignore-errors
"""Lightning Fabric's ddp strategy with two processes, which it starts itself."""

import json
import os
from pathlib import Path

from lightning.fabric import Fabric
from seen import seen

if __name__ == "__main__":
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    worker = seen()
    Path(os.environ["SEEN_IN"], str(worker["pid"])).write_text(json.dumps(worker))
