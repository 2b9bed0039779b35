import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from gradenc_core.recordings import bids
from gradenc_core.stimuli.images import Manifest

AFFINE = np.array([[-2.0, 0, 0, 30], [0, 2, 0.5, -20], [0, 0, 1.8, 10], [0, 0, 0, 1]])
SHAPE = (4, 3, 2)
REGIONS = "index\tname\themisphere\n1\tV1\tL\n2\tV1\tR\n5\tV4\tL\n"
# (trial_type, stim_file) of each volume; c.png has the content of a.png.
EVENTS = {
    "ses-01": [
        ("stimulus", "d.png"),
        ("catch", "n/a"),
        ("stimulus", "a.png"),
        ("stimulus", "b.png"),
        ("stimulus", "c.png"),
    ],
    "ses-02": [
        ("stimulus", "b.png"),
        ("stimulus", "more/f.jpeg"),
        ("stimulus", "a.png"),
        ("stimulus", "d.png"),
    ],
}
STIMULI = ("a.png", "b.png", "d.png", "more/f.jpeg")


def betas_path(root: Path, session: str = "ses-01") -> Path:
    name = f"sub-01_{session}_task-images_desc-betas_stat.nii.gz"
    return root / "sub-01" / session / "func" / name


def events_path(root: Path, session: str = "ses-01") -> Path:
    return root / "sub-01" / session / "func" / f"sub-01_{session}_task-images_events.tsv"


def labels_path(root: Path) -> Path:
    return root / "sub-01" / "anat" / "sub-01_desc-rois_dseg.nii.gz"


def regions_path(root: Path) -> Path:
    return root / "sub-01" / "anat" / "sub-01_desc-rois_dseg.tsv"


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)


def write_events(path: Path, trials: list[tuple[str, str]]) -> None:
    lines = ["onset\tduration\ttrial_type\tstim_file"]
    lines += [f"{4 * i}\t3\t{kind}\t{name}" for i, (kind, name) in enumerate(trials)]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def betas() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        session: rng.normal(5, 3, (*SHAPE, len(trials))).astype(np.float32)
        for session, trials in EVENTS.items()
    }


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(2).choice([0, 1, 2, 5], size=SHAPE).astype(np.int16)


@pytest.fixture
def root(tmp_path: Path, betas: dict[str, np.ndarray], labels: np.ndarray) -> Path:
    root = tmp_path / "bids"
    for session, volumes in betas.items():
        save(betas_path(root, session), volumes)
        write_events(events_path(root, session), EVENTS[session])
    save(labels_path(root), labels)
    regions_path(root).write_text(REGIONS)
    return root


def expected_trials(
    betas: dict[str, np.ndarray], labels: np.ndarray, normalise: str
) -> dict[str, np.ndarray]:
    """Trials of each distinct image, (n_repeats, n_voxels), computed directly."""
    trials: dict[str, list[np.ndarray]] = {name: [] for name in STIMULI}
    for session, events in EVENTS.items():
        used = [i for i, (kind, _) in enumerate(events) if kind == "stimulus"]
        values = betas[session][labels > 0].T[used].astype(np.float64)
        if normalise == "session":
            values = (values - values.mean(axis=0)) / values.std(axis=0)
        for i, row in zip(used, values, strict=True):
            trials[{"c.png": "a.png"}.get(events[i][1], events[i][1])].append(row)
    return {name: np.stack(rows) for name, rows in trials.items()}


