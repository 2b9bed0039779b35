"""Which chunks, codecs and types suit features: speed, size and error.

    python benchmarks/stores_layouts.py [--folder DIR] [--toy]

Chunks are (layer, stimulus, feature) in shards of 512 stimuli; types are compared with float32 on
features of real networks and on gradients of very unequal norms.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from _stores import (
    CODECS,
    SEED,
    Array,
    Sizes,
    Values,
    begin,
    create,
    noise,
    random_rows,
    region_shape,
    run_benchmark,
    sized_features,
    through_store,
)
from _timing import (
    Line,
    median_mib_per_s,
    median_ms,
    seconds,
)

from storage_schemas.protocol.commit import commit
from storage_schemas.protocol.store import Store, Unit

LINES: list[Line] = []


def measure_layouts(folder: Path, sizes: Sizes) -> Values:
    p = sizes.layout_shape[2]
    chunks = [(1, 64, p), (1, 256, p), (1, 512, p), (1, 256, p // 4), (1, 512, p // 4)]
    rows = [
        _measure_layout(folder / "stores", chunk, name, sizes)
        for chunk in chunks
        for name in CODECS
    ]
    return {"layouts": rows}


def _measure_layout(root: Path, chunk: tuple[int, int, int], codec: str, sizes: Sizes) -> Values:
    layout = sized_features(sizes.layout_shape, 512, codec, chunk)
    label = f"{'x'.join(map(str, chunk))}-{codec}"
    store = create(root, "extract", "features", label, layout)
    # Without a warm-up: the median over the units does not see the first one.
    writes = [_time_unit(store, unit) for unit in store.units]
    n_layers, n_stimuli, n_features = sizes.layout_shape
    row_bytes = 4 * n_features
    stored = sum(path.stat().st_size for path in (store.data / "features").rglob("*"))
    features = store.dataset()["features"]
    reads = _time_layout_reads(features, sizes)
    shutil.rmtree(store.path)
    return {
        "chunk": list(chunk),
        "codec": codec,
        "write_mib_s": median_mib_per_s(n_layers * 512 * row_bytes, writes),
        "layer_read_mib_s": median_mib_per_s(n_stimuli * row_bytes, reads["layer"]),
        "slice_ms": median_ms(reads["slice"]),
        "compressed_ratio": n_layers * n_stimuli * row_bytes / stored,
    }


def _time_unit(store: Store, unit: Unit) -> float:
    values = noise(region_shape(unit, "features"), unit.index)
    attempt = begin(store, unit)
    return seconds(lambda: commit(store, unit, {"features": values}, {}, attempt))


def _time_layout_reads(features: xr.DataArray, sizes: Sizes) -> dict[str, list[float]]:
    n_layers, n_stimuli, _ = sizes.layout_shape
    rng = np.random.default_rng(SEED)
    layers = [(layer % n_layers, slice(0, n_stimuli)) for layer in range(sizes.layer_reads)]
    slices = [random_rows(rng, n_layers, n_stimuli) for _ in range(sizes.reads)]
    return {
        name: [seconds(lambda at=at: through_store(features, *at)) for at in places]  # type: ignore[misc]
        for name, places in (("layer", layers), ("slice", slices))
    }


def measure_dtypes(_: Path, sizes: Sizes) -> Values:
    rows = [
        _measure_dtype(data, values, dtype, cast)
        for data, values in _realistic_data(sizes)
        for dtype, cast in CASTS.items()
    ]
    return {"dtypes": rows, "dtypes_sentence": _sentence(rows)}


def _realistic_data(sizes: Sizes) -> Iterator[tuple[str, Array]]:
    """Yield features of real networks, untrained, and gradients of very unequal norms."""
    # Imported here: nothing else needs them, and they take longer than the quick run's stores.
    from gradenc_core.models.model import load_model
    from gradenc_core.signals.extractor import ExtractionOptions, SignalExtractor

    for library, architecture in (("torchvision", "resnet18"), ("timm", "vit_tiny_patch16_224")):
        model = load_model(library, architecture, "untrained", SEED, 64)  # type: ignore[arg-type]
        images = _images(model, sizes.images)
        layers = model.blocks[:: max(1, len(model.blocks) // 4)]
        sources = ["forward", "gradient:energy", "gradient:classification"]
        for scale in ("raw", "unit"):
            options = ExtractionOptions(
                layers,
                projection=1024,
                seed=SEED,
                scale=scale,  # type: ignore[arg-type]
                micro_batch=min(16, sizes.images),
            )
            features = SignalExtractor(model, sources, options)(images)
            for source in sources if scale == "raw" else sources[1:]:
                name = f"{architecture.partition('_')[0]} {source.removeprefix('gradient:')}"
                yield f"{name} {scale}", _rows(features[source])
    rng = np.random.default_rng(SEED)
    norms = np.exp(rng.uniform(np.log(3e-12), np.log(1.2), 64 * sizes.images))[:, None]
    directions = noise((len(norms), 1024), 0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    yield "own label (synthetic) raw", (directions * norms).astype(np.float32)


def _images(model: Any, n: int) -> Any:
    import torch
    from PIL import Image

    from gradenc_core.stimuli.generated import dead_leaves

    rng = np.random.default_rng(SEED)
    images = [Image.fromarray(dead_leaves(rng, 64)) for _ in range(n)]
    return torch.stack([model.preprocessing.apply(image) for image in images])


def _rows(features: Array) -> Array:
    """Return one row per layer and stimulus."""
    return np.ascontiguousarray(features.reshape(-1, features.shape[-1]))


def _as_float16(values: Array) -> tuple[Array, Array]:
    with np.errstate(over="ignore"):
        stored = values.astype(np.float16)
    return stored, stored.astype(np.float32)


def _as_bfloat16(values: Array) -> tuple[Array, Array]:
    import torch

    stored = torch.from_numpy(values).to(torch.bfloat16)
    return stored.view(torch.int16).numpy(), stored.float().numpy()


def _as_float32(values: Array) -> tuple[Array, Array]:
    return values, values


def _rounded_to(bits: int) -> Callable[[Array], tuple[Array, Array]]:
    """Return float32 with this many bits of mantissa, the others 0: compresses, keeps the range."""
    from numcodecs import BitRound  # type: ignore[import-untyped]

    def cast(values: Array) -> tuple[Array, Array]:
        # BitRound encodes to integers in place of the values given.
        rounded = np.asarray(BitRound(bits).encode(values.copy())).view(np.float32)
        rounded = rounded.reshape(values.shape)
        return rounded, rounded

    return cast


CASTS: dict[str, Callable[[Array], tuple[Array, Array]]] = {
    "float16": _as_float16,
    "bfloat16": _as_bfloat16,
    "float32": _as_float32,
    "float32, 10 bits": _rounded_to(10),
}
"""Type -> (what is stored, what is read back as float32)."""


def _measure_dtype(
    data: str, values: Array, dtype: str, cast: Callable[[Array], tuple[Array, Array]]
) -> Values:
    stored, back = cast(values)
    present = values != 0
    lost = present & (back == 0)
    over = present & ~np.isfinite(back)
    # An overflow is as bad as a value gone; as an infinity it would hide all others' error.
    errors = _relative_errors(values, np.where(over, 0, back))
    return {
        "data": data,
        "dtype": dtype,
        "share_to_zero": float(lost.sum() / present.sum()),
        "share_overflow": float(over.sum() / present.sum()),
        "median_relative_error": float(np.median(errors)),
        "max_relative_error": float(errors.max()),
        "zstd_ratio": values.nbytes / _compressed(stored, shuffled=False),
        "shuffle_zstd_ratio": values.nbytes / _compressed(stored, shuffled=True),
    }


def _relative_errors(values: Array, back: Array) -> Array:
    """Return |error| / |row| of every row that is not zero."""
    # In float64: squares of 1e-30 are no float32.
    norms = np.linalg.norm(values.astype(np.float64), axis=1)
    errors = np.linalg.norm(values.astype(np.float64) - back, axis=1)
    return np.asarray(errors[norms > 0] / norms[norms > 0])


def _compressed(stored: Array, shuffled: bool) -> int:
    from numcodecs import Shuffle, Zstd

    content = np.ascontiguousarray(stored).ravel()
    if shuffled:
        content = Shuffle(stored.itemsize).encode(content)
    return len(Zstd(level=0).encode(content))


def _sentence(rows: Sequence[Values]) -> str:
    def worst(dtype: str, key: str) -> str:
        row = max((row for row in rows if row["dtype"] == dtype), key=lambda row: row[key])
        return f"{row[key]:.2g} ({row['data']})" if row[key] else "0"

    parts = [
        f"{dtype}: share of values that become 0 at most {worst(dtype, 'share_to_zero')}, error at "
        f"most {worst(dtype, 'max_relative_error')} of a stimulus's norm"
        for dtype in ("float16", "bfloat16")
    ]
    best = max(row["zstd_ratio"] for row in rows if row["dtype"] == "float32")
    return f"{'; '.join(parts)}; zstd makes float32 at most {best:.2f} times smaller."


def measure(folder: Path, sizes: Sizes) -> Values:
    return measure_layouts(folder, sizes) | measure_dtypes(folder, sizes)


if __name__ == "__main__":
    run_benchmark("layouts", LINES, measure)
