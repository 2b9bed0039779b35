"""A study small enough for paper, whose stores the project's own writers put on disk.

Six layers, six regions, two people in the scanner, two in the MEG. What every layer predicts is
written here by hand; the tests say what follows from it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from jobs.runner import run_items
from jobs.spec import CompareOptions, ComparisonsSpec, Reference
from storage_schemas.identity import digest
from storage_schemas.kinds.classes import SIGNAL_CLASSES, classes_layout
from storage_schemas.kinds.collinearity import collinearity_layout
from storage_schemas.kinds.comparisons import comparisons_layout
from storage_schemas.kinds.coordinates import stimulus_coords
from storage_schemas.kinds.layouts import Layout
from storage_schemas.kinds.responses import responses_layout
from storage_schemas.kinds.scores import (
    BEYOND_MEASURES,
    SINGLE_MEASURES,
    DrawnTargets,
    scores_layout,
)
from storage_schemas.protocol import attempts
from storage_schemas.protocol.commit import commit
from storage_schemas.protocol.new_store import NewStore
from storage_schemas.protocol.seal import seal
from storage_schemas.protocol.store import Store
from storage_schemas.runs.run import create_run, record_stores
from storage_schemas.sources import BEYOND, source_of

LAYERS = [("l1", 0.5), ("l2", 0.6), ("l3", 0.7), ("l4", 0.8), ("l5", 0.9), ("l6", 1.0)]
REGIONS = ["V1", "V2", "V3", "V4", "LO", "FFA"]
LADDER = ("V1", "V2", "V3", "V4", "FFA")
SIGNALS = [
    *("forward", "gradient:energy", "unique:energy"),
    *("unique:baseline", "unique:forward"),
]
WINDOWS = [(f"w{i}", 0.1 * i - 0.05, 0.1 * i + 0.05) for i in range(1, 10)]
"""Centres 0.1, 0.2, ... 0.9 s; the search window ends before the last."""
EARLY_WINDOW = ("w0", -0.05, 0.05)
"""A window that only the first MEG subject has."""
TIMES = [0.1 * i for i in range(8)]
N_STIMULI, N_FOLDS, N_BOOTSTRAP, N_PERMUTATIONS = 300, 2, 4, 119
DRAWN = DrawnTargets(n_null=99, shares=(0.02, 0.08, 0.25, 0.6), n_tunings=2)
NO_ROOM = "the baseline has 600 components, too many for 150 training stimuli"

Profile = Mapping[str, float]
"""r by layer; in layers that are not named 0.2, or 0.02 beyond the baseline."""


@dataclass(frozen=True)
class Voxel:
    """A voxel, with its profile as it is and beyond the baseline."""

    roi: str
    hemisphere: str
    xyz: tuple[float, float, float]
    r: Profile
    beyond: Profile


@dataclass(frozen=True)
class Fmri:
    """One person in the scanner; `higher` permutations exceed the largest r beyond the baseline."""

    voxels: Sequence[Voxel]
    higher: int = 0


@dataclass(frozen=True)
class Meg:
    """One person in the MEG: peak latency of each layer in s, None without a peak.

    `replicates` are those of the bootstrap, by signal; signals that are not listed repeat what was
    observed.
    """

    peaks: Mapping[str, Sequence[float | None]]
    replicates: Mapping[str, Sequence[Sequence[float | None]]] = field(default_factory=dict)
    windows: Sequence[tuple[str, float, float]] = tuple(WINDOWS)
    higher: int = 0


LAST = {"l6": 0.6, "l5": 0.5}


def simple(*places: tuple[str, str | None, str | None]) -> Fmri:
    """One voxel a region in the left hemisphere, 10 mm apart: region, best layer alone and beyond.

    What prefers l6, which is no layer of the gradient, has l5 next.
    """
    return Fmri(
        [
            Voxel(
                roi,
                "L",
                (10.0 * REGIONS.index(roi), 0, 0),
                LAST if of_r == "l6" else {of_r: 0.6} if of_r else {},
                {of_beyond: 0.08} if of_beyond else {},
            )
            for roi, of_r, of_beyond in places
        ]
    )


FIRST = Fmri(
    [
        Voxel("V1", "L", (0, 3, 0), {"l1": 0.6}, {"l1": 0.08}),
        Voxel("V1", "L", (0, -3, 0), {"l2": 0.5}, {"l1": 0.07}),
        # z = 2.2 of its best layer: significant but for the correction for six layers.
        Voxel("V1", "R", (100, 0, 0), {"l6": 0.22}, {"l5": 0.03}),
        Voxel("V2", "L", (10, 0, 0), {"l2": 0.6}, {"l2": 0.08}),
        Voxel("V2", "R", (100, 15, 0), {"l2": 0.6}, {"l2": 0.08}),
        Voxel("V3", "L", (20, 0, 0), {"l3": 0.6, "l4": 0.4}, {"l3": 0.08, "l4": 0.05}),
        Voxel("V4", "L", (30, 0, 0), {"l4": 0.6}, {"l4": 0.08}),
        Voxel("LO", "L", (40, 0, 0), {"l5": 0.6}, {"l5": 0.08}),
        Voxel("FFA", "L", (50, 0, 0), LAST, {"l5": 0.03}),
    ]
)
SECOND = simple(
    ("V1", "l1", "l1"),
    ("V2", "l2", "l2"),
    ("V3", "l3", "l3"),
    ("V4", "l4", "l4"),
    ("LO", "l6", "l5"),
    ("FFA", "l5", "l5"),
)
RISING, FALLING = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7), (0.6, 0.5, 0.4, 0.3, 0.2, None)


OPTIONS = CompareOptions(
    search_window=(0.0, 0.85),
    ladders={"ventral": LADDER},
    seed_region="V1",
    significance=0.05,
    smallest_effect=0.5,
    folds=N_FOLDS,
    seed=0,
)


@dataclass(frozen=True)
class HandMade:
    """The study.

    `cka`: by source and stimulus set, entries above the diagonal that are not 0.5. `alike`: how
    well targets that another layer drives are predicted, as a share of those of the own layer.
    `controls`: permutations that exceed what the controls add to the baseline, `of_controls`.
    `no_room`: people (with all of their group) whom the baseline leaves too few stimuli.
    """

    fmri: Mapping[str, Fmri] = field(
        default_factory=lambda: {"01": FIRST, "02": Fmri(SECOND.voxels, higher=1)}
    )
    meg: Mapping[str, Meg] = field(
        default_factory=lambda: {
            "01": Meg(
                {"forward": RISING, "gradient:energy": FALLING, "unique:energy": FALLING},
                {
                    "forward": [
                        RISING,
                        (0.3, 0.2, 0.4, 0.5, 0.6, 0.7),
                        (0.2, 0.3, 0.4, 0.5, 0.7, 0.6),
                        (None, None, 0.4, 0.5, 0.6, 0.7),
                    ],
                    "unique:energy": [FALLING, FALLING, (0.6, 0.5, 0.3, 0.4, 0.2, None), FALLING],
                },
                windows=(EARLY_WINDOW, *WINDOWS),
            ),
            "03": Meg(
                {
                    "forward": (0.2, None, 0.4, 0.5, 0.7, 0.6),
                    "gradient:energy": FALLING,
                    "unique:energy": FALLING,
                },
                {
                    "forward": [
                        (0.2, None, 0.4, 0.5, 0.7, 0.6),
                        (0.2, None, 0.4, 0.5, 0.6, 0.7),
                        (0.3, None, 0.2, 0.5, 0.7, 0.6),
                        (0.2, None, 0.4, 0.5, 0.7, 0.6),
                    ]
                },
            ),
        }
    )
    classes: Sequence[str] = ("ok", "ok", "ok", "ok", "ok", "identical_to_forward")
    cka: Mapping[str, Sequence[Mapping[tuple[int, int], float]]] = field(
        default_factory=lambda: {
            # Layers 5 and 6 of the gradient are alike, but the sixth does not enter.
            "forward": [{}, {}],
            "gradient:energy": [{(4, 5): 0.999}, {(0, 5): 0.99}],
        }
    )
    options: CompareOptions = OPTIONS
    fold_rule: str = "stimulus"
    permute_within: str = "session"
    alike: float = 0.25
    controls: int = 60
    of_controls: float = 0.03
    no_room: Sequence[str] = ()

    def write(self, root: Path) -> list[Store]:
        """Write all stores, the comparisons last and empty."""
        responses = {
            (subject, modality): _responses(root, subject, modality, person)
            for modality, people in (("fmri", self.fmri), ("meg", self.meg))
            for subject, person in people.items()
        }
        # Two groups of people, as if the second had seen other stimuli.
        groups = [
            [key for key in responses if (key[0] == "01") == first] for first in (True, False)
        ]
        groups = [group for group in groups if group]
        beyond = [BEYOND + name for name in ("gradient:energy", "baseline", "forward")]
        bands = ["forward", "gradient:energy", *beyond]
        scores = {b: [self._scores(root, b, group) for group in groups] for b in bands}
        classes = _fill(
            root,
            "prepare",
            "classes",
            "tiny-gradient-energy",
            classes_layout(LAYERS),
            {"signal_class": np.array(list(map(SIGNAL_CLASSES.index, self.classes)), np.int8)},
            {"model": "tiny", "source": "gradient:energy"},
        )
        cka = {
            source: [_collinearity(root, source, i, entries) for i, entries in enumerate(sets)]
            for source, sets in self.cka.items()
        }
        spec = ComparisonsSpec(
            scores={name: tuple(map(_reference, stores)) for name, stores in scores.items()},
            classes={"gradient:energy": _reference(classes)},
            collinearity={name: tuple(map(_reference, stores)) for name, stores in cka.items()},
            responses=tuple(map(_reference, responses.values())),
            options=self.options,
        )
        layout = comparisons_layout(
            SIGNALS,
            LAYERS,
            REGIONS,
            ["distance", "ventral"],
            list(self.fmri),
            list(self.meg),
            WINDOWS if self.meg else [],
        )
        attrs = {"model": "tiny", "control": False}
        new = NewStore("compare", "comparisons", "tiny", spec.canonical(), layout, attrs)
        comparisons = Store.create(root, new)
        of_encode = [store for stores in (*scores.values(), *cka.values()) for store in stores]
        return [classes, *responses.values(), *of_encode, comparisons]

    def _scores(self, root: Path, bands: str, group: Sequence[tuple[str, str]]) -> Store:
        parts = [self._of_person(bands, *key) for key in group]
        values, bootstrap, permutation = (
            np.concatenate([part[i] for part in parts], axis=-1) for i in range(3)
        )
        beyond, judged = bands.startswith(BEYOND), bands == f"{BEYOND}gradient:energy"
        measures = BEYOND_MEASURES if beyond else SINGLE_MEASURES
        arrays = {
            "scores": _measures(measures, values),
            "permutation": np.moveaxis(permutation, 0, 1),
        }
        if bootstrap.size:
            arrays["bootstrap"] = np.moveaxis(bootstrap, 0, 1)
        if judged:
            arrays |= {"null": _null(), "simulated": _simulated(self.alike)}
        facts: dict[str, Any] = {"constant_targets": 1}
        if beyond:
            facts["baseline"] = {"columns": 800, "components": 60, "kept": 0.9991}
            facts["baseline"]["learned"] = False
        if beyond and any(subject in self.no_room for subject, _ in group):
            arrays = {name: np.full_like(array, np.nan) for name, array in arrays.items()}
            facts = {"baseline": {"columns": 9000, "components": 600, "kept": 0.9991}}
            facts["baseline"]["untested"] = NO_ROOM
        names = [_names(self, *key) for key in group]
        coords = stimulus_coords(_STIMULI, _DIGESTS) | {
            f"stimulus_{part}": ("stimulus", np.arange(N_STIMULI) % 2) for part in ("fold", "block")
        }
        layout = scores_layout(
            LAYERS,
            coords,
            measures=measures,
            n_folds=N_FOLDS,
            n_targets=values.shape[-1],
            n_summaries=permutation.shape[-1],
            n_resampled=bootstrap.shape[-1],
            n_bootstrap=N_BOOTSTRAP,
            n_permutations=N_PERMUTATIONS,
            drawn=DRAWN if judged else None,
        )
        attrs = {
            "model": "tiny",
            "bands": bands,
            "fold_rule": self.fold_rule,
            "permute_within": self.permute_within,
            "groups": _groups(group, [part[0].shape[-1] for part in parts], [(None, None)] * 9),
            "summary_groups": _groups(group, [part[2].shape[-1] for part in parts], names),
        }
        label = f"tiny-{bands}-{group[0][0]}".replace(":", "-").replace("+", "-")
        stored = {name: array.astype(np.float32) for name, array in arrays.items()}
        return _fill(root, "encode", "scores", label, layout, stored, attrs, facts)

    def _of_person(
        self, bands: str, subject: str, modality: str
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores of one person's targets, and of the summaries in both kinds of resamples."""
        source = source_of(bands)
        name = f"unique:{source.partition(':')[2] or source}" if BEYOND in bands else bands
        if name in ("unique:baseline", "unique:forward"):
            gradient = self._of_person("gradient:energy", subject, modality)
            return _of_control(*gradient, self.controls, self.of_controls)
        if modality == "fmri":
            return _fmri_scores(self.fmri[subject], name)
        return _meg_scores(self.meg[subject], name)


