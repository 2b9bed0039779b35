import numpy as np
import pytest
import torch

from gradenc_core.models import load_model
from gradenc_core.objectives import (
    OBJECTIVES,
    Readout,
    parse_source,
    register,
    supported_objectives,
)


@pytest.fixture
def readout():
    rng = np.random.default_rng(0)
    pooled, logits = rng.standard_normal((6, 8)), 3 * rng.standard_normal((6, 4))
    return Readout(torch.from_numpy(pooled), torch.from_numpy(logits), None)


@pytest.fixture(scope="module")
def conv():
    return load_model("timm", "test_resnet", "untrained", 0, 32)


@pytest.fixture(scope="module")
def headless():
    return load_model("timm", "vit_small_patch14_reg4_dinov2", "untrained", 0, 28)


def loss(name, readout, seed=0, draw=0):
    return OBJECTIVES[name].loss(readout, seed, draw)


def test_classification_is_the_cross_entropy_of_the_own_argmax(readout):
    logits = readout.logits.numpy()
    expected = np.log(np.exp(logits).sum(1)) - logits.max(1)
    np.testing.assert_allclose(loss("classification", readout), expected)


def test_classification_uses_true_labels_where_given(readout):
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    logits = readout.logits.numpy()
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(6), labels]
    with_labels = Readout(readout.pooled, readout.logits, labels)
    np.testing.assert_allclose(loss("classification", with_labels), expected)


def test_classification_refuses_a_model_without_head(readout):
    with pytest.raises(ValueError, match="classification head"):
        loss("classification", Readout(readout.pooled, None, None))


def test_energy_is_half_the_squared_norm(readout):
    expected = (readout.pooled.numpy() ** 2).sum(1) / 2
    np.testing.assert_allclose(loss("energy", readout), expected)


def test_random_is_linear_seeded_and_differs_between_draws(readout):
    doubled = Readout(2 * readout.pooled, None, None)
    torch.testing.assert_close(loss("random", doubled), 2 * loss("random", readout))
    draws = torch.stack([loss("random", readout, seed, k) for seed in (0, 1) for k in range(10)])
    assert len(np.unique(draws.numpy(), axis=0)) == 20
    torch.testing.assert_close(loss("random", readout, 1, 3), draws[13])


def test_random_functionals_have_unit_variance_weights():
    readout = Readout(torch.eye(4000, dtype=torch.float64), None, None)
    weights = loss("random", readout)
    assert float(weights.norm()) == pytest.approx(1, abs=0.05)
    assert abs(float(weights.sum())) < 4


def test_a_model_without_head_has_no_classification(conv, headless):
    assert set(supported_objectives(conv)) == {"classification", "energy", "random"}
    assert set(supported_objectives(headless)) == {"energy", "random"}
    with pytest.raises(ValueError, match=r"gradient:classification.*gradient:energy"):
        parse_source(headless, "gradient:classification")


def test_sources_name_objective_and_draw(conv):
    assert OBJECTIVES["energy"].sources == ("gradient:energy",)
    assert len(OBJECTIVES["random"].sources) == 10
    assert parse_source(conv, "gradient:random.7") == (OBJECTIVES["random"], 7)


@pytest.mark.parametrize(
    "source", ["gradient:random", "gradient:random.10", "gradient:energy.0", "gradient:dino", "x"]
)
def test_unknown_sources_are_refused_with_the_known_ones(conv, source):
    with pytest.raises(ValueError, match="use forward, gradient:"):
        parse_source(conv, source)


def test_a_registered_objective_is_found(conv, monkeypatch):
    monkeypatch.setattr("gradenc_core.objectives.OBJECTIVES", dict(OBJECTIVES))

    @register("sparsity")
    def sparsity(readout, seed, draw):
        return readout.pooled.abs().sum(dim=1)

    objective, draw = parse_source(conv, "gradient:sparsity")
    assert (objective.loss, draw) == (sparsity, 0)
