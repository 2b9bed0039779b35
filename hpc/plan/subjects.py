"""The targets of a study: who saw which stimuli, and how targets and summaries are laid out."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradenc_core.recordings.windows import samples_in
from hpc.study.resolved import Subject
from hpc.study.study import Study, StudyError
from storage_schemas.kinds import coordinates
from storage_schemas.kinds.coordinates import Coords, Window
from storage_schemas.kinds.scores import SummaryGroup, TargetGroup
from storage_schemas.protocol.store import Store


@dataclass(frozen=True)
class Targets:
    """One subject's targets in one modality and the stimuli they responded to."""

    subject: str
    modality: str
    stimuli: tuple[str, ...]
    n_repeats: NDArray[np.float64]
    sessions: tuple[str, ...]
    """Session in which each stimulus was shown; "" where it was in several."""
    coords: xr.Dataset

    @property
    def label(self) -> str:
        """Label of the responses store."""
        return f"{self.subject}-{self.modality}"

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions of the targets."""
        return ("voxel",) if self.modality == "fmri" else ("sensor", "time")

    @property
    def n_targets(self) -> int:
        """Number of voxels, or of sensors x times."""
        return int(np.prod([self.coords.sizes[dim] for dim in self.dims]))

    @classmethod
    def of_subject(cls, subject: Subject) -> "Targets":
        """Return the targets that a reader described."""
        described = subject.description
        return cls(
            described.subject,
            described.modality,
            tuple(described.stimuli),
            np.asarray(described.n_repeats, dtype=np.float64),
            described.sessions,
            described.coords,
        )

    @classmethod
    def of_store(cls, store: Store) -> "Targets":
        """Return the targets of a sealed responses store."""
        data = store.dataset().load()
        stimulus = [name for name, c in data.coords.items() if "stimulus" in c.dims]
        return cls(
            store.attrs["subject"],
            store.attrs["modality"],
            tuple(data["stimulus"].values.tolist()),
            data["n_repeats"].values.astype(np.float64),
            tuple(data["stimulus_session"].values.tolist()),
            data.drop_vars([*data.data_vars, *stimulus]),
        )


def windows_of(study: Study) -> tuple[Window, ...]:
    """Return the study's windows in order of start; those of a range are named by their centre."""
    windows = study.encoding.windows
    if isinstance(windows, dict):
        named = [(name, start, stop) for name, (start, stop) in windows.items()]
        return tuple(sorted(named, key=lambda window: window[1]))
    n = int(np.floor((windows.stop - windows.start - windows.width) / windows.step + 1e-9)) + 1
    starts = [windows.start + i * windows.step for i in range(n)]
    return tuple(
        (f"{start + windows.width / 2:g}", round(start, 9), round(start + windows.width, 9))
        for start in starts
    )


def target_groups(
    group: Sequence[Targets], windows: Sequence[Window], meg_targets: str
) -> tuple[tuple[TargetGroup, ...], tuple[SummaryGroup, ...]]:
    """Return the parts of the flat axes `target` and `summary` that belong to each subject.

    Summaries are region means (fMRI, by region and hemisphere) and sensor x window means (MEG).
    With `meg_targets` "windows", the window means of a sensor are its targets as well.
    """
    groups: list[TargetGroup] = []
    summary_groups: list[SummaryGroup] = []
    start = summary_start = 0
    for targets in group:
        whose = (targets.subject, targets.modality)
        names, inside = summaries(targets, windows)
        n = len(names) * (len(inside) if inside is not None else 1)
        own = inside if meg_targets == "windows" else None
        n_targets = targets.n_targets if own is None else n
        groups.append(TargetGroup(*whose, start, start + n_targets, own))
        summary_groups.append(SummaryGroup(*whose, summary_start, summary_start + n, names, inside))
        start += n_targets
        summary_start += n
    return tuple(groups), tuple(summary_groups)


