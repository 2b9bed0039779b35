"""Scores of several models and subjects as one labelled dataset."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from gradenc_errors import Remedy
from storage_schemas.errors import UnfinishedRun
from storage_schemas.results.scores import TARGET_DIMS
from storage_schemas.results.tree import with_indexes


def gather_scores(
    tree: xr.DataTree,
    modality: str,
    models: Sequence[str] | None = None,
    subjects: Sequence[str] | None = None,
) -> xr.Dataset:
    """Gather the leaves ``/scores/<model>/<subject>/<modality>`` into one lazy dataset.

    Layers of several models follow one another along ``layer``, and so do the targets of several
    subjects along ``voxel`` (or ``sensor``): nothing is padded, so no NaN stands for "not there".

    Parameters
    ----------
    tree : xr.DataTree
        What `open_run` returned.
    modality : {"fmri", "meg"}
    models, subjects : sequence of str, optional
        Names to gather; all by default.

    Returns
    -------
    xr.Dataset
        As a leaf, with the coordinates ``model`` along ``layer`` and ``subject`` along ``voxel``
        (or ``sensor``): ``.sel(model="dinov3", layer="blocks.7", subject="sub-02", roi="V4")``.

    Raises
    ------
    ValueError
        If there are no such scores, a model has none of a subject that another has, or leaves
        disagree in bands, folds or times.
    """
    leaves = _leaves(tree, modality)
    chosen_models = _choose("model", models, dict.fromkeys(model for model, _ in leaves))
    chosen_subjects = _choose("subject", subjects, dict.fromkeys(subject for _, subject in leaves))
    rows = []
    for model in chosen_models:
        # Rows take the labels of the first one's targets: every model needs the same subjects.
        if missing := [subject for subject in chosen_subjects if (model, subject) not in leaves]:
            raise ValueError(
                f"there are no {modality} scores of the model {model!r} and the subject "
                f"{missing[0]!r}; choose models and subjects that all have some"
            )
        across = [
            _labelled(leaves[model, subject], TARGET_DIMS[modality][0], "subject", subject)
            for subject in chosen_subjects
        ]
        rows.append(_labelled(_joined(across, TARGET_DIMS[modality][0]), "layer", "model", model))
    gathered = _joined(rows, "layer")
    gathered.attrs = {"modality": modality}
    return with_indexes(gathered)


def _leaves(tree: xr.DataTree, modality: str) -> dict[tuple[str, str], xr.Dataset]:
    if modality not in TARGET_DIMS:
        raise ValueError(f"modality is {modality!r}; give one of {', '.join(TARGET_DIMS)}")
    found = {}
    for leaf in tree.leaves:
        parts = leaf.path.strip("/").split("/")
        if len(parts) == 4 and parts[0] == "scores" and parts[3] == modality:
            found[parts[1], parts[2]] = leaf.to_dataset()
    if not found:
        raise UnfinishedRun(f"the run has no {modality} scores (yet)", Remedy.STATUS)
    return found


def _choose(what: str, wanted: Sequence[str] | None, present: dict[str, None]) -> list[str]:
    if wanted is not None and not wanted:
        raise ValueError(f"no {what} is chosen; there are scores of {', '.join(present)}")
    for name in wanted or ():
        if name not in present:
            raise ValueError(
                f"there are no scores of the {what} {name!r}; there are of {', '.join(present)}"
            )
    return list(present if wanted is None else wanted)


def _labelled(dataset: xr.Dataset, dim: str, name: str, value: str) -> xr.Dataset:
    """Write a label on every entry along a dimension."""
    plain = dataset.drop_indexes(
        [str(index) for index in dataset.xindexes if index not in dataset.dims]
    )
    labels = np.full(dataset.sizes[dim], value, dtype=object)
    return plain.assign_coords({name: (dim, labels)})


def _joined(datasets: Sequence[xr.Dataset], dim: str) -> xr.Dataset:
    try:
        return xr.concat(
            datasets,
            dim,
            data_vars="minimal",
            coords="minimal",
            compat="override",
            join="exact",
            combine_attrs="drop",
        )
    except ValueError as error:
        raise ValueError(
            f"the leaves to gather differ in other labels than {dim} ({error}); choose models and "
            "subjects that were fitted alike"
        ) from error
