"""Stage encode: how alike the layers of one source are (linear CKA)."""

from collections.abc import Iterator

from threadpoolctl import threadpool_limits

from gradenc_core.signals.cka import linear_cka
from jobs.encode import LayerRows, layers
from jobs.runner import Arrays, Facts, Work
from jobs.spec import CollinearitySpec, FeaturesSpec
from storage_schemas.protocol.store import Store, Unit


def compute(work: Work) -> Iterator[tuple[Store, Unit, Arrays, Facts]]:
    """Yield linear CKA between all layers, (n_layers, n_layers) float64.

    Of gradients of norm 1, without the log-norm beside them: it varies more than all else, and
    alike in all layers, so that any layers would be alike.
    """
    for store, unit in work.units:
        spec = CollinearitySpec.model_validate(store.spec)
        features = FeaturesSpec.model_validate(spec.features.open(work.root).spec)
        read = layers(spec.features, work.root)
        if features.signal.gradient_scale == "unit":
            read = [LayerRows(layer.data[:, :-1]) for layer in read]
        with threadpool_limits(1):
            yield store, unit, {"cka": linear_cka(read)}, {}
