"""Targets: read in blocks of a constant width, standardised, and seen in a training set's basis.

The width is a constant because products of another width may differ in their last bits: so a
target's scores do not depend on the other targets of a call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradenc_core.arrays import Array, Columns, Floats, Ints, take
from gradenc_core.ridge.basis import RELATIVE_ZERO_SD
from gradenc_core.ridge.factorise import Factor, Training
from gradenc_core.ridge.moments import Coordinates, TargetMoments, target_moments
from gradenc_core.ridge.scores import Centred

# Part of the algorithm's version: products of another width may differ in their last bits.
TARGET_WIDTH = 1024
# Standard deviations of targets whose sums of squares float32 holds with all its digits. Others,
# such as a dead channel's, count as NaN.
LEAST_SD, LARGEST_SD = 1e-17, 1e15


@dataclass(frozen=True)
class StandardisedTargets:
    """A block of targets: rows (n_stimuli, n_targets) of mean zero and unit variance.

    `scale` is the standard deviation that was divided by; NaN and constant targets have rows of
    zeros.
    """

    rows: Floats
    scale: Floats
    is_nan: NDArray[np.bool_]
    is_constant: NDArray[np.bool_]

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Which targets get scores, (n_targets,)."""
        return ~(self.is_nan | self.is_constant)

    def padded(self) -> TargetBlock:
        """Return the rows with columns of zeros up to `TARGET_WIDTH`."""
        missing = TARGET_WIDTH - self.rows.shape[1]
        return TargetBlock(np.pad(self.rows, [(0, 0), (0, missing)]) if missing else self.rows)


def standardised_blocks(y: Columns, n_stimuli: int) -> Iterator[StandardisedTargets]:
    """Read `TARGET_WIDTH` targets at a time and standardise them.

    Raises
    ------
    ValueError
        If `y` is not of shape (n_stimuli, n_targets) or has no targets.
    """
    if len(y.shape) != 2 or y.shape[0] != n_stimuli or y.shape[1] == 0:
        raise ValueError(
            f"targets have shape {tuple(y.shape)} but the features have {n_stimuli} rows; "
            "give (n_stimuli, n_targets) for the same stimuli."
        )
    for start in range(0, y.shape[1], TARGET_WIDTH):
        yield _standardise(np.array(y[:, start : start + TARGET_WIDTH], dtype=np.float64))


def _standardise(y: Floats) -> StandardisedTargets:
    is_nan = np.array(~np.isfinite(y).all(axis=0))
    y[:, is_nan] = 0.0
    _, scale, is_constant = centre(y, RELATIVE_ZERO_SD)
    is_nan |= (scale < LEAST_SD) | ~(scale <= LARGEST_SD)
    y[:, is_nan], scale[is_nan] = 0.0, 1.0
    y /= scale
    return StandardisedTargets(y, scale, is_nan, is_constant & ~is_nan)


def centre(y: Floats, zero: float) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Subtract the mean of every column in place; columns without variance become 0.

    Parameters
    ----------
    y : array, (n_stimuli, n_targets)
    zero : float
        Standard deviation over mean at or below which variation is rounding.

    Returns
    -------
    mean, scale : array, (n_targets,)
        `scale` is the standard deviation, 1 for columns without variance.
    is_constant : array of bool, (n_targets,)
    """
    mean: Floats = y.mean(axis=0)
    y -= mean
    scale = np.sqrt(np.einsum("ij,ij->j", y, y) / len(y))
    is_constant = np.array(scale <= zero * np.abs(mean))
    y[:, is_constant] = 0.0
    scale[is_constant] = 1.0
    return mean, scale, is_constant


class TargetBlock:
    """Targets, (n_stimuli, n_targets) near zero mean, with their moments and problems.

    Moments are computed once for every set of coordinates. Problems are kept for the last training
    set only: they need as much memory as targets of the factors' rank.
    """

    def __init__(self, y: Floats) -> None:
        self.y = y
        self._sums: dict[Coordinates, TargetMoments] = {}
        self._problems: tuple[Training, list[Problem]] | None = None

    def sums(self, coordinates: Coordinates) -> TargetMoments:
        """Moments per fold."""
        if coordinates not in self._sums:
            self._sums[coordinates] = target_moments(coordinates, self.y).per_fold()
        return self._sums[coordinates]

    def problems(self, training: Training) -> list[Problem]:
        """Return the problem of every ratio."""
        if self._problems is None or self._problems[0] is not training:
            self._problems = None  # free the last problems before the next are computed
            self._problems = training, list(Problem.each(training, self))
        return self._problems[1]

    def take(self, columns: Ints) -> TargetBlock:
        """Select targets."""
        part = TargetBlock(self.y[:, columns])
        for coordinates, sums in self._sums.items():
            products = take(sums.products.reshape(-1, sums.products.shape[-1]), columns)
            part._sums[coordinates] = TargetMoments(
                products.reshape(*sums.products.shape[:-1], len(columns)),
                take(sums.yy, columns),
            )
        return part


@dataclass(frozen=True)
class Problem:
    """A training set's targets in its basis: c (rank, n_targets), and about their own mean."""

    factor: Factor
    c: Array
    centred: Centred

    @classmethod
    def each(cls, training: Training, block: TargetBlock) -> Iterator[Problem]:
        """Yield the problem of every ratio."""
        last: tuple[Coordinates, TargetMoments] | None = None
        for factor in training.factors:
            if last is None or last[0] is not factor.coordinates:
                sums = block.sums(factor.coordinates).others(*training.left_out)
                last = factor.coordinates, sums
            centred = Centred.of(training.weight, last[1])
            yield cls(factor, factor.basis.project(last[1].products), centred)

    def held(self, fold: int, block: TargetBlock) -> tuple[Array, Centred, Floats]:
        """Compare a fold that was left out with the training set.

        Returns
        -------
        d : array, (rank, n_targets)
            Products of the fold's rows with its targets, both about their means.
        held : Centred
            The fold's targets.
        bias : array, (n_targets,)
            Mean of the fold's targets less that of the training set.
        """
        rows = self.factor.held[fold]
        sums = block.sums(self.factor.coordinates).part(fold)
        held = Centred.of(rows.weight, sums)
        d = self.factor.basis.project(sums.products)
        d -= rows.offset[:, None] * sums.y
        return d, held, held.mean - self.centred.mean
