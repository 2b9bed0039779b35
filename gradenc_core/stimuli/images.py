"""Stimulus images: a folder of PNG and JPEG files and HDF5 bricks, identified by their content."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from gradenc_core.digests import KnownDigests, NothingKnown

FORMATS = ("PNG", "JPEG")
SUFFIXES = (".png", ".jpg", ".jpeg")
BRICKS = (".hdf5", ".h5")
BIT_DEPTH = 24
"""Place of the bit depth in a PNG file, whose header is of fixed length."""
END_OF_JPEG = b"\xff\xd9"
# All that PIL raises for bytes that it cannot decode.
_UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Manifest:
    """The distinct images of a stimulus folder.

    Attributes
    ----------
    ids : tuple of str, (n_stimuli,)
        Posix path below the folder of each distinct image, sorted; `<brick>/<row>` for a row (from
        0) of an HDF5 brick; of several images with equal content, the first.
    digests : tuple of str, (n_stimuli,)
        SHA-256 of each file's bytes, of a row its shape and pixels, hexadecimal.
    first_of : dict
        Every image's id -> the id of the first image with equal content.
    """

    ids: tuple[str, ...]
    digests: tuple[str, ...]
    first_of: dict[str, str]


def read_manifest(
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    known: KnownDigests | None = None,
) -> Manifest:
    """List the images below a folder, without hidden files and files of other types.

    An HDF5 brick (such as NSD's `nsd_stimuli.hdf5`) holds one dataset of images,
    (n_images, height, width, 3) uint8.

    Parameters
    ----------
    folder : Path
    progress : callable
        Called after each image with the images done and their total number.
    known : KnownDigests, optional
        Digests of files that need not be read again; what is read is kept there.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or a file is a link to nothing.
    ValueError
        If the folder holds no image, or a file is no image, no brick or a truncated one.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no stimulus folder {folder}; name the folder that holds the images"
        )
    paths = sorted(_files(folder), key=lambda path: path.relative_to(folder).as_posix())
    known = known or NothingKnown()
    found = {path: known.get(path) for path in paths}
    total = sum(_n_images(path) if read is None else len(read) for path, read in found.items())
    if not total:
        raise ValueError(
            f"the stimulus folder {folder} holds no image; put PNG or JPEG files or HDF5 bricks "
            "into it"
        )
    first: dict[str, str] = {}
    first_of: dict[str, str] = {}
    for path in paths:
        digests = []
        known_digests = found[path]
        own = _digests(path) if known_digests is None else known_digests
        for row, digest in enumerate(own):
            name = path.relative_to(folder).as_posix() + (f"/{row}" if _is_brick(path) else "")
            first_of[name] = first.setdefault(digest, name)
            digests.append(digest)
            progress(len(first_of), total)
        if found[path] is None:
            known.keep(path, digests)
    return Manifest(tuple(first.values()), tuple(first), first_of)


def read_image(path: Path) -> Image.Image:
    """Decode an image file fully, as RGB of 8 bits; transparency is dropped.

    Raises
    ------
    ValueError
        If the file is truncated, damaged, no PNG or JPEG, or has more than 8 bits per channel.
    """
    return _decoded(path.read_bytes(), path)


def read_stimulus(folder: Path, name: str, digest: str) -> Image.Image:
    """Decode the image that a manifest of `folder` calls `name`, if it is still the same.

    Raises
    ------
    FileNotFoundError
        If the image is gone.
    ValueError
        If its content has another digest, or cannot be decoded.
    """
    path = folder / name
    brick = path.parent if _is_brick(path.parent) and path.parent.is_file() else None
    if not (brick or path).is_file():
        raise FileNotFoundError(
            f"the stimulus {path} that the study was planned with is gone; put it back, or "
            "plan the study again without it"
        )
    content = path.read_bytes() if brick is None else _row(brick, int(path.name))
    if _digest(content) != digest:
        raise ValueError(
            f"the stimulus {path} has changed since the study was planned; put the old file "
            "back, or plan the study again"
        )
    return _decoded(content, path) if isinstance(content, bytes) else Image.fromarray(content)


@dataclass(frozen=True)
class Images:
    """Distinct images of a folder, known by their content and decoded when asked for.

    `images[3]` decodes one image as RGB of 8 bits, `images[:50]` and `images[mask]` keep some.

    Attributes
    ----------
    folder : Path
        The folder below which the images lie.
    ids : tuple of str, (n_images,)
        Posix path below the folder, sorted; `<brick>/<row>` for a row of an HDF5 brick.
    digests : tuple of str, (n_images,)
        SHA-256 of each image's content, hexadecimal.
    """

    folder: Path
    ids: tuple[str, ...]
    digests: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Image.Image]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...

    @overload
    def __getitem__(self, index: slice | NDArray[Any]) -> Images: ...

    def __getitem__(self, index: int | slice | NDArray[Any]) -> Image.Image | Images:
        if isinstance(index, slice | np.ndarray):
            rows = np.arange(len(self))[index]
            ids, digests = (tuple(x[i] for i in rows) for x in (self.ids, self.digests))
            return Images(self.folder, ids, digests)
        return read_stimulus(self.folder, self.ids[index], self.digests[index])


