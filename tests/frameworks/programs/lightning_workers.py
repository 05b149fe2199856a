"""Lightning Fabric's ddp strategy with two processes, which it starts itself."""

from lightning.fabric import Fabric
from seen import leave

if __name__ == "__main__":
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    leave()
