"""The plan of a fit: its form, its memory as measured, and what does not fit."""

import json
import subprocess
import sys

import pytest

from gradenc_core.ridge.cost import Shapes, least_memory, plan_solver
from gradenc_core.ridge.options import RidgeOptions

MEASURE = """
import json, sys
import numpy as np
from gradenc_core.ridge.encode import score_targets
from gradenc_core.ridge.factorise import factorise
from gradenc_core.ridge.resample import bootstrap_scores
from gradenc_core.ridge.options import RidgeOptions

n, p, t, bootstraps, selection, banded = json.loads(sys.argv[1])


class Rows:
    shape = (n, p)

    def __getitem__(self, rows):
        start, stop, _ = rows.indices(n)
        return np.random.default_rng(start).standard_normal((stop - start, p), dtype=np.float32)


class Columns:
    shape = (n, t)

    def __getitem__(self, index):
        start, stop, _ = index[1].indices(t)
        return np.random.default_rng(start).standard_normal((n, stop - start), dtype=np.float32)


def peak():
    # Not ru_maxrss, which remembers what the parent was at the fork.
    status = open("/proc/self/status").read()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


np.linalg.eigh(np.eye(64) @ np.eye(64))  # the buffers of BLAS belong to the libraries
before = peak()
options = RidgeOptions(selection=selection, ratios=(0.0, 1.0))
bands = (p // 2, p - p // 2) if banded else None
design = factorise(Rows(), np.arange(n) % 4, None, options, bands)
score_targets(design, Columns())
if bootstraps:
    bootstrap_scores(design, Columns(), np.arange(n) // 4 % 5, bootstraps, 0)
print(peak() - before)
"""


@pytest.mark.parametrize(
    ("n", "p", "t", "bootstraps", "selection", "banded"),
    [
        (2_000, 128, 1_024, 0, "kfold", False),
        (16_000, 128, 1_024, 0, "kfold", False),
        (2_000, 128, 8_192, 0, "gcv", False),
        (3_000, 384, 1_024, 4, "kfold", True),
        (9_000, 128, 1_024, 0, "loo", False),
        (300, 2_000, 1_024, 0, "kfold", False),
        (600, 620, 1_024, 0, "kfold", True),
        (600, 620, 1_024, 0, "gcv", True),
        (60, 8, 100_000, 0, "gcv", True),
    ],
)
def test_memory_stays_within_the_plan(n, p, t, bootstraps, selection, banded):
    shapes = Shapes(n, p, t, 4, n_summaries=t, n_bootstraps=bootstraps, n_blocks=5)
    options = RidgeOptions(selection=selection, ratios=(0.0, 1.0))
    plan = plan_solver(shapes, options, banded, memory_limit=None)
    arguments = json.dumps([n, p, t, bootstraps, selection, banded])
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, arguments], capture_output=True, text=True, check=True
    )
    used, streamed = int(done.stdout), plan.memory - n * p * 4
    assert used <= streamed
    assert used >= 0.3 * streamed  # a limit that promises nothing would be no plan


def test_the_form_follows_from_the_shapes():
    options = RidgeOptions()
    assert plan_solver(Shapes(1000, 999, 10, 5), options, False).form == "primal"
    assert plan_solver(Shapes(999, 1000, 10, 5), options, False).form == "dual"


def test_rows_are_read_again_where_memory_does_not_hold_them():
    shapes, options = Shapes(200_000, 512, 1_000, 5), RidgeOptions(selection="gcv")
    held = plan_solver(shapes, options, False)
    assert held.hold_rows
    streamed = plan_solver(shapes, options, False, held.memory - 1)
    assert not streamed.hold_rows
    assert streamed.memory < held.memory
    with pytest.raises(ValueError, match=r"needs .* GB of memory .* but has .*; give it more"):
        plan_solver(shapes, options, False, streamed.memory - 1)


@pytest.mark.parametrize("n_features", [20, 2000])
def test_the_least_memory_is_the_lowest_limit_that_is_accepted(n_features: int) -> None:
    shapes, options = Shapes(100, n_features, 10, 5), RidgeOptions(selection="gcv")
    least = least_memory(shapes, options, False)
    plan_solver(shapes, options, False, least)
    with pytest.raises(ValueError, match=rf"needs {least / 1e9:.3f} GB .* but has 0\.0"):
        plan_solver(shapes, options, False, least - 1)


def test_operations_grow_with_what_is_fitted():
    options = RidgeOptions()
    one = plan_solver(Shapes(10_000, 512, 1_000, 5), options, False).operations
    assert plan_solver(Shapes(10_000, 512, 2_000, 5), options, False).operations < 2 * one
    assert plan_solver(Shapes(10_000, 512, 1_000, 5), options, True).operations > one
    resampled = Shapes(10_000, 512, 1_000, 5, n_summaries=100, n_permutations=100)
    assert plan_solver(resampled, options, False).operations > 5 * one
