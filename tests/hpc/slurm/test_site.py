"""Partitions, permissions and drafts, read from what a cluster of several kinds of nodes printed.

Partition `cpu` is the default, one of its two nodes drained; `gpu` has two types of GPUs and admits
account `vision` only; `scavenge` is preemptible; `closed` is down. `root` is the default account.
"""

import pytest

from hpc.config.profile import StageProfile, load_profile
from hpc.doctor.cluster_checks import Cluster, check_stage
from hpc.doctor.draft import draft_profile
from hpc.doctor.findings import Level
from hpc.slurm.client import SlurmUnavailable
from hpc.slurm.cluster_info import associations, configuration, default_account, partitions
from hpc.slurm.limits import Limits

SACCTMGR = {"*associations*": "site-associations", "*show\\ user*": "site-account"}
SCONTROL = {"*config": "site-config", "*partition": "site-partitions"}
SBATCH = {"*--partition=gpu\\ --account=vision*": "site-sbatch-accepts"} | {
    "*--partition=gpu*": "site-sbatch-refuses",
    "*": "site-sbatch-accepts",
}


@pytest.fixture
def site(slurm):
    return slurm(sinfo="site-sinfo", scontrol=SCONTROL, sacctmgr=SACCTMGR, sbatch=SBATCH)


@pytest.fixture
def cluster(site):
    def limits(partition, account, qos):
        return Limits(1001, 1 if qos == "long" else 400, 3600.0 * 8, queued=6)

    return Cluster(partitions(), associations(), default_account(), True, limits)


def test_partitions_with_their_limits_and_nodes(site):
    found = partitions()
    assert list(found) == ["cpu", "gpu", "scavenge", "closed"]
    cpu, gpu, scavenge, closed = found.values()
    assert (cpu.default, cpu.up, cpu.preemptible, cpu.max_time_s) == (True, True, False, 86400)
    assert (gpu.default, gpu.max_nodes, gpu.max_memory_mb, gpu.max_time_s) == (
        False,
        1,
        48000,
        28800,
    )
    assert (scavenge.preemptible, scavenge.max_time_s, scavenge.max_nodes) == (True, None, None)
    assert not closed.up
    assert [(n.name, n.usable, n.memory_mb, n.cpus) for n in cpu.nodes] == [
        ("n1", True, 16000, 8),
        ("n2", False, 24000, 8),
    ]
    assert gpu.gpu_types == ["a100", "v100"]
    assert [(n.name, n.gpus, n.features) for n in scavenge.gpu_nodes] == [
        ("n3", 2, {"a100"}),
        ("n4", 2, {"v100"}),
    ]
    assert gpu.admits("Accounts", "vision")
    assert not gpu.admits("Accounts", "root")
    assert gpu.admits("Qos", "long")
    assert configuration()["AccountingStorageEnforce"] == "associations,limits,qos"


GOOD = {"partition": "gpu", "account": "vision", "timeout_minutes": 60}


@pytest.mark.parametrize(
    ("keys", "check", "sentence"),
    [
        (
            {"partition": "gpus"},
            "partition",
            'partition = "gpus": the cluster has no such partition',
        ),
        ({"partition": "closed"}, "partition", "partition closed is DOWN"),
        ({"account": "root"}, "account", "partition gpu does not admit account root"),
        ({"account": None}, "account", "partition gpu does not admit account root"),
        ({"account": "vison"}, "account", 'account = "vison" is not one of yours (root, vision)'),
        ({"qos": "short"}, "qos", 'qos = "short": account vision has long, normal'),
        ({"qos": "long"}, "limits", "only 1 of your jobs may be in the queue"),
        ({"memory_gb": 50}, "memory", "memory_gb = 50: partition gpu gives 46.88 a node"),
        ({"nodes": 2}, "nodes", "nodes = 2: partition gpu gives a job 1"),
        ({"gpus_per_node": 3}, "gpus", "gpus_per_node = 3: partition gpu has 2 a node"),
        ({"threads": 17}, "processors", "17 processors a node: partition gpu has 16"),
        (
            {"timeout_minutes": 481},
            "time",
            "timeout_minutes = 481: partition gpu with your account and QOS allows 480",
        ),
    ],
)
def test_what_does_not_fit_is_one_failure_with_a_remedy(cluster, keys, check, sentence):
    found = check_stage(StageProfile(**GOOD | keys), cluster)
    (failed,) = [finding for finding in found if finding.level is Level.FAILURE]
    assert (failed.check, failed.sentence) == (check, sentence)
    assert failed.remedy


def test_what_fits_is_put_to_sbatch(cluster):
    found = check_stage(StageProfile(**GOOD, gpus_per_node=2, constraint="a100"), cluster)
    assert {finding.level for finding in found} == {Level.OK}
    assert found[-1].check == "sbatch"


def test_several_types_of_gpus_are_a_warning_unless_one_is_chosen(cluster):
    found = check_stage(StageProfile(**GOOD, gpus_per_node=1), cluster)
    (warned,) = [finding for finding in found if finding.level is Level.WARNING]
    assert "several types (a100, v100)" in warned.sentence


def test_an_account_that_nobody_checks_is_a_warning(cluster):
    lax = Cluster(cluster.partitions, cluster.associations, "root", False, cluster.limits)
    found = check_stage(StageProfile(account="vison", timeout_minutes=60), lax)
    (warned,) = [finding for finding in found if finding.level is not Level.OK]
    assert (warned.check, warned.level) == ("account", Level.WARNING)


@pytest.mark.parametrize("accounting", [True, False])
def test_a_draft_asks_for_what_the_nodes_have_and_sbatch_accepts(slurm, tmp_path, accounting):
    sbatch = SBATCH if accounting else {"*": "site-sbatch-accepts"}
    sacctmgr = SACCTMGR if accounting else {"*": "sacctmgr-off"}
    slurm(sinfo="site-sinfo", scontrol=SCONTROL, sacctmgr=sacctmgr, sbatch=sbatch)
    path = tmp_path / "draft.toml"
    path.write_text(draft_profile())
    drafted = load_profile(str(path))
    extract, encode = drafted.stage("extract"), drafted.stage("encode")
    assert (extract.partition, encode.partition) == ("gpu", "cpu")
    assert (extract.account, encode.account) == (("vision", "root") if accounting else (None, None))
    # 0.9 of the smallest node of each; at most 0.9 of the largest, or of MaxMemPerNode.
    assert (extract.memory_gb, extract.max_memory_gb) == (28.1, 42.1)
    assert (encode.memory_gb, encode.max_memory_gb) == (14.0, 21.0)
    assert (extract.timeout_minutes, encode.dask_workers) == (240, 8)
    assert "one type of GPU gives equal bytes: a100, v100" in path.read_text()


def test_no_draft_where_sbatch_accepts_nothing(slurm):
    slurm(sinfo="site-sinfo", scontrol=SCONTROL, sacctmgr=SACCTMGR, sbatch="site-sbatch-refuses")
    with pytest.raises(SlurmUnavailable, match="Invalid account or account/partition combination"):
        draft_profile()
