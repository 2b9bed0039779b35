"""The whole path by the command that users type, on real files, killed and resumed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import psutil
import pytest
import xarray as xr
import yaml

from gradenc_core.ceilings import noise_ceiling
from hpc.folder import RunFolder
from hpc.plan import extract_plans, prepare_plans
from hpc.resolve import resolve
from hpc.study import load_study
from hpc.targets import Targets
from jobs.spec import STAGES, Reference
from storage_schemas import open_run
from storage_schemas.seal import run_digest

GRADENC = str(Path(sys.executable).with_name("gradenc"))


def gradenc(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [GRADENC, *map(str, arguments)], capture_output=True, text=True, timeout=240
    )
    if check and result.returncode:
        raise AssertionError(f"{arguments}:\n{result.stdout}\n{result.stderr}")
    return result


def digest_of(run: Path) -> str:
    folder = RunFolder.open(run)
    return run_digest([store for stage in STAGES for store in folder.stores(stage)])


def descendants(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.fixture(scope="module")
def finished(small_data: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run of the small study."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "study.yaml").write_text(yaml.safe_dump(small_data))
    gradenc("submit", folder / "study.yaml", "--run", folder / "run")
    return folder / "run"


def test_status_of_a_finished_run(finished: Path) -> None:
    stages = json.loads(gradenc("status", finished, "--json").stdout)
    assert list(stages) == list(STAGES)
    for stage in stages.values():
        assert stage["sealed"]
        assert stage["committed"] == stage["units"] > 0


def test_every_committed_byte_is_verified(finished: Path) -> None:
    output = gradenc("verify", "--deep", finished).stdout
    assert digest_of(finished) in output.replace("\n", "")


def test_a_copied_run_opens_with_all_coordinates(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "elsewhere")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = open_run(tmp_path / "elsewhere")
        fmri = tree["scores/planted/sub-01/fmri"].to_dataset()
        meg = tree["scores/planted/sub-02/meg"].to_dataset()
    assert set(fmri["bands"].values) == {
        "forward",
        "gradient:classification",
        "forward_all+gradient:classification",
    }
    assert fmri["r"].dims == ("bands", "layer", "fold", "voxel")
    assert meg["r"].dims == ("bands", "layer", "fold", "sensor", "time")
    assert {"roi", "hemisphere", "x", "y", "z", "layer_depth"} <= set(fmri.coords)
    assert meg["time"].attrs["units"] == "s"
    assert np.isfinite(fmri["r"].sel(bands="forward").values).all()
    best = fmri["r"].sel(bands="forward").mean("fold").max("layer")
    assert best.mean() > 0.2
    recorded = tree["responses/sub-01/fmri"].to_dataset().load()
    expected = noise_ceiling(recorded["ncsnr"].values, recorded["n_repeats"].values)
    assert fmri["noise_ceiling"].dims == ("voxel",)
    assert fmri["noise_ceiling"].values == pytest.approx(expected, nan_ok=True)


@pytest.mark.filterwarnings("error")
def test_every_store_opens_with_plain_xarray(finished: Path) -> None:
    stores = list((finished / "stores").glob("*/*/data.zarr"))
    assert stores
    for store in stores:
        assert xr.open_datatree(store, engine="zarr").ds.data_vars


def test_the_report_renders_in_a_browser(finished: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    assert chromium, "no chromium: run `make browser` as root"
    result = subprocess.run(
        [
            chromium,
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1100,3000",
            f"--screenshot={tmp_path / 'page.png'}",
            "--dump-dom",
            f"{(finished / 'report.html').as_uri()}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.stdout.count("<figure>") == 5
    assert "What each hypothesis predicts" in result.stdout
    assert digest_of(finished) in result.stdout
    assert "http" not in (finished / "report.html").read_text()


def test_submitting_again_runs_nothing(finished: Path) -> None:
    before = sorted((finished / "submissions").iterdir())
    gradenc("submit", finished.parent / "study.yaml", "--run", finished)
    assert sorted((finished / "submissions").iterdir()) == before


def test_an_added_objective_reuses_the_forward_features(finished: Path, tmp_path: Path) -> None:
    study = load_study(finished.parent / "study.yaml", ["objectives=[classification, energy]"])
    resolved, subjects = resolve(study)
    run = RunFolder.open(finished)
    sealed = {f"prepare/{s.label}": Reference.of(s) for s in run.stores("prepare")}
    plans = extract_plans(study, resolved, [Targets.of_subject(s) for s in subjects], sealed)
    made = {p.label: p.create(tmp_path).identity for p in plans}
    done = {s.label: s.identity for s in run.stores("extract")}
    assert made["planted-forward"] == done["planted-forward"]
    assert made["planted-gradient-classification"] == done["planted-gradient-classification"]
    assert "planted-gradient-energy" not in done
    assert len(list(prepare_plans(study, resolved))) == 3


def test_a_damaged_unit_is_named_and_repaired_alone(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = digest_of(run)
    store = next(s for s in RunFolder.open(run).stores("extract") if s.label == "planted-forward")
    unit = store.units[1]
    path = store.data / store.owned_files(unit)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    times = {p: p.stat().st_mtime_ns for p in run.glob("stores/*/*/commits/*/*.json")}
    result = gradenc("verify", "--deep", run, check=False)
    assert result.returncode == 1
    assert store.unit_id(unit) in result.stdout
    gradenc("resume", run)
    assert digest_of(run) == before
    changed = {p for p, t in times.items() if p.stat().st_mtime_ns != t}
    assert changed == {store.record_path(unit)}


@pytest.mark.parametrize("victims", ["driver", "everything"])
def test_killed_at_random_and_run_again_gives_the_same_digest(
    finished: Path, small_study: Path, tmp_path: Path, victims: str
) -> None:
    rng = random.Random(victims)
    run = tmp_path / "run"
    command = [GRADENC, "submit", str(small_study), "--run", str(run)]
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(4, 16))
        alive = descendants(process) if process.poll() is None else []
        process.kill()
        process.wait()
        if victims == "everything":
            for child in alive:
                if child.is_running():
                    os.kill(child.pid, signal.SIGKILL)
    gradenc("submit", small_study, "--run", run)
    assert digest_of(run) == digest_of(finished)
    # A killed writer of an attempt's record may leave its temporary file; nothing else may stay.
    partials = [p for p in run.glob("stores/**/*.partial") if "attempts" not in p.parts]
    assert not partials


def test_a_failing_unit_tells_status_and_logs_why(
    small_files: Path, small_data: dict, tmp_path: Path
) -> None:
    stimuli = tmp_path / "stimuli"
    shutil.copytree(small_files / "stimuli", stimuli)
    data = small_data | {"stimuli": str(stimuli)}
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


def test_cancel_ends_the_tasks_and_resume_goes_on(
    finished: Path, small_study: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    gradenc("submit", small_study, "--run", run, "--no-wait")
    gradenc("cancel", run)
    assert "cancelled" in gradenc("status", run).stdout
    gradenc("resume", run)
    assert digest_of(run) == digest_of(finished)
