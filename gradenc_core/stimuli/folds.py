"""Folds and blocks of stimuli: a property of a stimulus's content, never of its row."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


def assign_folds(
    digests: Sequence[str],
    n_folds: int,
    seed: int,
    categories: Sequence[str] | None = None,
) -> NDArray[np.int64]:
    """Deal stimuli to folds, round-robin over a seeded hash of their content.

    Within a test category the folds differ by at most one distinct stimulus. Stimuli of equal
    digest share a fold, so no content is both trained on and tested.

    Parameters
    ----------
    digests : sequence of str, (n_stimuli,)
        Content digests.
    n_folds : int
        Number of folds, at least 2.
    seed : int
        Seed of the hash that orders the stimuli.
    categories : sequence of str, (n_stimuli,), optional
        Test category of each stimulus; content listed under several belongs to the first by name.

    Returns
    -------
    array of int, (n_stimuli,)
        Fold of each row, from 0; it does not depend on the order of the rows.

    Raises
    ------
    ValueError
        If there are fewer than 2 folds, fewer distinct stimuli than folds, or `categories` has
        another length than `digests`.
    """
    labels = [""] * len(digests) if categories is None else list(categories)
    if len(labels) != len(digests):
        raise ValueError(f"categories has {len(labels)} rows but digests has {len(digests)}.")
    distinct = _first_label(zip(digests, labels, strict=True))
    if n_folds < 2:
        raise ValueError(f"n_folds is {n_folds}; give at least 2.")
    if len(distinct) < n_folds:
        raise ValueError(
            f"{len(distinct)} distinct stimuli cannot fill {n_folds} folds; lower n_folds or add "
            "stimuli."
        )
    # One deal runs through all categories, so small categories do not pile up in the first folds.
    order = sorted(distinct, key=lambda digest: (distinct[digest], _key("fold", seed, digest)))
    fold_of = {digest: place % n_folds for place, digest in enumerate(order)}
    return np.array([fold_of[digest] for digest in digests], dtype=np.int64)


def assign_blocks(
    digests: Sequence[str], folds: NDArray[np.integer], n_blocks: int = 20, *, seed: int
) -> NDArray[np.int64]:
    """Deal the stimuli of each fold to blocks, the units that a bootstrap resamples.

    Parameters
    ----------
    digests : sequence of str, (n_stimuli,)
        Content digests.
    folds : array of int, (n_stimuli,)
        Fold of each row, equal for equal digests.
    n_blocks : int
        Blocks per fold; with fewer stimuli in a fold, its last blocks stay empty.
    seed : int
        Seed of the hash that orders the stimuli.

    Returns
    -------
    array of int, (n_stimuli,)
        Block of each row within its fold, from 0.

    Raises
    ------
    ValueError
        If `folds` has another length than `digests` or parts stimuli of equal digest.
    """
    if len(digests) != len(folds):
        raise ValueError(f"folds has {len(folds)} rows but digests has {len(digests)}.")
    fold_of = dict(zip(digests, map(int, folds), strict=True))
    for digest, fold in zip(digests, folds, strict=True):
        if fold_of[digest] != fold:
            raise ValueError(
                f"Stimuli of digest {digest} are in different folds; use assign_folds."
            )
    block_of: dict[str, int] = {}
    for fold in sorted(set(fold_of.values())):
        members = [digest for digest in fold_of if fold_of[digest] == fold]
        members.sort(key=lambda digest: _key("block", seed, digest))
        block_of |= {digest: place % n_blocks for place, digest in enumerate(members)}
    return np.array([block_of[digest] for digest in digests], dtype=np.int64)


def _first_label(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Map each digest to the first of its labels by name, whatever the order of the rows."""
    labels: dict[str, str] = {}
    for digest, label in pairs:
        labels[digest] = min(label, labels.get(digest, label))
    return labels


def _key(purpose: str, seed: int, digest: str) -> str:
    # The purpose keeps blocks from repeating the order that dealt the folds.
    return hashlib.sha256(f"{purpose}:{seed}:{digest}".encode()).hexdigest()
