"""Jobs as read from what a real SLURM printed; with accounting off or down, with lost jobs."""

import os
import shlex
from datetime import UTC, datetime

import pytest

from hpc.slurm import accounting, queue
from hpc.slurm.client import SlurmUnavailable, run
from hpc.slurm.jobs import State

MB = 2**20
SINCE = datetime(2026, 11, 25, tzinfo=UTC)


def test_an_ended_job_with_all_that_accounting_knows(read_jobs):
    job = read_jobs("sacct-ended")["56"]
    assert (job.name, job.state, job.user, job.node) == (
        "gradenc-12ab34cd-completed",
        State.COMPLETED,
        "root",
        "n1",
    )
    assert (job.exit_code, job.signal, job.restarts, job.cancelled_by) == (0, 0, 0, "")
    assert (job.cpus, job.gpus, job.limit_s, job.requested_memory) == (2, 2, 600, 300 * MB)
    assert 0.1 < job.cpu_s < 1


# None: not the same for both.
ENDS = {
    "57": (State.FAILED, 7, 0),
    "58": (State.FAILED, 11, 11),  # srun's 139, a segmentation fault of the step
    "59": (State.FAILED, 9, 9),  # a rank killed
    "60": (State.FAILED, 0, 9),  # the batch shell killed
    "61": (State.FAILED, 9, 9),  # a rank killed for memory
    "62": (State.FAILED, 0, 9),
    "63": (State.FAILED, 9, 9),
    "64": (State.FAILED, 0, 53),  # the log cannot be opened
    "65_1": (State.FAILED, 3, 0),
    "65_2": (State.FAILED, 0, 9),
    "65_3": (State.COMPLETED, 0, 0),
    "66": (State.CANCELLED, 0, None),
    "67": (State.TIMEOUT, None, 15),
    "68": (State.NODE_FAIL, 0, 0),
    "71": (State.FAILED, 15, 15),
    "72": (State.FAILED, 78, 0),
}


@pytest.mark.parametrize("job_id", ENDS)
def test_both_commands_tell_of_the_same_end(job_id, read_jobs):
    state, code, signal = ENDS[job_id]
    for job in (read_jobs("sacct-ended")[job_id], read_jobs("squeue-ended")[job_id]):
        assert job.state is state
        assert code is None or job.exit_code == code
        assert signal is None or job.signal == signal
        assert not job.alive


@pytest.mark.parametrize(("job_id", "kib"), [("61", 358908), ("62", 402072), ("63", 354204)])
def test_a_kill_for_memory_shows_in_the_memory_of_the_steps(job_id, kib, read_jobs):
    job = read_jobs("sacct-ended")[job_id]
    assert (job.max_rss, job.requested_memory) == (1024 * kib, 200 * MB)
    assert job.cancelled_by == ""  # "CANCELLED by 0" is what its step says


def test_memory_of_several_processes_on_a_node_is_added_up(read_jobs):
    job = read_jobs("sacct-ended")["79"]
    assert (job.gpus, job.cpus) == (2, 4)
    assert job.max_rss == 217212 * 1024  # MaxRSS is 54356K, that of the largest


def test_who_cancelled_a_job(read_jobs):
    jobs = read_jobs("sacct-ended")
    assert (jobs["66"].cancelled_by, jobs["69"].cancelled_by) == ("0", "65534")
    assert jobs["69"].user == "nobody"


def test_an_array_of_which_the_waiting_tasks_are_one_line(read_jobs):
    tasks = {f"65_{n}" for n in range(12)}
    for jobs in (read_jobs("sacct-ended"), read_jobs("squeue-ended")):
        assert {job_id for job_id in jobs if job_id.startswith("65_")} == tasks
        assert [jobs[f"65_{n}"].state for n in (4, 7, 11)] == [State.RUNNING, *2 * [State.PENDING]]
        assert (jobs["65_0"].state, jobs["65_0"].restarts) == (State.PENDING, 1)
        assert jobs["65_7"].reason == "JobArrayTaskLimit"


def test_an_array_of_scattered_tasks_is_not_cut_short(read_jobs):
    assert set(read_jobs("sacct-sparse")) == {f"55_{n * n}" for n in range(31)}


def test_why_jobs_wait(read_jobs):
    jobs = read_jobs("squeue-waiting")
    reasons = {
        "19_7": "JobHeldAdmin",
        "24": "JobHeldUser",
        "25": "BeginTime",
        "27": "Dependency",
        "28": "DependencyNeverSatisfied",
        "33": "job requeued in held state",
        "46": "ReqNodeNotAvail, UnavailableNodes:n2",
    }
    assert {job_id: jobs[job_id].reason for job_id in reasons} == reasons
    assert {jobs[job_id].state for job_id in reasons} == {State.PENDING}
    assert (jobs["34"].state, jobs["35"].state) == (State.SPECIAL_EXIT, State.SUSPENDED)
    assert all(jobs[job_id].alive for job_id in ("34", "35", *reasons))


