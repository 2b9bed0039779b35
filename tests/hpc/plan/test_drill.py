"""Runs whose units compute nothing, here: accidents, breakers, pilots, two runs at once."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hpc.node.worker import abandoned, at_hand
from hpc.plan.drill import drill_plans
from hpc.run.drill import start_drill
from hpc.run.folder import RunFolder
from hpc.run.submissions import submissions
from jobs.drill import Drill
from jobs.runner import Item
from jobs.spec import STAGES
from storage_schemas.protocol.attempts import AttemptRecord, attempts_of, begin
from storage_schemas.protocol.seal import run_digest

GRADENC = str(Path(sys.executable).with_name("gradenc"))
QUICK = ("--seconds", "0.02", "--units", "6")


def drill(run: Path, *arguments: object, status: int = 0) -> str:
    command = [GRADENC, "drill", str(run), *QUICK, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout + result.stderr


def resume(run: Path, *arguments: str, status: int = 0) -> str:
    result = subprocess.run(
        [GRADENC, "resume", str(run), *arguments], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout


def states(run: Path) -> dict:
    output = subprocess.run(
        [GRADENC, "status", str(run), "--json"], capture_output=True, text=True, check=True
    ).stdout
    answer = json.loads(output)
    return answer.get("stages", answer)


def digest_of(run: Path) -> str:
    folder = RunFolder.open(run)
    return run_digest([store for stage in STAGES for store in folder.stores(stage)])


def tries(run: Path, stage: str, unit: int) -> list[AttemptRecord]:
    (store,) = RunFolder.open(run).stores(stage)
    return attempts_of(store, unit)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the digest of a drill that met no accident."""
    run = tmp_path_factory.mktemp("clean") / "run"
    printed, digest = drill(run), digest_of(run)
    assert f"digest of the run: {digest}\n" in printed  # on one line, in a pipe too
    return digest


@pytest.mark.parametrize("stage", ["extract", "encode"])
def test_a_killed_task_leaves_the_same_bytes(tmp_path: Path, clean: str, stage: str) -> None:
    drill(tmp_path / "run", "--fault", f"{stage}:3:kill")
    assert digest_of(tmp_path / "run") == clean
    assert [a.outcome for a in tries(tmp_path / "run", stage, 3)] == ["running", "committed"]


def test_a_full_gpu_halves_the_micro_batch_of_the_unit_alone(tmp_path: Path, clean: str) -> None:
    run = tmp_path / "run"
    drill(run, "--fault", "extract:2:gpu_memory")
    assert digest_of(run) == clean
    (store,) = RunFolder.open(run).stores("extract")
    records = [json.loads(store.record_path(unit).read_bytes()) for unit in store.units]
    assert [r["facts"]["micro_batch"] for r in records] == [32, 32, 16, 32, 32, 32]
    assert len(tries(run, "extract", 2)) == 1


def test_an_error_waits_for_the_user_and_the_others_go_on(tmp_path: Path, clean: str) -> None:
    run = tmp_path / "run"
    drill(run, "--fault", "extract:2:error", status=1)
    before = states(run)["extract"]
    assert (before["committed"], before["failed"]) == (5, 1)
    assert [a.outcome for a in tries(run, "extract", 2)] == ["failed"]
    resume(run)
    assert digest_of(run) == clean


def test_units_that_all_fail_alike_stop_the_submission(tmp_path: Path, clean: str) -> None:
    run = tmp_path / "run"
    faults = [argument for i in range(5) for argument in ("--fault", f"extract:{i}:error")]
    drill(run, *faults, status=1)
    state = states(run)["extract"]
    assert (state["failed"], state["pending"]) == (5, 1)
    shown = subprocess.run([GRADENC, "status", str(run)], capture_output=True, text=True).stdout
    assert "the first 5 units all failed alike: ValueError: a drill's error" in shown
    resume(run)
    assert digest_of(run) == clean


def test_failures_after_a_success_stop_nothing(tmp_path: Path) -> None:
    faults = [argument for i in range(1, 6) for argument in ("--fault", f"extract:{i}:error")]
    drill(tmp_path / "run", *faults, status=1)
    state = states(tmp_path / "run")["extract"]
    assert (state["committed"], state["failed"], state["pending"]) == (1, 5, 0)


def test_a_unit_that_kills_every_task_is_given_up_until_the_user_asks(
    tmp_path: Path, clean: str
) -> None:
    run = tmp_path / "run"
    drill(run, *["--fault", "extract:0:kill"] * 3, status=1)
    state = states(run)["extract"]
    assert (state["committed"], state["failed"]) == (5, 1)
    assert len(tries(run, "extract", 0)) == 3
    resume(run)
    assert digest_of(run) == clean


