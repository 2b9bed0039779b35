"""Write results back into the subject's own space: NIfTI volumes, GIFTI surfaces, MNE's Evoked.

The places of voxels and sensors are those that the readers describe: coordinates `i`, `j`, `k` and
attrs `volume_shape` and `affine` of fMRI; `sensor`, `sensor_type` and `sensor_loc` of MEG.
"""

from __future__ import annotations

import json
import os
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import mne
import nibabel
import numpy as np
from nibabel.affines import apply_affine
from nibabel.gifti.gifti import GiftiDataArray, GiftiImage, GiftiMetaData
from numpy.typing import ArrayLike, NDArray

NIFTI_SUFFIXES = (".nii.gz", ".nii")
GIFTI_SUFFIXES = (".func.gii", ".shape.gii", ".gii")
OTHER_GIFTI = (".surf.gii", ".label.gii")
"""Endings of ".gii" that promise something else than values of vertices."""
SENSOR_TYPES = ("mag", "grad")
DESCRIPTION = "NaN where the results have no voxel"
"""Goes into the header's `descrip`, which has 79 characters."""
SCANNER = 1
UNKNOWN = 0
TIME_TOLERANCE = 0.01
"""Largest deviation from even spacing, in steps."""
SHEAR_TOLERANCE = 1e-4
"""Largest cosine between the axes of a volume that a qform describes."""
LOC = 12
# All that nibabel raises for a damaged file, or one that is none of its own.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    zlib.error,
    ExpatError,
    nibabel.filebasedimages.ImageFileError,
)


def write_nifti(
    path: Path | str,
    values: ArrayLike,
    ijk: ArrayLike,
    shape: Sequence[int],
    affine: ArrayLike,
    names: Sequence[str] | None = None,
) -> None:
    """Write values of voxels as a NIfTI-1 volume of float32, and the maps' names beside it.

    Voxels without a value are NaN. The affine is the sform, code 1 (scanner), and the qform, code
    1, unless it has shears, which a qform cannot hold: then the qform's code is 0 (unknown). The
    names go into `<name>.json` as ``{"maps": [...]}``; a file of that name is replaced.

    Parameters
    ----------
    path : Path or str
        Ends in .nii or .nii.gz; its folder is made, and a file that is there is replaced.
    values : array, (n_voxels,) or (n_voxels, n_maps)
        In any unit. Written as a volume of 3 axes, or of 4, the last of which is the map.
    ijk : array of int, (n_voxels, 3)
        Index of each voxel in the volume; each voxel once.
    shape : sequence of int, (3,)
        Shape of the volume.
    affine : array, (4, 4) or (16,)
        From voxel index to mm in scanner space, row by row.
    names : sequence of str, (n_maps,), optional
        "map 1", "map 2", … by default.

    Raises
    ------
    ValueError
        If the suffix is another, shapes disagree, a voxel is outside the volume or there twice,
        or the affine cannot be inverted.
    OSError
        If the file cannot be written.
    """
    path = Path(path)
    suffix = _suffix(path, NIFTI_SUFFIXES)
    grid, matrix = _shape(shape), _affine(affine)
    places, table = _places(ijk, grid), _values(values)
    _check_lengths(places, table)
    labels = _map_names(names, table)
    volume = np.full((*grid, *table.shape[1:]), np.nan, dtype=np.float32)
    volume[tuple(places.T)] = table
    image = _nifti(volume, matrix)
    sidecar = path.with_name(path.name.removesuffix(suffix) + ".json")
    # Both are complete before either gets its name.
    with _replacing(path, suffix) as file, _replacing(sidecar, ".json") as beside:
        nibabel.save(image, file)
        beside.write_text(json.dumps({"maps": labels}, indent=1) + "\n", encoding="utf-8")


