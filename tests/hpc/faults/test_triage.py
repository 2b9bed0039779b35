"""Why units were not committed, and what the next submission asks for."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc.config.profile import StageProfile
from hpc.faults.triage import (
    ANSWERS,
    EXIT_CODES,
    Ended,
    FailureClass,
    TaskOutcome,
    classify,
    escalate,
    fingerprint,
)
from hpc.slurm.jobs import ENDED, Job, State

GB = 2**30
NOT_BEGUN, RUNNING, STOPPED = (None, None), ("running", None), ("stopped", None)
"""Outcome and error of an attempt."""


def failed(error):
    return "failed", error


def job(state, **more):
    known = {"job_id": "7_1", "name": "run", "node": "n1", "elapsed_s": 60.0, "limit_s": 3600.0}
    return Job(state=state, **{**known, **more})


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB", FailureClass.GPU_MEMORY),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED", FailureClass.GPU_MEMORY),
        ("RuntimeError: HIP out of memory. Tried to allocate", FailureClass.GPU_MEMORY),
        ("MemoryError: ", FailureClass.HOST_MEMORY),
        ("_ArrayMemoryError: Unable to allocate 9 GiB for an array", FailureClass.HOST_MEMORY),
        ("OSError: [Errno 12] Cannot allocate memory", FailureClass.HOST_MEMORY),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't "
            "allocate memory: you tried to allocate 9 bytes",
            FailureClass.HOST_MEMORY,
        ),
        ("OSError: [Errno 28] No space left on device: '/x/c/0'", FailureClass.DISK),
        ("OSError: [Errno 122] Disk quota exceeded: '/x'", FailureClass.DISK),
        ("OSError: Can't write data (errno = 28, 'No space left on device')", FailureClass.DISK),
        ("OSError: [Errno 116] Stale file handle: '/x/c/0'", FailureClass.NODE),
        ("OSError: [Errno 5] Input/output error", FailureClass.NODE),
        ("RuntimeError: CUDA error: uncorrectable ECC error encountered", FailureClass.NODE),
        ("ValueError: 122 images, 28 of them without a size", FailureClass.ERROR),
        ("FileNotFoundError: [Errno 2] No such file: 'a.png'", FailureClass.ERROR),
        ("KeyError: 'MemoryError'", FailureClass.ERROR),
        ("", FailureClass.ERROR),
    ],
)
def test_an_exception_tells_its_class(error, failure):
    assert classify(*failed(error), None) is failure
    # What the attempt wrote counts more than how SLURM saw its job end.
    assert classify(*failed(error), job(State.NODE_FAIL)) is failure


@pytest.mark.parametrize("attempt", [NOT_BEGUN, RUNNING])
@pytest.mark.parametrize(
    ("state", "failure"),
    [
        (State.OUT_OF_MEMORY, FailureClass.HOST_MEMORY),
        (State.TIMEOUT, FailureClass.TIMEOUT),
        (State.DEADLINE, FailureClass.TIMEOUT),
        (State.NODE_FAIL, FailureClass.NODE),
        (State.BOOT_FAIL, FailureClass.NODE),
        (State.PREEMPTED, FailureClass.PREEMPTED),
        (State.CANCELLED, FailureClass.CANCELLED),
        (State.UNRECOGNISED, FailureClass.LOST),
    ],
)
def test_without_a_last_word_slurms_state_tells(attempt, state, failure):
    assert classify(*attempt, job(state, signal=15)) is failure


MEMORY = {"max_rss": 950, "requested_memory": 1000}


@pytest.mark.parametrize(
    ("attempt", "ended", "failure"),
    [
        # A kill is one for memory only if memory was full.
        (RUNNING, job(State.FAILED, exit_code=9, signal=9, **MEMORY), FailureClass.HOST_MEMORY),
        (RUNNING, job(State.FAILED, exit_code=9, **MEMORY), FailureClass.HOST_MEMORY),
        (NOT_BEGUN, job(State.FAILED, signal=9, **MEMORY), FailureClass.HOST_MEMORY),
        (RUNNING, job(State.COMPLETED, signal=9, **MEMORY), FailureClass.HOST_MEMORY),
        (
            RUNNING,
            job(State.FAILED, signal=9, max_rss=899, requested_memory=1000),
            FailureClass.LOST,
        ),
        (RUNNING, job(State.FAILED, signal=9, requested_memory=1000), FailureClass.LOST),
        (RUNNING, job(State.FAILED, signal=9, max_rss=1000), FailureClass.LOST),
        (RUNNING, job(State.FAILED, exit_code=1, **MEMORY), FailureClass.LOST),
        (RUNNING, job(State.FAILED, signal=125), FailureClass.HOST_MEMORY),
        # The node could not open the log.
        (NOT_BEGUN, job(State.FAILED, signal=53), FailureClass.NODE),
        # Ended before it began a unit.
        (NOT_BEGUN, job(State.FAILED, exit_code=78), FailureClass.DRIFT),
        (NOT_BEGUN, job(State.FAILED, exit_code=66), FailureClass.INPUT),
        (NOT_BEGUN, job(State.FAILED, exit_code=1), FailureClass.LOST),
        (NOT_BEGUN, job(State.FAILED, exit_code=11, signal=11), FailureClass.LOST),
        # Its job's exit code is another task's when a unit was begun and left without a word.
        (RUNNING, job(State.FAILED, exit_code=1), FailureClass.LOST),
        (RUNNING, job(State.COMPLETED), FailureClass.LOST),
        (NOT_BEGUN, job(State.REVOKED), FailureClass.LOST),
        (RUNNING, job(State.RUNNING), FailureClass.LOST),
        (NOT_BEGUN, job(State.PENDING), FailureClass.LOST),
        (RUNNING, None, FailureClass.LOST),
        (NOT_BEGUN, None, FailureClass.LOST),
        # Stopped when told to: near the end of its time, or before.
        (NOT_BEGUN, job(State.COMPLETED, elapsed_s=3500.0), FailureClass.TIMEOUT),
        (NOT_BEGUN, job(State.COMPLETED), FailureClass.PREEMPTED),
        (NOT_BEGUN, job(State.FAILED, exit_code=15, signal=15), FailureClass.PREEMPTED),
        (NOT_BEGUN, job(State.FAILED, signal=12, elapsed_s=3590.0), FailureClass.TIMEOUT),
        (STOPPED, job(State.COMPLETED, elapsed_s=3500.0), FailureClass.TIMEOUT),
        (STOPPED, job(State.COMPLETED, limit_s=None), FailureClass.PREEMPTED),
        (STOPPED, job(State.CANCELLED), FailureClass.CANCELLED),
        (STOPPED, job(State.TIMEOUT), FailureClass.TIMEOUT),
        (STOPPED, None, FailureClass.PREEMPTED),
    ],
)
def test_exit_codes_and_silence(attempt, ended, failure):
    assert classify(*attempt, ended) is failure


@pytest.mark.parametrize(
    "error",
    [
        "KilledWorker: Attempted to run task 'unit-3' on 4 different workers",
        "BrokenProcessPool: A process in the process pool was terminated abruptly",
        "RuntimeError: DataLoader worker (pid 71) is killed by signal: Killed.",
    ],
)
def test_of_a_child_that_was_killed_slurm_tells_why(error):
    assert classify(*failed(error), job(State.OUT_OF_MEMORY)) is FailureClass.HOST_MEMORY
    assert classify(*failed(error), job(State.COMPLETED)) is FailureClass.LOST
    assert classify(*failed(error), None) is FailureClass.LOST


RECORDED = {
    "57": FailureClass.LOST,
    "58": FailureClass.LOST,
    "59": FailureClass.LOST,
    "60": FailureClass.LOST,
    "61": FailureClass.HOST_MEMORY,
    "62": FailureClass.HOST_MEMORY,
    "63": FailureClass.HOST_MEMORY,
    "64": FailureClass.NODE,
    "66": FailureClass.CANCELLED,
    "67": FailureClass.TIMEOUT,
    "68": FailureClass.NODE,
    "71": FailureClass.PREEMPTED,
    "72": FailureClass.DRIFT,
}


@pytest.mark.parametrize("job_id", RECORDED)
def test_recorded_endings(job_id, read_jobs):
    assert classify(None, None, read_jobs("sacct-ended")[job_id]) is RECORDED[job_id]


@pytest.mark.parametrize("job_id", RECORDED)
def test_recorded_endings_with_accounting_off(job_id, read_jobs):
    # Only what memory was used is unknown.
    known = {FailureClass.HOST_MEMORY: FailureClass.LOST}
    expected = known.get(RECORDED[job_id], RECORDED[job_id])
    assert classify(None, None, read_jobs("squeue-ended")[job_id]) is expected


TRACEBACK = """Traceback (most recent call last):
  File "{site}/jobs/runner.py", line 82, in run_item
    for store, unit, arrays, facts in _compute(work):
  File "{site}/jobs/extract.py", line 41, in compute
    raise ValueError(f"layer {{layer}} of {{unit}} has no gradient at 0x7f3a")
