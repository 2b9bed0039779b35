"""Random numbers that depend on a key alone."""

import hashlib

import numpy as np


def keyed_generator(*key: str | int) -> np.random.Generator:
    """Return a generator whose stream depends on nothing but `key` (sha256 -> Philox)."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
