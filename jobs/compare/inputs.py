"""What stage compare reads: scores of every signal and subject, classes, CKA and recordings.

Stores are opened through their references, so only sealed stores enter a comparison.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from jobs.spec import ComparisonsSpec, Reference
from storage_schemas.kinds.schema import flag_names
from storage_schemas.kinds.scores import ScoresAttrs, SummaryGroup, TargetGroup
from storage_schemas.protocol.store import Store
from storage_schemas.sources import UNIQUE, source_of

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Scores of one signal for one subject in one modality, of the signal's usable layers.

    Attributes
    ----------
    values : array, (n_layers, n_targets)
        Mean over folds of r, or U.
    folds : array, (n_folds, n_layers, n_targets)
        What they are the mean of.
    bootstrap, permutation : array, (n + 1, n_layers, n_summaries)
        Resampled scores of region means (fMRI) or sensors x windows (MEG); index 0 is observed.
    n_independent : int
        Stimuli; categories where folds keep categories together, whose images are alike.
    names : sequence of str
        Names of the regions, or of the sensors.
    windows : sequence of (name, start, stop), or None
        Windows of the sensors, s; None for fMRI.
    """

    values: Array
    folds: Array
    bootstrap: Array
    permutation: Array
    n_independent: int
    names: Sequence[str]
    windows: Sequence[tuple[str, float, float]] | None


class Inputs:
    """The inputs of one model's comparisons, opened when they are used.

    Parameters
    ----------
    spec : ComparisonsSpec
    layers : sequence of str
        Names of the model's layers, in network order.
    root : Path
        Folder of all stores.
    """

    def __init__(self, spec: ComparisonsSpec, layers: Sequence[str], root: Path) -> None:
        self.spec, self.layers, self.root = spec, layers, root

    @cached_property
    def responses(self) -> dict[tuple[str, str], xr.Dataset]:
        """Responses by subject and modality."""
        stores = [reference.open(self.root) for reference in self.spec.responses]
        return {(s.attrs["subject"], s.attrs["modality"]): s.dataset() for s in stores}

    @cached_property
    def classes(self) -> dict[str, list[str]]:
        """Class of every layer, by gradient source."""
        found = {}
        for source, reference in self.spec.classes.items():
            codes = reference.open(self.root).dataset()["signal_class"]
            names = flag_names(codes.attrs)
            found[source] = [names[code] for code in codes.values.tolist()]
        return found

    def usable(self, signal: str) -> NDArray[np.bool_]:
        """Return the layers that enter order scores: all forward ones, gradients classed ok."""
        source = source_of(signal)
        if source == "forward":
            return np.ones(len(self.layers), dtype=bool)
        return np.array([name == "ok" for name in self.classes[source]])

    def left_out(self) -> list[str]:
        """Name the layers whose gradient is no signal of its own, with their class."""
        return [
            f"{source}, {layer}: {name}"
            for source, names in self.classes.items()
            for layer, name in zip(self.layers, names, strict=True)
            if name != "ok"
        ]

    def cka(self, signal: str) -> list[Array]:
        """Return the CKA between a signal's usable layers, of each stimulus set."""
        rows = np.flatnonzero(self.usable(signal))
        references = self.spec.collinearity[source_of(signal)]
        return [r.open(self.root).dataset()["cka"].values[np.ix_(rows, rows)] for r in references]

    def scores(self, signal: str, subject: str, modality: str) -> Scores:
        """Return the scores behind a signal: r of one band, or U of forward_all and gradient."""
        unique = signal.startswith(UNIQUE)
        bands = f"forward_all+{source_of(signal)}" if unique else signal
        store, group, summary = self._find(self.spec.scores[bands], subject, modality)
        data = store.dataset()
        rows = np.flatnonzero(self.usable(signal))
        targets = data["scores"].isel(layer=rows, target=slice(group.start, group.stop))
        columns = slice(summary.start, summary.stop)
        return Scores(
            unique_variance(targets) if unique else mean_r(targets),
            unique_by_fold(targets) if unique else r_by_fold(targets),
            _by_replicate(data["bootstrap"].isel(layer=rows, summary=columns)),
            _by_replicate(data["permutation"].isel(layer=rows, summary=columns)),
            _n_independent(data),
            summary.names,
            summary.windows,
        )

    def _find(
        self, references: Sequence[Reference], subject: str, modality: str
    ) -> tuple[Store, TargetGroup, SummaryGroup]:
        for reference in references:
            store = reference.open(self.root)
            attrs = store.described(ScoresAttrs)
            for group, summary in zip(attrs.groups, attrs.summary_groups, strict=True):
                if (group.subject, group.modality) == (subject, modality):
                    return store, group, summary
        raise ValueError(f"no scores of {subject} {modality} among the stores of stage encode")


def mean_r(targets: xr.DataArray) -> Array:
    """Return the plain mean over folds of r, (n_layers, n_targets).

    NaN for a target that is constant in one fold, as in every bootstrap replicate.
    """
    values: Array = targets.sel(measure="r").mean("fold", skipna=False).values
    return values


def unique_variance(targets: xr.DataArray) -> Array:
    """Return U = (sum sse_off - sum sse) / sum sst over folds, (n_layers, n_targets)."""
    sums = targets.astype(np.float64).sum("fold", skipna=False)
    explained = sums.sel(measure="sse_off") - sums.sel(measure="sse")
    return np.asarray((explained / sums.sel(measure="sst")).values)


def r_by_fold(targets: xr.DataArray) -> Array:
    """Return r, (n_folds, n_layers, n_targets)."""
    r = targets.sel(measure="r").transpose("fold", "layer", "target")
    return np.asarray(r.values, dtype=np.float64)


def unique_by_fold(targets: xr.DataArray) -> Array:
    """Return (n_folds, n_layers, n_targets) whose mean over folds is U."""
    sums = targets.astype(np.float64).transpose("measure", "fold", "layer", "target")
    explained = sums.sel(measure="sse_off") - sums.sel(measure="sse")
    total = sums.sel(measure="sst").sum("fold", skipna=False)
    return np.asarray((sums.sizes["fold"] * explained / total).values)


def _by_replicate(data: xr.DataArray) -> Array:
    """Return (layer, replicate, summary) as (n_replicates + 1, n_layers, n_summaries)."""
    return np.moveaxis(data.values.astype(np.float64), 1, 0)


def _n_independent(data: xr.Dataset) -> int:
    if "stimulus_category" in data.coords:
        return len(np.unique(data["stimulus_category"]))
    return data.sizes["stimulus"]
