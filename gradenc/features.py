"""Features of images as a labelled xarray Dataset: what stage extract stores, without a study."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import islice, product
from typing import cast

import numpy as np
import torch
import xarray as xr
from PIL import Image

from gradenc_core.arrays import device
from gradenc_core.models.layers import Layer, resolve_layers
from gradenc_core.models.model import VisionModel
from gradenc_core.models.tokens import Tokens
from gradenc_core.models.weights import weights_digest
from gradenc_core.signals.bank import build_bank, generated_images
from gradenc_core.signals.extractor import ExtractionOptions, Features, SignalExtractor
from gradenc_core.signals.objectives import OBJECTIVES
from gradenc_core.signals.passes import Precision
from gradenc_core.signals.readout import Bank, Context
from gradenc_core.signals.scales import Scales, as_tensors, channel_scales
from gradenc_core.signals.sizes import BASELINE, MICRO_BATCH, N_SCALE_IMAGES, Scale
from gradenc_core.signals.stimulus import Stimuli
from gradenc_core.stimuli.images import Images, read_stimulus
from storage_schemas.kinds.coordinates import layer_coords, stimulus_coords

Progress = Callable[[int, int], None]


def extract(
    model: VisionModel,
    images: Images,
    sources: Sequence[str] = ("forward",),
    *,
    layers: str | Sequence[str] = "blocks",
    tokens: Tokens = "mean",
    projection: int | None = 1024,
    gradient_scale: Scale = "unit",
    seed: int = 0,
    precision: Precision = "float32",
    bank: Images | None = None,
    micro_batch: int = MICRO_BATCH,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Extract forward and gradient features of every image and layer.

    For image s and layer l with output h_l(s), the source `forward` is h_l(s) and
    `gradient:<objective>` is dL_s/dh_l(s), where L_s is the objective's loss of that image alone.
    Both are pooled over tokens; every channel is divided by its standard deviation over the first
    128 images of the bank; then they are projected by the same seeded matrix. The values are those
    that a
    study with the same keys stores: the same bytes at equal `micro_batch`, device type and
    `torch.get_num_threads()`.

    Parameters
    ----------
    model : VisionModel
        From `load_model`. It moves to the GPU that this process sees, if any.
    images : Images
        From `read_images`.
    sources : sequence of str
        "forward", "gradient:dino", "gradient:contrastive", "gradient:masked",
        "gradient:classification", "gradient:energy", "gradient:random.0" to "gradient:random.9";
        "gradient:random" stands for all its draws. "gradient:mismatched_dino",
        "gradient:mismatched_contrastive" and "gradient:mismatched_energy" are controls.
    layers : "blocks" or sequence of str
        Names of modules or globs over them, such as `["blocks.*", "norm"]`.
    tokens : {"mean", "patches", "cls", "registers", "all"}
        Tokens of a transformer, or positions of a map, that enter the features.
    projection : int or None
        Features of each layer after the projection; None leaves every layer as wide as it is.
    gradient_scale : {"unit", "raw", "norm_only"}
        `unit` divides each gradient by its L2 norm and appends the norm's natural logarithm as last
        feature; `norm_only` keeps that logarithm alone.
    seed : int
        Seed of the projection, views, masks, prototypes and random objectives.
    precision : {"float32", "bf16"}
        Precision of the passes through the network.
    bank : Images, optional
        Images that `dino`, `contrastive` and `masked` compare with, at least 256, and over which
        channels are scaled; by default 1,024 generated ones. Passing them through the network (128
        where no source compares with them) takes its time in every call.
    micro_batch : int
        Images in one pass.
    progress : callable, optional
        Called as `progress(done, total)` after each micro-batch, in images.

    Returns
    -------
    xarray.Dataset
        One variable per source, (layer, stimulus, feature) float32, with the coordinates
        `layer_depth` (0 to 1; layers after the last block up to 1 + 1/N), `stimulus` (ids) and
        `stimulus_digest`. Gradients that end in a log-norm, or are one, have the dimension
        `gradient_feature` instead of `feature`. With `projection=None` there is one variable per
        source and layer, such as
        "forward:layer1.0", (stimulus, "feature:layer1.0"), whose attributes say layer and depth.
        Attributes say objective, tokens, scale, weights and versions.

    Raises
    ------
    ValueError
        The model has no such source, layer or token; a bank has fewer images than prototypes; a
        feature is not finite; or an image has changed since `read_images`.

    See Also
    --------
    encode : scores of responses predicted from these features

    References
    ----------
    docs/objectives.md has each objective with its source. Projection: Achlioptas (2003); Li, Hastie
    and Church (2006).

    Examples
    --------
    >>> import gradenc as ge
    >>> from gradenc_core.stimuli.generated import write_images
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> folder = Path(mkdtemp())
    >>> names = write_images(folder, 6, 32, seed=0)
    >>> model = ge.load_model("torchvision", "resnet18", "untrained", image_size=32)
    >>> images = ge.read_images(folder)
    >>> features = ge.extract(model, images, ["forward", "gradient:energy"], projection=16)
    >>> dict(features.sizes)
    {'layer': 8, 'stimulus': 6, 'feature': 16, 'gradient_feature': 17}
    >>> float(features.layer_depth[-1])
    1.0
    """
    model.module.to(device())
    chosen = resolve_layers(model, layers)
    sources = tuple(_draws(sources))
    context = Context(seed, _bank(model, sources, bank, seed, micro_batch))
    options = ExtractionOptions(
        layers=[layer.name for layer in chosen],
        tokens=tokens,
        projection=projection,
        seed=seed,
        scale=gradient_scale,
        precision=precision,
        micro_batch=micro_batch,
        context=context,
    )
    scales = as_tensors(_scales(SignalExtractor(model, sources, options), bank))
    extractor = SignalExtractor(model, sources, replace(options, scales=scales))
    named = zip(images.ids, images.digests, strict=True)
    decode = partial(read_stimulus, images.folder)
    batches = extractor.load(decode, named, torch.get_num_threads())
    features = extractor.stream(_told(batches, len(images), progress), len(images))
    found = _dataset(features, chosen, images, options)
    return found.assign_attrs(_attributes(model, options))


