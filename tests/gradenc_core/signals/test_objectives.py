from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradenc_core.models.model import load_model
from gradenc_core.signals.objectives import (
    OBJECTIVES,
    as_objective,
    needs,
    parse_source,
    supported_objectives,
)
from gradenc_core.signals.readout import Bank, Context, Readout

N, CHANNELS, PATCHES, VIEWS, ITEMS, PROTOTYPES = 4, 6, 5, 3, 7, 3
DIGESTS = tuple(f"s{i}" for i in range(N))


def normal(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def make_readout(seed=0, **parts):
    return Readout(
        pooled=normal([seed, 0], N, CHANNELS),
        patches=normal([seed, 1], N, PATCHES, CHANNELS),
        embedding=normal([seed, 2], N, CHANNELS),
        logits=3 * normal([seed, 3], N, 4),
        **{"digests": DIGESTS, **parts},
    )


@pytest.fixture
def readout():
    return make_readout(views=tuple(make_readout(10 + v) for v in range(VIEWS)))


@pytest.fixture
def context():
    pooled = normal(1, ITEMS, CHANNELS)
    prototypes = torch.from_numpy(unit(normal(2, PROTOTYPES, CHANNELS).numpy()))
    digests = ("s1", *(f"b{i}" for i in range(ITEMS - 1)))
    return Context(0, Bank(digests, pooled, 2 * pooled, pooled.mean(dim=0), prototypes))


@pytest.fixture(scope="module")
def conv():
    return load_model("timm", "test_resnet", "untrained", 0, 32)


@pytest.fixture(scope="module")
def headless():
    return load_model("timm", "vit_small_patch14_reg4_dinov2", "untrained", 0, 28)


def loss(name, readout, context, draw=0):
    return OBJECTIVES[name].loss(readout, context, draw)


def prototype_logits(x, bank):
    return unit(x.numpy() - bank.mean.numpy()) @ bank.prototypes.numpy().T


def test_dino_is_the_cross_entropy_with_sharpened_views(readout, context):
    student = np.log(softmax(prototype_logits(readout.pooled, context.bank) / 0.1))
    teachers = [prototype_logits(v.pooled, context.bank) / 0.04 for v in readout.views]
    expected = np.mean([-(softmax(t) * student).sum(1) for t in teachers], axis=0)
    np.testing.assert_allclose(loss("dino", readout, context), expected)


def test_dino_with_a_head_centres_the_teacher_by_the_bank(readout, context):
    weight = normal(5, 8, CHANNELS)
    headed = Context(0, context.bank, lambda x: x @ weight.T).settled(weight)
    project = lambda r: r.embedding.numpy() @ weight.numpy().T  # noqa: E731
    centre = (context.bank.embedding.numpy() @ weight.numpy().T).mean(0)
    student = np.log(softmax(project(readout) / 0.1))
    teachers = [softmax((project(v) - centre) / 0.04) for v in readout.views]
    expected = np.mean([-(t * student).sum(1) for t in teachers], axis=0)
    np.testing.assert_allclose(loss("dino", readout, headed), expected)


def test_contrastive_leaves_out_items_of_the_own_content(readout, context):
    z, bank = unit(readout.pooled.numpy()), unit(context.bank.pooled.numpy())
    losses = []
    for view in readout.views:
        positive = np.exp((z * unit(view.pooled.numpy())).sum(1) / 0.1)
        negatives = np.exp(z @ bank.T / 0.1)
        negatives[1, 0] = 0  # the item "s1" is the stimulus "s1"
        losses.append(-np.log(positive / (positive + negatives.sum(1))))
    np.testing.assert_allclose(loss("contrastive", readout, context), np.mean(losses, axis=0))


def test_masked_reads_hidden_patches_alone(context):
    mask = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [1, 0, 0, 0, 0], [0, 1, 0, 1, 0]]).bool()
    whole = make_readout(3)
    readout = make_readout(mask=mask, whole=whole)
    target = softmax(prototype_logits(whole.patches, context.bank) / 0.04)
    student = np.log(softmax(prototype_logits(readout.patches, context.bank) / 0.1))
    entropy = -(target * student).sum(-1)
    expected = [entropy[row][mask[row].numpy()].mean() for row in range(N)]
    np.testing.assert_allclose(loss("masked", readout, context), expected)


def test_classification_is_the_cross_entropy_of_the_own_argmax(readout, context):
    logits = readout.logits.numpy()
    expected = np.log(np.exp(logits).sum(1)) - logits.max(1)
    np.testing.assert_allclose(loss("classification", readout, context), expected)


def test_classification_uses_true_labels_where_given(context):
    labels = torch.tensor([0, 1, 2, 3])
    readout = make_readout(labels=labels)
    logits = readout.logits.numpy()
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(N), labels]
    np.testing.assert_allclose(loss("classification", readout, context), expected)


def test_classification_refuses_a_model_without_head(readout, context):
    with pytest.raises(ValueError, match="classification head"):
        loss("classification", Readout(readout.pooled, readout.patches), context)


def test_energy_is_half_the_squared_norm(readout, context):
    expected = (readout.pooled.numpy() ** 2).sum(1) / 2
    np.testing.assert_allclose(loss("energy", readout, context), expected)


def test_random_is_linear_seeded_and_differs_between_draws(readout, context):
    doubled = Readout(2 * readout.pooled, readout.patches)
    torch.testing.assert_close(
        loss("random", doubled, context), 2 * loss("random", readout, context)
    )
    draws = torch.stack(
        [loss("random", readout, Context(seed), k) for seed in (0, 1) for k in range(10)]
    )
    assert len(np.unique(draws.numpy(), axis=0)) == 20
    torch.testing.assert_close(loss("random", readout, Context(1), 3), draws[13])


