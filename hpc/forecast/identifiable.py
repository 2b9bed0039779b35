"""What a study could tell before anything is computed: its designs, by model and modality.

Sizes are those of the plan; regions and their positions are those of the recordings. A modality in
which no verdict could follow has no design, and a sentence says what it would need.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from gradenc_core.compare.people import untestable
from gradenc_core.compare.space import distance_to_seed
from gradenc_core.compare.statistics import FEWEST_REGIONS
from gradenc_core.compare.time import FEWEST_LAYERS
from gradenc_core.identify.assumed import Assumed
from gradenc_core.identify.design import Design
from gradenc_core.identify.fmri import FmriDesign
from gradenc_core.identify.meg import MegDesign
from gradenc_core.signals.sizes import BASELINE
from hpc.forecast.shapes import StudyShapes, shaped
from hpc.plan.extract import n_features
from hpc.plan.subjects import Targets, check_fit, common_windows, windows_of
from hpc.study.resolve import resolve
from hpc.study.resolved import Resolved, ResolvedModel, Subject
from hpc.study.study import Study, StudyError

STEP_MM = 10.0
"""Distance between regions whose places are not known yet."""
FEWEST_WINDOWS = 3
"""Windows that a peak inside the search window needs."""


@dataclass(frozen=True)
class Identifiable:
    """One modality of one model.

    Attributes
    ----------
    model, modality : str
    design : Design or None
    refusal : str
        Why no verdict can follow, and what it would need; empty where there is a design.
    """

    model: str
    modality: str
    design: Design | None
    refusal: str = ""

    @property
    def title(self) -> str:
        """What is simulated, in words."""
        place = {"fmri": "in space (fMRI)", "meg": "in time (MEG or EEG)"}[self.modality]
        if self.design is None:
            return f"{self.model}, {place}"
        design = self.design
        return (
            f"{self.model}, {place}: {design.n_subjects} subject{'s' * (design.n_subjects > 1)}, "
            f"{design.n_stimuli:,} stimuli, {len(design.depth)} layers, level {design.level:g}"
        )


def find_identifiable(
    study: Study, shapes: StudyShapes | None, assumed: Assumed
) -> list[Identifiable]:
    """Return every modality of every model that gets a verdict.

    Parameters
    ----------
    shapes : StudyShapes or None
        Sizes that take the place of the study's stimuli and recordings.

    Raises
    ------
    StudyError
        If the study cannot be run as it is, or takes no gradients.
    """
    if study.signals == ("forward",):
        raise StudyError(
            f"{study._file}: signals: given ['forward']; verdicts are about gradients: add gradient"
        )
    if shapes is None:
        return list(_identifiable(study, *resolve(study), assumed))
    with shaped(study, shapes) as (untrained, resolved, subjects):
        return list(_identifiable(untrained, resolved, subjects, assumed))


def _identifiable(
    study: Study, resolved: Resolved, subjects: Sequence[Subject], assumed: Assumed
) -> Iterator[Identifiable]:
    targets = [Targets.of_subject(subject) for subject in subjects]
    check_fit(study, targets)
    modalities = sorted({t.modality for t in targets})
    level = study.comparisons.significance / len(modalities)
    for model in resolved.models:
        for modality in modalities if not model.control else ():
            own = [t for t in targets if t.modality == modality]
            refusal = _untested(study, resolved, level) or _without_order(study, model, own)
            design = None if refusal else _design(study, resolved, model, own, level, assumed)
            yield Identifiable(model.name, modality, design, refusal)


def _untested(study: Study, resolved: Resolved, level: float) -> str:
    """Say why gradients cannot be tested at all; empty where they can."""
    encoding = study.encoding
    if (1 + encoding.permutations) * level < 1:
        return (
            f"no p can reach the level {level:g} with {encoding.permutations} permutations: give "
            f"encoding.permutations {ceil(1 / level - 1e-9) - 1} or more"
        )
    if encoding.fold_rule == "keep_categories" and resolved.unrecorded is None:
        return (
            "gradients cannot be tested beyond activations where categories stay together: give "
            "unrecorded_images, or another encoding.fold_rule"
        )
    return ""


def _without_order(study: Study, model: ResolvedModel, own: Sequence[Targets]) -> str:
    """Say why no order can be judged; empty where one can."""
    if own[0].modality == "fmri":
        _, region = _regions(study, own)
        n_regions = len(np.unique(region))
        if n_regions < FEWEST_REGIONS:
            return f"no claim about its order can follow: {untestable(n_regions, len(own))}"
        return ""
    if len(model.layers) < FEWEST_LAYERS:
        return (
            f"no claim about its order can follow: {len(model.layers)} layers, and a slope of "
            f"latency over depth needs {FEWEST_LAYERS}"
        )
    if len(_times(study, own)) < FEWEST_WINDOWS:
        return (
            "no claim about its order can follow: fewer than "
            f"{FEWEST_WINDOWS} of encoding.windows lie inside comparisons.search_window, and a "
            "peak needs one on each side"
        )
    return ""


def _design(
    study: Study,
    resolved: Resolved,
    model: ResolvedModel,
    own: Sequence[Targets],
    level: float,
    assumed: Assumed,
) -> Design:
    columns = n_features(study, resolved, model, BASELINE)
    n_columns = columns if isinstance(columns, int) else sum(columns)
    if study.encoding.fold_rule == "keep_categories":
        n_columns = 0
    sizes = (
        len(own),
        min(len(t.stimuli) for t in own),
        study.encoding.folds,
        n_columns,
        resolved.unrecorded is not None,
        np.array([depth for _, depth in model.layers]),
        level,
        assumed,
    )
    if own[0].modality == "fmri":
        return FmriDesign(*sizes, *_regions(study, own))
    comparisons = study.comparisons
    window = (comparisons.search_window[0], comparisons.search_window[1])
    return MegDesign(*sizes, _times(study, own), window, comparisons.smallest_effect)


def _times(study: Study, own: Sequence[Targets]) -> NDArray[np.float64]:
    """Return the centres of the windows that all subjects have inside the search window, s."""
    low, high = study.comparisons.search_window
    centres = [(start + stop) / 2 for _, start, stop in common_windows(own, windows_of(study))]
    return np.array([centre for centre in centres if low <= centre <= high])


def _regions(study: Study, own: Sequence[Targets]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return position (mm, mean over subjects) and region of the points that all subjects have."""
    places = [_places(study, targets) for targets in own]
    common = [point for point in places[0] if all(point in other for other in places)]
    names = sorted({region for region, _ in common})
    position = np.array([np.mean([own[point] for own in places]) for point in common])
    region = np.array([names.index(name) for name, _ in common], dtype=np.intp)
    if len(np.unique(position)) == 1:
        position = STEP_MM * region
    return position, region


def _places(study: Study, targets: Targets) -> dict[tuple[str, str], float]:
    """Return the mean distance to the seed region of every region of a hemisphere, mm."""
    coords = targets.coords
    roi, side = (coords[name].values.astype(object) for name in ("roi", "hemisphere"))
    xyz = np.stack([coords[axis].values for axis in "xyz"], axis=1)
    distance = distance_to_seed(xyz, roi, side, study.comparisons.seed_region)
    found = {}
    for point in sorted(set(zip(roi, side, strict=True))):
        here = (roi == point[0]) & (side == point[1])
        if np.isfinite(distance[here]).all():
            found[point] = float(distance[here].mean())
    return found