ValueError: layer layer{n}.0 of {unit} has no gradient at {address}; see {root}/stores/{unit}/x.json
"""


def traceback(**changes):
    filled = {
        "site": "/home/a/venv/lib/python3.11/site-packages",
        "n": 1,
        "unit": "3f9a0c1b2d4e-00001",
        "address": "0x7f3a11",
        "root": "/scratch/a/study",
    }
    return TRACEBACK.format(**{**filled, **changes})


@given(
    st.integers(0, 10**6),
    st.text("0123456789abcdef", min_size=12, max_size=12),
    st.integers(0, 99999),
)
def test_the_same_failure_of_other_units_has_the_same_fingerprint(n, store, index):
    other = traceback(n=n, unit=f"{store}-{index:05d}", address=hex(n), root="/data/../tmp/b-2")
    assert fingerprint(other) == fingerprint(traceback())


def test_another_failure_has_another_fingerprint():
    here = traceback()
    for other in (
        here.replace("no gradient", "no activation"),
        here.replace("ValueError:", "KeyError:"),
        here.replace("in compute", "in prepare"),
        here.replace("extract.py", "encode.py"),
    ):
        assert fingerprint(other) != fingerprint(here)


ASKED = StageProfile(memory_gb=8, max_memory_gb=16, timeout_minutes=60)


def after(*outcomes, asked=ASKED, before=(), **limits):
    """Return the escalation after a submission with these outcomes."""
    return escalate("encode", [*before, Ended(asked, outcomes)], **limits)


def test_every_class_has_an_answer():
    assert set(ANSWERS) == set(FailureClass)
    assert len(set(EXIT_CODES.values()) - set(range(3))) == len(EXIT_CODES)


def test_memory_is_raised_up_to_the_profiles_limit():
    killed = TaskOutcome(FailureClass.HOST_MEMORY, job(State.OUT_OF_MEMORY))
    first = after(killed)
    assert first.profile == ASKED.model_copy(update={"memory_gb": 12})
    second = after(killed, asked=first.profile)
    assert second.profile.memory_gb == 16
    third = after(killed, asked=second.profile)
    assert third.profile == second.profile
    assert third.ask == {
        FailureClass.HOST_MEMORY: "stage encode was killed for memory at 16 GB, and max_memory_gb "
        "in [encode] of the profile (16) allows no more: raise it, then resume the run"
    }


def test_memory_that_was_not_asked_for_is_what_slurm_gave():
    given_ = job(State.OUT_OF_MEMORY, requested_memory=4 * GB)
    asked = StageProfile(max_memory_gb=64)
    killed = TaskOutcome(FailureClass.HOST_MEMORY, given_)
    assert after(killed, asked=asked).profile.memory_gb == 6
    unknown = TaskOutcome(FailureClass.HOST_MEMORY, None)
    assert after(unknown, asked=asked).profile.memory_gb == 64
    (sentence,) = after(killed, asked=StageProfile()).ask.values()
    assert "at 4 GB, and max_memory_gb in [encode] of the profile (not set)" in sentence


def test_time_is_raised_only_for_a_task_that_finished_nothing():
    progress = TaskOutcome(FailureClass.TIMEOUT, job(State.TIMEOUT), units_done=3)
    nothing = replace(progress, units_done=0)
    assert after(progress).profile == ASKED
    assert after(progress, nothing).profile == ASKED.model_copy(update={"timeout_minutes": 90})
    assert after(nothing, max_minutes=70).profile.timeout_minutes == 70
    stuck = after(nothing, max_minutes=60)
    assert stuck.profile == ASKED
    assert "finished no unit within 60 minutes" in stuck.ask[FailureClass.TIMEOUT]


def test_a_node_is_left_out_beside_those_of_the_profile():
    asked = ASKED.model_copy(update={"exclude": "n[7-8]"})
    bad = [TaskOutcome(FailureClass.NODE, job(State.NODE_FAIL, node=n)) for n in ("n2", "n1", "n2")]
    assert after(*bad, asked=asked).profile.exclude == "n[7-8],n1,n2"
    # Nobody says which of several it was; SLURM takes the one it lost out of use itself.
    several = [
        TaskOutcome(FailureClass.NODE, job(State.NODE_FAIL, node=n)) for n in ("n[1-2]", "a,b")
    ]
    assert after(*several).profile == ASKED
    assert after(TaskOutcome(FailureClass.NODE, None)).profile == ASKED


@pytest.mark.parametrize(
    "failure",
    [failure for failure, answer in ANSWERS.items() if answer.times == 0],
)
def test_what_only_the_user_can_mend_is_asked_at_once(failure):
    escalation = after(TaskOutcome(failure, job(State.FAILED)))
    assert escalation.profile == ASKED
    assert list(escalation.ask) == [failure]
    assert escalation.ask[failure].endswith(", then resume the run")


def test_it_says_who_cancelled():
    by = job(State.CANCELLED, cancelled_by="1000")
    (sentence,) = after(TaskOutcome(FailureClass.CANCELLED, by)).ask.values()
    assert "cancelled (by 1000)" in sentence
    (sentence,) = after(TaskOutcome(FailureClass.CANCELLED, None)).ask.values()
    assert "cancelled (by somebody)" in sentence


@pytest.mark.parametrize(
    "failure",
    [failure for failure, answer in ANSWERS.items() if answer.times],
)
def test_a_budget_is_spent_by_submissions_not_by_tasks(failure):
    ended = Ended(ASKED, (TaskOutcome(failure, job(State.FAILED)),) * 40)
    times = ANSWERS[failure].times
    assert not escalate("encode", [ended] * times).ask
    assert list(escalate("encode", [ended] * (times + 1)).ask) == [failure]


def test_a_task_lost_now_and_then_spends_nothing():
    """A user who may have few jobs in the queue has a stage made by hundreds of submissions."""
    good = Ended(ASKED, ())
    for failure in (FailureClass.LOST, FailureClass.NODE):
        bad = Ended(ASKED, (TaskOutcome(failure, job(State.FAILED)),))
        assert not escalate("encode", [bad, good] * 50 + [bad]).ask


def test_preemption_and_progress_spend_nothing():
    for outcome in (
        TaskOutcome(FailureClass.PREEMPTED, job(State.PREEMPTED)),
        TaskOutcome(FailureClass.TIMEOUT, job(State.TIMEOUT), units_done=1),
    ):
        escalation = escalate("encode", [Ended(ASKED, (outcome,))] * 50)
        assert (escalation.profile, escalation.ask) == (ASKED, {})


def test_classes_are_answered_beside_each_other():
    escalation = after(
        TaskOutcome(FailureClass.HOST_MEMORY, job(State.OUT_OF_MEMORY)),
        TaskOutcome(FailureClass.NODE, job(State.NODE_FAIL, node="n3")),
        TaskOutcome(FailureClass.ERROR, job(State.COMPLETED)),
    )
    assert (escalation.profile.memory_gb, escalation.profile.exclude) == (12, "n3")
    assert list(escalation.ask) == [FailureClass.ERROR]


@given(
    st.lists(
        st.tuples(st.sampled_from(FailureClass), st.sampled_from(sorted(ENDED)), st.integers(0, 2)),
        min_size=1,
        max_size=6,
    )
)
def test_no_round_goes_on_for_ever(kinds):
    """Except where tasks get on, or others took their place, the user is asked in the end."""
    outcomes = tuple(TaskOutcome(failure, job(state), done) for failure, state, done in kinds)
    free = {FailureClass.PREEMPTED, FailureClass.TIMEOUT, FailureClass.LOST}
    history = [Ended(ASKED, outcomes)]
    for _ in range(12):
        escalation = escalate("encode", history)
        assert escalation.profile.memory_gb <= ASKED.max_memory_gb
        history.append(Ended(escalation.profile, outcomes))
    assert {o.failure for o in outcomes} - set(escalation.ask) <= free
