"""Refusals of the commands: one sentence on stderr, exit status 1, nothing changed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hpc.cli.app import app
from hpc.run.folder import RunFolder
from jobs.spec import STAGES


def gradenc(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def refusal(*words: object) -> str:
    """Return the sentence with which a command ends."""
    result = gradenc(*words)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("error: ").strip()


@pytest.fixture(scope="module")
def run(drilled: Callable[..., RunFolder], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Return a drill whose first two stages are sealed, and which keeps no profile."""
    return drilled(tmp_path_factory.mktemp("refusals") / "run", 3)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["logs", "RUN", "nothing"], "has no unit 'nothing'"),
        (["why", "RUN", "nothing"], "has no unit 'nothing'"),
        (["status", "RUN", "--watch", "--json"], "--watch none: give one of them"),
        (["resume", "RUN"], "keeps no profile"),
        (["resume", "RUN", "--profile", "local", "--only", "x"], "--only x: nothing that failed"),
        (["resume", "RUN", "--profile", "nope"], "profile 'nope' is not shipped"),
        (["drill", "RUN"], "holds another drill; give this one a folder of its own"),
        (["drill", "NEW", "--fault", "extract:three:kill"], "accepted: STAGE:UNIT:KIND"),
        (["drill", "NEW", "--fault", "extract:3:melt"], "accepted: STAGE:UNIT:KIND"),
        (["drill", "NEW", "--profile", "nope.toml"], "nope.toml: no such file"),
        (["du", "NEW"], "is neither a run (no run.json) nor a store root"),
        (["gc", "NEW"], "is neither a run (no run.json) nor a store root"),
        (["explain", "NEW", "RUN"], "is no store: give <root>/<stage>/<hash>-<label>"),
        (["plan", "NEW"], "no such file; accepted: a study file"),
        (["submit", "NEW"], "no such file; accepted: a study file"),
        (["profile", "show", "nope"], "profile 'nope' is not shipped"),
        (["doctor", "--profile", "nope"], "profile 'nope' is not shipped"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_refusal_is_one_sentence(
    run: RunFolder, tmp_path: Path, words: list[str], sentence: str
) -> None:
    places = {"RUN": run.path, "NEW": tmp_path / "new"}
    before = run.wishes
    assert sentence in refusal(*(places.get(word, word) for word in words))
    assert not (tmp_path / "new").exists()
    assert run.wishes == before


@pytest.mark.parametrize("command", ["status", "why", "verify", "cancel", "logs", "query", "du"])
def test_a_damaged_run_file_is_named(tmp_path: Path, command: str) -> None:
    (tmp_path / "run.json").write_text('{"name": "x"')
    assert str(tmp_path) in refusal(command, tmp_path)


def test_an_unfinished_run_is_not_queried_without_asking(run: RunFolder) -> None:
    assert f"gradenc resume {run.path}" in refusal("query", run.path)


def test_json_of_status_holds_every_stage_with_the_same_keys(run: RunFolder) -> None:
    found = json.loads(gradenc("status", run.path, "--json").stdout)
    assert list(found) == [
        *("run", "name", "state", "queue", "stages", "failures", "ended", "warnings"),
    ]
    assert (found["run"], found["name"], found["state"]) == (str(run.path), "drill", "idle")
    assert found["queue"] == {"scheduler": "local", "problem": None, "gate": None}
    assert list(found["stages"]) == list(STAGES)
    assert len({tuple(stage) for stage in found["stages"].values()}) == 1
    for stage in found["stages"].values():
        counted = sum(stage[name] for name in ("committed", "running", "failed", "pending"))
        assert counted == stage["units"]
        assert (stage["tasks"], stage["failures"]) == ({"running": 0, "waiting": {}}, {})
    sealed = [name for name, stage in found["stages"].items() if stage["sealed"]]
    assert sealed == ["prepare", "ingest"]
    assert [name for name, stage in found["stages"].items() if stage["planned"]] == [
        *sealed,
        "extract",
    ]


def test_status_says_that_nobody_drives_the_run(run: RunFolder) -> None:
    said = " ".join(gradenc("status", run.path).stdout.split())
    assert "no task is at work" in said
    assert "4/4" in said


def test_a_store_that_no_run_uses_is_listed_and_kept(run: RunFolder) -> None:
    found = json.loads(gradenc("du", run.path, "--json").stdout)
    assert {entry["store"].partition("/")[0] for entry in found} == {"prepare", "ingest", "extract"}
    assert all(entry["runs"] == [str(run.path)] and entry["units"] == 4 for entry in found)
    assert {entry["sealed"] for entry in found} == {True, False}
    said = gradenc("gc", run.path).stdout
    assert "is used by a run" in " ".join(said.split())
    assert all((run.root / entry["store"]).is_dir() for entry in found)


def test_verify_counts_what_it_read(run: RunFolder) -> None:
    said = " ".join(gradenc("verify", run.path).stdout.split())
    assert "8 committed unit(s) in 3 store(s) are whole." in said


def test_cancelling_twice_says_so_both_times(
    drilled: Callable[..., RunFolder], tmp_path: Path
) -> None:
    run = drilled(tmp_path / "run", 1)
    for _ in range(2):
        assert gradenc("cancel", run.path).stdout.startswith("cancelled: ended 0 task(s)")
    assert "The run is cancelled" in gradenc("status", run.path).stdout
    assert run.cancelled
