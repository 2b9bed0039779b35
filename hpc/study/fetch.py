"""Pretrained weights of a study, loaded once where there is a network."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gradenc_core.models.library import build, weights_cache
from hpc.study.study import Study


@dataclass(frozen=True)
class Fetched:
    """Where the weights of one model are."""

    model: str
    path: Path
    n_bytes: int


def fetch(study: Study) -> Iterator[Fetched]:
    """Load each model with the library's weights, which downloads what is not there yet.

    Raises
    ------
    FileNotFoundError
        Weights that are neither here nor reachable: what to download, and where to save it.
    """
    for model in study.models:
        if model.weights in ("pretrained", "shuffled") and model.checkpoint is None:
            build(model.library, model.architecture, True, model.image_size)
            path = weights_cache(model.library, model.architecture)
            yield Fetched(model.name, path, _size(path))


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    # The Hugging Face cache keeps each file once, in blobs/; snapshots/ has links to them.
    return sum(
        file.stat().st_size for file in path.rglob("*") if not file.is_symlink() and file.is_file()
    )
