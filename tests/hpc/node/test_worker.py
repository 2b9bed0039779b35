"""What a task does before, between and after its units: bind a GPU, stop, refuse, take over."""

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc.faults.breaker import Breaker
from hpc.faults.triage import EXIT_CODES, FailureClass
from hpc.node import gpu, worker
from hpc.node.environment import code_version
from hpc.node.gpu import other_type, visible_gpus
from hpc.node.worker import (
    StopFlag,
    abandoned,
    at_hand,
    bind_gpu,
    in_turn,
    run_slice,
    show_gpu,
    uncommitted,
)
from hpc.run.folder import RunFolder
from hpc.run.submissions import Submission
from jobs.drill import Fault
from storage_schemas.protocol.attempts import Attempt, attempts_of, begin
from storage_schemas.protocol.commit import committed_units
from storage_schemas.protocol.store import Store

Leave = Callable[..., Submission]


@pytest.fixture
def run(drilled: Callable[..., RunFolder], tmp_path: Path) -> RunFolder:
    """Return a drill whose stage `prepare` has four units, none of them tried."""
    return drilled(tmp_path / "run", 1)


@pytest.fixture(autouse=True)
def signals() -> Any:
    """Put the handlers of the stop flag back."""
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGUSR2)}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


@pytest.fixture(autouse=True)
def plain_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process be no task of a scheduler, without a GPU."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SUBMITIT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def prepared(run: RunFolder) -> Store:
    (store,) = run.stores("prepare")
    return store


def one_slice(run: RunFolder) -> list:
    return [[[(prepared(run).reference, unit)] for unit in range(4)]]


def submit(run: RunFolder, left: Leave, **given: Any) -> Submission:
    known = {"version": code_version(), "scheduler": "local"}
    return left(run, "prepare", one_slice(run), **known | given)


@given(st.lists(st.integers(), max_size=40), st.integers(1, 9))
def test_every_rank_walks_all_items_from_its_own_place(items: list[int], ranks: int) -> None:
    walks = [in_turn([[("s", i)] for i in items], number, ranks) for number in range(ranks)]
    for number, walk in enumerate(walks):
        assert sorted(walk) == sorted([("s", i)] for i in items)
        first = len(items) * number // ranks
        assert walk[: len(items) - first] == [[("s", i)] for i in items[first:]]


