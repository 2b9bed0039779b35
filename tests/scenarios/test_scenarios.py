"""Planted studies told apart: real files in, the whole pipeline in this process, a verdict out.

A study takes one to two minutes. `make test` runs one brain of each kind: noise, activations alone,
backpropagation. `make test-long` runs the others as well; without them, `make test` tests their
brains (`tests/gradenc_core/planted`) and each verdict on hand-made tables (`tests/jobs/compare`).
"""

import time
from collections.abc import Callable
from functools import cache

import pytest
import yaml

from gradenc_core.compare.verdict import Verdict
from gradenc_core.planted.brain import Scenario
from gradenc_core.planted.study import write_planted_study
from gradenc_core.planted.truth import Sizes
from hpc.run.advance import create_stores, items, plan_stage
from hpc.run.folder import RunFolder
from hpc.run.start import start
from hpc.run.state import stage_state
from hpc.study.study import load_study
from jobs.runner import run_items
from jobs.spec import STAGES
from storage_schemas.protocol.commit import facts_of
from storage_schemas.protocol.seal import seal
from storage_schemas.protocol.store import Store

SIZES = Sizes(sensors=4, voxel_noise=0.5, sensor_noise=0.8)
N_STIMULI = 800
STUDY = {
    "name": "scenario",
    "stimuli": "stimuli",
    "unrecorded_images": {"generated": 3200},
    "models": [
        {
            "name": "planted",
            "library": "timm",
            "architecture": "lcnet_035",
            "weights": "untrained",
            "image_size": 64,
        }
    ],
    "layers": {"depths": 7},
    "objectives": ["energy"],
    "projection": 64,
    "responses": [{"reader": "bids", "path": "bids"}, {"reader": "epochs", "path": "meg"}],
    "encoding": {
        "alpha_choice": "gcv",
        "band_ratios": [0, 0.1, 1, 10],
        "bootstrap": 40,
        "permutations": 99,
        "windows": {"start": 0.0, "stop": 0.9, "width": 0.05, "step": 0.05},
    },
    "comparisons": {
        "search_window": [0.0, 0.9],
        "ladders": {"ventral": ["V1", "V2", "V3", "V4", "LO", "VO", "PHC", "FFA"]},
    },
    "extraction": {"stimuli_per_shard": 100},
}

NOT_A_CLAIM = {Verdict.NO_GRADIENT_SIGNAL, Verdict.UNDECIDED, Verdict.NOT_IDENTIFIABLE}
ALLOWED: dict[Scenario, set[Verdict]] = {
    "null_noise": {Verdict.NO_GRADIENT_SIGNAL},
    "null_order": {Verdict.UNDECIDED, Verdict.NOT_IDENTIFIABLE},
    "forward_only": {Verdict.NO_GRADIENT_SIGNAL},
    "deep_only": NOT_A_CLAIM,
    "plausible_backprop": {Verdict.BACKPROP_LIKE},
    # A control may forbid a claim.
    "misaligned": {Verdict.MISALIGNED, Verdict.UNDECIDED},
}
IN_EVERY_RUN: set[Scenario] = {"null_noise", "forward_only", "plausible_backprop"}
"""The others are marked `long`."""


def run_here(run: RunFolder) -> None:
    """Run all stages in this process; other processes may share the store root."""
    for stage in STAGES:
        stores = run.stores(stage) or create_stores(run, stage, plan_stage(run, stage))
        while not stage_state(run, stage, stores).complete:
            state = stage_state(run, stage, stores)
            assert not state.failures, state.failures
            run_items(items(state), root=run.root, job="test", round_=0, micro_batch=32, threads=1)
            time.sleep(0.05)
        for store in stores:
            seal(store)


Compared = Callable[[Scenario], Store]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """Return a function that writes and runs a planted study once, and returns its comparisons."""
    # Features do not depend on the brains: all scenarios share them through one store root.
    shared = tmp_path_factory.getbasetemp().parent / "scenario-stores"

    @cache
    def comparisons(scenario: Scenario) -> Store:
        folder = tmp_path_factory.mktemp(scenario)
        write_planted_study(folder, folder / "truth.json", scenario, 1, N_STIMULI, SIZES)
        study = STUDY | {"store_root": str(shared)}
        (folder / "study.yaml").write_text(yaml.safe_dump(study))
        run = start(load_study(folder / "study.yaml"), folder / "run")
        run_here(run)
        return run.stores("compare")[0]

    return comparisons


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(scenario, marks=() if scenario in IN_EVERY_RUN else pytest.mark.long)
        for scenario in ALLOWED
    ],
)
def test_verdict(scenario: Scenario, compared: Compared) -> None:
    store = compared(scenario)
    judgement = facts_of(store, store.units[0])["verdicts"]["unique:energy"]
    assert judgement["verdict"] in ALLOWED[scenario], judgement["sentence"]


def test_forward_hierarchy_is_found_where_it_is_planted(compared: Compared) -> None:
    tables = compared("forward_only").dataset().load()
    space = tables["spatial_interval"].sel(
        signal="forward",
        position="distance",
        resolution="voxel",
        kstar="argmax",
        correlation="pearson",
    )
    time_order = tables["temporal_interval"].sel(signal="forward", correlation="pearson")
    assert space.sel(bound="low") > 0.5
    assert time_order.sel(bound="low") > 0.3
