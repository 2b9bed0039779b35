"""What a unit of encode fits, derived from the spec, against the features it reads."""

import numpy as np
import pytest

from gradenc_core.ridge.cost import Shapes
from jobs.encode import fit_shapes
from jobs.rows import fitted_rows, layer_widths, n_rows
from jobs.spec import BeyondSpec, EncodingSpec, Reference, ScoresSpec
from storage_schemas.kinds.features import features_layout
from storage_schemas.protocol.attempts import begin
from storage_schemas.protocol.commit import commit
from storage_schemas.protocol.new_store import NewStore
from storage_schemas.protocol.seal import seal
from storage_schemas.protocol.store import Store

N_STIMULI = 12
LAYERS = tuple((f"blocks.{i}", float(i)) for i in range(11))
FORWARD = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 5]


def store_of(root, source, widths):
    """A sealed features store of real files, whose layers have these widths."""
    names = [f"s{i:02}" for i in range(N_STIMULI)]
    layout = features_layout(LAYERS, names, names, widths, N_STIMULI)
    attrs = {"model": "small", "source": source}
    new = NewStore("extract", "features", source, attrs, layout, attrs, {})
    store = Store.create(root, new)
    rng = np.random.default_rng(0)
    for unit in store.units:
        arrays = {
            name: rng.random([b - a for a, b in region], dtype=np.float32)
            for name, region in unit.regions.items()
        }
        attempt = begin(store, unit, "test", 0)
        commit(store, unit, arrays, {}, attempt)
        attempt.finish("committed")
    seal(store)
    return Reference.of(store)


def spec_of(bands, features, beyond=None):
    encoding = EncodingSpec(
        folds=5,
        fold_rule="stimulus",
        blocks=4,
        seed=0,
        alphas=(1.0,),
        alpha_choice="kfold",
        band_ratios=(0.0, 1.0),
        bootstrap=7,
        permutations=9,
        permute_within="all",
        windows=(),
        meg_targets="windows",
    )
    return ScoresSpec(
        bands=bands,
        features=features,
        beyond=beyond,
        layers=LAYERS,
        responses=(),
        partition="",
        encoding=encoding,
    )


@pytest.mark.parametrize("widths", [FORWARD, 6])
@pytest.mark.parametrize("bands", ["forward", "gradient:energy", "forward+g", "baseline+g"])
def test_a_unit_fits_the_features_that_it_reads(tmp_path, bands, widths):
    wide = [width + 2 for width in widths] if isinstance(widths, list) else widths + 2
    forward = store_of(tmp_path, "forward", widths)
    gradient = store_of(tmp_path, "gradient:energy", wide)
    read = {"forward": (forward,), "forward+g": (forward, gradient)}.get(bands, (gradient,))
    spec = spec_of(bands, read)
    each = [layer_widths(reference, tmp_path) for reference in read]
    sizes = {"n_stimuli": N_STIMULI, "n_targets": 20, "n_summaries": 3}
    if bands == "baseline+g":
        sizes |= {"n_baseline": 70, "n_unrecorded": n_rows(forward, tmp_path)}
    found = []
    for layer in (0, 9, 10):
        x, two = fitted_rows(read, layer, tmp_path)
        shapes = fit_shapes(spec, each, **sizes, layer=layer)
        assert (shapes.n_stimuli, shapes.n_features) == x.shape
        assert spec.banded == (two is not None)
        found.append(shapes)
    largest = fit_shapes(spec, each, **sizes)
    assert largest == Shapes(
        n_stimuli=N_STIMULI,
        n_features=max(shapes.n_features for shapes in found),
        n_targets=20,
        n_folds=5,
        n_summaries=3,
        n_bootstraps=7,
        n_permutations=9,
        n_blocks=4,
        n_baseline=70 if bands == "baseline+g" else 0,
        n_unrecorded=N_STIMULI if bands == "baseline+g" else 0,
    )


@pytest.mark.parametrize(
    ("bands", "expected"),
    [("baseline+g", False), ("baseline+forward", True), ("baseline+baseline", True)],
)
def test_forward_features_beyond_the_baseline_are_controls(bands, expected):
    features = Reference(stage="extract", identity="x", seal="y")
    beyond = BeyondSpec(baseline=features, n_scalars=(1,), unrecorded=None)
    assert spec_of(bands, (features,), beyond).is_control == expected
    assert not spec_of("forward", (features,)).is_control