def read_images(folder: str | Path) -> Images:
    """List the images of a folder, without keeping any of them in memory.

    Every file is read once for its digest. Images of equal content count once, under the first
    name. Hidden files and other types are passed over.

    Parameters
    ----------
    folder : str or Path
        Folder of PNG and JPEG files, or HDF5 bricks such as NSD's; folders within it count too.

    Returns
    -------
    Images
        `ids`, `digests`, and each image when it is indexed.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or a file is a link to nothing.
    ValueError
        If the folder holds no image, or a file is damaged or no image.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from PIL import Image
    >>> folder = Path(mkdtemp())
    >>> for name in ("cat", "dog"):
    ...     Image.new("RGB", (48, 32), {"cat": "grey", "dog": "brown"}[name]).save(
    ...         folder / f"{name}.png"
    ...     )
    >>> images = read_images(folder)
    >>> images.ids, images[1].size
    (('cat.png', 'dog.png'), (48, 32))
    """
    manifest = read_manifest(Path(folder))
    return Images(Path(folder), manifest.ids, manifest.digests)


@contextmanager
def _brick(path: Path) -> Iterator[h5py.Dataset]:
    """Open the one dataset of an HDF5 file, (n_images, height, width, 3) uint8."""
    try:
        with h5py.File(path, "r") as file:
            found = [item for item in file.values() if _holds_images(item)]
            if len(found) != 1:
                raise ValueError(
                    f"{len(found)} datasets of shape (images, height, width, 3) and type uint8, "
                    "not one"
                )
            yield found[0]
    except (OSError, ValueError, IndexError) as error:
        raise ValueError(
            f"cannot read the images of {path} ({error}); replace or remove it"
        ) from error


def _holds_images(item: h5py.Dataset | h5py.Group) -> bool:
    return (
        isinstance(item, h5py.Dataset)
        and item.ndim == 4
        and item.shape[-1] == 3
        and item.dtype == np.uint8
    )


def _row(path: Path, row: int) -> NDArray[np.uint8]:
    with _brick(path) as images:
        pixels: NDArray[np.uint8] = images[row]
        return pixels


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.suffix.lower() in (*SUFFIXES, *BRICKS) and not path.is_dir():
            if not path.is_file():
                raise FileNotFoundError(
                    f"the stimulus {path} is a link to nothing; fetch its file, or remove it"
                )
            yield path


def _n_images(path: Path) -> int:
    if not _is_brick(path):
        return 1
    with _brick(path) as images:
        return len(images)


def _is_brick(path: Path) -> bool:
    return path.suffix.lower() in BRICKS


def _digests(path: Path) -> Iterator[str]:
    """Yield the digest of the image or images that a file holds."""
    if not _is_brick(path):
        yield _digest(_verified(path))
        return
    with _brick(path) as images:
        for row in range(len(images)):
            yield _digest(images[row])


def _digest(content: bytes | NDArray[np.uint8]) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha256(str(content.shape).encode() + content.tobytes()).hexdigest()


def _verified(path: Path) -> bytes:
    """Return a file's bytes if they are a whole image."""
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            jpeg = image.format != "PNG"  # or MPO, in which phones put more JPEGs behind the first
            decode = _is_deep(image, data) or image.has_transparency_data
            image.verify()
    except _UNDECODABLE as error:
        raise _damaged(path, error) from error
    # `verify` reads only the header of a JPEG, so a file without its end may be truncated.
    if decode or (jpeg and not data.endswith(END_OF_JPEG)):
        _decoded(data, path)
    return data


def _decoded(data: bytes, path: Path) -> Image.Image:
    """Return an image in RGB, turned as its EXIF data say and as every viewer shows it."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            deep = _is_deep(image, data)
            # An interrupted copy is filled up with zeros, which a decoder takes for pixels.
            if image.format != "PNG" and END_OF_JPEG not in _scans(data):
                raise ValueError("image file is truncated")
            transparent = not deep and _is_transparent(image)
            if not deep and not transparent:
                return ImageOps.exif_transpose(image).convert("RGB")
    except _UNDECODABLE as error:
        raise _damaged(path, error) from error
    if transparent:
        raise ValueError(
            f"the image {path} has transparent pixels, whose colour depends on what is behind; "
            "save it on the background that it was shown on"
        )
    raise ValueError(
        f"the image {path} has more than 8 bits per channel; save it with 8, as it was shown"
    )


def _scans(data: bytes) -> bytes:
    """Return a JPEG from its first scan on: before it, a thumbnail may have an end of its own."""
    file = io.BytesIO(data)
    JpegImageFile(file)  # reads the header, up to the first scan
    return data[file.tell() :]


def _is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is; an image may have the channel and be opaque."""
    if not image.has_transparency_data:
        return False
    return bool(np.asarray(image.convert("RGBA").getchannel("A")).min() < 255)


def _is_deep(image: Image.Image, data: bytes) -> bool:
    """Whether an image has more than 8 bits per channel, by its header: its mode may hide them."""
    return image.format == "PNG" and data[BIT_DEPTH] > 8


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = "no PNG or JPEG image" if isinstance(error, UnidentifiedImageError) else str(error)
    return ValueError(f"cannot read the image {path} ({reason}); replace or remove it")
