"""Batches of stimuli: what belongs to a stimulus stays with it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gradenc_core.signals.conformance import tiny_model
from gradenc_core.signals.stimulus import Stimuli, stimulus
from gradenc_core.signals.views import N_VIEWS, teacher_views


def batch(n: int, parts: set[str]) -> Stimuli:
    """Return stimuli in which every tensor holds its stimulus's number."""
    number = torch.arange(n)
    return Stimuli(
        number[:, None, None, None].expand(n, 3, 2, 2),
        number if "labels" in parts else None,
        [str(i) for i in range(n)] if "digests" in parts else None,
        number[:, None, None, None, None].expand(n, 2, 3, 2, 2) if "views" in parts else None,
        number[:, None, None].expand(n, 2, 4) if "masks" in parts else None,
    )


def numbers(stimuli: Stimuli) -> dict[str, list[int]]:
    """Return the number that each part says of each stimulus; every entry of a row is equal."""
    parts = vars(stimuli) | {"digests": None}
    tensors = {
        name: part.flatten(1) if part.ndim > 1 else part[:, None]
        for name, part in parts.items()
        if part is not None
    }
    assert all(bool((part == part[:, :1]).all()) for part in tensors.values())
    found = {name: part[:, 0].tolist() for name, part in tensors.items()}
    return found | ({"digests": [*map(int, stimuli.digests)]} if stimuli.digests else {})


parts_of = st.sets(st.sampled_from(["labels", "digests", "views", "masks"]))


@given(parts_of, st.lists(st.integers(0, 5), min_size=1, max_size=9))
def test_every_part_follows_the_index(parts: set[str], index: list[int]) -> None:
    chosen = batch(6, parts)[torch.tensor(index)]
    assert numbers(chosen) == dict.fromkeys(["images", *parts], index)
    assert len(chosen) == len(index)


@given(parts_of, st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_joined_parts_are_the_whole_they_were_cut_from(parts: set[str], sizes: list[int]) -> None:
    whole = batch(sum(sizes), parts)
    ends = np.cumsum(sizes)
    cut = [
        whole[torch.arange(end - size, end)] for end, size in zip(ends.tolist(), sizes, strict=True)
    ]
    assert numbers(Stimuli.joined(cut)) == numbers(whole)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_a_stimulus_has_views_only_where_a_seed_is_given(model) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))
    plain = stimulus(model, image, "a", None, None)
    assert (plain.views, plain.labels, plain.digests) == (None, None, ["a"])
    assert torch.equal(plain.images[0], model.preprocessing.apply(image))
    viewed = stimulus(model, image, "a", 3, 7)
    assert viewed.views.shape == (1, N_VIEWS, 3, model.image_size, model.image_size)
    assert torch.equal(viewed.views[0], teacher_views(model, image, "a", 3))
    assert viewed.labels.tolist() == [7]
