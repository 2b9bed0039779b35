"""Assumed sizes of scores and noise: closed forms, and the project's own ridge."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradenc_core.identify.assumed import (
    COMMON_TO_LAYERS,
    DIMENSIONS,
    KEPT,
    Assumed,
    assumed_confusion,
    expected_score,
    noise_over_layers,
    noise_size,
    similarity,
)
from gradenc_core.ridge.factorise import factorise
from gradenc_core.ridge.options import RidgeOptions
from gradenc_core.ridge.resample import permutation_scores
from gradenc_core.unique.nulls import null_scores

DEPTH = np.arange(1, 9) / 8
OPTIONS = RidgeOptions(alphas=tuple(np.logspace(-1, 6, 25)), selection="gcv")
SHARES = st.floats(0.001, 0.999)


@pytest.fixture(scope="module")
def tuned() -> tuple[np.ndarray, object]:
    """Features of as many dimensions as are assumed, and their design."""
    n = 500
    features = np.random.default_rng(0).standard_normal((n, DIMENSIONS))
    return features, factorise(features, np.arange(n) % 5, np.ones(n), OPTIONS)


def test_noise_is_as_large_as_that_of_the_ridge(tuned) -> None:
    features, design = tuned
    null = null_scores(design, None, 1000, 0)
    assert null.std() == pytest.approx(noise_size(len(features)), rel=0.1)
    assert abs(null.mean()) < 0.1 * null.std()


@pytest.mark.parametrize("share", [0.06, 0.25, 0.6])
def test_scores_are_as_high_as_those_of_the_ridge(tuned, share: float) -> None:
    features, design = tuned
    rng = np.random.default_rng(1)
    signal = features @ rng.standard_normal((DIMENSIONS, 300))
    signal /= signal.std(axis=0)
    responses = np.sqrt(share) * signal + np.sqrt(1 - share) * rng.standard_normal(signal.shape)
    found = permutation_scores(design, responses, 0, 0)[0].mean()
    assert found * KEPT == pytest.approx(expected_score(share, 0.8 * len(features)), rel=0.1)


@given(SHARES, st.integers(10, 10**6))
def test_scores_rise_with_stimuli_up_to_what_features_keep(share: float, n: int) -> None:
    assert expected_score(share, n) < expected_score(share, 2 * n) < KEPT * np.sqrt(share)
    assert expected_score(share, 10**12) == pytest.approx(KEPT * np.sqrt(share), rel=1e-3)


@given(SHARES, SHARES)
def test_a_response_is_signal_and_noise(ceiling: float, gradient: float) -> None:
    assumed = Assumed(ceiling=ceiling, gradient=gradient)
    of_gradient, noise = gradient * ceiling**2, 1 - ceiling**2
    assert assumed.share_beyond == pytest.approx(of_gradient / (of_gradient + noise))
    assert assumed.forward_share + of_gradient + noise == pytest.approx(1)


@given(st.floats(0, 1))
def test_noise_is_as_alike_in_layers_as_signals_are(specific: float) -> None:
    root, alike = noise_over_layers(DEPTH, specific), similarity(DEPTH, specific)
    covariance = root @ root.T
    assert np.allclose(np.diag(covariance), 1)
    apart = ~np.eye(len(DEPTH), dtype=bool)
    assert np.allclose(covariance[apart], COMMON_TO_LAYERS * alike[apart])
    assert alike.min() >= 1 - specific - 1e-12


def test_a_target_is_seen_best_in_the_layer_that_drives_it() -> None:
    scores = assumed_confusion(DEPTH, 0.4, 1000).scores[..., 0]
    assert (scores.argmax(axis=0) == np.arange(8)).all()
    flat = assumed_confusion(DEPTH, 0.0, 1000).scores
    assert np.allclose(flat, flat[:1])
