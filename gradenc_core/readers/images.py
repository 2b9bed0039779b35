"""Stimulus images: a folder of PNG and JPEG files, identified by their content."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

FORMATS = ("PNG", "JPEG")
SUFFIXES = (".png", ".jpg", ".jpeg")
END_OF_JPEG = b"\xff\xd9"
# All that PIL raises for bytes that it cannot decode.
_UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Manifest:
    """The distinct images of a stimulus folder.

    Attributes
    ----------
    ids : tuple of str, (n_stimuli,)
        Posix path below the folder of each distinct image, sorted; of several files with equal
        content, the first.
    digests : tuple of str, (n_stimuli,)
        SHA-256 of each file's bytes, hexadecimal.
    first_of : dict
        Every file's path below the folder -> the id of the first file with equal content.
    """

    ids: tuple[str, ...]
    digests: tuple[str, ...]
    first_of: dict[str, str]


def read_manifest(
    folder: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> Manifest:
    """List the PNG and JPEG files below a folder; hidden files and other types are passed over.

    Parameters
    ----------
    folder : Path
    progress : callable
        Told, after each file, how many of how many have been read.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or a file is a link to nothing.
    ValueError
        If the folder holds no image, or a file is no image or a truncated one.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no stimulus folder {folder}; name the folder that holds the images"
        )
    paths = list(_images(folder))
    if not paths:
        raise ValueError(
            f"the stimulus folder {folder} holds no image; put PNG or JPEG files into it"
        )
    digest_of: dict[str, str] = {}
    for done, path in enumerate(paths, start=1):
        digest_of[path.relative_to(folder).as_posix()] = _digest(path)
        progress(done, len(paths))
    first: dict[str, str] = {}
    for name in sorted(digest_of):
        first.setdefault(digest_of[name], name)
    first_of = {name: first[digest_of[name]] for name in sorted(digest_of)}
    return Manifest(tuple(first.values()), tuple(first), first_of)


def read_image(path: Path) -> Image.Image:
    """Decode an image fully, as RGB of 8 bits; transparency is dropped.

    Raises
    ------
    ValueError
        If the file is truncated, damaged, no PNG or JPEG, or has more than 8 bits per channel.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            if not image.mode.startswith(("I", "F")):
                return image.convert("RGB")
    except FileNotFoundError:
        raise
    except _UNDECODABLE as error:
        raise _damaged(path, error) from error
    raise ValueError(
        f"the image {path} has more than 8 bits per channel; save it with 8, as it was shown"
    )


def _images(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.suffix.lower() in SUFFIXES and not path.is_dir():
            yield path


def _digest(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(
            f"the stimulus {path} is a link to nothing; fetch its file, or remove it"
        )
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            jpeg = image.format == "JPEG"
            image.verify()
    except _UNDECODABLE as error:
        raise _damaged(path, error) from error
    # Of a JPEG only the header has been verified; without its end, it may be truncated.
    if jpeg and not data.endswith(END_OF_JPEG):
        read_image(path)
    return hashlib.sha256(data).hexdigest()


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = "no PNG or JPEG image" if isinstance(error, UnidentifiedImageError) else str(error)
    return ValueError(f"cannot read the image {path} ({reason}); replace or remove it")
