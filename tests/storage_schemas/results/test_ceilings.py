"""Noise ceilings and the scores that are divided by them."""

import numpy as np
import pytest
import xarray as xr

from storage_schemas.results.ceilings import noise_ceiling, normalised


def responses(ncsnr: list[float], n_repeats: list[float]) -> xr.Dataset:
    return xr.Dataset({"ncsnr": ("voxel", ncsnr), "n_repeats": ("stimulus", n_repeats)})


@pytest.mark.filterwarnings("error")
def test_ceilings_of_known_ratios() -> None:
    """ncsnr 1 and 2 repeats: 1 / (1 + 1/2); repeats that agree exactly: 1; only noise: 0."""
    found = noise_ceiling(responses([1.0, np.inf, 0.0, np.nan], [2, 2]))
    np.testing.assert_allclose(found, [2 / 3, 1, 0, np.nan])
    assert found.dims == ("voxel",)


def test_every_scored_stimulus_counts_with_its_own_repeats() -> None:
    found = noise_ceiling(responses([0.5], [1, 2, 4]))
    assert found.item() == pytest.approx(0.25 / (0.25 + (1 + 1 / 2 + 1 / 4) / 3))


def test_the_greatest_correlation_is_the_root_of_the_ceiling() -> None:
    rng = np.random.default_rng(0)
    signal = rng.standard_normal(20_000)
    repeats = rng.integers(1, 4, 20_000)
    mean = signal + 0.5**-1 * rng.standard_normal(20_000) / np.sqrt(repeats)
    r = np.corrcoef(signal, mean)[0, 1]
    assert r == pytest.approx(
        noise_ceiling(responses([0.5], repeats.tolist())).item() ** 0.5, abs=0.01
    )


def test_low_and_unknown_ceilings_leave_no_normalised_score() -> None:
    r = xr.DataArray([[0.3] * 4, [0.1] * 4], dims=("layer", "voxel"))
    ceiling = xr.DataArray([0.25, 0.05, 0.0499, np.nan], dims="voxel")
    found = normalised(r, ceiling)
    assert found.dims == r.dims
    np.testing.assert_allclose(found[:, 0], [0.6, 0.2])
    assert np.isfinite(found[:, 1]).all()
    assert np.isnan(found[:, 2:]).all()
