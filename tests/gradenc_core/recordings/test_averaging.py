import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradenc_core.recordings.averaging import TRIALS_AT_ONCE, SessionTrials, average, has_data
from gradenc_core.recordings.ceilings import CeilingRecipe


def sessions(*parts: tuple[NDArray, NDArray]) -> list[SessionTrials]:
    """Sessions ses-0, ses-1, ... of (rows, values)."""
    return [
        SessionTrials(f"ses-{i}", rows, values, [f"trial {k + 1}" for k in range(len(rows))])
        for i, (rows, values) in enumerate(parts)
    ]


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
        result = average(sessions(*zip(parts, values, strict=True)), rows, (2, 3), normalise)
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
    result = average(
        sessions((rows[:3], values[:3]), (rows[3:], values[3:])), rows, (4,), normalise
    )
    missing = np.array([False, False, True, False])
    np.testing.assert_array_equal(np.isnan(result.mean), np.tile(missing, (3, 1)))
    np.testing.assert_array_equal(np.isnan(result.ncsnr), missing)
    assert result.n_nan_targets == 1


@pytest.mark.parametrize("normalise", ["session", "none"])
@pytest.mark.parametrize("value", [0.0, 0.1, np.nan, np.inf])
def test_target_without_data_in_any_session_is_nan_and_counted(
    normalise: str, value: float
) -> None:
    rows = np.array([0, 1, 2, 0, 1, 2, 0])
    values = np.random.default_rng(0).normal(size=(7, 2))
    values[:, 0] = value
    result = average(sessions((rows, values), (rows, values)), np.r_[rows, rows], (2,), normalise)
    assert np.isnan(result.mean[:, 0]).all()
    assert np.isnan(result.ncsnr[0])
    assert np.isfinite(result.mean[:, 1]).all()
    assert np.isfinite(result.ncsnr[1])
    assert (result.n_nan_targets, result.n_constant_targets) == (0, 1)
    assert result.without_data == {}


@given(
    seed=st.integers(0, 10**6),
    normalise=st.sampled_from(["session", "none"]),
    value=st.sampled_from([0.0, 0.1, np.nan]),
    without=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=4, max_size=4),
)
def test_a_target_is_averaged_over_the_sessions_that_have_data_of_it(
    seed: int, normalise: str, value: float, without: list[list[bool]]
) -> None:
    """As if its trials of the other sessions were not there; three sessions, five targets."""
    rng = np.random.default_rng(seed)
    lacks = np.array([[False] * 3, *without]).T  # (sessions, targets); the first has all
    parts = [np.r_[np.arange(4), rng.integers(4, size=4)] for _ in range(3)]
    given_values = [rng.normal(3, 2, (8, 5)) for _ in parts]
    for values, missing in zip(given_values, lacks, strict=True):
        values[:, missing] = value
    result = average(
        sessions(*zip(parts, given_values, strict=True)), np.concatenate(parts), (5,), normalise
    )
    for target in range(5):
        own = np.flatnonzero(~lacks[:, target])
        if not len(own):
            assert np.isnan(result.mean[:, target]).all()
            continue
        one = [(parts[i], given_values[i][:, [target]]) for i in own]
        rows = np.concatenate([parts[i] for i in own])
        alone = average(sessions(*one), rows, (1,), normalise)
        np.testing.assert_array_equal(result.mean[:, target], alone.mean[:, 0])
        np.testing.assert_array_equal(result.ncsnr[target], alone.ncsnr[0])
        share = (result.n_repeats / alone.n_repeats).sum() / result.n_repeats.sum()
        assert result.target_repeats[target] == pytest.approx(1 / share, rel=1e-6)
    somewhere = ~lacks.all(axis=0)
    assert result.n_constant_targets == (~somewhere).sum()
    lacking = {f"ses-{i}": int((lacks[i] & somewhere).sum()) for i in range(3)}
    assert result.without_data == {name: n for name, n in lacking.items() if n}


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_target_that_lacks_a_stimulus_is_nan_and_counted(value: float) -> None:
    """Stimulus 3 was shown only in the session that has no data of target 0."""
    first, second = np.array([0, 1, 2]), np.array([0, 1, 3])
    rng = np.random.default_rng(0)
    values, others = rng.normal(size=(3, 2)), rng.normal(size=(3, 2))
    others[:, 0] = value
    result = average(
        sessions((first, values), (second, others)), np.r_[first, second], (2,), "session"
    )
    np.testing.assert_array_equal(np.isnan(result.mean), [[True, False]] * 4)
    assert (result.n_nan_targets, result.n_constant_targets) == (1, 0)
    assert result.without_data == {"ses-1": 1}


@pytest.mark.parametrize("value", [0.0, 0.1, np.nan])
def test_a_session_without_any_data_is_refused(value: float) -> None:
    rows = np.array([0, 1, 2])
    values, nothing = np.random.default_rng(0).normal(size=(3, 2)), np.full((3, 2), value)
    with pytest.raises(ValueError, match="session ses-1 has no data, from trial 1 to trial 3"):
        average(sessions((rows, values), (rows, nothing)), np.r_[rows, rows], (2,), "session")


