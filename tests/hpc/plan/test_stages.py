import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from gradenc_core.stimuli.images import read_manifest
from hpc.config.profile import Profile, StageProfile, load_profile
from hpc.forecast.forecast import forecast
from hpc.plan.stages import all_plans
from hpc.plan.subjects import (
    Targets,
    common_windows,
    encode_groups,
    group_label,
    in_order,
    stimulus_sets,
    summaries,
    target_groups,
    window_coords,
    windows_of,
)
from hpc.run.drive import drive
from hpc.run.start import start
from hpc.run.submissions import given_up, submissions
from hpc.study.study import Study, StudyError, load_study
from jobs.spec import STAGES


@pytest.fixture
def study(small_study: Path) -> Study:
    return load_study(small_study)


def voxels(subject: str, stimuli: tuple[str, ...], repeats: list[float]) -> Targets:
    coords = xr.Dataset(
        coords={
            "roi": ("voxel", np.array(["V2", "V1", "V1"], dtype=object)),
            "hemisphere": ("voxel", np.array(["L", "L", "R"], dtype=object)),
        }
    )
    return Targets(subject, "fmri", stimuli, np.array(repeats), ("",) * len(stimuli), coords)


def sensors(subject: str, stimuli: tuple[str, ...], repeats: list[float]) -> Targets:
    coords = xr.Dataset(
        coords={
            "sensor": ("sensor", np.array(["MEG1", "MEG2"], dtype=object)),
            "time": ("time", np.arange(-0.1, 0.3, 0.1)),
        }
    )
    return Targets(subject, "meg", stimuli, np.array(repeats), ("",) * len(stimuli), coords)


def test_windows_cover_the_range(study: Study) -> None:
    edges = windows_of(study)
    assert edges[0] == ("0.05", 0.0, 0.1)
    assert edges[-1] == ("0.85", 0.8, 0.9)
    assert len(edges) == 9


def test_named_windows_are_in_order_of_time(small_study: Path) -> None:
    named = "encoding.windows={late: [0.2, 0.4], early: [0.05, 0.12]}"
    edges = windows_of(load_study(small_study, [named]))
    assert edges == (("early", 0.05, 0.12), ("late", 0.2, 0.4))


def test_subjects_with_the_same_rows_share_a_factorisation() -> None:
    a = voxels("a", ("x", "y"), [3, 3])
    b = sensors("b", ("x", "y"), [2, 2])
    other_weights = voxels("c", ("x", "y"), [3, 2])
    other_stimuli = voxels("d", ("x", "z"), [3, 3])
    groups = encode_groups([a, b, other_weights, other_stimuli])
    assert [[t.subject for t in group] for group in groups] == [["a", "b"], ["c"], ["d"]]
    assert list(stimulus_sets([a, b, other_weights, other_stimuli])) == [("x", "y"), ("x", "z")]


def test_a_store_of_several_subjects_is_not_called_after_one() -> None:
    group = [voxels(f"sub-{i:02d}", ("a", "b"), [1, 1]) for i in range(1, 16)]
    assert group_label(group) == "sub-01-fmri-and-14-more"
    assert group_label(group[:1]) == "sub-01-fmri"
    assert (
        group_label([*group[:1], sensors("sub-01", ("a", "b"), [1, 1])]) == "sub-01-fmri-and-1-more"
    )


def test_targets_and_summaries_stand_side_by_side() -> None:
    group = [voxels("a", ("x",), [1]), sensors("b", ("x",), [1])]
    windows = [("a", 0.0, 0.15), ("b", 0.15, 0.18), ("c", 0.18, 0.3)]
    groups, summary_groups = target_groups(group, windows, "samples")
    assert [(g.start, g.stop) for g in groups] == [(0, 3), (3, 11)]
    assert summary_groups[0].names == ("V1:L", "V1:R", "V2:L")
    # The middle window holds no sample and is left out.
    held = (windows[0], windows[2])
    assert summary_groups[1].windows == held
    assert (summary_groups[1].start, summary_groups[1].stop) == (3, 7)
    assert summaries(group[0], [])[1] is None
    assert not window_coords("target", groups)
    coords = xr.Dataset(coords=window_coords("summary", summary_groups))
    assert coords["summary_window"].values.tolist() == ["", "", "", "a", "c", "a", "c"]
    np.testing.assert_array_equal(coords["summary_window_stop"][3:], [0.15, 0.3, 0.15, 0.3])
    assert np.isnan(coords["summary_window_start"][:3]).all()


