"""Every number of every planned store is made by one unit, and every subject is scored once."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpc.plan.bands import bands_of, fitted_bands, fitted_sources, is_beyond, is_diagnostic
from hpc.plan.compare import compare_plans, order_note
from hpc.plan.encode import encode_plans
from hpc.plan.prepare import prepare_plans
from hpc.plan.stages import all_plans, extract_plans, ingest_plans
from hpc.plan.store_plan import StorePlan
from hpc.plan.subjects import Targets, encode_groups, in_order, stimulus_sets, windows_of
from hpc.study.encoding import Encoding, Windows
from jobs.spec import Reference, ScoresSpec

NAMES = [f"{i:02d}.png" for i in range(40)]
seen = st.sampled_from([20, 27, 40]).map(lambda n: NAMES[:n])
people = st.lists(seen, min_size=1, max_size=2)
quick = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def named(prefix: str, sets: list[list[str]]) -> dict[str, list[str]]:
    return {f"{prefix}-{i}": stimuli for i, stimuli in enumerate(sets)}


@quick
@given(
    people,
    people,
    st.integers(1, 45),
    st.sampled_from([16, None]),
    st.sampled_from(["random", "pca"]),
)
def test_every_number_of_every_store_is_made_by_one_unit(
    paper_study: Any,
    fmri: list[list[str]],
    meg: list[list[str]],
    shard: int,
    projection: int | None,
    kind: str,
) -> None:
    study, resolved, subjects = paper_study(
        named("sub", fmri),
        named("meg", meg),
        projection=projection,
        projection_kind=kind if projection else "random",
    )
    extraction = study.extraction.model_copy(update={"stimuli_per_shard": shard})
    study = study.model_copy(update={"extraction": extraction})
    for plan in all_plans(study, resolved, subjects):
        assert [unit.index for unit in plan.layout.units] == list(range(len(plan.layout.units)))
        for array in plan.layout.arrays:
            made = np.zeros(array.shape, dtype=np.int64)
            for unit in plan.layout.units:
                if array.name in unit.regions:
                    made[tuple(slice(*edges) for edges in unit.regions[array.name])] += 1
            assert (made == 1).all(), (plan.label, array.name)


@quick
@given(people, people, st.sampled_from(["samples", "windows"]))
def test_every_target_of_every_subject_is_scored_in_one_place(
    paper_study: Any, fmri: list[list[str]], meg: list[list[str]], meg_targets: str
) -> None:
    study, resolved, subjects = paper_study(
        named("sub", fmri), named("meg", meg), encoding={"meg_targets": meg_targets}
    )
    expected = {("fmri", "samples"): 6, ("meg", "samples"): 3 * 7, ("meg", "windows"): 3 * 2}
    expected["fmri", "windows"] = 6
    scores = [p for p in all_plans(study, resolved, subjects) if p.kind == "scores"]
    assert {p.attrs["bands"] for p in scores} == set(fitted_bands(resolved))
    for bands in fitted_bands(resolved):
        own = [p for p in scores if p.attrs["bands"] == bands]
        groups = [group for p in own for group in p.attrs["groups"]]
        once = {(s.description.subject, s.description.modality): 1 for s in subjects}
        assert Counter((g["subject"], g["modality"]) for g in groups) == once
        for group in groups:
            assert group["stop"] - group["start"] == expected[group["modality"], meg_targets]
        for plan in own:
            edges = [(g["start"], g["stop"]) for g in plan.attrs["groups"]]
            shapes = {array.name: array.shape for array in plan.layout.arrays}
            assert [0, *(stop for _, stop in edges)] == [
                *(start for start, _ in edges),
                shapes["scores"][-1],
            ]


def sealed(plans: list[StorePlan]) -> dict[str, Reference]:
    """Return references by label, as those that a finished stage leaves behind."""
    return {f"{p.stage}/{p.label}": Reference(stage=p.stage, identity="x", seal="x") for p in plans}


@pytest.mark.parametrize("kind", ["random", "pca"])
@pytest.mark.parametrize("scale", ["unit", "norm_only"])
def test_a_stage_refers_only_to_stores_that_earlier_stages_make(
    paper_study: Any, kind: str, scale: str
) -> None:
    study, resolved, subjects = paper_study(
        {"a": NAMES, "b": NAMES[:20]},
        {"c": NAMES},
        models=("one", "two"),
        projection_kind=kind,
        gradient_scale=scale,
    )
    targets = [Targets.of_subject(subject) for subject in subjects]
    done = sealed([*prepare_plans(study, resolved), *ingest_plans(resolved, subjects)])
    done |= sealed(list(extract_plans(study, resolved, targets, done)))
    done |= sealed(list(encode_plans(study, resolved, targets, done)))
    compared = list(compare_plans(study, resolved, targets, done))
    assert [plan.label for plan in compared] == ["one", "two"]
    assert order_note(compared).startswith("2 regions: their order cannot be tested over regions")
    assert "ladder dorsal, without" in order_note(compared)
    assert order_note([]) == ""
    for plan in compared:
        assert set(plan.spec.scores) == set(bands_of(resolved))
        assert {len(references) for references in plan.spec.scores.values()} == {2}


def test_a_gradient_is_fitted_alone_beyond_the_baseline_and_beside_its_own_layer(
    paper_study: Any,
) -> None:
    study, resolved, subjects = paper_study({"a": NAMES})
    fitted = list(fitted_bands(resolved))
    assert {bands: fitted_sources(bands) for bands in fitted} == {
        "forward": ("forward",),
        "gradient:energy": ("gradient:energy",),
        "gradient:dino": ("gradient:dino",),
        "baseline+gradient:energy": ("gradient:energy",),
        "baseline+gradient:dino": ("gradient:dino",),
        "baseline+baseline": ("baseline",),
        "baseline+forward": ("forward",),
        "forward+gradient:energy": ("forward", "gradient:energy"),
        "forward+gradient:dino": ("forward", "gradient:dino"),
    }
    diagnostic = [bands for bands in fitted if is_diagnostic(bands)]
    assert diagnostic == ["forward+gradient:energy", "forward+gradient:dino"]
    assert [bands for bands in fitted if bands not in diagnostic] == list(bands_of(resolved))
    for plan in all_plans(study, resolved, subjects):
        if isinstance(plan.spec, ScoresSpec):
            # A diagnostic is never tested, so nothing of it is resampled.
            resampled = not is_diagnostic(plan.spec.bands)
            assert bool(plan.spec.encoding.bootstrap) == resampled
            assert bool(plan.spec.encoding.permutations) == resampled
            assert (plan.spec.beyond is not None) == is_beyond(plan.spec.bands)


@quick
@given(st.lists(st.tuples(seen, st.sampled_from([1.0, 3.0])), min_size=1, max_size=5))
def test_subjects_are_grouped_by_rows_and_relative_weights(
    paper_study: Any, people: list[tuple[list[str], float]]
) -> None:
    _, _, subjects = paper_study(named("sub", [stimuli for stimuli, _ in people]))
    targets = []
    for subject, (_, first) in zip(subjects, people, strict=True):
        repeats = np.full(len(subject.description.stimuli), 2.0)
        repeats[0] *= first
        item = Targets.of_subject(subject)
        targets.append(type(item)(**vars(item) | {"n_repeats": repeats}))
    groups = encode_groups(targets)
    assert sorted(t.subject for group in groups for t in group) == sorted(
        t.subject for t in targets
    )
    kinds = [(len(stimuli), first) for stimuli, first in people]
    assert len(groups) == len(set(kinds))
    assert len(list(stimulus_sets(targets))) == len({n for n, _ in kinds})


@quick
@given(
    st.floats(-1, 1), st.floats(0.05, 2), st.floats(0.01, 0.5), st.sampled_from([0.01, 0.025, 0.3])
)
def test_windows_of_a_range_are_all_that_fit_into_it(
    start: float, length: float, width: float, step: float
) -> None:
    width = min(width, length)
    windows = Windows(start=start, stop=start + length, width=width, step=step)
    edges = windows_of(_WithWindows(Encoding(windows=windows)))
    starts = [first for _, first, _ in edges]
    assert starts == pytest.approx([start + i * step for i in range(len(edges))], abs=1e-8)
    assert all(last - first == pytest.approx(width, abs=1e-8) for _, first, last in edges)
    assert edges[-1][2] <= start + length + 1e-8
    assert edges[-1][2] + step > start + length - 1e-8


class _WithWindows:
    """The part of a study that has windows."""

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding


regions = st.lists(st.sampled_from("ABCDEFGH"), max_size=10)


@quick
@given(regions, st.lists(st.lists(st.sampled_from("ABCDEFGHIJ"), unique=True), max_size=3))
def test_every_region_stands_once_in_the_order_of_the_ladders(
    names: list[str], ladders: list[list[str]]
) -> None:
    ordered = in_order(names, ladders)
    assert sorted(ordered) == sorted(set(names))
    on_a_ladder = {name for ladder in ladders for name in ladder}
    n_known = sum(name in on_a_ladder for name in ordered)
    assert all(name in on_a_ladder for name in ordered[:n_known])
    assert ordered[n_known:] == sorted(ordered[n_known:])
    if ladders:
        first = [name for name in ladders[0] if name in names]
        assert ordered[: len(first)] == first
