"""When the tasks of a submission stop because its first units all fail alike."""

from pathlib import Path

import pytest

from hpc.faults.breaker import Breaker
from hpc.faults.triage import BREAKER, FailureClass
from jobs.runner import Outcome

TRACEBACK = "Traceback (most recent call last):\n  File '/a/{n}.py'\nValueError: image {n} is torn"


def fail(breaker: Breaker, n: int, text: str = TRACEBACK) -> None:
    breaker(Outcome(0, text.format(n=n)))


def test_tasks_share_their_count_and_the_sentence(tmp_path: Path) -> None:
    tasks = [Breaker(tmp_path) for _ in range(BREAKER)]
    for n, task in enumerate(tasks):
        assert not task.stopped
        fail(task, n)
    assert all(task.stopped for task in tasks)
    assert tasks[0].sentence == (
        f"the first {BREAKER} units all failed alike: ValueError: image {BREAKER - 1} is torn"
    )


def test_failures_of_different_causes_are_counted_apart(tmp_path: Path) -> None:
    breaker = Breaker(tmp_path)
    causes = ("ValueError: no", "KeyError: no", "TypeError: no")
    for n in range(3 * (BREAKER - 1)):
        fail(breaker, n, causes[n % 3])
    assert not breaker.stopped
    fail(breaker, 0, causes[0])
    assert breaker.stopped


def test_one_commit_of_any_task_keeps_the_others_at_work(tmp_path: Path) -> None:
    Breaker(tmp_path)(Outcome(1, None))
    breaker = Breaker(tmp_path)
    for n in range(2 * BREAKER):
        fail(breaker, n)
    assert not breaker.stopped
    assert breaker.sentence is None


def test_a_unit_that_failed_after_its_partners_were_committed_counts_as_a_commit(
    tmp_path: Path,
) -> None:
    breaker = Breaker(tmp_path)
    breaker(Outcome(1, TRACEBACK.format(n=0)))
    for n in range(BREAKER):
        fail(breaker, n)
    assert not breaker.stopped


def test_the_first_reason_to_stop_stays(tmp_path: Path) -> None:
    breaker = Breaker(tmp_path)
    breaker.stop(FailureClass.DISK, "No space left on device")
    breaker.stop(FailureClass.DRIFT, "the code was changed")
    assert Breaker(tmp_path).sentence == "No space left on device"


@pytest.mark.parametrize(("content", "sentence"), [(b'{"failure": "error"}', "is damaged")])
def test_a_damaged_halt_still_stops_and_is_named(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    (tmp_path / "halt.json").write_bytes(content)
    breaker = Breaker(tmp_path)
    assert breaker.stopped
    assert sentence in str(breaker.sentence)
