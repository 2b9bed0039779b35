"""What stage compare reads: scores of every signal and subject, classes, CKA and recordings.

Stores are opened through their references, so only sealed stores enter a comparison.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradenc_core.compare.reference import Confusion
from jobs.spec import ComparisonsSpec
from storage_schemas.kinds.comparisons import CONTROL_SIGNALS
from storage_schemas.kinds.schema import flag_names
from storage_schemas.kinds.scores import ScoresAttrs, SummaryGroup, TargetGroup
from storage_schemas.protocol.commit import facts_of
from storage_schemas.protocol.store import Store
from storage_schemas.sources import BEYOND, UNIQUE, source_of

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Scores of one signal for one subject in one modality, of the signal's usable layers.

    Attributes
    ----------
    folds : array, (n_folds, n_layers, n_targets)
        r; of unique signals with what the baseline leaves of the responses.
    bootstrap : array, (n_replicates + 1, n_layers, n_summaries), or None
        Resampled scores of sensors x windows (MEG); index 0 is observed. None for fMRI.
    permutation : array, (n_permutations + 1, n_layers, n_summaries)
        The same of region means (fMRI) or sensors x windows (MEG), under permutation.
    null : array, (n_draws, n_layers), or None
        Scores of Gaussian targets, the same in every layer; None where r has an analytic p.
    confusion : Confusion or None
        How targets that one layer's gradient drives look to every layer; None of other signals.
    n_independent : int
        Stimuli; categories where folds keep categories together, whose images are alike.
    names : sequence of str
        Names of the regions, or of the sensors.
    windows : sequence of (name, start, stop), or None
        Windows of the sensors, s; None for fMRI.
    """

    folds: Array
    bootstrap: Array | None
    permutation: Array
    null: Array | None
    confusion: Confusion | None
    n_independent: int
    names: Sequence[str]
    windows: Sequence[tuple[str, float, float]] | None

    @property
    def values(self) -> Array:
        """Plain mean over folds, (n_layers, n_targets).

        NaN for a target that is constant in one fold, as in every bootstrap replicate.
        """
        return np.asarray(self.folds.mean(axis=0))


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
        """Return the layers that are compared: all forward ones, gradients classed ok."""
        source = source_of(signal)
        if signal == "forward" or signal in CONTROL_SIGNALS:
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
        """Return the scores behind a signal: of its features alone, or beyond the baseline."""
        store, group, summary = self._find(signal, subject, modality)
        data = store.dataset()
        rows = np.flatnonzero(self.usable(signal))
        targets = data["scores"].isel(layer=rows, target=slice(group.start, group.stop))
        return Scores(
            r_by_fold(targets),
            _bootstrap(store, summary, rows),
            self.permutation(signal, subject, modality),
            _null(data, rows),
            _confusion(data, rows),
            _n_independent(data),
            summary.names,
            summary.windows,
        )

    def permutation(self, signal: str, subject: str, modality: str) -> Array:
        """Return resampled scores, (n_permutations + 1, n_layers, n_summaries)."""
        store, _, summary = self._find(signal, subject, modality)
        rows, columns = np.flatnonzero(self.usable(signal)), slice(summary.start, summary.stop)
        return _by_replicate(store.dataset()["permutation"].isel(layer=rows, summary=columns))

    def untested(self, signal: str, level: float) -> list[str]:
        """Say of whom a signal could not be tested beyond the baseline, and why."""
        if not self.usable(signal).any():
            return ["No layer has a gradient of its own."]
        found = []
        n_permutations = self._stores(signal)[0].arrays["permutation"].shape[1] - 1
        if (1 + n_permutations) * level < 1:
            found.append(
                f"{n_permutations} permutations are too few: no p can reach {level:g}; raise "
                f"encoding.permutations to {ceil(1 / level) - 1} or more."
            )
        for store in self._stores(signal):
            people = [f"{g.subject} ({g.modality})" for g in store.described(ScoresAttrs).groups]
            facts = [facts_of(store, unit).get("baseline", {}) for unit in store.units]
            reasons = dict.fromkeys(f["untested"] for f in facts if f.get("untested"))
            said = f"{', '.join(people)} could not be tested"
            found += [f"{said}: {reason.rstrip('.')}." for reason in reasons]
        return found

    def _find(
        self, signal: str, subject: str, modality: str
    ) -> tuple[Store, TargetGroup, SummaryGroup]:
        """Return the store that scored a subject, and where in it the subject stands."""
        for store in self._stores(signal):
            attrs = store.described(ScoresAttrs)
            for group, summary in zip(attrs.groups, attrs.summary_groups, strict=True):
                if (group.subject, group.modality) == (subject, modality):
                    return store, group, summary
        raise ValueError(f"no scores of {subject} {modality} among the stores of stage encode")

    def _stores(self, signal: str) -> list[Store]:
        """Return the stores of a signal's scores, one per group of subjects."""
        bands = BEYOND + source_of(signal) if signal.startswith(UNIQUE) else signal
        return [reference.open(self.root) for reference in self.spec.scores[bands]]


def r_by_fold(targets: xr.DataArray) -> Array:
    """Return r, (n_folds, n_layers, n_targets)."""
    r = targets.sel(measure="r").transpose("fold", "layer", "target")
    return np.asarray(r.values, dtype=np.float64)


def _bootstrap(store: Store, summary: SummaryGroup, rows: NDArray[np.intp]) -> Array | None:
    if summary.windows is None:
        return None
    columns = store.described(ScoresAttrs).resampled(summary)
    return _by_replicate(store.dataset()["bootstrap"].isel(layer=rows, resampled=columns))


def _by_replicate(data: xr.DataArray) -> Array:
    """Return (layer, replicate, summary) as (n_replicates + 1, n_layers, n_summaries)."""
    return np.moveaxis(data.values.astype(np.float64), 1, 0)


def _null(data: xr.Dataset, rows: NDArray[np.intp]) -> Array | None:
    """Return scores of noise, (n_draws, n_layers): of Gaussian targets, or of permuted summaries.

    Where images of one category are alike, noise that is drawn for each image is no null.
    """
    if "null" not in data:
        return None
    if "stimulus_category" in data.coords:
        permuted = data["permutation"].isel(layer=rows, shuffle=slice(1, None)).values
        return permuted.reshape(len(rows), -1).T.astype(np.float64)
    return np.asarray(data["null"].isel(layer=rows).values.T, dtype=np.float64)


def _confusion(data: xr.Dataset, rows: NDArray[np.intp]) -> Confusion | None:
    """Return what stage encode simulated, of the usable layers as scorers and as drivers."""
    if "simulated" not in data:
        return None
    simulated = data["simulated"].isel(layer=rows, driver=rows)
    return Confusion(simulated.values.astype(np.float64), data["share"].values.tolist())


def _n_independent(data: xr.Dataset) -> int:
    if "stimulus_category" in data.coords:
        return len(np.unique(data["stimulus_category"]))
    return data.sizes["stimulus"]
