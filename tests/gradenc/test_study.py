"""A study in a notebook: run, followed, judged, exported, resumed; nothing is printed."""

import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import xarray as xr

import gradenc as ge
from gradenc import study
from gradenc_core.compare.verdict import Verdict
from jobs.spec import STAGES
from storage_schemas.kinds.comparisons import JUDGED_TABLES

FMRI = "scores/planted/sub-01/fmri"


def test_a_finished_run_says_so(finished: ge.Run) -> None:
    status = finished.status()
    assert status.index.tolist() == list(STAGES)
    assert status.sealed.all()
    assert (status.committed == status.units).all()
    assert set(status.failure) == {""}
    assert finished.state == "complete"


def test_verdicts_are_named_and_stand_beside_their_numbers(finished: ge.Run) -> None:
    verdicts = finished.verdicts()
    assert verdicts.signal.tolist() == ["unique:dino"]
    row = verdicts.iloc[0]
    assert {row.verdict, row.spatial_verdict, row.temporal_verdict} <= set(Verdict)
    assert row.sentence.endswith(".")
    assert 0 <= row.p <= 1
    judged = finished.results["comparisons/planted"].to_dataset().load().sel(signal=row.signal)
    for order in ("spatial", "temporal"):
        for name in ("signal_p", "control_p", "observed_order", "backprop_p", "power"):
            np.testing.assert_equal(row[f"{order}_{name}"], judged[name].sel(order=order).item())
        assert 0 < row[f"{order}_signal_p"] <= 1


def test_an_order_that_nobody_was_recorded_for_has_no_numbers() -> None:
    labels = {"signal": ["unique:dino"], "order": ["temporal"]}
    found = {name: (tuple(labels), [[0.25]]) for name in JUDGED_TABLES}
    found["order_verdict"] = (tuple(labels), [["undecided"]])
    tables = xr.Dataset({**found, "gradient_p": ("signal", [0.5])}, labels)
    numbers = study._numbers(tables, "unique:dino")
    assert (numbers["p"], numbers["temporal_verdict"]) == (0.5, "undecided")
    assert numbers["temporal_power"] == numbers["temporal_no_order_p"] == 0.25
    assert np.isnan([numbers["spatial_power"], numbers["spatial_verdict"]]).all()
    assert len(numbers) == 1 + 2 * len(JUDGED_TABLES)


def test_a_selection_is_exported_as_nifti(finished: ge.Run, tmp_path: Path) -> None:
    path = finished.export(
        tmp_path / "r.nii.gz", FMRI, var="r", mean=["fold"], bands="forward", layer="layer4.0"
    )
    volume = np.asarray(nib.load(path).dataobj).ravel()
    scores = finished.results[FMRI].to_dataset()["r"]
    expected = scores.sel(bands="forward", layer="layer4.0").mean("fold").values
    np.testing.assert_allclose(
        np.sort(volume[np.isfinite(volume) & (volume != 0)]),
        np.sort(expected[np.isfinite(expected) & (expected != 0)]),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("leaf", "var", "labels", "message"),
    [
        ("scores/planet", "r", {}, "there is no scores/planet in the results; there are"),
        (FMRI, "rr", {}, f"{FMRI} has no rr; it has r, "),
        (FMRI, "r", {"layer": "blocks.7"}, "blocks.7"),
    ],
)
def test_a_wrong_selection_is_refused(
    finished: ge.Run, tmp_path: Path, leaf: str, var: str, labels: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        finished.export(tmp_path / "r.nii.gz", leaf, var=var, **labels)


def test_a_damaged_unit_is_made_again_by_resume(
    finished: ge.Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = finished.results["comparisons/planted"].to_dataset().load()
    copy = shutil.copytree(finished.folder, tmp_path / "run")
    chunk = max((copy / "stores" / "compare").rglob("c/*"), key=lambda p: p.is_file())
    chunk.write_bytes(b"")
    heard: list[int] = []
    run = ge.Run.open(copy).resume(progress=lambda states: heard.append(len(states)))
    assert set(heard) == {len(STAGES)}
    assert run.status().sealed.all()
    assert run.results["comparisons/planted"].to_dataset().load().identical(before)
    assert capfd.readouterr() == ("", "")


def test_a_drill_has_no_verdicts(tmp_path: Path) -> None:
    drill = Path(sys.executable).with_name("gradenc")
    command = [drill, "drill", tmp_path / "drill", "--units", "1", "--seconds", "0.01"]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(ValueError, match="it is the run of a drill"):
        ge.Run.open(tmp_path / "drill").verdicts()
