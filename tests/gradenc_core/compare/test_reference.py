"""Orders between two simulated references: closed cases, and how often each is rejected."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradenc_core.compare.reference import (
    Confusion,
    Curves,
    Reference,
    Regions,
    space_reference,
    time_reference,
)

SHARES = (0.02, 0.08, 0.25, 0.6)
HEIGHTS = (0.05, 0.12, 0.25, 0.5)
N_LAYERS, N_REGIONS = 8, 8
DEPTH = np.arange(1, N_LAYERS + 1) / N_LAYERS
SD = 0.04
"""Standard deviation of a score's noise."""
TIMES = np.arange(0.0, 1.0, 0.025)
WINDOW = (0.0, 1.0)


def profile_of(driver: np.ndarray, specific: float) -> np.ndarray:
    """A profile whose specific part falls with the distance from its layer, (n_layers, n)."""
    distance = np.abs(np.arange(N_LAYERS)[:, None] - driver)
    return 1 - specific + specific * np.exp(-distance / 3)


def confusion_of(specific: float, seed: int = 0) -> Confusion:
    shape = profile_of(np.arange(N_LAYERS), specific)
    tunings = np.exp(0.1 * np.random.default_rng(seed).standard_normal((1, 1, N_LAYERS, 6)))
    scores = np.stack([shape * height for height in HEIGHTS], axis=1)[..., None] * tunings
    return Confusion(scores, SHARES)


def noise_of(rng: np.random.Generator, n: int, n_points: int) -> np.ndarray:
    """Noise that layers share by half and regions by a third, (n, n_layers, n_points)."""
    layers = np.linalg.cholesky(0.5 + 0.5 * np.eye(N_LAYERS))
    points = np.linalg.cholesky(0.3 + 0.7 * np.eye(n_points))
    drawn = rng.standard_normal((n, N_LAYERS, n_points))
    return SD * np.einsum("ij,njk,lk->nil", layers, drawn, points)


def regions_of(rng: np.random.Generator, specific: float, snr: float, ordered: bool) -> Regions:
    expected = np.round(np.linspace(0, N_LAYERS - 1, N_REGIONS)).astype(int)
    driver = expected if ordered else rng.permutation(expected)
    profile = snr * SD * profile_of(driver, specific) + noise_of(rng, 1, N_REGIONS)[0]
    return Regions(
        profile,
        noise_of(rng, 99, N_REGIONS),
        expected,
        10.0 * np.arange(N_REGIONS),
        np.arange(N_REGIONS),
        confusion_of(specific),
    )


@given(st.floats(0.001, 0.4), st.integers(0, N_LAYERS - 1), st.integers(0, 5))
def test_a_profile_has_the_height_that_was_observed(
    amplitude: float, driver: int, tuning: int
) -> None:
    confusion = confusion_of(0.4)
    found = confusion.profiles(np.array([driver]), np.array([amplitude]), np.array([tuning]))
    highest = confusion.scores[:, -1, driver, tuning].mean()
    assert found.mean() == pytest.approx(min(amplitude, highest))
    shape = confusion.scores[:, -1, driver, tuning]
    assert np.allclose(found[:, 0] / found.mean(), shape / shape.mean())


def test_a_region_without_signal_has_a_profile_of_zero() -> None:
    found = confusion_of(0.4).profiles(np.array([2, 3]), np.array([-0.1, 0.0]), np.array([0, 1]))
    assert np.array_equal(found, np.zeros((N_LAYERS, 2)))


def test_without_noise_a_perfect_order_and_a_reversed_one_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    clear = regions_of(rng, 0.9, 5.0, True)
    profile = 5 * SD * profile_of(clear.driver, 0.9)
    silent = replace(clear, profile=profile, noise=np.zeros_like(clear.noise))
    found = space_reference([silent], DEPTH, "argmax", 0.05, 0)
    assert found.none_p < 0.01
    assert found.backprop_p > 0.5
    assert found.power > 0.9
    turned = replace(silent, profile=silent.profile[:, ::-1])
    assert space_reference([turned], DEPTH, "argmax", 0.05, 0).backprop_p < 0.01


