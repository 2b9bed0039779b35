"""Tests and intervals that the hierarchy comparisons share.

Values that cannot be computed (no variance, too few entries) are NaN and are left out of what is
combined from them. scipy's function is used wherever it has one.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import permutations
from math import factorial

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

EXACT_UP_TO = 8
"""Regions up to which every permutation is enumerated (8! = 40,320)."""
FEWEST_REGIONS = 6
"""Regions below which a permutation has too few orders for a p."""
N_PERMUTATIONS = 10_000
"""Orders that are drawn where not all are enumerated."""
LEVEL = 0.95
"""Coverage of intervals."""
CONSTANT = 1e-12
"""Spread, as a share of the values' size, below which values count as constant."""


def significant(p: Array, level: float) -> NDArray[np.bool_]:
    """Select tests by the false discovery rate (Benjamini & Hochberg 1995); NaN is not selected.

    Parameters
    ----------
    p : array
    level : float
        Largest adjusted p that is selected: with B permutations a p of `level` may be exact, and
        `<` would never select it.
    """
    chosen = np.zeros(p.shape, dtype=bool)
    known = np.isfinite(p)
    if known.any():
        chosen[known] = stats.false_discovery_control(p[known]) <= level
    return chosen


def max_statistic_p(scores: Array) -> float:
    """Return p of the largest score over all other axes against that of each permutation.

    Parameters
    ----------
    scores : array, (n_permutations + 1, …)
        Index 0 is observed. Targets whose score is NaN in any permutation (they have no variance)
        are ignored.

    Returns
    -------
    float
        `(1 + #{maximum >= observed}) / (1 + n_permutations)`; NaN without permutations or scores.
    """
    return common_max_p([scores])


def common_max_p(subjects: Sequence[Array]) -> float:
    """Return p of the mean over subjects of each subject's largest score (inference over stimuli).

    The mean is taken within each permutation, so subjects who saw the same stimuli may share their
    permutations: the p stays exact, where a combination of the subjects' p would take them for
    independent. Subjects with independent permutations are as valid.

    Parameters
    ----------
    subjects : sequence of array, (n_permutations + 1, …)
        Scores of each subject; index 0 is observed, and index b is the same permutation in all
        subjects. Targets whose score is NaN in any permutation are ignored, and so are subjects
        without any other.

    Returns
    -------
    float
        `(1 + #{mean maximum >= observed}) / (1 + n_permutations)`; NaN without permutations or
        scores.

    Raises
    ------
    ValueError
        If subjects have different numbers of permutations.
    """
    sizes = sorted({len(scores) for scores in subjects})
    if len(sizes) > 1:
        raise ValueError(
            "every subject needs the same permutations, to average within them; "
            f"given {sizes[0] - 1} and {sizes[-1] - 1}"
        )
    largest = [permutation_maxima(scores) for scores in subjects]
    known = [maxima for maxima in largest if np.isfinite(maxima).all()]
    return _rank_p(np.mean(known, axis=0)) if known else float("nan")


def best_difference(own: Array, control: Array) -> Array:
    """Return by how much a signal's best score exceeds a control's, observed and permuted.

    The permuted differences are those of the two scores that were best: so two signals of one
    strength would vary. Where the signal has more scores, the best of them is ahead by chance, and
    the permuted differences are moved up by that much.

    Parameters
    ----------
    own, control : array, (n_permutations + 1, …)
        Scores of one subject under the same permutations; see `common_max_p`. Where one has fewer,
        the first are used.

    Returns
    -------
    array, (n + 1,)
        Differences of r: the observed one first. NaN where one of the two has no score.
    """
    n = min(len(own), len(control))
    flat = [scores[:n].reshape(n, -1) for scores in (own, control)]
    known = [scores[:, np.isfinite(scores).all(axis=0)] for scores in flat]
    if not all(scores.shape[1] for scores in known):
        return np.full(n, np.nan)
    first, second = (scores[:, scores[0].argmax()] for scores in known)
    largest = np.subtract(*(scores.max(axis=1) for scores in known))
    difference = first - second
    difference[1:] += max(largest[1:].mean(), 0.0) - difference[1:].mean()
    return np.asarray(difference)


