import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gradenc_core.ridge.basis import root
from gradenc_core.ridge.quadratic import NEIGHBOURS, Quadratic, squared_predictions


def gram(p, rank, seed=0):
    x = np.random.default_rng(seed).standard_normal((rank, p))
    return x.T @ x


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 99))
def test_quadratic_form_of_either_kind(rank, n_rows, seed):
    matrix = gram(rank, n_rows, seed)
    x = np.random.default_rng(seed).standard_normal((rank, 5)) * np.logspace(-9, 9, 5)
    want = np.einsum("it,ij,jt->t", x, matrix, x)
    for form in (Quadratic.of(matrix), Quadratic.of_root(root(matrix).T)):
        np.testing.assert_allclose(form(x), want, rtol=1e-9)
        np.testing.assert_allclose(form.matrix, matrix, atol=1e-12 * np.abs(matrix).max())


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 60),
    st.sampled_from(["spread", "equal", "twice", "neighbours", "condition"]),
    st.sampled_from([1e-180, 1e-9, 1.0, 1e9, 1e180]),
    st.integers(0, 99),
)
def test_squared_predictions_of_all_alphas_from_one_product(rank, n_rows, spectrum, unit, seed):
    """Also where eigenvalues are equal, or as near as where pairs are no longer neighbours."""
    rng = np.random.default_rng(seed)
    values = (
        unit
        * {
            "spread": np.sort(rng.uniform(1, 10, rank)),
            "equal": np.ones(rank),
            "twice": np.repeat(np.sort(rng.uniform(1, 10, rank)), 2)[:rank],
            "neighbours": (1 + 1.01 * NEIGHBOURS) ** np.arange(rank),
            "condition": np.logspace(-6, 6, rank),
        }[spectrum]
    )
    c = rng.standard_normal((rank, 3)) * np.logspace(-4, 4, 3)
    shrunk = values / (values + unit * np.logspace(-8, 8, 7)[:, None])
    powers = [Quadratic.of_root(root(gram(rank, n_rows, seed + i)).T) for i in range(2)]
    found = squared_predictions(values, shrunk, powers, c)
    for power, (squares, margin) in zip(powers, found, strict=True):
        want = np.stack([power(row[:, None] * c) for row in shrunk])
        assert (np.abs(squares - want) <= margin).all()
        assert (margin <= 1e-7 * power.size * (c * c).sum(axis=0)).all()
