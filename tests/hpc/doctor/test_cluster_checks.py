"""The doctor on a login node, with what clusters of several kinds print."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc.config.profile import Profile, StageProfile
from hpc.doctor.cluster_checks import check_cluster, merged
from hpc.doctor.doctor import diagnose
from hpc.doctor.findings import Finding, Level, failure, ok, warning
from hpc.doctor.folder_checks import check_folder, check_space
from hpc.slurm.sbatch import SETUP_FAILED, sbatch_options, setup_lines

SACCTMGR = {
    "*associations*": "site-associations",
    "*show\\ assoc\\ *": "sacctmgr-assoc",
    "*DefaultAccount": "site-account",
    "*show\\ qos\\ *": "sacctmgr-qos",
}
SCONTROL = {
    "*config": "site-config",
    "*partition": "site-partitions",
    "*partition\\ *": "site-partitions",
}

levels = st.sampled_from(Level)
findings = st.builds(Finding, st.sampled_from("ab"), levels, st.sampled_from("xy"), st.just("r"))
places = st.sampled_from(["prepare", "ingest", "extract"])


def profile(**stages):
    return Profile.model_validate({"name": "lab", "scheduler": "slurm", **stages})


@pytest.fixture
def site(slurm):
    return slurm(
        sinfo="site-sinfo",
        scontrol=SCONTROL,
        sacctmgr=SACCTMGR,
        sbatch="site-sbatch-accepts",
        squeue="squeue-mine",
    )


def of_stage(found, stage):
    return [finding for finding in found if stage in finding.where.split(", ")]


def test_equal_findings_of_stages_become_one(site):
    small = {"timeout_minutes": 5, "memory_gb": 1}
    every = ("prepare", "ingest", "extract", "encode", "compare", "gate")
    found = check_cluster(profile(**dict.fromkeys(every, small)))
    assert not [finding for finding in found if finding.level is Level.FAILURE]
    (accepted,) = [finding for finding in found if finding.check == "sbatch"]
    assert accepted.where == ", ".join(every)
    login = [finding.check for finding in found if finding.where == "login node"]
    assert login == ["slurm", "limits", "accounting"]


def test_only_the_stage_that_does_not_fit_fails(site):
    small = {"timeout_minutes": 5, "memory_gb": 1}
    every = ("prepare", "ingest", "extract", "compare", "gate")
    found = check_cluster(profile(**dict.fromkeys(every, small), encode=small | {"memory_gb": 999}))
    failed = [finding for finding in found if finding.level is Level.FAILURE]
    assert [(finding.check, finding.where) for finding in failed] == [("memory", "encode")]
    # sbatch is asked last, for stages without a failure only.
    assert "encode" not in next(f.where for f in found if f.check == "sbatch")


def test_a_cluster_without_accounting_is_a_warning(slurm):
    slurm(
        sinfo="site-sinfo",
        scontrol=SCONTROL,
        sacctmgr="sacctmgr-off",
        sbatch="site-sbatch-accepts",
        squeue="squeue-mine",
    )
    stage = {"timeout_minutes": 5, "memory_gb": 1, "account": "anyone"}
    found = check_cluster(profile(prepare=stage))
    (warned,) = [f for f in found if f.level is Level.WARNING and f.check == "accounting"]
    assert "accounts and QOS were not checked" in warned.remedy
    assert not [f for f in of_stage(found, "prepare") if f.check == "account"]


def test_what_sbatch_refuses_names_the_keys_that_may_be_wrong(slurm):
    slurm(
        sinfo="site-sinfo",
        scontrol=SCONTROL,
        sacctmgr=SACCTMGR,
        sbatch="site-sbatch-refuses",
        squeue="squeue-mine",
    )
    found = check_cluster(profile(prepare={"timeout_minutes": 5, "memory_gb": 1}))
    (refused,) = [f for f in of_stage(found, "prepare") if f.check == "sbatch"]
    assert refused.level is Level.FAILURE
    assert "Invalid account or account/partition combination" in refused.sentence
    assert "partition, account, qos" in refused.remedy


@given(st.lists(st.tuples(findings, places), max_size=8))
def test_merging_loses_no_finding_and_no_place(given_):
    found = merged(finding.at(where) for finding, where in given_)
    assert len({finding.at("") for finding in found}) == len(found)
    split = [(f.at(""), where) for f in found for where in f.where.split(", ")]
    assert sorted(split, key=repr) == sorted(((f, where) for f, where in given_), key=repr)


def test_what_needs_the_user_carries_a_remedy():
    assert ok("check", "fine").remedy == ""
    for make, level in ((warning, Level.WARNING), (failure, Level.FAILURE)):
        finding = make("check", "wrong", "do this")
        assert (finding.level, finding.remedy) == (level, "do this")


@pytest.mark.parametrize(("free", "level"), [(1024**3, Level.WARNING), (2**50, Level.OK)])
def test_little_space_is_a_warning(tmp_path, monkeypatch, free, level):
    class Usage:
        pass

    Usage.free = free
    monkeypatch.setattr("hpc.doctor.folder_checks.shutil.disk_usage", lambda _: Usage)
    assert check_space(tmp_path).level is level


def test_a_folder_that_refuses_files_names_the_operation(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hpc.doctor.folder_checks.write_exclusive", refuse)
    (found,) = check_folder(tmp_path)
    assert found.sentence == f"exclusive in {tmp_path}: No space left on device"
    assert list(tmp_path.iterdir()) == []


def test_a_controller_that_is_silent_still_shows_the_folder(slurm, tmp_path):
    slurm(scontrol="squeue-down", sinfo="squeue-down")
    found = diagnose(profile(), tmp_path / "runs")
    assert {f.check for f in found if f.where == "this machine"} == {"file system", "space"}
    (silent,) = [f for f in found if f.where == "login node"]
    assert "Unable to contact slurm controller" in silent.sentence


stages = st.builds(
    StageProfile,
    nodes=st.integers(1, 8),
    ranks_per_node=st.integers(1, 4),
    threads=st.integers(1, 16),
    dask_workers=st.integers(1, 16),
    gpus_per_node=st.integers(0, 4),
    memory_gb=st.none() | st.floats(0.1, 1e4),
    partition=st.none() | st.just("gpu"),
)


@given(stages)
def test_sbatch_is_asked_for_what_the_stage_needs(how):
    options = sbatch_options(how)
    assert options["cpus_per_task"] == max(how.threads, how.dask_workers)
    assert options["ntasks_per_node"] * options["nodes"] == how.ranks
    assert ("gpus_per_node" in options) == (how.gpus_per_node > 0)
    assert ("partition" in options) == (how.partition is not None)
    if how.memory_gb is None:
        assert "mem" not in options  # the partition's default holds
    else:
        assert abs(int(options["mem"].removesuffix("M")) - 1024 * how.memory_gb) <= 0.5


def test_a_set_up_line_that_fails_ends_the_job_with_its_words(tmp_path):
    import subprocess

    how = StageProfile(
        setup=("true  # fine", "test -e 'no such'", "echo reached"), scratch="/tmp/x"
    )
    ended = subprocess.run(
        ["sh", "-c", "\n".join(setup_lines(how))], capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stderr.strip() == f"{SETUP_FAILED}test -e 'no such'"
    assert "reached" not in ended.stdout