@pytest.mark.parametrize("normalise", ["session", "none"])
def test_round_trip(root, manifest: Manifest, betas, labels, normalise: str) -> None:
    described = bids.describe(root, "sub-01", manifest, normalise=normalise, rois=None)
    result = bids.read(root, "sub-01", manifest, normalise=normalise, rois=None)
    trials = expected_trials(betas, labels, normalise)
    assert (described.subject, described.modality) == ("sub-01", "fmri")
    assert described.stimuli == STIMULI
    np.testing.assert_array_equal(described.n_repeats, [len(trials[name]) for name in STIMULI])
    np.testing.assert_array_equal(result.n_repeats, described.n_repeats)
    assert described.sessions == ("", "", "", "ses-02")
    mean = np.stack([trials[name].mean(axis=0) for name in STIMULI])
    np.testing.assert_allclose(result.mean, mean, rtol=1e-4, atol=1e-5)
    within = [t.var(axis=0, ddof=1) for t in trials.values() if len(t) > 1]
    noise = np.mean(within, axis=0)
    total = np.concatenate(list(trials.values())).var(axis=0)
    ratio = np.sqrt(np.maximum(total - noise, 0) / noise)
    np.testing.assert_allclose(result.ncsnr, ratio, rtol=1e-3, atol=1e-4)
    assert result.n_nan_targets == 0


def test_coordinates_are_in_c_order_and_mm(root, manifest: Manifest, labels) -> None:
    described = bids.describe(root, "sub-01", manifest)
    coords = described.coords
    assert not coords.data_vars
    names = {1: ("V1", "L"), 2: ("V1", "R"), 5: ("V4", "L")}
    ijk = [index for index in np.ndindex(*SHAPE) if labels[index]]
    assert coords.sizes == {"voxel": len(ijk)}
    for place, index in enumerate(ijk):
        voxel = coords.isel(voxel=place)
        assert (str(voxel.roi.values), str(voxel.hemisphere.values)) == names[int(labels[index])]
        xyz = (AFFINE @ [*index, 1])[:3]
        np.testing.assert_allclose([voxel.x, voxel.y, voxel.z], xyz, atol=1e-4)
        assert (int(voxel.i), int(voxel.j), int(voxel.k)) == index
    for axis in "ijk":
        assert coords[axis].dtype == np.int64
        assert coords[axis].attrs["units"] == "1"
        assert coords[axis].attrs["long_name"]


def test_the_volume_is_described_in_json(root, manifest: Manifest) -> None:
    attrs = bids.describe(root, "sub-01", manifest, rois=["V4"]).coords.attrs
    assert attrs == json.loads(json.dumps(attrs, allow_nan=False))
    assert set(attrs) == {"volume_shape", "affine"}
    assert attrs["volume_shape"] == list(SHAPE)
    np.testing.assert_allclose(np.reshape(attrs["affine"], (4, 4)), AFFINE, atol=1e-5)


def test_files_are_all_that_is_read(root, manifest: Manifest) -> None:
    before = bids.describe(root, "sub-01", manifest).files
    assert set(before) == {
        path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()
    }
    with events_path(root).open("a") as file:
        file.write("\n")
    after = bids.describe(root, "sub-01", manifest).files
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {events_path(root).relative_to(root).as_posix()}


@pytest.mark.parametrize("listed", ["", "0\tunknown\tn/a\n-1\tnot cortex\tn/a\n"])
def test_labels_0_and_minus_1_are_no_region(
    root: Path, manifest: Manifest, labels, listed: str
) -> None:
    """As NSD writes them: -1 is not cortex, 0 is cortex without a label."""
    before = bids.describe(root, "sub-01", manifest).coords
    save(labels_path(root), np.where(labels == 0, -1, labels).astype(np.int16))
    regions_path(root).write_text(REGIONS + listed)
    after = bids.describe(root, "sub-01", manifest).coords
    assert after.identical(before)
    assert after.sizes["voxel"] == (labels > 0).sum()


def test_labels_with_a_slope_are_whole_numbers_to_rounding(
    root: Path, manifest: Manifest, labels
) -> None:
    before = bids.describe(root, "sub-01", manifest).coords
    stored = nibabel.Nifti1Image(np.round((labels - 2.5) / 1e-4).astype(np.int16), AFFINE)
    stored.header.set_slope_inter(1.00001e-4, 2.5)
    nibabel.save(stored, labels_path(root))
    read = np.asarray(nibabel.load(labels_path(root)).dataobj)
    assert not np.array_equal(read, labels)
    assert bids.describe(root, "sub-01", manifest).coords.identical(before)