def test_a_trial_without_any_data_is_refused_by_its_place() -> None:
    rows = np.array([0, 1, 2])
    values = np.random.default_rng(0).normal(size=(3, 2))
    values[1] = np.nan
    with pytest.raises(ValueError, match=r"^trial 2: the trial has no data.*another trial_type"):
        average(sessions((rows, values)), rows, (2,), "session")


@pytest.mark.parametrize(("value", "expected"), [(0.0, False), (np.nan, False), (0.1, True)])
def test_a_single_trial_has_data_where_it_is_not_zero(value: float, expected: bool) -> None:
    np.testing.assert_array_equal(has_data(np.array([[2.0, value]])), [True, expected])


@pytest.mark.parametrize("normalise", ["session", "none"])
def test_session_of_more_trials_than_are_taken_at_once(normalise: str) -> None:
    rng = np.random.default_rng(0)
    n = 2 * TRIALS_AT_ONCE + 3
    rows = rng.permutation(np.arange(n) % 7)
    values = rng.normal(100, 2, (n, 3)).astype(np.float32)
    values[:, 2] = 0.1
    given_values = values.copy()
    result = average(sessions((rows, values)), rows, (3,), normalise)
    trials = values[:, :2].astype(np.float64)
    trials = zscore(trials) if normalise == "session" else trials
    expected = np.stack([trials[rows == i].mean(axis=0) for i in range(7)])
    np.testing.assert_allclose(result.mean[:, :2], expected, rtol=1e-5, atol=1e-6)
    assert np.isnan(result.mean[:, 2]).all()
    assert result.n_constant_targets == 1
    np.testing.assert_array_equal(values, given_values)


def test_ncsnr_without_repeats_is_nan() -> None:
    rows = np.arange(4)
    values = np.random.default_rng(0).normal(size=(4, 2))
    assert np.isnan(average(sessions((rows, values)), rows, (2,), "none").ncsnr).all()


def like_things(rng: np.random.Generator) -> list[tuple[NDArray, NDArray]]:
    """12 sessions of 720 images each shown once, and 100 test images shown in every session.

    Test images have .7 of the others' signal. Rows of test images come first.
    """
    test = 0.7 * rng.normal(size=(100, 20))
    parts = []
    for session in range(12):
        rows = np.r_[np.arange(100), 100 + 720 * session + np.arange(720)]
        signal = np.concatenate([test, rng.normal(size=(720, 20))])
        order = rng.permutation(820)
        parts.append((rows[order], (2 * signal + 5 * rng.normal(size=signal.shape) + 9)[order]))
    return parts


def share(ncsnr: NDArray, k: int) -> float:
    """Median share of variance that is signal in means of k trials."""
    return float(np.median(ncsnr**2 / (ncsnr**2 + 1 / k)))


def test_the_recipe_of_things_is_of_the_test_images_alone() -> None:
    parts = like_things(np.random.default_rng(0))
    rows = np.concatenate([part for part, _ in parts])
    recipe = CeilingRecipe(images=12, pool="repetition")
    found = average(sessions(*parts), rows, (20,), "session", recipe)
    trials = np.stack([values[np.argsort(part)[:100]] for part, values in parts], axis=1)
    scored = zscore(trials)
    v = np.sqrt(scored.var(axis=1, ddof=1).mean(axis=0))
    assert found.ncsnr_owners is not None
    np.testing.assert_allclose(found.ncsnr_owners, np.sqrt(np.maximum(0, 1 - v**2)) / v, rtol=1e-4)
    # Our own is of all images, which vary more.
    assert share(found.ncsnr, 12) > share(found.ncsnr_owners, 12) + 0.1


def test_the_recipe_of_nsd_takes_the_noise_of_images_with_three_trials() -> None:
    rng = np.random.default_rng(0)
    rows = rng.permutation(np.r_[np.arange(60), np.arange(20, 60), np.arange(40, 60)])
    parts = [(part, rng.normal(5, 2, (len(part), 4))) for part in np.array_split(rows, 3)]
    found = average(sessions(*parts), rows, (4,), "session", CeilingRecipe(3, "session"))
    trials = np.concatenate([zscore(values) for _, values in parts])
    within = [trials[rows == i].var(axis=0, ddof=1) for i in range(40, 60)]
    v = np.sqrt(np.mean(within, axis=0))
    assert found.ncsnr_owners is not None
    np.testing.assert_allclose(
        found.ncsnr_owners, np.sqrt(np.maximum(0, 1 - v**2)) / v, rtol=1e-5, atol=1e-6
    )
    assert not np.allclose(found.ncsnr_owners, found.ncsnr)


@pytest.mark.parametrize("pool", ["session", "repetition"])
def test_a_target_that_lacks_a_session_has_no_ceiling_of_images_with_all_trials(
    pool: str,
) -> None:
    rows = np.arange(4)
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(4, 2)), rng.normal(size=(4, 2))
    second[:, 0] = 0
    recipe = CeilingRecipe(images=2, pool=pool)
    found = average(
        sessions((rows, first), (rows, second)), np.r_[rows, rows], (2,), "session", recipe
    )
    assert found.ncsnr_owners is not None
    np.testing.assert_array_equal(np.isnan(found.ncsnr_owners), [True, False])
    assert np.isfinite(found.mean).all()
