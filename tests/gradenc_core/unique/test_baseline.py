"""The baseline's components: the variance they keep, and both ways to compute them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradenc_core.unique.baseline import (
    LEAST_VARIANCE,
    MOST_VARIANCE,
    add_scalars,
    compress,
)


def correlated(rng: np.random.Generator, n: int, mix: np.ndarray) -> np.ndarray:
    return rng.standard_normal((n, len(mix))) @ mix


@pytest.fixture
def mix() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((30, 60)) * np.geomspace(1, 0.01, 60)


def test_components_keep_the_share_of_variance_and_no_more_than_they_need(mix: np.ndarray) -> None:
    x = correlated(np.random.default_rng(0), 200, mix)
    found = compress([x[:, :20], x[:, 20:]])
    values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
    reached = np.cumsum(values) / values.sum()
    n = found.recorded.shape[1]
    assert found.n_columns == 60
    assert found.kept == pytest.approx(reached[n - 1])
    assert reached[n - 2] < LEAST_VARIANCE <= reached[n - 1]


def test_more_components_are_kept_where_there_is_room(mix: np.ndarray) -> None:
    x = correlated(np.random.default_rng(0), 200, mix)
    values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
    held = np.cumsum(values) / values.sum()
    least, most = (int((held < share).sum()) + 1 for share in (LEAST_VARIANCE, MOST_VARIANCE))
    assert least + 1 < most
    for room, expected in ((0, least), (least + 1, least + 1), (1000, most)):
        assert compress([x], room=room).recorded.shape[1] == expected


def test_components_are_orthogonal_and_ordered_by_variance(mix: np.ndarray) -> None:
    found = compress([correlated(np.random.default_rng(0), 200, mix)]).recorded
    gram = found.T @ found
    assert np.allclose(gram, np.diag(np.diag(gram)), atol=1e-8 * gram.max())
    assert (np.diff(np.diag(gram)) <= 0).all()
    assert (found**2).mean() == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 4), st.booleans())
def test_more_columns_than_images_give_the_same_components(
    seed: int, copies: int, with_images: bool
) -> None:
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((12, 25)) * np.geomspace(1, 0.1, 25)
    x, images = correlated(rng, 40, mix), correlated(rng, 60, mix)
    # Copies of all columns change no inner product of stimuli but for the factor.
    wide = [np.hstack([part] * copies) / np.sqrt(copies) for part in (x, images)]
    narrow = compress([x], [images] if with_images else None)
    found = compress([wide[0]], [wide[1]] if with_images else None)
    assert found.kept == pytest.approx(narrow.kept)
    assert np.allclose(np.abs(found.recorded), np.abs(narrow.recorded), atol=1e-7)


def test_components_of_other_images_are_fitted_without_the_recorded_stimuli(
    mix: np.ndarray,
) -> None:
    rng = np.random.default_rng(0)
    images = correlated(rng, 300, mix)
    x = correlated(rng, 100, mix)
    whole, part = compress([x], [images]), compress([x[:50]], [images])
    assert whole.unrecorded is not None
    assert np.allclose(whole.recorded[:50], part.recorded)
    assert (whole.unrecorded**2).mean() == pytest.approx(1)
    # Stimuli of another kind are kept worse, which the report must say.
    other = rng.standard_normal((100, 60)) * np.geomspace(0.01, 1, 60)
    assert compress([other], [images]).kept < 0.9 < whole.kept


def test_a_baseline_without_variance_is_refused() -> None:
    with pytest.raises(ValueError, match="no column of the baseline varies"):
        compress([np.ones((10, 3))])


@pytest.mark.parametrize("with_images", [False, True])
def test_scalars_are_held_whole_beside_the_components(mix: np.ndarray, with_images: bool) -> None:
    """One that components hold already, and a constant, add nothing."""
    rng = np.random.default_rng(0)
    x, images = correlated(rng, 200, mix), correlated(rng, 400, mix)

    def scalars(columns: np.ndarray) -> np.ndarray:
        loss = np.exp(columns[:, 0] / 10)
        return np.stack([100 + loss, columns @ mix[0], np.ones(len(columns)), loss + 3], axis=1)

    own, other = scalars(x), scalars(images)
    found = compress([x], [images] if with_images else None)
    whole = add_scalars(found, own, other if with_images else None)
    assert whole.recorded.shape[1] == found.recorded.shape[1] + 2
    for components, values in (
        (whole.recorded, own),
        *([(whole.unrecorded, other)] if with_images else []),
    ):
        assert components is not None
        design = np.hstack([components, np.ones((len(components), 1))])
        rest = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
        assert (rest.std(axis=0) < 1e-6 * (1 + values.std(axis=0))).all()
    fitted = whole.unrecorded if whole.unrecorded is not None else whole.recorded
    beside = fitted[:, found.recorded.shape[1] :]
    np.testing.assert_allclose((beside**2).mean(axis=0), 1)
    np.testing.assert_allclose(fitted[:, : found.recorded.shape[1]].T @ beside, 0, atol=1e-8 * 400)
