import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from gradenc_core.recordings.repeats import (
    TRIALS_AT_ONCE,
    ResponseDescription,
    average,
    count_repeats,
    hash_files,
    session_of_stimuli,
    stimulus_rows,
)
from gradenc_core.stimuli.images import Manifest


@given(st.lists(st.tuples(st.integers(-1, 5), st.sampled_from("ABC")), max_size=30))
def test_a_stimulus_has_a_session_where_all_its_trials_are_of_one(
    trials: list[tuple[int, str]],
) -> None:
    shown: dict[int, set[str]] = {}
    for row, session in trials:
        if row >= 0:
            shown.setdefault(row, set()).add(session)
    expected = [next(iter(s)) if len(s) == 1 else "" for _, s in sorted(shown.items())]
    rows = np.array([row for row, _ in trials], dtype=np.int64)
    assert session_of_stimuli(rows, [session for _, session in trials]) == tuple(expected)


def direct_ncsnr(trials: NDArray, rows: NDArray) -> NDArray:
    """Noise is the mean variance within repeated stimuli; signal is the rest of the variance."""
    noise = np.mean(
        [trials[rows == i].var(axis=0, ddof=1) for i in np.unique(rows) if (rows == i).sum() > 1],
        axis=0,
    )
    return np.sqrt(np.maximum(trials.var(axis=0) - noise, 0) / noise)


def zscore(values: NDArray) -> NDArray:
    return (values - values.mean(axis=0)) / values.std(axis=0)


