"""Principal components of a layer's features."""

import numpy as np
import torch
from numpy.typing import NDArray

# Here and not in the function: what limits the threads of BLAS knows libraries loaded before it.
from sklearn.decomposition import PCA

from gradenc_core.signals.projection import Components


def fit_components(
    rows: NDArray[np.floating], n_outputs: int
) -> tuple[Components, NDArray[np.float64]]:
    """Fit principal components in float64, (n_stimuli, n_inputs).

    Returns
    -------
    Components
        Signs are scikit-learn's (`svd_flip`), so that equal rows give equal components. Those of
        no more than float32's rounding are zero: standardising them later would bring up noise.
    array, (n_outputs,)
        Share of the variance that each explains; NaN for rows that do not vary.
    """
    values = np.asarray(rows, dtype=np.float64)
    solver = "covariance_eigh" if len(values) > values.shape[1] else "full"
    with np.errstate(invalid="ignore"):
        fitted = PCA(n_outputs, svd_solver=solver).fit(values)
    rounding = np.finfo(np.float32).eps * np.linalg.norm(values)
    vectors = np.where((fitted.singular_values_ > rounding)[:, None], fitted.components_, 0.0)
    mean, shares = fitted.mean_, fitted.explained_variance_ratio_
    components = [torch.from_numpy(np.asarray(x, dtype=np.float32)) for x in (mean, vectors)]
    return Components(*components), np.asarray(shares)
