"""A Ray cluster of two nodes on this machine, of one processor each."""

import os
from contextlib import contextmanager

import pytest

NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}


@contextmanager
def two_nodes():
    """Yields the cluster, which this process has joined; skips where ray is not installed."""
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'unmergeable[ray]'")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(**{n: v for n, v in NODE.items() if n != "include_dashboard"})
    ray.init(cluster.address, log_to_driver=False, configure_logging=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def lose_one(cluster):
    """Takes the last node away, whatever it is doing."""
    cluster.remove_node(cluster.list_all_nodes()[-1])
