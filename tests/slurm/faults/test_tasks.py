"""Every way in which a task ends badly, on a real SLURM, with nobody logged in.

The drills are started together; each test waits for its own.
"""

from collections.abc import Callable

import pytest

from hpc.run.gate import gate_name
from hpc.slurm.client import run as slurm
from hpc.slurm.jobs import State
from hpc.slurm.queue import queue

LOW = '[extract]\npartition = "low"\nexclude = "n1,n2,n3"\n'
"""Alone on the node that the others leave out, so that a job of `high` has it to preempt."""
RANKS = "[extract]\nranks_per_node = 2\ngpus_per_node = 2\nslots = 1\n"


@pytest.fixture(scope="module")
def drills(make_drill: Callable) -> dict:
    """Start all drills at once."""
    wanted = {
        "kill": (["extract:1:kill"], ""),
        "memory": (["extract:1:memory"], ""),
        "gpu_memory": (["extract:1:gpu_memory"], "micro_batch = 8\n"),
        "timeout": (["extract:1:hang"], ""),
        "preempted": (["extract:1:torn"], LOW),
        "requeued": (["extract:1:torn"], ""),
        "cancelled": (["extract:1:hang"], ""),
        "error": (["prepare:0:error"], ""),
        "gate": (["extract:1:hang"], ""),
        "rank": (["extract:1:kill"], RANKS),
    }
    made = {}
    for name, (faults, profile) in wanted.items():
        made[name] = make_drill(name)
        made[name].start(*(a for f in faults for a in ("--fault", f)), profile=profile)
    return made


def test_a_killed_task_is_submitted_again(drills: dict, report: Callable) -> None:
    drill = drills["kill"]
    drill.finish()
    assert drill.failures("extract") == ["lost"]
    assert [a.outcome for a in drill.tries("extract", 1)] == ["running", "committed"]
    report(drill, "SIGKILL of a task", "extract")


def test_out_of_memory_asks_for_more(drills: dict, report: Callable) -> None:
    drill = drills["memory"]
    drill.finish()
    assert drill.failures("extract") == ["host memory"]
    asked = [s.payload.asked.memory_gb for s in drill.submissions("extract")]
    assert asked == [0.5, pytest.approx(0.75, abs=0.06)]
    report(drill, "out of memory", "extract")


def test_a_full_gpu_takes_a_smaller_batch(drills: dict, report: Callable) -> None:
    drill = drills["gpu_memory"]
    drill.finish()
    assert drill.failures("extract") == []
    assert len(drill.submissions("extract")) == 1
    report(drill, "GPU out of memory", "extract")


def test_a_task_out_of_time_leaves_its_rest_to_a_longer_one(drills: dict, report: Callable) -> None:
    drill = drills["timeout"]
    drill.until(drill.met)
    slurm("scontrol", "update", f"jobid={drill.job_of('extract', 1)}", "timelimit=0")
    drill.finish()
    assert drill.failures("extract") == ["timeout"]
    report(drill, "timeout", "extract")


def test_a_preempted_task_comes_back(drills: dict, report: Callable) -> None:
    drill = drills["preempted"]
    drill.until(drill.met)
    (node,) = {
        job.node for job in drill.jobs("extract") if job.job_id == drill.job_of("extract", 1)
    }
    options = f"-p high -w {node} --exclusive -t 1 --output=/dev/null"
    slurm("sbatch", *options.split(), "--wrap", "sleep 3")
    drill.finish()
    assert len(drill.submissions("extract")) == 1
    assert max(t.job.restarts for t in drill.submissions("extract")[0].ended) == 1
    report(drill, "preemption with requeue", "extract")


def test_a_requeued_task_mends_what_it_left_torn(drills: dict, report: Callable) -> None:
    drill = drills["requeued"]
    drill.until(drill.met)
    slurm("scontrol", "requeue", drill.job_of("extract", 1))
    drill.finish()
    assert len(drill.submissions("extract")) == 1
    assert [a.restarts for a in drill.tries("extract", 1)] == [0, 1]
    report(drill, "scontrol requeue", "extract")


def test_what_the_user_cancelled_stays_cancelled(drills: dict, report: Callable) -> None:
    drill = drills["cancelled"]
    drill.until(drill.met)
    slurm("scancel", drill.job_of("extract", 1))
    told = drill.decision("extract")
    assert "cancelled" in told
    assert "decide whether they may run" in told
    assert drill.jobs("extract", State.PENDING) == []
    assert told in " ".join(drill.command("status", drill.path).split())
    drill.command("resume", drill.path, "--no-wait")
    drill.finish()
    report(drill, "scancel by the user", "extract")


def test_a_failed_stage_holds_the_next_until_the_user_asks(drills: dict, report: Callable) -> None:
    drill = drills["error"]
    drill.until(lambda: drill.run.stores("prepare") and not drill.jobs("prepare"))
    drill.until(lambda: "a drill's error" in drill.command("status", drill.path))
    assert not drill.run.stores("extract")
    drill.command("resume", drill.path, "--no-wait")
    drill.finish()
    report(drill, "failed upstream stage", "prepare")


def test_a_killed_gate_is_missed_and_started_again(drills: dict, report: Callable) -> None:
    drill = drills["gate"]
    drill.until(drill.met)
    gates = [job for job in queue([gate_name(drill.run)]) if job.alive]
    slurm("scancel", *(job.job_id for job in gates))
    slurm("scancel", "--signal=KILL", drill.job_of("extract", 1))
    drill.until(lambda: "no gate is alive" in drill.command("status", drill.path))
    drill.command("resume", drill.path, "--no-wait", "--quick")
    drill.finish()
    report(drill, "SIGKILL of the gate", "extract")


def test_the_ranks_that_are_left_do_the_work(drills: dict, report: Callable) -> None:
    drill = drills["rank"]
    drill.finish()
    assert len(drill.submissions("extract")) == 1
    jobs = {attempt.job for unit in range(4) for attempt in drill.tries("extract", unit)}
    assert len(jobs) == 1
    gpus = {a.used.gpu for unit in range(4) for a in drill.tries("extract", unit)}
    assert "fake" in gpus
    report(drill, "SIGKILL of one rank of two", "extract")


def test_another_type_of_gpu_is_refused(make_drill: Callable, report: Callable) -> None:
    drill = make_drill("types")
    begun_on = drill.path / "gpus" / "extract.json"
    begun_on.parent.mkdir(parents=True)
    begun_on.write_text('{"gpu": "NVIDIA A100"}')
    drill.start(profile="[extract]\ngpus_per_node = 1\n")
    told = drill.decision("extract")
    assert "was begun on NVIDIA A100, this task was given fake" in told
    drill.until(lambda: drill.submissions("extract")[0].outcome)
    assert not any(drill.tries("extract", unit) for unit in range(4))
    begun_on.unlink()
    drill.command("resume", drill.path, "--no-wait")
    drill.finish()
    report(drill, "another type of GPU", "extract")
