"""Commits the units of a store, in a process that tests can kill, starve or race.

Usage: writer.py STORE {fill,lease} [--file-size-limit BYTES] [--unprivileged] [--go FILE]
"""

import argparse
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np

# Here, for numpy imports it late: the user that this process becomes may not read Python's files.
from numpy.random import default_rng

from storage_schemas.protocol import attempts
from storage_schemas.protocol.commit import commit, is_committed
from storage_schemas.protocol.store import Store, Unit

NOBODY = 65534


def values(store: Store, unit: Unit) -> dict[str, np.ndarray]:
    """Unit 1 is all fill value, unit 2 all zero, the others are incompressible."""
    rng = default_rng(unit.index)
    arrays = {}
    for name, region in unit.regions.items():
        shape = [stop - start for start, stop in region]
        dtype = store.arrays[name].dtype
        noise = (
            rng.standard_normal(shape) if dtype.startswith("float") else rng.integers(0, 99, shape)
        )
        special = {1: np.full(shape, store.arrays[name].fill_value), 2: np.zeros(shape)}
        arrays[name] = special.get(unit.index, noise).astype(dtype)
    return arrays


def fill(store: Store) -> None:
    for unit in store.units:
        if is_committed(store, unit):
            continue
        attempt = attempts.begin(store, unit, job="writer", round_=0)
        if attempt is not None:
            commit(store, unit, values(store, unit), {"micro_batch": 4}, attempt)
            attempt.finish("committed")


def lease(store: Store) -> None:
    taken = [u.index for u in store.units if attempts.begin(store, u, job="racer", round_=0)]
    print(*taken, flush=True)
    sys.stdin.read()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("action", choices=["fill", "lease"])
    parser.add_argument("--file-size-limit", type=int)
    parser.add_argument("--unprivileged", action="store_true")
    parser.add_argument("--go", type=Path)
    options = parser.parse_args()
    if options.file_size_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.file_size_limit,) * 2)
    if options.unprivileged and os.getuid() == 0:
        os.setuid(NOBODY)
    store = Store.open(options.store)
    print("ready", flush=True)
    while options.go and not options.go.exists():
        time.sleep(0.0005)
    {"fill": fill, "lease": lease}[options.action](store)


if __name__ == "__main__":
    main()