def write_gifti(
    path: Path | str,
    values: ArrayLike,
    ijk: ArrayLike,
    shape: Sequence[int],
    affine: ArrayLike,
    surface: Path | str,
    names: Sequence[str] | None = None,
) -> None:
    """Write values of voxels as maps on a surface, a GIFTI file of float32.

    A vertex takes the value of the voxel that contains it, and is NaN where none does. Nothing is
    interpolated. That vertices fall into voxels does not prove that the surface is in scanner
    space: FreeSurfer's own tkRAS is often only centimetres off, so convert such surfaces first
    (``mris_convert --to-scanner``).

    Parameters
    ----------
    path : Path or str
        Ends in .func.gii, .shape.gii or .gii; its folder is made, and a file that is there is
        replaced.
    values, ijk, shape, affine, names
        As in `write_nifti`; each map is one data array, whose metadata has the name.
    surface : Path or str
        GIFTI surface (.surf.gii) of the subject, with vertices in mm in the scanner space that
        the affine leads to.

    Raises
    ------
    FileNotFoundError
        If there is no such surface.
    ValueError
        As in `write_nifti`; if the surface cannot be read or would be replaced by the result; if
        no vertex is in any voxel.
    OSError
        If the file cannot be written.
    """
    path, surface = Path(path), Path(surface)
    suffix = _suffix(path, GIFTI_SUFFIXES, OTHER_GIFTI)
    grid, matrix = _shape(shape), _affine(affine)
    places, table = _places(ijk, grid), _values(values)
    _check_lengths(places, table)
    labels = _map_names(names, table)
    if path.resolve() == surface.resolve():
        raise ValueError(f"{path} is the surface itself; write the maps to another file")
    vertices, anatomy = _read_surface(surface)
    voxel = _voxel_of(vertices, places, grid, matrix)
    if not (voxel >= 0).any():
        raise ValueError(
            f"no vertex of {surface} is in any of the {len(places)} voxels; is the surface in the "
            "subject's scanner space (mm), not, e.g., tkRAS, and of the voxels' hemisphere?"
        )
    maps = np.full((len(vertices), len(labels)), np.nan, dtype=np.float32)
    maps[voxel >= 0] = table.reshape(len(table), -1)[voxel[voxel >= 0]]
    with _replacing(path, suffix) as file:
        nibabel.save(_gifti(maps, labels, anatomy), file)


def to_evoked(
    values: ArrayLike,
    sensors: Sequence[str],
    types: Sequence[str],
    loc: ArrayLike,
    times: ArrayLike,
    comment: str,
) -> mne.Evoked:
    """Return values of sensors and times as MNE's Evoked, to be saved or drawn as topographies.

    The values are scores, such as correlations, although MNE believes them to be T or T/m: give its
    plots ``scalings=1`` and ``units="score"``. `loc` is in m in the device's frame; there is no
    transform to the head, since the readers give none.

    Parameters
    ----------
    values : array, (n_sensors, n_times)
    sensors : sequence of str, (n_sensors,)
        Names of the channels; each once.
    types : sequence of {"mag", "grad"}, (n_sensors,)
    loc : array, (n_sensors, 12) or (n_sensors * 12,)
        MNE's `loc` of each channel: position (m) and three unit vectors.
    times : array, (n_times,)
        In s after stimulus onset; at least two, evenly spaced to 1 % of a step.
    comment : str
        Name of the values, such as "r, forward, layer3.0".

    Returns
    -------
    mne.EvokedArray

    Raises
    ------
    ValueError
        If shapes disagree, a name is there twice, a type is unknown, or times are not evenly
        spaced.
    """
    table, names, kinds = np.asarray(values, dtype=np.float64), list(sensors), list(types)
    where, at = np.asarray(loc, dtype=np.float64), np.asarray(times, dtype=np.float64)
    _check_sensors(names, kinds, where)
    step = _step(at)
    if table.shape != (len(names), len(at)):
        raise ValueError(
            f"values have shape {table.shape} but there are {len(names)} sensors and {len(at)} "
            "times; give one row per sensor and one column per time"
        )
    info = mne.create_info(names, 1 / step, kinds, verbose="error")
    for channel, numbers in zip(info["chs"], where.reshape(-1, LOC), strict=True):
        channel["loc"][:] = numbers
    evoked = mne.EvokedArray(table, info, at[0], comment, verbose="error")
    # MNE rounds the first time to whole steps, half of which a window's centre may be off.
    return evoked.shift_time(at[0], relative=False)