def test_requeued_jobs_are_their_newest_run(read_jobs):
    jobs = read_jobs("sacct-requeued")
    assert (jobs["30"].state, jobs["30"].restarts) == (State.COMPLETED, 1)
    assert (jobs["31"].state, jobs["31"].restarts) == (State.NODE_FAIL, 0)
    assert (jobs["37"].state, jobs["37"].node, jobs["37"].gpus) == (State.COMPLETED, "n[2-3]", 4)
    assert jobs["37"].requested_memory == 200 * MB  # of each of two nodes
    assert jobs["39"].state is State.PREEMPTED


def test_preempted_and_reread_jobs(read_jobs):
    past, now = read_jobs("sacct-preempted"), read_jobs("squeue-preempted")
    assert (past["53"].state, past["53"].restarts) == (State.COMPLETED, 1)
    assert (now["53"].state, now["53"].restarts) == (State.RUNNING, 1)
    # One that died of the signal which announces the preemption is only FAILED for SLURM.
    assert (past["46"].state, past["46"].signal) == (State.FAILED, 15)
    assert (now["46"].state, now["46"].signal) == (State.FAILED, 15)


def test_out_of_memory_where_control_groups_limit_it(read_jobs):
    jobs = read_jobs("sacct-cgroups").values()
    # SLURM says it of the job itself only where the batch shell's own step ran out of memory.
    assert [job.state for job in jobs] == 3 * [State.OUT_OF_MEMORY]
    assert [job.signal for job in jobs] == 3 * [125]
    states = [job.state for job in read_jobs("squeue-cgroups").values()]
    assert sorted(states) == [State.FAILED, State.FAILED, State.OUT_OF_MEMORY]


def test_what_this_cluster_cannot_produce(read_jobs):
    jobs = read_jobs("by_hand/sacct-newer")
    assert [jobs[str(n)].state for n in range(90, 96)] == [
        State.OUT_OF_MEMORY,
        State.OUT_OF_MEMORY,  # of a step
        State.OUT_OF_MEMORY,  # cut short
        State.DEADLINE,
        State.BOOT_FAIL,
        State.UNRECOGNISED,
    ]
    assert (jobs["90"].gpus, jobs["90"].max_rss, jobs["90"].signal) == (1, 7 * 2**29, 125)
    assert [jobs[n].limit_s for n in ("91", "92", "93")] == [86400, None, None]
    assert jobs["95"].alive
    assert jobs["95"].name == "gradenc-12ab34cd-new|er"
    assert (jobs["96_1"].state, jobs["96_1"].restarts) == (State.PENDING, 1)
    assert (jobs["96_2"].state, jobs["96_2"].restarts) == (State.PENDING, 0)


def test_the_recordings_are_of_the_commands_that_are_run(slurm):
    calls = slurm(sacct="sacct-ended", squeue="squeue-preempted")
    queue.jobs_of(["gradenc-12ab34cd-preempt", "gradenc-12ab34cd-deaf"], ["56", "57"], SINCE)
    start = SINCE.astimezone().strftime("%Y-%m-%dT%H:%M:%S")
    sacct = f"-a -D -n -P -S {start} -j 56,57 -o {','.join(accounting.FIELDS)}\n"
    squeue = (
        f"-h -a -r -t all --name=gradenc-12ab34cd-preempt,gradenc-12ab34cd-deaf -O {queue.FORMAT}\n"
    )
    assert (calls / "calls-sacct").read_text() == sacct
    assert (calls / "calls-squeue").read_text() == squeue


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        *[
            (f"sacct-{n}", ",".join(accounting.FIELDS))
            for n in ("ended", "requeued", "preempted", "late")
        ],
        *[(f"squeue-{n}", queue.FORMAT) for n in ("ended", "waiting", "preempted")],
    ],
)
def test_recordings_have_the_fields_that_are_asked_for(name, fields, read):
    assert shlex.split(read(name).command)[-1] == fields


def test_accounting_adds_what_the_controller_does_not_keep(slurm):
    slurm(sacct="sacct-ended", squeue="squeue-ended")
    jobs = queue.jobs_of(["any"], ["61"], SINCE)
    assert jobs["61"].max_rss == 358908 * 1024
    assert jobs["66"].cancelled_by == "0"
    assert jobs["65_4"].state is State.RUNNING
    assert (jobs["65_0"].state, jobs["65_0"].restarts) == (State.PENDING, 1)


