"""What each stage has to do, in numbers that can be counted on paper, and the least memory."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hpc
from gradenc_core.ridge.cost import plan_solver
from hpc.config.profile import GB, Profile, StageProfile, load_profile
from hpc.forecast import workload as module
from hpc.forecast.earlier_runs import encode_records, extract_records, fit_key, pass_key
from hpc.forecast.forecast import _stage
from hpc.forecast.memory import check_memory, components_bytes, extraction_bytes, shapes_of
from hpc.forecast.shapes import Recordings, StudyShapes, shaped
from hpc.forecast.workload import NetworkPasses, StageWork, workload
from hpc.plan.encode import encoding_spec
from hpc.plan.stages import all_plans
from hpc.plan.store_plan import StorePlan
from hpc.study.resolved import Resolved, signal_spec
from hpc.study.study import Study, StudyError, load_study
from jobs.encode import LIBRARIES
from storage_schemas.protocol.attempts import Used, begin
from storage_schemas.protocol.commit import commit
from storage_schemas.protocol.seal import seal

NAMES = [f"{i:02d}.png" for i in range(20)]
START_S, CLUSTER_S, COMMIT_S, RATE = 3.0, 5.0, 0.25, 1e-8
PASSES = NetworkPasses(image_s=0.5, commit_s=2.0, load_s=10.0, basis="on paper")
SOURCES, LAYERS = 3, 2

few = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
Planned = tuple[Study, Resolved, list[StorePlan]]


@pytest.fixture(scope="module")
def planned(paper_study: Any) -> Planned:
    study, resolved, subjects = paper_study({"a": NAMES}, models=("one", "two"))
    return study, resolved, all_plans(study, resolved, subjects)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every timing a number, so that all else can be counted."""
    monkeypatch.setattr(module, "time_start", lambda libraries: START_S)
    monkeypatch.setattr(module, "time_cluster", lambda workers: CLUSTER_S)
    monkeypatch.setattr(module, "time_commit", lambda plan: COMMIT_S)
    parts = ("fit", "bootstrap", "permutations")
    monkeypatch.setattr(module, "time_fit", lambda *_: dict.fromkeys(parts, RATE))


@pytest.mark.usefixtures("clock")
def test_the_work_of_every_stage_is_what_its_stores_hold(planned: Planned) -> None:
    study, resolved, plans = planned
    profile = Profile(name="lab", scheduler="local", extract=StageProfile(micro_batch=6))
    told: list[str] = []
    passes = {"one": PASSES, "two": replace(PASSES, image_s=1.0)}
    work = workload(study, resolved, plans, profile, passes, told.append)
    assert told == ["timing the start of processes", "timing the ridge"]

    # 20 stimuli in shards of 8, 8 and 4, each padded to micro-batches of 6.
    images, shards = 12 + 12 + 6, 3
    stability = 16 * (1 + len(module.PERTURBATIONS))
    extract = work["extract"]
    assert extract.items == 2 * (shards + 1)
    assert extract.seconds == pytest.approx((images + stability) * 1.5 + 2 * shards * 2.0)
    assert extract.start_s == START_S + 2 * 10.0
    assert extract.longest_s == max(12, stability) * 1.0 + 2.0

    # The bank of 300 images goes forward twice; each class takes four passes of 16 images; a pass
    # of all three sources is the unit in which a network was timed; scales take 16 such passes.
    prepare = work["prepare"]
    assert prepare.items == 2 * (1 + 1 + 2 + SOURCES + 1)
    passed = (2 * 300 + 4 * 2 * 16) / SOURCES + 16
    assert prepare.seconds == pytest.approx(prepare.items + 2 * 10.0 + passed * 1.5)

    assert (work["ingest"].items, work["compare"].items) == (1, 2)
    assert work["compare"].basis == ("assumed",)

    options = encoding_spec(study).ridge_options
    operations = fitted = 0.0
    scores = [p for p in plans if p.kind == "scores"]
    for plan in scores:
        shapes, banded = shapes_of(study, resolved, plan)
        solver = plan_solver(shapes, options, banded)
        operations += LAYERS * solver.operations
        fitted += LAYERS * solver.parts["fit"]
    widths = [16 * LAYERS] + [17 * LAYERS] * 2
    alike = 2 * sum(len(NAMES) * width**2 for width in widths)
    encode = work["encode"]
    assert encode.items == LAYERS * len(scores) + 2 * SOURCES
    units = LAYERS * len(scores)
    assert encode.seconds == pytest.approx(RATE * (operations + alike) + units * COMMIT_S)
    assert encode.start_s == CLUSTER_S
    assert encode.basis[-1] == f"{RATE * fitted / encode.seconds:.0%} for scores"