def _draws(sources: Sequence[str]) -> Iterator[str]:
    """Yield the sources, each objective with several draws as one source per draw."""
    for source in [sources] if isinstance(sources, str) else sources:
        if source == BASELINE:
            raise ValueError(f"the source {source!r} is made in studies alone; leave it out")
        objective = OBJECTIVES.get(source.removeprefix("gradient:"))
        yield from [source] if objective is None else objective.sources


def _bank(
    model: VisionModel, sources: Sequence[str], images: Images | None, seed: int, micro_batch: int
) -> Bank | None:
    """Return the reference bank, or None where no source needs one."""
    names = {source.removeprefix("gradient:").partition(".")[0] for source in sources}
    if not any("bank" in OBJECTIVES[name].needs for name in names if name in OBJECTIVES):
        return None
    shown = _bank_images(images)
    items = ((digest, model.preprocessing.apply(image)) for digest, image in shown)
    return build_bank(model, items, seed, micro_batch)


def _scales(extractor: SignalExtractor, images: Images | None) -> dict[str, Scales]:
    """Return the scales of every source's channels; a lone log-norm has none."""
    sources = [
        source
        for source in extractor.sources
        if source == "forward" or extractor.options.scale != "norm_only"
    ]
    shown = islice(_bank_images(images), N_SCALE_IMAGES)
    batches = extractor.batched(extractor.present(image, digest) for digest, image in shown)
    return channel_scales(extractor, batches, sources)


def _bank_images(images: Images | None) -> Iterable[tuple[str, Image.Image]]:
    return generated_images() if images is None else zip(images.digests, images, strict=True)


def _told(batches: Iterable[Stimuli], total: int, progress: Progress | None) -> Iterator[Stimuli]:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch)
        if progress is not None:
            progress(done, total)


def _dataset(
    features: dict[str, Features],
    layers: Sequence[Layer],
    images: Images,
    options: ExtractionOptions,
) -> xr.Dataset:
    coords = stimulus_coords(images.ids, images.digests)
    if options.projection is None:
        arrays = [
            _one_layer(source, layer, cast("np.ndarray", features[source][index]), options)
            for source, (index, layer) in product(features, enumerate(layers))
        ]
        return xr.Dataset({str(array.name): array for array in arrays}, coords)
    coords |= layer_coords([(layer.name, layer.depth) for layer in layers])
    variables = {
        source: (
            ("layer", "stimulus", _feature_dim(source, options)),
            values,
            _about(source, options),
        )
        for source, values in features.items()
    }
    return xr.Dataset(variables, coords)


def _one_layer(
    source: str, layer: Layer, values: np.ndarray, options: ExtractionOptions
) -> xr.DataArray:
    return xr.DataArray(
        values,
        dims=("stimulus", f"{_feature_dim(source, options)}:{layer.name}"),
        name=f"{source}:{layer.name}",
        attrs=_about(source, options) | {"layer": layer.name, "layer_depth": layer.depth},
    )


def _feature_dim(source: str, options: ExtractionOptions) -> str:
    has_norm = source != "forward" and options.scale != "raw"
    return "gradient_feature" if has_norm else "feature"


def _about(source: str, options: ExtractionOptions) -> dict[str, str]:
    if source == "forward":
        return {"long_name": "activation", "units": "1"}
    objective = source.removeprefix("gradient:")
    return {
        "long_name": f"gradient of the loss {objective} with respect to the layer's output",
        "units": "1",
        "objective": objective,
        "gradient_scale": options.scale,
    }


def _attributes(model: VisionModel, options: ExtractionOptions) -> dict[str, str | int | None]:
    own = [] if model.library == "custom" else [model.library]
    libraries = ["gradenc", "torch", *own]
    return {
        "library": model.library,
        "architecture": model.architecture,
        "weights": model.weights,
        "weights_digest": weights_digest(model.module),
        "model_seed": model.seed,
        "image_size": model.image_size,
        "tokens": options.tokens,
        "projection": options.projection or "none",
        "seed": options.seed,
        "precision": options.precision,
        "micro_batch": options.micro_batch,
        "threads": torch.get_num_threads(),
        "device": device().type,
        **{f"{name}_version": version(name) for name in libraries},
    }
