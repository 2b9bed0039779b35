"""Norms of a layer's features, and projections: seeded and random, or onto principal components.

A row's result does not depend on the other rows of the batch, to the byte.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

# Imported here, since threadpoolctl limits only the libraries that are loaded already.
from sklearn.decomposition import PCA
from torch.nn import functional

from gradenc_core.keyed import keyed_generator


def row_norms(pooled: torch.Tensor) -> torch.Tensor:
    """Return each stimulus's L2 norm, (n_stimuli, 1); float64, in which no square underflows."""
    return torch.linalg.vector_norm(pooled, dim=1, keepdim=True, dtype=torch.float64)


def log_norms(pooled: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of each stimulus's L2 norm, (n_stimuli, 1) float32; finite for zeros."""
    return _positive_norms(pooled).log().float()


def unit_norm(pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 rows of norm 1 and their log-norms, (n_stimuli, 1); a zero row stays zero."""
    norm = _positive_norms(pooled)
    return (pooled / norm).float(), norm.log().float()


def _positive_norms(pooled: torch.Tensor) -> torch.Tensor:
    return row_norms(pooled).clamp(min=torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class Projection:
    """A sparse random matrix with entries ±c, the same for the forward and gradient signal.

    Each output sums `n_entries` inputs drawn with replacement and with random signs; c is chosen so
    that the squared norm is kept in expectation. The sum runs in the same order for every row, so a
    stimulus's bytes do not depend on where in the batch it stands.

    Attributes
    ----------
    indices : torch.Tensor, (n_outputs, n_entries) int64
    signs : torch.Tensor, (n_outputs, n_entries) float32
    scale : float
        The constant c.
    """

    indices: torch.Tensor
    signs: torch.Tensor
    scale: float

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Project features, (n_stimuli, n_inputs) float32 -> (n_stimuli, n_outputs) float32."""
        summed = functional.embedding_bag(
            self.indices, features.T.contiguous(), mode="sum", per_sample_weights=self.signs
        )
        return summed.T * self.scale

    def to(self, device: torch.device) -> "Projection":
        """Return the same projection on `device`."""
        return Projection(self.indices.to(device), self.signs.to(device), self.scale)


def sparse_projection(seed: int, layer: str, n_inputs: int, n_outputs: int) -> Projection:
    """Return the projection of a layer, determined by the four arguments alone.

    Density 1/3 (Achlioptas, 2003) up to 768 inputs, then 256 entries per output, and never below
    1/sqrt(n_inputs) (Li, Hastie & Church, 2006).
    """
    if n_outputs < 1:
        raise ValueError(f"projection is {n_outputs}: give the number of features, at least 1")
    n_entries = math.ceil(max(min(n_inputs / 3, 256), math.sqrt(n_inputs)))
    rng = keyed_generator("projection", seed, layer, n_inputs, n_outputs)
    indices = rng.integers(0, n_inputs, (n_outputs, n_entries))
    signs = rng.integers(0, 2, (n_outputs, n_entries), dtype=np.int8) * np.float32(2) - 1
    scale = math.sqrt(n_inputs / (n_entries * n_outputs))
    return Projection(torch.from_numpy(indices), torch.from_numpy(signs), scale)


@dataclass(frozen=True)
class Components:
    """Principal components of one layer's signal.

    Attributes
    ----------
    mean : torch.Tensor, (n_inputs,) float32
    vectors : torch.Tensor, (n_outputs, n_inputs) float32
    """

    mean: torch.Tensor
    vectors: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Project features, (n_stimuli, n_inputs) float32 -> (n_stimuli, n_outputs) float32.

        Row by row: a product of the batch has bits that depend on where in it a row stands.
        """
        return torch.stack([self.vectors @ (row - self.mean) for row in features])

    def to(self, device: torch.device) -> "Components":
        """Return the same components on `device`."""
        return Components(self.mean.to(device), self.vectors.to(device))


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
