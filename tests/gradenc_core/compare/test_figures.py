"""Figures show the numbers that they are given, and leave out what is not defined."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from gradenc_core.compare import figures

SIGNALS = ["forward", "gradient:dino"]
DEPTHS = np.array([0.5, 1.0])


def panels(figure):
    """Return the panels of a figure without its colour bars."""
    return [axis for axis in figure.axes if axis.get_title()]


def marks(axis):
    """Return the points of a panel that are drawn as markers, (n, 2)."""
    drawn = [line.get_xydata() for line in axis.lines if line.get_marker() == "o"]
    return np.concatenate(drawn)


def dashed(axis):
    return [line for line in axis.lines if line.get_linestyle() == "--"]


def test_heat_maps_mark_the_best_layer_of_each_region_that_has_one() -> None:
    first = np.array([[0.1, np.nan, 0.3], [0.2, np.nan, np.nan]])
    regions = [["V1", "V2", "V4"], ["V1\n3 of 4", "V2", "V4"]]
    figure = figures.profile_heatmaps(
        np.stack([first, -first]), SIGNALS, ["layer1", "layer2"], regions
    )
    left, right = panels(figure)
    assert [axis.get_title() for axis in (left, right)] == SIGNALS
    np.testing.assert_array_equal(marks(left), [[0, 1], [2, 0]])
    np.testing.assert_array_equal(marks(right), [[0, 0], [2, 0]])
    for axis, names in zip((left, right), regions, strict=True):
        assert [label.get_text() for label in axis.get_xticklabels()] == names
    assert [label.get_text() for label in left.get_yticklabels()] == ["layer1", "layer2"]
    np.testing.assert_array_equal(left.images[0].get_array().filled(np.nan), first)


def test_curves_have_a_line_per_layer_and_a_mark_where_there_is_a_peak() -> None:
    times = np.array([0.0, 0.1, 0.2])
    values = np.random.default_rng(0).standard_normal((2, 2, 3))
    peaks = np.array([[0.1, np.nan], [0.2, 0.1]])
    figure = figures.curves(values, times, DEPTHS, SIGNALS, peaks)
    for axis, lines, latency in zip(panels(figure), values, peaks, strict=True):
        solid = [line for line in axis.lines if line.get_linestyle() == "-"]
        np.testing.assert_array_equal([line.get_ydata() for line in solid], lines)
        np.testing.assert_array_equal(solid[0].get_xdata(), times)
        dotted = [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == ":"]
        assert dotted == latency[np.isfinite(latency)].tolist()
        # A deeper layer is lighter.
        shallow, deep = (sum(to_rgba(line.get_color())[:3]) for line in solid)
        assert deep > shallow
    legend = panels(figure)[-1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["0.50", "1.00"]


def test_the_line_through_points_is_that_of_least_squares_over_known_ones() -> None:
    position = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, np.nan], [9.0, 3.0]])
    kstar = 0.1 + 0.2 * position
    kstar[3, 0] = np.nan  # its position alone would stretch the line
    (axis,) = panels(figures.depth_against_position(kstar[None], position, ["forward"], "y (mm)"))
    (line,) = dashed(axis)
    np.testing.assert_allclose(line.get_xydata(), [[0, 0.1], [3, 0.7]], atol=1e-12)
    assert (axis.get_xlabel(), axis.get_ylim()) == ("y (mm)", (0, 1.05))
    assert len(marks(axis)) == position.size


@pytest.mark.parametrize(
    "position", [[[0.0], [1.0], [np.nan]], [[2.0], [2.0], [2.0]], [[np.nan]] * 3]
)
def test_two_points_or_one_position_have_no_line(position) -> None:
    kstar = np.full((1, 3, 1), 0.5)
    figure = figures.depth_against_position(kstar, np.array(position), ["forward"], "y (mm)")
    assert not dashed(panels(figure)[0])


def test_latencies_of_all_subjects_stand_over_their_layers_depth() -> None:
    latency = np.array([[[0.10, 0.11], [0.20, np.nan], [0.30, 0.31]]])
    depths = np.array([0.5, 1.0, 1.25])
    (axis,) = panels(figures.depth_against_latency(latency, depths, ["forward"]))
    points = marks(axis)
    np.testing.assert_array_equal(points[:, 0], [*depths, *depths])
    np.testing.assert_array_equal(points[:, 1], latency[0].T.ravel())
    assert axis.get_xlim()[1] > depths[-1], "a layer after the last block is shown"
    (line,) = dashed(axis)
    assert np.diff(line.get_ydata()) > 0


def test_only_layers_with_both_a_place_and_a_latency_are_named() -> None:
    position, latency = np.array([[1.0, np.nan]]), np.array([[0.1, 0.2]])
    (axis,) = panels(
        figures.position_against_latency(position, latency, DEPTHS, ["forward"], "y (mm)")
    )
    assert [text.get_text() for text in axis.texts] == ["0.50"]
    assert axis.texts[0].xy == (1.0, 0.1)


def test_stability_has_a_line_per_perturbation_and_one_of_reliability() -> None:
    cosines = np.random.default_rng(0).uniform(0, 1, (2, 3, 2))
    reliability = np.array([[np.nan, np.nan], [0.8, 0.9]])
    names = ["shift", "noise", "jpeg"]
    figure = figures.stability(cosines, reliability, DEPTHS, SIGNALS, names)
    for axis, lines, seeded in zip(panels(figure), cosines, reliability, strict=True):
        assert [line.get_label() for line in axis.lines] == [*names, "reliability"]
        np.testing.assert_array_equal([line.get_ydata() for line in axis.lines[:3]], lines)
        np.testing.assert_array_equal(axis.lines[3].get_ydata(), seeded)