def test_another_code_is_refused_before_it_touches_a_unit(tmp_path: Path, clean: str) -> None:
    run = tmp_path / "run"
    drill(run, "--no-wait")
    submission = submissions(RunFolder.open(run))[-1]
    payload = submission.units_file
    payload.write_bytes(payload.read_bytes().replace(b'"version":"0', b'"version":"9'))
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from hpc.node.worker import run_slice; run_slice({str(payload)!r}, 0)",
        ],
        capture_output=True,
        text=True,
    )
    assert result.returncode == os.EX_CONFIG
    assert "the code was changed in between" in result.stderr
    assert "the code was changed in between" in str(submission.halt)
    resume(run)
    assert digest_of(run) == clean


def test_two_runs_of_one_root_ask_for_each_unit_once(tmp_path: Path, clean: str) -> None:
    root = tmp_path / "root"
    arguments = [GRADENC, "drill", *QUICK, "--root", str(root), "--seconds", "0.3"]
    both = [
        subprocess.Popen([*arguments, str(tmp_path / name)], stdout=subprocess.DEVNULL)
        for name in "ab"
    ]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert {digest_of(tmp_path / name) for name in "ab"} == {clean}
    asked = [
        unit
        for name in "ab"
        for submission in submissions(RunFolder.open(tmp_path / name))
        for unit in submission.units()
    ]
    assert len(asked) == len(set(asked)) == 15


def test_a_pilot_makes_one_unit_of_each_kind_first(tmp_path: Path, clean: str) -> None:
    run = tmp_path / "run"
    drill(run, "--pilot")
    assert digest_of(run) == clean
    sizes = [(s.stage, len(list(s.units()))) for s in submissions(RunFolder.open(run))]
    assert sizes == [
        ("prepare", 1),
        ("ingest", 1),
        ("extract", 1),
        ("extract", 5),
        ("encode", 1),
        ("encode", 5),
        ("compare", 1),
    ]


def test_the_command_is_told_once_at_the_end(tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = tmp_path / "tell.sh"
    script.write_text(f'#!/bin/sh\necho "$1" >> {told}\n')
    script.chmod(0o755)
    drill(tmp_path / "run", "--notify", script)
    drill(tmp_path / "run", "--notify", script)
    assert told.read_text().splitlines() == [f"{tmp_path / 'run'} is complete"] * 2
    drill(tmp_path / "other", "--notify", script, "--fault", "prepare:0:error", status=1)
    assert "needs you" in told.read_text()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("extract:3:fire", "kill, memory"),
        ("extract", "STAGE:UNIT:KIND"),
        ("extract:x:kill", "e.g."),
    ],
)
def test_a_fault_that_is_none_is_refused(tmp_path: Path, fault: str, message: str) -> None:
    assert message in drill(tmp_path / "run", "--fault", fault, status=1)
    assert not (tmp_path / "run").exists()


def test_ranks_share_a_slice_and_gpus() -> None:
    from hpc.node.worker import bind_gpu, in_turn

    items = [[("store", i)] for i in range(7)]
    orders = [in_turn(items, number, 3) for number in range(3)]
    assert {order[0][0][1] for order in orders} == {0, 2, 4}
    assert all(sorted(order) == items for order in orders)
    environment = {"CUDA_VISIBLE_DEVICES": "4,6", "SLURM_LOCALID": "1"}
    bind_gpu(environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "6"
    assert os.environ.get("CUDA_VISIBLE_DEVICES") != "6"


def test_what_a_rank_holds_when_it_dies_is_made_by_one_that_was_done(
    tmp_path: Path, clean: str
) -> None:
    """Two real ranks without their cluster: one hangs in unit 1, the other passes it to make 2."""
    run = tmp_path / "run"
    accidents = ("extract:1:error", "extract:2:error", "extract:1:hang")
    drill(run, *(word for fault in accidents for word in ("--fault", fault)), status=1)
    (submission,) = [s for s in submissions(RunFolder.open(run)) if s.stage == "extract"]
    payload = submission.units_file
    frozen = json.loads(payload.read_bytes())
    frozen["slices"] = [sorted(item for part in frozen["slices"] for item in part)]
    payload.write_text(json.dumps(frozen))

    def start(number: int) -> subprocess.Popen:
        environment = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}
        code = f"from hpc.node.worker import run_slice; run_slice({str(payload)!r}, 0)"
        return subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **environment, "SLURM_PROCID": str(number)},
        )

    first = start(0)
    wait_for((run / "met" / "2-0").exists)
    second = start(1)
    try:
        wait_for(lambda: tries(run, "extract", 2)[-1].outcome == "committed")
        first.kill()
        assert second.wait(timeout=60) == 0
    finally:
        first.kill()
        second.kill()
    assert [a.outcome for a in tries(run, "extract", 1)] == ["failed", "running", "committed"]
    resume(run)
    assert digest_of(run) == clean


