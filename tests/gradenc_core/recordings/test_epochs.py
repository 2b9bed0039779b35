import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd
import pytest

from gradenc_core.recordings import epochs
from gradenc_core.recordings.epoch_files import EpochsFile, parse_name
from gradenc_core.stimuli.images import Manifest

SFREQ, TMIN, N_TIMES = 100.0, -0.1, 31
CHANNELS = ["MEG0111", "MEG0112", "MEG0113", "EOG001", "STI101"]
TYPES = ["mag", "grad", "mag", "eog", "stim"]
NAMES = ["d.png", "n/a", "a.png", "b.png", "c.png", "b.png", "more/f.jpeg", "a.png", "d.png"]
KINDS = ["stimulus", "catch", *["stimulus"] * 7]
SESSIONS = ["1", "1", "1", "1", "1", "2", "2", "2", "2"]
STIMULI = ("a.png", "b.png", "d.png", "more/f.jpeg")
METADATA = pd.DataFrame({"stim_file": NAMES, "trial_type": KINDS, "session": SESSIONS})


def make(data: np.ndarray, metadata: pd.DataFrame | None, bads: tuple[str, ...] = ()) -> Any:
    info = mne.create_info(CHANNELS, SFREQ, TYPES)
    for i, channel in enumerate(info["chs"]):
        channel["loc"][:3] = [0.01 * i, 0.02, -0.03]
    info["bads"] = list(bads)
    events = np.c_[np.arange(len(data)) * 100, np.zeros(len(data)), np.ones(len(data))]
    return mne.EpochsArray(data, info, events.astype(int), TMIN, metadata=metadata, verbose="error")


