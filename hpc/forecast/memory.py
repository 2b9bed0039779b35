"""Memory that one process of stage prepare, extract or encode needs, compared with its limit."""

from collections.abc import Sequence
from math import ceil

from gradenc_core.arrays import device
from gradenc_core.ridge.cost import FLOAT32, FLOAT64, Shapes, least_memory
from gradenc_core.signals.sizes import BASELINE
from gradenc_core.unique.residuals import LEAST_IMAGES, LEAST_ROOM
from hpc.config.profile import GB, Profile, StageProfile, process_memory
from hpc.plan.bands import fitted_sources
from hpc.plan.encode import encoding_spec
from hpc.plan.extract import n_features
from hpc.plan.prepare import has_components
from hpc.plan.store_plan import StorePlan
from hpc.study.resolved import Resolved, ResolvedModel
from hpc.study.study import Study, StudyError
from jobs.encode import LIBRARIES, fit_shapes
from jobs.spec import ScoresSpec


def check_memory(
    study: Study, resolved: Resolved, plans: Sequence[StorePlan], profile: Profile
) -> None:
    """Refuse a study whose units need more memory than a profile gives a process.

    Raises
    ------
    StudyError
        With the memory needed, the memory given, and the keys that change either.
    """
    for model in resolved.models:
        _check_extraction(study, resolved, model, _most_stimuli(plans), profile)
    for plan in plans:
        if plan.kind == "pca":
            _check_components(study, resolved, plan, profile)
    _check_ridge(study, resolved, [plan for plan in plans if plan.kind == "scores"], profile)


def _check_extraction(
    study: Study, resolved: Resolved, model: ResolvedModel, n_stimuli: int, profile: Profile
) -> None:
    how = profile.stage("extract")
    on_gpu = how.gpus_per_node > 0 if profile.scheduler == "slurm" else device().type != "cpu"
    needed = extraction_bytes(study, resolved, model, n_stimuli, how.micro_batch, on_gpu)
    smaller = "or a smaller micro_batch, or give the study a smaller extraction.stimuli_per_shard"
    _refuse(study, profile, "extract", f"model {model.name}", needed, smaller, _raised(how))


def _check_components(study: Study, resolved: Resolved, plan: StorePlan, profile: Profile) -> None:
    model = _model(resolved, plan)
    n_stimuli = plan.layout.coords.sizes["stimulus"]
    needed = FLOAT32 * model.n_parameters + components_bytes(n_stimuli, model.widths)
    smaller = "or give the study tokens of fewer features, or projection_kind: random"
    how = _raised(profile.stage("prepare"))
    _refuse(study, profile, "prepare", plan.label, needed, smaller, how)


def _raised(how: StageProfile) -> StageProfile:
    """Return the most that a stage without Dask workers is given: more after a kill for memory."""
    most = {"dask_workers": 1, "memory_gb": how.max_memory_gb or how.memory_gb}
    return how.model_copy(update=most)


def _refuse(
    study: Study,
    profile: Profile,
    stage: str,
    what: str,
    needed: float,
    smaller: str,
    how: StageProfile,
) -> None:
    """Refuse units that need more memory (bytes) than a process of their stage has."""
    limit = process_memory(profile.scheduler, how)
    if limit is None or needed <= limit:
        return
    several = how.dask_workers > 1
    remedy = "give it fewer slots" + (" or dask_workers" if several else "")
    if how.memory_gb is not None:
        least = ceil(10 * how.memory_gb * needed / limit) / 10
        remedy = f"set its memory_gb to {least:g} or more"
        remedy += " or give it fewer dask_workers" if several else ""
    raise StudyError(
        f"{study._file}: stage {stage}: {what} needs at least {needed / GB:.2f} GB of memory in "
        f"one process but has {limit / GB:.2f} GB; {remedy} in the profile {profile.name}, "
        f"{smaller}"
    )


def components_bytes(n_stimuli: int, widths: Sequence[int]) -> int:
    """Return the memory to fit principal components: rows of all layers, one layer's in float64."""
    return n_stimuli * (FLOAT32 * sum(widths) + FLOAT64 * max(widths))