@pytest.mark.parametrize("silent", ["sacct-off", "sacct-down"])
def test_without_accounting_the_queue_tells_what_it_knows(silent, slurm):
    slurm(sacct=silent, squeue="squeue-ended")
    jobs = queue.jobs_of(["any"], ["56"], SINCE)
    assert (jobs["57"].exit_code, jobs["68"].state) == (7, State.NODE_FAIL)
    assert jobs["61"].max_rss is None


def test_ended_jobs_outlive_the_queue_and_others_do_not(slurm):
    slurm(sacct="sacct-ended", squeue="squeue-none")
    jobs = queue.jobs_of(["any"], ["56"], SINCE)
    assert jobs["57"].exit_code == 7
    assert "65_4" not in jobs  # runs, for accounting alone: the controller has lost it
    slurm(sacct="sacct-unknown")
    assert queue.jobs_of(["any"], ["56"], SINCE) == {}


def test_half_a_record_of_accounting_does_not_count(slurm, read_jobs):
    # slurmdbd was away while the job ran: for some ten seconds it knows no exit code yet.
    half = read_jobs("sacct-late")["27976009"]
    assert (half.state, half.exit_code, half.cpu_s) == (State.FAILED, 0, None)
    slurm(sacct="sacct-late", squeue="squeue-late")
    assert queue.jobs_of(["any"], ["27976009"], SINCE)["27976009"].exit_code == 7


@pytest.mark.parametrize(
    ("sacct", "calls"), [("sacct-late", 2), ("sacct-ended", 1), ("sacct-off", 1)]
)
def test_only_an_accounting_that_answers_is_waited_for(sacct, calls, slurm, monkeypatch):
    monkeypatch.setattr(queue, "POLL_S", 0.3)
    folder = slurm(sacct=sacct, squeue="squeue-late" if sacct != "sacct-ended" else "squeue-none")
    queue.jobs_of(["any"], ["27976009"], SINCE, patience_s=0.2)
    assert len((folder / "calls-sacct").read_text().splitlines()) == calls


def test_the_end_of_an_arrays_task_is_waited_for(slurm, monkeypatch):
    """By the task's own id too: accounting without its end cannot tell a kill for memory."""
    monkeypatch.setattr(queue, "POLL_S", 0.3)
    folder = slurm(sacct="sacct-unknown", squeue="squeue-ended")
    queue.jobs_of(["any"], ["65_1"], SINCE, patience_s=0.2)
    assert len((folder / "calls-sacct").read_text().splitlines()) == 2


def test_tasks_of_an_array_are_asked_for_by_its_number(slurm):
    """Twenty thousand ids are longer than an argument may be."""
    folder = slurm(sacct="sacct-ended", squeue="squeue-ended")
    queue.jobs_of(["any"], [f"65_{n}" for n in range(20_000)], SINCE)
    assert "-j 65 -o" in (folder / "calls-sacct").read_text()


def test_only_a_silent_controller_is_an_error(slurm):
    slurm(sacct="sacct-ended", squeue="squeue-down")
    with pytest.raises(SlurmUnavailable, match="Unable to contact slurm controller"):
        queue.jobs_of(["any"], ["56"], SINCE)


def test_nothing_is_asked_for_nothing(slurm):
    calls = slurm(sacct="sacct-ended", squeue="squeue-ended", scancel="squeue-down")
    assert queue.jobs_of([], [], SINCE) == {}
    queue.cancel([])
    assert not list(calls.glob("calls-*"))


def test_many_jobs_are_cancelled_in_batches(slurm):
    calls = slurm(scancel="squeue-none")
    queue.cancel([str(n) for n in range(1200)])
    lines = (calls / "calls-scancel").read_text().splitlines()
    assert [len(line.split()) - 1 for line in lines] == [500, 500, 200]


def test_a_command_that_is_missing_or_hangs(monkeypatch, tmp_path):
    with pytest.raises(SlurmUnavailable, match="`squeue-of-old` is not installed"):
        run("squeue-of-old")
    with pytest.raises(SlurmUnavailable, match=r"`sleep 5` did not answer within 0.1 s"):
        run("sleep", "5", timeout_s=0.1)


def test_the_users_own_filters_do_not_hide_jobs(monkeypatch):
    monkeypatch.setenv("SQUEUE_PARTITION", "debug")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    seen = run("env").splitlines()
    assert not [line for line in seen if line.startswith("SQUEUE_")]
    assert "SLURM_CONF=/etc/slurm.conf" in seen
    assert "SQUEUE_PARTITION" in os.environ
