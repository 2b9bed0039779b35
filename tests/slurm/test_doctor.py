"""`gradenc doctor` and `profile draft` on a real cluster."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hpc
from hpc.config.profile import load_profile
from hpc.doctor.cluster_checks import check_cluster
from hpc.doctor.doctor import diagnose
from hpc.doctor.draft import draft_profile
from hpc.doctor.findings import Level
from hpc.node.environment import code_version

HEAD = 'name = "try"\nscheduler = "slurm"\n'
SMALL = "timeout_minutes = 5\nmemory_gb = 1\n"
PACKAGES = (
    "gradenc",
    "gradenc_errors",
    "gradenc_core",
    "storage_schemas",
    "jobs",
    "hpc",
    "slurm_profiles",
)


@pytest.fixture
def diagnosed(cluster, tmp_path):
    """Return a function from a profile's text to its findings, by check, failures first."""

    def diagnose_text(text, limit_s=120.0):
        path = tmp_path / "mine.toml"
        path.write_text(HEAD + text)
        return diagnose(load_profile(str(path)), tmp_path / "runs", limit_s)

    return diagnose_text


def failures(findings):
    assert all(finding.remedy for finding in findings if finding.level is not Level.OK)
    return [finding for finding in findings if finding.level is Level.FAILURE]


def queued(cluster):
    return cluster.command("squeue", "-h", "-t", "pending,running").split()


def test_a_healthy_profile_passes(cluster, diagnosed, tmp_path):
    scratch = tmp_path / "scratch"
    text = (
        f'[common]\n{SMALL}scratch = "{scratch}/$SLURM_JOB_ID"\nsetup = ["true # a module"]\n'
        "[extract]\ngpus_per_node = 1\n"
        "[encode]\nnodes = 2\nranks_per_node = 2\n"
    )
    findings = diagnosed(text)
    wrong = [finding for finding in findings if finding.level is not Level.OK]
    # How much room the machine of the test has is not the profile's.
    assert [finding for finding in wrong if finding.check != "space"] == []
    told = {(finding.check, finding.where.partition(",")[0]) for finding in findings}
    assert {("gpu", "extract"), ("dask", "encode"), ("gate", "prepare")} <= told
    assert {check for check, _ in told} >= {"code", "run folder", "space", "probe", "limits"}
    assert list((tmp_path / "runs").iterdir()) == []
    assert queued(cluster) == []


def test_the_development_profile_and_a_draft_pass(cluster, tmp_path):
    draft = tmp_path / "draft.toml"
    draft.write_text(draft_profile())
    for name in ("dev", str(draft)):
        assert failures(diagnose(load_profile(name), tmp_path / "runs")) == []
    drafted = load_profile(str(draft))
    assert drafted.stage("extract").gpus_per_node == 1
    assert drafted.stage("compare").gpus_per_node == 0
    assert drafted.stage("encode").timeout_minutes <= 60
    # Not one from which jobs are pushed off.
    assert {drafted.stage(s).partition for s in ("extract", "encode", "gate")} <= {"main", "gpu"}


WRONG = {
    "prepare": ('partition = "mian"', "partition", "the cluster has no such", "`main`?"),
    "ingest": ('account = "nobody"', "account", "not one of yours", "set account to"),
    "extract": ("memory_gb = 900", "memory", "partition main gives", "ask for less"),
    "encode": ("timeout_minutes = 9000", "time", "partition main", "set timeout_minutes = "),
    "compare": ("gpus_per_node = 9", "gpus", "partition main has 2 a node", "ask for less"),
    "gate": ('qos = "gold"', "qos", "account", "set qos to one of them"),
}
ALSO_WRONG = {
    "prepare": ("nodes = 99", "nodes", "partition main gives a job ", "set nodes to "),
    "ingest": ("threads = 99", "processors", "partition main has ", "threads"),
    "extract": ('constraint = "a100"', "sbatch", "Invalid feature specification", "constraint"),
    "encode": ('exclude = "n77"', "sbatch", "Invalid node name", "exclude"),
    "compare": ("max_memory_gb = 900", "memory", "partition main ends at", "max_memory_gb to"),
}