@given(seed=st.integers(0, 10**6), n_sessions=st.integers(1, 4))
def test_average_of_sessions_is_the_average_of_all_trials(seed: int, n_sessions: int) -> None:
    rng = np.random.default_rng(seed)
    parts = np.array_split(np.r_[rng.integers(5, size=20), 7, 7], n_sessions)
    values = [rng.normal(3, 2, (len(part), 2, 3)) for part in parts]
    for normalise in ("session", "none"):
        trials = np.concatenate([zscore(v) if normalise == "session" else v for v in values])
        rows = np.concatenate(parts)
        result = average(zip(parts, values, strict=True), rows, (2, 3), normalise)
        seen = np.unique(rows)
        expected = np.stack([trials[rows == i].mean(axis=0) for i in seen])
        np.testing.assert_allclose(result.mean, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(result.n_repeats, [(rows == i).sum() for i in seen])
        np.testing.assert_allclose(result.ncsnr, direct_ncsnr(trials, rows), rtol=1e-4, atol=1e-6)
        assert result.mean.dtype == result.ncsnr.dtype == np.float32
        assert result.n_nan_targets == 0


@pytest.mark.parametrize("normalise", ["session", "none"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_target_with_one_nan_trial_is_nan_and_counted(normalise: str, bad: float) -> None:
    rng = np.random.default_rng(0)
    rows = np.array([0, 1, 2, 0, 1, 2])
    values = rng.normal(size=(6, 4))
    values[4, 2] = bad
    result = average([(rows[:3], values[:3]), (rows[3:], values[3:])], rows, (4,), normalise)
    missing = np.array([False, False, True, False])
    np.testing.assert_array_equal(np.isnan(result.mean), np.tile(missing, (3, 1)))
    np.testing.assert_array_equal(np.isnan(result.ncsnr), missing)
    assert result.n_nan_targets == 1


@pytest.mark.parametrize(("normalise", "expected"), [("session", 0.0), ("none", 0.1)])
def test_constant_target_stays_constant(normalise: str, expected: float) -> None:
    rows = np.array([0, 1, 2, 0, 1, 2, 0])
    values = np.random.default_rng(0).normal(size=(7, 2))
    values[:, 0] = 0.1
    result = average([(rows, values)], rows, (2,), normalise)
    np.testing.assert_allclose(result.mean[:, 0], expected, rtol=1e-6)
    assert np.ptp(result.mean[:, 0]) == 0
    assert np.isnan(result.ncsnr[0])
    assert np.isfinite(result.ncsnr[1])
    assert (result.n_nan_targets, result.n_constant_targets) == (0, 1)


def test_constant_in_one_session_only_is_not_counted() -> None:
    rows = np.array([0, 1, 2])
    values = np.random.default_rng(0).normal(size=(3, 2))
    still = np.column_stack([np.full(3, 0.1), values[:, 1]])
    result = average([(rows, values), (rows, still)], np.r_[rows, rows], (2,), "session")
    expected = (zscore(values) + np.column_stack([np.zeros(3), zscore(values)[:, 1]])) / 2
    np.testing.assert_allclose(result.mean, expected, rtol=1e-6)
    assert result.n_constant_targets == 0


@pytest.mark.parametrize("normalise", ["session", "none"])
def test_session_of_more_trials_than_are_taken_at_once(normalise: str) -> None:
    rng = np.random.default_rng(0)
    n = 2 * TRIALS_AT_ONCE + 3
    rows = rng.permutation(np.arange(n) % 7)
    values = rng.normal(100, 2, (n, 3)).astype(np.float32)
    values[:, 2] = 0.1
    given_values = values.copy()
    result = average([(rows, values)], rows, (3,), normalise)
    trials = values[:, :2].astype(np.float64)
    trials = zscore(trials) if normalise == "session" else trials
    expected = np.stack([trials[rows == i].mean(axis=0) for i in range(7)])
    np.testing.assert_allclose(result.mean[:, :2], expected, rtol=1e-5, atol=1e-6)
    assert np.ptp(result.mean[:, 2]) == 0
    assert result.n_constant_targets == 1
    np.testing.assert_array_equal(values, given_values)


def test_ncsnr_without_repeats_is_nan() -> None:
    rows = np.arange(4)
    values = np.random.default_rng(0).normal(size=(4, 2))
    assert np.isnan(average([(rows, values)], rows, (2,), "none").ncsnr).all()


def test_rows_of_duplicates_are_the_first_image(manifest: Manifest) -> None:
    names = ["c.png", "n/a", "b.png", "a.png"]
    kinds = ["stimulus", "catch", "stimulus", "stimulus"]
    rows = stimulus_rows(names, kinds, manifest, Path("events.tsv"))
    np.testing.assert_array_equal(rows, [0, -1, 1, 0])
    stimuli, n_repeats = count_repeats(rows, manifest, Path("events.tsv"))
    assert stimuli == ("a.png", "b.png")
    np.testing.assert_array_equal(n_repeats, [2.0, 1.0])


def test_unknown_stimulus_is_refused_with_row_and_suggestion(manifest: Manifest) -> None:
    kinds = ["stimulus"] * 2
    with pytest.raises(ValueError, match=r"events\.tsv, row 2: .*did you mean `more/f\.jpeg`"):
        stimulus_rows(["a.png", "more/f.jpg"], kinds, manifest, Path("events.tsv"))
    with pytest.raises(ValueError, match=r"row 1: stim_file 'zzz'.*such as 'a\.png'"):
        stimulus_rows(["zzz", "a.png"], kinds, manifest, Path("events.tsv"))


def test_hashes_are_of_whole_files(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/x", "a"):
        (tmp_path / name).write_bytes(name.encode() * 100_000)
    hashes = hash_files(tmp_path, [tmp_path / "b" / "x", tmp_path / "a"])
    assert list(hashes) == ["a", "b/x"]
    assert hashes["b/x"] == hashlib.sha256(b"b/x" * 100_000).hexdigest()


def test_description_can_be_part_of_a_pydantic_model() -> None:
    import xarray as xr

    class Holder(BaseModel):
        model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
        description: ResponseDescription

    described = ResponseDescription(
        "s", "fmri", ("a",), np.ones(1), ("1",), xr.Dataset(), {"f": "0"}
    )
    assert Holder(description=described).description is described
