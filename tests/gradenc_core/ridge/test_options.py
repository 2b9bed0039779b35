import numpy as np
import pytest

from gradenc_core.ridge.options import RidgeOptions


def test_options_have_the_alphas_of_a_study_and_refuse_nonsense():
    assert RidgeOptions().alpha_grid[[0, -1]].tolist() == [1e8, 1.0]
    assert len(RidgeOptions().alphas) == 25
    assert RidgeOptions((1.0, 3.0, 1.0)).alpha_grid.tolist() == [3.0, 1.0]
    assert RidgeOptions(ratios=(2.0, 0.0)).ratio_grid.tolist() == [0.0, 2.0]
    for alphas in [(), (-1.0,), (0.0, 1.0), (np.inf,), (np.nan,)]:
        with pytest.raises(ValueError, match=r"alphas is .* positive numbers"):
            RidgeOptions(alphas)
    for ratios in [(1.0,), (0.0, -1.0), (0.0, np.nan)]:
        with pytest.raises(ValueError, match=r"ratios is .* include 0"):
            RidgeOptions(ratios=ratios)
    with pytest.raises(ValueError, match="selection is 'best'"):
        RidgeOptions(selection="best")  # type: ignore[arg-type]