@pytest.mark.parametrize(
    "table", ["index\tname\n1\tV1\n2\tV2\n5\tV4\n", REGIONS.replace("L", "n/a").replace("R", "n/a")]
)
def test_regions_need_no_hemisphere(root: Path, manifest: Manifest, labels, table: str) -> None:
    regions_path(root).write_text(table)
    coords = bids.describe(root, "sub-01", manifest).coords
    assert coords.sizes["voxel"] == (labels > 0).sum()
    assert set(coords["hemisphere"].values.tolist()) == {"n/a"}


def test_chosen_regions_are_a_subset(root, manifest: Manifest) -> None:
    everything = bids.read(root, "sub-01", manifest)
    roi = bids.describe(root, "sub-01", manifest).coords["roi"].values
    chosen = bids.describe(root, "sub-01", manifest, rois=["V4"])
    assert set(chosen.coords["roi"].values.tolist()) == {"V4"}
    some = bids.read(root, "sub-01", manifest, rois=["V4"])
    np.testing.assert_array_equal(some.mean, everything.mean[:, roi == "V4"])


def test_chosen_sessions_are_all_that_is_read(root, manifest: Manifest) -> None:
    described = bids.describe(root, "sub-01", manifest, sessions=["ses-02"])
    some = bids.read(root, "sub-01", manifest, sessions=["ses-02"])
    assert not any("ses-01" in name for name in described.files)
    both = bids.describe(root, "sub-01", manifest, sessions=["ses-02", "ses-01"])
    assert both.files == bids.describe(root, "sub-01", manifest).files
    shutil.rmtree(root / "sub-01" / "ses-01")
    assert described.stimuli == bids.describe(root, "sub-01", manifest).stimuli
    np.testing.assert_array_equal(some.mean, bids.read(root, "sub-01", manifest).mean)


def test_junk_files_beside_the_data_are_passed_over(root, manifest: Manifest) -> None:
    before = bids.describe(root, "sub-01", manifest)
    for path in [betas_path(root), events_path(root), labels_path(root), regions_path(root)]:
        path.with_name("._" + path.name).write_bytes(b"resource fork")
    (root / "._sub-01").write_bytes(b"resource fork")
    (root / "sub-01" / "ses-03_notes.txt").write_text("no session")
    assert bids.list_subjects(root) == ["sub-01"]
    after = bids.describe(root, "sub-01", manifest)
    assert (after.stimuli, after.files) == (before.stimuli, before.files)
    assert len(bids.read(root, "sub-01", manifest).mean) == len(STIMULI)


def test_scaled_integers_and_many_volumes(root, manifest: Manifest, labels) -> None:
    """More volumes than are read at once, stored as NSD does: int16 with a slope."""
    n = 3 * bids.VOLUMES_AT_ONCE + 5
    values = np.random.default_rng(3).integers(-3000, 3000, (*SHAPE, n)).astype(np.int16)
    image = nibabel.Nifti1Image(values, AFFINE)
    image.header.set_slope_inter(1 / 300, 0)
    nibabel.save(image, betas_path(root))
    scaled = nibabel.load(betas_path(root)).get_fdata()
    names = np.array(STIMULI)[np.arange(n) % 4]
    write_events(events_path(root), [("stimulus", name) for name in names])
    shutil.rmtree(root / "sub-01" / "ses-02")
    result = bids.read(root, "sub-01", manifest, normalise="none")
    expected = [scaled[labels > 0].T[names == name].mean(axis=0) for name in STIMULI]
    np.testing.assert_allclose(result.mean, expected, rtol=1e-5, atol=1e-5)


def test_nan_and_constant_voxels(root, manifest: Manifest, betas, labels) -> None:
    voxels = np.argwhere(labels > 0)
    betas["ses-01"][(*voxels[0], 3)] = np.nan  # a used trial
    betas["ses-01"][(*voxels[1], 1)] = np.nan  # a catch trial
    for volumes in betas.values():
        volumes[tuple(voxels[2])] = 0.1
    for session, volumes in betas.items():
        save(betas_path(root, session), volumes)
    result = bids.read(root, "sub-01", manifest)
    assert (result.n_nan_targets, result.n_constant_targets) == (1, 1)
    assert np.isnan(result.mean[:, 0]).all()
    assert np.isfinite(np.delete(result.mean, [0, 2], axis=1)).all()
    assert np.isnan(result.mean[:, 2]).all()
    assert np.isnan(result.ncsnr[[0, 2]]).all()
    assert np.isfinite(result.ncsnr[1])