_STIMULI = [f"{i:03d}.png" for i in range(N_STIMULI)]
_DIGESTS = [f"{i:064x}" for i in range(N_STIMULI)]


def _fmri_scores(person: Fmri, signal: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voxels' scores (n_layers, n_voxels), and region means permuted, (n, n_layers, n_regions).

    The bootstrap between them has no column.
    """
    unique = signal.startswith("unique")
    base = 0.02 if unique else 0.2
    values = np.full((len(LAYERS), len(person.voxels)), base)
    for column, voxel in enumerate(person.voxels):
        for layer, score in (voxel.beyond if unique else voxel.r).items():
            values[[name for name, _ in LAYERS].index(layer), column] = score
    sites = [f"{v.roi}:{v.hemisphere}" for v in person.voxels]
    means = [values[:, np.array(sites) == site].mean(axis=1) for site in sorted(set(sites))]
    bootstrap = np.zeros((N_BOOTSTRAP + 1, len(LAYERS), 0))
    permutation = np.full((N_PERMUTATIONS + 1, len(LAYERS), len(means)), 0.01)
    # The largest is 0.06: three quarters of a voxel's largest.
    permutation[0] = np.stack(means, axis=1) * (0.75 if unique else 0.1)
    permutation[1:, 1] = 0.05
    if signal == "forward":
        permutation[1:] *= 0.1  # no noise leaves open which layer a region prefers
    permutation[1::2] *= -1  # the mean of scores of noise is 0
    permutation[1 : 1 + person.higher, 3, 1] = 0.065
    return values, bootstrap, permutation


def _meg_scores(person: Meg, signal: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three sensors: the first two see 1.2 and 0.8 times the layer's curve, the third nothing."""
    observed = person.peaks[signal]
    replicates = person.replicates.get(signal, [observed] * N_BOOTSTRAP)
    curves = [_curves(observed, person.windows), *(_curves(r, person.windows) for r in replicates)]
    seen = np.stack(curves)[:, :, None] * np.array([1.2, 0.8, 0])[:, None] + np.array(
        [[0], [0], [0.02]]
    )
    null = np.full((N_PERMUTATIONS + 1, *seen.shape[1:]), 0.15)
    null[0] = seen[0]
    null[1 : 1 + person.higher] = 2.0
    flat = [array.reshape(*array.shape[:2], -1) for array in (seen, null)]
    return np.full((len(LAYERS), 3 * len(TIMES)), 0.3), flat[0], flat[1]


def _curves(
    peaks: Sequence[float | None], windows: Sequence[tuple[str, float, float]]
) -> np.ndarray:
    """Return 0.5 at each layer's peak and 0.1 elsewhere; 0 for a layer without one.

    Layer 3 keeps 96 % of its peak in the next window, layer 5 is at 60 % in the one before.
    """
    curves = np.full((len(peaks), len(windows)), 0.1)
    first = next(i for i, window in enumerate(windows) if window[0] == "w1")
    for layer, peak in enumerate(peaks):
        if peak is None:
            curves[layer] = 0
            continue
        at = first + round(peak * 10) - 1
        curves[layer, at] = 0.5
        if layer == 2:
            curves[layer, at + 1] = 0.48
        if layer == 4 and at > first:
            curves[layer, at - 1] = 0.3
    # Neither a window that others lack nor one after the search window has a say.
    curves[:, :first] = 0.9
    curves[:, -1] = 0.8
    return curves


def _of_control(
    values: np.ndarray, bootstrap: np.ndarray, permutation: np.ndarray, higher: int, observed: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores of a control: what was observed, and above it in some permutations."""
    null = np.full_like(permutation, 0.01)
    null[0] = observed
    null[1 : 1 + higher, 2, 0] = observed + 0.01
    return np.full_like(values, 0.02), np.full_like(bootstrap, observed), null


def _null() -> np.ndarray:
    """Return scores of noise, (layer, draw): at most 0.05, but in l6, which does not enter."""
    null = np.full((len(LAYERS), DRAWN.n_null), 0.01)
    null[1], null[5] = 0.05, 0.9
    return null


def _simulated(alike: float) -> np.ndarray:
    """Return scores of driven targets, (layer, share, driver, tuning): the own layer is best."""
    n = len(LAYERS)
    of_layers = np.where(np.eye(n, dtype=bool), 1.0, alike)
    of_layers[5], of_layers[:, 5] = 9, 9  # l6 does not enter
    height = np.array([0.02, 0.05, 0.1, 0.2])
    scores = of_layers[:, None, :] * height[:, None]
    return np.repeat(scores[..., None], DRAWN.n_tunings, axis=-1)


def _measures(names: Sequence[str], values: np.ndarray) -> np.ndarray:
    """Return (layer, measure, fold, target): r lies 0.04 above and below its mean in the two folds.

    7 in the other measures.
    """
    r = np.stack([values - 0.04, values + 0.04], axis=1)
    return np.stack([r if name == "r" else np.full_like(r, 7) for name in names], axis=1)


def _names(study: HandMade, subject: str, modality: str) -> tuple[list[str], Any]:
    if modality == "meg":
        return ["MEG 1", "MEG 2", "MEG 3"], list(study.meg[subject].windows)
    voxels = study.fmri[subject].voxels
    return sorted({f"{v.roi}:{v.hemisphere}" for v in voxels}), None


def _groups(
    group: Sequence[tuple[str, str]], sizes: Sequence[int], names: Sequence[tuple[Any, Any]]
) -> list[dict[str, Any]]:
    entries, start = [], 0
    for (subject, modality), size, (own, windows) in zip(group, sizes, names, strict=False):
        entry = {"subject": subject, "modality": modality, "start": start, "stop": start + size}
        entries.append(entry | {"names": own, "windows": windows})
        start += size
    return entries


def _responses(root: Path, subject: str, modality: str, person: Fmri | Meg) -> Store:
    rng = np.random.default_rng(0)
    if isinstance(person, Fmri):
        sites = [(v.roi, v.hemisphere, *v.xyz, i, i, i) for i, v in enumerate(person.voxels)]
        names = ("roi", "hemisphere", *"xyz", *"ijk")
        units = {axis: {"units": "mm"} for axis in "xyz"}
        columns = [list(column) for column in zip(*sites, strict=True)]
        targets = xr.Dataset(
            coords={
                name: ("voxel", np.array(c, object if name in names[:2] else None), units.get(name))
                for name, c in zip(names, columns, strict=True)
            },
            attrs={"volume_shape": [9, 9, 9], "affine": np.eye(4).ravel().tolist()},
        )
        for axis in "xyz":
            targets[axis] = targets[axis].astype(float)
        dims: tuple[str, ...] = ("voxel",)
    else:
        places = {f"sensor_{axis}": ("sensor", np.arange(3.0), {"units": "m"}) for axis in "xyz"}
        targets = xr.Dataset(
            coords={
                "sensor": ("sensor", ["MEG 1", "MEG 2", "MEG 3"]),
                **places,
                "sensor_type": ("sensor", ["mag"] * 3),
                "sensor_loc": (("sensor", "loc"), np.zeros((3, 12))),
                "time": ("time", np.array(TIMES), {"units": "s"}),
            }
        )
        dims = ("sensor", "time")
    recipe = {"images": 4, "pool": "session"} if isinstance(person, Fmri) else None
    layout = responses_layout(_STIMULI, _DIGESTS, [""] * N_STIMULI, targets, dims, recipe)
    shapes = {array.name: array.shape for array in layout.arrays}
    arrays = {
        "responses": rng.standard_normal(shapes["responses"]).astype(np.float32),
        "n_repeats": np.full(N_STIMULI, 4, np.float32),
        "target_repeats": np.full(shapes["ncsnr"], 4, np.float32),
        "ncsnr": np.full(shapes["ncsnr"], 1, np.float32),
    }
    if recipe is not None:
        arrays["ncsnr_owners"] = np.full(shapes["ncsnr"], 0.5, np.float32)
    attrs = {"subject": subject, "modality": modality, **targets.attrs}
    facts = {"n_nan_targets": 0, "n_constant_targets": 1, "without_data": {"ses-02": 2}}
    label = f"{subject}-{modality}"
    return _fill(root, "ingest", "responses", label, layout, arrays, attrs, facts)


def _collinearity(
    root: Path, source: str, number: int, entries: Mapping[tuple[int, int], float]
) -> Store:
    cka = np.where(np.eye(len(LAYERS), dtype=bool), 1.0, 0.5)
    for (i, j), value in entries.items():
        cka[i, j] = cka[j, i] = value
    label = f"cka-{source.replace(':', '-')}-{number}"
    attrs = {"model": "tiny", "source": source}
    return _fill(
        root, "encode", "collinearity", label, collinearity_layout(LAYERS), {"cka": cka}, attrs
    )


def _fill(
    root: Path,
    stage: str,
    kind: str,
    label: str,
    layout: Layout,
    arrays: Mapping[str, np.ndarray],
    attrs: dict[str, Any],
    facts: Mapping[str, Any] | None = None,
) -> Store:
    """Create a store, commit each unit's share of the arrays, and seal it; once if all is equal."""
    content = {name: array.tobytes().hex() for name, array in arrays.items()}
    spec = {"label": label, "content": digest([content, attrs, dict(facts or {})])}
    store = Store.create(root, NewStore(stage, kind, label, spec, layout, attrs))
    if store.sealed():
        return store
    for unit in store.units:
        attempt = attempts.begin(store, unit, job="test", round_=0)
        assert attempt is not None
        own = {
            name: arrays[name][tuple(slice(start, stop) for start, stop in region)]
            for name, region in unit.regions.items()
        }
        commit(store, unit, own, dict(facts or {}), attempt)
        attempt.finish("committed")
    seal(store)
    return store


def _reference(store: Store) -> Reference:
    reference = Reference.of(store)
    assert reference is not None
    return reference


@pytest.fixture(scope="session")
def hand_made() -> HandMade:
    """The study as it stands above; `dataclasses.replace` makes others of it."""
    return HandMade()


@pytest.fixture(scope="session")
def compare(tmp_path_factory: pytest.TempPathFactory) -> Callable[[HandMade], Path]:
    """Write a study's stores and compare them as a task does; return the folder of the run.

    All studies share one store root, so that what they have in common is written once.
    """
    root = tmp_path_factory.mktemp("stores")

    def run(study: HandMade) -> Path:
        folder = tmp_path_factory.mktemp("run")
        stores = study.write(root)
        item = [(stores[-1].reference, 0)]
        failed: list[str] = []
        run_items(
            [item],
            root=root,
            job="test",
            round_=0,
            micro_batch=1,
            threads=1,
            report=lambda outcome: failed.append(outcome.traceback or ""),
        )
        assert failed == [""]
        seal(stores[-1])
        create_run(folder, "by hand", root)
        for stage in ("prepare", "ingest", "encode", "compare"):
            own = [store for store in stores if store.path.parent.name == stage]
            record_stores(folder, stage, own)
        (folder / "study.yaml").write_text("name: by hand\n")
        return folder

    return run
