"""What one user of a shared root does. Usage: shared_store.py ROOT {half,rest,damage,seal}."""

import sys
from pathlib import Path

from writer import values

from storage_schemas.kinds.features import features_layout
from storage_schemas.protocol import attempts
from storage_schemas.protocol.commit import commit, is_committed
from storage_schemas.protocol.new_store import NewStore
from storage_schemas.protocol.seal import seal
from storage_schemas.protocol.store import Store
from storage_schemas.runs.root import root_lock

LAYERS = [("conv1", 0.5), ("fc", 1.0)]


def create(root: Path) -> Store:
    names = [f"{i}.png" for i in range(12)]
    layout = features_layout(LAYERS, names, names, n_features=4, stimuli_per_shard=2)
    attrs = {"model": "tiny", "source": "forward"}
    with root_lock(root):
        return Store.create(root, NewStore("extract", "features", "tiny", {}, layout, attrs))


def fill(store: Store, indices: range) -> None:
    for unit in (store.units[index] for index in indices):
        if is_committed(store, unit):
            continue
        attempt = attempts.begin(store, unit, job="user", round_=0)
        if attempt is not None:
            commit(store, unit, values(store, unit), {}, attempt)
            attempt.finish("committed")


def damage(store: Store) -> None:
    """Truncate a shard of each user, as only its owner or root could, by replacing it."""
    for index in (0, 5):
        path = store.data / store.owned_files(store.units[index])[0]
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content[:-1])


if __name__ == "__main__":
    opened = create(Path(sys.argv[1]))
    match sys.argv[2]:
        case "half":
            fill(opened, range(3))
        case "rest":
            fill(opened, range(6))
        case "damage":
            damage(opened)
        case "seal":
            print(f"{seal(opened).units} units sealed")
