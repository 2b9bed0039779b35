"""Channels are divided by their sd over the bank before they are projected."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradenc_core.models.model import VisionModel, from_module
from gradenc_core.models.preprocessing import Preprocessing
from gradenc_core.signals.extractor import ExtractionOptions, SignalExtractor
from gradenc_core.signals.scales import _Moments, as_tensors, channel_scales
from gradenc_core.signals.stimulus import Stimuli

SIZE, N_CHANNELS = 16, 24
STEPS = Preprocessing(SIZE, SIZE, False, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class OneLargeChannel(nn.Module):
    """Two blocks of maps; the first channel of the first is a hundred times the others."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Conv2d(3, N_CHANNELS, 4, stride=4)
        self.block2 = nn.Conv2d(N_CHANNELS, N_CHANNELS, 1)
        with torch.no_grad():
            self.block1.weight[0] *= 100

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block2(torch.tanh(self.block1(x))).mean((2, 3))


def network() -> VisionModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return from_module(OneLargeChannel(), STEPS)


def images(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def r2_of_the_last_channel(scaled: bool) -> float:
    """Return how well one small channel is read from the projected features of new images."""
    model, layers = network(), ["block1"]
    whole = {"layers": layers, "projection": None, "micro_batch": 50, "tokens": "patches"}
    narrow = whole | {"projection": 600}
    scales = None
    if scaled:
        unscaled = SignalExtractor(model, ["forward"], ExtractionOptions(**whole))
        scales = as_tensors(channel_scales(unscaled, [Stimuli(images(50, 1))], ["forward"]))
    x = images(1800, 2)
    extract = SignalExtractor(model, ["forward"], ExtractionOptions(**narrow, scales=scales))
    features = extract(x)["forward"][0].astype(np.float64)
    target = SignalExtractor(model, ["forward"], ExtractionOptions(**whole))(x)["forward"][0]
    target = target[:, -1].astype(np.float64)
    train, test = slice(0, 1500), slice(1500, 1800)
    features = (features - features[train].mean(axis=0)) / features[train].std(axis=0)
    gram = features[train] @ features[train].T
    rise = np.linalg.solve(gram + 200 * np.eye(1500), target[train] - target[train].mean())
    predicted = features[test] @ features[train].T @ rise
    left = target[test] - target[train].mean() - predicted
    return 1 - float((left**2).sum() / ((target[test] - target[test].mean()) ** 2).sum())


def test_a_few_large_channels_do_not_own_every_projected_column() -> None:
    assert r2_of_the_last_channel(scaled=True) > 0.9
    assert r2_of_the_last_channel(scaled=False) < 0.1


@pytest.mark.parametrize("scale", ["unit", "raw", "norm_only"])
def test_gradients_are_divided_after_their_own_norm(scale: str) -> None:
    model, x = network(), images(6, 3)
    plain = {"projection": None, "micro_batch": 6, "scale": scale}
    unscaled = SignalExtractor(model, ["gradient:energy"], ExtractionOptions(**plain))
    scales = channel_scales(unscaled, [Stimuli(images(20, 4)[:6])], ["gradient:energy"])
    options = ExtractionOptions(**plain, scales=as_tensors(scales))
    before = unscaled(x)["gradient:energy"]
    after = SignalExtractor(model, ["gradient:energy"], options)(x)["gradient:energy"]
    for own, layer, scaled in zip(scales["gradient:energy"], before, after, strict=True):
        n = 0 if scale == "norm_only" else N_CHANNELS
        np.testing.assert_allclose(scaled[:, :n], layer[:, :n] / own[:n], rtol=1e-6)
        np.testing.assert_array_equal(scaled[:, n:], layer[:, n:])


def moments(*parts: np.ndarray) -> _Moments:
    found = _Moments()
    for part in parts:
        found.add(part.astype(np.float64))
    return found


def test_channels_that_do_not_vary_are_left_as_they_are() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, 4)).astype(np.float32)
    rows[:, 0] = 3.0
    rows[:, 1] = 1000 * (1 + 1e-7 * rows[:, 1])  # float32's rounding
    rows[:, 2] = 0.0
    found = moments(rows[:7], rows[7:]).scale()
    assert found[:3].tolist() == [1, 1, 1]
    np.testing.assert_allclose(found[3], rows[:, 3].std(), rtol=1e-6)
    assert moments(np.zeros((5, 3))).scale().tolist() == [1, 1, 1]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.floats(-1e3, 1e3))
def test_the_batches_do_not_matter(sizes: list[int], offset: float) -> None:
    rows = np.random.default_rng(sum(sizes)).standard_normal((sum(sizes) + 1, 3)) + offset
    parts = np.split(rows, np.cumsum(sizes))
    np.testing.assert_allclose(moments(*parts).scale(), moments(rows).scale(), rtol=1e-5)
