"""Ray: ray_workers.py (task | actor) NUM_CPUS."""

import sys
import tempfile
from typing import Any

import ray
from seen import Worker, meet, show

if __name__ == "__main__":
    kind, cpus = sys.argv[1], int(sys.argv[2])
    count = 2 // cpus  # that fit at once
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)

    @ray.remote(num_cpus=cpus)
    class Actor:
        remote: Any  # what the decorator adds

        def meet(self, directory: str) -> Worker:
            return meet(directory, count)

    with tempfile.TemporaryDirectory() as directory:
        if kind == "task":
            task = ray.remote(num_cpus=cpus)(meet)
            show(ray.get([task.remote(directory, count) for _ in range(count)]))
        else:
            actors = [Actor.remote() for _ in range(count)]
            show(ray.get([actor.meet.remote(directory) for actor in actors]))
    ray.shutdown()
