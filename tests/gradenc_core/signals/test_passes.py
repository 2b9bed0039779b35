"""Gradients of every objective, against autograd on single stimuli and finite differences."""

import numpy as np
import pytest
import torch
from torch import nn

from gradenc_core.models.library import Preprocessing
from gradenc_core.models.model import from_module, load_model
from gradenc_core.signals import conformance
from gradenc_core.signals.bank import build_bank
from gradenc_core.signals.classify import classify_signals
from gradenc_core.signals.conformance import NotConforming, check_objective, tiny_model
from gradenc_core.signals.extractor import ExtractionOptions, SignalExtractor
from gradenc_core.signals.masks import mask_token, masked_patches, patch_masks, patch_module
from gradenc_core.signals.objectives import (
    OBJECTIVES,
    Objective,
    as_objective,
    as_signal,
    needs,
    signal,
)
from gradenc_core.signals.passes import Passes, final_norm, reading_summary
from gradenc_core.signals.readout import Context
from gradenc_core.signals.stimulus import Stimuli

SOURCES = [source for objective in OBJECTIVES.values() for source in objective.sources[:1]]
N_VIEWS = 2


def make_stimuli(size, n=4, seed=0, dtype=torch.float64):
    images = torch.randn(
        n, 1 + N_VIEWS, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype
    )
    return Stimuli(images[:, 0], None, tuple(f"s{i}" for i in range(n)), images[:, 1:])


def make_bank(model, n=8, n_prototypes=3):
    noise = make_stimuli(model.image_size, n, 9, next(model.module.parameters()).dtype)
    return build_bank(model, [(f"b{i}", x) for i, x in enumerate(noise.images)], 0, 4, n_prototypes)


def pooled(model, stimuli, micro_batch, sources=SOURCES, tokens="mean"):
    context = Context(0, make_bank(model))
    options = ExtractionOptions(tokens=tokens, micro_batch=micro_batch, context=context)
    return SignalExtractor(model, sources, options).pooled(stimuli)


@pytest.fixture(scope="module")
def vit():
    return tiny_model()


@pytest.fixture(scope="module")
def single():
    """A small transformer as it is used: float32, with registers and without a head."""
    return load_model("timm", "vit_small_patch14_reg4_dinov2", "untrained", 0, 42)


class NormedBlock(nn.Sequential):
    pass


