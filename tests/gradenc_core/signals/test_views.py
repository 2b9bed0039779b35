"""Crops of teacher views: inside the image, of the promised area and shape."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gradenc_core.keyed import keyed_generator
from gradenc_core.signals.views import AREA, RATIO, _crop

sides = st.integers(1, 400)


@given(sides, sides, st.integers(0, 999))
def test_a_crop_lies_inside_the_image(height: int, width: int, seed: int) -> None:
    top, left, rows, columns = _crop(height, width, np.random.default_rng(seed))
    assert 0 <= top < top + rows <= height
    assert 0 <= left < left + columns <= width


@given(st.integers(0, 999))
def test_a_crop_of_a_square_has_the_promised_area_and_shape(seed: int) -> None:
    side = 2000
    _, _, rows, columns = _crop(side, side, np.random.default_rng(seed))
    share, ratio = rows * columns / side**2, columns / rows
    assert AREA[0] - 0.001 < share <= AREA[1]
    assert RATIO[0] - 0.002 < ratio < RATIO[1] + 0.002


def test_crops_are_drawn_evenly_over_place_area_and_shape() -> None:
    side, n = 1000, 2000
    crops = np.array([_crop(side, side, keyed_generator("crop", i)) for i in range(n)], float)
    top, left, rows, columns = crops.T
    fits = (rows < side) & (columns < side)  # a longer side is cut to the image
    share = (rows * columns / side**2)[fits & (rows * columns < 0.7 * side**2)]
    assert abs(share.mean() - (AREA[0] + 0.7) / 2) < 4 * 0.38 / math.sqrt(12 * len(share))
    ratio = np.log(columns / rows)
    assert abs(ratio.mean()) < 4 * ratio.std() / math.sqrt(n)
    for start, length in ((top, rows), (left, columns)):
        free = length < side
        place = start[free] / (side - length[free])
        assert abs(place.mean() - 0.5) < 4 / math.sqrt(12 * len(place))
