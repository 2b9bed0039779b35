"""Nodes, daemons and disks that fail under a run, and people who submit at the same moment."""

import os
import pwd
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hpc.devcluster.cluster import DevCluster
from hpc.run.folder import RunFolder
from hpc.run.submissions import submissions
from hpc.slurm.client import run as slurm
from storage_schemas.files import locked

GROUP = 23457
USERS = ("nobody", "daemon")


def node_of(drill, unit: int) -> str:
    wanted = drill.job_of("extract", unit)
    return next(job.node for job in drill.jobs("extract") if job.job_id == wanted)


@contextmanager
def node_down(cluster: DevCluster, node: str) -> Iterator[None]:
    """Let SLURM take a node for lost, and use it again afterwards."""
    slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        yield
    finally:
        slurm("scontrol", "update", f"nodename={node}", "state=resume")
        cluster.wait_for_nodes()


def test_a_node_lost_in_mid_write(make_drill: Callable, cluster: DevCluster, report) -> None:
    drill = make_drill("node")
    drill.start("--fault", "extract:1:torn")
    drill.until(drill.met)
    node = node_of(drill, 1)
    with node_down(cluster, node):
        cluster.fail_node(node)
        drill.finish()
        cluster.start_node(node)
    assert [a.outcome for a in drill.tries("extract", 1)] == ["running", "committed"]
    report(drill, "node down in mid-write", "extract")


@pytest.mark.long
def test_an_old_process_that_comes_back_harms_nothing(
    make_drill: Callable, cluster: DevCluster, report
) -> None:
    """Its node is silent for long enough to be given up, then writes on as if nothing happened."""
    drill = make_drill("zombie")
    drill.start("--seconds", "6")
    drill.until(lambda: drill.run.stores("extract") and drill.jobs("extract"))
    drill.until(lambda: drill.tries("extract", 1))
    node = node_of(drill, 1)
    with node_down(cluster, node):
        cluster.freeze_node(node)
        supersede_the_silent(drill)
        cluster.thaw_node(node)
        drill.finish()
    report(drill, "node back with its old process still writing", "extract")


def supersede_the_silent(drill) -> None:
    """Wait until unit 1 has another holder."""
    # Its heartbeats have stopped: as they look after the time that makes a holder a dead one.
    (store,) = drill.run.stores("extract")
    old = time.time() - 3600
    for attempt in store.path.glob("attempts/*/*.json"):
        os.utime(attempt, (old, old))
    drill.until(lambda: len(drill.tries("extract", 1)) > 1)


def test_accounting_that_is_down_all_the_time(
    make_drill: Callable, cluster: DevCluster, report
) -> None:
    drill = make_drill("slurmdbd")
    cluster.stop_slurmdbd()
    try:
        drill.start("--fault", "extract:1:kill")
        drill.finish()
        assert "complete" in drill.command("status", drill.path)
    finally:
        cluster.start_slurmdbd()
    report(drill, "slurmdbd stopped", "extract")


def test_a_controller_that_goes_away_and_comes_back(
    make_drill: Callable, cluster: DevCluster, report
) -> None:
    drill = make_drill("controller")
    drill.start("--seconds", "2")
    drill.until(lambda: drill.run.stores("extract") and drill.tries("extract", 0))
    cluster.stop_slurmctld()
    shown = drill.command("status", drill.path)
    assert "could not be asked" in " ".join(shown.split())
    cluster.start_slurmctld()
    drill.finish()
    report(drill, "controller restarted", "extract")


