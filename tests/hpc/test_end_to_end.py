"""A whole run by the command that users type, on real files, and everything that reads it."""

import json
import shutil
import subprocess
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import mne
import nibabel
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from typer.testing import CliRunner

from hpc.cli.app import app
from hpc.config.profile import load_profile
from hpc.forecast.forecast import forecast
from hpc.plan.extract import extract_plans
from hpc.plan.prepare import prepare_plans
from hpc.plan.subjects import Targets
from hpc.run.folder import RunFolder
from hpc.study.resolve import resolve
from hpc.study.study import load_study
from jobs.spec import STAGES, Reference
from storage_schemas import open_run
from storage_schemas.protocol.commit import withdraw
from storage_schemas.protocol.seal import run_digest
from storage_schemas.results.gather import gather_scores

GRADENC = str(Path(sys.executable).with_name("gradenc"))


def gradenc(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [GRADENC, *map(str, arguments)], capture_output=True, text=True, timeout=600
    )
    if check and result.returncode:
        raise AssertionError(f"{arguments}:\n{result.stdout}\n{result.stderr}")
    return result


def in_this_process(*arguments: object) -> str:
    """Return what a command prints, without the seconds that its imports take in a new process."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.stdout


def digest_of(run: Path) -> str:
    folder = RunFolder.open(run)
    return run_digest([store for stage in STAGES for store in folder.stores(stage)])


def test_status_of_a_finished_run(small_run: Path) -> None:
    stages = json.loads(gradenc("status", small_run, "--json").stdout)["stages"]
    assert list(stages) == list(STAGES)
    for stage in stages.values():
        assert stage["sealed"]
        assert stage["committed"] == stage["units"] > 0


def test_every_committed_byte_is_verified(small_run: Path) -> None:
    output = gradenc("verify", "--deep", small_run).stdout
    assert digest_of(small_run) in output.replace("\n", "")


def test_a_copied_run_opens_with_all_coordinates(small_run: Path, tmp_path: Path) -> None:
    shutil.copytree(small_run, tmp_path / "elsewhere")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = open_run(tmp_path / "elsewhere")
        fmri = tree["scores/planted/sub-01/fmri"].to_dataset()
        meg = tree["scores/planted/sub-02/meg"].to_dataset()
    assert set(fmri["bands"].values) == {
        "forward",
        "gradient:classification",
        "baseline+gradient:classification",
        "baseline+baseline",
        "baseline+forward",
        "forward+gradient:classification",
    }
    assert fmri["r"].dims == ("bands", "layer", "fold", "voxel")
    assert meg["r"].dims == ("bands", "layer", "fold", "sensor", "time")
    assert {"roi", "hemisphere", "x", "y", "z", "layer_depth"} <= set(fmri.coords)
    assert meg["time"].attrs["units"] == "s"
    assert np.isfinite(fmri["r"].sel(bands="forward").values).all()
    best = fmri["r"].sel(bands="forward").mean("fold").max("layer")
    assert best.mean() > 0.2
    recorded = tree["responses/sub-01/fmri"].to_dataset().load()
    noise = 1 / recorded["target_repeats"].values.astype(np.float64)
    power = recorded["ncsnr"].values.astype(np.float64) ** 2
    expected = power / (power + noise)
    assert fmri["noise_ceiling"].dims == ("voxel",)
    assert fmri["noise_ceiling"].values == pytest.approx(expected, nan_ok=True)


@pytest.mark.filterwarnings("error")
def test_every_store_opens_with_plain_xarray(small_run: Path) -> None:
    stores = list((small_run / "stores").glob("*/*/data.zarr"))
    assert stores
    for store in stores:
        assert xr.open_datatree(store, engine="zarr").ds.data_vars


def test_the_report_renders_in_a_browser(small_run: Path, tmp_path: Path) -> None:
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
            f"{(small_run / 'report.html').as_uri()}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.stdout.count("<figure>") == 7
    assert "What each hypothesis predicts" in result.stdout
    assert digest_of(small_run) in result.stdout
    assert "http" not in (small_run / "report.html").read_text()


def test_submitting_again_runs_nothing(small_run: Path) -> None:
    before = sorted((small_run / "submissions").iterdir())
    gradenc("submit", small_run.parent / "study.yaml", "--run", small_run)
    assert sorted((small_run / "submissions").iterdir()) == before


def test_an_added_objective_reuses_the_forward_features(small_run: Path, tmp_path: Path) -> None:
    study = load_study(small_run.parent / "study.yaml", ["objectives=[classification, energy]"])
    resolved, subjects = resolve(study)
    run = RunFolder.open(small_run)
    planned = Reference(stage="prepare", identity="planned", seal="planned")
    sealed = defaultdict(lambda: planned)
    sealed |= {f"prepare/{s.label}": Reference.of(s) for s in run.stores("prepare")}
    plans = extract_plans(study, resolved, [Targets.of_subject(s) for s in subjects], sealed)
    made = {p.label: p.create(tmp_path).identity for p in plans}
    done = {s.label: s.identity for s in run.stores("extract")}
    assert made["planted-forward"] == done["planted-forward"]
    assert made["planted-gradient-classification"] == done["planted-gradient-classification"]
    assert "planted-gradient-energy" not in done
    n_weights, n_classes, n_scales = 1, 2, 4
    assert len(list(prepare_plans(study, resolved))) == n_weights + n_classes + n_scales


def test_a_plan_takes_the_times_of_committed_units(small_run: Path) -> None:
    study = load_study(small_run.parent / "study.yaml", [f"store_root={small_run / 'stores'}"])
    stages = {stage.stage: stage for stage in forecast(study, load_profile("local"))}
    n_shards = 3
    assert stages["extract"].basis == f"from records of {n_shards} units"
    assert stages["encode"].basis.startswith("from records of")
    assert "measured" not in stages["encode"].basis
    assert stages["compare"].basis == "assumed"


def test_own_signals_true_labels_and_components_are_compared(
    small_run: Path, run_here: Callable[[Path, Path], RunFolder], tmp_path: Path
) -> None:
    data = yaml.safe_load((small_run.parent / "study.yaml").read_text())
    data |= {
        "store_root": str(small_run / "stores"),
        "signals": ["forward", "gradient", "rules:relevance"],
        "objectives": ["classification"],
        "labels": "labels.csv",
        "projection": 8,
        "projection_kind": "pca",
        "responses": data["responses"][:1],
        # Two losses are two values more in the baseline: it must leave room for 72 stimuli.
        "encoding": data["encoding"] | {"baseline_width": 3},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(data))
    stimuli = Path(data["stimuli"])
    names = [path.relative_to(stimuli) for path in stimuli.rglob("*.*")]
    rows = [f"{name},{i % 7}" for i, name in enumerate(names)]
    (tmp_path / "labels.csv").write_text("\n".join(["stimulus,label", *rows]))
    (tmp_path / "rules.py").write_text(
        "from gradenc_core.signals.objectives import signal\n\n\n"
        '@signal(of="energy")\n'
        "def relevance(activations, gradients):\n"
        "    return [h * g for h, g in zip(activations, gradients, strict=True)]\n"
    )
    run_here(tmp_path / "study.yaml", tmp_path / "run")
    tree = open_run(tmp_path / "run")
    compared = tree["comparisons/planted"]["signal"].values.tolist()
    learning = ["gradient:classification", "signal:relevance"]
    unique = ["unique:classification", "unique:signal:relevance"]
    controls = ["unique:baseline", "unique:forward"]
    assert compared == ["forward", *learning, *unique, *controls]
    assert tree["pca/planted/signal:relevance"].sizes["component"] == 8
    fmri = tree["scores/planted/sub-01/fmri"].to_dataset()
    assert np.isfinite(fmri["unique"].sel(bands="baseline+signal:relevance")).any()
    assert "signal, relevance" in (tmp_path / "run" / "report.html").read_text()


def test_named_windows_are_predicted_in_place_of_samples(
    small_run: Path, run_here: Callable[[Path, Path], RunFolder], tmp_path: Path
) -> None:
    data = yaml.safe_load((small_run.parent / "study.yaml").read_text())
    data |= {"store_root": str(small_run / "stores"), "signals": ["forward"], "objectives": []}
    data["encoding"] |= {
        "windows": {"late": [0.3, 0.6], "early": [0.05, 0.25]},
        "meg_targets": "windows",
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(data))
    run = run_here(tmp_path / "study.yaml", tmp_path / "run")
    tree = open_run(tmp_path / "run")
    meg = tree["scores/planted/sub-02/meg"].to_dataset()
    assert meg["r"].dims == ("bands", "layer", "fold", "sensor", "window")
    assert meg["window"].values.tolist() == ["early", "late"]
    np.testing.assert_array_equal(meg["window_start"], [0.05, 0.3])
    curve = tree["comparisons/planted"]["curve"]
    np.testing.assert_array_equal(curve["window_stop"], [0.25, 0.6])
    # The summaries are the same means: what was observed of them is the targets' score.
    (scores,) = (s for s in run.stores("encode") if s.kind == "scores")
    data = scores.dataset()
    observed = data["bootstrap"][:, 0]
    expected = meg["r"].sel(bands="forward").mean("fold").values.reshape(observed.shape)
    np.testing.assert_allclose(observed, expected, rtol=1e-5)
    chosen = in_this_process("query", tmp_path / "run", "scores:meg", "--sel", "window=late")
    assert "late" in chosen
    assert "early" not in chosen


def test_results_by_their_labels(small_run: Path) -> None:
    leaf = open_run(small_run)["scores/planted/sub-01/fmri"].to_dataset()
    chosen = leaf.sel(bands="gradient:classification", layer="layer4.0", roi="V4")
    assert chosen["r"].dims == ("fold", "voxel")
    assert set(chosen["roi"].values) == {"V4"}
    assert chosen.sizes["voxel"] == (leaf["roi"] == "V4").sum()
    both = gather_scores(open_run(small_run), "fmri")
    here = {"subject": "sub-01", "model": "planted"}
    np.testing.assert_array_equal(both["r"].sel(here), leaf["r"])
    early = both["r"].sel(here | {"roi": ["V1", "V2"]})
    np.testing.assert_array_equal(early, leaf["r"].sel(roi=["V1", "V2"]))


def test_voxels_go_back_to_their_places(small_run: Path, small_files: Path, tmp_path: Path) -> None:
    target = tmp_path / "r.nii.gz"
    where = ("--sel", "bands=forward", "--sel", "layer=layer1.0", "--mean", "fold", "--to", target)
    gradenc("query", small_run, "scores/planted/sub-01/fmri", "--var", "r", *where)
    labels = nibabel.load(next(small_files.glob("bids/sub-01/anat/*_dseg.nii.gz")))
    image = nibabel.load(target)
    np.testing.assert_array_equal(image.affine, labels.affine)
    inside = labels.get_fdata() > 0
    volume = np.squeeze(image.get_fdata())
    assert np.isnan(volume[~inside]).all()
    leaf = open_run(small_run)["scores/planted/sub-01/fmri"].to_dataset()
    expected = leaf["r"].sel(bands="forward", layer="layer1.0").mean("fold").values
    np.testing.assert_allclose(volume[inside], expected, rtol=1e-6)


def test_sensors_become_an_evoked(small_run: Path, tmp_path: Path) -> None:
    target = tmp_path / "r-ave.fif"
    where = ("--sel", "bands=forward", "--sel", "layer=layer1.0", "--mean", "fold", "--to", target)
    in_this_process("query", small_run, "scores/planted/sub-02/meg", "--var", "r", *where)
    evoked = mne.read_evokeds(target, 0, verbose="error")
    leaf = open_run(small_run)["scores/planted/sub-02/meg"].to_dataset()
    expected = leaf["r"].sel(bands="forward", layer="layer1.0").mean("fold")
    np.testing.assert_allclose(evoked.data, expected.values, rtol=1e-6)
    np.testing.assert_allclose(evoked.times, leaf["time"].values, atol=1e-6)


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".nc"])
def test_tables_hold_every_label(small_run: Path, tmp_path: Path, ending: str) -> None:
    target = tmp_path / f"scores{ending}"
    chosen = ("--var", "r2", "--sel", "roi=V1,V2", "--sel", "bands=forward", "--to", target)
    in_this_process("query", small_run, "scores:fmri", *chosen)
    leaf = open_run(small_run)["scores/planted/sub-01/fmri"].to_dataset()
    expected = leaf["r2"].sel(bands="forward").isel(voxel=leaf["roi"].isin(["V1", "V2"]).values)
    if ending == ".nc":
        np.testing.assert_array_equal(
            np.sort(xr.open_dataarray(target), None), np.sort(expected, None)
        )
        return
    table = pd.read_csv(target) if ending == ".csv" else pd.read_parquet(target)
    assert {"model", "subject", "layer", "roi", "hemisphere", "x", "r2"} <= set(table)
    assert sorted(table["r2"]) == pytest.approx(np.sort(expected, None))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scores/planted/sub-09/fmri"], "there is no leaf"),
        (["scores:fmri", "--sel", "roi=V9"], "nothing is 'V9'; there are"),
        (["scores:fmri", "--sel", "area=V1"], "there is no coordinate 'area' here; there are"),
        (["scores:fmri", "--var", "rr"], "has the variables r, r2, alpha, unique"),
        (["scores:fmri", "--to", "x.png"], "must end in one of"),
        (["scores:fmri", "--to", "x.nii.gz"], "voxels of one subject"),
        (["scores:meg", "--to", "x-ave.fif"], "has sensors and times (or windows) alone"),
    ],
)
def test_what_cannot_be_selected_is_said(
    small_run: Path, arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(app, ["query", str(small_run), *arguments])
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())


def test_why_a_unit_will_not_run(small_run: Path, tmp_path: Path) -> None:
    store = RunFolder.open(small_run).stores("extract")[0]
    unit_id = store.unit_id(store.units[1])
    assert "will not run: it is committed" in gradenc("why", small_run, unit_id).stdout
    assert "no planned unit is missing" in gradenc("why", small_run).stdout
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    withdraw(RunFolder.open(run).stores("extract")[0], store.units[1])
    answer = gradenc("why", run, unit_id).stdout
    assert "it is not committed" in answer
    assert "it will run when the run goes on" in answer
    gradenc("cancel", run)
    assert "the run is cancelled" in gradenc("why", run, unit_id).stdout
    assert gradenc("why", run, "0-1", check=False).returncode == 1
