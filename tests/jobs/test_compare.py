"""What stage compare makes of scores."""

import numpy as np
import xarray as xr

from jobs.compare import mean_r


def test_a_fold_without_r_leaves_no_mean_over_folds():
    """As in the bootstrap's and the permutations' replicates, which it is compared with."""
    r = xr.DataArray([[[0.2, np.nan], [0.4, 0.6]]], dims=("measure", "fold", "target"))
    np.testing.assert_allclose(mean_r(r.assign_coords(measure=["r"])), [0.3, np.nan])
