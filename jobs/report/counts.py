"""What a run counted and left out, a sentence for each store."""

from collections.abc import Iterator, Sequence

import numpy as np

from jobs.compare.tables import labels
from jobs.report.words import number
from storage_schemas.kinds.responses import OWNERS
from storage_schemas.protocol.commit import Facts, facts_of
from storage_schemas.protocol.store import Store
from storage_schemas.results.ceilings import noise_ceiling
from storage_schemas.results.reliability import LEAST_RELIABILITY


def counts(stores: Sequence[Store]) -> Iterator[str]:
    """Yield a sentence for every store that has something to count."""
    for store in stores:
        if store.kind == "responses":
            yield f"{store.label}: {'; '.join(_response_counts(store))}"
        elif store.kind == "comparisons":
            left_out = facts_of(store, store.units[0])["left_out"] or ["none"]
            yield f"{store.label}: layers without a gradient of their own: {', '.join(left_out)}"
        elif store.kind == "scores":
            yield f"{store.label}: {_encoding_counts(store)}"
        elif store.kind == "stability" and (layers := _unreliable(store)):
            yield (
                f"{store.label}: {len(layers)} layer(s) whose scores are not divided by "
                f"reliability, which is below {LEAST_RELIABILITY} or not known: {', '.join(layers)}"
            )


def _response_counts(store: Store) -> Iterator[str]:
    """Yield which targets have no score, which lack sessions, and the noise ceiling."""
    facts = facts_of(store, store.units[0])
    yield (
        f"{facts['n_nan_targets']} target(s) with missing values and "
        f"{facts['n_constant_targets']} without any or constant, which have no score"
    )
    lacking = [f"{n} in {session}" for session, n in facts["without_data"].items()]
    if lacking:
        yield (
            f"target(s) without data (zero, NaN or constant) in a session, averaged over the "
            f"others: {', '.join(lacking)}"
        )
    yield f"noise ceiling: {_median_ceiling(store)}"
    yield from _owners_ceiling(store)


def _unreliable(store: Store) -> list[str]:
    data = store.dataset().load()
    pairs = zip(labels(data, "layer"), data["reliability"].values, strict=True)
    return [f"{layer} ({number(r)})" for layer, r in pairs if not r >= LEAST_RELIABILITY]


def _median_ceiling(store: Store) -> str:
    ceilings = noise_ceiling(store.dataset()).values
    if not np.isfinite(ceilings).any():
        return "not known, because no stimulus was repeated"
    return f"the median target's greatest r is {np.sqrt(np.nanmedian(ceilings)):.2f}"


def _owners_ceiling(store: Store) -> Iterator[str]:
    """Say what the noise ceiling is by the recipe of the data's owners."""
    data = store.dataset()
    if OWNERS not in data:
        return
    ratio = data[OWNERS].load()
    images, pool = ratio.attrs["images"], ratio.attrs["pool"]
    power = ratio.values.astype(np.float64) ** 2
    # Not power / (power + 1 / images): where repeats agree exactly, that is inf / inf.
    share = 1 - 1 / (1 + images * power)
    within = {"session": "", "repetition": " and z-scored within each repetition"}[pool]
    median = f"{100 * np.nanmedian(share):.1f} %" if np.isfinite(share).any() else "not known"
    yield (
        f"by the recipe of the data's owners, from images with exactly {images} trials{within}: "
        f"the median target's ceiling of a mean of {images} trials is {median} of its variance"
    )


def _encoding_counts(store: Store) -> str:
    """Return the totals over layers, and what the baseline of scores beyond one is."""
    units = [facts_of(store, unit) for unit in store.units]
    # A layer without features that vary has counts of its own.
    names = dict.fromkeys(name for unit in units for name in unit if name != "baseline")
    totals = [
        f"{name.replace('_', ' ')} {sum(unit.get(name, 0) for unit in units)}" for name in names
    ]
    return ", ".join([*totals, *_baseline(units[0])])


def _baseline(facts: Facts) -> Iterator[str]:
    """Say how large a baseline is, how it is taken away, and why nothing could be tested."""
    if "baseline" not in facts:
        return
    found = facts["baseline"]
    yield (
        f"baseline of {found['columns']} columns in {found['components']} components, which keep "
        f"{100 * found['kept']:.2f} % of its variance"
    )
    if "untested" in found:
        yield f"not tested: {found['untested']}"
    else:
        yield (
            "taken away by a map learned on images without recordings"
            if found["learned"]
            else "taken away exactly, within the stimuli"
        )
