"""Runs by the command that users type that are damaged, killed, or submitted by several at once.

They are mended by running again, and give the same digest as a run that nothing happened to.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from hpc.run.folder import RunFolder
from jobs.spec import STAGES
from storage_schemas.protocol.attempts import attempts_of, begin
from storage_schemas.protocol.commit import commit, withdraw
from storage_schemas.protocol.seal import run_digest, seal

GRADENC = str(Path(sys.executable).with_name("gradenc"))


def gradenc(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [GRADENC, *map(str, arguments)], capture_output=True, text=True, timeout=600
    )
    if check and result.returncode:
        raise AssertionError(f"{arguments}:\n{result.stdout}\n{result.stderr}")
    return result


def digest_of(run: Path) -> str:
    folder = RunFolder.open(run)
    return run_digest([store for stage in STAGES for store in folder.stores(stage)])


def descendants(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def flip(shard: Path, record: Path) -> None:
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "flipped byte": flip,
    "truncated shard": lambda shard, record: shard.write_bytes(shard.read_bytes()[:-7]),
    "deleted shard": lambda shard, record: shard.unlink(),
    "torn record": lambda shard, record: record.write_bytes(record.read_bytes()[:-40]),
}


def test_damaged_units_are_named_and_repaired_alone(small_run: Path, tmp_path: Path) -> None:
    """Each kind of damage hits a unit of its own; one resume mends them all."""
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    before = digest_of(run)
    stores = [s for s in RunFolder.open(run).stores("extract") if s.kind == "features"][:2]
    units = [(store, store.units[i]) for store in stores for i in (0, 1)]
    for (store, unit), damage in zip(units, DAMAGE.values(), strict=True):
        damage(store.data / store.owned_files(unit)[0], store.record_path(unit))
    times = {p: p.stat().st_mtime_ns for p in run.glob("stores/*/*/commits/*/*.json")}
    result = gradenc("verify", "--deep", run, check=False)
    assert result.returncode == 1
    named = set(re.findall(r"unit ([0-9a-f]{12}-\d{5})", result.stdout))
    assert named == {store.unit_id(unit) for store, unit in units}
    gradenc("resume", run)
    assert digest_of(run) == before
    changed = {p for p, t in times.items() if p.stat().st_mtime_ns != t}
    assert changed == {store.record_path(unit) for store, unit in units}


def test_what_no_record_describes_is_named_and_repaired(small_run: Path, tmp_path: Path) -> None:
    """A sealed store without a record, names of layers, a plan, a whole store: one resume."""
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    before = digest_of(run)
    stores = {stage: RunFolder.open(run).stores(stage) for stage in STAGES}
    stores["extract"][0].record_path(stores["extract"][0].units[1]).unlink()
    unit = stores["extract"][0].unit_id(stores["extract"][0].units[1])
    assert f"unit {unit}: it is not committed" in gradenc("verify", run, check=False).stdout

    shutil.rmtree(stores["encode"][1].path)
    lost = [
        stores["prepare"][0].path / "plan.json",
        stores["extract"][1].data / "layer" / "c" / "0",
        stores["compare"][0].data / "zarr.json",
    ]
    for path in lost:
        path.write_bytes(path.read_bytes()[:-1])
    result = gradenc("verify", run, check=False)
    assert result.returncode == 1
    for path in [*lost, stores["encode"][1].path]:
        assert str(path.relative_to(run / "stores")) in result.stdout
    assert "1 committed unit(s) were damaged" in gradenc("resume", run).stdout
    assert digest_of(run) == before
    gradenc("verify", "--deep", run)


def test_a_deleted_store_of_the_first_stages_is_made_by_submitting_again(
    small_run: Path, small_data: dict, tmp_path: Path
) -> None:
    run, study = tmp_path / "run", tmp_path / "study.yaml"
    shutil.copytree(small_run, run)
    study.write_text(yaml.safe_dump(small_data))
    before = digest_of(run)
    shutil.rmtree(RunFolder.open(run).stores("prepare")[0].path)
    refused = gradenc("resume", run, check=False)
    assert refused.returncode == 1
    assert f"gradenc submit STUDY --run {run}" in refused.stderr
    gradenc("submit", study, "--run", run)
    assert digest_of(run) == before


def test_results_follow_a_store_that_is_sealed_anew_with_other_bytes(
    small_run: Path, tmp_path: Path
) -> None:
    """As after a repair on a GPU of another type, by this run or by one that shares the store."""
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    before = digest_of(run)
    folder = RunFolder.open(run)
    features = next(s for s in folder.stores("extract") if s.attrs["source"] != "forward")
    unit = features.units[1]
    values = features.dataset()["features"][:, slice(*unit.regions["features"][1])].to_numpy()
    withdraw(features, unit)
    attempt = begin(features, unit, job="test", round_=0)
    commit(features, unit, {"features": values * np.float32(1.001)}, {}, attempt)
    attempt.finish("committed")
    sealed = seal(features).digest

    result = gradenc("verify", run, check=False)
    assert result.returncode == 1
    for store in folder.stores("encode"):
        uses = features.attrs["source"] in store.attrs.get("source", store.attrs.get("bands"))
        assert (store.reference in result.stdout) == uses
    kept = {store.identity for store in folder.stores("encode")}
    gradenc("resume", run)
    gradenc("verify", "--deep", run)
    assert digest_of(run) != before
    assert sealed in (folder.stores("encode")[-1].path / "plan.json").read_text()
    shared = kept & {store.identity for store in folder.stores("encode")}
    assert len(shared) == len(kept) - 4, "what does not use these features is kept"


def test_quick_resume_compares_sizes_only(small_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    store = RunFolder.open(run).stores("compare")[0]
    shard, record = store.data / store.owned_files(store.units[0])[0], Path()
    flip(shard, record)
    assert "were damaged" not in gradenc("resume", "--quick", run).stdout
    assert "1 committed unit(s) were damaged" in gradenc("resume", run).stdout


@pytest.mark.parametrize(
    ("submitting", "resuming"),
    [
        (["driver"], ["everything"]),
        pytest.param(["driver", "everything"], ["everything", "driver"], marks=pytest.mark.long),
    ],
    ids=["twice", "four times"],
)
def test_killed_cancelled_and_run_again_gives_the_same_digest(
    small_run: Path,
    small_study: Path,
    tmp_path: Path,
    submitting: list[str],
    resuming: list[str],
) -> None:
    rng, run = random.Random(4), tmp_path / "run"
    submit = [GRADENC, "submit", str(small_study), "--run", str(run)]
    for victims in submitting:
        kill_after(rng.uniform(4, 16), submit, victims)
    gradenc("submit", small_study, "--run", run, "--no-wait")
    gradenc("cancel", run)
    assert "cancelled" in gradenc("status", run).stdout
    for victims in resuming:
        kill_after(rng.uniform(4, 16), [GRADENC, "resume", str(run)], victims)
    gradenc("resume", run)
    assert digest_of(run) == digest_of(small_run)
    # A killed writer of an attempt's record may leave its temporary file; nothing else may stay.
    partials = [p for p in run.glob("stores/**/*.partial") if "attempts" not in p.parts]
    assert not partials


def kill_after(seconds: float, command: list[str], victims: str) -> None:
    """Start a driver and kill it: alone, or with every task that it started."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    alive = descendants(process) if process.poll() is None else []
    process.kill()
    process.wait()
    if victims == "everything":
        for child in alive:
            if child.is_running():
                os.kill(child.pid, signal.SIGKILL)