@pytest.mark.parametrize(
    ("profile", "tasks", "waves"),
    [
        (StageProfile(slots=2), 2, 1),
        (StageProfile(slots=2, units_per_task=2), 5, 3),
        (StageProfile(slots=20, units_per_task=1), 10, 1),
    ],
)
def test_a_stage_starts_its_tasks_in_waves_and_shares_its_work(
    planned: Planned, profile: StageProfile, tasks: int, waves: int
) -> None:
    plans = planned[2]
    how = profile.model_copy(update={"gpus_per_node": 2, "ranks_per_node": 2})
    work = StageWork(10, 1000.0, 7.0, ("measured", "assumed", "measured"), longest_s=40.0)
    stage = _stage("extract", plans, work, Profile(name="x", scheduler="slurm", extract=how))
    at_once = min(tasks, how.slots)
    share = 1000.0 / min(2 * at_once, 10)
    assert (stage.tasks, stage.array_jobs) == (tasks, 1)
    assert stage.seconds == pytest.approx(waves * 7.0 + share)
    assert stage.gpu_hours == pytest.approx(2 * (tasks * 7.0 + at_once * share) / 3600)
    assert stage.longest_s == 47.0
    assert stage.basis == "measured; assumed"
    own = [plan.layout for plan in plans if plan.stage == "extract"]
    assert (stage.stores, stage.units) == (len(own), sum(len(p.units) for p in own))
    assert stage.n_bytes == sum(layout.n_bytes for layout in own)


# Memory


def test_the_least_memory_of_extraction_on_paper(planned: Planned) -> None:
    study, resolved, _ = planned
    model = resolved.models[0]
    weights, outputs, micro_batch = 4 * 1_000_000, 4 * (600 + 400), 2
    readout = 2 * 10 + 256 + 2 + 2  # logits and softmax, prototypes, losses, confidence, contrast
    baseline = 31 + 51 + readout
    features = 4 * (8 - micro_batch) * (LAYERS * (16 + 17 + 17) + baseline)
    arguments = (study, resolved, model, len(NAMES), micro_batch)
    assert extraction_bytes(*arguments, on_gpu=False) == (
        weights + micro_batch * outputs * SOURCES + features
    )
    assert extraction_bytes(*arguments, on_gpu=True) == weights
    # Without a projection, layers are as wide as they are; gradients have their norm beside them.
    wide = study.model_copy(update={"projection": None})
    rows = 4 * (8 - micro_batch) * ((24 + 40) + 2 * (25 + 41) + baseline)
    assert extraction_bytes(wide, *arguments[1:], on_gpu=False) == (
        weights + micro_batch * outputs * SOURCES + rows
    )
    assert components_bytes(50, [24, 40]) == 50 * (4 * 64 + 8 * 40)


