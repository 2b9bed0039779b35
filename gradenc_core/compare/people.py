"""Orders of a study of few regions and many people: whether people agree on a rise.

Two to five regions have too few orders for a permutation test. Where six people or more were
recorded, each of them gives one slope, and the test is over people instead of regions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gradenc_core.compare.regions import FEWEST_FOR_INTERVAL, Points
from gradenc_core.compare.statistics import FEWEST_REGIONS, N_PERMUTATIONS

Array = NDArray[np.float64]

FEWEST_PEOPLE = 6
"""People below which no assignment of signs is rare enough."""
EXACT_UP_TO = 15
"""People up to which all 2^n assignments of signs are enumerated."""


@dataclass(frozen=True)
class Rise:
    """How preferred depth rises over positions, by person, tested over people.

    Attributes
    ----------
    values : array, (n_people,)
        Slope of each person's preferred depth on position; NaN below two different positions.
    mean : float
        Mean over people.
    p : float
        One-sided p of a mean above 0: people's signs change at random. NaN below 6 people.
    """

    values: Array
    mean: float
    p: float


def rise(people: Sequence[Points], seed: int = 0) -> Rise:
    """Test over people whether preferred depth rises with position.

    Parameters
    ----------
    people : sequence of Points
        Points without depth or position are left out.
    seed : int
        Of the signs, above 15 people.

    Notes
    -----
    It says that the order holds for people of this kind in *these* regions, and nothing of other
    regions; a permutation of regions says the reverse.
    """
    values = np.array([_slope(points.only_known()) for points in people])
    known = values[np.isfinite(values)]
    mean = float(known.mean()) if len(known) else float("nan")
    if len(known) < FEWEST_PEOPLE:
        return Rise(values, mean, float("nan"))
    drawn = 2**EXACT_UP_TO if len(known) <= EXACT_UP_TO else N_PERMUTATIONS
    test = stats.permutation_test(
        (known,),
        np.mean,
        permutation_type="samples",
        n_resamples=drawn,
        alternative="greater",
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return Rise(values, mean, float(test.pvalue))


def untestable(n_regions: int, n_people: int) -> str:
    """Say what cannot be decided about an order of so few regions, and what would be needed.

    Returns
    -------
    str
        Empty where the order can be tested over regions.
    """
    if n_regions >= FEWEST_REGIONS:
        return ""
    said = f"{n_regions} regions: their order cannot be tested over regions (it needs "
    said += f"{FEWEST_REGIONS})"
    if n_regions < FEWEST_FOR_INTERVAL:
        said += f" and has no interval (it needs {FEWEST_FOR_INTERVAL})"
    if n_people >= FEWEST_PEOPLE:
        return f"{said}; with {n_people} people it is tested over people"
    return f"{said}; a test over people needs {FEWEST_PEOPLE}, and {n_people} were recorded"


def _slope(points: Points) -> float:
    """Return the least-squares slope of depth on position; NaN where positions are constant."""
    if len(np.unique(points.position)) < 2:
        return float("nan")
    return float(np.polyfit(points.position, points.depth, 1)[0])
