"""The stores of stage encode: scores by model, bands and group of subjects, and CKA by source."""

from collections.abc import Iterator, Sequence

import numpy as np

from hpc.plan.bands import feature_label, fitted_bands, is_diagnostic, score_label, split_bands
from hpc.plan.partition import PARTITION, check_exchange, partition_coords
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
from storage_schemas.kinds.scores import ScoresAttrs, scores_layout
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
    uses_forward, source = split_bands(bands)
    spec = specs.ScoresSpec(
        bands=bands,
        forward=references[f"extract/{feature_label(model.name, 'forward', number)}"]
        if uses_forward
        else None,
        gradient=references[f"extract/{feature_label(model.name, source, number)}"]
        if source
        else None,
        layers=model.layers,
        responses=tuple(references[f"ingest/{t.label}"] for t in group),
        partition=digest([coords[name][1].tolist() for name in PARTITION if name in coords]),
        encoding=encoding,
    )
    layout = scores_layout(
        model.layers,
        coords,
        banded=uses_forward and source is not None,
        n_folds=encoding.folds,
        n_targets=groups[-1].stop,
        n_summaries=summary_groups[-1].stop,
        n_bootstrap=encoding.bootstrap,
        n_permutations=encoding.permutations,
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
        forward_all=encoding.forward_all,
        band_ratios=tuple(sorted(encoding.band_ratios)),
        bootstrap=encoding.bootstrap,
        permutations=encoding.permutations,
        permute_within=encoding.permute_within,
        windows=windows_of(study),
        meg_targets=encoding.meg_targets,
    )
