"""Stage encode: how alike the layers of one source are (linear CKA)."""

from collections.abc import Iterator

from threadpoolctl import threadpool_limits

from gradenc_core.similarity import linear_cka
from jobs.encode import layers
from jobs.runner import Arrays, Facts, Work
from jobs.spec import CollinearitySpec
from storage_schemas.store import Store, Unit


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield linear CKA between all layers, (n_layers, n_layers) float64."""
    for store, unit in work.units:
        spec = CollinearitySpec.model_validate(store.spec)
        with threadpool_limits(1):
            yield store, unit, {"cka": linear_cka(layers(spec.features, work.root))}, {}
