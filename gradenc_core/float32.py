"""Products in float32, at half the time, where their rounding changes no answer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradenc_core import ridge
from gradenc_core.design import Training
from gradenc_core.device import Floats, fetch, namespace
from gradenc_core.selection import Block, possible

# Of a product over the lengths of its factors: a few steps of float32, for rows that add up in one
# direction, and 4 times that of its square.
ROUNDING = 32 * float(np.finfo(np.float32).eps)
# Share of its squares that a target may lose.
TOLERANCE = 1e-5
# Sums of squares, or one over them, at which entries that matter keep their digits.
LARGEST = 1e24


def residual_error(training: Training, alphas: Floats) -> Floats:
    """Share of a target's squares that its residual is wrong by, with X'Y in float32.

    A product with a column is wrong by `ROUNDING` of both lengths; the basis makes of that an error
    of c, of which s takes part in the prediction.

    Returns
    -------
    array, (n_alphas,)
        Infinite where features are too large or too small for float32, or leave no free dimension:
        the residual is then nothing but what was lost.
    """
    (factor,) = training.factors
    basis = factor.basis
    if basis.fills(training.count):
        return np.full(len(alphas), np.inf)
    squares = factor.coordinates.squares()[: len(basis.vectors)]
    sizes = fetch(squares[squares > 0])
    if sizes.min() < 1 / LARGEST or sizes.max() > LARGEST:
        return np.full(len(alphas), np.inf)
    lengths = namespace(squares).sqrt(squares @ basis.vectors**2)
    largest: Floats = fetch(basis.shrink(alphas) * lengths).max(axis=1)
    return ROUNDING * largest


def gcv_errors(
    training: Training, block: Block, alphas: Floats, error: Floats
) -> tuple[Floats, Floats]:
    """Errors by generalised cross-validation of a block whose products are in float32.

    Parameters
    ----------
    training : Training
    block : Block
    alphas : array, (n_alphas,)
    error : array, (n_alphas,)
        See `residual_error`.

    Returns
    -------
    errors : array, (1, n_alphas, n_targets)
    margin : array, (1, n_alphas, n_targets)
        How far rounding may have moved them.
    """
    (problem,) = block.problems(training)
    basis, centred = problem.factor.basis, problem.centred
    shrunk = basis.shrink(alphas)
    # In one sum: what was lost within the basis would count as outside it.
    inside = fetch((shrunk * (2.0 - shrunk)) @ (problem.c * problem.c))
    squares = fetch(block.sums(problem.factor.coordinates).yy).sum(axis=0)
    # The mean, which is a product too, is taken off at every alpha.
    mean = np.abs(centred.mean) * np.sqrt(training.weight * squares)
    freedom = ridge.freedom(basis, training.count, alphas) ** 2
    errors = (centred.yy - inside) / freedom
    margin = (error[:, None] * squares + ROUNDING * mean) / freedom
    return errors[None], margin[None]


def are_decided(errors: Floats, margin: Floats, error: Floats) -> NDArray[np.bool_]:
    """Targets of which no other alpha could be the best, and whose fit is as good as exact.

    Returns
    -------
    array of bool, (n_targets,)
    """
    _, is_open = possible(errors - margin, errors + margin)
    chosen, _ = ridge.choose(errors)
    return ~is_open & (error[chosen] < TOLERANCE)
