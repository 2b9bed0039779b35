"""A study with a seeded objective, run: scores beside those divided by reliability."""

import base64
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from gradenc_core.compare.figures import stability
from gradenc_core.signals.sizes import N_PROTOTYPES
from gradenc_core.stimuli.generated import dead_leaves
from hpc.cli.app import app
from hpc.run.folder import RunFolder
from jobs.report.page import write_report
from storage_schemas import gather_scores, open_run
from storage_schemas.results.reliability import LEAST_RELIABILITY

SOURCE = "gradient:masked"


def gradenc(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def seeded(
    small_data: dict, run_here: Callable[..., RunFolder], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a finished run of a study whose gradients are averaged over seeded masks."""
    folder = tmp_path_factory.mktemp("seeded")
    (folder / "bank").mkdir()
    rng = np.random.default_rng(0)
    for number in range(N_PROTOTYPES):
        Image.fromarray(dead_leaves(rng, 32)).save(folder / "bank" / f"{number}.png")
    vit = {"name": "vit", "library": "timm", "architecture": "test_vit", "image_size": 64}
    changes = {
        "models": [vit | {"weights": "untrained"}],
        "layers": ["blocks.0", "blocks.3"],
        "objectives": ["masked"],
        "bank": "bank",
        # A random network's gradients predict little: let some voxels be selected by them.
        "comparisons": {"significance": 0.5},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(small_data | changes))
    return run_here(folder / "study.yaml", folder / "run").path


def test_scores_are_shown_raw_and_divided(seeded: Path, tmp_path: Path) -> None:
    tree = open_run(seeded)
    reliability = tree[f"stability/vit/{SOURCE}"]["reliability"].values
    assert ((reliability > LEAST_RELIABILITY) & (reliability < 0.99)).all()
    for leaf in (tree["scores/vit/sub-01/fmri"], tree["scores/vit/sub-02/meg"]):
        scores = leaf.to_dataset().load()
        divisor = np.sqrt(reliability).reshape(2, *[1] * (scores["r"].ndim - 2))
        of_r, of_u = (scores.sel(bands=b) for b in (SOURCE, f"baseline+{SOURCE}"))
        np.testing.assert_allclose(of_r["r_disattenuated"], of_r["r"] / divisor, rtol=1e-6)
        divisor = reliability.reshape(2, *[1] * (scores["unique"].ndim - 2))
        np.testing.assert_allclose(of_u["unique_disattenuated"], of_u["unique"] / divisor)
        np.testing.assert_array_equal(
            *(scores[name].sel(bands="forward") for name in ("r", "r_disattenuated"))
        )
    gathered = gather_scores(tree, "fmri")
    np.testing.assert_array_equal(gathered["reliability"].sel(bands=SOURCE), reliability)
    where = ("--sel", f"bands={SOURCE}", "--to", tmp_path / "r.csv")
    gradenc("query", seeded, "scores:fmri", "--var", "r_disattenuated", *where)
    table = pd.read_csv(tmp_path / "r.csv").groupby("layer")["r_disattenuated"].mean()
    expected = gathered["r_disattenuated"].sel(bands=SOURCE).mean(["fold", "voxel"])
    np.testing.assert_allclose(table, expected, rtol=1e-5)


def test_stability_is_reached_by_query(seeded: Path) -> None:
    leaf = f"stability/vit/{SOURCE}"
    shown = gradenc("query", seeded, leaf, "--var", "cosine", "--sel", "perturbation=jpeg")
    assert "jpeg" in shown
    assert "shift" not in shown
    shown = gradenc("query", seeded, leaf, "--var", "reliability")
    for value in open_run(seeded)[leaf]["reliability"].values:
        assert f"{value:.6f}" in shown


def test_verdicts_and_raw_tables_do_not_know_reliability(seeded: Path) -> None:
    tables = open_run(seeded)["comparisons/vit"].to_dataset().load()
    (stored,) = (seeded / "stores" / "compare").glob("*/data.zarr")
    assert not list(stored.glob("*disattenuated*"))
    learning, controls = [SOURCE, "unique:masked"], ["unique:baseline", "unique:forward"]
    assert tables["signal"].values.tolist() == ["forward", *learning, *controls]
    assert (tables["reliability"].sel(signal=["forward", "unique:forward"]) == 1).all()
    assert (tables["reliability"].sel(signal=learning) < 1).all()
    for name in ("region_profile", "curve"):
        raw, divided = (tables[n].sel(signal=SOURCE) for n in (name, f"{name}_disattenuated"))
        assert np.isfinite(raw).any()
        assert (np.abs(divided) >= np.abs(raw)).values[np.isfinite(raw)].all()


def test_the_report_shows_both_in_a_browser(seeded: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    assert chromium, "no chromium: run `make browser` as root"
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom")
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    page = subprocess.run(
        [chromium, *flags, profile, (seeded / "report.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    captions = re.findall(r"<figcaption><b>(.*?)\.</b>", page)
    assert [name for name in captions if name.startswith("Layer by")] == [
        "Layer by region",
        "Layer by region, significant voxels",
        "Layer by region, divided by reliability",
        "Layer by time",
        "Layer by time, divided by reliability",
    ]
    assert captions[-1] == "Stability"
    drawn = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)
    assert len(drawn) == len(captions)
    assert b"<svg" in base64.b64decode(drawn[-1])


def test_layers_that_are_not_divided_are_counted(
    seeded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "layer(s) whose scores are not divided by reliability"
    assert said not in (seeded / "report.html").read_text()
    first, second = open_run(seeded)[f"stability/vit/{SOURCE}"]["reliability"].values
    monkeypatch.setattr("jobs.report.counts.LEAST_RELIABILITY", (first + second) / 2)
    write_report(seeded, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    layer, low = min(("blocks.0", first), ("blocks.3", second), key=lambda pair: pair[1])
    assert f"stability-vit-gradient-masked: 1 {said}" in page
    assert f"not known: {layer} ({low:.2f})<" in page


def test_the_figure_draws_every_number() -> None:
    cosines = np.linspace(0.5, 1, 12).reshape(2, 3, 2)
    reliability = np.array([[1, 1], [0.3, np.nan]])
    names = ["forward", SOURCE], ["shift", "noise", "jpeg"]
    figure = stability(cosines, reliability, np.array([0.5, 1]), *names)
    for axis, lines, seeded, source in zip(
        figure.axes, cosines, reliability, names[0], strict=True
    ):
        assert axis.get_title() == source
        drawn = [line.get_ydata() for line in axis.get_lines()]
        np.testing.assert_array_equal(drawn, [*lines, seeded])
