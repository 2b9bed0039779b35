"""`encode` and `RidgeCV` against himalaya and scikit-learn: same data, alphas, folds and threads.

    python benchmarks/ridge.py            # < 10 minutes on 2 cores; one line of JSON last
    python benchmarks/ridge.py --toy      # seconds: shows that it runs, its ratios mean nothing

Features are heavy-tailed (Student's t, 4 degrees of freedom) with a falling spectrum; a fifth of
the targets is pure noise. n 3,000, p 384, T 1,000, 10 alphas, 5 folds. No package standardises
features here, all centre them. Three rounds of ours (median of 3), then theirs (once); a ratio is
the median over the rounds, and the least and largest are reported. All is warmed up on a small
problem. What is compared:

encode_kfold, encode_loo, encode_gcv
    `encode`, which stage encode of a study runs: alpha chosen in every outer fold, held-out r. By
    k-fold against a loop over the outer folds of himalaya's RidgeCV on the other folds, with r; by
    "loo" and "gcv" (another criterion) against a loop of scikit-learn's
    RidgeCV(alpha_per_target=True), an exact leave-one-out, with r.
ridgecv_kfold, ridgecv_loo, ridgecv_gcv
    `RidgeCV(cv=5 | "loo" | "gcv").fit` against one fit of the same classes on all stimuli.
alpha_agreement_kfold, alpha_agreement_loo
    Share of targets with their alpha, among those whose best two errors (in float64) differ by
    more than 1e-6 relative.
gcv_regret_r
    Loss of r on new stimuli by `gcv` against `loo`: the largest mean loss over n > p, n < p, repeat
    weights, and stimuli of high leverage.
max_score_error, max_score_error_hard
    Largest difference of `encode`'s r from a float64 reference by singular value decomposition of
    rows: benign features; one stimulus 1e4 times larger, columns whose mean is 100 sd, duplicated
    columns, condition 1e6.
factorisations_extra_subject, time_extra_subject
    Eigendecompositions that a second subject with the same stimuli adds, and its time over the
    first one's.
"""

import argparse
import resource
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from _timing import print_json, print_rows, seconds
from himalaya.ridge import RidgeCV as HimalayaRidgeCV
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV as SklearnRidgeCV
from sklearn.model_selection import PredefinedSplit
from threadpoolctl import threadpool_limits

from gradenc_core.ridge import basis
from gradenc_core.ridge.encode import encode, score_targets
from gradenc_core.ridge.estimator import RidgeCV
from gradenc_core.ridge.factorise import factorise
from gradenc_core.ridge.options import RidgeOptions

THREADS = 2
ROUNDS = 3
REPEATS = 3
N_FOLDS = 5
ALPHAS = tuple(float(alpha) for alpha in np.logspace(-1, 7, 10))
CLEAR = 1e-6
HIMALAYA = {"n_targets_batch": 2000, "n_alphas_batch": 2}
CRITERIA = ("kfold", "loo", "gcv")
THEIRS = {"kfold": "himalaya RidgeCV", "loo": "scikit-learn RidgeCV", "gcv": "scikit-learn RidgeCV"}

Array = NDArray[Any]


@dataclass(frozen=True)
class Sizes:
    """Stimuli, features and targets of the comparison; the other measurements are scaled down."""

    n: int = 3_000
    p: int = 384
    t: int = 1_000
    scale: float = 1.0

    def scaled(self, *sizes: int) -> tuple[int, ...]:
        """Return sizes of another measurement."""
        return tuple(max(round(size * self.scale), 20) for size in sizes)


