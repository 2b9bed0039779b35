"""Stage encode: linear CKA between the layers of one source, which says how alike they are."""

from collections.abc import Iterator

from threadpoolctl import threadpool_limits

from gradenc_core.compare.cka import linear_cka
from jobs.rows import LayerRows, layers
from jobs.runner import Arrays, Facts, Work
from jobs.spec import CollinearitySpec, FeaturesSpec
from storage_schemas.protocol.store import Store, Unit


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield linear CKA between all layers, (n_layers, n_layers) float64.

    Unit gradients enter without their log-norm: it varies more than all other features, and in the
    same way in all layers, so that any two layers would look alike.
    """
    for store, unit in work.units:
        spec = CollinearitySpec.model_validate(store.spec)
        features = FeaturesSpec.model_validate(spec.features.open(work.root).spec)
        read = layers(spec.features, work.root)
        if features.signal.gradient_scale == "unit":
            read = [LayerRows(layer.data[:, :-1]) for layer in read]
        with threadpool_limits(1):
            yield store, unit, {"cka": linear_cka(read)}, {}