@few
@given(st.integers(1, 100), st.integers(1, 12), st.integers(1, 12))
def test_the_least_memory_of_extraction_grows_with_a_shard_and_no_further(
    planned: Planned, n_stimuli: int, shard: int, micro_batch: int
) -> None:
    study, resolved, _ = planned
    extraction = study.extraction.model_copy(update={"stimuli_per_shard": shard})
    study = study.model_copy(update={"extraction": extraction})

    def least(n: int, on_gpu: bool = False) -> int:
        return extraction_bytes(study, resolved, resolved.models[0], n, micro_batch, on_gpu)

    assert least(n_stimuli) <= least(n_stimuli + 1)
    assert least(max(n_stimuli, shard)) == least(shard)
    assert least(n_stimuli, on_gpu=True) <= least(n_stimuli)


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("stage", ["extract", "prepare"])
def test_the_memory_that_a_refusal_names_is_enough(
    planned: Planned, paper_study: Any, stage: str, ranks: int
) -> None:
    study, resolved, subjects = paper_study({"a": NAMES}, projection_kind="pca")
    heavy = resolved.models[0].model_copy(update={"n_parameters": 10**9})
    resolved = resolved.model_copy(update={"models": (heavy,)})
    plans = all_plans(study, resolved, subjects)

    def check(memory_gb: float) -> None:
        roomy = StageProfile(memory_gb=1000.0)
        tight = StageProfile(memory_gb=memory_gb, ranks_per_node=ranks)
        stages = {"extract": roomy, "prepare": roomy, "encode": roomy} | {stage: tight}
        check_memory(study, resolved, plans, Profile(name="lab", scheduler="slurm", **stages))

    with pytest.raises(StudyError, match=rf"stage {stage}: .* in the profile lab, or") as caught:
        check(1.0)
    enough = float(re.search(r"set its memory_gb to (\S+) or more", str(caught.value))[1])
    assert enough >= ranks * 4e9 / GB
    check(enough)
    with pytest.raises(StudyError):
        check(enough - 0.2 * ranks)


def test_a_ridge_beyond_a_workers_memory_names_the_keys_that_make_it_smaller(
    planned: Planned,
) -> None:
    study, resolved, plans = planned

    def check(memory_gb: float) -> None:
        how = StageProfile(memory_gb=memory_gb, dask_workers=8)
        check_memory(study, resolved, plans, Profile(name="x", scheduler="slurm", encode=how))

    with pytest.raises(StudyError, match=r"fewer dask_workers in the .*baseline_width") as caught:
        check(1.0)
    # libraries count: what a fit alone needs may be nothing that two digits show
    needed, given = re.findall(r"([\d.]+) GB", str(caught.value))
    assert float(needed) > LIBRARIES / GB
    assert float(given) == 0.12
    enough = float(re.search(r"set its memory_gb to (\S+) or more", str(caught.value))[1])
    check(enough)
    with pytest.raises(StudyError):
        check(enough - 0.2)


@pytest.mark.parametrize("n_dask_workers", [1, 2])
def test_on_this_machine_fewer_slots_or_workers_leave_more_for_a_ridge(
    planned: Planned, n_dask_workers: int
) -> None:
    study, resolved, plans = planned
    how = StageProfile(slots=10**6, dask_workers=n_dask_workers)
    told = "fewer slots or dask_workers in" if n_dask_workers > 1 else "fewer slots in"
    with pytest.raises(StudyError, match=f"stage encode: .*{told} the profile x"):
        check_memory(study, resolved, plans, Profile(name="x", scheduler="local", encode=how))


def test_the_demo_fits_the_profile_of_the_development_cluster() -> None:
    study = load_study(Path(hpc.__file__).parent / "demo_study.yaml")
    shapes = [{"modality": "fmri", "stimuli": 800, "shared": 800, "voxels": 500}]
    with shaped(study, StudyShapes(responses=shapes)) as (study, resolved, subjects):
        plans = all_plans(study, resolved, subjects)
        check_memory(study, resolved, plans, load_profile("dev"))


# Records of earlier runs


def commit_units(
    plan: StorePlan, root: Path, seconds: list[float | None], gpu: str | None = None
) -> None:
    """Commit and seal a store whose units took so many seconds."""
    store = plan.create(root)
    for unit, taken in zip(store.units, seconds, strict=True):
        attempt = begin(store, unit, "test", 0)
        assert attempt is not None
        arrays = {
            name: np.ones([b - a for a, b in region], store.arrays[name].dtype)
            for name, region in unit.regions.items()
        }
        commit(store, unit, arrays, {}, attempt)
        attempt.finish("committed", used=Used(seconds=taken, gpu=gpu))
    seal(store)


