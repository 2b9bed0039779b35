import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradenc_core.stimuli.folds import assign_blocks, assign_category_folds, assign_folds


def digests(n: int) -> list[str]:
    return [hashlib.sha256(str(i).encode()).hexdigest() for i in range(n)]


@given(st.integers(5, 60), st.integers(2, 5), st.integers(0, 3), st.randoms())
def test_fold_is_a_property_of_content(n, n_folds, seed, random):
    ids = digests(n) + digests(n // 2)
    categories = [str(int(d, 16) % 3) for d in ids]
    order = list(range(len(ids)))
    random.shuffle(order)
    folds = assign_folds(ids, n_folds, seed, categories)
    moved = assign_folds([ids[i] for i in order], n_folds, seed, [categories[i] for i in order])
    assert moved.tolist() == folds[order].tolist()
    assert folds[n:].tolist() == folds[: n // 2].tolist()


@given(st.integers(5, 60), st.integers(2, 5), st.integers(0, 3))
def test_folds_are_balanced_overall_and_within_category(n, n_folds, seed):
    ids = digests(n)
    categories = [str(i % 3) for i in range(n)]
    folds = assign_folds(ids, n_folds, seed, categories)
    for members in [range(n), *([i for i in range(n) if i % 3 == c] for c in range(3))]:
        counts = [Counter(folds[list(members)].tolist())[k] for k in range(n_folds)]
        assert max(counts) - min(counts) <= 1


def test_seed_changes_the_folds():
    assert assign_folds(digests(50), 5, 0).tolist() != assign_folds(digests(50), 5, 1).tolist()


def test_content_in_two_categories_has_one_fold():
    ids = [*digests(10), digests(10)[3]]
    folds = assign_folds(ids, 5, 0, ["train"] * 10 + ["test"])
    assert folds[3] == folds[10]


@given(st.integers(10, 200), st.integers(0, 3), st.randoms())
def test_blocks_split_each_fold_evenly(n, seed, random):
    ids = digests(n)
    folds = assign_folds(ids, 5, seed)
    blocks = assign_blocks(ids, folds, 20, seed=seed)
    for fold in range(5):
        counts = np.bincount(blocks[folds == fold], minlength=20)
        assert counts.max() - counts.min() <= 1
    order = list(range(n))
    random.shuffle(order)
    moved = assign_blocks([ids[i] for i in order], folds[order], 20, seed=seed)
    assert moved.tolist() == blocks[order].tolist()


@given(st.lists(st.integers(0, 12), min_size=1, max_size=80), st.integers(0, 3), st.randoms())
def test_a_category_stays_in_one_fold_and_one_block(members, seed, random):
    members += range(4)
    random.shuffle(members)
    categories = [f"concept {member}" for member in members]
    folds = assign_category_folds(categories, 4, seed)
    blocks = assign_blocks(categories, folds, 3, seed=seed)
    places = {(name, *where) for name, *where in zip(categories, folds, blocks, strict=True)}
    assert len(places) == len(set(categories))
    sizes = np.bincount(folds, minlength=4)
    assert sizes.max() - sizes.min() <= max(Counter(categories).values())
    order = random.sample(range(len(members)), len(members))
    moved = assign_category_folds([categories[i] for i in order], 4, seed)
    assert moved.tolist() == folds[order].tolist()


def test_seed_changes_the_folds_of_categories():
    categories = [str(i % 40) for i in range(480)]
    first, second = (assign_category_folds(categories, 5, seed) for seed in (0, 1))
    assert first.tolist() != second.tolist()
    assert np.bincount(first).tolist() == np.bincount(second).tolist() == [96] * 5


def test_blocks_do_not_repeat_the_deal_of_folds():
    ids = digests(400)
    folds = assign_folds(ids, 5, 0)
    blocks = assign_blocks(ids, folds, 5, seed=0)
    by_hash = sorted(
        np.flatnonzero(folds == 0),
        key=lambda i: hashlib.sha256(f"fold:0:{ids[i]}".encode()).hexdigest(),
    )
    assert blocks[by_hash].tolist() != [i % 5 for i in range(len(by_hash))]


def test_errors_name_the_numbers():
    with pytest.raises(ValueError, match="3 distinct stimuli cannot fill 5 folds"):
        assign_folds([*digests(3), *digests(3)], 5, 0)
    with pytest.raises(ValueError, match="there are 1 folds; give at least 2"):
        assign_folds(digests(3), 1, 0)
    with pytest.raises(ValueError, match="3 categories cannot fill 5 folds"):
        assign_category_folds(["a", "b", "b", "c"], 5, 0)
    with pytest.raises(ValueError, match="categories has 2 rows but digests has 3"):
        assign_folds(digests(3), 2, 0, ["a", "b"])
    with pytest.raises(ValueError, match="folds has 2 rows but keys has 3"):
        assign_blocks(digests(3), np.zeros(2, int), seed=0)
    with pytest.raises(ValueError, match="are in different folds"):
        assign_blocks([digests(1)[0]] * 2, np.array([0, 1]), seed=0)
