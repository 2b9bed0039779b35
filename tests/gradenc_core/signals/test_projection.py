import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from gradenc_core.keyed import keyed_generator
from gradenc_core.signals.projection import fit_components, sparse_projection


def dense(projection, n_inputs):
    matrix = np.zeros((n_inputs, len(projection.indices)))
    for output, (rows, signs) in enumerate(
        zip(projection.indices.numpy(), projection.signs.numpy(), strict=True)
    ):
        np.add.at(matrix[:, output], rows, signs)
    return matrix * projection.scale


@pytest.mark.parametrize("n_inputs", [3, 64, 1000, 70_000])
def test_equals_its_dense_matrix(n_inputs):
    projection = sparse_projection(1, "layer", n_inputs, 16)
    features = torch.randn(5, n_inputs, generator=torch.Generator().manual_seed(0))
    expected = features.double().numpy() @ dense(projection, n_inputs)
    np.testing.assert_allclose(projection(features).numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_inputs", [12, 512, 5000])
def test_keeps_norms_and_distances_in_expectation(n_inputs):
    rng = np.random.default_rng(0)
    pair = torch.from_numpy(rng.standard_normal((2, n_inputs)).astype(np.float32))
    projected = [sparse_projection(seed, "layer", n_inputs, 64)(pair) for seed in range(300)]
    norms = torch.stack([x.square().sum(dim=1) for x in projected]).mean(dim=0)
    distance = torch.stack([(x[0] - x[1]).square().sum() for x in projected]).mean()
    torch.testing.assert_close(norms, pair.square().sum(dim=1), rtol=0.05, atol=0)
    torch.testing.assert_close(distance, (pair[0] - pair[1]).square().sum(), rtol=0.05, atol=0)


def test_density_is_a_third_and_never_below_one_over_root_d():
    n_entries = {d: sparse_projection(0, "x", d, 2).indices.shape[1] for d in (300, 3000, 640_000)}
    assert n_entries == {300: 100, 3000: 256, 640_000: 800}


@pytest.mark.parametrize(
    "other", [(1, "a", 50, 8), (0, "b", 50, 8), (0, "a", 51, 8), (0, "a", 50, 9)]
)
def test_depends_on_its_key_alone(other):
    first, again = sparse_projection(0, "a", 50, 8), sparse_projection(0, "a", 50, 8)
    assert torch.equal(first.indices, again.indices)
    assert torch.equal(first.signs, again.signs)
    changed = sparse_projection(*other)
    assert changed.signs.shape != first.signs.shape or not torch.equal(changed.signs, first.signs)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(11)), st.sampled_from([7, 300, 2000]))
def test_bytes_do_not_depend_on_the_row(order, n_inputs):
    projection = sparse_projection(3, "layer", n_inputs, 24)
    features = torch.randn(11, n_inputs, generator=torch.Generator().manual_seed(1))
    assert torch.equal(projection(features[order]), projection(features)[order])


def test_no_outputs_are_refused():
    with pytest.raises(ValueError, match="projection is 0"):
        sparse_projection(0, "layer", 10, 0)


def test_keyed_generator_separates_the_parts_of_its_key():
    streams = [
        keyed_generator(*key).random() for key in (("a", "bc"), ("ab", "c"), ("a", "b", "c"))
    ]
    assert len(set(streams)) == 3


@pytest.mark.parametrize("shape", [(40, 12), (20, 65)])
def test_components_are_scikit_learns(shape):
    rows = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    components, shares = fit_components(rows, 5)
    expected = PCA(5, svd_solver="full").fit(rows.astype(np.float64))
    found = components(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(found, expected.transform(rows.astype(np.float64)), atol=2e-6)
    np.testing.assert_allclose(shares, expected.explained_variance_ratio_)


def test_components_of_rounding_are_zero():
    rows = np.random.default_rng(0).standard_normal((30, 3)) @ np.ones((3, 8))
    components, _ = fit_components(rows.astype(np.float32), 4)
    assert components.vectors.any(dim=1).tolist() == [True, False, False, False]
    nothing, _ = fit_components(np.zeros((30, 8)), 2)
    assert not nothing(torch.ones(2, 8)).any()


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(5)), st.sampled_from([65, 513]))
def test_bytes_of_components_do_not_depend_on_the_row(order, n_inputs):
    rows = np.random.default_rng(n_inputs).standard_normal((20, n_inputs)).astype(np.float32)
    components, _ = fit_components(rows, 7)
    batch = torch.from_numpy(rows[:5])
    assert torch.equal(components(batch[order]), components(batch)[order])