def features(plans: list[StorePlan], model: str) -> list[StorePlan]:
    return [p for p in plans if p.kind == "features" and p.attrs["model"] == model]


def test_a_shards_pass_counts_once_by_its_slowest_source(planned: Planned, tmp_path: Path) -> None:
    study, resolved, plans = planned
    for plan, factor in zip(features(plans, "one"), (1.0, 2.0, 1.5, 3.0), strict=True):
        commit_units(plan, tmp_path, [8 * factor, 8 * 3 * factor, 4 * 2 * factor])
    key = pass_key(
        resolved.models[0].spec,
        signal_spec(study, resolved.models[0], "forward"),
        resolved.sources,
    )
    (record,) = extract_records(tmp_path, on_gpu=False).values()
    assert extract_records(tmp_path, on_gpu=False) == {key: record}
    # Per image 2, 6 and 4 s: the median of the slowest source's shards.
    assert (record.seconds, record.units) == (4.0, 3)
    assert extract_records(tmp_path, on_gpu=True) == {}


def test_units_of_a_gpu_and_those_of_unknown_time_are_apart(
    planned: Planned, tmp_path: Path
) -> None:
    plan = features(planned[2], "one")[0]
    commit_units(plan, tmp_path, [8.0, None, 12.0], gpu="a gpu")
    assert extract_records(tmp_path, on_gpu=False) == {}
    (record,) = extract_records(tmp_path, on_gpu=True).values()
    assert (record.seconds, record.units) == (2.0, 2)


def test_a_store_that_is_not_sealed_gives_no_record(planned: Planned, tmp_path: Path) -> None:
    plan = features(planned[2], "one")[0]
    plan.create(tmp_path)
    assert extract_records(tmp_path, on_gpu=False) == {}
    assert encode_records(tmp_path) == {}


def test_scores_whose_features_are_gone_give_no_record(planned: Planned, tmp_path: Path) -> None:
    scores = {p.attrs["bands"]: p for p in planned[2] if p.kind == "scores"}
    commit_units(scores["forward"], tmp_path, [1.0, 2.0])
    assert encode_records(tmp_path) == {}
    keys = {bands: fit_key(plan.spec) for bands, plan in scores.items()}
    assert keys["forward"] == keys["gradient:energy"] != keys["baseline+gradient:energy"]
    assert keys["forward+gradient:energy"] not in (
        keys["forward"],
        keys["baseline+gradient:energy"],
    )


# Sizes


@few
@given(st.integers(1, 60), st.integers(1, 9))
def test_voxels_are_spread_over_regions_of_both_hemispheres(voxels: int, regions: int) -> None:
    recordings = Recordings(modality="fmri", stimuli=1, voxels=voxels, regions=regions)
    coords = recordings.coords("V1")
    sites = list(zip(coords["roi"].values, coords["hemisphere"].values, strict=True))
    counts = [sites.count(site) for site in set(sites)]
    assert len(sites) == voxels
    assert len(counts) == min(voxels, 2 * regions)
    assert max(counts) - min(counts) <= 1
    assert "V1" in coords["roi"].values


@few
@given(st.floats(10, 1000), st.floats(-0.5, 0), st.floats(0.1, 2))
def test_samples_reach_from_the_first_time_to_the_last(
    rate: float, tmin: float, tmax: float
) -> None:
    sizes = {"sampling_hz": rate, "tmin": tmin, "tmax": tmax}
    times = Recordings(modality="meg", stimuli=1, sensors=2, **sizes).coords("V1")["time"].values
    assert times[0] == tmin
    assert abs(times[-1] - tmax) <= 0.5 / rate + 1e-9
    np.testing.assert_allclose(np.diff(times), 1 / rate)