def test_windows_take_the_place_of_samples() -> None:
    group = [voxels("a", ("x",), [1]), sensors("b", ("x",), [1])]
    groups, summary_groups = target_groups(group, [("a", 0.0, 0.15)], "windows")
    assert [(g.start, g.stop, g.windows) for g in groups] == [
        (0, 3, None),
        (3, 5, (("a", 0.0, 0.15),)),
    ]
    assert summary_groups[1].stop - summary_groups[1].start == 2
    assert window_coords("target", groups)["target_window"][1].tolist() == ["", "", "", "a", "a"]


def test_regions_follow_the_ladders_then_the_alphabet() -> None:
    assert in_order(["Z", "V2", "A", "V1"], [["V1", "V2", "V3"]]) == ["V1", "V2", "A", "Z"]


def test_the_forecast_counts_every_stage(study: Study) -> None:
    stages = {stage.stage: stage for stage in forecast(study, load_profile("local"))}
    assert list(stages) == list(STAGES)
    n_shards, n_layers = 3, 5
    assert stages["prepare"].units == 2 + 3  # and the scales of each source
    assert stages["ingest"].units == 2
    assert stages["extract"].units == 3 * n_shards + 2  # and the stability of each source
    assert stages["encode"].units == 6 * n_layers + 2
    assert stages["compare"].units == 1
    n_features = 16 + 17
    n_stimuli = len(read_manifest(Path(study.stimuli)).ids)
    n_cosines, n_sources = 3 * 16, 2
    n_stability = n_sources * n_layers * (n_cosines + 2)
    n_baseline = n_layers * (4 + 1) + 4 + 4 + 1 + 2
    n_bytes = 4 * n_stimuli * (n_layers * n_features + n_baseline) + 8 * n_stability
    assert stages["extract"].n_bytes == n_bytes
    assert stages["extract"].seconds > 0
    assert stages["encode"].seconds > 0
    assert stages["extract"].basis == "measured here"
    assert stages["encode"].basis.startswith("measured here; ")
    assert 0 < stages["encode"].longest_s < stages["encode"].seconds
    assert (stages["extract"].gpu_hours, stages["extract"].array_jobs) == (0, 0)


