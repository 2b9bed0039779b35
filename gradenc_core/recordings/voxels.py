"""Labelled voxels of a subject, and the files beside them that every fMRI reader opens.

A label volume has a table of the same name beside it: index, name and, where it is known,
hemisphere ("L" or "R"; "n/a" for regions of both or where there is no such column). Labels 0 and -1
are no region: atlases write -1 outside the cortex and 0 where the cortex has no label.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import xarray as xr
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from gradenc_core.spelling import did_you_mean
from gradenc_core.text import read_text

REGION_COLUMNS = ("index", "name")
NO_REGION = (-1, 0)
HEMISPHERES = ("L", "R", "n/a")
LABEL_TOLERANCE = 1e-3
"""Labels that a file scales by a slope come back as whole numbers only to rounding."""
# All that nibabel raises for a damaged or truncated file.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    zlib.error,
    nibabel.filebasedimages.ImageFileError,
    nibabel.spatialimages.HeaderDataError,
)


@dataclass(frozen=True)
class Voxels:
    """Labelled voxels; `ijk` is (n_voxels, 3)."""

    file: Path
    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    ijk: NDArray[np.int64]
    roi: list[str]
    hemisphere: list[str]


def read_voxels(file: Path, rois: Sequence[str] | None) -> Voxels:
    """Read a label volume and its table.

    Parameters
    ----------
    file : Path
        The volume.
    rois : sequence of str or None
        The regions whose voxels are returned; None for all.
    """
    image = load_nifti(existing(file))
    table = existing(tsv_beside(file))
    regions = _read_regions(table)
    labels = _read_labels(image, file)
    unlisted = sorted(set(np.unique(labels).tolist()) - {*NO_REGION, *regions})
    if unlisted:
        raise ValueError(f"{file} has the label {unlisted[0]}, which {table} does not list; add it")
    present = {name for index, (name, _) in regions.items() if (labels == index).any()}
    wanted = present if rois is None else _known(rois, present, file)
    chosen = [index for index, (name, _) in regions.items() if name in wanted]
    ijk = np.argwhere(np.isin(labels, chosen))
    if not len(ijk):
        raise ValueError(f"no voxel of {file} belongs to a chosen region; label or choose some")
    named = [regions[index] for index in labels[tuple(ijk.T)].tolist()]
    names, sides = zip(*named, strict=True)
    return Voxels(file, labels.shape, image.affine, ijk, list(names), list(sides))


def _read_labels(image: Any, file: Path) -> NDArray[np.int64]:
    if len(image.shape) != 3:
        raise ValueError(f"{file} has shape {image.shape}; labels are a volume of 3 axes")
    try:
        values = np.asarray(image.dataobj)
    except UNREADABLE as error:
        raise damaged(file, error) from error
    unknown = int((~np.isfinite(values)).sum())
    if unknown:
        raise ValueError(f"{file} has {unknown} voxels that are NaN or infinite; give them label 0")
    labels = np.rint(values)
    if np.abs(values - labels).max(initial=0) > LABEL_TOLERANCE:
        raise ValueError(f"{file} has labels that are no whole numbers; resample to nearest labels")
    return labels.astype(np.int64)


def _read_regions(file: Path) -> dict[int, tuple[str, str]]:
    """Return label -> (region, hemisphere), without the labels that are none."""
    regions: dict[int, tuple[str, str]] = {}
    for number, row in enumerate(read_tsv(file, REGION_COLUMNS), start=1):
        where, index = f"{file}, row {number}", row["index"]
        side = row.get("hemisphere", "n/a") or "n/a"
        if index in map(str, NO_REGION):
            continue
        if not index.isdecimal():
            raise ValueError(
                f"{where}: index {index!r} is no whole number from 1; give the label of the region"
            )
        if int(index) in regions:
            raise ValueError(f"{where}: index {index} is there twice; give each label one row")
        if side not in HEMISPHERES:
            raise ValueError(f"{where}: hemisphere is {side!r}; write L, R or n/a")
        regions[int(index)] = (row["name"], side)
    return regions


def _known(rois: Sequence[str], present: set[str], file: Path) -> set[str]:
    for name in rois:
        if name not in present:
            hint = did_you_mean(name, present) or f"; give some of {', '.join(sorted(present))}"
            raise ValueError(f"no voxel of {file} belongs to the region {name!r}{hint}")
    return set(rois)


def voxel_coords(voxels: Voxels) -> xr.Dataset:
    """Return where voxels lie, as `ResponseDescription` has it."""
    xyz = apply_affine(voxels.affine, voxels.ijk)
    places = {
        axis: ("voxel", voxels.ijk[:, i], {"units": "1", "long_name": f"voxel index, {word} axis"})
        for i, (axis, word) in enumerate(zip("ijk", ("first", "second", "third"), strict=True))
    }
    return xr.Dataset(
        coords={
            "roi": ("voxel", np.array(voxels.roi)),
            "hemisphere": ("voxel", np.array(voxels.hemisphere)),
            **{axis: ("voxel", xyz[:, i], {"units": "mm"}) for i, axis in enumerate("xyz")},
            **places,
        },
        # Python numbers in flat lists, which JSON, zarr and netCDF all keep.
        attrs={
            "volume_shape": [int(n) for n in voxels.shape],
            "affine": np.asarray(voxels.affine, dtype=np.float64).ravel().tolist(),
        },
    )


def read_tsv(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a table that has these columns."""
    lines = StringIO(read_text(file), newline="")
    header, *rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)) or [[]]
    missing = [name for name in columns if name not in header]
    if missing:
        raise ValueError(
            f"{file} lacks the column {', '.join(missing)}; write the tab-separated columns "
            f"{', '.join(columns)}"
        )
    rows = [row for row in rows if row]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ValueError(
                f"{file}, row {number}: the number of fields is not that of the header; separate "
                "them by tabs and write n/a where there is no value"
            )
    return [dict(zip(header, row, strict=True)) for row in rows]


def load_nifti(file: Path, **options: Any) -> Any:
    """Open a volume; refuse a damaged file by its name."""
    try:
        return nibabel.load(file, **options)
    except UNREADABLE as error:
        raise damaged(file, error) from error


def damaged(file: Path, error: Exception) -> ValueError:
    """Return the refusal of a volume that cannot be read."""
    return ValueError(f"cannot read {file} as NIfTI ({error}); copy or make it again")


def existing(file: Path) -> Path:
    """Return a file's path; refuse one that is not there."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}; add it, as the layout of the reader asks")
    return file


def tsv_beside(file: Path) -> Path:
    """Return the path of a volume's table."""
    return file.with_name(file.name.removesuffix(".nii.gz") + ".tsv")