TOY = Sizes(200, 20, 30, 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="small sizes: shows that it runs")
    sizes = TOY if parser.parse_args().toy else Sizes()
    with threadpool_limits(THREADS):
        measured = measure(sizes)
    measured["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print_json(measured | {"threads": THREADS, "n": sizes.n, "p": sizes.p, "t": sizes.t})


def measure(sizes: Sizes) -> dict[str, Any]:
    """Measure everything; the table shows the ratios."""
    versus(*study(TOY.n, TOY.p, TOY.t), rounds=1)
    x, y = study(sizes.n, sizes.p, sizes.t)
    values = versus(x, y, ROUNDS)
    rows = [
        {
            "alpha chosen by": name,
            "theirs": THEIRS[name],
            "encode, times faster": values[f"encode_{name}"],
            "RidgeCV, times faster": values[f"ridgecv_{name}"],
        }
        for name in CRITERIA
    ]
    values |= agreement(x, y) | regret(sizes) | errors(sizes) | second_subject(sizes)
    print_rows(f"ridge, {THREADS} threads", rows)
    return values


def study(
    n: int, p: int, t: int, seed: int = 0, weights: Array | None = None
) -> tuple[Array, Array]:
    """Return features (n, p) and targets (n, t), float32; a fifth of the targets is pure noise."""
    rng = np.random.default_rng(seed)
    spectrum = np.arange(1, p + 1) ** -0.5
    turn = np.linalg.qr(rng.standard_normal((p, p)))[0]
    x = (rng.standard_t(4, (n, p)) * spectrum) @ turn
    y = x @ rng.standard_normal((p, t)) / np.sqrt((spectrum**2).sum() * 2)
    y *= np.where(np.arange(t) % 5 == 0, 0.0, rng.uniform(0.1, 1.0, t))
    noise = rng.standard_normal((n, t))
    y += noise if weights is None else noise / np.sqrt(weights)[:, None]
    return x.astype(np.float32), y.astype(np.float32)


def folds_of(x: Array) -> Array:
    return np.arange(len(x)) % N_FOLDS


def versus(x: Array, y: Array, rounds: int) -> dict[str, Any]:
    """Time ours and theirs in turn, so that a slow phase of a shared machine hits both."""
    ours, theirs = works(x, y)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ours}
    for _ in range(rounds):
        for name, work in ours.items():
            work()  # not counted: its memory is still the other package's
            own = statistics.median(seconds(work) for _ in range(REPEATS))
            taken[name].append((own, seconds(theirs[name])))
    values: dict[str, Any] = {}
    for name, pairs in taken.items():
        ratios = [other / own for own, other in pairs]
        values[name] = statistics.median(ratios)
        values[f"{name}_range"] = [min(ratios), max(ratios)]
        values[f"{name}_s"] = statistics.median(own for own, _ in pairs)
    return values


def works(x: Array, y: Array) -> tuple[dict[str, Callable[[], Any]], dict[str, Callable[[], Any]]]:
    """Return ours and theirs, by the same names."""
    folds = folds_of(x)
    ours: dict[str, Callable[[], Any]] = {}
    theirs: dict[str, Callable[[], Any]] = {}
    for name in CRITERIA:
        options = RidgeOptions(ALPHAS, name, standardise=False)  # type: ignore[arg-type]
        ours[f"encode_{name}"] = partial(encode, x, y, folds, options=options)
        ours[f"ridgecv_{name}"] = partial(our_ridge(name, folds).fit, x, y)
        fit = himalaya_fit if name == "kfold" else sklearn_fit
        theirs[f"encode_{name}"] = partial(nested, fit, x, y, folds)
        theirs[f"ridgecv_{name}"] = partial(fit, x, y, folds)
    return ours, theirs


def our_ridge(name: str, folds: Array) -> RidgeCV:
    cv = PredefinedSplit(folds) if name == "kfold" else name
    return RidgeCV(ALPHAS, cv=cv, standardise=False)


def himalaya_fit(x: Array, y: Array, folds: Array) -> Any:
    cv = PredefinedSplit(folds)
    model = HimalayaRidgeCV(alphas=ALPHAS, fit_intercept=True, cv=cv, solver_params=HIMALAYA)
    return model.fit(x, y)