@pytest.mark.parametrize("missing", [0, np.nan])
def test_a_voxel_without_data_in_a_session_is_averaged_over_the_others(
    tmp_path: Path, manifest: Manifest, labels, missing: float
) -> None:
    """Six images of signal 1 and noise .3 in two sessions; one voxel is outside the second."""
    rng = np.random.default_rng(5)
    shown = [("stimulus", name) for name in [*STIMULI, "a.png", "b.png"]]
    signal = rng.normal(size=(*SHAPE, 4))[..., [0, 1, 2, 3, 0, 1]]
    voxel = tuple(np.argwhere(labels > 0)[0])
    root = tmp_path / "bids"
    save(labels_path(root), labels)
    regions_path(root).write_text(REGIONS)
    for session in ("ses-01", "ses-02"):
        volumes = signal + 0.3 * rng.normal(size=signal.shape)
        volumes[voxel] = missing if session == "ses-02" else volumes[voxel]
        save(betas_path(root, session), volumes.astype(np.float32))
        write_events(events_path(root, session), shown)
    result = bids.read(root, "sub-01", manifest)
    alone = bids.read(root, "sub-01", manifest, sessions=["ses-01"])
    np.testing.assert_array_equal(result.mean[:, 0], alone.mean[:, 0])
    assert result.ncsnr[0] == alone.ncsnr[0]
    assert result.target_repeats[0] == pytest.approx(result.target_repeats[1] / 2)
    assert result.without_data == {"ses-02": 1}
    assert (result.n_nan_targets, result.n_constant_targets) == (0, 0)


def test_the_same_betas_in_two_sessions_are_refused(root: Path, manifest: Manifest) -> None:
    shutil.copy(betas_path(root, "ses-02"), betas_path(root))
    write_events(events_path(root), EVENTS["ses-02"])
    with pytest.raises(ValueError, match=r"ses-02_.*stat\.nii\.gz and .*ses-01_.* same content"):
        bids.describe(root, "sub-01", manifest)


def test_a_volume_without_data_is_refused_by_its_row(root: Path, manifest: Manifest, betas) -> None:
    betas["ses-01"][..., 3] = np.nan
    save(betas_path(root), betas["ses-01"])
    with pytest.raises(ValueError, match=r"ses-01_.*events\.tsv, row 4: the trial has no data"):
        bids.read(root, "sub-01", manifest)


def test_session_of_catch_trials_only_is_passed_over(root, manifest: Manifest) -> None:
    write_events(events_path(root, "ses-02"), [("catch", "n/a")] * 4)
    assert bids.describe(root, "sub-01", manifest).stimuli == ("a.png", "b.png", "d.png")
    assert len(bids.read(root, "sub-01", manifest).mean) == 3


def test_subjects_are_folders_with_sessions(root: Path) -> None:
    (root / "sub-02" / "ses-01").mkdir(parents=True)
    (root / "derivatives").mkdir()
    (root / "participants.tsv").write_text("participant_id\n")
    assert bids.list_subjects(root) == ["sub-01", "sub-02"]


def test_what_is_not_read_is_said(root: Path, manifest: Manifest) -> None:
    (root / "sub-02" / "func").mkdir(parents=True)
    other = root / "sub-01" / "ses-03" / "func" / "sub-01_ses-03_task-words_desc-betas_stat.nii.gz"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"")
    assert bids.passed_over(root) == ["sub-02, which has no folder ses-*"]
    described = bids.describe(root, "sub-01", manifest)
    assert described.n_sessions == 2
    session, trials = described.left_out
    assert session == f"ses-03, not chosen or without func/sub-01_ses-03_{bids.BETAS}"
    assert trials == "1 trials of another trial_type than 'stimulus'"


