import hashlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import ExifTags, Image

from gradenc_core.stimuli.images import read_image, read_manifest, read_stimulus


def test_manifest_lists_distinct_images_by_first_path(stimuli: Path) -> None:
    manifest = read_manifest(stimuli)
    assert manifest.ids == ("a.png", "b.png", "d.png", "e.JPG", "more/f.jpeg")
    assert manifest.digests == tuple(
        hashlib.sha256((stimuli / name).read_bytes()).hexdigest() for name in manifest.ids
    )
    assert manifest.first_of == {name: name for name in manifest.ids} | {"c.png": "a.png"}


def test_hidden_files_and_other_types_are_passed_over(stimuli: Path) -> None:
    before = read_manifest(stimuli)
    (stimuli / "._a.png").write_bytes(b"resource fork")
    (stimuli / ".hidden.png").write_bytes(b"")
    (stimuli / ".cache").mkdir()
    (stimuli / ".cache" / "a.png").write_bytes(b"no image")
    (stimuli / "notes.txt").write_text("no image")
    assert read_manifest(stimuli) == before


def test_missing_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no stimulus folder .*nowhere"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no image"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_file_that_is_no_image_is_refused_by_name(stimuli: Path, data: bytes) -> None:
    (stimuli / "bad.PNG").write_bytes(data)
    with pytest.raises(ValueError, match=r"bad\.PNG.*replace or remove"):
        read_manifest(stimuli)
    with pytest.raises(ValueError, match=r"bad\.PNG.*replace or remove"):
        read_image(stimuli / "bad.PNG")


def test_link_to_nothing_is_refused(stimuli: Path) -> None:
    (stimuli / "link.png").symlink_to("gone.png")
    with pytest.raises(FileNotFoundError, match=r"link\.png is a link to nothing"):
        read_manifest(stimuli)


@pytest.mark.parametrize("name", ["image.png", "image.jpg"])
def test_truncated_image_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    pixels = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        read_image(path)


@pytest.mark.parametrize("name", ["new.png", "new.jpg"])
@pytest.mark.parametrize("lost", [0.01, 0.5, 0.9])
def test_truncated_image_is_refused_by_the_manifest(stimuli: Path, name: str, lost: float) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stimuli / name)
    assert name in read_manifest(stimuli).ids
    whole = (stimuli / name).read_bytes()
    (stimuli / name).write_bytes(whole[: round((1 - lost) * len(whole))])
    with pytest.raises(ValueError, match=rf"{name}.*replace or remove"):
        read_manifest(stimuli)


def test_jpeg_that_ends_in_zeros_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    pixels = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2].ljust(len(whole), b"\0"))
    for read in (lambda: read_image(path), lambda: read_manifest(tmp_path)):
        with pytest.raises(ValueError, match=r"image\.jpg \(image file is truncated"):
            read()


def with_thumbnail(image: Image.Image, **options: Any) -> bytes:
    """Return a JPEG, or several in one file (MPO), whose header holds a whole JPEG."""
    small, whole = io.BytesIO(), io.BytesIO()
    image.resize((8, 8)).save(small, "JPEG")
    image.save(whole, **options)
    segment = b"Exif\0\0" + small.getvalue()
    start = b"\xff\xd8\xff\xe1" + struct.pack(">H", 2 + len(segment)) + segment
    return start + whole.getvalue()[2:]


@pytest.mark.parametrize(
    "options",
    [
        {"format": "JPEG"},
        {"format": "JPEG", "progressive": True},
        {"format": "MPO", "save_all": True, "append_images": [Image.new("RGB", (8, 8))]},
    ],
)
def test_end_of_a_thumbnail_is_not_the_end_of_its_image(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    path = tmp_path / "image.jpg"
    pixels = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    whole = with_thumbnail(Image.fromarray(pixels), **options)
    path.write_bytes(whole + b"\xff\xda of a film")
    assert read_manifest(tmp_path).ids == ("image.jpg",)
    assert read_image(path).size == (64, 64)
    path.write_bytes(whole[: len(whole) // 2].ljust(len(whole), b"\0"))
    for read in (lambda: read_image(path), lambda: read_manifest(tmp_path)):
        with pytest.raises(ValueError, match=r"image\.jpg \(image file is truncated"):
            read()


def test_jpeg_with_bytes_after_its_end_is_an_image(stimuli: Path) -> None:
    with (stimuli / "e.JPG").open("ab") as file:
        file.write(bytes(20))
    assert "e.JPG" in read_manifest(stimuli).ids


def test_progress_counts_every_file(stimuli: Path) -> None:
    told: list[tuple[int, int]] = []
    read_manifest(stimuli, lambda done, total: told.append((done, total)))
    assert told == [(i, 6) for i in range(1, 7)]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1", "CMYK"])
def test_every_mode_of_8_bits_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(path)
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (5, 4))
    assert (np.asarray(image) == 255).all()


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bits_are_refused(tmp_path: Path, colour: int, channels: int) -> None:
    # As a camera or an image editor writes them: Pillow itself saves 16 bits in grey only.
    row = b"\0" + np.full(4 * channels, 40000, dtype=">u2").tobytes()
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", 4, 4, 16, colour, 0, 0, 0),
        b"IDAT": zlib.compress(row * 4),
        b"IEND": b"",
    }
    path = tmp_path / "deep.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in parts.items()
        )
    )
    for read in (lambda: read_image(path), lambda: read_manifest(tmp_path)):
        with pytest.raises(ValueError, match=r"deep\.png has more than 8 bits"):
            read()


