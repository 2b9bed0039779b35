"""How the cost of `encode` grows: seconds against stimuli, features, targets, alphas, subjects.

    python benchmarks/ridge_growth.py [figure.png]   # minutes
    python benchmarks/ridge_growth.py --toy          # seconds: shows that it runs

One quantity varies at a time from n 2,000, p 256, T 1,024, A 10, 5 folds, nested k-fold, one thread
(as a worker of stage encode has it); a second subject with the same stimuli shares the factors; two
workers fit two layers at once. The dashed line is the model of `gradenc_core.ridge.cost`:
operations over the rate that the base case reached. One line of JSON last: per axis, seconds
and the ratio of the model's to the measured growth at its end.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from _timing import print_json, print_rows, seconds
from ridge import study
from threadpoolctl import threadpool_limits

from gradenc_core.ridge.cost import Shapes, plan_solver
from gradenc_core.ridge.encode import encode, score_targets
from gradenc_core.ridge.factorise import factorise
from gradenc_core.ridge.options import RidgeOptions

BASE = {"n": 2_000, "p": 256, "t": 1_024, "alphas": 10}
AXES = {
    "n": (1_000, 2_000, 4_000, 8_000),
    "p": (128, 256, 512, 1_024),
    "t": (1_024, 2_048, 4_096, 8_192),
    "alphas": (5, 10, 20, 40),
}
LABELS = {
    "n": "stimuli",
    "p": "features",
    "t": "targets",
    "alphas": "alphas",
    "subjects": "subjects",
    "workers": "workers (4 layers)",
}
SUBJECTS = (1, 2, 4)
WORKERS = (1, 2)
REPEATS = 3


TOY = 0.05
"""Share of every size, except alphas, that a toy run has."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figure", nargs="?", help="file that the figure is written to")
    parser.add_argument("--toy", action="store_true", help="small sizes: shows that it runs")
    arguments = parser.parse_args()
    share = TOY if arguments.toy else 1.0
    base = {name: scaled(name, value, share) for name, value in BASE.items()}
    with threadpool_limits(1):
        measured = {
            name: axis(base, name, [scaled(name, value, share) for value in values])
            for name, values in AXES.items()
        }
        measured["subjects"] = subjects(base)
        measured["workers"] = workers(base)
    for name, rows in measured.items():
        print_rows(f"seconds against {LABELS[name]}", rows)
    if arguments.figure:
        draw(measured, arguments.figure)
    ends = {name: rows[-1]["model"] / rows[-1]["seconds"] for name, rows in measured.items()}
    one, two = (row["seconds"] for row in measured["workers"])
    print_json({"growth": measured, "model_over_measured": ends, "speedup_2_workers": one / two})


def scaled(name: str, value: int, share: float) -> int:
    return value if name == "alphas" else round(value * share)


def axis(base: dict[str, int], name: str, values: list[int]) -> list[dict[str, Any]]:
    rate = operations(**base) / fit(**base)
    rows = []
    for value in values:
        shape = base | {name: value}
        taken = fit(**shape)
        rows.append({name: value, "seconds": taken, "model": operations(**shape) / rate})
    return rows


def fit(n: int, p: int, t: int, alphas: int) -> float:
    x, y = study(n, p, t)
    folds, options = np.arange(n) % 5, RidgeOptions(grid(alphas))
    return float(
        np.median([seconds(lambda: encode(x, y, folds, options=options)) for _ in range(REPEATS)])
    )


def grid(alphas: int) -> tuple[float, ...]:
    return tuple(np.logspace(0, 8, alphas).tolist())


def operations(n: int, p: int, t: int, alphas: int) -> float:
    return plan_solver(Shapes(n, p, t, 5), RidgeOptions(grid(alphas)), banded=False).operations


def subjects(base: dict[str, int]) -> list[dict[str, Any]]:
    """Time subjects who saw the same stimuli on one factorisation."""
    x, y = study(base["n"], base["p"], base["t"])
    folds, rows = np.arange(len(x)) % 5, []
    one = factor = 0.0
    for count in SUBJECTS:
        design = factorise(x, folds)
        factor = seconds(lambda: factorise(x, folds))
        taken = factor + sum(seconds(lambda d=design: score_targets(d, y)) for _ in range(count))
        one = one or taken
        rows.append(
            {"subjects": count, "seconds": taken, "model": one + (count - 1) * (one - factor)}
        )
    return rows


def workers(base: dict[str, int]) -> list[dict[str, Any]]:
    """Time one process and two that fit four layers; the model is half the time by two."""
    rows, one = [], 0.0
    for count in WORKERS:
        with ProcessPoolExecutor(count) as pool:
            list(pool.map(one_layer, [base] * count))
            taken = seconds(lambda pool=pool: list(pool.map(one_layer, [base] * 4)))
        one = one or taken
        rows.append({"workers": count, "seconds": taken, "model": one / count})
    return rows


def one_layer(base: dict[str, int]) -> None:
    with threadpool_limits(1):
        fit(**base)


def draw(measured: dict[str, list[dict[str, Any]]], path: str) -> None:
    figure, axes = plt.subplots(1, len(measured), figsize=(16, 2.8), layout="constrained")
    for place, (name, rows) in zip(axes, measured.items(), strict=True):
        values = [row[name] for row in rows]
        place.plot(values, [row["seconds"] for row in rows], "o-", color="tab:blue")
        place.plot(values, [row["model"] for row in rows], "--", color="tab:grey")
        place.set_xticks(values[-3:], [f"{v:,}" for v in values[-3:]])
        place.set_ylim(bottom=0)
        place.set_xlabel(LABELS[name])
    axes[0].set_ylabel("seconds (1 thread)")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
