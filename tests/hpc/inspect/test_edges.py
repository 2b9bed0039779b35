"""A grid of penalties that is cut off: what the status and the report say of it."""

import json
from collections.abc import Callable

import pytest
import yaml
from typer.testing import CliRunner

from gradenc_core.planted.study import write_planted_study
from gradenc_core.planted.truth import Sizes
from hpc.cli.app import app
from hpc.run.folder import RunFolder

CLEAN = Sizes(fmri_subjects=1, meg_subjects=0, sessions=2, voxel_noise=0.2)
"""Recordings whose voxels are clearly predicted from 160 stimuli."""
N_STIMULI = 160
GRIDS = {
    "smallest": ({"low": 1e6, "high": 1e8, "count": 3}, "lower encoding.alphas.low"),
    "largest": ({"low": 0.1, "high": 1.0, "count": 3}, "raise encoding.alphas.high"),
    "neither": ({"low": 1e-2, "high": 1e8, "count": 11}, ""),
}


@pytest.fixture(scope="module")
def study_of_grid(
    small_data: dict, run_here: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], RunFolder]:
    """Return a function that runs a study with one of the grids; they share what they can."""
    folder = tmp_path_factory.mktemp("edges")
    write_planted_study(folder, folder / "truth.json", "plausible_backprop", 3, N_STIMULI, CLEAN)
    data = small_data | {
        "layers": ["layer2.0", "layer3.0"],
        "signals": ["forward"],
        "objectives": [],
        "projection": 32,
        "stimuli": "stimuli",
        "responses": [{"reader": "bids", "path": "bids"}],
        "store_root": "stores",
    }

    def run(which: str) -> RunFolder:
        encoding = data["encoding"] | {"alphas": GRIDS[which][0]}
        (folder / "study.yaml").write_text(yaml.safe_dump(data | {"encoding": encoding}))
        return run_here(folder / "study.yaml", folder / which)

    return run


@pytest.mark.parametrize("which", GRIDS)
def test_a_grid_that_is_cut_off_is_warned_of_with_the_key_to_change(
    which: str, study_of_grid: Callable[[str], RunFolder]
) -> None:
    run = study_of_grid(which)
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
