"""Dask's LocalCluster with two worker processes."""

from dask.distributed import Client, LocalCluster
from seen import seen, show

if __name__ == "__main__":
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(2)
        show(client.run(seen).values())
