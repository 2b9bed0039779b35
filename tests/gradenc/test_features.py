"""Features in a notebook: the bytes that a study stores, labelled."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import gradenc as ge
from gradenc_core.models.model import VisionModel
from gradenc_core.signals.bank import generated_images
from gradenc_core.signals.sizes import N_PROTOTYPES
from gradenc_core.stimuli.images import Images
from jobs.bank import bank_images
from jobs.spec import BankImages

LAYERS = ["layer2.0", "layer4.0"]


@pytest.fixture(scope="module")
def model() -> VisionModel:
    return ge.load_model("torchvision", "resnet18", "untrained", image_size=64)


def test_features_are_the_bytes_that_a_study_stores(
    finished: ge.Run, stimuli: Images, model: VisionModel
) -> None:
    features = ge.extract(
        model,
        stimuli,
        ["forward", "gradient:dino"],
        layers=LAYERS,
        projection=16,
        bank=ge.read_images(finished.folder.parent / "bank"),
        micro_batch=16,
    )
    for source in ("forward", "gradient:dino"):
        stored = finished.results[f"features/planted/{source}"].to_dataset()
        ours = features[source].sel(stimulus=stored.stimulus.values)
        assert ours.values.tobytes() == stored["features"].values.tobytes()
        for name in ("layer", "layer_depth", "stimulus", "stimulus_digest"):
            assert ours[name].values.tolist() == stored[name].values.tolist()


def test_the_default_bank_shows_the_images_of_a_studys() -> None:
    study = bank_images(BankImages(n_images=3), {})
    ours = generated_images(3)
    for (name, image), (other, shown) in zip(study, ours, strict=True):
        assert name == other
        np.testing.assert_array_equal(np.asarray(image), np.asarray(shown))


def test_dino_compares_with_generated_images_where_no_bank_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = partial(generated_images, N_PROTOTYPES, 32)  # 1,024 of 128 pixels take most of a minute
    monkeypatch.setattr("gradenc.features.generated_images", few)
    for number, (_, image) in enumerate(few()):
        image.save(tmp_path / f"{number:03}.png")
    images = ge.read_images(tmp_path)
    model = ge.load_model("torchvision", "resnet18", "untrained", image_size=32)
    extract = partial(ge.extract, model, images[:2], "gradient:dino", micro_batch=8)
    drawn, named = extract(projection=None), extract(projection=None, bank=images)
    for name, found in drawn.items():
        # Views of a bank's images are keyed by their digests, which files have of their own: each
        # channel has another scale, and is the same but for it.
        x, y = found.values, named[name].values
        np.testing.assert_allclose(x * np.abs(y).max(0), y * np.abs(x).max(0), rtol=1e-4, atol=1e-7)


def test_sources_layers_and_stimuli_are_labelled(stimuli: Images, model: VisionModel) -> None:
    some = stimuli[:3]
    found = ge.extract(model, some, ["forward", "gradient:random"], projection=8, layers="layer?.0")
    assert found["forward"].dims == ("layer", "stimulus", "feature")
    assert found["gradient:random.9"].dims == ("layer", "stimulus", "gradient_feature")
    assert found.layer.values.tolist() == [f"layer{i}.0" for i in (1, 2, 3, 4)]
    assert found.layer_depth.values.tolist() == [1 / 8, 3 / 8, 5 / 8, 7 / 8]
    assert found.stimulus.values.tolist() == list(some.ids)
    assert found.attrs["architecture"] == "resnet18"
    assert found["gradient:random.0"].attrs["objective"] == "random.0"


def test_without_projection_there_is_a_variable_for_every_layer(
    stimuli: Images, model: VisionModel
) -> None:
    found = ge.extract(
        model, stimuli[:2], ["forward", "gradient:energy"], layers=LAYERS, projection=None
    )
    widths = {str(name): array.shape for name, array in found.data_vars.items()}
    assert widths == {
        "forward:layer2.0": (2, 128),
        "forward:layer4.0": (2, 512),
        "gradient:energy:layer2.0": (2, 129),
        "gradient:energy:layer4.0": (2, 513),
    }
    assert found["forward:layer4.0"].attrs["layer_depth"] == 7 / 8


@pytest.mark.parametrize("projection", [4, None])
def test_features_can_be_written_and_read_again(
    stimuli: Images, model: VisionModel, projection: int | None, tmp_path: Path
) -> None:
    sources = ["forward", "gradient:energy"]
    found = ge.extract(model, stimuli[:2], sources, layers=LAYERS, projection=projection)
    found.to_netcdf(tmp_path / "features.nc")
    xr.testing.assert_equal(xr.load_dataset(tmp_path / "features.nc"), found)
    found.to_zarr(tmp_path / "features.zarr", consolidated=False)
    xr.testing.assert_equal(xr.load_dataset(tmp_path / "features.zarr", consolidated=False), found)


def test_progress_hears_of_every_micro_batch_and_nothing_is_printed(
    stimuli: Images, model: VisionModel, capfd: pytest.CaptureFixture[str]
) -> None:
    heard: list[tuple[int, int]] = []
    ge.extract(
        model,
        stimuli[:5],
        layers=LAYERS,
        projection=4,
        micro_batch=2,
        progress=lambda done, total: heard.append((done, total)),
    )
    assert heard == [(2, 5), (4, 5), (5, 5)]
    assert capfd.readouterr() == ("", "")


def test_an_unknown_source_is_refused_by_name(stimuli: Images, model: VisionModel) -> None:
    with pytest.raises(ValueError, match="'gradient:dine' is not one of resnet18: use forward"):
        ge.extract(model, stimuli[:1], ["gradient:dine"])


def test_images_are_decoded_when_indexed_and_keep_their_names(stimuli: Images) -> None:
    assert stimuli[-1].size == (64, 64)
    assert stimuli[2:4].ids == stimuli.ids[2:4]
    mask = np.array([name.endswith("3.png") for name in stimuli.ids])
    assert stimuli[mask].digests == tuple(np.array(stimuli.digests)[mask])
    assert len(list(stimuli[:3])) == 3
