"""Noise ceilings and the scores that are divided by them."""

import numpy as np
import pytest
import xarray as xr

from gradenc_core.recordings.averaging import effective_repeats
from gradenc_core.ridge.encode import score_targets
from gradenc_core.ridge.factorise import factorise
from gradenc_core.ridge.options import RidgeOptions
from storage_schemas.results.ceilings import noise_ceiling, normalised


def responses(ncsnr: list[float], target_repeats: float) -> xr.Dataset:
    repeats = np.full(len(ncsnr), target_repeats, dtype=np.float32)
    return xr.Dataset({"ncsnr": ("voxel", ncsnr), "target_repeats": ("voxel", repeats)})


@pytest.mark.filterwarnings("error")
def test_ceilings_of_known_ratios() -> None:
    """ncsnr 1 and 2 repeats: 1 / (1 + 1/2); repeats that agree exactly: 1; only noise: 0."""
    found = noise_ceiling(responses([1.0, np.inf, 0.0, np.nan], 2))
    np.testing.assert_allclose(found, [2 / 3, 1, 0, np.nan])
    assert found.dims == ("voxel",)


def test_a_stimulus_counts_by_its_repeats_as_it_does_in_scores() -> None:
    own = np.array([1, 2, 6])
    found = noise_ceiling(responses([0.5], effective_repeats(own, own)))
    assert found.item() == pytest.approx(0.25 / (0.25 + 1 / 3))


@pytest.mark.parametrize(("ncsnr", "excess"), [(1.0, 0.05), (0.5, 0.11), (0.3, 0.13)])
def test_the_best_scores_of_unequal_repeats_reach_the_ceiling_and_not_more(
    ncsnr: float, excess: float
) -> None:
    """Half of the stimuli shown once, half three times, and a model that knows the signal.

    Its scores, weighted by repeats, would lie above a ceiling that is not.
    """
    rng = np.random.default_rng(0)
    repeats = np.tile([1.0, 3.0], 4000)
    signal = rng.standard_normal(8000)
    noise = rng.standard_normal((8000, 20)) / (ncsnr * np.sqrt(repeats[:, None]))
    options = RidgeOptions(alphas=(1e-6,))
    design = factorise(
        signal[:, None], np.arange(8000) // 2 % 4, weights=repeats / 2, options=options
    )
    best = score_targets(design, signal[:, None] + noise).r.mean()
    greatest = noise_ceiling(responses([ncsnr], repeats.mean())).item() ** 0.5
    assert best == pytest.approx(greatest, rel=0.01)
    unweighted = np.sqrt(ncsnr**2 / (ncsnr**2 + (1 / repeats).mean()))
    assert greatest / unweighted - 1 == pytest.approx(excess, abs=0.01)


def test_the_best_scores_of_a_target_that_lacks_sessions_reach_its_own_ceiling() -> None:
    """All stimuli were shown three times; a third of them once in a session without the target."""
    rng = np.random.default_rng(0)
    counts, own = np.full(9000, 3), np.tile([3, 3, 2], 3000)
    signal = rng.standard_normal(9000)
    noise = rng.standard_normal((9000, 20)) / (0.4 * np.sqrt(own[:, None]))
    options = RidgeOptions(alphas=(1e-6,))
    design = factorise(signal[:, None], np.arange(9000) % 4, options=options)
    best = score_targets(design, signal[:, None] + noise).r.mean()
    ceiling = noise_ceiling(responses([0.4], effective_repeats(counts, own))).item()
    assert best == pytest.approx(ceiling**0.5, rel=0.01)
    assert effective_repeats(counts, own) == pytest.approx(18 / 7)


def test_low_and_unknown_ceilings_leave_no_normalised_score() -> None:
    r = xr.DataArray([[0.3] * 4, [0.1] * 4], dims=("layer", "voxel"))
    ceiling = xr.DataArray([0.25, 0.05, 0.0499, np.nan], dims="voxel")
    found = normalised(r, ceiling)
    assert found.dims == r.dims
    np.testing.assert_allclose(found[:, 0], [0.6, 0.2])
    assert np.isfinite(found[:, 1]).all()
    assert np.isnan(found[:, 2:]).all()
