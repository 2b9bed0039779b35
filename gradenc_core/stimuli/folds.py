"""Folds and blocks of stimuli: properties of a stimulus's content or category, never of its row.

All subjects, models and shards therefore share folds, and copies of an image are never both trained
on and tested.
"""

import hashlib
from collections import Counter
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

    Within a category the folds differ by at most one distinct stimulus. Stimuli of equal digest
    share a fold.

    Parameters
    ----------
    digests : sequence of str, (n_stimuli,)
        Content digests.
    n_folds : int
        Number of folds, at least 2.
    seed : int
        Seed of the hash that orders the stimuli.
    categories : sequence of str, (n_stimuli,), optional
        Category of each stimulus, over which folds are spread evenly; content listed under several
        belongs to the first by name.

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
    _check_n_folds(n_folds, len(distinct), "distinct stimuli")
    # One deal runs through all categories, so small categories do not pile up in the first folds.
    order = sorted(distinct, key=lambda digest: (distinct[digest], _key("fold", seed, digest)))
    fold_of = {digest: place % n_folds for place, digest in enumerate(order)}
    return np.array([fold_of[digest] for digest in digests], dtype=np.int64)


def assign_category_folds(categories: Sequence[str], n_folds: int, seed: int) -> NDArray[np.int64]:
    """Deal whole categories to folds, so that every fold tests on categories not trained on.

    The largest category goes first, always to the fold with the fewest stimuli; categories of one
    size follow a seeded hash of their name.

    Parameters
    ----------
    categories : sequence of str, (n_stimuli,)
        Category of each stimulus, equal for stimuli of equal content.
    n_folds : int
        Number of folds, at least 2.
    seed : int
        Seed of the hash.

    Returns
    -------
    array of int, (n_stimuli,)
        Fold of each row, from 0; it does not depend on the order of the rows.

    Raises
    ------
    ValueError
        If there are fewer than 2 folds, or fewer categories than folds.
    """
    sizes = Counter(categories)
    _check_n_folds(n_folds, len(sizes), "categories")
    filled = [0] * n_folds
    fold_of: dict[str, int] = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], _key("fold", seed, name))):
        fold_of[name] = filled.index(min(filled))
        filled[fold_of[name]] += sizes[name]
    return np.array([fold_of[name] for name in categories], dtype=np.int64)


def assign_blocks(
    keys: Sequence[str], folds: NDArray[np.integer], n_blocks: int = 20, *, seed: int
) -> NDArray[np.int64]:
    """Deal the stimuli of each fold to blocks, the units that a bootstrap resamples.

    Parameters
    ----------
    keys : sequence of str, (n_stimuli,)
        Content digests; or categories, where folds keep these together: a resample then draws whole
        categories, as the folds do.
    folds : array of int, (n_stimuli,)
        Fold of each row, equal for equal keys.
    n_blocks : int
        Blocks per fold; with fewer keys in a fold, its last blocks stay empty.
    seed : int
        Seed of the hash that orders the keys.

    Returns
    -------
    array of int, (n_stimuli,)
        Block of each row within its fold, from 0.

    Raises
    ------
    ValueError
        If `folds` has another length than `keys` or separates rows of one key.
    """
    if len(keys) != len(folds):
        raise ValueError(f"folds has {len(folds)} rows but keys has {len(keys)}.")
    fold_of = dict(zip(keys, map(int, folds), strict=True))
    for key, fold in zip(keys, folds, strict=True):
        if fold_of[key] != fold:
            raise ValueError(f"Stimuli of {key} are in different folds; use assign_folds.")
    block_of: dict[str, int] = {}
    for fold in sorted(set(fold_of.values())):
        members = [key for key in fold_of if fold_of[key] == fold]
        members.sort(key=lambda key: _key("block", seed, key))
        block_of |= {key: place % n_blocks for place, key in enumerate(members)}
    return np.array([block_of[key] for key in keys], dtype=np.int64)


def _check_n_folds(n_folds: int, n: int, things: str) -> None:
    if n_folds < 2:
        raise ValueError(f"there are {n_folds} folds; give at least 2.")
    if n < n_folds:
        raise ValueError(f"{n} {things} cannot fill {n_folds} folds; give fewer folds.")


def _first_label(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Map each digest to the first of its labels by name, whatever the order of the rows."""
    labels: dict[str, str] = {}
    for digest, label in pairs:
        labels[digest] = min(label, labels.get(digest, label))
    return labels


def _key(purpose: str, seed: int, name: str) -> str:
    # The purpose keeps blocks from repeating the order that dealt the folds.
    return hashlib.sha256(f"{purpose}:{seed}:{name}".encode()).hexdigest()
