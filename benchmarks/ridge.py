"""Ridge regression against himalaya and scikit-learn: the same data, alphas, folds and threads.

    python benchmarks/ridge.py            # < 8 minutes on 2 cores; one line of JSON last
    python benchmarks/ridge.py --large    # shapes of NSD and THINGS-MEG, ours alone

Features are heavy-tailed (Student's t, 4 degrees of freedom) with a falling spectrum; a fifth of
the targets is pure noise. Three rounds: ours, the median of 5 fits after one that is not counted,
then theirs, once. A ratio is the median over these rounds; all is warmed up on a small problem. No
package standardises features here, all centre them. What is compared:

vs_himalaya_kfold
    himalaya's RidgeCV (targets in batches of 2,000, alphas 2 at once) / `fit_ridge` by k-fold:
    choice of alpha per target, refit, and (ours only) held-out r. n 10,000, p 512, T 2,000, A 20,
    K 5.
vs_himalaya_nested
    A loop of himalaya's RidgeCV over 5 outer folds, 4 inner ones, with r / `encode`. n 3,000,
    p 384, T 1,000, A 10.
vs_sklearn_loo, vs_sklearn_gcv
    scikit-learn's RidgeCV(alpha_per_target=True), an exact leave-one-out / `fit_ridge` by `loo`,
    and by `gcv`, which is another criterion. n 4,000, p 768, T 4,000, A 20.
alpha_agreement_kfold, alpha_agreement_loo
    Share of targets with their alpha, among those whose best two errors (in float64) differ by
    more than 1e-6 relative.
alpha_agreement_gcv
    Share of targets with the alpha of `gcv` in float64 throughout.
gcv_regret_r
    Loss of r on new stimuli by `gcv` against `loo`: the largest mean loss over n > p, n < p, repeat
    weights, and stimuli of high leverage.
floor_ratio, himalaya_over_floor, sklearn_over_floor
    Time over one float32 torch product X'X and X'Y of the same arrays with the same threads (median
    of 7); ours at the k-fold shape, each package at its own.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from _timing import print_json, print_rows, seconds
from himalaya.ridge import RidgeCV as HimalayaRidgeCV
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV as SklearnRidgeCV
from sklearn.model_selection import PredefinedSplit
from threadpoolctl import threadpool_limits

from gradenc_core.ridge import basis as ridge
from gradenc_core.ridge.basis import RidgeOptions
from gradenc_core.ridge.encode import encode, factorise, score_targets
from gradenc_core.ridge.estimator import fit_ridge

THREADS = 2
REPEATS = 5
ROUNDS = 3
ALPHAS = tuple(float(alpha) for alpha in np.logspace(-1, 7, 20))
FEW_ALPHAS = tuple(float(alpha) for alpha in np.logspace(-1, 7, 10))
CLEAR = 1e-6
SKLEARN = {"alpha_per_target": True}
HIMALAYA = {"n_targets_batch": 2000, "n_alphas_batch": 2}

Array = NDArray[Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="shapes of NSD and THINGS-MEG")
    large = parser.parse_args().large
    torch.set_num_threads(THREADS)
    with threadpool_limits(THREADS):
        measured = measure_large() if large else measure()
    measured["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    measured |= {"threads": THREADS, "gpu": gpu_name()}
    print_json(measured)


def measure() -> dict[str, Any]:
    """Every comparison; the table shows seconds and ratios."""
    warm_up()
    values: dict[str, Any] = {}
    for part in (kfold, nested, leave_one_out, regret, errors, second_subject):
        values |= part()
        print(f"{part.__name__} done", flush=True)
    pairs = [
        ("k-fold, one alpha per target", "himalaya RidgeCV", "vs_himalaya_kfold", 30),
        ("nested 5 x 4", "himalaya RidgeCV", "vs_himalaya_nested", 15),
        ("exact leave-one-out", "scikit-learn RidgeCV", "vs_sklearn_loo", 3),
        ("gcv, another criterion", "scikit-learn RidgeCV", "vs_sklearn_gcv", 25),
    ]
    rows = [
        {"what": what, "theirs": who, "times faster": values[key], "to reach": target}
        for what, who, key, target in pairs
    ]
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


def warm_up() -> None:
    x, y = study(200, 20, 30)
    folds = np.arange(200) % 5
    fit_ridge(x, y, folds)
    SklearnRidgeCV(ALPHAS, **SKLEARN).fit(x, y)
    himalaya_fit(x, y, folds, ALPHAS)


def himalaya_fit(x: Array, y: Array, folds: Array, alphas: Sequence[float]) -> Any:
    model = HimalayaRidgeCV(
        alphas=alphas, fit_intercept=True, cv=PredefinedSplit(folds), solver_params=HIMALAYA
    )
    return model.fit(x, y)


def median(work: Callable[[], Any], repeats: int = REPEATS) -> float:
    return statistics.median(seconds(work) for _ in range(repeats))


@dataclass(frozen=True)
class Versus:
    """Medians over rounds: ours and theirs (s), and theirs / ours within a round."""

    ours: float
    theirs: float
    ratio: float

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Self:
        """Summarise the times of each round."""
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        return cls(*(statistics.median(values) for values in (ours, theirs, ratios)))


def versus(ours: dict[str, Callable[[], Any]], theirs: Callable[[], Any]) -> dict[str, Versus]:
    """Time ours and theirs in turn, so that a slow phase of a shared machine hits both."""
    taken: dict[str, list[float]] = {name: [] for name in ours}
    their_times = []
    for _ in range(ROUNDS):
        for name, work in ours.items():
            work()  # not counted: its memory is still the other package's
            taken[name].append(median(work, REPEATS))
        their_times.append(seconds(theirs))
    return {name: Versus.of(times, their_times) for name, times in taken.items()}


def floor(x: Array, y: Array) -> float:
    """Time of one product X'X and X'Y in float32 (s)."""
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)

    def product() -> None:
        tx.T @ tx, tx.T @ ty

    product()
    return median(product, 7)


def kfold() -> dict[str, Any]:
    x, y = study(10_000, 512, 2_000)
    folds = np.arange(len(x)) % 5
    options = RidgeOptions(ALPHAS, "kfold", standardise=False)
    fitted = fit_ridge(x, y, folds, options=options)
    pairs = [
        (seconds(lambda: fit_ridge(x, y, folds, options=options)), floor(x, y))
        for _ in range(REPEATS)
    ]
    lowest = statistics.median(lowest for _, lowest in pairs)
    theirs: list[Any] = []
    timed = versus(
        {"kfold": lambda: fit_ridge(x, y, folds, options=options)},
        lambda: theirs.append(himalaya_fit(x, y, folds, ALPHAS)),
    )["kfold"]
    wanted = clear_targets(kfold_reference(x, y, folds))
    same = np.isclose(fitted.alpha, np.asarray(theirs[0].best_alphas_))
    return {
        "kfold_s": timed.ours,
        "vs_himalaya_kfold": timed.ratio,
        "alpha_agreement_kfold": same[wanted].mean(),
        "floor_s": lowest,
        "floor_ratio": statistics.median(ours / lowest for ours, lowest in pairs),
        "himalaya_over_floor": timed.theirs / lowest,
        "himalaya_settings": {"cv": "PredefinedSplit(5 folds)", **HIMALAYA},
    }


def nested() -> dict[str, Any]:
    x, y = study(3_000, 384, 1_000)
    folds = np.arange(len(x)) % 5
    options = RidgeOptions(FEW_ALPHAS, "kfold", standardise=False)
    scores = encode(x, y, folds, options=options)
    theirs: list[Array] = []
    timed = versus(
        {"nested": lambda: encode(x, y, folds, options=options)},
        lambda: theirs.append(himalaya_nested(x, y, folds)),
    )["nested"]
    return {
        "nested_s": timed.ours,
        "vs_himalaya_nested": timed.ratio,
        "nested_r_difference": float(np.abs(scores.r - theirs[0]).max()),
    }


def himalaya_nested(x: Array, y: Array, folds: Array) -> Array:
    r = []
    for k in range(5):
        fit, held = folds != k, folds == k
        guess = himalaya_fit(x[fit], y[fit], folds[fit], FEW_ALPHAS).predict(x[held])
        r.append(correlation(np.asarray(guess), y[held]))
    return np.stack(r)


def correlation(a: Array, b: Array) -> Array:
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return np.asarray((a * b).sum(axis=0) / np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0)))


def leave_one_out() -> dict[str, Any]:
    x, y = study(4_000, 768, 4_000)
    by = {name: RidgeOptions(ALPHAS, name, standardise=False) for name in ("loo", "gcv")}
    fitted = fit_ridge(x, y, options=by["loo"])
    model = SklearnRidgeCV(ALPHAS, **SKLEARN)
    timed = versus(
        {name: lambda o=o: fit_ridge(x, y, options=o) for name, o in by.items()},
        lambda: model.fit(x, y),
    )
    wanted = clear_targets(loo_reference(x, y))
    fast = fit_ridge(x, y, options=by["gcv"])
    exact = fit_ridge(x, y.astype(np.float64), options=by["gcv"])
    return {
        "loo_s": timed["loo"].ours,
        "gcv_s": timed["gcv"].ours,
        "vs_sklearn_loo": timed["loo"].ratio,
        "vs_sklearn_gcv": timed["gcv"].ratio,
        "alpha_agreement_loo": np.isclose(fitted.alpha, model.alpha_)[wanted].mean(),
        "alpha_agreement_gcv": (fast.alpha == exact.alpha).mean(),
        "sklearn_over_floor": timed["loo"].theirs / floor(x, y),
        "sklearn_settings": SKLEARN,
    }


def clear_targets(errors: Array) -> Array:
    """Targets whose best two errors (n_alphas, n_targets) differ by more than `CLEAR`."""
    best, second = np.sort(errors, axis=0)[:2]
    return np.asarray(second - best > CLEAR * best)


def kfold_reference(x: Array, y: Array, folds: Array) -> Array:
    """Errors of every alpha from predicted rows in float64, (n_alphas, n_targets)."""
    total: Array = np.zeros((len(ALPHAS), y.shape[1]))
    for k in range(5):
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


def regret() -> dict[str, Any]:
    """Loss of r on new stimuli by gcv, by kind of data; the largest is reported."""
    losses = {}
    for kind, n, p in (
        ("n > p", 1_000, 200),
        ("n < p", 300, 600),
        ("repeats", 600, 200),
        ("high leverage", 600, 200),
    ):
        rng = np.random.default_rng(7)
        weights = rng.integers(1, 9, 2 * n).astype(float) if kind == "repeats" else np.ones(2 * n)
        x, y = study(2 * n, p, 500, seed=3, weights=weights)
        if kind == "high leverage":
            x[: n // 50] *= 20
        found = {}
        for name in ("gcv", "loo"):
            options = RidgeOptions(ALPHAS, name)  # type: ignore[arg-type]
            model = fit_ridge(x[:n], y[:n], weights=weights[:n], options=options)
            guess = x[n:] @ model.weights + model.intercept
            found[name] = np.nan_to_num(correlation(guess, y[n:]))
        losses[kind] = float((found["loo"] - found["gcv"]).mean())
    return {"gcv_regret_r": max(losses.values()), "gcv_regret_by_kind": losses}


def errors() -> dict[str, Any]:
    """Largest error of nested scores against rows in float64."""
    hard = ("huge stimulus", "distant means", "duplicated", "condition 1e6")
    by_kind = {kind: score_error(kind) for kind in ("benign", *hard)}
    return {
        "max_score_error": by_kind["benign"],
        "max_score_error_hard": max(by_kind[kind] for kind in hard),
        "score_error_by_kind": by_kind,
    }


def score_error(kind: str) -> float:
    x, y = study(1_000, 100, 200, seed=5)
    x = x.astype(np.float64)
    if kind == "huge stimulus":
        x[17] *= 1e4
    elif kind == "distant means":
        x += 100 * x.std(axis=0)
    elif kind == "duplicated":
        x[:, 50:] = x[:, :50]
    elif kind == "condition 1e6":
        u, _, v = np.linalg.svd(x, full_matrices=False)
        x = u * np.logspace(3, -3, len(v)) @ v
    folds = np.arange(len(x)) % 5
    scores = encode(x, y, folds, options=RidgeOptions(ALPHAS, "kfold"))
    worst = 0.0
    for k in range(5):
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


def second_subject() -> dict[str, Any]:
    """Measure what a second subject who saw the same stimuli adds."""
    x, first = study(3_000, 384, 1_000)
    _, second = study(3_000, 384, 1_000, seed=1)
    folds = np.arange(len(x)) % 5
    made = 0
    original = ridge.factor

    def counted(gram: Array, scale: Array) -> Any:
        nonlocal made
        made += 1
        return original(gram, scale)

    ridge.factor = counted
    try:
        design = factorise(x, folds)
        score_targets(design, first)
        made = 0
        score_targets(design, second)
    finally:
        ridge.factor = original
    alone = median(lambda: score_targets(factorise(x, folds), first))
    again = median(lambda: score_targets(design, second))
    return {"factorisations_extra_subject": made, "time_extra_subject": again / alone}


def measure_large() -> dict[str, Any]:
    """Ours alone, on the shapes of NSD (one subject) and of THINGS-MEG (windows of 4 subjects)."""
    rows = []
    for name, n, p, t in (("NSD", 9_000, 1_024, 16_384), ("THINGS-MEG", 22_448, 1_024, 10_569)):
        x, y = study(n, p, t)
        folds = np.arange(n) % 5
        taken = seconds(lambda x=x, y=y, f=folds: encode(x, y, f, options=RidgeOptions()))
        rows.append({"shape": name, "n": n, "p": p, "targets": t, "seconds": taken})
    print_rows("nested k-fold, 10 alphas", rows)
    return {"large": rows}


def gpu_name() -> str | None:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


if __name__ == "__main__":
    main()