@pytest.mark.skipif(os.getuid() != 0, reason="a small file system is mounted by root only")
def test_a_disk_that_is_full_for_a_while(make_drill: Callable, report, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
    try:
        drill = make_drill("room")
        drill.start("--root", disk / "stores", "--seconds", "4")
        drill.until(lambda: drill.run.stores("extract") and drill.jobs("extract"))
        ballast = disk / "ballast"
        subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=64k"], capture_output=True)
        drill.until(lambda: "No space left" in drill.command("status", drill.path))
        drill.until(lambda: not drill.jobs("extract"))
        ballast.unlink()
        drill.command("resume", drill.path, "--no-wait")
        drill.finish()
        report(drill, "disk full", "extract")
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_submitted_twice_at_the_same_moment(make_drill: Callable, report) -> None:
    drill = make_drill("twice")
    drill.start("--seconds", "1")
    drill.until(lambda: drill.run.stores("extract"))
    again = ["resume", drill.path, "--no-wait", "--quick"]
    both = [subprocess.Popen(drill.words(*again), stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    drill.finish()
    asked = [unit for s in submissions(drill.run) for unit in s.units()]
    assert len(asked) == len(set(asked)) == 11
    report(drill, "two submissions of one run at once", "extract")


def test_a_submitter_that_dies_between_sbatch_and_its_note(make_drill: Callable, report) -> None:
    """The jobs are there, nobody has written down their numbers: they are found by their name."""
    drill = make_drill("orphan")
    drill.start("--fault", "extract:1:hang")
    drill.until(drill.met)
    (submission,) = drill.submissions("extract")
    lost = [task.job_id for task in submission.jobs]
    (submission.path / "jobs.json").unlink()
    drill.command("resume", drill.path, "--no-wait", "--quick")
    drill.until(lambda: submission.outcome is not None)
    drill.finish()
    alive = [job.job_id for job in drill.jobs("extract")]
    assert not set(alive) & set(lost)
    report(drill, "submitter killed between sbatch and its note", "extract")


def test_arrays_are_cut_to_what_the_cluster_takes(make_drill: Callable) -> None:
    drill = make_drill("arrays")
    drill.start("--units", "25", "--seconds", "0", profile="units_per_task = 1\n")
    drill.until(lambda: drill.submissions("encode"))
    (submission,) = drill.submissions("extract")
    arrays = [task.job_id.partition("_")[0] for task in submission.jobs]
    assert [arrays.count(array) for array in dict.fromkeys(arrays)] == [11, 11, 3]
    assert submission.outcome.units_done == 25
    drill.cancel()


def test_no_more_is_submitted_than_the_user_may(make_drill: Callable) -> None:
    drill = make_drill("limited")
    quality = drill.path.name
    slurm("sacctmgr", "-i", "add", "qos", quality, "set", "MaxSubmitJobsPerUser=5")
    slurm("sacctmgr", "-i", "modify", "user", "root", "set", f"qos+={quality}")
    common = f'units_per_task = 1\nqos = "{quality}"\n'
    drill.start("--units", "6", "--seconds", "0", profile=common)
    drill.until(lambda: drill.submissions("encode"))
    sizes = [len(s.jobs) for s in drill.submissions("extract")]
    assert max(sizes) <= 4  # and the gate
    assert sum(sizes) == 6
    drill.cancel()


@pytest.fixture
def python_for_all() -> Iterator[None]:
    """Let everybody reach this interpreter, which may lie below root's own folder.

    Another test run of this installation waits meanwhile: it would find the folders open, and
    closed again in the middle of its test.
    """
    with locked(Path(sys.prefix) / ".python-for-all.lock"):
        closed = [
            folder
            for path in (Path(sys.executable), Path(sys.executable).resolve())
            for folder in path.parents
            if not folder.stat().st_mode & stat.S_IXOTH
        ]
        modes = {folder: stat.S_IMODE(folder.stat().st_mode) for folder in closed}
        for folder, mode in modes.items():
            folder.chmod(mode | stat.S_IXOTH)
        try:
            yield
        finally:
            for folder, mode in modes.items():
                folder.chmod(mode)


@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("setpriv"), reason="two users are played by root only"
)
def test_two_users_who_share_units_submit_them_once(
    make_drill: Callable, cluster: DevCluster, clean: str, report, python_for_all: None
) -> None:
    folder = Path(f"/tmp/gradenc-users-{os.getpid()}")
    folder.mkdir()
    try:
        os.chown(folder, 0, GROUP)
        folder.chmod(0o2775)
        drill = make_drill("users")
        drill.start("--units", "1", "--seconds", "0")  # writes the profile
        profile = drill.path.parent / "users.toml"
        shutil.copy(profile, folder / "users.toml")
        slurm("sacctmgr", "-i", "add", "user", "daemon", "account=dev")
        both = [start_as(user, folder, drill, cluster) for user in USERS]
        for process in both:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
        runs = [type(drill)(folder / user / "run", clean) for user in USERS]
        for one in runs:
            one.finish()
        asked = [u for one in runs for s in submissions(RunFolder(one.path)) for u in s.units()]
        assert len(asked) == len(set(asked)) == 11
        report(runs[0], "two users' submissions at once", "extract")
    finally:
        shutil.rmtree(folder)


def start_as(user: str, folder: Path, drill, cluster: DevCluster) -> "subprocess.Popen[str]":
    """Submit a drill as a user of the group, into a store root that the group shares."""
    uid = pwd.getpwnam(user).pw_uid
    own = folder / user
    own.mkdir()
    os.chown(own, uid, GROUP)
    # As their first group: a job has that of its submitter, and others from the node's own list.
    who = ["setpriv", f"--reuid={uid}", f"--regid={GROUP}", "--clear-groups"]
    how = ("--profile", folder / "users.toml", "--no-wait", "--units", "4", "--seconds", "0.2")
    words = drill.words("drill", own / "run", "--root", folder / "stores", *how)
    return subprocess.Popen(
        [*who, *words],
        env=cluster.env | {"HOME": str(own)},
        cwd=own,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
