"""How much a user may submit, from recorded outputs."""

import pytest

from hpc.slurm.client import SlurmUnavailable
from hpc.slurm.limits import Limits, limits

SCONTROL = {
    "*show\\ config": "scontrol-config",
    "*show\\ partition": "scontrol-partitions",
    "*show\\ partition\\ low": "scontrol-partition",
    "*": "scontrol-no-partition",
}
SACCTMGR = {
    "*show\\ user\\ *": "sacctmgr-user",
    "*show\\ assoc\\ *": "sacctmgr-assoc",
    "*show\\ qos\\ *": "sacctmgr-qos",
}


@pytest.fixture
def cluster(slurm):
    return slurm(scontrol=SCONTROL, sacctmgr=SACCTMGR, squeue="squeue-mine")


def test_the_users_association_holds_for_the_default_partition(cluster):
    # The partition would allow an hour.
    assert limits(None, None, None) == Limits(1001, 400, 1800.0, queued=6)
    assert "qos" not in (cluster / "calls-sacctmgr").read_text()


def test_a_qos_that_allows_less_counts(cluster):
    assert limits("low", "root", "short") == Limits(1001, 30, 300.0, queued=6)
    asked = (cluster / "calls-sacctmgr").read_text()
    assert "show qos where name=short " in asked
    assert "account=root" in asked
    assert "show user" not in asked


@pytest.mark.parametrize("silent", ["sacctmgr-off", "sacct-down"])
def test_without_accounting_only_the_partition_limits(silent, slurm):
    slurm(scontrol=SCONTROL, sacctmgr=silent, squeue="squeue-mine")
    assert limits(None, None, None) == Limits(1001, None, 3600.0, queued=6)


def test_an_unknown_partition_is_an_error(cluster):
    with pytest.raises(SlurmUnavailable, match="ended with 1: Partition nope not found"):
        limits("nope", None, None)


def test_a_silent_controller_is_an_error(slurm):
    slurm(scontrol="squeue-down", sacctmgr=SACCTMGR)
    with pytest.raises(SlurmUnavailable, match="Unable to contact slurm controller"):
        limits(None, None, None)
