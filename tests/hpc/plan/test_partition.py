"""Folds and blocks of subjects who saw different stimuli of one study."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpc.plan.partition import partition_coords
from hpc.plan.stages import all_plans
from hpc.plan.subjects import Targets
from hpc.study.study import StudyError

NAMES = [f"{i:02d}.png" for i in range(48)]
CATEGORIES = {name: f"thing-{i % 8}" for i, name in enumerate(NAMES)}
RULES = ["stimulus", "spread_categories", "keep_categories"]
quick = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
some = st.sets(st.sampled_from(NAMES), min_size=36).map(sorted)


def partition(study: Any, resolved: Any, subject: Any) -> dict[str, tuple[int, int]]:
    """Return the fold and the block of every stimulus that a subject saw."""
    coords = partition_coords(study, resolved, Targets.of_subject(subject))
    names, folds, blocks = (
        coords[name][1] for name in ("stimulus", "stimulus_fold", "stimulus_block")
    )
    return {
        str(name): (int(fold), int(block))
        for name, fold, block in zip(names, folds, blocks, strict=True)
    }


@pytest.mark.parametrize("rule", RULES)
@quick
@given(some, some, st.integers(0, 3))
def test_subjects_share_the_folds_of_the_stimuli_that_both_saw(
    paper_study: Any, rule: str, first: list[str], second: list[str], seed: int
) -> None:
    study, resolved, subjects = paper_study(
        {"a": first, "b": second, "all": NAMES},
        categories=CATEGORIES,
        seed=seed,
        encoding={"fold_rule": rule},
    )
    a, b, both = (partition(study, resolved, subject) for subject in subjects)
    assert list(a) == first
    assert list(b) == second
    assert {name: fold for name, (fold, _) in a.items()} == {name: both[name][0] for name in first}
    assert {name: fold for name, (fold, _) in b.items()} == {name: both[name][0] for name in second}
    assert {fold for fold, _ in both.values()} == {0, 1, 2}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n_blocks", [2, 20])
def test_blocks_are_even_parts_of_what_a_fold_is_dealt(
    paper_study: Any, rule: str, n_blocks: int
) -> None:
    study, resolved, (subject,) = paper_study(
        {"a": NAMES}, categories=CATEGORIES, encoding={"fold_rule": rule, "blocks": n_blocks}
    )
    dealt = partition(study, resolved, subject)
    key = CATEGORIES.__getitem__ if rule == "keep_categories" else str
    for fold in range(3):
        inside = {key(name): block for name, (own, block) in dealt.items() if own == fold}
        counts = np.bincount(list(inside.values()))
        assert len(counts) == min(n_blocks, len(inside))
        assert counts.max() - counts.min() <= 1
    # A key has one fold and one block, whatever the number of its stimuli.
    assert len({(key(name), *place) for name, place in dealt.items()}) == len(set(map(key, NAMES)))


def test_a_subject_whose_stimuli_leave_a_fold_with_one_category_is_refused(
    paper_study: Any,
) -> None:
    study, resolved, (everything,) = paper_study(
        {"a": NAMES}, categories=CATEGORIES, encoding={"fold_rule": "keep_categories"}
    )
    fold_of = {
        CATEGORIES[name]: fold for name, (fold, _) in partition(study, resolved, everything).items()
    }
    kept = next(name for name, fold in fold_of.items() if fold == 1)
    few = [n for n in NAMES if CATEGORIES[n] == kept or fold_of[CATEGORIES[n]] != 1]
    study, resolved, subjects = paper_study(
        {"all": NAMES, "few": few},
        categories=CATEGORIES,
        encoding={"fold_rule": "keep_categories"},
    )
    message = (
        rf"encoding.folds: given 3; the {len(few)} stimuli that few saw leave a fold with fewer "
        "than two categories; give fewer folds"
    )
    with pytest.raises(StudyError, match=message):
        all_plans(study, resolved, subjects)
    spread = study.encoding.model_copy(update={"fold_rule": "spread_categories"})
    assert all_plans(study.model_copy(update={"encoding": spread}), resolved, subjects)


def test_a_subject_whose_stimuli_leave_a_fold_empty_is_refused(paper_study: Any) -> None:
    study, resolved, (everything,) = paper_study({"a": NAMES})
    dealt = partition(study, resolved, everything)
    few = [name for name in NAMES if dealt[name][0] != 2]
    study, resolved, subjects = paper_study({"all": NAMES, "few": few})
    with pytest.raises(StudyError, match=r"stimuli that few saw leave a fold empty; give fewer"):
        all_plans(study, resolved, subjects)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("stimulus", "2 distinct stimuli cannot fill 3 folds"),
        ("keep_categories", "2 categories cannot fill 3 folds"),
    ],
)
def test_a_study_with_fewer_than_its_folds_names_the_key(
    paper_study: Any, rule: str, message: str
) -> None:
    study, resolved, subjects = paper_study(
        {"a": NAMES[:2]}, categories=CATEGORIES, encoding={"fold_rule": rule}
    )
    with pytest.raises(StudyError, match=rf"encoding.folds: given 3; {message}"):
        all_plans(study, resolved, subjects)
