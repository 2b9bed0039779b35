"""Stage ingest: one subject's responses in one modality, averaged over repeats."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gradenc_core.recordings import bids, epochs
from gradenc_core.stimuli.images import read_manifest
from jobs.runner import Arrays, Facts, Work
from jobs.spec import ResponsesSpec
from storage_schemas.protocol.store import Store, Unit


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield responses (n_stimuli, …), their repeats, and ncsnr (…)."""
    for store, unit in work.units:
        spec = ResponsesSpec.model_validate(store.spec)
        module = {"bids": bids, "epochs": epochs}[spec.reader]
        folder = Path(store.locations["responses"])
        manifest = read_manifest(Path(store.locations["stimuli"]))
        described = module.describe(folder, spec.subject, manifest, **spec.options)
        _check_unchanged(described.files, spec.files, folder)
        responses = module.read(folder, spec.subject, manifest, **spec.options)
        arrays = {
            "responses": responses.mean,
            "n_repeats": np.asarray(responses.n_repeats, dtype=np.float32),
            "target_repeats": responses.target_repeats,
            "ncsnr": responses.ncsnr,
        }
        if responses.ncsnr_owners is not None:
            arrays["ncsnr_owners"] = responses.ncsnr_owners
        facts = {
            "n_nan_targets": responses.n_nan_targets,
            "n_constant_targets": responses.n_constant_targets,
            "without_data": responses.without_data,
        }
        yield store, unit, arrays, facts


def _check_unchanged(now: dict[str, str], planned: dict[str, str], folder: Path) -> None:
    changed = sorted(name for name in planned if now.get(name) != planned[name])
    if changed:
        raise ValueError(
            f"{folder / changed[0]} has changed since the study was planned "
            f"({len(changed)} file(s) in all); put the old files back, or plan the study again"
        )