def test_an_order_that_cannot_be_computed_has_no_p() -> None:
    flat = regions_of(np.random.default_rng(0), 0.4, 1.0, True)
    found = space_reference(
        [replace(flat, profile=np.full_like(flat.profile, 0.1))], DEPTH, "argmax", 0.05, 0
    )
    assert np.isnan([found.observed, found.none_p, found.backprop_p, found.power]).all()


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.floats(-1, 1))
def test_shares_of_simulated_studies_are_ranks(seed: int, observed: float) -> None:
    rng = np.random.default_rng(seed)
    none, backprop = rng.uniform(-1, 1, (2, 99))
    found = Reference.of(observed, none, backprop, 1, 0.05)
    assert found.none_p == pytest.approx((1 + (none >= observed).sum()) / 100)
    assert found.backprop_p == pytest.approx((1 + (backprop <= observed).sum()) / 100)
    mirrored = Reference.of(-observed, -none, -backprop, -1, 0.05)
    assert mirrored == replace(found, observed=-observed)
    rejecting = [Reference.of(x, none, backprop, 1, 0.05).backprop_p <= 0.05 for x in none]
    assert found.power == pytest.approx(np.mean(rejecting))


def test_studies_without_a_score_reject_nothing() -> None:
    nothing = np.full(99, np.nan)
    assert Reference.of(0.5, nothing, nothing, 1, 0.05) == Reference(0.5, 1.0, 1.0, 0.0)


@pytest.mark.parametrize("specific", [0.1, 0.4])
def test_backpropagation_is_rejected_as_seldom_as_the_level_says(specific: float) -> None:
    rng = np.random.default_rng(1)
    found = [
        space_reference([regions_of(rng, specific, 4, True)], DEPTH, "centre_of_mass", 0.05, i)
        for i in range(120)
    ]
    rejected = np.mean([f.backprop_p <= 0.05 for f in found])
    # 99.9 % of binomial draws of 120 at .05 lie below .13; the old rule said .81 at .1.
    assert rejected < 0.13


def test_the_stated_power_is_the_rate_of_rejection_without_an_order() -> None:
    rng = np.random.default_rng(2)
    found = [
        space_reference([regions_of(rng, 0.4, 3, False)], DEPTH, "centre_of_mass", 0.05, i)
        for i in range(120)
    ]
    rejected = np.mean([f.backprop_p <= 0.05 for f in found])
    assert rejected == pytest.approx(np.mean([f.power for f in found]), abs=0.12)
    assert rejected > 0.5


def bumps(peaks: np.ndarray) -> np.ndarray:
    """Curves of one shape with these peaks (s), (n_layers, n_windows)."""
    return 0.2 * np.exp(-0.5 * ((TIMES - peaks[:, None]) / 0.06) ** 2)


def curves_of(rng: np.random.Generator, peaks: np.ndarray, specific: float, sd: float) -> Curves:
    confusion = confusion_of(specific)
    mixing = confusion.scores.mean(axis=(1, 3))
    mixing /= mixing.sum(axis=1).mean()
    smooth = np.exp(-0.5 * (np.subtract.outer(TIMES, TIMES) / 0.04) ** 2)
    root = np.linalg.cholesky(smooth + 1e-6 * np.eye(len(TIMES)))
    noise = sd * rng.standard_normal((100, N_LAYERS, len(TIMES))) @ root.T
    return Curves(mixing @ bumps(peaks) + noise[0], noise[1:], confusion)


@pytest.mark.parametrize(
    ("slope", "specific", "verdicts"),
    [
        (-0.2, 0.9, (0.0, 0.08)),
        (-0.2, 0.1, (0.0, 0.15)),
        (0.0, 0.9, (0.8, 1.0)),
        (0.25, 0.9, (0.9, 1.0)),
    ],
)
def test_latencies_reject_backpropagation_only_where_it_is_not(
    slope: float, specific: float, verdicts: tuple[float, float]
) -> None:
    rng = np.random.default_rng(3)
    rejected = []
    for i in range(60):
        peaks = 0.5 + slope * (DEPTH - DEPTH.mean())
        curves = [curves_of(rng, peaks, specific, 0.01) for _ in range(2)]
        found = time_reference(curves, DEPTH, TIMES, WINDOW, -0.125, 0.05, i)
        rejected.append(found.backprop_p <= 0.05)
    assert verdicts[0] <= np.mean(rejected) <= verdicts[1]