class NormedNet(nn.Module):
    """Convolutions with batch normalisation, whose statistics are far from any batch's."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            NormedBlock(nn.Conv2d(n, 6, 3, padding=1), nn.BatchNorm2d(6), nn.SiLU())
            for n in (3, 6, 6)
        )
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((2, 3)))


@pytest.fixture(scope="module")
def normed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = NormedNet().double()
    for block in module.blocks:
        nn.init.constant_(block[1].running_var, 0.2)
    return from_module(module, Preprocessing(8, 8, False, "bilinear", (0.0,) * 3, (1.0,) * 3))


# Every objective equals finite differences (float64, transformer): the shipped conformance test.


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_conforms(vit, name):
    check_objective(OBJECTIVES[name], vit)


def test_dino_with_a_head_conforms(vit):
    head = nn.Sequential(nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 9))
    check_objective(OBJECTIVES["dino"], vit, head)
    assert not any(p.requires_grad for p in head.parameters())


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"masked"}))
def test_every_objective_conforms_on_batch_normalised_maps(normed, name):
    check_objective(OBJECTIVES[name], normed)
    assert not normed.module.training


def bad_batch(readout, context, draw):
    return readout.pooled.sum(dim=1) - readout.pooled.mean() * readout.pooled[:, 0]


def bad_mean(readout, context, draw):
    return readout.pooled.square().sum(dim=1) / len(readout.pooled)


def bad_noise(readout, context, draw):
    return (readout.pooled * torch.rand_like(readout.pooled)).sum(dim=1)


def bad_place(readout, context, draw):
    return readout.pooled.sum(dim=1) * (1 + torch.arange(len(readout.pooled)) % 2)


def bad_shape(readout, context, draw):
    return readout.pooled.sum()


def bad_detached(readout, context, draw):
    return (readout.pooled * readout.pooled.detach()).sum(dim=1)


def bad_logarithm(readout, context, draw):
    return (readout.pooled - readout.pooled).sum(dim=1).log()


def bad_root(readout, context, draw):
    return (readout.pooled.sum(dim=1) * 0).sqrt()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (bad_batch, "another gradient beside other stimuli"),
        (bad_mean, "another gradient in a batch of another size; do not divide by the number"),
        (bad_noise, "another gradient beside other stimuli"),
        (bad_place, "other bytes when stimuli are split"),
        (bad_shape, r"returns shape \(\) for 5 stimuli"),
        (bad_detached, "not that of its loss"),
        (bad_logarithm, "returns a loss that is not finite"),
        (bad_root, "has a gradient that is not finite; guard its logarithms, roots"),
    ],
)
def test_what_is_no_objective_is_refused(vit, loss, message):
    with pytest.raises(conformance.NotConforming, match=f"objective {loss.__name__} .*{message}"):
        check_objective(as_objective(loss), vit)


def test_an_objective_may_read_all_the_views_that_are_promised(vit):
    @needs("views")
    def late(readout, context, draw):
        losses = [(readout.pooled * view.pooled).sum(dim=1) for view in readout.views[4:]]
        return torch.stack(losses).mean(dim=0)

    check_objective(as_objective(late), vit)


# Against autograd on single stimuli, written out.


def last_tokens(module, x, from_block=None, hidden=None):
    """Return the last block's tokens, from the images or from the first block's output."""
    if from_block is None:
        x = module.patch_embed(x)
        if hidden is not None:
            x = torch.where(hidden[None, :, None], torch.zeros(()).to(x), x)
        x = module.norm_pre(module.pos_drop(module._pos_embed(x)))
        x = module.blocks[0](x)
        from_block = x.detach().requires_grad_()
    return module.blocks[1](from_block), from_block


def test_dino_equals_autograd_on_single_stimuli(vit):
    stimuli, bank = make_stimuli(16), make_bank(vit)
    found = pooled(vit, stimuli, 4, ["gradient:dino"])["gradient:dino"][0]
    for row in range(4):
        tokens, first = last_tokens(vit.module, stimuli.images[row : row + 1])
        student = (bank.logits(tokens[:, 1:].mean(1)) / 0.1).log_softmax(1)
        loss = 0.0
        for view in stimuli.views[row]:
            teacher, _ = last_tokens(vit.module, view[None])
            target = (bank.logits(teacher[:, 1:].mean(1).detach()) / 0.04).softmax(1)
            loss = loss - (target * student).sum() / N_VIEWS
        (gradient,) = torch.autograd.grad(loss, first)
        torch.testing.assert_close(found[row], gradient[0, 1:].mean(0), rtol=1e-9, atol=1e-12)


def test_masked_equals_autograd_on_single_stimuli(vit):
    stimuli, bank = make_stimuli(16), make_bank(vit)
    found = pooled(vit, stimuli, 4, ["forward", "gradient:masked"])
    for row in range(4):
        image = stimuli.images[row : row + 1]
        whole, first = last_tokens(vit.module, image)
        target = (bank.logits(whole[:, 1:].detach()) / 0.04).softmax(-1)
        mean = torch.zeros(16, dtype=torch.float64)
        for mask in torch.from_numpy(patch_masks(f"s{row}", 0, 16)):
            tokens, hidden = last_tokens(vit.module, image, hidden=mask)
            student = (bank.logits(tokens[:, 1:]) / 0.1).log_softmax(-1)
            loss = -(target * student).sum(-1)[0, mask].mean()
            (gradient,) = torch.autograd.grad(loss, hidden)
            mean += gradient[0, 1:].mean(0) / 2
        torch.testing.assert_close(found["gradient:masked"][0][row], mean, rtol=1e-9, atol=1e-12)
        # the forward signal is that of the unmasked pass
        torch.testing.assert_close(found["forward"][0][row], first[0, 1:].mean(0).detach())


# A batch equals its singles; only the passes that are needed run.


def test_a_batch_equals_its_singles(single, normed):
    for model, sources in (
        (single, set(SOURCES) - {"gradient:classification"}),
        (normed, {SOURCES[0]}),
    ):
        dtype = next(model.module.parameters()).dtype
        stimuli = make_stimuli(model.image_size, 3, dtype=dtype)
        together, alone = (pooled(model, stimuli, size, sorted(sources)) for size in (3, 1))
        for source, layers in together.items():
            for batched, one in zip(layers, alone[source], strict=True):
                error = torch.linalg.vector_norm(batched - one, dim=1)
                assert bool((error <= 1e-5 * torch.linalg.vector_norm(one, dim=1)).all())


@pytest.mark.parametrize(
    ("sources", "n_passes"),
    [
        (["forward"], 1),
        (["gradient:energy", "gradient:random.3"], 1),
        (["gradient:dino", "gradient:contrastive"], 1 + N_VIEWS),
        (["gradient:masked"], 3),
        (SOURCES, 3 + N_VIEWS),
    ],
)
def test_only_the_needed_passes_run(vit, sources, n_passes):
    passes = Passes(vit, vit.blocks, sources, Context(0, make_bank(vit)))
    calls = []
    hook = vit.module.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    signals = passes.run(make_stimuli(16)).signals
    hook.remove()
    assert set(signals) == {"forward", *sources}
    assert len(calls) == n_passes
    n_teachers = N_VIEWS if "views" in passes.needs else 0
    assert sum(calls) == n_passes - n_teachers - (sources in (["forward"], ["gradient:masked"]))


def test_other_objectives_do_not_change_the_bytes(vit):
    stimuli = make_stimuli(16)
    together = pooled(vit, stimuli, 4)
    for source in SOURCES:
        alone = pooled(vit, stimuli, 4, [source])
        for name in ("forward", source):
            for a, b in zip(alone[name], together[name], strict=True):
                assert torch.equal(a, b)


@needs("views")
def reads_views(readout, context, draw):
    assert {view.embedding for view in readout.views} == {None}
    return readout.pooled.sum(dim=1)


@needs("bank")
def reads_the_bank(readout, context, draw):
    return context.bank.logits(readout.pooled).logsumexp(dim=1)


def reads_everything(readout, context, draw):
    seen = (context.bank, context.head, context.centre, readout.embedding, readout.views or None)
    assert seen == (None,) * len(seen)
    return readout.pooled.sum(dim=1)


def test_an_objective_sees_only_what_it_needs(vit):
    # Beside `dino` with a head there are bank, views and embeddings, which its identity lacks.
    objectives = [OBJECTIVES["dino"], as_objective(reads_everything), as_objective(reads_views)]
    found = (
        Passes(
            vit,
            vit.blocks,
            [source for objective in objectives for source in objective.sources],
            Context(0, make_bank(vit), nn.Linear(16, 9)),
            {objective.name: objective for objective in objectives},
        )
        .run(make_stimuli(16))
        .signals
    )
    assert {"gradient:reads_everything", "gradient:reads_views"} <= set(found)


def test_a_need_that_is_not_declared_does_not_conform(vit):
    check_objective(as_objective(reads_the_bank), vit)
    undeclared = Objective("undeclared", reads_the_bank, frozenset(), 1)
    with pytest.raises(conformance.NotConforming, match="declare with `needs`"):
        check_objective(undeclared, vit)


def test_what_an_objective_needs_is_asked_for(vit):
    with pytest.raises(ValueError, match=r"gradient:dino need a reference bank"):
        Passes(vit, vit.blocks, ["gradient:dino"], Context(0))
    with pytest.raises(ValueError, match="a head needs a reference bank"):
        Passes(vit, vit.blocks, ["forward"], Context(0, head=lambda x: x))
    passes = Passes(vit, vit.blocks, ["gradient:dino"], Context(0, make_bank(vit)))
    images = make_stimuli(16).images
    with pytest.raises(ValueError, match="give `digests`"):
        passes.run(Stimuli(images))
    with pytest.raises(ValueError, match="give `views`"):
        passes.run(Stimuli(images, digests="abcd"))


# Masks, and where objectives read


def test_masks_are_complementary_and_keyed_by_content():
    for n in (2, 9, 16):
        first, second = patch_masks("a", 0, n)
        assert np.array_equal(first, ~second)
        assert first.sum() == n // 2
    masks = [patch_masks(*key, 64).tobytes() for key in (("a", 0), ("b", 0), ("a", 1))]
    assert len(set(masks)) == 3
    assert patch_masks("a", 0, 64).tobytes() == masks[0]


@pytest.mark.parametrize(
    ("library", "architecture", "size", "module"),
    [
        ("timm", "test_vit", 32, "patch_embed.proj"),
        ("torchvision", "vit_b_16", 32, "conv_proj"),
        ("timm", "test_resnet", 32, None),
    ],
)
def test_patches_are_hidden_where_they_are_embedded(library, architecture, size, module):
    model = load_model(library, architecture, "untrained", 0, size)
    assert patch_module(model) == module
    if module is None:
        with pytest.raises(ValueError, match="no patch tokens"):
            mask_token(model)
        return
    embed, seen = model.module.get_submodule(module), []
    mask = torch.tensor([[True, False, False, True]])
    with masked_patches(model, mask), torch.no_grad():
        hook = embed.register_forward_hook(lambda _m, _i, output: seen.append(output))
        model.module(torch.randn(1, 3, size, size))
        hook.remove()
    assert (seen[0].flatten(2).abs().sum(1) == 0).tolist() == mask.tolist()


def test_a_models_own_mask_token_is_used(vit):
    assert mask_token(vit)[0] == "zeros"
    model = tiny_model()
    model.module.mask_token = nn.Parameter(torch.full((1, 1, 16), 0.5).double(), False)
    kind, token = mask_token(model)
    assert (kind, token.tolist()) == ("model", [0.5] * 16)
    assert reading_summary(model) == {
        "pooled": "mean of the patches of blocks.1",
        "embedding": "cls of norm",
        "masked_at": "patch_embed.proj",
        "masked_with": "model",
    }


def test_the_embedding_is_the_class_token_after_the_final_norm(vit, normed):
    assert final_norm(vit) == "norm"
    assert final_norm(normed) is None
    images = make_stimuli(16).images
    readout = Passes(vit, (), (), Context(0)).read(images)
    with torch.no_grad():
        tokens = vit.module.forward_features(images)
    torch.testing.assert_close(readout.embedding, tokens[:, 0])
    images = make_stimuli(8).images
    readout = Passes(normed, (), (), Context(0)).read(images)
    assert torch.equal(readout.embedding, readout.pooled)


def test_classes_hold_for_all_objectives_and_tokens(vit):
    stimuli, bank = make_stimuli(16, 8), make_bank(vit)
    for tokens in ("mean", "patches", "cls"):
        options = ExtractionOptions(tokens=tokens, micro_batch=8, context=Context(0, bank))
        classes = classify_signals(SignalExtractor(vit, SOURCES, options), stimuli)
        first, last = ({s: c[i] for s, c in classes.items()} for i in (0, 1))
        assert set(first.values()) == {"ok"}
        head = last.pop("gradient:classification")
        assert head == ("ok" if tokens == "cls" else "zero")  # it reads the class token alone
        if tokens == "cls":
            assert set(last.values()) == {"zero"}  # the others read the patches
        else:
            assert last["gradient:random.0"] == "constant"
            assert last["gradient:dino"] == last["gradient:contrastive"] == "ok"
            assert last["gradient:masked"] == "ok"
            same = "identical_to_forward" if tokens == "mean" else "ok"
            assert last["gradient:energy"] == same


def changes_pooled(readout, context, draw):
    z = readout.pooled
    z -= 0.5
    return z.square().sum(dim=1)


def changes_patches(readout, context, draw):
    return readout.patches.mul_(2).sum(dim=(1, 2))


@needs("views")
def changes_a_view(readout, context, draw):
    return (readout.pooled * readout.views[-1].pooled.sub_(1)).sum(dim=1)


@needs("bank")
def changes_the_bank(readout, context, draw):
    context.bank.prototypes[0] = 0
    return context.bank.logits(readout.pooled).logsumexp(dim=1)


@needs("masks")
def changes_the_whole(readout, context, draw):
    return (readout.patches * readout.whole.patches.neg_()).sum(dim=(1, 2))


@pytest.mark.parametrize(
    "loss",
    [changes_pooled, changes_patches, changes_a_view, changes_the_bank, changes_the_whole],
)
def test_an_objective_that_works_in_place_is_refused_before_and_when_it_runs(loss):
    message = f"gradient:{loss.__name__} works in place on what it reads; copy it first"
    model, objective = tiny_model(), as_objective(loss)
    with pytest.raises(NotConforming, match=message):
        check_objective(objective, model)
    objectives = OBJECTIVES | {objective.name: objective}
    sources = [*objective.sources, "gradient:energy"]
    passes = Passes(model, model.blocks, sources, Context(0, make_bank(model)), objectives)
    with pytest.raises(ValueError, match=message):
        passes.run(make_stimuli(16))


def test_a_rule_that_works_in_place_reaches_no_other_signal():
    @signal(of="energy")
    def inplace(activations, gradients):
        return [h.mul_(g) for h, g in zip(activations, gradients, strict=True)]

    model, images = tiny_model(), torch.randn(3, 3, 16, 16, dtype=torch.float64)
    objectives = OBJECTIVES | {"inplace": as_signal(inplace)}
    sources = ["forward", "gradient:energy", "signal:inplace"]
    alone, both = (
        Passes(model, model.blocks, chosen, Context(0), objectives).run(Stimuli(images)).signals
        for chosen in (sources[:2], sources)
    )
    for source in sources[:2]:
        assert all(map(torch.equal, alone[source], both[source]))
    pairs = zip(both["forward"], both["gradient:energy"], strict=True)
    assert all(map(torch.equal, both["signal:inplace"], (h * g for h, g in pairs)))


def test_a_rule_that_works_in_place_doubles_no_other_layers_gradient():
    @signal(of="energy")
    def inplace(activations, gradients):
        return [g.mul_(2) for g in gradients]

    model, images = tiny_model(), torch.randn(3, 3, 16, 16, dtype=torch.float64)
    # Autograd gives both terms of a sum one tensor as their gradient.
    layers = ["blocks.0", "blocks.1.attn", "blocks.1.ls1", "blocks.1"]
    objectives = OBJECTIVES | {"inplace": as_signal(inplace)}
    sources = ["gradient:energy", "signal:inplace"]
    found = Passes(model, layers, sources, Context(0), objectives).run(Stimuli(images)).signals
    pairs = zip(found["signal:inplace"], found["gradient:energy"], strict=True)
    assert all(torch.equal(x, 2 * g) for x, g in pairs)


@pytest.mark.parametrize("change", [lambda g: g > 0, lambda g: g.long(), lambda g: g[:, :1]])
def test_a_signal_that_could_not_be_pooled_is_refused_with_what_to_return(change):
    @signal(of="energy")
    def odd(activations, gradients):
        return [change(g) for g in gradients]

    with pytest.raises(NotConforming, match="return the layers' own") as refused:
        check_objective(as_signal(odd))
    assert "`needs`" not in str(refused.value)


def test_a_signal_that_is_not_finite_is_refused_as_such():
    @signal(of="energy")
    def broken(activations, gradients):
        return [g / 0 for g in gradients]

    with pytest.raises(NotConforming, match="the signal broken is not finite"):
        check_objective(as_signal(broken))


def test_a_signal_that_depends_on_the_size_of_the_batch_is_refused():
    @signal(of="energy")
    def shared(activations, gradients):
        return [g / len(g) for g in gradients]

    with pytest.raises(NotConforming, match=r"the signal shared .* in a batch of another size"):
        check_objective(as_signal(shared))