def sklearn_fit(x: Array, y: Array, folds: Array) -> Any:
    return SklearnRidgeCV(ALPHAS, alpha_per_target=True).fit(x, y)


def nested(fit: Callable[..., Any], x: Array, y: Array, folds: Array) -> Array:
    """Return held-out r of another package's fits in every outer fold, (n_folds, n_targets)."""
    r = []
    for k in range(N_FOLDS):
        kept, held = folds != k, folds == k
        guess = fit(x[kept], y[kept], folds[kept]).predict(x[held])
        r.append(correlation(np.asarray(guess), y[held]))
    return np.stack(r)


def correlation(a: Array, b: Array) -> Array:
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return np.asarray((a * b).sum(axis=0) / np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0)))


def agreement(x: Array, y: Array) -> dict[str, Any]:
    """Compare the alphas that are chosen on all stimuli."""
    folds = folds_of(x)
    kfold, loo = (our_ridge(name, folds).fit(x, y).alpha_ for name in ("kfold", "loo"))
    same_kfold = np.isclose(kfold, np.asarray(himalaya_fit(x, y, folds).best_alphas_))
    same_loo = np.isclose(loo, sklearn_fit(x, y, folds).alpha_)
    return {
        "alpha_agreement_kfold": same_kfold[clear_targets(kfold_reference(x, y, folds))].mean(),
        "alpha_agreement_loo": same_loo[clear_targets(loo_reference(x, y))].mean(),
    }


def clear_targets(errors: Array) -> Array:
    """Targets whose best two errors (n_alphas, n_targets) differ by more than `CLEAR`."""
    best, second = np.sort(errors, axis=0)[:2]
    return np.asarray(second - best > CLEAR * best)


def kfold_reference(x: Array, y: Array, folds: Array) -> Array:
    """Errors of every alpha from predicted rows in float64, (n_alphas, n_targets)."""
    total: Array = np.zeros((len(ALPHAS), y.shape[1]))
    for k in range(N_FOLDS):
        fit, held = folds != k, folds == k
        u, s, v, x_mean, y_mean = decompose(x[fit], y[fit])
        c, z = u.T @ (y[fit] - y_mean), (x[held] - x_mean) @ v.T
        for a, alpha in enumerate(ALPHAS):
            guess = z @ ((s / (s**2 + alpha))[:, None] * c) + y_mean
            total[a] += ((y[held] - guess) ** 2).sum(axis=0)
    return total


def loo_reference(x: Array, y: Array) -> Array:
    """Exact leave-one-out errors from rows in float64, (n_alphas, n_targets)."""
    u, s, _, _, y_mean = decompose(x, y)
    centred = y - y_mean
    c = u.T @ centred
    errors = []
    for alpha in ALPHAS:
        kept = s**2 / (s**2 + alpha)
        leverage = 1 / len(x) + (u * u) @ kept
        left_out = (centred - u @ (kept[:, None] * c)) / (1 - leverage)[:, None]
        errors.append((left_out**2).sum(axis=0))
    return np.stack(errors)


def decompose(x: Array, y: Array) -> tuple[Array, ...]:
    """Return u, s, v of centred features in float64, and the means of features and targets."""
    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    x_mean, y_mean = x64.mean(axis=0), y64.mean(axis=0)
    u, s, v = np.linalg.svd(x64 - x_mean, full_matrices=False)
    kept = s > s[0] * 1e-10
    return u[:, kept], s[kept], v[kept], x_mean, y_mean