def test_random_functionals_have_unit_variance_weights():
    readout = Readout(torch.eye(4000, dtype=torch.float64), torch.zeros(0))
    weights = loss("random", readout, Context(0))
    assert float(weights.norm()) == pytest.approx(1, abs=0.05)
    assert abs(float(weights.sum())) < 4


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.1, 10), name=st.sampled_from(["dino", "contrastive"]))
def test_cosines_do_not_know_the_length_of_an_embedding(scale, name):
    bank = Bank(
        ("b",) * ITEMS,
        *(normal(k, ITEMS, CHANNELS) for k in (1, 1)),
        torch.zeros(CHANNELS),
        normal(2, PROTOTYPES, CHANNELS),
    )
    readout = make_readout(views=(make_readout(4),))
    scaled = Readout(scale * readout.pooled, readout.patches, digests=DIGESTS, views=readout.views)
    torch.testing.assert_close(
        loss(name, scaled, Context(0, bank)), loss(name, readout, Context(0, bank))
    )


def test_a_model_declares_what_it_supports(conv, headless):
    assert set(supported_objectives(conv)) == set(OBJECTIVES) - {"masked"}
    assert set(supported_objectives(headless)) == set(OBJECTIVES) - {"classification"}
    with pytest.raises(ValueError, match=r"gradient:classification.*gradient:energy"):
        parse_source(headless, "gradient:classification")


def test_sources_name_objective_and_draw(conv):
    assert OBJECTIVES["energy"].sources == ("gradient:energy",)
    assert len(OBJECTIVES["random"].sources) == 10
    assert parse_source(conv, "gradient:random.7") == (OBJECTIVES["random"], 7)


def errors(name, readout, context, place="pooled"):
    """Return the error that each stimulus gets, (n_stimuli, n_channels): of a loss linear in it."""
    output = getattr(readout, place).clone().requires_grad_()
    total = loss(name, replace(readout, **{place: output}), context).sum()
    return torch.autograd.grad(total, output)[0]


def items_of(readout, context):
    """Return the item whose error each stimulus gets: that of `energy` is the item's output."""
    found = errors("mismatched_energy", readout, context).numpy()
    same = (found[:, None] == context.bank.pooled.numpy()).all(axis=-1)
    assert (same.sum(axis=1) == 1).all()
    return same.argmax(axis=1)


def test_a_mismatched_error_is_another_images_chosen_by_the_stimulus_alone(readout, context):
    many = replace(readout, digests=tuple(f"b{i % 3}" for i in range(N)))
    items = items_of(many, context)
    assert items[0] == items[3]  # b0 is there twice
    backwards = replace(many, pooled=many.pooled.flip(0), digests=many.digests[::-1])
    np.testing.assert_array_equal(items_of(backwards, context), items[::-1])


@given(
    st.lists(st.sampled_from(["s1", *(f"b{i}" for i in range(ITEMS - 1))]), min_size=N, max_size=N)
)
def test_a_mismatched_error_is_never_the_stimulus_s_own(digests):
    pooled = normal(1, ITEMS, CHANNELS)
    bank = Bank(("s1", *(f"b{i}" for i in range(ITEMS - 1))), pooled, pooled, pooled[0], pooled)
    items = items_of(make_readout(digests=tuple(digests)), Context(0, bank))
    assert all(bank.digests[item] != own for item, own in zip(items, digests, strict=True))


@pytest.mark.parametrize("name", ["dino", "contrastive", "energy"])
def test_a_mismatched_error_is_that_of_the_loss_at_the_other_image(name, readout, context):
    items = items_of(readout, context).tolist()
    other = context.bank.read(items)
    expected = errors(name, replace(other, views=(other,)), context)
    found = errors(f"mismatched_{name}", readout, context)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (np.abs(found.numpy()).max(axis=1) > 0).all()


def test_a_mismatched_error_of_a_head_is_that_of_its_logits(readout, context):
    weight = normal(5, 8, CHANNELS)
    headed = Context(0, context.bank, lambda x: x @ weight.T).settled(weight)
    logits = context.bank.embedding[items_of(readout, context)].numpy() @ weight.numpy().T
    difference = softmax(logits / 0.1) - softmax((logits - headed.centre.numpy()) / 0.04)
    found = errors("mismatched_dino", readout, headed, "embedding")
    np.testing.assert_allclose(found, difference / 0.1 @ weight.numpy(), atol=1e-12)
    assert not errors("mismatched_dino", readout, headed).any()


@pytest.mark.parametrize(
    "source", ["gradient:random", "gradient:random.10", "gradient:energy.0", "gradient:dinos", "x"]
)
def test_unknown_sources_are_refused_with_the_known_ones(conv, source):
    with pytest.raises(ValueError, match="use forward, gradient:"):
        parse_source(conv, source)


def test_every_objective_has_its_formula_and_source():
    for objective in OBJECTIVES.values():
        assert "L_s = " in objective.loss.__doc__
        assert "Source: " in objective.loss.__doc__


def test_an_objective_of_ones_own_says_what_it_needs(conv):
    @needs("views", n_draws=2)
    def sparsity(readout, context, draw):
        return readout.pooled.abs().sum(dim=1)

    objective = as_objective(sparsity)
    assert objective.sources == ("gradient:sparsity.0", "gradient:sparsity.1")
    assert objective.needs == {"views"}
    assert parse_source(conv, "gradient:sparsity.1", {"sparsity": objective}) == (objective, 1)
    assert as_objective(lambda readout, context, draw: readout.pooled[:, 0], "first").needs == set()
