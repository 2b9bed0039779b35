"""What a unit of encode fits, derived from the spec, against the features it reads."""

import numpy as np
import pytest

from gradenc_core.ridge.cost import Shapes
from jobs.encode import features, fit_shapes, layer_widths
from jobs.spec import EncodingSpec, Reference, ScoresSpec
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


def spec_of(bands, forward, gradient, forward_all):
    encoding = EncodingSpec(
        folds=5,
        fold_rule="stimulus",
        blocks=4,
        seed=0,
        alphas=(1.0,),
        alpha_choice="kfold",
        forward_all=forward_all,
        band_ratios=(0.0, 1.0),
        bootstrap=7,
        permutations=9,
        permute_within="all",
        windows=(),
        meg_targets="windows",
    )
    return ScoresSpec(
        bands=bands,
        forward=forward,
        gradient=gradient,
        layers=LAYERS,
        responses=(),
        partition="",
        encoding=encoding,
    )


@pytest.mark.parametrize("forward_all", [8, 10_000])
@pytest.mark.parametrize("widths", [FORWARD, 6])
@pytest.mark.parametrize("bands", ["forward", "gradient:energy", "forward+g", "forward_all+g"])
def test_a_unit_fits_the_features_that_it_reads(tmp_path, bands, widths, forward_all):
    wide = [width + 2 for width in widths] if isinstance(widths, list) else widths + 2
    forward = None if bands == "gradient:energy" else store_of(tmp_path, "forward", widths)
    gradient = None if bands == "forward" else store_of(tmp_path, "gradient:energy", wide)
    spec = spec_of(bands, forward, gradient, forward_all)
    each = {
        "forward": layer_widths(forward, tmp_path),
        "gradient": layer_widths(gradient, tmp_path),
    }
    sizes = {"n_stimuli": N_STIMULI, "n_targets": 20, "n_summaries": 3}
    found = []
    for layer in (0, 9, 10):
        x, read = features(spec, layer, tmp_path)
        shapes = fit_shapes(spec, **each, **sizes, layer=layer)
        assert (shapes.n_stimuli, shapes.n_features) == x.shape
        assert spec.banded == (read is not None)
        assert shapes.n_in_memory == (read[0] if bands.startswith("forward_all") else 0)
        found.append(shapes)
    largest = fit_shapes(spec, **each, **sizes)
    assert largest.n_features == max(shapes.n_features for shapes in found)
    joint = sum(each["forward"]) if forward_all == 10_000 else 8
    assert largest == Shapes(
        n_stimuli=N_STIMULI,
        n_features=largest.n_features,
        n_targets=20,
        n_folds=5,
        n_summaries=3,
        n_bootstraps=7,
        n_permutations=9,
        n_blocks=4,
        n_in_memory=joint if spec.joint else 0,
        n_projected=max(each["forward"]) if spec.joint else 0,
    )
