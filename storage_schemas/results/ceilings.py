"""Noise ceilings of responses, and scores divided by them (docs/methods.md).

After Allen et al. (2022, Natural Scenes Dataset). Both are computed when they are read.
"""

import numpy as np
import xarray as xr

LEAST_CEILING = 0.05
"""Nothing is divided by less: such a score is mostly noise divided by little."""

NORMALISED = "_normalised"
"""Ends the name of a divided variable."""


def noise_ceiling(responses: xr.Dataset) -> xr.DataArray:
    """Return the share of the variance of mean responses that stimuli explain.

    `NC = ncsnr^2 / (ncsnr^2 + 1 / target_repeats)`. Scores weigh a stimulus by its repeats, and so
    does this: the weighted mean of the noise variance of mean responses, which is 1 / trials each,
    is 1 / target_repeats. The greatest (weighted) correlation is `sqrt(NC)`.

    Parameters
    ----------
    responses : xr.Dataset
        With `ncsnr` and `target_repeats` (...), as stores of the kind `responses` have them.

    Returns
    -------
    xr.DataArray, (...)
        1 where repeats agree exactly (`ncsnr` is inf), NaN where no stimulus was repeated.
    """
    variance = 1 / responses["target_repeats"].astype(np.float64)
    power = responses["ncsnr"].drop_vars("ncsnr", errors="ignore").astype(np.float64) ** 2
    # Not power / (power + variance): where repeats agree exactly, that is inf / inf.
    return (1 - variance / (power + variance)).assign_attrs(
        units="1", long_name="share of a mean response's variance that is signal, r^2 at most"
    )


def normalised(r: xr.DataArray, ceiling: xr.DataArray) -> xr.DataArray:
    """Divide correlations by the greatest possible, `sqrt(ceiling)`.

    Returns
    -------
    xr.DataArray
        As `r`; NaN where the ceiling is below `LEAST_CEILING` or not known.
    """
    known = ceiling.where(ceiling >= LEAST_CEILING)
    return (
        (r / known**0.5)
        .transpose(*r.dims)
        .assign_attrs(
            units="1",
            long_name=f"r / sqrt(noise ceiling); NaN where the ceiling is below {LEAST_CEILING} or "
            "not known",
        )
    )
