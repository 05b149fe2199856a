"""Ask the workers that `dask worker` started: dask_client.py SCHEDULER_FILE WORKERS. Ends the cluster."""

import sys

from dask.distributed import Client
from seen import seen, show

if __name__ == "__main__":
    with Client(scheduler_file=sys.argv[1], timeout=60) as client:
        client.wait_for_workers(int(sys.argv[2]), timeout=60)
        show(client.run(seen).values())
        client.shutdown()
