"""Log files of tasks: which are a job's, their last lines, and how they are followed."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpc.inspect import logs
from hpc.inspect.logs import follow, last_lines, logs_in, logs_of_job
from hpc.run.drill import start_drill
from jobs.drill import Drill


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_POLL_S", 0.0)


def test_the_logs_of_a_job_are_those_of_its_ranks(tmp_path: Path) -> None:
    run = start_drill(tmp_path / "run", Drill())
    for name in ("0001/log/7_1_0_log.out", "0001/log/7_1_1_log.out", "0002/log/7_10_0_log.out"):
        path = run.path / "submissions" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = [path.name for path in logs_of_job(run, "7_1")]
    assert found == ["7_1_0_log.out", "7_1_1_log.out"]


def test_logs_are_sorted_by_their_last_change_and_show_their_end(tmp_path: Path) -> None:
    for number, name in enumerate(("b", "c", "a")):
        path = tmp_path / f"{name}_log.out"
        path.write_bytes(b"\n".join(b"line %d \xff" % n for n in range(30)))
        os.utime(path, (number, number))
    (tmp_path / "a_log.err").touch()
    assert [path.name[0] for path in logs_in(tmp_path)] == ["b", "c", "a"]
    shown = last_lines(tmp_path / "a_log.out")
    assert (len(shown), shown[0], shown[-1]) == (20, "line 10 \ufffd", "line 29 \ufffd")


def writer(steps: list[Callable[[], None]]) -> Callable[[], bool]:
    """Return what takes one step each time it is asked, and says whether more will follow."""

    def goes_on() -> bool:
        if steps:
            steps.pop(0)()
            return True
        return False

    return goes_on


def test_lines_are_printed_once_and_only_when_they_are_whole(tmp_path: Path) -> None:
    first, second = tmp_path / "1_log.out", tmp_path / "2_log.out"

    def add(path: Path, text: str) -> Callable[[], None]:
        def step() -> None:
            with path.open("a") as stream:
                stream.write(text)

        return step

    steps = [add(first, "one\ntw"), add(second, "other\n"), add(first, "o\n"), add(first, "thr")]
    seen = list(follow(lambda: sorted(tmp_path.glob("*.out")), writer(steps), 0.0))
    assert seen == [(first, "one"), (second, "other"), (first, "two"), (first, "thr")]


def test_following_asks_the_scheduler_no_more_often_than_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(float(n) for n in range(1000))
    monkeypatch.setattr(logs.time, "monotonic", lambda: next(now))
    looked: list[int] = []
    asked: list[int] = []

    def files() -> Iterator[Path]:
        looked.append(len(asked))
        return iter(())

    def goes_on() -> bool:
        asked.append(len(looked))
        return len(asked) < 3

    assert list(follow(files, goes_on, ask_every_s=10.0)) == []
    assert len(asked) == 3
    assert looked.count(1) == looked.count(2) == 10
    assert looked.count(3) == 1