def window_coords(dim: str, groups: Sequence[TargetGroup | SummaryGroup]) -> Coords:
    """Return the window of every entry of a flat axis as coordinates; empty without windows."""
    windows: list[Window | None] = []
    for group in groups:
        inside, n = group.windows, group.stop - group.start
        windows += [None] * n if inside is None else [*inside] * (n // len(inside))
    return coordinates.window_coords(dim, windows, f"{dim}_") if any(windows) else {}


def summaries(
    targets: Targets, windows: Sequence[Window]
) -> tuple[tuple[str, ...], tuple[Window, ...] | None]:
    """Return the names of regions (fMRI) or sensors (MEG), and the windows that hold samples."""
    if targets.modality == "fmri":
        roi, side = targets.coords["roi"].values, targets.coords["hemisphere"].values
        return tuple(sorted({f"{r}:{h}" for r, h in zip(roi, side, strict=True)})), None
    times = targets.coords["time"].values
    inside = tuple(window for window in windows if samples_in(times, *window[1:]).any())
    return tuple(str(name) for name in targets.coords["sensor"].values), inside


def common_windows(meg: Sequence[Targets], windows: Sequence[Window]) -> list[Window]:
    """Return the windows that hold samples of every MEG subject, which comparisons use."""
    held = [summaries(targets, windows)[1] or () for targets in meg]
    return [window for window in windows if all(window in own for own in held)] if held else []


def stimulus_sets(targets: Iterable[Targets]) -> Iterator[tuple[str, ...]]:
    """Yield the distinct stimulus sets that subjects saw."""
    yield from dict.fromkeys(t.stimuli for t in targets)


def encode_groups(targets: Iterable[Targets]) -> list[list[Targets]]:
    """Group subjects whose rows and repeat weights agree: one factorisation serves each group."""
    groups: dict[tuple[Any, ...], list[Targets]] = {}
    for item in targets:
        weights = np.round(item.n_repeats / item.n_repeats.mean(), 12)
        groups.setdefault((item.stimuli, weights.tobytes()), []).append(item)
    return list(groups.values())


def group_label(group: Sequence[Targets]) -> str:
    """Return the name of a group: its first subject, and how many more there are."""
    more = f"-and-{len(group) - 1}-more" if len(group) > 1 else ""
    return f"{group[0].label}{more}"


def in_order(regions: Iterable[str], ladders: Iterable[Sequence[str]]) -> list[str]:
    """Return regions in the order of the ladders that name them, then the rest by name."""
    known = list(regions)
    ladder_order = dict.fromkeys(name for ladder in ladders for name in ladder if name in known)
    return [*ladder_order, *sorted(set(known) - set(ladder_order))]


def check_fit(study: Study, targets: Sequence[Targets]) -> None:
    """Refuse sessions of one stimulus, an unknown seed region, and windows without a sample."""
    _check_sessions(study, targets)
    seed = study.comparisons.seed_region
    for item in targets:
        if item.modality == "fmri" and seed not in (known := set(item.coords["roi"].values)):
            raise StudyError(
                f"comparisons.seed_region: given {seed!r}; accepted for {item.subject}: one of "
                f"{', '.join(sorted(known))}, the regions of its label volume"
            )
    meg = [item for item in targets if item.modality == "meg"]
    windows = windows_of(study)
    common = common_windows(meg, windows)
    if meg and isinstance(study.encoding.windows, dict) and len(common) < len(windows):
        name, start, stop = next(window for window in windows if window not in common)
        raise StudyError(
            f"encoding.windows.{name}: given [{start:g}, {stop:g}], which holds no sample of some "
            "MEG subject's epochs; give a window inside the epochs of all, in s"
        )
    if meg and not common:
        raise StudyError(
            "encoding.windows: no window holds a sample of every MEG subject's epochs; give start "
            "and stop inside the epochs, in s"
        )


def _check_sessions(study: Study, targets: Iterable[Targets]) -> None:
    """Refuse to permute within sessions where a stimulus is the only one of its session."""
    if study.encoding.permute_within != "session" or study.encoding.fold_rule == "keep_categories":
        return  # whole categories change places there: `hpc.plan.partition.check_exchange`
    for item in targets:
        for session, n_stimuli in Counter(item.sessions).items():
            if n_stimuli == 1 and len(item.sessions) > 1:
                where = f"in session {session} alone" if session else "in several sessions"
                raise StudyError(
                    f"encoding.permute_within: given 'session'; accepted for {item.label}: all, "
                    f"because only one stimulus was shown {where} and has no other to change "
                    "places with"
                )
