# mypy: ignore-errors
"""Ray: ray_workers.py (task | actor) NUM_CPUS."""

import sys

import ray
from seen import seen, show

if __name__ == "__main__":
    kind, cpus = sys.argv[1], float(sys.argv[2])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)

    @ray.remote(num_cpus=cpus)
    class Actor:
        def see(self):
            return seen()

    if kind == "task":
        task = ray.remote(num_cpus=cpus)(seen)
        show(ray.get([task.remote() for _ in range(2)]))
    else:
        show([ray.get(Actor.remote().see.remote())])
    ray.shutdown()