@contextmanager
def _replacing(path: Path, suffix: str) -> Iterator[Path]:
    """Yield a path to write to, which becomes `path` once it is complete, or goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}{suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _suffix(path: Path, known: Sequence[str], refused: Sequence[str] = ()) -> str:
    """Return the first known suffix of a path."""
    for suffix in known:
        bare = path.name == suffix
        if path.name.endswith(suffix) and not path.name.endswith(tuple(refused)) and not bare:
            return suffix
    raise ValueError(f"{path} does not end in {' or '.join(known)}; name the file so")


def _values(values: ArrayLike) -> NDArray[np.float32]:
    table = np.asarray(values, dtype=np.float32)
    if table.ndim not in (1, 2) or 0 in table.shape:
        raise ValueError(
            f"values have shape {table.shape}; give (n_voxels,) or (n_voxels, n_maps), none empty"
        )
    return table


def _shape(shape: Sequence[int]) -> tuple[int, int, int]:
    numbers = [int(n) for n in shape]
    if len(numbers) != 3 or min(numbers) < 1:
        raise ValueError(f"shape is {tuple(numbers)}; give the three sizes of the volume")
    return numbers[0], numbers[1], numbers[2]


def _affine(affine: ArrayLike) -> NDArray[np.float64]:
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.size != 16:
        raise ValueError(f"affine has shape {matrix.shape}; give 4 x 4 numbers")
    matrix = matrix.reshape(4, 4)
    last = np.array_equal(matrix[3], [0, 0, 0, 1])
    if not (last and np.isfinite(matrix).all() and np.linalg.matrix_rank(matrix[:3, :3]) == 3):
        raise ValueError(
            f"affine is {matrix.tolist()}, which cannot be inverted; give the one of the volume"
        )
    return matrix


def _places(ijk: ArrayLike, shape: tuple[int, int, int]) -> NDArray[np.int64]:
    given = np.asarray(ijk)
    if given.ndim != 2 or given.shape[1] != 3 or given.dtype.kind not in "iu":
        raise ValueError(
            f"ijk has shape {given.shape} of {given.dtype}; give whole numbers, (n_voxels, 3)"
        )
    outside = ((given < 0) | (given >= np.array(shape))).any(axis=1)
    if outside.any():
        index = tuple(given[outside.argmax()].tolist())
        raise ValueError(f"ijk {index} is outside the volume of shape {shape}; give that volume's")
    places = given.astype(np.int64)
    _, first, count = np.unique(places, axis=0, return_index=True, return_counts=True)
    if (count > 1).any():
        index = tuple(places[first[count.argmax()]].tolist())
        raise ValueError(f"ijk {index} is there {count.max()} times; give each voxel once")
    return places


def _check_lengths(places: NDArray[np.int64], table: NDArray[np.float32]) -> None:
    if len(places) != len(table):
        raise ValueError(
            f"there are {len(table)} values (rows) but {len(places)} voxels in ijk; give one each"
        )


def _map_names(names: Sequence[str] | None, table: NDArray[np.float32]) -> list[str]:
    n = table.shape[1] if table.ndim == 2 else 1
    labels = [f"map {i + 1}" for i in range(n)] if names is None else [str(s) for s in names]
    if len(labels) != n:
        raise ValueError(f"there are {len(labels)} names but {n} maps; give one name per map")
    return labels


def _nifti(volume: NDArray[np.float32], affine: NDArray[np.float64]) -> Any:
    image = nibabel.Nifti1Image(volume, affine)
    image.header["descrip"] = DESCRIPTION
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, SCANNER)
    image.set_qform(affine, SCANNER, strip_shears=True)
    # Programs that prefer the qform must not find the sheared volume elsewhere.
    if _has_shears(affine):
        image.header["qform_code"] = UNKNOWN
    return image


def _has_shears(affine: NDArray[np.float64]) -> bool:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > SHEAR_TOLERANCE)


def _read_surface(file: Path) -> tuple[NDArray[np.float64], str | None]:
    """Return the vertices, (n_vertices, 3), and the structure such as "CortexLeft"."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no surface {file}; name a .surf.gii of the subject")
    try:
        image = nibabel.load(file)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"cannot read {file} as GIFTI ({reason}); copy or convert it again"
        ) from error
    found = image.get_arrays_from_intent("pointset") if isinstance(image, GiftiImage) else []
    if not found:
        raise ValueError(
            f"{file} has no vertices; name a surface (.surf.gii), not values or a volume"
        )
    vertices = np.asarray(found[0].data, dtype=np.float64)
    return vertices, found[0].meta.get("AnatomicalStructurePrimary")