@pytest.mark.parametrize(
    ("visible", "local", "bound"),
    [
        ("0,1,2,3", "2", "2"),
        ("4,5", "3", "5"),
        ("7", "3", "7"),
        ("", "0", ""),
        ("0,1", None, "0,1"),
    ],
)
def test_a_rank_sees_one_gpu_of_its_node(visible: str, local: str | None, bound: str) -> None:
    environment = {"CUDA_VISIBLE_DEVICES": visible}
    if local is not None:
        environment["SLURM_LOCALID"] = local
    bind_gpu(environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == bound


def test_tasks_of_this_machine_share_its_gpus_in_turn() -> None:
    environment: dict[str, str] = {}
    show_gpu(environment, [], 3)
    assert environment == {}
    for index, gpu_ in enumerate(["a", "b", "a"]):
        show_gpu(environment, ["a", "b"], index)
        assert environment == {"CUDA_VISIBLE_DEVICES": gpu_}


@pytest.mark.parametrize(("named", "seen"), [("2,5", ["2", "5"]), ("", []), ("MIG-1", ["MIG-1"])])
def test_the_gpus_that_the_user_names_are_the_visible_ones(
    monkeypatch: pytest.MonkeyPatch, named: str, seen: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == seen


def test_the_driver_names_the_gpus_where_nobody_else_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 0\necho 1\n")
    driver.chmod(0o755)
    assert visible_gpus() == ["0", "1"]


def test_the_first_type_of_gpu_goes_on_record(tmp_path: Path) -> None:
    record = tmp_path / "gpus" / "extract.json"
    assert other_type(record, "A100") is None
    assert other_type(record, "A100") is None
    assert other_type(record, "H100") == "A100"


def test_a_task_commits_its_slice(run: RunFolder, left: Leave) -> None:
    made = submit(run, left)
    run_slice(str(made.units_file), 0)
    assert set(committed_units(prepared(run))) == {0, 1, 2, 3}
    assert made.halt is None


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_stops_a_task_after_its_unit(
    run: RunFolder, left: Leave, monkeypatch: pytest.MonkeyPatch, name: signal.Signals
) -> None:
    made = submit(run, left)
    count = Breaker.__call__

    def tell(self: Breaker, outcome: Any) -> None:
        count(self, outcome)
        os.kill(os.getpid(), name)

    monkeypatch.setattr(Breaker, "__call__", tell)
    run_slice(str(made.units_file), 0)
    assert 1 <= len(committed_units(prepared(run))) < 4
    assert all(a.outcome == "committed" for i in range(4) for a in attempts_of(prepared(run), i))


def test_the_flag_is_set_by_a_signal_only() -> None:
    stop = StopFlag()
    stop.install()
    assert not stop.requested
    os.kill(os.getpid(), signal.SIGUSR2)
    assert stop.requested


def test_a_task_with_other_code_begins_no_unit_and_stops_the_others(
    run: RunFolder, left: Leave, capsys: pytest.CaptureFixture[str]
) -> None:
    made = submit(run, left, version="another")
    with pytest.raises(SystemExit) as ended:
        run_slice(str(made.units_file), 0)
    assert ended.value.code == EXIT_CODES[FailureClass.DRIFT]
    assert "was submitted by gradenc another, its task found" in str(made.halt)
    assert capsys.readouterr().err.strip() == made.halt
    assert attempts_of(prepared(run), 0) == []


def test_a_task_on_another_type_of_gpu_begins_no_unit(
    run: RunFolder, left: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = submit(run, left, scheduler="slurm")
    found = ["A100", "A100", "H100"]
    monkeypatch.setattr(worker, "gpu_type", lambda: found.pop(0))
    for _ in range(2):
        run_slice(str(made.units_file), 0)
    assert made.halt is None
    with pytest.raises(SystemExit):
        run_slice(str(made.units_file), 0)
    assert "stage prepare was begun on A100, this task was given H100" in str(made.halt)
    assert json.loads((run.path / "gpus" / "prepare.json").read_bytes()) == {"gpu": "A100"}


@pytest.mark.parametrize(
    ("number", "stops"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False)]
)
def test_a_full_disk_stops_the_submission(
    run: RunFolder, left: Leave, monkeypatch: pytest.MonkeyPatch, number: int, stops: bool
) -> None:
    made = submit(run, left)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(worker, "run_items", refuse)
    with pytest.raises(OSError, match=os.strerror(number)):
        run_slice(str(made.units_file), 0)
    assert (made.halt is not None) == stops


def test_units_that_fail_alike_end_the_task_early(
    drilled: Callable[..., RunFolder], left: Leave, tmp_path: Path
) -> None:
    faults = tuple(Fault(stage="prepare", unit=unit, accident="error") for unit in range(8))
    run = drilled(tmp_path / "run", 1, units=8, faults=faults)
    reference = prepared(run).reference
    slices = [[[(reference, unit)] for unit in range(8)]]
    made = left(run, "prepare", slices, version=code_version(), scheduler="local")
    run_slice(str(made.units_file), 0)
    assert "the first 5 units all failed alike" in str(made.halt)
    tried = [unit for unit in range(8) if attempts_of(prepared(run), unit)]
    assert 5 <= len(tried) < 8


def hold(run: RunFolder, unit: int, job: str = "7_0", restarts: int = 0) -> Attempt:
    store = prepared(run)
    attempt = begin(store, store.units[unit], job, 0, restarts)
    assert attempt is not None
    return attempt


def test_a_rank_waits_only_for_units_that_its_own_job_has_begun(
    run: RunFolder, computed: Callable[..., None]
) -> None:
    (items,) = one_slice(run)
    hold(run, 0)
    hold(run, 1, job="8_0")
    hold(run, 2, restarts=1)
    hold(run, 3).finish("failed", error="ValueError: no")
    assert at_hand(items, run.root, "7_0", 0) == [items[0]]
    assert uncommitted(items, run.root) == items


def test_units_of_a_rank_that_died_are_taken_over(run: RunFolder) -> None:
    (items,) = one_slice(run)
    alive, dead = hold(run, 0), hold(run, 1)
    record = json.loads(dead.path.read_bytes())
    dead.path.write_text(json.dumps(record | {"pid_start": 0}))
    assert at_hand(items, run.root, "7_0", 0) == items[:2]
    assert abandoned(items[:2], run.root, "7_0", 0) == [items[1]]
    alive.finish("stopped")
    assert at_hand(items, run.root, "7_0", 0) == [items[1]]


def test_the_code_is_known_by_its_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from hpc.node import environment

    folder = tmp_path / "package"
    folder.mkdir()
    monkeypatch.setattr(environment, "PACKAGES", ("package",))
    monkeypatch.setattr(environment, "files", lambda _: folder)
    versions = []
    for name, text in (("a.py", "1"), ("a.py", "2"), ("notes.txt", "2"), ("b.py", "2")):
        (folder / name).write_text(text)
        versions.append(code_version.__wrapped__())
    assert versions[0] != versions[1] == versions[2] != versions[3]


@pytest.mark.parametrize(
    ("shown", "kind"), [("Gres=gpu:a100:2(S:0)", "a100"), ("Gres=gpu:2", "unknown")]
)
def test_slurm_names_a_gpu_that_the_driver_does_not_know(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shown: str, kind: str
) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho 'NodeName=n1 {shown} State=IDLE'\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    assert gpu.gpu_type() == kind