def test_comparisons_use_the_windows_of_all_subjects() -> None:
    early, late = sensors("a", ("x",), [1]), sensors("b", ("x",), [1])
    late.coords["time"] = late.coords["time"] + 0.2
    windows = [("a", -0.1, 0.0), ("b", 0.1, 0.2), ("c", 0.3, 0.4)]
    assert common_windows([early, late], windows) == [("b", 0.1, 0.2)]
    assert common_windows([], windows) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("comparisons.seed_region=V9", "seed_region: given 'V9'; accepted for sub-01: one of FFA,"),
        ("encoding.windows={start: 3.0, stop: 4.0}", "encoding.windows: no window holds a sample"),
        (
            "encoding.windows={early: [0.1, 0.2], late: [3.0, 4.0]}",
            r"encoding.windows.late: given \[3, 4\], which holds no sample of some MEG subject's",
        ),
        ("encoding.folds=97", "97 folds"),
    ],
)
def test_what_does_not_fit_the_recordings_is_refused_before_anything_runs(
    small_study: Path, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        start(load_study(small_study, [override]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_ridge_beyond_the_memory_of_a_process_is_refused_before_anything_runs(
    small_study: Path, tmp_path: Path
) -> None:
    profile = Profile(name="x", scheduler="slurm", encode=StageProfile(memory_gb=0.001))
    with pytest.raises(StudyError, match=r"study.yaml: .* needs .* GB of memory in one process"):
        start(load_study(small_study), tmp_path / "run", profile)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("how", "refused"),
    [
        ({"memory_gb": 0.04}, r"set its memory_gb to 0\.1 or more in the profile x"),
        ({"memory_gb": 0.08, "ranks_per_node": 2}, r"set its memory_gb to 0\.2 or more"),
        ({"memory_gb": 0.04, "max_memory_gb": 0.08}, None),  # killed once, then given more
        ({"memory_gb": 0.08, "dask_workers": 2}, None),  # of stage encode
        ({"memory_gb": 0.046, "gpus_per_node": 1}, None),  # signals are in the GPU's memory
        ({}, None),
    ],
)
def test_an_extraction_beyond_the_memory_of_a_process_is_refused_before_anything_runs(
    small_study: Path, tmp_path: Path, how: dict, refused: str | None
) -> None:
    """Weights alone take 0.044 GB, with the signals it is 0.052 GB."""
    study = load_study(small_study)
    profile = Profile(name="x", scheduler="slurm", extract=StageProfile(**how))
    if refused is None:
        start(study, tmp_path / "run", profile)
        return
    message = rf"study\.yaml: stage extract: model planted needs at least .* GB of .*{refused}"
    for check in (start, lambda study, _, profile: forecast(study, profile)):
        with pytest.raises(StudyError, match=message):
            check(study, tmp_path / "run", profile)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("memory_gb", "fits"), [(0.044, False), (0.05, True)])
def test_components_beyond_the_memory_of_a_process_are_refused(
    small_study: Path, tmp_path: Path, memory_gb: float, fits: bool
) -> None:
    """Weights take 0.0436 GB, all layers' rows and the widest in float64 0.0008 GB."""
    study = load_study(small_study, ["projection_kind=pca"])
    profile = Profile(name="x", scheduler="slurm", prepare=StageProfile(memory_gb=memory_gb))
    if fits:
        start(study, tmp_path / "run", profile)
        return
    message = "stage prepare: planted-forward-pca needs at least .* or projection_kind: random"
    with pytest.raises(StudyError, match=message):
        start(study, tmp_path / "run", profile)


def test_tasks_that_die_before_their_units_are_not_submitted_for_ever(
    small_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another version of the code than the tasks run: they refuse before they take a unit.
    monkeypatch.setattr("hpc.run.submit.code_version", lambda: "0.0.0")
    run = start(load_study(small_study), tmp_path / "run")
    drive(run, load_profile("local"))
    assert "the code was changed in between" in str(given_up(run, "prepare"))
    assert sorted(s.stage for s in submissions(run)) == ["ingest", "prepare"]
    run.next_round()
    assert given_up(run, "prepare") is None


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (
            ("vit", "vit-bank"),
            "bank of model vit and prepared of model vit-bank would both be called "
            "prepare/vit-bank; give one of them another name",
        ),
        (
            ("vit", "vit-gradient-energy"),
            "classes of model vit, source gradient:energy and prepared of model "
            "vit-gradient-energy would both be called prepare/vit-gradient-energy",
        ),
    ],
)
def test_names_that_would_give_two_stores_one_label_are_refused(
    paper_study: Any, models: tuple[str, str], message: str
) -> None:
    """A stage would find the bank of one model under the name of another."""
    with pytest.raises(ValueError, match=re.escape(message)):
        all_plans(*paper_study({"a": [f"{i:02d}.png" for i in range(20)]}, models=models))


def test_names_that_merely_begin_alike_are_planned(paper_study: Any) -> None:
    stimuli = [f"{i:02d}.png" for i in range(20)]
    plans = all_plans(*paper_study({"a": stimuli}, models=("vit", "vit-large")))
    labels = [(plan.stage, plan.label) for plan in plans]
    assert len(set(labels)) == len(labels)
