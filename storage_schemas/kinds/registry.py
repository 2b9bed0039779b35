"""All kinds of stores by name. A new kind is one module in this folder and one line here."""

from storage_schemas.kinds.bank import BANK
from storage_schemas.kinds.classes import CLASSES
from storage_schemas.kinds.collinearity import COLLINEARITY
from storage_schemas.kinds.comparisons import COMPARISONS
from storage_schemas.kinds.drill import DRILL
from storage_schemas.kinds.features import FEATURES, SCALES
from storage_schemas.kinds.pca import PCA
from storage_schemas.kinds.prepared import PREPARED
from storage_schemas.kinds.responses import RESPONSES
from storage_schemas.kinds.scores import SCORES
from storage_schemas.kinds.stability import STABILITY

KINDS = {
    kind.name: kind
    for kind in (
        PREPARED,
        BANK,
        PCA,
        CLASSES,
        SCALES,
        RESPONSES,
        FEATURES,
        STABILITY,
        COLLINEARITY,
        SCORES,
        COMPARISONS,
        DRILL,
    )
}
