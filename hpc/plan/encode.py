"""The stores of stage encode: scores by model, bands and group of subjects, and CKA by source."""

from collections.abc import Iterator, Sequence

import numpy as np

from gradenc_core.signals.sizes import BASELINE
from gradenc_core.unique.nulls import N_DRAWS, N_TUNINGS, SHARES
from hpc.plan.bands import (
    UNRECORDED,
    feature_label,
    fitted_bands,
    fitted_sources,
    is_beyond,
    is_diagnostic,
    score_label,
)
from hpc.plan.partition import PARTITION, check_exchange, partition_coords
from hpc.plan.prepare import baseline_parts
from hpc.plan.store_plan import References, StorePlan
from hpc.plan.subjects import (
    Targets,
    encode_groups,
    stimulus_sets,
    target_groups,
    window_coords,
    windows_of,
)
from hpc.study.resolved import Resolved, ResolvedModel
from hpc.study.study import Study
from jobs import spec as specs
from storage_schemas.identity import digest
from storage_schemas.kinds.collinearity import collinearity_layout
from storage_schemas.kinds.scores import (
    BANDED_MEASURES,
    BEYOND_MEASURES,
    SINGLE_MEASURES,
    DrawnTargets,
    ScoresAttrs,
    scores_layout,
)
from storage_schemas.records import as_json


def encode_plans(
    study: Study, resolved: Resolved, targets: Sequence[Targets], references: References
) -> Iterator[StorePlan]:
    """Plan stage encode: scores per model, bands and group of subjects; CKA per features store."""
    sets = list(stimulus_sets(targets))
    for model in resolved.models:
        for number in range(len(sets)):
            for source in resolved.sources:
                yield _collinearity_plan(model, source, number, references)
        for group in encode_groups(targets):
            number = sets.index(group[0].stimuli)
            for bands in fitted_bands(resolved):
                yield _score_plan(study, resolved, model, bands, group, number, references)


def _collinearity_plan(
    model: ResolvedModel, source: str, number: int, references: References
) -> StorePlan:
    label = feature_label(model.name, source, number)
    spec = specs.CollinearitySpec(features=references[f"extract/{label}"])
    return StorePlan(
        "encode",
        "collinearity",
        f"cka-{label}",
        spec,
        collinearity_layout(model.layers),
        {"model": model.name, "source": source},
        {},
    )


def _score_plan(
    study: Study,
    resolved: Resolved,
    model: ResolvedModel,
    bands: str,
    group: Sequence[Targets],
    number: int,
    references: References,
) -> StorePlan:
    encoding = encoding_spec(study)
    if is_diagnostic(bands):
        encoding = encoding.model_copy(update={"bootstrap": 0, "permutations": 0})
    coords = partition_coords(study, resolved, group[0])
    check_exchange(study, coords, group)
    groups, summary_groups = target_groups(group, encoding.windows, encoding.meg_targets)
    coords |= window_coords("target", groups) | window_coords("summary", summary_groups)
    spec = specs.ScoresSpec(
        bands=bands,
        features=tuple(
            references[f"extract/{feature_label(model.name, source, number)}"]
            for source in fitted_sources(bands)
        ),
        beyond=_beyond(resolved, model, bands, number, references),
        layers=model.layers,
        responses=tuple(references[f"ingest/{t.label}"] for t in group),
        partition=digest([coords[name][1].tolist() for name in PARTITION if name in coords]),
        encoding=encoding,
    )
    layout = scores_layout(
        model.layers,
        coords,
        measures=_measures(spec),
        n_folds=encoding.folds,
        n_targets=groups[-1].stop,
        n_summaries=summary_groups[-1].stop,
        n_resampled=sum(g.stop - g.start for g in summary_groups if g.windows is not None),
        n_bootstrap=encoding.bootstrap,
        n_permutations=encoding.permutations,
        drawn=_drawn(spec),
    )
    attrs = ScoresAttrs(
        model=model.name,
        bands=bands,
        fold_rule=encoding.fold_rule,
        permute_within=encoding.permute_within,
        groups=groups,
        summary_groups=summary_groups,
    )
    label = score_label(model, bands, group)
    return StorePlan("encode", "scores", label, spec, layout, as_json(attrs), {})


def _beyond(
    resolved: Resolved, model: ResolvedModel, bands: str, number: int, references: References
) -> specs.BeyondSpec | None:
    """Return the baseline of bands that are scored beyond it, of both sets of images."""
    if not is_beyond(bands):
        return None
    (source,) = fitted_sources(bands)

    def features(name: str, images: int | str) -> specs.Reference:
        return references[f"extract/{feature_label(model.name, name, images)}"]

    unrecorded = None
    if resolved.unrecorded is not None:
        unrecorded = specs.UnrecordedSpec(
            baseline=features(BASELINE, UNRECORDED), features=features(source, UNRECORDED)
        )
    return specs.BeyondSpec(
        baseline=features(BASELINE, number),
        n_scalars=tuple(parts.n_scalars for parts in baseline_parts(resolved, model)),
        unrecorded=unrecorded,
    )


def _measures(spec: specs.ScoresSpec) -> Sequence[str]:
    if spec.beyond is not None:
        return BEYOND_MEASURES
    return BANDED_MEASURES if spec.banded else SINGLE_MEASURES


def _drawn(spec: specs.ScoresSpec) -> DrawnTargets | None:
    """Return the targets that are drawn for a gradient beyond the baseline; none elsewhere."""
    if spec.beyond is None or spec.is_control:
        return None
    return DrawnTargets(N_DRAWS, SHARES, N_TUNINGS)


def encoding_spec(study: Study) -> specs.EncodingSpec:
    """Return the study's encoding options in the form that is hashed."""
    encoding = study.encoding
    return specs.EncodingSpec(
        folds=encoding.folds,
        fold_rule=encoding.fold_rule,
        blocks=encoding.blocks,
        seed=study.seed,
        alphas=tuple(
            np.geomspace(encoding.alphas.low, encoding.alphas.high, encoding.alphas.count).tolist()
        ),
        alpha_choice=encoding.alpha_choice,
        band_ratios=tuple(sorted(encoding.band_ratios)),
        bootstrap=encoding.bootstrap,
        permutations=encoding.permutations,
        permute_within=encoding.permute_within,
        windows=windows_of(study),
        meg_targets=encoding.meg_targets,
    )