def exceeds_p(subjects: Iterable[Array], controls: Iterable[Array]) -> float:
    """Return p that the best score of a signal exceeds that of a control, in mean over subjects.

    Parameters
    ----------
    subjects, controls : iterable of array, (n_permutations + 1, …)
        See `best_difference`.

    Returns
    -------
    float
        NaN where no subject has scores of both.
    """
    found = [best_difference(*pair) for pair in zip(subjects, controls, strict=True)]
    known = [difference for difference in found if np.isfinite(difference).all()]
    return _rank_p(np.mean(known, axis=0)) if known else float("nan")


def permutation_maxima(scores: Array) -> Array:
    """Return the largest score of each permutation, (n_permutations + 1,).

    Targets whose score is NaN in any permutation are ignored; NaN where there is no other.
    """
    flat = scores.reshape(len(scores), -1)
    known = flat[:, np.isfinite(flat).all(axis=0)]
    return known.max(axis=1) if known.shape[1] else np.full(len(scores), np.nan)


def _rank_p(statistic: Array) -> float:
    """Return the share of permutations, the observed one first, that reach the observed."""
    return float((statistic >= statistic[0]).mean()) if len(statistic) > 1 else float("nan")


def pooled_null_p(observed: Array, null: Array) -> Array:
    """Return p of each value against one pooled null sample; NaN stays NaN."""
    ordered = np.sort(null[np.isfinite(null)])
    above = len(ordered) - np.searchsorted(ordered, observed, side="left")
    return np.where(np.isfinite(observed), (1 + above) / (1 + len(ordered)), np.nan)


@cache
def region_permutations(n_regions: int, seed: int) -> NDArray[np.intp]:
    """Return orders of regions, (n_orders, n_regions), identity first: all of them up to 8.

    Every score of a comparison uses the same orders, so they are made once and are read-only.
    """
    if n_regions <= EXACT_UP_TO:
        flat = (i for order in permutations(range(n_regions)) for i in order)
        count = factorial(n_regions) * n_regions
        drawn = np.fromiter(flat, dtype=np.intp, count=count).reshape(-1, n_regions)
    else:
        generator = np.random.default_rng(seed)
        drawn = np.tile(np.arange(n_regions), (N_PERMUTATIONS, 1))
        drawn[1:] = generator.permuted(drawn[1:], axis=1)
    drawn.flags.writeable = False
    return drawn


def rows_correlation(x: Array, y: Array) -> Array:
    """Return the Pearson correlation of rows over the last axis; NaN without variance."""
    x, y = _unit(x), _unit(y)
    r: Array = (x * y).sum(axis=-1)
    return r


def _unit(values: Array) -> Array:
    """Centre rows and scale them to length 1; NaN where they are constant but for rounding."""
    centred = values - values.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(centred, axis=-1, keepdims=True)
    varies = length > CONSTANT * np.linalg.norm(values, axis=-1, keepdims=True)
    return np.asarray(centred / np.where(varies, length, np.nan))


def correlation(x: Array, y: Array, method: str) -> float:
    """Return Pearson's or Spearman's correlation over entries known in both; NaN below 3.

    Raises
    ------
    ValueError
        For a `method` other than "pearson" and "spearman".
    """
    if method not in ("pearson", "spearman"):
        raise ValueError(f"a correlation is 'pearson' or 'spearman'; given {method!r}")
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < 3:
        return float("nan")
    x, y = x[known], y[known]
    if method == "spearman":
        x, y = stats.rankdata(x), stats.rankdata(y)
    return float(rows_correlation(x, y))


def bootstrap_null_p(observed: float, null: Array) -> float:
    """Return the two-sided p of a value against a sample of its null distribution."""
    known = null[np.isfinite(null)]
    if not np.isfinite(observed) or len(known) == 0:
        return float("nan")
    return float((1 + (np.abs(known) >= abs(observed)).sum()) / (1 + len(known)))


def above_zero_p(value: float, p: float) -> float:
    """Return the one-sided p of a value above 0, from its two-sided p."""
    return float(p / 2 if value > 0 else 1 - p / 2)


def percentile_interval(values: Array) -> tuple[float, float]:
    """Return the 95 % percentile interval; NaN if more than half of the values are."""
    known = values[np.isfinite(values)]
    if len(known) < len(values) / 2 or len(known) == 0:
        return float("nan"), float("nan")
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)
