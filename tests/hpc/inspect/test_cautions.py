"""What the status and the report say of grids that are cut off, and of gradients that are zero."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from gradenc_core.planted.study import write_planted_study
from gradenc_core.planted.truth import Sizes
from hpc.cli.app import app
from hpc.run.folder import RunFolder
from jobs.report.cautions import cautions
from storage_schemas.protocol.store import Store

CLEAN = Sizes(fmri_subjects=1, meg_subjects=0, sessions=2, voxel_noise=0.2)
"""Recordings whose voxels are clearly predicted from 160 stimuli."""
N_STIMULI = 160
GRIDS = {
    "smallest": ({"low": 1e6, "high": 1e8, "count": 3}, "lower encoding.alphas.low"),
    "largest": ({"low": 0.1, "high": 1.0, "count": 3}, "raise encoding.alphas.high"),
    "neither": ({"low": 1e-2, "high": 1e8, "count": 11}, ""),
}


FORWARD = {"layers": ["layer2.0", "layer3.0"], "signals": ["forward"], "objectives": []}
VIT = {
    "models": [
        {
            "name": "vit",
            "library": "timm",
            "architecture": "test_vit",
            "weights": "untrained",
            "image_size": 32,
        }
    ],
    "layers": ["blocks.4", "blocks.5"],
    "objectives": ["energy"],
    "tokens": "cls",
}
"""The loss reads the patches of the last block, so its class token there has no gradient."""


@pytest.fixture(scope="module")
def clean_run(
    small_data: dict, run_here: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., RunFolder]:
    """Return a function that runs a study of clean recordings; runs share what they can."""
    folder = tmp_path_factory.mktemp("clean")
    write_planted_study(folder, folder / "truth.json", "plausible_backprop", 3, N_STIMULI, CLEAN)
    data = small_data | {
        "projection": 32,
        "stimuli": "stimuli",
        "responses": [{"reader": "bids", "path": "bids"}],
        "store_root": "stores",
    }

    def run(name: str, keys: dict, **encoding: object) -> RunFolder:
        changed = data | keys | {"encoding": data["encoding"] | encoding}
        (folder / "study.yaml").write_text(yaml.safe_dump(changed))
        return run_here(folder / "study.yaml", folder / name)

    return run


@pytest.mark.parametrize("which", GRIDS)
def test_a_grid_that_is_cut_off_is_warned_of_with_the_key_to_change(
    which: str, clean_run: Callable[..., RunFolder]
) -> None:
    run = clean_run(which, FORWARD, alphas=GRIDS[which][0])
    result = CliRunner().invoke(app, ["status", str(run.path), "--json"])
    assert result.exit_code == 0, result.output
    warnings = json.loads(result.stdout)["warnings"]
    page = run.report.read_text()
    if which == "neither":
        assert warnings == []
        assert "<b>Warning</b>" not in page
        return
    (said,) = warnings
    assert said.startswith("planted-forward-sub-01")
    assert f"chose the {which} ridge penalty; {GRIDS[which][1]}" in said
    assert page.index(said) < page.index("<h2>")


def test_a_gradient_that_is_zero_is_warned_of_after_prepare_and_has_no_scores(
    clean_run: Callable[..., RunFolder],
) -> None:
    run = clean_run("zero", VIT, alphas={"low": 1.0, "high": 1e8, "count": 9})
    (said,) = cautions(run.stores("prepare"))
    assert "the gradient is zero in blocks.5, which get no scores" in said
    assert said in run.report.read_text()
    scores = {s.attrs["bands"]: s.dataset().load() for s in run.stores("encode") if is_scores(s)}
    for bands in ("gradient:energy", "baseline+gradient:energy"):
        for name in ("scores", "permutation"):
            reached, zero = scores[bands][name].values
            assert np.isnan(zero).all(), (bands, name)
            assert np.isfinite(reached).any(), (bands, name)
    assert np.isfinite(scores["forward"]["scores"].sel(measure="r").values).all()
    # Only latencies need the bootstrap, so that of regions is not fitted.
    assert not any("bootstrap" in tables for tables in scores.values())


def is_scores(store: Store) -> bool:
    return store.kind == "scores"
