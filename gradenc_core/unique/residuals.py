"""Gradients beyond the baseline: features and responses without their forward part.

Permuting responses tests whether they are related to forward features *or* gradients, which every
forward brain fulfils. A valid test first removes from both the part that is linear in the baseline,
so that what is permuted is unrelated to gradients in every forward brain (docs/methods.md).

Two ways lead there. With twice as many training stimuli as components the coordinates of stimuli
orthogonal to the baseline are left, and the test is exact for Gaussian noise (`Within`). With fewer
the gradient's forward part is learned on images without recordings (`Learned`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, lapack, qr

from gradenc_core.arrays import Array, Columns, Floats, Rows
from gradenc_core.ridge.moments import ROWS
from gradenc_core.ridge.options import RidgeOptions
from gradenc_core.ridge.targets import TARGET_WIDTH
from gradenc_core.unique.baseline import Components, add_scalars, compress
from gradenc_errors import GradencError

LEAST_ROOM = 2
"""Training stimuli per component of the baseline from which residual coordinates are used."""
LEAST_IMAGES = 2
"""Images without recordings per component from which a map is learned. With few, the test stays
valid and loses power: what the map gets wrong is noise in the gradient (with 2.5 per component .025
of simulated forward brains were significant at .05, and .67 of gradient brains in place of .99)."""
BLOCKS_KEPT = 2
"""Blocks of transformed responses that stay in memory."""
AMPLE_IMAGES = 5
"""Images per component with which a map costs little power."""
LEAST_KEPT = 0.98
"""Share of the stimuli's variance that components of other images must keep: else these images are
of another kind, and what they miss of the baseline would look like a signal."""
ROUNDING = 1e-10
"""Share of a column's size below which what the baseline leaves of it is rounding."""
MAP_PENALTY = 1e-8
"""Ridge penalty of the map, as a share of each component's sum of squares: the map stays solvable.
A larger one leaves a trace of forward features, which the ridge of a control would scale up."""


class NoRoomError(GradencError, ValueError):
    """A study has too few stimuli, and no images without recordings, to test gradients."""