@pytest.fixture(params=["drill", pytest.param("study", marks=pytest.mark.long)])
def submit_into(
    request: pytest.FixtureRequest, small_data: dict, tmp_path: Path
) -> Callable[[Path], list[str]]:
    """Return the command that submits a drill, or the small study, into a run of a shared root.

    Three submissions of a study import torch six times; a drill shares units in the same way.
    """
    root, study = tmp_path / "root", tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(small_data | {"store_root": str(root)}))
    if request.param == "study":
        return lambda run: ["submit", str(study), "--run", str(run)]
    return lambda run: ["drill", str(run), "--root", str(root), "--seconds", "0.2"]


def test_submitters_at_once_make_every_unit_once(
    submit_into: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    """Three users submit the same work at the same moment, two of them into the same run."""
    runs = [tmp_path / name for name in "aab"]
    all_at_once = [
        subprocess.Popen(
            [GRADENC, *submit_into(run)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for run in runs
    ]
    for process in all_at_once:
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output
    assert len({digest_of(run) for run in runs}) == 1
    stores = [store for stage in STAGES for store in RunFolder.open(runs[0]).stores(stage)]
    for store in stores:
        for unit in store.units:
            made = [a for a in attempts_of(store, unit.index) if a.used.seconds is not None]
            assert len(made) == 1, (store.label, made)


def test_a_failing_unit_tells_status_and_logs_why(
    small_files: Path, small_data: dict, tmp_path: Path
) -> None:
    stimuli = tmp_path / "stimuli"
    shutil.copytree(small_files / "stimuli", stimuli)
    data = small_data | {"stimuli": str(stimuli), "signals": ["forward"], "objectives": []}
    study, run = tmp_path / "study.yaml", tmp_path / "run"
    study.write_text(yaml.safe_dump(data))
    gradenc("submit", study, "--run", run, "--no-wait")
    victim = sorted(stimuli.glob("*.png"))[40]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-20])
    result = gradenc("resume", run, check=False)
    assert result.returncode == 1
    assert victim.name in gradenc("status", run).stdout
    assert "Traceback" in gradenc("logs", run).stdout
    committed = set(run.glob("stores/*/*/commits/*/*.json"))
    assert committed
    victim.write_bytes(whole)
    gradenc("resume", run)
    assert committed <= set(run.glob("stores/*/*/commits/*/*.json"))
