"""Memory and operations of a ridge fit, and the form it takes, predicted from shapes alone.

`docs/ridge.md` derives the terms; `benchmarks/ridge_growth.py` compares them with measurements.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from gradenc_core.ridge.factorise import is_dual
from gradenc_core.ridge.moments import ROWS
from gradenc_core.ridge.options import RidgeOptions
from gradenc_core.ridge.quadratic import TRIANGLE_BLOCKS
from gradenc_core.ridge.targets import TARGET_WIDTH

FLOAT32, FLOAT64 = 4, 8
"""Bytes of a number as it is stored (weights, activations, features), and as it is fitted."""
TRIANGLE = (TRIANGLE_BLOCKS + 1) / (2 * TRIANGLE_BLOCKS)
"""Share of a symmetric matrix that is stored and multiplied."""
EIGH = 10.0
"""Operations of an eigendecomposition over p^3."""
REPLICATES = 4
"""Bootstrap replicates whose moments are summed in one product; bounds memory."""

Part = Literal["fit", "bootstrap", "permutations"]
"""Parts of a unit of encode; each runs at a rate of its own."""


@dataclass(frozen=True)
class Shapes:
    """Sizes of a fit.

    Attributes
    ----------
    n_stimuli, n_features, n_targets : int
        Features of all bands together.
    n_folds : int
    n_summaries, n_bootstraps, n_permutations : int
        Number of targets that are resampled, of bootstrap replicates and of permutations.
    n_blocks : int
        Blocks of stimuli per fold that the bootstrap draws.
    n_baseline : int
        Columns of the forward baseline beyond which targets are scored; 0: as they are.
    n_unrecorded : int
        Images without recordings, on which its components are fitted.
    """

    n_stimuli: int
    n_features: int
    n_targets: int
    n_folds: int
    n_summaries: int = 0
    n_bootstraps: int = 0
    n_permutations: int = 0
    n_blocks: int = 20
    n_baseline: int = 0
    n_unrecorded: int = 0

    @property
    def n_training(self) -> int:
        """Stimuli in a training set, at least."""
        return self.n_stimuli - -(-self.n_stimuli // self.n_folds)

    @property
    def n_images(self) -> int:
        """Images on which the baseline's components are fitted."""
        return self.n_unrecorded or self.n_stimuli

    @property
    def n_components(self) -> int:
        """Most components that leave room for a test: half as many as images."""
        return min(self.n_baseline, self.n_images // 2)


@dataclass(frozen=True)
class SolverPlan:
    """How a layer is fitted.

    Attributes
    ----------
    form : {"primal", "dual"}
        Moments of features, or kernels of stimuli where there are fewer stimuli than features.
    hold_rows : bool
        Whether features stay in memory; if not, they are read again for every block of targets.
    memory : int
        Bytes at the peak, without the interpreter and its libraries.
    parts : dict
        Multiplications and additions of the fit, and of bootstrap and permutations if the shapes
        have any; operations in float32 count half.
    """

    form: Literal["primal", "dual"]
    hold_rows: bool
    memory: int
    parts: dict[Part, float]

    @property
    def operations(self) -> float:
        """Multiplications and additions of all parts together."""
        return sum(self.parts.values())


def plan_solver(
    shapes: Shapes, options: RidgeOptions, banded: bool, memory_limit: float | None = None
) -> SolverPlan:
    """Choose the form of a fit, and whether features are held, within a limit of memory (bytes).

    Block widths are constants: no limit changes a result.

    Raises
    ------
    ValueError
        If the fit needs more than the limit in every form.
    """
    n, p = shapes.n_stimuli, shapes.n_features
    form: Literal["primal", "dual"] = "dual" if is_dual((n, p)) else "primal"
    n_ratios = len(options.ratio_grid) if banded else 1
    least = _memory(shapes, options, n_ratios, form)
    streamed = SolverPlan(form, False, int(least), _parts(shapes, options, n_ratios, form))
    held = replace(streamed, hold_rows=True, memory=int(least + n * p * FLOAT32))
    if memory_limit is None or held.memory <= memory_limit:
        return held
    if form == "primal" and streamed.memory <= memory_limit:
        return streamed
    raise ValueError(
        f"a ridge of {n} stimuli and {p} features needs "
        f"{least_memory(shapes, options, banded) / 1e9:.3f} GB of memory in one process beside its "
        f"libraries but has {memory_limit / 1e9:.3f} GB; give it more memory, fewer features, or "
        "fewer ratios of bands"
    )


def least_memory(shapes: Shapes, options: RidgeOptions, banded: bool) -> int:
    """Return the least memory (bytes) that `plan_solver` accepts as a limit."""
    held = plan_solver(shapes, options, banded)
    # Kernels of stimuli are made from rows that are held; moments can be summed as rows are read.
    rows = shapes.n_stimuli * shapes.n_features * FLOAT32
    return held.memory if held.form == "dual" else held.memory - rows


def n_trainings(n_folds: int, options: RidgeOptions) -> int:
    """Return the number of training sets that are factorised at every ratio."""
    pairs = n_folds * (n_folds - 1) // 2 if options.selection == "kfold" else 0
    return n_folds + pairs


def _memory(shapes: Shapes, options: RidgeOptions, n_ratios: int, form: str) -> float:
    """Peak memory (bytes): all factors with one block of targets, or with a bootstrap's sums."""
    n, p = shapes.n_stimuli, shapes.n_features
    rank = min(n, p)
    square = FLOAT64 * rank**2
    trainings = n_trainings(shapes.n_folds, options)
    held = 2 * trainings - shapes.n_folds
    vectors = FLOAT64 * (2 * n * rank if form == "dual" else p * rank)
    factors = n_ratios * (trainings * vectors + held * TRIANGLE * square)
    features = shapes.n_folds * FLOAT64 * p**2 if form == "primal" else n * p * FLOAT64
    making = features + 4 * square
    rows = 3 * FLOAT64 * min(n, ROWS) * p
    candidates = shapes.n_folds * n_ratios * len(options.alphas)
    sums = _sums(shapes, options, n_ratios, form)
    # Rows of a block: twice in float64, and as much again while they are read and decompressed.
    block = FLOAT64 * TARGET_WIDTH * (4 * n + sums + 6 * rank + 5 * candidates) + 6 * square
    left_out = options.selection == "loo"
    read = rows + left_out * FLOAT64 * min(n, ROWS) * (2 * TARGET_WIDTH + 2 * rank)
    fit = max(making, block + read)
    bootstrap = 0.0
    if shapes.n_bootstraps:
        width = min(shapes.n_summaries, TARGET_WIDTH)
        copies = shapes.n_blocks + 3 * REPLICATES
        sums = shapes.n_folds * copies * FLOAT64 * p * (p + width)
        bootstrap = sums + rows + 6 * FLOAT64 * p**2
    fitting = factors + max(fit, bootstrap)
    return max(fitting + _seeing(shapes), _compressing(shapes)) + _results(shapes, n_ratios)


def _compressing(shapes: Shapes) -> float:
    """Memory to find the baseline's components (bytes): products, eigenvectors and their work."""
    if not shapes.n_baseline:
        return 0.0
    return 4.0 * FLOAT64 * min(shapes.n_baseline, shapes.n_images) ** 2


def _seeing(shapes: Shapes) -> float:
    """Memory to see stimuli beyond the baseline (bytes): components, their factors and ridges."""
    n, p = shapes.n_stimuli, shapes.n_components
    held = 3.0 * n * p + 2.0 * shapes.n_unrecorded * p
    if shapes.n_unrecorded:
        held += shapes.n_folds * n * p + p**2
    # Blocks of responses that are kept, of targets and of summaries, and one before it is.
    return FLOAT64 * (held + (5.0 * TARGET_WIDTH * n if p else 0.0))


def _results(shapes: Shapes, n_ratios: int) -> float:
    """Memory of scores and resampled scores (bytes): per block, joined, and stacked by measure."""
    n_measures = 4 if n_ratios == 1 else 7
    scores = 3 * shapes.n_targets * shapes.n_folds * n_measures
    resampled = 2 * shapes.n_summaries * (shapes.n_bootstraps + shapes.n_permutations + 2)
    return float(FLOAT32 * (scores + resampled))


def _sums(shapes: Shapes, options: RidgeOptions, n_ratios: int, form: str) -> float:
    """Numbers kept of each target: products with features, or in dual form with every basis.

    Where bounds do not decide the choice, the products of pairs of folds are held a second time.
    """
    n, folds = shapes.n_stimuli, shapes.n_folds
    if form == "primal":
        return (folds + 1.0) * shapes.n_features
    pairs = n_trainings(folds, options) - folds
    return n_ratios * n * (folds * (folds - 1.0) + 2.0 * pairs * (folds - 2.0))


def _parts(shapes: Shapes, options: RidgeOptions, n_ratios: int, form: str) -> dict[Part, float]:
    n, p, folds = shapes.n_stimuli, shapes.n_features, shapes.n_folds
    rank = min(n, p)
    trainings = n_trainings(folds, options)
    gram = 2.0 * n * n * p * trainings if form == "dual" else 1.0 * n * p * p
    factors = trainings * n_ratios * (EIGH * rank**3 + 4.0 * rank**3)
    per_block = TARGET_WIDTH * _operations_per_target(n, p, rank, options, n_ratios, folds, form)
    blocks, resampled = (-(-t // TARGET_WIDTH) for t in (shapes.n_targets, shapes.n_summaries))
    parts: dict[Part, float] = {"fit": gram + factors + blocks * (per_block + _removing(shapes))}
    if shapes.n_bootstraps:
        alphas = min(len(options.alphas), shapes.n_summaries)
        once = folds * n_ratios * alphas * p**3 / 3 + 2.0 * folds * (shapes.n_blocks + 1) * p**2
        each = 2.0 * folds * (shapes.n_blocks * p + 2 * p**2)
        replicates = shapes.n_bootstraps * (once + shapes.n_summaries * each)
        parts["bootstrap"] = replicates + resampled * per_block
    if shapes.n_permutations:
        # Orders of few summaries stand side by side in a block.
        at_once = TARGET_WIDTH // max(1, min(shapes.n_summaries, TARGET_WIDTH))
        orders = -(-(shapes.n_permutations + 1) // at_once)
        parts["permutations"] = resampled * orders * per_block
    return parts


def _removing(shapes: Shapes) -> float:
    """Operations to remove the forward part of a block of responses."""
    n, p = shapes.n_stimuli, shapes.n_components
    times = shapes.n_folds if shapes.n_unrecorded else 1
    return 4.0 * TARGET_WIDTH * n * p * times


def _operations_per_target(
    n: int, p: int, rank: int, options: RidgeOptions, n_ratios: int, folds: int, form: str
) -> float:
    """Products with the features, projections, errors of every alpha, scores."""
    alphas = len(options.alphas)
    sets = n_ratios * n_trainings(folds, options) if form == "dual" else 1
    products = 2.0 * n * (rank if form == "dual" else p) * sets
    project = 0.0 if form == "dual" else 2.0 * p * rank
    pairs = folds * (folds - 1) // 2
    outer = folds * n_ratios * (2 * project + 2 * TRIANGLE * rank**2 / n_ratios)
    if options.selection == "kfold":
        # All alphas share one product with the moments of each fold left out.
        squares = 2 * pairs * n_ratios * (2.0 * rank**2 + 10.0 * alphas * rank)
        inner = pairs * n_ratios * 3 * project + squares
    elif options.selection == "loo":
        # About half of the alphas in float32, then two in float64.
        inner = folds * n_ratios * (alphas / 4 + 2) * 2.0 * n * rank
    else:
        inner = folds * n_ratios * alphas * 2.0 * rank
    return products + outer + inner
