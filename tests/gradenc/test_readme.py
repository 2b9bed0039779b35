"""The README's Python, run as a user types it, on a small study in place of the demo."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import gradenc as ge
from jobs.spec import STAGES

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def demo(
    finished: ge.Run, small_data: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Stand in for the demo's folder: its study and its run, of other images."""
    study = tmp_path / "demo" / "study"
    study.mkdir(parents=True)
    (study / "study.yaml").write_text(yaml.safe_dump(small_data))
    for name in ("stimuli", "bids", "meg"):
        (study / name).symlink_to(Path(small_data["stimuli"]).parent / name)
    (tmp_path / "demo" / "run").symlink_to(finished.folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_python_block_of_the_readme_runs(
    demo: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert capfd.readouterr() == ("", "")
    assert names["plan"].index.tolist() == list(STAGES)
    assert (names["plan"].units > 0).all()
    features = names["features"]
    assert set(features.data_vars) == {"forward", "gradient:energy"}
    assert names["ridge"].coef_.shape == (names["betas"].sizes["voxel"], 64)
    assert (demo / "deepest.nii.gz").stat().st_size