@pytest.mark.parametrize("ending", ["jpg", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_viewers_show_them(
    tmp_path: Path, ending: str, orientation: int
) -> None:
    """A corner is white; `orientation` says where the first row and column of the file belong."""
    pixels = np.zeros((16, 24, 3), dtype=np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"turned.{ending}"
    Image.fromarray(pixels).save(path, exif=exif)
    shown = np.asarray(read_image(path)).mean(axis=2) > 128
    assert shown.shape == ((16, 24) if orientation < 5 else (24, 16))
    bottom, right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    expected = np.zeros(shown.shape, dtype=bool)
    expected[slice(-8, None) if bottom else slice(8), slice(-8, None) if right else slice(8)] = True
    np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_refused(tmp_path: Path, mode: str) -> None:
    """Their hidden colour was not shown; which one was, the file does not say."""
    image = Image.new("RGBA", (5, 4), (255, 0, 0, 255))
    image.putpixel((2, 1), (0, 255, 0, 128))
    image.convert(mode).save(tmp_path / "glass.png")
    for call, argument in ((read_image, tmp_path / "glass.png"), (read_manifest, tmp_path)):
        with pytest.raises(ValueError, match=r"glass\.png has transparent pixels.*background"):
            call(argument)


def test_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read_image(tmp_path / "gone.png")


# --- bricks and what a unit reads -----------------------------------------------------------------


def brick(folder: Path, pixels: np.ndarray, **more: np.ndarray) -> Path:
    with h5py.File(folder / "brick.hdf5", "w") as file:
        for name, values in {"imgBrick": pixels, **more}.items():
            file[name] = values
    return folder / "brick.hdf5"


@pytest.fixture
def pixels() -> np.ndarray:
    """Four images of 8 x 6 pixels; the last has the content of the first."""
    rows = np.random.default_rng(1).integers(256, size=(3, 8, 6, 3), dtype=np.uint8)
    return rows[[0, 1, 2, 0]]


def test_rows_of_a_brick_are_images_beside_files(stimuli: Path, pixels: np.ndarray) -> None:
    brick(stimuli, pixels)
    manifest = read_manifest(stimuli)
    rows = ("brick.hdf5/0", "brick.hdf5/1", "brick.hdf5/2")
    assert manifest.ids == ("a.png", "b.png", *rows, "d.png", "e.JPG", "more/f.jpeg")
    assert manifest.first_of["brick.hdf5/3"] == "brick.hdf5/0"
    digest_of = dict(zip(manifest.ids, manifest.digests, strict=True))
    for row, name in enumerate(rows):
        image = read_stimulus(stimuli, name, digest_of[name])
        np.testing.assert_array_equal(np.asarray(image), pixels[row])
    assert read_stimulus(stimuli, "e.JPG", digest_of["e.JPG"]).size == (8, 8)


def test_turned_images_of_equal_bytes_differ(tmp_path: Path, pixels: np.ndarray) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, shape in ((first, (4, 8, 6, 3)), (second, (4, 6, 8, 3))):
        folder.mkdir()
        brick(folder, pixels.reshape(shape))
    assert not set(read_manifest(first).digests) & set(read_manifest(second).digests)


@pytest.mark.parametrize(
    ("name", "values"),
    [("other", np.zeros((2, 8, 6, 3), np.uint8)), ("imgBrick", np.zeros((2, 8, 6), np.uint8))],
)
def test_a_file_without_one_dataset_of_images_is_refused(
    tmp_path: Path, pixels: np.ndarray, name: str, values: np.ndarray
) -> None:
    brick(tmp_path, **{"pixels": pixels, name: values})
    with pytest.raises(ValueError, match=r"brick\.hdf5 \([02] datasets of shape .*not one"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_truncated_brick_is_refused_by_name(
    tmp_path: Path, pixels: np.ndarray, share: float
) -> None:
    path = brick(tmp_path, pixels)
    path.write_bytes(path.read_bytes()[: round(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"brick\.hdf5.*replace or remove"):
        read_manifest(tmp_path)


def test_a_stimulus_that_is_not_what_was_planned_is_refused(
    stimuli: Path, pixels: np.ndarray
) -> None:
    path = brick(stimuli, pixels)
    manifest = read_manifest(stimuli)
    digest_of = dict(zip(manifest.ids, manifest.digests, strict=True))
    (stimuli / "e.JPG").write_bytes((stimuli / "e.JPG").read_bytes()[:-9])
    (stimuli / "a.png").unlink()
    brick(stimuli, pixels[1:2])
    for name, error, message in (
        ("e.JPG", ValueError, r"e\.JPG has changed"),
        ("a.png", FileNotFoundError, r"a\.png .* is gone"),
        ("brick.hdf5/0", ValueError, r"brick\.hdf5/0 has changed"),
        ("brick.hdf5/2", ValueError, r"brick\.hdf5 .*replace or remove"),
    ):
        with pytest.raises(error, match=message):
            read_stimulus(stimuli, name, digest_of[name])
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"brick\.hdf5/0 .* is gone"):
        read_stimulus(stimuli, "brick.hdf5/0", digest_of["brick.hdf5/0"])
