"""Images of a folder: selections keep names, contents and pixels together."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradenc_core.stimuli.generated import write_images
from gradenc_core.stimuli.images import Images, read_images

N = 7


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    folder = tmp_path_factory.mktemp("stimuli")
    write_images(folder, N, 16, seed=0)
    return read_images(str(folder))


bound = st.none() | st.integers(-9, 9)


@given(bound, bound, st.sampled_from([None, 1, 2, -1]))
def test_a_slice_is_that_of_a_list(images, start, stop, step) -> None:
    part = images[start:stop:step]
    assert part.ids == images.ids[start:stop:step]
    assert part.digests == images.digests[start:stop:step]
    assert len(part) == len(part.ids)


@given(st.lists(st.booleans(), min_size=N, max_size=N))
def test_a_mask_keeps_what_it_marks_and_so_do_its_places(images, mask) -> None:
    marked = images[np.array(mask)]
    assert marked.ids == tuple(i for i, kept in zip(images.ids, mask, strict=True) if kept)
    assert images[np.flatnonzero(mask)] == marked


def test_an_image_is_the_same_alone_in_order_and_in_a_selection(images) -> None:
    decoded = [np.asarray(image) for image in images]
    assert len(decoded) == N
    for i, pixels in enumerate(decoded):
        assert pixels.shape == (16, 16, 3)
        np.testing.assert_array_equal(images[i], pixels)
        np.testing.assert_array_equal(images[::-1][N - 1 - i], pixels)
    np.testing.assert_array_equal(images[-1], decoded[-1])
    with pytest.raises(IndexError):
        images[N]


def test_a_changed_file_is_refused_when_it_is_decoded(tmp_path: Path) -> None:
    write_images(tmp_path, 2, 16, seed=0)
    listed = read_images(tmp_path)
    write_images(tmp_path, 2, 16, seed=1)
    with pytest.raises(ValueError, match=r"image_00001.png has changed since .*; put the old file"):
        listed[1]
