"""What `status`, `logs`, `resume --only` show of drills on this machine, and what they may not."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from hpc.inspect.status import commits_since
from hpc.run.folder import RunFolder, Wishes

GRADENC = str(Path(sys.executable).with_name("gradenc"))
DOCS = Path(__file__).parents[3] / "docs" / "seeing.md"


def gradenc(*arguments: object, status: int = 0) -> str:
    result = subprocess.run([GRADENC, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout + result.stderr


def seen(run: Path) -> dict[str, Any]:
    return dict(json.loads(gradenc("status", run, "--json")))


def drill(run: Path, *options: object, status: int = 0) -> None:
    gradenc("drill", run, "--seconds", 0.05, *options, status=status)


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run in which two units failed alike and a task was killed."""
    run = tmp_path_factory.mktemp("failed") / "run"
    faults = ("extract:1:error", "extract:4:error", "extract:6:kill")
    drill(run, *(word for fault in faults for word in ("--fault", fault)), status=1)
    return run


def test_failures_are_grouped_and_ends_of_tasks_counted(failed: Path) -> None:
    found = seen(failed)
    assert found["state"] == "needs you"
    assert found["queue"] == {"scheduler": "local", "problem": None, "gate": None}
    (group,) = found["failures"]
    assert (group["stage"], group["class"], group["units"]) == ("extract", "error", 2)
    assert group["error"] == "ValueError: a drill's error in unit 1"
    assert group["example"].endswith("-00001")
    assert [(e["stage"], e["class"], e["tasks"]) for e in found["ended"]] == [
        ("extract", "lost", 1)
    ]


def test_the_counts_of_a_stage(failed: Path) -> None:
    stages = seen(failed)["stages"]
    extract = stages["extract"]
    assert {key: extract[key] for key in ("planned", "sealed", "units", "committed", "failed")} == {
        "planned": True,
        "sealed": False,
        "units": 8,
        "committed": 6,
        "failed": 2,
    }
    assert extract["units_per_hour"] is extract["expected_end"] is extract["gpu_hours"] is None
    assert not stages["encode"]["planned"]


def test_the_table_says_what_to_do(failed: Path) -> None:
    shown = gradenc("status", failed)
    example = seen(failed)["failures"][0]["example"]
    assert f"see `gradenc logs {failed} {example}`" in shown
    assert f"`gradenc resume {failed}` goes on" in shown
    assert "1 task was ended without recording why" in shown


def test_watching_ends_with_the_run(failed: Path) -> None:
    assert "needs you" in gradenc("status", failed, "--watch")


def test_json_is_printed_once(failed: Path) -> None:
    assert "--watch none" in gradenc("status", failed, "--watch", "--json", status=1)


def test_every_key_of_json_is_documented(failed: Path) -> None:
    documented = set(re.findall(r"`([\w.]+)`", DOCS.read_text()))
    found = seen(failed)
    stages = found.pop("stages")
    objects = [found, stages["extract"], *found["failures"], *found["ended"]]
    assert {key for each in objects for key in keys(each)} <= documented


def keys(value: dict[str, Any]) -> list[str]:
    """Return the keys of an object, those of `queue` and `tasks` with a dot between."""
    nested = {key: each for key, each in value.items() if key in ("queue", "tasks")}
    nested = {key: each for key, each in nested.items() if isinstance(each, dict)}
    dotted = [f"{key}.{inner}" for key, each in nested.items() for inner in each]
    return [*(key for key in value if key not in nested), *dotted]


def test_logs_show_one_unit_of_what_failed_alike(failed: Path) -> None:
    shown = gradenc("logs", failed)
    assert "extract: 2 unit(s) failed (error)" in shown
    assert shown.count("Traceback") == 1
    (log,) = re.findall(r"log: (.*)", shown)
    assert "ValueError: a drill's error in unit 1" in Path(log).read_text()


def test_a_stage_that_was_stopped_shows_why_and_the_end_of_a_log(tmp_path: Path) -> None:
    run = tmp_path / "run"
    faults = (word for unit in range(6) for word in ("--fault", f"extract:{unit}:error"))
    drill(run, "--units", 6, *faults, status=1)
    decision = seen(run)["stages"]["extract"]["decision"]
    assert decision.startswith("the first 5 units all failed alike")
    assert decision in gradenc("status", run)
    shown = gradenc("logs", run)
    assert decision in shown
    assert "ValueError: a drill's error in unit 4" in shown.partition(decision)[2]


