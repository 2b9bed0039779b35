from pathlib import Path

import numpy as np

from gradenc_core.planted.recordings import write_bids_subject, write_epochs_subject
from gradenc_core.recordings import bids, epochs
from gradenc_core.stimuli.generated import write_images
from gradenc_core.stimuli.images import read_manifest


def test_betas_come_back_in_c_order_of_the_volume(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = write_images(tmp_path / "stimuli", 5, 8, seed=0)
    ijk = np.array([[2, 1, 0], [0, 0, 1], [1, 2, 1], [0, 0, 0]])  # not in C order
    order = [3, 1, 2, 0]
    rois, sides = ["V1", "V1", "V4", "V2"], ["L", "R", "L", "R"]
    shown = [[0, 1, 2, 0], [4, 1, 0]]
    sessions = [
        (rng.normal(size=(len(s), 4)).astype(np.float32), [names[i] for i in s]) for s in shown
    ]
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    write_bids_subject(tmp_path / "b", "sub-01", sessions, ijk, rois, sides, affine, (3, 3, 2))
    manifest = read_manifest(tmp_path / "stimuli")
    assert bids.list_subjects(tmp_path / "b") == ["sub-01"]
    described = bids.describe(tmp_path / "b", "sub-01", manifest)
    assert described.stimuli == tuple(names[i] for i in (0, 1, 2, 4))
    assert described.coords["roi"].values.tolist() == [rois[i] for i in order]
    assert described.coords["hemisphere"].values.tolist() == [sides[i] for i in order]
    np.testing.assert_allclose(described.coords["z"], 4.0 * ijk[order, 2])
    result = bids.read(tmp_path / "b", "sub-01", manifest, normalise="none")
    trials = np.concatenate([betas for betas, _ in sessions])
    rows = np.concatenate(shown)
    expected = [trials[rows == i].mean(axis=0)[order] for i in (0, 1, 2, 4)]
    np.testing.assert_allclose(result.mean, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(result.n_repeats, [3, 2, 1, 1])


def test_epochs_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = write_images(tmp_path / "stimuli", 3, 8, seed=0)
    data = (1e-13 * rng.normal(size=(6, 4, 20))).astype(np.float32)
    positions = rng.normal(0, 0.1, (4, 3))
    rows = np.array([0, 1, 2, 2, 1, 0])
    stim_files = [names[i] for i in rows]
    sessions = [1, 1, 1, 2, 2, 2]
    write_epochs_subject(
        tmp_path / "m", "sub-01", data, stim_files, 100.0, -0.05, positions, sessions
    )
    manifest = read_manifest(tmp_path / "stimuli")
    assert epochs.list_subjects(tmp_path / "m") == ["sub-01"]
    described = epochs.describe(tmp_path / "m", "sub-01", manifest)
    assert described.stimuli == tuple(names)
    np.testing.assert_allclose(described.coords["time"], -0.05 + np.arange(20) / 100, atol=1e-9)
    for i, axis in enumerate("xyz"):
        np.testing.assert_allclose(described.coords[f"sensor_{axis}"], positions[:, i], atol=1e-7)
    result = epochs.read(tmp_path / "m", "sub-01", manifest, normalise="none")
    expected = np.stack([data[rows == i].mean(axis=0) for i in range(3)])
    np.testing.assert_allclose(result.mean, expected, rtol=1e-5, atol=1e-19)
    by_session = epochs.read(tmp_path / "m", "sub-01", manifest)
    parts = [data[:3].astype(float), data[3:].astype(float)]
    trials = np.concatenate([(p - p.mean(axis=0)) / p.std(axis=0) for p in parts])
    expected = np.stack([trials[rows == i].mean(axis=0) for i in range(3)])
    np.testing.assert_allclose(by_session.mean, expected, rtol=1e-4, atol=1e-5)
