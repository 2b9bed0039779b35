"""The development cluster itself: that it shows what real clusters do."""

from hpc.slurm.dev_cluster import DevCluster


def test_every_node_is_idle(cluster: DevCluster) -> None:
    assert set(cluster.command("sinfo", "-h", "-o", "%t").split()) == {"idle"}
    assert len(cluster.command("sinfo", "-h", "-N", "-p", "main").splitlines()) == cluster.nodes