def test_logs_of_a_unit_show_every_attempt(failed: Path) -> None:
    killed = seen(failed)["failures"][0]["example"][:-1] + "6"
    shown = gradenc("logs", failed, killed)
    assert re.findall(r"attempt (\d) .*: (\w+)\n", shown) == [("1", "running"), ("2", "committed")]


def test_following_a_unit_that_has_ended_prints_its_log_and_ends(failed: Path) -> None:
    example = seen(failed)["failures"][0]["example"]
    assert "ValueError: a drill's error in unit 1" in gradenc("logs", failed, example, "-f")


def test_an_unknown_unit_is_refused(failed: Path) -> None:
    assert "has no unit '3fa9c1d2e4b5-00003'" in gradenc(
        "logs", failed, "3fa9c1d2e4b5-00003", status=1
    )


def test_a_run_without_gates_has_no_log_of_one(failed: Path) -> None:
    assert "has had no gate" in gradenc("logs", failed, "--gate")


def test_only_what_is_named_is_tried_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    drill(run, "--fault", "extract:1:error", "--fault", "extract:4:error", status=1)
    example = seen(run)["failures"][0]["example"]
    refusal = gradenc("resume", run, "--only", "encode", status=1)
    assert "--only encode: nothing that failed" in refusal
    gradenc("resume", run, "--quick", "--only", example, status=1)
    (group,) = seen(run)["failures"]
    assert (group["units"], group["example"]) == (1, example[:-1] + "4")
    gradenc("resume", run, "--quick", "--only", "error")
    assert seen(run)["state"] == "complete"


def test_a_round_is_for_those_it_names() -> None:
    wishes = Wishes(round=3, only={2: ("extract", "error")})
    assert wishes.renewals({"extract", "a-00001"}) == 3
    assert wishes.renewals({"encode", "b-00001", "lost"}) == 2
    assert wishes.renewals({"encode"}, since=1) == 1
    assert wishes.renewals({"encode"}, since=3) == 0


def test_commits_are_found_by_their_time(failed: Path) -> None:
    (store,) = RunFolder.open(failed).stores("extract")
    for unit in (0, 2, 3):
        os.utime(store.record_path(store.units[unit]), (1e9 + unit, 1e9 + unit))
    committed = dict(map(reversed, commits_since(store, 0.0)))
    assert committed.keys() == {0, 2, 3, 5, 6, 7}
    assert committed[3] == 1e9 + 3
    assert {index for _, index in commits_since(store, 1e9 + 4)} == {5, 6, 7}
    assert not list(commits_since(store, time.time() + 60))


def test_a_run_at_work_shows_its_rate_and_its_output(tmp_path: Path) -> None:
    run = tmp_path / "run"
    driver = subprocess.Popen(
        [GRADENC, "drill", run, "--units", "6", "--seconds", "1.5"],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        found = wait_until(run, lambda found: 1 < found["stages"]["extract"]["committed"] < 5)
        extract = found["stages"]["extract"]
        assert found["state"] == "at work"
        assert extract["tasks"] == {"running": 1, "waiting": {}}
        assert 600 < extract["units_per_hour"] <= 2400
        assert datetime.fromisoformat(extract["expected_end"]).timestamp() > time.time() - 60
        driver.send_signal(signal.SIGKILL)
        # Its tasks live on; what they print is followed to their end.
        assert "Job completed successfully" in gradenc("logs", run, "-f")
        found = seen(run)
    finally:
        driver.kill()
        driver.wait()
    assert found["stages"]["extract"]["committed"] == 6
    assert found["stages"]["extract"]["units_per_hour"] is None
    assert found["state"] == "idle"
    assert f"`gradenc resume {run}` goes on" in gradenc("status", run)


def wait_until(run: Path, holds: Any, limit_s: float = 90.0) -> dict[str, Any]:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if (run / "run.json").exists() and holds(found := seen(run)):
            return found
        time.sleep(0.2)
    raise AssertionError(f"not seen within {limit_s} s: {seen(run)}")