@dataclass(frozen=True)
class _Reduced:
    """Columns whose rows are transformed when they are read, `TARGET_WIDTH` at a time.

    The last `BLOCKS_KEPT` blocks are kept: of few targets, all layers share one transformation.
    """

    columns: Columns
    n_rows: int
    transform: Callable[[Floats], Floats]
    kept: dict[int, Floats] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.n_rows, self.columns.shape[1]

    def __getitem__(self, index: tuple[slice, slice]) -> Floats:
        rows, columns = index
        start, stop, _ = columns.indices(self.shape[1])
        found = [self._block(i) for i in range(start // TARGET_WIDTH, -(-stop // TARGET_WIDTH))]
        offset = start // TARGET_WIDTH * TARGET_WIDTH
        return np.hstack(found)[rows, start - offset : stop - offset]

    def _block(self, i: int) -> Floats:
        if i not in self.kept:
            while len(self.kept) >= BLOCKS_KEPT:
                del self.kept[next(iter(self.kept))]
            self.kept[i] = self._transformed(i)
        return self.kept[i]

    def _transformed(self, i: int) -> Floats:
        """Transform a block of constant width: so no target's bits depend on others."""
        columns = slice(i * TARGET_WIDTH, (i + 1) * TARGET_WIDTH)
        values = np.asarray(self.columns[slice(None), columns], dtype=np.float64)
        missing = TARGET_WIDTH - values.shape[1]
        values = np.pad(values, [(0, 0), (0, missing)])
        return _without_rounding(self.transform(values), values)


def _without_rounding(left: Floats, whole: Array) -> Floats:
    """Set columns of which only rounding is left to 0: they are constant beyond the baseline."""
    nothing = np.linalg.norm(left, axis=0) <= ROUNDING * np.linalg.norm(whole, axis=0)
    left[:, nothing] = 0.0
    return left


@dataclass(frozen=True)
class Within:
    """Coordinates of stimuli orthogonal to the baseline and the constant.

    Of `n` stimuli and `p` components, `n - p - 1` coordinates are left. Gaussian noise of equal
    variance stays so in them, so any order of them is as likely as any other.

    Attributes
    ----------
    folds, blocks : array of int, (n_rows,)
        Coordinates are dealt to folds and to blocks within folds at random.
    weights : None
        All coordinates count alike: stimuli are weighted before.
    """

    reflectors: Floats
    factors: Floats
    scale: Floats
    folds: NDArray[np.int64]
    blocks: NDArray[np.int64]
    weights: None = None

    @classmethod
    def of(
        cls,
        baseline: Floats,
        folds: NDArray[np.integer],
        blocks: NDArray[np.integer],
        weights: Floats,
        seed: int,
    ) -> "Within":
        """Find the coordinates of stimuli beyond a baseline (n_stimuli, n_components)."""
        scale = np.sqrt(weights)[:, None]
        design = np.hstack([np.ones((len(baseline), 1)), baseline]) * scale
        (reflectors, factors), _ = qr(design, mode="raw")
        n_rows = len(baseline) - design.shape[1]
        order = np.random.default_rng([seed, n_rows]).permutation(n_rows)
        n_folds, n_blocks = int(folds.max()) + 1, int(blocks.max()) + 1
        return cls(
            reflectors,
            factors,
            scale,
            order % n_folds,
            order // n_folds % n_blocks,
        )

    @property
    def n_rows(self) -> int:
        """Coordinates."""
        return len(self.folds)

    def features(self, recorded: Array, unrecorded: Array | None = None) -> Floats:
        """Return columns of the stimuli (n_stimuli, n) in the coordinates, (n_rows, n)."""
        weighted = np.asfortranarray(np.asarray(recorded, dtype=np.float64) * self.scale)
        _, work, _ = lapack.dormqr("L", "T", self.reflectors, self.factors, weighted, -1)
        rotated, _, info = lapack.dormqr(
            "L", "T", self.reflectors, self.factors, weighted, int(work[0])
        )
        if info:
            raise RuntimeError(f"LAPACK's dormqr refused its argument {-info}.")
        left = np.ascontiguousarray(rotated[len(rotated) - self.n_rows :])
        return _without_rounding(left, weighted)

    def responses(self, y: Columns) -> Columns:
        """Return responses (n_stimuli, n_targets) in the coordinates, read when they are used."""
        return _Reduced(y, self.n_rows, self.features)


@dataclass(frozen=True)
class Learned:
    """Stimuli whose gradients lose what a map, learned on other images, predicts of them.

    Responses lose what a ridge on the baseline, fitted on the other folds, predicts of them.

    Attributes
    ----------
    folds, blocks : array of int, (n_stimuli,)
    weights : array, (n_stimuli,)
    """

    recorded: Floats
    images: Floats
    factor: tuple[Floats, bool]
    ridges: "_ForwardRidges"
    folds: NDArray[np.integer]
    blocks: NDArray[np.integer]
    weights: Floats

    @classmethod
    def of(
        cls,
        baseline: Components,
        folds: NDArray[np.integer],
        blocks: NDArray[np.integer],
        weights: Floats,
        options: RidgeOptions,
    ) -> "Learned":
        """Prepare the map and the ridges of a baseline with images without recordings."""
        assert baseline.unrecorded is not None
        centre = baseline.unrecorded.mean(axis=0)
        recorded, images = baseline.recorded - centre, baseline.unrecorded - centre
        gram = images.T @ images
        # In proportion to each component's variance, so that small components are mapped as well.
        gram[np.diag_indices_from(gram)] *= 1 + MAP_PENALTY
        ridges = _ForwardRidges.of(baseline.recorded, folds, weights, options.alpha_grid)
        return cls(recorded, images, cho_factor(gram), ridges, folds, blocks, weights)

    @property
    def n_rows(self) -> int:
        """Stimuli."""
        return len(self.folds)

    def features(self, recorded: Array, unrecorded: Array | None = None) -> Floats:
        """Return columns (n_stimuli, n) without what the map predicts of them.

        Parameters
        ----------
        recorded : array, (n_stimuli, n)
        unrecorded : array, (n_images, n)
            The same columns of the images without recordings.
        """
        assert unrecorded is not None
        values = np.asarray(unrecorded, dtype=np.float64)
        mean = values.mean(axis=0)
        weights = cho_solve(self.factor, self.images.T @ (values - mean))
        return np.asarray(recorded - mean - self.recorded @ weights)

    def responses(self, y: Columns) -> Columns:
        """Return out-of-fold residuals of responses, (n_stimuli, n_targets), read when used."""
        return _Reduced(y, self.n_rows, self.ridges.residuals)


Beyond = Within | Learned


def baseline_components(
    recorded: Sequence[Rows],
    unrecorded: Sequence[Rows] | None,
    n_scalars: Sequence[int],
    n_training: int,
    exchangeable: bool = True,
) -> Components:
    """Compress a baseline on the stimuli themselves where they leave room, else on other images.

    Parameters
    ----------
    recorded, unrecorded : sequence of arrays or other rows
        See `compress`.
    n_scalars : sequence of int
        Last columns of each layer that are single values; see `add_scalars`.
    n_training : int
        Stimuli in a training set.
    exchangeable : bool
        See `beyond`.
    """
    own, n_more = _scalars(recorded, n_scalars), sum(n_scalars)
    room = n_training // LEAST_ROOM if exchangeable else 0
    if room > n_more or unrecorded is None:
        found = add_scalars(compress(recorded, room=max(room - n_more, 0)), own, None)
        if found.recorded.shape[1] <= room or unrecorded is None:
            return found
    room = unrecorded[0].shape[0] // AMPLE_IMAGES
    found = compress(recorded, unrecorded, max(room - n_more, 0))
    return add_scalars(found, own, _scalars(unrecorded, n_scalars))


def _scalars(layers: Sequence[Rows], n_scalars: Sequence[int]) -> Floats:
    """Return the last columns of every layer, (n_images, all scalars)."""
    n_images = layers[0].shape[0]
    parts = [
        np.hstack(
            [
                layer[slice(start, start + ROWS)][:, layer.shape[1] - n :]
                for layer, n in zip(layers, n_scalars, strict=True)
            ]
        )
        for start in range(0, n_images, ROWS)
    ]
    return np.concatenate(parts).astype(np.float64)


def beyond(
    baseline: Components,
    folds: NDArray[np.integer],
    blocks: NDArray[np.integer],
    weights: Floats,
    options: RidgeOptions,
    seed: int,
    exchangeable: bool = True,
) -> Beyond:
    """Choose how stimuli are seen beyond a baseline.

    Parameters
    ----------
    baseline : Components
    folds, blocks : array of int, (n_stimuli,)
    weights : array, (n_stimuli,)
        Repeats averaged in each row, of mean 1.
    options : RidgeOptions
        Penalties of the responses' forward part.
    seed : int
        Of the folds of residual coordinates.
    exchangeable : bool
        Whether stimuli are independent of each other; if not, as where images of one category
        move together, residual coordinates would mix them.

    Raises
    ------
    NoRoomError
        If there are too few stimuli for residual coordinates and too few images for a map.
    """
    n, p = baseline.recorded.shape
    training = n - np.bincount(folds).max()
    if exchangeable and baseline.unrecorded is None and training >= LEAST_ROOM * p:
        return Within.of(baseline.recorded, folds, blocks, weights, seed)
    images = 0 if baseline.unrecorded is None else len(baseline.unrecorded)
    if images >= LEAST_IMAGES * p and baseline.kept < LEAST_KEPT:
        raise NoRoomError(
            f"the images without recordings are of another kind than the stimuli: the components "
            f"of their baseline keep {baseline.kept:.1%} of the stimuli's variance (needs "
            f"{LEAST_KEPT:.0%}); name images like the stimuli in unrecorded_images"
        )
    if images >= LEAST_IMAGES * p:
        return Learned.of(baseline, folds, blocks, weights, options)
    room = f"{training} training stimuli (needs {LEAST_ROOM * p})"
    if not exchangeable:
        room = "any number of stimuli whose categories stay together"
    raise NoRoomError(
        f"the baseline has {p} components, too many for {room} and for {images} images without "
        f"recordings (needs {LEAST_IMAGES * p}); name more images in unrecorded_images"
    )


@dataclass(frozen=True)
class _ForwardRidges:
    """Ridges on the baseline, one per fold, that predict the fold from the others.

    A penalty is chosen for every target by generalised cross-validation.
    """

    parts: tuple[tuple[NDArray[np.bool_], Floats, Floats, Floats, Floats, Floats], ...]
    alphas: Floats

    @classmethod
    def of(
        cls, x: Floats, folds: NDArray[np.integer], weights: Floats, alphas: Floats
    ) -> "_ForwardRidges":
        parts = []
        for fold in np.unique(folds):
            held = folds == fold
            root = np.sqrt(weights[~held])[:, None]
            mean = np.average(x[~held], axis=0, weights=weights[~held])
            left, size, right = np.linalg.svd((x[~held] - mean) * root, full_matrices=False)
            parts.append((held, root, left, size, (x[held] - mean) @ right.T, weights[~held]))
        return cls(tuple(parts), alphas)

    def residuals(self, y: Floats) -> Floats:
        """Return what the other folds do not predict, (n_stimuli, n_targets)."""
        found = np.empty_like(y)
        for held, root, left, size, rows, weights in self.parts:
            training = y[~held]
            mean = np.average(training, axis=0, weights=weights)
            centred = (training - mean) * root
            products = left.T @ centred
            rest = (centred**2).sum(axis=0) - (products**2).sum(axis=0)
            shrink = size**2 / (size**2 + self.alphas[:, None])
            misses = np.stack([((1 - s)[:, None] * products) ** 2 for s in shrink]).sum(axis=1)
            freedom = 1 - (shrink.sum(axis=1) + 1) / len(root)
            errors = (misses + np.maximum(rest, 0)) / np.maximum(freedom, 1e-9)[:, None] ** 2
            chosen = self.alphas[errors.argmin(axis=0)]
            weights_of = products * (size[:, None] / (size[:, None] ** 2 + chosen))
            found[held] = y[held] - mean - rows @ weights_of
        return found


def total_variance(y: Columns, weights: Floats) -> Floats:
    """Return the weighted sum of squares of every response about its mean, (n_targets,)."""
    totals = []
    for start in range(0, y.shape[1], TARGET_WIDTH):
        values = np.asarray(y[slice(None), slice(start, start + TARGET_WIDTH)], dtype=np.float64)
        mean = np.average(values, axis=0, weights=weights)
        totals.append(weights @ (values - mean) ** 2)
    return np.concatenate(totals)
