"""Folds and permutations follow the study's rules, from NIfTI and FIF files to the scores."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gradenc_core.planted.recordings import write_bids_subject, write_epochs_subject
from gradenc_core.ridge.factorise import factorise
from gradenc_core.ridge.resample import permutation_scores, permutations
from hpc.plan.stages import all_plans
from hpc.study.resolve import resolve
from hpc.study.study import StudyError, load_study
from jobs.recorded import Recorded
from jobs.spec import ScoresSpec
from storage_schemas.protocol.store import Store
from storage_schemas.results.open import open_run
from storage_schemas.runs.run import run_stores

N_STIMULI, N_CATEGORIES, N_FOLDS = 24, 8, 3
FMRI_SESSION = np.repeat([0, 1, 2], [10, 10, 4])
"""Session in which sub-01 saw each stimulus twice; 2: once in each."""
MEG_SESSION = np.arange(N_STIMULI) % 2
"""Session in which sub-02 saw each stimulus twice."""


def write_recordings(folder: Path, names: list[str], fmri_session: np.ndarray) -> None:
    """Write single presentations whose level drifts from session to session."""
    rng = np.random.default_rng(0)
    shown: list[list[str]] = [[], []]
    for name, session in zip(names, fmri_session, strict=True):
        for repeat in range(2):
            shown[repeat if session == 2 else session].append(name)
    sessions = [
        (level + rng.standard_normal((len(own), 4)).astype(np.float32), own)
        for level, own in zip((0, 5), shown, strict=True)
    ]
    ijk = np.array([[i, j, 0] for i in range(2) for j in range(2)])
    regions, sides = ["V1", "V1", "V2", "V2"], ["L"] * 4
    write_bids_subject(
        folder / "bids", "sub-01", sessions, ijk, regions, sides, np.diag([2, 2, 2, 1]), (2, 2, 1)
    )
    trials, numbers = names * 2, np.tile(MEG_SESSION, 2)
    data = rng.standard_normal((len(trials), 3, 7)) + 5 * numbers[:, None, None]
    write_epochs_subject(
        folder / "meg",
        "sub-02",
        1e-13 * data.astype(np.float32),
        trials,
        20.0,
        0.0,
        rng.uniform(-0.1, 0.1, (3, 3)),
        [int(number) + 1 for number in numbers],
    )


@pytest.fixture(scope="module")
def folder(small_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, recordings and categories."""
    folder = tmp_path_factory.mktemp("rules")
    (folder / "stimuli").mkdir()
    names = sorted(path.name for path in (small_files / "stimuli").glob("*.png"))[:N_STIMULI]
    for name in names:
        shutil.copy(small_files / "stimuli" / name, folder / "stimuli")
    write_recordings(folder, names, FMRI_SESSION)
    rows = [f"{name},concept {i % N_CATEGORIES}" for i, name in enumerate(names)]
    (folder / "categories.csv").write_text("\n".join(["stimulus,category", *rows]))
    return folder


def study_file(folder: Path, **encoding: object) -> Path:
    """Write a study of the folder's files."""
    data = {
        "name": "rules",
        "stimuli": str(folder / "stimuli"),
        "models": [
            {
                "name": "small",
                "library": "torchvision",
                "architecture": "resnet18",
                "weights": "untrained",
                "image_size": 32,
            }
        ],
        "layers": ["layer3.1", "layer4.1"],
        "signals": ["forward"],
        "projection": 8,
        "categories": "categories.csv",
        "responses": [
            {"reader": "bids", "path": "bids", "normalise": "none"},
            {"reader": "epochs", "path": "meg", "normalise": "none"},
        ],
        "encoding": {
            "folds": N_FOLDS,
            "fold_rule": "keep_categories",
            "blocks": 2,
            "bootstrap": 2,
            "permutations": 9,
            "windows": {"start": 0.0, "stop": 0.3, "width": 0.1, "step": 0.1},
            **encoding,
        },
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in data.items() if v is not None}))
    return path


def stores(run: Path, stage: str, kind: str) -> list[Store]:
    return [store for store in run_stores(run, stage) if store.kind == kind]


@pytest.fixture(scope="module")
def finished(folder: Path, run_here: Callable[[Path, Path], Any]) -> Path:
    path: Path = run_here(study_file(folder), folder / "run").path
    return path


def test_a_category_is_scored_in_one_fold_and_resampled_in_one_block(
    finished: Path, folder: Path
) -> None:
    rows = (folder / "categories.csv").read_text().splitlines()[1:]
    category = dict(row.split(",") for row in rows)
    (store,) = stores(finished, "encode", "scores")
    coords = store.dataset().coords
    places = zip(
        (category[name] for name in coords["stimulus"].values),
        coords["stimulus_fold"].values.tolist(),
        coords["stimulus_block"].values.tolist(),
        strict=True,
    )
    assert len(set(places)) == N_CATEGORIES
    folds = coords["stimulus_fold"].values
    assert np.bincount(folds).tolist() == [9, 9, 6]


