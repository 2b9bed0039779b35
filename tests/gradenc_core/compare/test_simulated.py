"""The layer-specific share that a study's contrast does not exclude, and what it reads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradenc_core.compare.simulated import (
    SPECIFIC,
    Confusion,
    InSpace,
    InTime,
    least_specific,
    simulated,
)

N_LAYERS, N_REGIONS = 6, 12
DEPTH = np.arange(1, N_LAYERS + 1) / N_LAYERS
TIMES = np.arange(0.0, 1.0, 0.05)
SD = 0.05
DRIVER = np.arange(N_REGIONS) % N_LAYERS


def confusion() -> Confusion:
    distance = np.abs(np.subtract.outer(np.arange(N_LAYERS), np.arange(N_LAYERS)))
    shape = np.exp(-distance / 2)[:, None, :, None]
    height = np.array([0.1, 0.4])[:, None, None]
    return Confusion(np.broadcast_to(shape * height, (N_LAYERS, 2, N_LAYERS, 3)), (0.1, 0.5))


def profiles(specific: float) -> np.ndarray:
    each = confusion().scores[:, 1, :, 0]
    return specific * each[:, DRIVER] + (1 - specific) * each.mean(axis=1, keepdims=True)


def in_space(observed: np.ndarray, seed: int) -> InSpace:
    noise = SD * np.random.default_rng(seed).standard_normal((100, N_LAYERS, N_REGIONS))
    return InSpace(
        observed + noise[0],
        noise[1:],
        DEPTH,
        confusion(),
        np.broadcast_to(DRIVER, (1000, N_REGIONS)),
        np.broadcast_to(DRIVER, (1000, N_REGIONS)),
        np.arange(N_REGIONS, dtype=float),
        "argmax",
    )


def in_time(curves: np.ndarray, seed: int) -> InTime:
    noise = SD * np.random.default_rng(seed).standard_normal((100, N_LAYERS, len(TIMES)))
    observed, window = curves + noise[0], (0.0, 1.0)
    return InTime(observed, noise[1:], DEPTH, confusion(), TIMES, window, -0.2)


def shares(make, patterns: np.ndarray, n: int = 20) -> np.ndarray:
    return np.array([least_specific([make(patterns, i)], i) for i in range(n)])


@pytest.mark.parametrize(("specific", "least"), [(0.3, 0.1), (0.6, 0.4), (1.0, 0.8)])
def test_the_share_lies_below_the_true_one_and_rises_with_it(specific: float, least: float) -> None:
    found = shares(in_space, profiles(specific))
    # 99 % of binomial draws of 20 at 5 % are at most 4.
    assert (found > specific + 1e-9).sum() <= 4
    assert found.mean() > least


def test_two_subjects_tell_more_than_one() -> None:
    one = shares(in_space, profiles(0.3))
    both = [least_specific([in_space(profiles(0.3), k) for k in (i, 50 + i)], i) for i in range(20)]
    assert np.mean(both) > one.mean()


@pytest.mark.parametrize("observed", [np.zeros((N_LAYERS, N_REGIONS)), profiles(0.0)])
def test_contrast_of_noise_leaves_the_smallest_share(observed: np.ndarray) -> None:
    assert (shares(in_space, observed) == SPECIFIC[0]).sum() >= 16


def test_regions_of_other_heights_are_no_contrast() -> None:
    heights = np.linspace(0.2, 2.0, N_REGIONS)
    assert (shares(in_space, profiles(0.0) * heights) == SPECIFIC[0]).sum() >= 16


def bump(peaks: np.ndarray) -> np.ndarray:
    return 0.3 * np.exp(-0.5 * ((TIMES - peaks[:, None]) / 0.08) ** 2)


def test_curves_of_one_latency_leave_the_smallest_share_and_a_sweep_does_not() -> None:
    flat, sweep = bump(np.full(N_LAYERS, 0.5)), bump(0.5 - 0.3 * (DEPTH - DEPTH.mean()))
    assert (shares(in_time, flat) == SPECIFIC[0]).sum() >= 16
    assert (shares(in_time, sweep) > 0.5).all()
    assert (shares(in_time, sweep[::-1]) > 0.5).all()


@given(st.floats(0, 1))
def test_what_is_not_specific_enters_a_layer_alike_from_all_drivers(specific: float) -> None:
    mixing = confusion().mixing(specific)
    own = confusion().mixing(1.0)
    assert own.sum(axis=1) == pytest.approx(np.ones(N_LAYERS))
    assert np.allclose(mixing, specific * own + (1 - specific) / N_LAYERS)
    assert own[0, 0] / own[0, 2] == pytest.approx(np.exp(2))


def test_drivers_beyond_the_baseline_by_nothing_count_as_no_score() -> None:
    scores = np.array(confusion().scores)
    scores[:, :, 2] = np.nan
    found = Confusion(scores, (0.1, 0.5))
    assert np.isfinite(found.mixing(0.5)).all()
    assert not found.every_profile(np.array([0.2]))[:, 2].any()


def test_subjects_draw_the_same_orders_of_stimuli() -> None:
    """So the errors of people who saw the same stimuli are not taken for independent."""
    one = in_space(np.zeros((N_LAYERS, N_REGIONS)), 0)
    (_, first), (_, second) = simulated([one, one], 0.5, True, 0)
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.99