def test_ranks_wait_for_what_is_at_hand_and_take_only_what_the_dead_left(tmp_path: Path) -> None:
    drill = Drill(units=dict.fromkeys(STAGES, 3))
    run = start_drill(tmp_path / "run", drill)
    (plan,) = drill_plans(drill, run.path, "prepare", {})
    store = plan.create(run.root)
    items: list[Item] = [[(store.reference, i)] for i in range(3)]
    living, dead = (begin(store, store.units[i], "7", 1) for i in range(2))
    assert living is not None
    assert dead is not None
    dead.path.write_text(json.dumps(dead.record.model_dump() | {"pid_start": 1}))
    assert at_hand(items, run.root, "7", 0) == items[:2]
    assert abandoned(items, run.root, "7", 0) == items[1:2]
    assert at_hand(items, run.root, "7", 1) == []
    living.finish("failed", error="ValueError: no")
    assert at_hand(items, run.root, "7", 0) == abandoned(items, run.root, "7", 0) == items[1:2]


def wait_for(what: Callable[[], bool], limit: float = 60.0) -> None:
    deadline = time.monotonic() + limit
    while not what():
        assert time.monotonic() < deadline, f"{what} was not true in {limit:g} s"
        time.sleep(0.05)


def test_tasks_here_take_turns_at_the_gpus_that_were_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver's answer is a recorded line: there is no GPU here."""
    from hpc.node.gpu import visible_gpus
    from hpc.node.worker import show_gpu

    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\n[ $1 = --query-gpu=index ] && printf '0\\n1\\n'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5a,2")
    assert visible_gpus() == ["GPU-5a", "2"]
    seen = []
    for index in range(3):
        environment = {"CUDA_VISIBLE_DEVICES": ""}  # as submitit leaves it
        show_gpu(environment, visible_gpus(), index)
        seen.append(environment["CUDA_VISIBLE_DEVICES"])
    assert seen == ["GPU-5a", "2", "GPU-5a"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_the_type_of_gpu_is_the_drivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's answer is a recorded line: there is no GPU here."""
    from hpc.node.gpu import gpu_type, other_type

    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\n[ $1 = --id=3 ] && echo 'NVIDIA A100-SXM4-80GB'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_type() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    assert gpu_type() == "NVIDIA A100-SXM4-80GB"
    record = tmp_path / "gpus" / "extract.json"
    assert other_type(record, "NVIDIA A100-SXM4-80GB") is None
    assert other_type(record, "NVIDIA A100-SXM4-80GB") is None
    assert other_type(record, "NVIDIA H100 80GB HBM3") == "NVIDIA A100-SXM4-80GB"


def test_gpu_hours_are_asked_for_before_they_are_held(tmp_path: Path) -> None:
    from hpc.config.profile import StageProfile
    from hpc.run.budget import fitted, over_budget, pilots

    run = RunFolder.create(tmp_path / "run", "drill", None, {})
    run.change(max_gpu_hours=1.0)
    profile = StageProfile(gpus_per_node=4, ranks_per_node=2, timeout_minutes=60, slots=2)
    missing = [[("a", i)] for i in range(10)] + [[("a", i), ("b", i)] for i in range(10, 20)]
    seconds = {"a": 60.0, "b": 120.0}
    assert pilots(missing, {"a": 60.0}) == [missing[10]]
    assert pilots(missing, seconds) == []
    # 10 x 60 s + 10 x 120 s of ranks with two GPUs each are one hour.
    assert over_budget(run, "extract", profile, missing, seconds) is None
    told = over_budget(run, "extract", profile, [*missing, [("a", 20)]], seconds)
    assert told is not None
    assert "about 1 GPU hours more (21 units" in told
    assert over_budget(run, "encode", StageProfile(), missing * 100, seconds) is None
    assert fitted(profile, missing, seconds).units_per_task == 10
    assert fitted(profile, missing, {"b": 600.0}).units_per_task == 9
    assert fitted(profile, missing, {}).units_per_task is None