def test_the_rules_stand_beside_every_score(finished: Path) -> None:
    tree = open_run(finished)
    for path in ("scores/small/sub-01/fmri", "scores/small/sub-02/meg"):
        attrs = tree[path].attrs
        assert (attrs["fold_rule"], attrs["permute_within"]) == ("keep_categories", "session")
    sessions = tree["responses/sub-01/fmri"]["stimulus_session"].values.tolist()
    assert sessions == ["ses-01"] * 10 + ["ses-02"] * 10 + [""] * 4
    sessions = tree["responses/sub-02/meg"]["stimulus_session"].values.tolist()
    assert sessions == ["1", "2"] * 12


@pytest.mark.parametrize("within", ["session", "all"])
@pytest.mark.parametrize("moving", ["categories", "stimuli"])
def test_each_subject_is_permuted_by_whole_categories_within_its_own_sessions(
    finished: Path, within: str, moving: str
) -> None:
    """Both subjects' scores lie in one store, though their sessions differ."""
    (store,) = stores(finished, "encode", "scores")
    spec = ScoresSpec.model_validate(store.spec)
    recorded = Recorded.of(spec.responses, store, finished / "stores")
    (features,) = stores(finished, "extract", "features")
    data, encoding = store.dataset(), spec.encoding
    folds, categories = data["stimulus_fold"].values, data["stimulus_category"].values
    x = features.dataset()["features"].values
    sessions = [np.array(["ses-01", "ses-02", ""])[FMRI_SESSION], MEG_SESSION]
    for layer, stored in enumerate(data["permutation"].values):
        design = factorise(x[layer], folds, recorded.weights, encoding.ridge_options)
        parts = [
            permutation_scores(
                design,
                part,
                encoding.permutations,
                encoding.seed,
                groups if within == "session" else None,
                categories if moving == "categories" else None,
            )
            for part, groups in zip(recorded.summaries.parts, sessions, strict=True)
        ]
        found = np.allclose(stored, np.concatenate(parts, axis=1), atol=1e-6)
        assert found == (within == "session" and moving == "categories")


@settings(deadline=None)
@given(st.lists(st.sampled_from(["", "ses-01", "ses-02"]), min_size=1, max_size=40), st.integers(0))
def test_a_permutation_never_leaves_its_session(sessions: list[str], seed: int) -> None:
    own = np.array(sessions)
    orders = permutations(len(own), 5, seed % 2**32, own)
    assert (own[orders] == own).all()
    assert (np.sort(orders, axis=1) == np.arange(len(own))).all()


def planned(path: Path) -> dict[str, xr.Dataset]:
    """Return the coordinates of the planned scores by label."""
    study = load_study(path)
    plans = all_plans(study, *resolve(study))
    return {p.label: p.layout.coords for p in plans if p.kind == "scores"}


def test_folds_are_spread_over_every_category(folder: Path) -> None:
    (coords,) = planned(study_file(folder, fold_rule="spread_categories")).values()
    folds = coords["stimulus_fold"].values.reshape(-1, N_CATEGORIES)
    for category in folds.T:
        assert sorted(category.tolist()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "encoding", "message"),
    [
        (None, {"fold_rule": "stimulus"}, r"categories: given .*; accepted: null, or set encoding"),
        (None, {"alpha_choice": "gcv"}, r"alpha_choice: given .*gcv.*; accepted with fold_rule k"),
        (None, {"folds": 5}, r"encoding.folds: given 5; .* at most half as many .* has 8"),
        ("stimulus,category\nno.png,a\n", {}, r"24 stimuli have none, such as (.|\n)*1 names are"),
        ("stimulus,label\n", {}, r"categories: given .* begin it with stimulus,category"),
        ("", {}, r"encoding.fold_rule: given .*keep_categories.*; accepted: stimulus, or name a"),
    ],
)
def test_categories_that_do_not_fit_are_refused(
    folder: Path, text: str | None, encoding: dict[str, object], message: str
) -> None:
    path = study_file(folder, **encoding)
    data = yaml.safe_load(path.read_text())
    if text is not None:
        (folder / "other.csv").write_text(text)
        data["categories"] = "other.csv" if text else None
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(StudyError, match=message):
        resolve(load_study(path))


def test_a_session_with_a_single_stimulus_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "stimuli", tmp_path / "stimuli")
    shutil.copy(folder / "categories.csv", tmp_path)
    names = sorted(path.name for path in (folder / "stimuli").iterdir())
    write_recordings(tmp_path, names, np.repeat([0, 2, 1], [1, 20, 3]))
    with pytest.raises(StudyError, match=r"sub-01-fmri: all, because only one .* ses-01 al"):
        planned(study_file(tmp_path, fold_rule="spread_categories"))
    assert planned(study_file(tmp_path, fold_rule="spread_categories", permute_within="all"))


def test_categories_too_unequal_to_change_places_are_refused(folder: Path) -> None:
    names = sorted(path.name for path in (folder / "stimuli").iterdir())
    sizes = np.repeat(np.arange(6), [1, 2, 3, 5, 6, 7])
    rows = [f"{name},{size}" for name, size in zip(names, sizes, strict=True)]
    (folder / "unequal.csv").write_text("\n".join(["stimulus,category", *rows]))
    path = study_file(folder, permute_within="all")
    path.write_text(path.read_text().replace("categories.csv", "unequal.csv"))
    with pytest.raises(StudyError, match="only 0 of 24 stimuli of sub-01-fmri are in such"):
        planned(path)