def save(recording: Any, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    recording.save(path, fmt="double", overwrite=True, verbose="error", **options)


def load(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MNE calls pandas in ways that pandas deprecates
        return mne.read_epochs(path, verbose="error")


@pytest.fixture
def data() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1e-13, (len(NAMES), len(CHANNELS), N_TIMES))


@pytest.fixture
def root(tmp_path: Path, data: np.ndarray) -> Path:
    save(make(data, METADATA), tmp_path / "meg" / "sub-01-epo.fif")
    return tmp_path / "meg"


def expected_trials(data: np.ndarray, sensors: list[int], normalise: str) -> dict[str, np.ndarray]:
    trials: dict[str, list[np.ndarray]] = {name: [] for name in STIMULI}
    for session in ("1", "2"):
        used = [i for i in range(9) if SESSIONS[i] == session and KINDS[i] == "stimulus"]
        values = data[used][:, sensors]
        if normalise == "session":
            values = (values - values.mean(axis=0)) / values.std(axis=0)
        for i, value in zip(used, values, strict=True):
            trials[{"c.png": "a.png"}.get(NAMES[i], NAMES[i])].append(value)
    return {name: np.stack(rows) for name, rows in trials.items()}


def check(result: Any, trials: dict[str, np.ndarray]) -> None:
    mean = np.stack([trials[name].mean(axis=0) for name in STIMULI])
    np.testing.assert_allclose(result.mean, mean, rtol=1e-4, atol=1e-5 * np.abs(mean).max())
    noise = np.mean([t.var(axis=0, ddof=1) for t in trials.values() if len(t) > 1], axis=0)
    total = np.concatenate(list(trials.values())).var(axis=0)
    ratio = np.sqrt(np.maximum(total - noise, 0) / noise)
    np.testing.assert_allclose(result.ncsnr, ratio, rtol=1e-3, atol=1e-4)
    assert result.mean.dtype == result.ncsnr.dtype == np.float32


@pytest.mark.parametrize("normalise", ["session", "none"])
def test_round_trip(root: Path, manifest: Manifest, data, normalise: str) -> None:
    options = {"normalise": normalise, "tmin": None, "tmax": None}
    described = epochs.describe(root, "sub-01", manifest, **options)
    result = epochs.read(root, "sub-01", manifest, **options)
    assert (described.subject, described.modality) == ("sub-01", "meg")
    assert described.stimuli == STIMULI
    np.testing.assert_array_equal(described.n_repeats, [3, 2, 2, 1])
    np.testing.assert_array_equal(result.n_repeats, described.n_repeats)
    assert described.sessions == ("", "", "", "2")
    check(result, expected_trials(data, [0, 1, 2], normalise))
    assert result.n_nan_targets == 0


def test_coordinates(root: Path, manifest: Manifest) -> None:
    coords = epochs.describe(root, "sub-01", manifest).coords
    assert not coords.data_vars
    assert coords["sensor"].values.tolist() == CHANNELS[:3]
    np.testing.assert_allclose(coords["sensor_x"], [0, 0.01, 0.02], atol=1e-7)
    np.testing.assert_allclose(coords["sensor_z"], -0.03, atol=1e-7)
    np.testing.assert_allclose(coords["time"], TMIN + np.arange(N_TIMES) / SFREQ, atol=1e-9)
    assert coords["time"].dtype == np.float64
    assert coords["sensor_type"].dims == ("sensor",)
    assert coords["sensor_type"].values.tolist() == TYPES[:3]


def test_places_of_sensors_are_finite(root: Path, manifest: Manifest, data) -> None:
    recording = make(data, METADATA, bads=("MEG0111",))
    recording.info["chs"][2]["loc"][3:] = [*np.eye(3)[0], *np.eye(3)[1], np.inf, 0, 1]
    save(recording, root / "sub-01-epo.fif")
    coords = epochs.describe(root, "sub-01", manifest, tmin=0.0).coords
    # MNE leaves NaN in the orientation of the gradiometer.
    expected = [[0.01, 0.02, -0.03, *[0] * 9], [0.02, 0.02, -0.03, 1, 0, 0, 0, 1, 0, 0, 0, 1]]
    assert coords["sensor_loc"].dims == ("sensor", "loc")
    np.testing.assert_allclose(coords["sensor_loc"], expected, atol=1e-7)
    assert coords["sensor_type"].values.tolist() == ["grad", "mag"]


def test_times_include_both_ends(root: Path, manifest: Manifest) -> None:
    window = {"tmin": 0.0, "tmax": 0.1}
    coords = epochs.describe(root, "sub-01", manifest, **window).coords
    np.testing.assert_allclose(coords["time"], np.arange(11) / SFREQ, atol=1e-9)
    some = epochs.read(root, "sub-01", manifest, **window)
    everything = epochs.read(root, "sub-01", manifest)
    np.testing.assert_array_equal(some.mean, everything.mean[:, :, 10:21])


def test_bad_channels_are_left_out(root: Path, manifest: Manifest, data) -> None:
    save(make(data, METADATA, bads=("MEG0112",)), root / "sub-01-epo.fif")
    described = epochs.describe(root, "sub-01", manifest)
    assert described.coords["sensor"].values.tolist() == ["MEG0111", "MEG0113"]
    check(
        epochs.read(root, "sub-01", manifest, normalise="none"),
        expected_trials(data, [0, 2], "none"),
    )


@pytest.mark.parametrize(("picks", "sensors"), [("meg", [0, 1, 2]), ("mag", [0, 2]), ("grad", [1])])
def test_kinds_of_sensors(root, manifest: Manifest, data, picks: str, sensors: list[int]) -> None:
    described = epochs.describe(root, "sub-01", manifest, picks=picks)
    assert described.coords["sensor"].values.tolist() == [CHANNELS[i] for i in sensors]
    check(
        epochs.read(root, "sub-01", manifest, picks=picks),
        expected_trials(data, sensors, "session"),
    )


def test_a_kind_that_is_not_there_is_refused(root: Path, manifest: Manifest, data) -> None:
    save(make(data, METADATA, bads=("MEG0112",)), root / "sub-01-epo.fif")
    for call in (epochs.describe, epochs.read):
        with pytest.raises(ValueError, match=r"sub-01-epo\.fif has no good gradiometer channel"):
            call(root, "sub-01", manifest, picks="grad")
        with pytest.raises(ValueError, match="picks is 'eeg'; give one of meg, mag, grad"):
            call(root, "sub-01", manifest, picks="eeg")


def test_junk_files_beside_the_epochs_are_passed_over(root: Path, manifest: Manifest) -> None:
    (root / "._sub-01-epo.fif").write_bytes(b"resource fork")
    (root / "sub-01-epo-notes.txt").write_text("notes")
    assert epochs.list_subjects(root) == ["sub-01"]
    assert list(epochs.describe(root, "sub-01", manifest).files) == ["sub-01-epo.fif"]


def test_no_warning_leaks(root: Path, manifest: Manifest) -> None:
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        epochs.describe(root, "sub-01", manifest)
        epochs.read(root, "sub-01", manifest)
    assert not leaked


def test_nested_folder_and_one_session_without_the_column(
    tmp_path: Path, manifest: Manifest, data
) -> None:
    save(make(data, METADATA[["stim_file"]].replace("n/a", "b.png")), tmp_path / "s/s-epo.fif")
    assert epochs.list_subjects(tmp_path) == ["s"]
    described = epochs.describe(tmp_path, "s", manifest)
    assert list(described.files) == ["s/s-epo.fif"]
    np.testing.assert_array_equal(described.n_repeats, [3, 3, 2, 1])
    result = epochs.read(tmp_path, "s", manifest)
    values = (data[:, :3] - data[:, :3].mean(axis=0)) / data[:, :3].std(axis=0)
    np.testing.assert_allclose(result.mean[0], values[[2, 4, 7]].mean(axis=0), rtol=1e-4, atol=1e-5)


def save_in_parts(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write three parts and more of `sub-01-epo.fif`; return the data and the images shown."""
    n = 400
    assert n > 2 * epochs.EPOCHS_AT_ONCE
    data = np.random.default_rng(4).normal(0, 1e-13, (n, len(CHANNELS), 401))
    shown = np.array(STIMULI)[np.arange(n) % 4]
    metadata = pd.DataFrame({"stim_file": shown, "session": np.arange(n) // 200})
    save(make(data, metadata), folder / "sub-01-epo.fif", split_size="3MB")
    return data, shown


def test_split_files_are_read_and_hashed(tmp_path: Path, manifest: Manifest) -> None:
    data, shown = save_in_parts(tmp_path)
    parts = sorted(path.name for path in tmp_path.glob("*.fif"))
    assert len(parts) > 2
    described = epochs.describe(tmp_path, "sub-01", manifest)
    assert sorted(described.files) == parts
    assert described.n_sessions == 2
    assert epochs.list_subjects(tmp_path) == ["sub-01"]
    assert epochs.passed_over(tmp_path) == []
    (tmp_path / "sub-02_raw.fif").write_bytes(b"")
    assert epochs.passed_over(tmp_path) == ["sub-02_raw.fif, which is not named *-epo.fif"]
    result = epochs.read(tmp_path, "sub-01", manifest, normalise="none")
    expected = np.stack([data[shown == name][:, :3].mean(axis=0) for name in STIMULI])
    np.testing.assert_allclose(result.mean, expected, rtol=1e-4, atol=1e-18)
    (tmp_path / parts[0]).unlink()
    assert parts[0] == "sub-01-epo-1.fif"
    for call in (epochs.describe, epochs.read):
        with pytest.raises(ValueError, match=r"cannot read the epochs .*sub-01-epo\.fif"):
            call(tmp_path, "sub-01", manifest)


def test_parts_of_another_name_than_the_first_are_hashed(
    tmp_path: Path, manifest: Manifest
) -> None:
    """MNE reads the parts that are named inside the files: a change there must be seen."""
    save_in_parts(tmp_path)
    (tmp_path / "sub-01-epo.fif").rename(tmp_path / "sub-99-epo.fif")
    before = epochs.describe(tmp_path, "sub-99", manifest).files
    assert sorted(before) == sorted(path.name for path in tmp_path.glob("*.fif"))
    (tmp_path / "sub-99-epo-1.fif").write_bytes(b"of another recording, and read by nobody")
    part = tmp_path / "sub-01-epo-1.fif"
    with part.open("r+b") as file:
        file.seek(part.stat().st_size // 2)
        file.write(bytes(400))
    after = epochs.describe(tmp_path, "sub-99", manifest).files
    assert {name for name in before | after if before.get(name) != after.get(name)} == {part.name}


def save_runs(folder: Path, data: np.ndarray, names: tuple[str, str]) -> None:
    """Write the nine epochs as two runs of five and four."""
    metadata = METADATA[["stim_file", "trial_type"]]
    save(make(data[:5], metadata[:5]), folder / names[0])
    save(make(data[5:], metadata[5:].reset_index(drop=True)), folder / names[1])


def test_runs_of_a_subject_are_one_person(tmp_path: Path, manifest: Manifest, data) -> None:
    save_runs(tmp_path, data, ("sub-01_run-2-epo.fif", "sub-01_run-10-epo.fif"))
    assert epochs.list_subjects(tmp_path) == ["sub-01"]
    described = epochs.describe(tmp_path, "sub-01", manifest)
    assert set(described.files) == {"sub-01_run-2-epo.fif", "sub-01_run-10-epo.fif"}
    np.testing.assert_array_equal(described.n_repeats, [3, 2, 2, 1])
    assert described.sessions == ("1",) * 4
    whole = tmp_path.parent / "whole"
    save(make(data, METADATA[["stim_file", "trial_type"]]), whole / "sub-01-epo.fif")
    result = epochs.read(tmp_path, "sub-01", manifest)
    expected = epochs.read(whole, "sub-01", manifest)
    np.testing.assert_array_equal(result.mean, expected.mean)
    np.testing.assert_array_equal(result.ncsnr, expected.ncsnr)


def test_files_of_sessions_have_the_sessions_of_their_names(
    tmp_path: Path, manifest: Manifest, data
) -> None:
    """As mne-bids-pipeline writes them, below the subject's folder."""
    start = "sub-01/ses-{0}/meg/sub-01_ses-{0}_task-images_proc-clean_epo.fif"
    save_runs(tmp_path, data, (start.format("01"), start.format("02")))
    assert epochs.list_subjects(tmp_path) == ["sub-01"]
    described = epochs.describe(tmp_path, "sub-01", manifest)
    assert described.sessions == ("", "", "", "ses-02")
    check(epochs.read(tmp_path, "sub-01", manifest), expected_trials(data, [0, 1, 2], "session"))


def test_runs_share_the_sensors_that_are_good_in_all_by_name(
    tmp_path: Path, manifest: Manifest, data
) -> None:
    """The second run has its channels in another order, and a bad one."""
    save_runs(tmp_path, data, ("sub-01_run-1-epo.fif", "sub-01_run-2-epo.fif"))
    second = load(tmp_path / "sub-01_run-2-epo.fif")
    second.reorder_channels(CHANNELS[::-1])
    second.info["bads"] = ["MEG0112"]
    save(second, tmp_path / "sub-01_run-2-epo.fif")
    described = epochs.describe(tmp_path, "sub-01", manifest)
    assert described.coords["sensor"].values.tolist() == ["MEG0111", "MEG0113"]
    assert described.left_out == (
        "sensors that are not good in every file: MEG0112",
        "1 trials of another trial_type than 'stimulus'",
    )
    result = epochs.read(tmp_path, "sub-01", manifest, normalise="none")
    check(result, expected_trials(data, [0, 2], "none"))


@pytest.mark.parametrize(
    "names",
    [
        ("sub-01_proc-clean_epo.fif", "sub-01_proc-ica_epo.fif"),
        ("sub-01_epo.fif", "sub-01_run-01_epo.fif"),
        ("sub-01_run-01_epo.fif", "sub-01_raw_run-02_epo.fif"),
    ],
)
def test_files_that_are_no_runs_of_one_recording_are_refused(
    tmp_path: Path, manifest: Manifest, data, names: tuple[str, str]
) -> None:
    """The same trials, cleaned in two ways or joined in one file, would count twice."""
    save_runs(tmp_path, data, names)
    with pytest.raises(ValueError, match=r"fif and .*fif are both epochs of sub-01 and differ"):
        epochs.describe(tmp_path, "sub-01", manifest)


def test_the_same_epochs_in_two_runs_are_refused(tmp_path: Path, manifest: Manifest, data) -> None:
    save(make(data, METADATA), tmp_path / "sub-01_run-1-epo.fif")
    shutil.copy(tmp_path / "sub-01_run-1-epo.fif", tmp_path / "sub-01_run-2-epo.fif")
    with pytest.raises(ValueError, match=r"run-2-epo\.fif and .*run-1-epo\.fif have the same"):
        epochs.describe(tmp_path, "sub-01", manifest)


def test_a_link_to_nothing_is_refused_by_name(root: Path, manifest: Manifest) -> None:
    """As git-annex leaves it where the content has not been fetched."""
    (root / "sub-02-epo.fif").symlink_to("../.git/annex/objects/nothing.fif")
    assert epochs.list_subjects(root) == ["sub-01", "sub-02"]
    with pytest.raises(ValueError, match=r"cannot read the epochs .*sub-02-epo\.fif"):
        epochs.describe(root, "sub-02", manifest)


def test_runs_of_other_times_are_refused(tmp_path: Path, manifest: Manifest, data) -> None:
    save_runs(tmp_path, data, ("sub-01_run-1-epo.fif", "sub-01_run-2-epo.fif"))
    second = load(tmp_path / "sub-01_run-2-epo.fif")
    save(second.decimate(2, verbose="error"), tmp_path / "sub-01_run-2-epo.fif")
    with pytest.raises(ValueError, match=r"run-2-epo\.fif has 16 times .*run-1-epo\.fif has 31"):
        epochs.describe(tmp_path, "sub-01", manifest)


def test_runs_without_a_common_sensor_are_refused(tmp_path: Path, manifest: Manifest, data) -> None:
    save_runs(tmp_path, data, ("sub-01_run-1-epo.fif", "sub-01_run-2-epo.fif"))
    second = load(tmp_path / "sub-01_run-2-epo.fif")
    mne.rename_channels(second.info, lambda name: name.replace("MEG", "MEG "))
    save(second, tmp_path / "sub-01_run-2-epo.fif")
    with pytest.raises(ValueError, match=r"no MEG channel is good in all of sub-01's 2 files"):
        epochs.describe(tmp_path, "sub-01", manifest)


def test_a_session_in_the_name_and_others_in_the_metadata_are_refused(
    tmp_path: Path, manifest: Manifest, data
) -> None:
    save(make(data, METADATA), tmp_path / "sub-01_ses-01-epo.fif")
    with pytest.raises(ValueError, match=r"named after ses-01 but .* the sessions 1, 2; save"):
        epochs.describe(tmp_path, "sub-01", manifest)


def test_splits_named_as_in_bids_are_read_and_hashed(tmp_path: Path, manifest: Manifest) -> None:
    n = 200
    values = np.random.default_rng(4).normal(0, 1e-13, (n, len(CHANNELS), 401))
    shown = np.array(STIMULI)[np.arange(n) % 4]
    recording = make(values, pd.DataFrame({"stim_file": shown}))
    save(recording, tmp_path / "sub-01_epo.fif", split_size="3MB", split_naming="bids")
    parts = sorted(path.name for path in tmp_path.glob("*.fif"))
    assert parts[:2] == ["sub-01_split-01_epo.fif", "sub-01_split-02_epo.fif"]
    described = epochs.describe(tmp_path, "sub-01", manifest)
    assert sorted(described.files) == parts
    np.testing.assert_array_equal(described.n_repeats, [n / 4] * 4)
    save(make(values[:4], pd.DataFrame({"stim_file": STIMULI})), tmp_path / parts[0])
    with pytest.raises(ValueError, match=r"split-02_epo\.fif is no continuation of .*split-01"):
        epochs.describe(tmp_path, "sub-01", manifest)


@pytest.mark.parametrize(
    ("name", "subject", "entities"),
    [
        ("sub-01-epo.fif", "sub-01", {}),
        ("sub-01_epo.fif.gz", "sub-01", {}),
        ("sub-01_ses-2_run-01_epo.fif", "sub-01", {"ses": "2", "run": "01"}),
        ("sub-01_cleaned_well_run-1-epo.fif", "sub-01", {"": "_cleaned_well", "run": "1"}),
        ("preprocessed_P1-epo.fif", "preprocessed_P1", {}),
        ("my_P1_run-2-epo.fif", "my_P1", {"run": "2"}),
        ("run-1-epo.fif", "run-1", {}),
    ],
)
def test_names_of_files(name: str, subject: str, entities: dict[str, str]) -> None:
    file = parse_name(Path("x") / name)
    assert file == EpochsFile(Path("x") / name, subject, entities)


@pytest.mark.parametrize("name", ["-epo.fif", "sub-01-epo-1.fif", "sub-01-ave.fif", "._s-epo.fif"])
def test_other_files_are_no_epochs(name: str) -> None:
    assert parse_name(Path(name)) is None


def test_nan_and_constant_targets(root: Path, manifest: Manifest, data) -> None:
    data[3, 0, 4] = np.nan
    data[1, 1, 1] = np.nan  # a catch trial
    data[:, 2, 7] = 3e-13
    save(make(data, METADATA), root / "sub-01-epo.fif")
    result = epochs.read(root, "sub-01", manifest)
    assert (result.n_nan_targets, result.n_constant_targets) == (1, 1)
    assert np.isnan(result.mean[:, 0, 4]).all()
    assert np.isnan(result.mean[:, 2, 7]).all()
    assert np.isnan(result.mean).sum() == 8
    assert np.isnan(result.ncsnr).sum() == 2


def no_metadata(path: Path, data: np.ndarray) -> None:
    save(make(data, None), path)


def no_column(path: Path, data: np.ndarray) -> None:
    save(make(data, METADATA.rename(columns={"stim_file": "image"})), path)


def unknown_image(path: Path, data: np.ndarray) -> None:
    save(make(data, METADATA.replace("more/f.jpeg", "more/f.jpg")), path)


def missing_image(path: Path, data: np.ndarray) -> None:
    metadata = METADATA.copy()
    metadata.loc[0, "stim_file"] = None
    save(make(data, metadata), path)


def missing_session(path: Path, data: np.ndarray) -> None:
    metadata = METADATA.copy()
    metadata.loc[2, "session"] = None
    save(make(data, metadata), path)


def only_catch_trials(path: Path, data: np.ndarray) -> None:
    save(make(data, METADATA.assign(trial_type="catch")), path)


def no_good_sensor(path: Path, data: np.ndarray) -> None:
    save(make(data, METADATA, bads=("MEG0111", "MEG0112", "MEG0113")), path)


def only_eeg(path: Path, data: np.ndarray) -> None:
    recording = make(data, METADATA)
    recording.set_channel_types(dict.fromkeys(CHANNELS[:3], "eeg"), verbose="error")
    save(recording, path)


def empty(path: Path, data: np.ndarray) -> None:
    path.write_bytes(b"")


def five_bytes(path: Path, data: np.ndarray) -> None:
    path.write_bytes(b"abcde")


def not_fif(path: Path, data: np.ndarray) -> None:
    path.write_bytes(b"this is no FIF file, though its name says so")


def header_cut(path: Path, data: np.ndarray) -> None:
    path.write_bytes(path.read_bytes()[:200])


def both_layouts(path: Path, data: np.ndarray) -> None:
    save(make(data, METADATA), path.parent / "sub-01" / "sub-01-epo.fif")


REFUSALS: list[tuple[Callable[[Path, np.ndarray], None], str]] = [
    (no_metadata, r"sub-01-epo\.fif has no metadata; save it again with epochs\.metadata"),
    (no_column, r"sub-01-epo\.fif has no metadata column stim_file; save it again"),
    (unknown_image, r"sub-01-epo\.fif, row 7: .*did you mean `more/f\.jpeg`"),
    (missing_image, r"sub-01-epo\.fif, row 1: stim_file"),
    (missing_session, r"sub-01-epo\.fif, row 3 of the metadata: session is missing"),
    (only_catch_trials, r"sub-01-epo\.fif has no trial of an image"),
    (no_good_sensor, r"sub-01-epo\.fif has no good MEG channel, only some in info\['bads'\]"),
    (only_eeg, r"sub-01-epo\.fif has no good MEG channel, it has 3 eeg, 1 eog, 1 stim; save"),
    (empty, r"cannot read the epochs .*sub-01-epo\.fif"),
    (five_bytes, r"cannot read the epochs .*sub-01-epo\.fif"),
    (not_fif, r"cannot read the epochs .*sub-01-epo\.fif"),
    (header_cut, r"cannot read the epochs .*sub-01-epo\.fif"),
    (both_layouts, r"both .*sub-01-epo\.fif and .*sub-01/sub-01-epo\.fif"),
]


@pytest.mark.parametrize(("spoil", "message"), REFUSALS)
@pytest.mark.parametrize("call", [epochs.describe, epochs.read])
def test_bad_files_are_refused_in_one_sentence(
    root: Path, manifest: Manifest, data, spoil: Callable, message: str, call: Callable
) -> None:
    spoil(root / "sub-01-epo.fif", data)
    with pytest.raises(ValueError, match=message) as caught:
        call(root, "sub-01", manifest)
    assert "\n" not in str(caught.value)


def test_truncated_data_is_refused_by_name(root: Path, manifest: Manifest) -> None:
    path = root / "sub-01-epo.fif"
    whole = path.read_bytes()
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=r"cannot read the epochs .*sub-01-epo\.fif"):
            epochs.read(root, "sub-01", manifest)


def test_the_owners_ceiling_is_read_where_it_is_asked_for(root: Path, manifest: Manifest) -> None:
    fields = {"images": 2, "pool": "session"}
    epochs.describe(root, "sub-01", manifest, ceiling=fields)
    found = epochs.read(root, "sub-01", manifest, ceiling=fields)
    assert found.ncsnr_owners is not None
    assert found.ncsnr_owners.shape == found.ncsnr.shape
    assert epochs.read(root, "sub-01", manifest).ncsnr_owners is None
    for call in (epochs.describe, epochs.read):
        with pytest.raises(ValueError, match="no image has exactly 12 used trials; images have 1"):
            call(root, "sub-01", manifest, ceiling={"images": 12, "pool": "repetition"})


def test_bad_options_are_refused(root: Path, manifest: Manifest) -> None:
    with pytest.raises(ValueError, match="normalise is 'run'"):
        epochs.read(root, "sub-01", manifest, normalise="run")
    with pytest.raises(ValueError, match="no time from tmin 1"):
        epochs.describe(root, "sub-01", manifest, tmin=1.0)
    with pytest.raises(FileNotFoundError, match="did you mean `sub-01`"):
        epochs.describe(root, "sub-1", manifest)


def test_folder_without_epochs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        epochs.list_subjects(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no epochs"):
        epochs.list_subjects(tmp_path)