def extraction_bytes(
    study: Study,
    resolved: Resolved,
    model: ResolvedModel,
    n_stimuli: int,
    micro_batch: int,
    on_gpu: bool,
) -> int:
    """Return the least memory that a process needs to extract a shard (bytes; not a GPU's memory).

    The shard's last pass needs most: the weights, the layers' whole outputs for a micro-batch and
    their gradients of every objective, and the features of all sources for the earlier stimuli;
    with `projection_kind: pca` also the components of every source. The network's other
    activations and the libraries come on top. On a GPU, the weights pass through the process's
    memory before the features are held there.

    Parameters
    ----------
    n_stimuli : int
        Stimuli of the largest stimulus set.
    """
    weights = FLOAT32 * model.n_parameters
    signals = FLOAT32 * micro_batch * sum(model.layer_values) * (1 + len(resolved.gradients))
    rows = max(min(n_stimuli, study.extraction.stimuli_per_shard) - micro_batch, 0)
    widths = (_widths(study, resolved, model, source) for source in resolved.extracted)
    features = FLOAT32 * rows * sum(map(sum, widths))
    fitted = sum(has_components(study, source) for source in resolved.sources)
    components = FLOAT32 * fitted * (study.projection or 0) * sum(model.widths)
    if on_gpu:
        return max(weights, components, features)
    return weights + components + signals + features


def _most_stimuli(plans: Sequence[StorePlan]) -> int:
    return max(p.layout.coords.sizes["stimulus"] for p in plans if p.kind == "features")


def _widths(study: Study, resolved: Resolved, model: ResolvedModel, source: str) -> list[int]:
    """Return the features of every layer."""
    widths = n_features(study, resolved, model, source)
    return [widths] * len(model.layers) if isinstance(widths, int) else widths


def _check_ridge(
    study: Study, resolved: Resolved, plans: Sequence[StorePlan], profile: Profile
) -> None:
    options = encoding_spec(study).ridge_options
    fits = {}
    for plan in plans:
        shapes, banded = shapes_of(study, resolved, plan)
        fits[plan.label] = least_memory(shapes, options, banded)
    label = max(fits, key=lambda label: fits[label])
    smaller = (
        "or give the study a smaller projection or encoding.baseline_width, fewer "
        "unrecorded_images, or fewer encoding.band_ratios"
    )
    needed = LIBRARIES + fits[label]
    _refuse(study, profile, "encode", label, needed, smaller, profile.stage("encode"))


def shapes_of(study: Study, resolved: Resolved, plan: StorePlan) -> tuple[Shapes, bool]:
    """Return what the largest unit of a scores store fits, and whether it has two bands."""
    assert isinstance(plan.spec, ScoresSpec)
    arrays = {array.name: array.shape for array in plan.layout.arrays}
    model, spec = _model(resolved, plan), plan.spec
    images = resolved.unrecorded
    shapes = fit_shapes(
        spec,
        [_widths(study, resolved, model, source) for source in fitted_sources(spec.bands)],
        n_stimuli=plan.layout.coords.sizes["stimulus"],
        n_targets=arrays["scores"][-1],
        n_summaries=arrays["permutation"][-1],
        resampled="bootstrap" in arrays,
        n_baseline=sum(_widths(study, resolved, model, BASELINE)) if spec.beyond else 0,
        n_unrecorded=len(images.ids) if spec.beyond and images else 0,
    )
    return shapes, spec.banded


def room_note(study: Study, resolved: Resolved, plans: Sequence[StorePlan]) -> str:
    """Say of which models U may be untested for want of images; empty where all have room."""
    found = {}
    for plan in plans:
        if isinstance(plan.spec, ScoresSpec) and plan.spec.beyond is not None:
            shapes, _ = shapes_of(study, resolved, plan)
            most = shapes.n_training // LEAST_ROOM
            if plan.spec.encoding.fold_rule == "keep_categories":
                most = 0
            most = max(most, shapes.n_unrecorded // LEAST_IMAGES)
            if most < min(shapes.n_baseline, shapes.n_images - 1):
                found[plan.attrs["model"]] = shapes.n_baseline, most
    if found and study.encoding.fold_rule == "keep_categories" and resolved.unrecorded is None:
        return "U cannot be tested without unrecorded_images where categories stay together."
    return "\n".join(
        f"{model}: U is tested if at most {most} components hold 99.9 % of the variance of the "
        f"baseline's {n_columns} columns; if not, its verdict says how many images "
        "unrecorded_images lacks."
        for model, (n_columns, most) in found.items()
    )


def _model(resolved: Resolved, plan: StorePlan) -> ResolvedModel:
    return next(m for m in resolved.models if m.name == plan.attrs["model"])