@pytest.mark.parametrize("wrong", [WRONG, ALSO_WRONG])
def test_what_the_cluster_does_not_have_is_named(cluster, tmp_path, wrong):
    path = tmp_path / "mine.toml"
    stages = (f"[{stage}]\n{keys}\n" for stage, (keys, *_) in wrong.items())
    path.write_text(f"{HEAD}[common]\n{SMALL}{''.join(stages)}")
    found = {finding.where: finding for finding in failures(check_cluster(load_profile(str(path))))}
    assert found.keys() == wrong.keys()
    for stage, (_, check, words, remedy) in wrong.items():
        assert found[stage].check == check
        assert words in found[stage].sentence
        assert remedy in found[stage].remedy


def test_what_fails_on_the_node_is_named(cluster, diagnosed, tmp_path):
    other = tmp_path / "other"
    for package in PACKAGES:
        shutil.copytree(Path(hpc.__file__).parents[1] / package, other / package)
    refusing = tmp_path / "refusing"
    refusing.mkdir()
    (refusing / "sbatch").write_text("#!/bin/sh\necho not from a node >&2\nexit 1\n")
    (refusing / "sbatch").chmod(0o755)
    with (other / "jobs" / "runner.py").open("a") as stream:
        stream.write("\n# edited\n")
    findings = diagnosed(
        f"[common]\n{SMALL}"
        '[prepare]\nsetup = ["module load nothing  # of the kind"]\n'
        '[ingest]\nscratch = "/dev/null/scratch"\n'
        f'[extract]\nsetup = ["export PYTHONPATH={other}"]\n'
        '[encode]\ndask_interface = "ib7"\n'
        '[compare]\nsetup = ["export PYTHONPATH=/nowhere PATH=/nowhere"]\n'
        f'[gate]\nsetup = ["export PATH={refusing}:$PATH"]\n'
    )
    found = {finding.where: finding for finding in failures(findings)}
    assert "module load nothing  # of the kind" in found["prepare"].sentence
    assert "command not found" in found["prepare"].sentence
    assert 'mkdir -p "$TMPDIR"' in found["ingest"].sentence
    assert found["extract"].check == "code"
    assert f"on the login node {code_version()}" in found["extract"].sentence
    assert "'ib7' is not a valid network interface" in found["encode"].sentence
    assert (found["compare"].check, found["gate"].check) == ("probe", "gate")
    assert "srun: command not found" in found["compare"].sentence
    assert "cannot be submitted from this node: " in found["gate"].sentence
    assert "not from a node" in found["gate"].sentence
    assert queued(cluster) == []


def test_a_probe_that_waits_too_long_says_why_and_is_cancelled(cluster, diagnosed):
    nodes = f"n[1-{cluster.nodes}]"
    cluster.command("scontrol", "update", f"nodename={nodes}", "state=drain", "reason=test")
    try:
        findings = diagnosed(f"[common]\n{SMALL}", limit_s=3.0)
    finally:
        cluster.command("scontrol", "update", f"nodename={nodes}", "state=resume")
    (found,) = failures(findings)
    assert found.check == "queue"
    assert "did not start in 0.05 min: " in found.sentence
    assert not found.sentence.endswith("no reason")
    assert queued(cluster) == []


def test_a_doctor_that_is_stopped_leaves_no_job(cluster, tmp_path):
    nodes = f"n[1-{cluster.nodes}]"
    cluster.command("scontrol", "update", f"nodename={nodes}", "state=drain", "reason=test")
    try:
        command = [str(Path(sys.executable).with_name("gradenc")), "doctor", "--profile", "dev"]
        doctor = subprocess.Popen([*command, "--folder", str(tmp_path / "runs")])
        while not queued(cluster):
            assert doctor.poll() is None
        doctor.terminate()
        assert doctor.wait(60) == 128 + 15
        assert list((tmp_path / "runs").iterdir()) == []
    finally:
        cluster.command("scontrol", "update", f"nodename={nodes}", "state=resume")
    assert queued(cluster) == []