def test_folder_without_subjects_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        bids.list_subjects(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no subject"):
        bids.list_subjects(tmp_path)


def fewer_rows(root: Path) -> None:
    write_events(events_path(root), EVENTS["ses-01"][:3])


def unknown_image(root: Path) -> None:
    write_events(events_path(root), [*EVENTS["ses-01"][:4], ("stimulus", "more/g.jpeg")])


def only_catch_trials(root: Path) -> None:
    for session, trials in EVENTS.items():
        write_events(events_path(root, session), [("catch", "n/a")] * len(trials))


def missing_column(root: Path) -> None:
    events = events_path(root)
    events.write_text(events.read_text().replace("stim_file", "image"))


def ragged_row(root: Path) -> None:
    events = events_path(root)
    events.write_text(events.read_text().replace("catch\tn/a", "catch"))


def other_shape(root: Path) -> None:
    save(labels_path(root), np.ones((4, 3, 3), dtype=np.int16))


def volume_without_trials(root: Path) -> None:
    save(betas_path(root), np.ones(SHAPE, dtype=np.float32))


def other_affine(root: Path) -> None:
    save(labels_path(root), np.ones(SHAPE, dtype=np.int16), AFFINE + np.eye(4)[:, ::-1])


def labels_of_4_axes(root: Path) -> None:
    save(labels_path(root), np.ones((*SHAPE, 2), dtype=np.int16))


def fractional_labels(root: Path) -> None:
    save(labels_path(root), np.full(SHAPE, 1.5, dtype=np.float32))


def labels_not_known(root: Path) -> None:
    save(labels_path(root), np.full(SHAPE, np.nan, dtype=np.float32))


def negative_index(root: Path) -> None:
    regions_path(root).write_text(REGIONS + "-2\tV3\tL\n")


def unlisted_label(root: Path) -> None:
    save(labels_path(root), np.full(SHAPE, 7, dtype=np.int16))


def nothing_labelled(root: Path) -> None:
    save(labels_path(root), np.zeros(SHAPE, dtype=np.int16))


def side_unknown(root: Path) -> None:
    regions_path(root).write_text(REGIONS.replace("R", "right"))


def index_twice(root: Path) -> None:
    regions_path(root).write_text(REGIONS + "5\tV3\tL\n")


def index_no_number(root: Path) -> None:
    regions_path(root).write_text(REGIONS.replace("5", "five"))


def run_entity(root: Path) -> None:
    events = events_path(root)
    events.rename(events.with_name(events.name.replace("images", "images_run-1")))


def not_nifti(root: Path) -> None:
    betas_path(root).write_bytes(b"this is no NIfTI file")


def header_cut(root: Path) -> None:
    path = labels_path(root)
    path.write_bytes(path.read_bytes()[:30])


REFUSALS: list[tuple[Callable[[Path], object], str]] = [
    (fewer_rows, r"betas_stat\.nii\.gz has 5 volumes but .*events\.tsv has 3 rows"),
    (unknown_image, r"ses-01_.*events\.tsv, row 5: .*did you mean `more/f\.jpeg`"),
    (only_catch_trials, r"events\.tsv has no trial of an image"),
    (missing_column, r"events\.tsv lacks the column stim_file"),
    (ragged_row, r"events\.tsv, row 2: the number of fields"),
    (other_shape, r"stat\.nii\.gz has volumes of shape .* but .*dseg\.nii\.gz has"),
    (volume_without_trials, r"stat\.nii\.gz has shape \(4, 3, 2\), which is no series of volumes"),
    (other_affine, r"stat\.nii\.gz and .*dseg\.nii\.gz have different affines"),
    (labels_of_4_axes, r"dseg\.nii\.gz has shape \(4, 3, 2, 2\)"),
    (labels_not_known, r"dseg\.nii\.gz has 24 voxels that are NaN or infinite; give them label 0"),
    (negative_index, r"dseg\.tsv, row 4: index '-2' is no whole number from 1"),
    (fractional_labels, r"dseg\.nii\.gz has labels that are no whole numbers"),
    (unlisted_label, r"dseg\.nii\.gz has the label 7, which .*dseg\.tsv does not list"),
    (nothing_labelled, r"no voxel of .*dseg\.nii\.gz"),
    (side_unknown, r"dseg\.tsv, row 2: hemisphere is 'right'"),
    (index_twice, r"dseg\.tsv, row 4: index 5 is there twice"),
    (index_no_number, r"dseg\.tsv, row 3: index 'five'"),
    (run_entity, r"images_run-1_events\.tsv would not be read"),
    (not_nifti, r"cannot read .*betas_stat\.nii\.gz as NIfTI"),
    (header_cut, r"cannot read .*dseg\.nii\.gz as NIfTI"),
    (lambda root: events_path(root).unlink(), r"there is no .*events\.tsv"),
    (lambda root: betas_path(root, "ses-02").unlink(), r"there is no .*ses-02.*stat\.nii\.gz"),
    (lambda root: labels_path(root).unlink(), r"there is no .*dseg\.nii\.gz"),
    (lambda root: regions_path(root).unlink(), r"there is no .*dseg\.tsv"),
    (
        lambda root: [shutil.rmtree(root / "sub-01" / name) for name in EVENTS],
        r"sub-01 holds no session",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), REFUSALS)
@pytest.mark.parametrize("call", [bids.describe, bids.read])
def test_bad_files_are_refused_in_one_sentence(
    root: Path, manifest: Manifest, spoil: Callable, message: str, call: Callable
) -> None:
    spoil(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        call(root, "sub-01", manifest)
    assert "\n" not in str(caught.value)


def test_the_owners_ceiling_is_read_where_it_is_asked_for(root: Path, manifest: Manifest) -> None:
    fields = {"images": 2, "pool": "session"}
    bids.describe(root, "sub-01", manifest, ceiling=fields)
    found = bids.read(root, "sub-01", manifest, ceiling=fields)
    assert found.ncsnr_owners is not None
    assert found.ncsnr_owners.shape == found.ncsnr.shape
    assert bids.read(root, "sub-01", manifest).ncsnr_owners is None
    for call in (bids.describe, bids.read):
        with pytest.raises(ValueError, match="no image has exactly 12 used trials; images have 1"):
            call(root, "sub-01", manifest, ceiling={"images": 12, "pool": "repetition"})


@pytest.mark.parametrize("call", [bids.describe, bids.read])
def test_bad_options_are_refused(root: Path, manifest: Manifest, call: Callable) -> None:
    with pytest.raises(ValueError, match="normalise is 'run'"):
        call(root, "sub-01", manifest, normalise="run")
    with pytest.raises(ValueError, match="region 'V4v'; did you mean `V4`"):
        call(root, "sub-01", manifest, rois=["V1", "V4v"])
    with pytest.raises(ValueError, match="region 'LO'; give some of V1, V4"):
        call(root, "sub-01", manifest, rois=["LO"])
    with pytest.raises(ValueError, match="no session 'ses-1'; did you mean `ses-0"):
        call(root, "sub-01", manifest, sessions=["ses-02", "ses-1"])
    with pytest.raises(FileNotFoundError, match="no subject 'sub-1'; did you mean `sub-01`"):
        call(root, "sub-1", manifest)


def test_truncated_betas_are_refused_by_name(root: Path, manifest: Manifest) -> None:
    path, n = betas_path(root), 500
    volumes = np.random.default_rng(0).normal(size=(*SHAPE, n)).astype(np.float32)
    save(path, volumes)
    write_events(events_path(root), [("stimulus", "a.png")] * n)
    path.write_bytes(path.read_bytes()[:-5000])
    bids.describe(root, "sub-01", manifest)  # the header is whole
    with pytest.raises(ValueError, match=r"cannot read .*ses-01.*stat\.nii\.gz as NIfTI"):
        bids.read(root, "sub-01", manifest)