def _voxel_of(
    vertices: NDArray[np.float64],
    places: NDArray[np.int64],
    shape: tuple[int, int, int],
    affine: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Return the row in `places` of the voxel that contains each vertex, or -1."""
    rows = np.full(shape, -1, dtype=np.int64)
    rows[tuple(places.T)] = np.arange(len(places))
    # Indices are those of centres, so a voxel reaches half a step to both sides.
    index = np.floor(apply_affine(np.linalg.inv(affine), vertices) + 0.5)
    inside = ((index >= 0) & (index < np.array(shape))).all(axis=1)
    voxel = np.full(len(vertices), -1, dtype=np.int64)
    voxel[inside] = rows[tuple(index[inside].astype(np.int64).T)]
    return voxel


def _gifti(maps: NDArray[np.float32], names: Sequence[str], anatomy: str | None) -> Any:
    arrays = [
        GiftiDataArray(
            np.ascontiguousarray(column),
            intent="NIFTI_INTENT_NONE",
            datatype="NIFTI_TYPE_FLOAT32",
            meta=GiftiMetaData({"Name": name}),
        )
        for column, name in zip(maps.T, names, strict=True)
    ]
    # Viewers find the hemisphere's surface by this entry.
    meta = {"AnatomicalStructurePrimary": anatomy} if anatomy else {}
    return GiftiImage(meta=GiftiMetaData(meta), darrays=arrays)


def _check_sensors(names: list[str], kinds: list[str], loc: NDArray[np.float64]) -> None:
    if not names or len(set(names)) < len(names):
        raise ValueError("sensors are none or one is there twice; give each sensor's name once")
    unknown = [kind for kind in kinds if kind not in SENSOR_TYPES]
    if unknown:
        raise ValueError(f"types has {unknown[0]!r}; give one of {', '.join(SENSOR_TYPES)} each")
    if len(kinds) != len(names) or loc.size != LOC * len(names):
        raise ValueError(
            f"there are {len(names)} sensors but {len(kinds)} types and {loc.size} numbers in loc; "
            f"give one type and {LOC} numbers per sensor"
        )


def _step(times: NDArray[np.float64]) -> float:
    """Return the step of evenly spaced times, in s."""
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times have shape {times.shape}; give at least two, (n_times,)")
    step = (times[-1] - times[0]) / (len(times) - 1)
    off = np.abs(times - times[0] - step * np.arange(len(times))).max()
    if not (step > 0 and off <= TIME_TOLERANCE * step):
        raise ValueError(
            f"times from {times[0]} s to {times[-1]} s are not evenly spaced and rising; choose "
            "those of one sampling frequency"
        )
    return float(step)
