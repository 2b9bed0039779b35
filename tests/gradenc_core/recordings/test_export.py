import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import mne
import nibabel
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nibabel.affines import apply_affine
from nibabel.gifti.gifti import GiftiDataArray, GiftiImage, GiftiMetaData

from gradenc_core.planted.recordings import write_epochs_subject
from gradenc_core.recordings import bids, epochs
from gradenc_core.recordings import export as writers
from gradenc_core.recordings.export import to_evoked, write_gifti, write_nifti
from gradenc_core.stimuli.generated import write_images
from gradenc_core.stimuli.images import read_manifest

SHAPE = (4, 3, 2)
# Oblique and left-handed, without shears.
TURN = np.array([[-0.8, 0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
AFFINE = nibabel.affines.from_matvec(TURN * [2.0, 2.5, 3.0], [30, -20, 10])
SHEARED = np.array([[-2.0, 0, 0, 30], [0, 2, 0.5, -20], [0, 0, 1.8, 10], [0, 0, 0, 1]])
IJK = np.array([[3, 2, 1], [0, 0, 0], [1, 2, 0]])
VALUES = np.array([0.5, -1.25, np.nan], dtype=np.float32)


@pytest.fixture(scope="module")
def planted(small_files: Path) -> xr.Dataset:
    """Coordinates of the planted study's voxels."""
    manifest = read_manifest(small_files / "stimuli")
    subject = bids.list_subjects(small_files / "bids")[0]
    return bids.describe(small_files / "bids", subject, manifest).coords


def stack(coords: xr.Dataset, axes: str) -> np.ndarray:
    return np.stack([coords[axis].values for axis in axes], axis=1)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def save_surface(path: Path, vertices: np.ndarray, structure: str | None = "CortexLeft") -> Path:
    triangles = np.array([[0, 1, 2]], dtype=np.int32)
    meta = GiftiMetaData({"AnatomicalStructurePrimary": structure} if structure else {})
    arrays = [
        GiftiDataArray(vertices.astype(np.float32), "NIFTI_INTENT_POINTSET", meta=meta),
        GiftiDataArray(triangles, "NIFTI_INTENT_TRIANGLE"),
    ]
    nibabel.save(GiftiImage(darrays=arrays), path)
    return path


# NIfTI


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_planted_subject_goes_back_into_the_volume(planted, tmp_path: Path, suffix: str) -> None:
    ijk = stack(planted, "ijk")
    values = np.random.default_rng(0).normal(size=(len(ijk), 3)).astype(np.float32)
    path, names = tmp_path / "new" / f"sub-01{suffix}", ["forward", "gradient", "ü"]
    shape, affine = planted.attrs["volume_shape"], planted.attrs["affine"]
    write_nifti(path, values, ijk, shape, affine, names)
    image = nibabel.load(path)
    assert image.shape == (*shape, 3)
    assert image.get_data_dtype() == np.float32
    volume = image.get_fdata(dtype=np.float32)
    np.testing.assert_array_equal(volume[tuple(ijk.T)], values)
    assert np.isfinite(volume).sum() == values.size
    np.testing.assert_allclose(apply_affine(image.affine, ijk), stack(planted, "xyz"), atol=1e-3)
    sidecar = json.loads((tmp_path / "new" / "sub-01.json").read_text(encoding="utf-8"))
    assert sidecar == {"maps": names}
    assert leftovers(path.parent) == ["sub-01.json", f"sub-01{suffix}"]


def test_one_map_is_a_volume_of_3_axes(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", VALUES, IJK, SHAPE, AFFINE)
    write_nifti(tmp_path / "b.nii.gz", VALUES[:, None], IJK, SHAPE, AFFINE)
    assert nibabel.load(tmp_path / "a.nii.gz").shape == SHAPE
    assert nibabel.load(tmp_path / "b.nii.gz").shape == (*SHAPE, 1)
    assert json.loads((tmp_path / "a.json").read_text()) == {"maps": ["map 1"]}


def test_header_says_where_and_what(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", VALUES, IJK, SHAPE, AFFINE.ravel().tolist())
    header = nibabel.load(tmp_path / "a.nii.gz").header
    assert (header["sform_code"], header["qform_code"]) == (1, 1)
    np.testing.assert_allclose(header.get_sform(), AFFINE, atol=1e-5)
    np.testing.assert_allclose(header.get_qform(), AFFINE, atol=1e-3)
    assert header["descrip"].item().decode() == writers.DESCRIPTION
    assert header.get_xyzt_units()[0] == "mm"


def test_a_qform_that_cannot_hold_shears_is_not_believed(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", VALUES, IJK, SHAPE, SHEARED)
    image = nibabel.load(tmp_path / "a.nii.gz")
    assert (image.header["sform_code"], image.header["qform_code"]) == (1, 0)
    np.testing.assert_allclose(image.affine, SHEARED, atol=1e-5)


@st.composite
def volumes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, tuple[int, ...], np.ndarray]:
    """Values, ijk, shape and affine of some voxels of a volume."""
    shape = draw(st.tuples(*[st.integers(1, 5)] * 3))
    n = int(np.prod(shape))
    flat = draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True))
    ijk = np.stack(np.unravel_index(flat, shape), axis=1)
    size = draw(st.one_of(st.just((len(flat),)), st.tuples(st.just(len(flat)), st.integers(1, 3))))
    values = draw(hnp.arrays(np.float32, size, elements=st.floats(width=32)))
    offset = draw(hnp.arrays(np.float64, 3, elements=st.floats(-200, 200)))
    zooms = draw(hnp.arrays(np.float64, 3, elements=st.floats(0.5, 4)))
    signs = draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    turned = np.linalg.qr(draw(hnp.arrays(np.float64, (3, 3), elements=st.floats(-1, 1))))[0]
    return values, ijk, shape, nibabel.affines.from_matvec(turned * zooms * signs, offset)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(volume=volumes(), suffix=st.sampled_from([".nii", ".nii.gz"]))
def test_any_values_come_back_from_nifti(tmp_path: Path, volume, suffix: str) -> None:
    values, ijk, shape, affine = volume
    path = tmp_path / f"a{suffix}"
    write_nifti(path, values, ijk, shape, affine)
    image = nibabel.load(path)
    assert image.shape == (*shape, *values.shape[1:])
    data = np.asarray(image.dataobj)
    np.testing.assert_array_equal(data[tuple(ijk.T)], values)
    empty = np.ones(shape, dtype=bool)
    empty[tuple(ijk.T)] = False
    assert np.isnan(data[empty]).all()
    assert image.header["qform_code"] == 1
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)
    np.testing.assert_allclose(image.header.get_qform(), affine, atol=5e-3)


def refuse_nifti(message: str, path: Path, **changes: Any) -> None:
    given_ = {"values": VALUES, "ijk": IJK, "shape": SHAPE, "affine": AFFINE} | changes
    with pytest.raises(ValueError, match=message) as caught:
        write_nifti(path, **given_)
    assert "\n" not in str(caught.value)


VOXEL_REFUSALS: list[tuple[dict[str, Any], str]] = [
    (
        {"ijk": IJK + np.array([1, 0, 0])},
        r"ijk \(4, 2, 1\) is outside the volume of shape \(4, 3, 2\)",
    ),
    ({"ijk": IJK - np.array([0, 0, 1])}, r"ijk \(0, 0, -1\) is outside"),
    ({"ijk": IJK[[0, 1, 0]]}, r"ijk \(3, 2, 1\) is there 2 times"),
    ({"ijk": IJK.astype(float)}, "of float64; give whole numbers"),
    ({"ijk": IJK[:, :2]}, r"ijk has shape \(3, 2\)"),
    ({"ijk": IJK[:2]}, r"3 values \(rows\) but 2 voxels"),
    ({"values": VALUES[:2]}, r"2 values \(rows\) but 3 voxels"),
    ({"values": np.zeros((3, 0))}, r"values have shape \(3, 0\)"),
    ({"values": np.zeros((3, 2, 2))}, r"values have shape \(3, 2, 2\)"),
    ({"shape": (4, 3)}, r"shape is \(4, 3\); give the three sizes"),
    ({"shape": (4, 3, 0)}, r"shape is \(4, 3, 0\)"),
    ({"affine": np.eye(3)}, r"affine has shape \(3, 3\)"),
    ({"affine": np.diag([1.0, 0, 1, 1])}, "cannot be inverted"),
    ({"affine": np.diag([1.0, np.nan, 1, 1])}, "cannot be inverted"),
    ({"affine": AFFINE.T}, "cannot be inverted"),
    ({"names": ["a", "b"]}, "2 names but 1 maps"),
]


@pytest.mark.parametrize(("changes", "message"), VOXEL_REFUSALS)
def test_bad_voxels_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    refuse_nifti(message, tmp_path / "a.nii.gz", **changes)
    surface = save_surface(tmp_path / "lh.surf.gii", apply_affine(AFFINE, IJK))
    given_ = {"values": VALUES, "ijk": IJK, "shape": SHAPE, "affine": AFFINE} | changes
    with pytest.raises(ValueError, match=message):
        write_gifti(tmp_path / "a.func.gii", surface=surface, **given_)
    assert leftovers(tmp_path) == ["lh.surf.gii"]


@pytest.mark.parametrize(
    "name", ["a.img", "a.nii.bz2", "a", "a.gz", ".nii.gz", ".nii", "a.func.gii"]
)
def test_other_suffixes_than_nifti_are_refused(tmp_path: Path, name: str) -> None:
    refuse_nifti(r"does not end in \.nii\.gz or \.nii", tmp_path / name)
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("broken", [nibabel, os])
def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch, broken: Any) -> None:
    path = tmp_path / "a.nii.gz"
    write_nifti(path, VALUES, IJK, SHAPE, AFFINE, ["old"])
    before = {name: (tmp_path / name).read_bytes() for name in leftovers(tmp_path)}
    surface = save_surface(tmp_path / "lh.surf.gii", apply_affine(AFFINE, IJK))

    def fail(first: Any, second: Path) -> None:
        if broken is nibabel:
            second.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(broken, "save" if broken is nibabel else "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_nifti(path, 2 * VALUES, IJK, SHAPE, AFFINE, ["new"])
    with pytest.raises(OSError, match="disk full"):
        write_gifti(tmp_path / "a.func.gii", VALUES, IJK, SHAPE, AFFINE, surface)
    assert leftovers(tmp_path) == [*before, "lh.surf.gii"]
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


# GIFTI


@pytest.mark.parametrize("suffix", [".func.gii", ".shape.gii", ".gii"])
def test_vertices_take_the_value_of_their_voxel(planted, tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(1)
    ijk, shape, affine = (
        stack(planted, "ijk"),
        planted.attrs["volume_shape"],
        planted.attrs["affine"],
    )
    values = rng.normal(size=(len(ijk), 2)).astype(np.float32)
    order = rng.permutation(len(ijk))[: len(ijk) // 2]
    # Anywhere well within its voxel, in the reader's own mm.
    within = rng.uniform(-0.49, 0.49, (len(order), 3))
    steps = within @ np.reshape(affine, (4, 4))[:3, :3].T
    vertices = np.concatenate([stack(planted, "xyz")[order] + steps, [[900.0, 0, 0]]])
    surface = save_surface(tmp_path / "lh.surf.gii", vertices)
    path = tmp_path / f"sub-01{suffix}"
    write_gifti(path, values, ijk, shape, affine, surface, ["forward", "gradient"])
    image = nibabel.load(path)
    assert [array.meta["Name"] for array in image.darrays] == ["forward", "gradient"]
    assert image.meta["AnatomicalStructurePrimary"] == "CortexLeft"
    for column, array in enumerate(image.darrays):
        assert array.data.dtype == np.float32
        assert array.data.shape == (len(vertices),)
        np.testing.assert_array_equal(array.data[:-1], values[order, column])
        assert np.isnan(array.data[-1])
    assert leftovers(tmp_path) == ["lh.surf.gii", path.name]


def test_vertices_in_voxels_without_value_are_nan(tmp_path: Path) -> None:
    vertices = apply_affine(AFFINE, [[0, 0, 0], [1, 1, 1], [-1, 0, 0], [3, 2, 2], [3, 2, 1]])
    surface = save_surface(tmp_path / "lh.surf.gii", vertices, structure=None)
    write_gifti(tmp_path / "a.gii", VALUES, IJK, SHAPE, AFFINE, surface)
    image = nibabel.load(tmp_path / "a.gii")
    nan = np.nan
    np.testing.assert_array_equal(image.darrays[0].data, [-1.25, nan, nan, nan, 0.5])
    assert image.darrays[0].meta["Name"] == "map 1"
    assert "AnatomicalStructurePrimary" not in image.meta


def test_a_surface_elsewhere_is_refused(tmp_path: Path) -> None:
    surface = save_surface(tmp_path / "lh.surf.gii", apply_affine(AFFINE, IJK) + 100)
    with pytest.raises(ValueError, match=r"no vertex of .*lh\.surf\.gii .*scanner space.*tkRAS"):
        write_gifti(tmp_path / "a.func.gii", VALUES, IJK, SHAPE, AFFINE, surface)
    assert leftovers(tmp_path) == ["lh.surf.gii"]


@pytest.mark.parametrize("name", ["a.nii.gz", "a.surf.gii", "a.label.gii", "a", "a.gii.gz", ".gii"])
def test_other_suffixes_than_gifti_are_refused(tmp_path: Path, name: str) -> None:
    surface = save_surface(tmp_path / "lh.surf.gii", apply_affine(AFFINE, IJK))
    with pytest.raises(ValueError, match=r"does not end in \.func\.gii or \.shape\.gii or \.gii"):
        write_gifti(tmp_path / name, VALUES, IJK, SHAPE, AFFINE, surface)


def test_the_surface_is_not_replaced(tmp_path: Path) -> None:
    surface = save_surface(tmp_path / "lh.gii", apply_affine(AFFINE, IJK))
    before = surface.read_bytes()
    with pytest.raises(ValueError, match="is the surface itself"):
        write_gifti(tmp_path / "x" / ".." / "lh.gii", VALUES, IJK, SHAPE, AFFINE, surface)
    assert surface.read_bytes() == before


def not_xml(surface: Path) -> None:
    surface.write_bytes(b"this is no surface")


def cut(surface: Path) -> None:
    surface.write_bytes(surface.read_bytes()[:-200])


def no_vertices(surface: Path) -> None:
    nibabel.save(GiftiImage(darrays=[GiftiDataArray(np.zeros(3, np.float32))]), surface)


SURFACE_REFUSALS: list[tuple[Callable[[Path], None], str]] = [
    (not_xml, r"cannot read .*lh\.surf\.gii as GIFTI"),
    (cut, r"cannot read .*lh\.surf\.gii as GIFTI"),
    (no_vertices, r"lh\.surf\.gii has no vertices"),
    (Path.unlink, r"there is no surface .*lh\.surf\.gii"),
]


@pytest.mark.parametrize(("spoil", "message"), SURFACE_REFUSALS)
def test_bad_surfaces_are_refused(tmp_path: Path, spoil: Callable, message: str) -> None:
    surface = save_surface(tmp_path / "lh.surf.gii", apply_affine(AFFINE, IJK))
    spoil(surface)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        write_gifti(tmp_path / "a.func.gii", VALUES, IJK, SHAPE, AFFINE, surface)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.func.gii").exists()


def test_a_volume_is_no_surface(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", VALUES, IJK, SHAPE, AFFINE)
    with pytest.raises(ValueError, match=r"a\.nii\.gz has no vertices"):
        write_gifti(tmp_path / "a.gii", VALUES, IJK, SHAPE, AFFINE, tmp_path / "a.nii.gz")


# Evoked


def helmet(n: int) -> np.ndarray:
    """Positions spread over the upper half of a sphere, in m."""
    z = np.linspace(0.1, 0.95, n)
    turn = np.pi * (3 - np.sqrt(5)) * np.arange(n)
    flat = np.sqrt(1 - z**2)
    return 0.11 * np.stack([flat * np.cos(turn), flat * np.sin(turn), z], axis=1)


@pytest.fixture(scope="module")
def sensors(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """Coordinates of a subject's sensors, from a file."""
    folder = tmp_path_factory.mktemp("meg")
    names = write_images(folder / "stimuli", 2, 8, seed=0)
    data = np.random.default_rng(0).normal(0, 1e-13, (2, 24, 15)).astype(np.float32)
    write_epochs_subject(folder, "sub-01", data, names, 50.0, -0.1, helmet(24), [1, 1])
    return epochs.describe(folder, "sub-01", read_manifest(folder / "stimuli")).coords


def test_scores_of_sensors_become_an_evoked_file(sensors: xr.Dataset, tmp_path: Path) -> None:
    matplotlib.use("Agg")
    names, types = sensors["sensor"].values.tolist(), sensors["sensor_type"].values.tolist()
    times, loc = sensors["time"].values, sensors["sensor_loc"].values
    scores = np.random.default_rng(0).uniform(-0.1, 0.3, (len(names), len(times)))
    to_evoked(scores, names, types, loc, times, "r, forward").save(
        tmp_path / "r-ave.fif", verbose="error"
    )
    evoked = mne.read_evokeds(tmp_path / "r-ave.fif", 0, verbose="error")
    assert (evoked.ch_names, evoked.get_channel_types()) == (names, types)
    assert evoked.comment == "r, forward"
    assert evoked.info["sfreq"] == pytest.approx(50.0)
    np.testing.assert_allclose(evoked.data, scores, rtol=1e-6)
    np.testing.assert_allclose(evoked.times, times, atol=1e-7)
    read = np.array([channel["loc"] for channel in evoked.info["chs"]])
    np.testing.assert_allclose(read, np.reshape(loc, (-1, 12)), atol=1e-7)
    np.testing.assert_allclose(read[:, :3], helmet(24), atol=1e-7)
    figure = evoked.plot_topomap(times[3], scalings=1, units="score", show=False)
    figure.savefig(tmp_path / "r.png")
    assert (tmp_path / "r.png").stat().st_size > 1000


def test_planted_sensors_become_an_evoked_file(small_files: Path, tmp_path: Path) -> None:
    manifest = read_manifest(small_files / "stimuli")
    subject = epochs.list_subjects(small_files / "meg")[0]
    coords = epochs.describe(small_files / "meg", subject, manifest).coords
    names, types = coords["sensor"].values.tolist(), coords["sensor_type"].values.tolist()
    times, loc = coords["time"].values, coords["sensor_loc"].values
    scores = np.random.default_rng(0).uniform(size=(len(names), len(times)))
    evoked = to_evoked(scores, names, types, loc, times, "r")
    evoked.save(tmp_path / "r-ave.fif", verbose="error")
    again = mne.read_evokeds(tmp_path / "r-ave.fif", "r", verbose="error")
    np.testing.assert_allclose(again.times, times, atol=1e-7)
    np.testing.assert_allclose(again.data, scores, rtol=1e-6)
    for i, axis in enumerate("xyz"):
        read = [channel["loc"][i] for channel in again.info["chs"]]
        np.testing.assert_allclose(read, coords[f"sensor_{axis}"], atol=1e-7)


def test_places_of_the_readers_survive_zarr(planted, sensors, tmp_path: Path) -> None:
    for coords in (planted, sensors):
        text = [name for name in coords.coords if coords[name].dtype.kind == "U"]
        coords.assign_coords({n: coords[n].astype(object) for n in text}).to_zarr(
            tmp_path / "a.zarr", mode="w", consolidated=False
        )
        again = xr.open_zarr(tmp_path / "a.zarr", consolidated=False).load()
        assert again.attrs == coords.attrs
        xr.testing.assert_equal(again, coords)


def test_windows_keep_their_centres(tmp_path: Path) -> None:
    """MNE would move a first time of half a step to a whole one."""
    times = np.array([0.05, 0.15, 0.25, 0.35000001])
    evoked = to_evoked(np.eye(2, 4), ["a", "b"], ["mag", "grad"], np.zeros((2, 12)), times, "r")
    evoked.save(tmp_path / "r-ave.fif", verbose="error")
    again = mne.read_evokeds(tmp_path / "r-ave.fif", 0, verbose="error")
    for one in (evoked, again):
        np.testing.assert_allclose(one.times, times, atol=1e-7)
        np.testing.assert_array_equal(one.data, np.eye(2, 4))
    assert again.get_channel_types() == ["mag", "grad"]


@pytest.mark.parametrize("jitter", [0.009, -0.009])
def test_times_may_be_rounded(jitter: float) -> None:
    times = 0.1 * np.arange(5.0)
    times[2] += jitter * 0.1
    evoked = to_evoked(np.zeros((1, 5)), ["a"], ["mag"], np.zeros((1, 12)), times, "r")
    assert evoked.info["sfreq"] == pytest.approx(10)


EVOKED_REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"times": [0.0, 0.1, 0.2011, 0.3]}, "not evenly spaced"),
    ({"times": [0.0, 0.1, 0.2, 0.4]}, "not evenly spaced"),
    ({"times": [0.3, 0.2, 0.1, 0.0]}, "not evenly spaced and rising"),
    ({"times": [0.0, 0.0, 0.0, 0.0]}, "not evenly spaced and rising"),
    ({"times": [0.0, np.nan, 0.2, 0.3]}, "not evenly spaced"),
    ({"times": [0.0]}, r"times have shape \(1,\); give at least two"),
    ({"times": np.zeros((2, 2))}, r"times have shape \(2, 2\)"),
    ({"times": [0.0, 0.1]}, r"values have shape \(2, 4\) but there are 2 sensors and 2 times"),
    ({"values": np.zeros((3, 4))}, r"values have shape \(3, 4\)"),
    ({"sensors": ["a", "a"]}, "one is there twice"),
    ({"sensors": [], "types": []}, "sensors are none"),
    ({"types": ["mag", "eeg"]}, "types has 'eeg'; give one of mag, grad each"),
    ({"types": ["mag"]}, "2 sensors but 1 types and 24 numbers"),
    ({"loc": np.zeros((2, 3))}, "2 sensors but 2 types and 6 numbers in loc"),
]


@pytest.mark.parametrize(("changes", "message"), EVOKED_REFUSALS)
def test_bad_sensors_and_times_are_refused(changes: dict, message: str) -> None:
    given_ = {
        "values": np.zeros((2, 4)),
        "sensors": ["a", "b"],
        "types": ["mag", "mag"],
        "loc": np.zeros((2, 12)),
        "times": [0.0, 0.1, 0.2, 0.3],
        "comment": "r",
    }
    with pytest.raises(ValueError, match=message) as caught:
        to_evoked(**(given_ | changes))
    assert "\n" not in str(caught.value)


def test_no_warning_leaks(tmp_path: Path) -> None:
    surface = save_surface(tmp_path / "lh.surf.gii", apply_affine(AFFINE, IJK))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_nifti(tmp_path / "a.nii.gz", VALUES, IJK, SHAPE, AFFINE)
        write_gifti(tmp_path / "a.func.gii", VALUES, IJK, SHAPE, AFFINE, surface)
        to_evoked(np.zeros((1, 3)), ["a"], ["mag"], np.zeros((1, 12)), [0.0, 0.1, 0.2], "r")