def regret(sizes: Sizes) -> dict[str, Any]:
    """Loss of r on new stimuli by gcv, by kind of data; the largest is reported."""
    losses = {}
    for kind, *shape in (
        ("n > p", 1_000, 200, 500),
        ("n < p", 300, 600, 500),
        ("repeats", 600, 200, 500),
        ("high leverage", 600, 200, 500),
    ):
        n, p, t = sizes.scaled(*shape)
        rng = np.random.default_rng(7)
        weights = rng.integers(1, 9, 2 * n).astype(float) if kind == "repeats" else np.ones(2 * n)
        weights /= weights[:n].mean()
        x, y = study(2 * n, p, t, seed=3, weights=weights)
        if kind == "high leverage":
            x[: n // 50] *= 20
        found = {}
        for name in ("gcv", "loo"):
            model = RidgeCV(ALPHAS, cv=name).fit(x[:n], y[:n], sample_weight=weights[:n])
            with np.errstate(invalid="ignore"):
                found[name] = np.nan_to_num(correlation(model.predict(x[n:]), y[n:]))
        losses[kind] = float((found["loo"] - found["gcv"]).mean())
    return {"gcv_regret_r": max(losses.values()), "gcv_regret_by_kind": losses}


def errors(sizes: Sizes) -> dict[str, Any]:
    """Largest error of nested scores against rows in float64."""
    hard = ("huge stimulus", "distant means", "duplicated", "condition 1e6")
    by_kind = {kind: score_error(kind, sizes) for kind in ("benign", *hard)}
    return {
        "max_score_error": by_kind["benign"],
        "max_score_error_hard": max(by_kind[kind] for kind in hard),
        "score_error_by_kind": by_kind,
    }


def score_error(kind: str, sizes: Sizes) -> float:
    x, y = study(*sizes.scaled(1_000, 100, 200), seed=5)
    x = x.astype(np.float64)
    half = x.shape[1] // 2
    if kind == "huge stimulus":
        x[17] *= 1e4
    elif kind == "distant means":
        x += 100 * x.std(axis=0)
    elif kind == "duplicated":
        x[:, half:] = x[:, :half]
    elif kind == "condition 1e6":
        u, _, v = np.linalg.svd(x, full_matrices=False)
        x = u * np.logspace(3, -3, len(v)) @ v
    folds = folds_of(x)
    scores = encode(x, y, folds, options=RidgeOptions(ALPHAS, "kfold"))
    worst = 0.0
    for k in range(N_FOLDS):
        fit, held = folds != k, folds == k
        z = (x - x[fit].mean(axis=0)) / x[fit].std(axis=0)
        u, s, v, x_mean, y_mean = decompose(z[fit], y[fit])
        c = u.T @ (y[fit] - y_mean)
        gain = s[:, None] / (s[:, None] ** 2 + scores.alpha[k].astype(np.float64))
        guess, target = (z[held] - x_mean) @ v.T @ (gain * c), y[held].astype(np.float64)
        want = correlation(guess, target)
        want[guess.var(axis=0) <= 1e-12 * target.var(axis=0)] = 0.0  # a flat prediction, by rule
        worst = max(worst, float(np.abs(scores.r[k] - want).max()))
    return worst


def second_subject(sizes: Sizes) -> dict[str, Any]:
    """Measure what a second subject who saw the same stimuli adds."""
    x, first = study(sizes.n, sizes.p, sizes.t)
    _, second = study(sizes.n, sizes.p, sizes.t, seed=1)
    folds = folds_of(x)
    made = 0
    original = basis.factor

    def counted(gram: Array, scale: Array) -> Any:
        nonlocal made
        made += 1
        return original(gram, scale)

    basis.factor = counted
    try:
        design = factorise(x, folds)
        assert made > 0
        score_targets(design, first)
        made = 0
        score_targets(design, second)
    finally:
        basis.factor = original
    pairs = [
        (
            seconds(lambda: score_targets(factorise(x, folds), first)),
            seconds(lambda: score_targets(design, second)),
        )
        for _ in range(REPEATS)
    ]
    ratio = statistics.median(again / alone for alone, again in pairs)
    return {"factorisations_extra_subject": made, "time_extra_subject": ratio}


if __name__ == "__main__":
    main()
